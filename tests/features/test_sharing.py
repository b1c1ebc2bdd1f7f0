"""Several processes keep features in one folder: nothing is computed twice, and all read the same bits.

Most of these tests have threads in the place of processes: a lock of one keeps out another too.
"""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from insides import folder_of_store
from privileges import modes_obeyed

from depthsearch.devices import choose_device
from depthsearch.features import (
    Asks,
    Boundaries,
    Budget,
    FeatureStore,
    FrozenBackbone,
    Spent,
    ViewedImages,
    budget,
    remove_shared,
    shared_memory_folder,
)
from depthsearch.features.parts import Layout
from depthsearch.features.tiers import shared as shared_folders
from depthsearch.features.tiers.locks import Timeout, locked
from depthsearch.features.tiers.rowfile import MappedRows, RowWriter, content_of
from depthsearch.models.tracing.trace import trace
from depthsearch.search.space import Point, SearchSpace
from depthsearch.training.objective import train_point
from depthsearch.training.task import Task
from depthsearch.workers.process import process_context

CPU = choose_device("cpu", "float32")
PLENTY = 2**40
N_IMAGES, N_PROCESSES = 128, 4
DEEP, LAST = "layer3.0.conv1", "fc"
DEEP_BYTES = 768 * N_IMAGES

needs_dev_shm = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="has no memory for files")


@pytest.fixture(scope="module")
def frozen(backbone) -> FrozenBackbone:
    return FrozenBackbone(trace(backbone.model, image_size=16), backbone.preprocessing, CPU)


@pytest.fixture(scope="module")
def images(few_digits):
    return few_digits(n_train=N_IMAGES).train


@pytest.fixture(scope="module")
def expected(frozen, images) -> Callable[[int], torch.Tensor]:
    """The deep boundary in a view, without a store."""
    found = {}

    def give(number: int = 0) -> torch.Tensor:
        if number not in found:
            found[number] = trial(FeatureStore(frozen, None), [ViewedImages(images, number)])[0][0]
        return found[number]

    return give


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    folder = shared_memory_folder()
    assert folder is not None
    yield folder
    remove_shared(folder)
    assert not folder.exists()


@pytest.fixture
def open_store(frozen, tmp_path: Path) -> Callable[..., FeatureStore]:
    """Open a store, each time a new one, as another process would."""

    def open_(*, disk: int = PLENTY, memory: int = 0, shared: Path | None = None, n: int = 1) -> FeatureStore:
        kept = Budget(
            memory_bytes=memory,
            device_bytes=0,
            disk_bytes=disk,
            folder=tmp_path / "kept",
            shared_folder=shared,
            n_stores=n,
        )
        return FeatureStore(frozen, kept, name="net")

    return open_


def position_of(frozen: FrozenBackbone, layer: str = DEEP) -> int:
    return next(found.position for found in frozen.graph.layers if found.name == layer)


def prefix_macs(frozen: FrozenBackbone, layer: str = DEEP) -> int:
    """MACs of the prefix for all images."""
    return frozen.macs_before(position_of(frozen, layer)) * N_IMAGES


def trial(
    store: FeatureStore, views: Sequence[ViewedImages], ready: Callable[[], object] = lambda: None
) -> tuple[list[torch.Tensor], Spent]:
    """Go through the images once in each view, expecting to come again."""
    position = position_of(store.frozen)
    store.expect([Asks(group=v, n_images=len(v), passes={position: 50.0}) for v in views])
    source = Boundaries(store, views, position)
    ready()
    found = []
    for epoch in range(len(views)):
        source.prepare(epoch)
        found.append(torch.cat([source.batch(i)[0] for i in torch.arange(N_IMAGES).split(64)]))
    return found, source.spent


def at_once(jobs: Sequence[Callable[[], object]]) -> list[object]:
    """Run jobs in a thread each."""
    with ThreadPoolExecutor(len(jobs)) as threads:
        return [running.result(timeout=60) for running in [threads.submit(job) for job in jobs]]


def features_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.features"))


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


class Slow(ViewedImages):
    """Images that take a while, so that others come meanwhile; at the second batch they may do something."""

    def __init__(self, images, number: int = 0, surprise: Callable[[], object] = lambda: None) -> None:
        super().__init__(images, number)
        self.n_asked, self.surprise = 0, surprise

    def pixels(self, index: torch.Tensor, device) -> torch.Tensor:
        self.n_asked += 1
        time.sleep(0.05)
        if self.n_asked == 2:
            self.surprise()
        return super().pixels(index, device)


class HeldElsewhere:
    """A lock that another thread holds until it is told to let go."""

    def __init__(self, folder: Path, name: str) -> None:
        self._let_go, taken = threading.Event(), threading.Event()

        def hold() -> None:
            with locked([folder], name) as is_new:
                assert is_new
                taken.set()
                self._let_go.wait(60)

        self._thread = threading.Thread(target=hold)
        self._thread.start()
        assert taken.wait(10)

    def let_go(self) -> None:
        self._let_go.set()
        self._thread.join()

    def __enter__(self) -> "HeldElsewhere":
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C after a while, if it is not over then."""
    pressing = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    pressing.start()
    try:
        yield
    finally:
        pressing.cancel()


def lock_of(store: FeatureStore, viewed: ViewedImages) -> str:
    return next(iter(store.items(viewed).values())).key


# --- one computes, the others wait --------------------------------------------------------------


def test_stores_that_open_at_once_compute_the_prefix_once(open_store, images, frozen, expected) -> None:
    start = threading.Barrier(N_PROCESSES)
    jobs = [lambda: trial(open_store(), [Slow(images)], start.wait) for _ in range(N_PROCESSES)]
    found = at_once(jobs)
    assert sum(spent.macs for _, spent in found) == prefix_macs(frozen)
    assert sorted(spent.kept_bytes for _, spent in found) == [0, 0, 0, DEEP_BYTES]
    assert all(torch.equal(values, expected()) for (values,), _ in found)


def test_the_probe_and_a_trial_that_meet_compute_the_prefix_once(open_store, images, frozen) -> None:
    start, position = threading.Barrier(2), position_of(frozen)

    def probe() -> Spent:
        store, viewed, spent = open_store(), Slow(images), Spent()
        store.expect([Asks(group=viewed, n_images=N_IMAGES, passes={position: 50.0})])
        start.wait()
        store.pooled(viewed, [position], spent, n_most=N_IMAGES)
        return spent

    spent, (_, other) = at_once([probe, lambda: trial(open_store(), [Slow(images)], start.wait)])
    assert spent.macs + other.macs == prefix_macs(frozen)
    assert spent.kept_bytes + other.kept_bytes == DEEP_BYTES


def test_sets_that_are_not_the_same_do_not_wait_for_each_other(open_store, images, expected) -> None:
    store, other = open_store(), ViewedImages(images, 1)
    with HeldElsewhere(folder_of_store(store), lock_of(store, other)):
        assert torch.equal(trial(store, [ViewedImages(images)])[0][0], expected())


def test_who_finds_all_it_wants_waits_for_nobody(open_store, images, expected) -> None:
    trial(open_store(), [ViewedImages(images)])
    store, viewed = open_store(), ViewedImages(images)
    with HeldElsewhere(folder_of_store(store), lock_of(store, viewed)):
        (found,), spent = trial(store, [viewed])
    assert torch.equal(found, expected())
    assert spent.macs == 0


def test_what_is_kept_in_a_memory_of_ones_own_takes_no_lock(open_store, images, tmp_path: Path) -> None:
    _, spent = trial(open_store(disk=0, memory=PLENTY), [ViewedImages(images)])
    assert spent.kept_bytes == DEEP_BYTES
    assert not (tmp_path / "kept").exists()


def test_who_waits_can_be_interrupted(open_store, images) -> None:
    store, viewed = open_store(), ViewedImages(images)
    held = HeldElsewhere(folder_of_store(store), lock_of(store, viewed))
    with held, pytest.raises(KeyboardInterrupt, match=r"^$"), interrupted_after(0.3):
        trial(store, [viewed])
    assert trial(store, [viewed])[1].kept_bytes == DEEP_BYTES


def test_a_fill_that_fails_frees_the_lock(open_store, images, frozen) -> None:
    def fail() -> None:
        raise MemoryError("none left")

    with pytest.raises(MemoryError, match="none left"):
        trial(open_store(), [Slow(images, surprise=fail)])
    (_, spent), *_ = at_once([lambda: trial(open_store(), [ViewedImages(images)])])
    assert spent.macs == prefix_macs(frozen)


@pytest.mark.parametrize("spoil", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["file", "link"])
def test_a_folder_that_cannot_be_locked_is_used_without(open_store, images, expected, spoil) -> None:
    store = open_store()
    folder = folder_of_store(store)
    folder.mkdir()
    spoil(folder / "locks")
    (found,), spent = trial(store, [ViewedImages(images)])
    assert torch.equal(found, expected())
    assert spent.kept_bytes == DEEP_BYTES
    assert len(features_in(folder)) == 1


def test_a_system_without_locks_goes_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked([tmp_path], "name") as is_new:
        assert not is_new


def test_of_two_folders_the_first_that_can_be_locked_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folders in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "file", tmp_path / "a"]):
        with locked(folders, "name") as is_new, HeldElsewhere(tmp_path / "b", "name"):
            assert is_new
            with pytest.raises(Timeout, match="name"):
                at_once([lambda: locked([tmp_path / "a"], "name", waits=False).__enter__()])
            with locked(folders, "name") as again:
                assert not again


def test_what_a_killed_process_left_is_removed_by_the_next(open_store, images) -> None:
    """It would count as kept otherwise. What others are writing stays."""
    store, viewed = open_store(), ViewedImages(images)
    folder = folder_of_store(store)
    trial(store, [viewed])
    (path,) = features_in(folder)
    left, other = path.with_suffix(".1234.partial"), path.with_name("another.5678.partial")
    path.rename(left)
    other.touch()
    trial(open_store(), [viewed])
    assert sorted(file for file in folder.iterdir() if file.is_file()) == sorted([path, other])


# --- budgets ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_fit", [1, 2, 5])
def test_those_who_begin_at_once_stay_within_the_budget(open_store, images, expected, n_fit: int) -> None:
    """Each fills another view: none waits, and each counts what the others are writing."""
    limit, start, numbers = n_fit * (DEEP_BYTES + 512), threading.Barrier(N_PROCESSES), range(N_PROCESSES)
    sizes = []

    def fill(number: int) -> torch.Tensor:
        store = open_store(disk=limit)
        viewed = Slow(images, number, lambda: sizes.append(bytes_in(folder_of_store(store))))
        return trial(store, [viewed], start.wait)[0][0]

    found = at_once([lambda number=number: fill(number) for number in numbers])
    assert all(torch.equal(values, expected(number)) for number, values in enumerate(found))
    folder = folder_of_store(open_store())
    assert bytes_in(folder) <= limit
    assert len(features_in(folder)) <= n_fit
    if n_fit > N_PROCESSES:
        assert len(features_in(folder)) == N_PROCESSES
        assert max(sizes) > DEEP_BYTES, "nothing is claimed"


def test_stores_that_divide_a_folder_plan_with_their_part_of_it(open_store, images, frozen) -> None:
    """And fill it together: neither is in the way of the other."""
    views, limit = [ViewedImages(images, number) for number in range(6)], 4 * (DEEP_BYTES + 512)
    first, second = open_store(disk=limit, n=2), open_store(disk=limit, n=2)
    seen = ((first, views[:3]), (second, views[3:]))
    assert [trial(store, three)[1].kept_bytes for store, three in seen] == [2 * DEEP_BYTES] * 2
    assert len(features_in(folder_of_store(first))) == 4
    assert [trial(store, three)[1].macs for store, three in seen] == [prefix_macs(frozen)] * 2


# --- memory that processes share ----------------------------------------------------------------


@needs_dev_shm
@pytest.mark.parametrize("disk", [0, PLENTY], ids=["memory", "memory and disk"])
def test_what_one_keeps_in_shared_memory_others_read(
    open_store, images, expected, shared_folder: Path, disk: int
) -> None:
    start = threading.Barrier(N_PROCESSES)

    def job() -> tuple[list[torch.Tensor], Spent]:
        store = open_store(disk=disk, memory=PLENTY, shared=shared_folder)
        assert store._memories == []
        return trial(store, [Slow(images)], start.wait)

    found = at_once([job] * N_PROCESSES)
    assert all(torch.equal(values, expected()) for (values,), _ in found)
    assert sorted(spent.kept_bytes for _, spent in found) == [0, 0, 0, DEEP_BYTES]
    assert len(features_in(shared_folder)) == 1
    on_disk = features_in(folder_of_store(open_store()))
    assert [path.name for path in on_disk] == [path.name for path in features_in(shared_folder) if disk]


@needs_dev_shm
def test_what_lies_on_the_disk_is_copied_into_shared_memory_once(
    open_store, images, expected, shared_folder: Path
) -> None:
    trial(open_store(), [ViewedImages(images)])
    (on_disk,) = features_in(folder_of_store(open_store()))
    inodes = set()
    for _ in range(3):
        (found,), spent = trial(open_store(memory=PLENTY, shared=shared_folder), [ViewedImages(images)])
        assert torch.equal(found, expected())
        assert (spent.macs, spent.kept_bytes) == (0, 0)
        (copy,) = features_in(shared_folder)
        assert copy.read_bytes() == on_disk.read_bytes()
        inodes.add(copy.stat().st_ino)
    assert len(inodes) == 1
    on_disk.unlink()
    _, spent = trial(open_store(memory=PLENTY, shared=shared_folder), [ViewedImages(images)])
    assert spent.macs == 0


@needs_dev_shm
def test_while_another_process_is_busy_the_disk_is_read(
    open_store, images, expected, shared_folder: Path
) -> None:
    trial(open_store(), [ViewedImages(images)])
    store, viewed = open_store(memory=PLENTY, shared=shared_folder), ViewedImages(images)
    with HeldElsewhere(folder_of_store(store), lock_of(store, viewed)):
        (found,), spent = trial(store, [viewed])
    assert torch.equal(found, expected())
    assert (spent.macs, features_in(shared_folder)) == (0, [])
    trial(store, [viewed])
    assert len(features_in(shared_folder)) == 1


@needs_dev_shm
def test_shared_memory_never_holds_more_than_its_budget(
    open_store, images, expected, shared_folder: Path
) -> None:
    limit = DEEP_BYTES + 600
    for number in (0, 1, 0):
        (found,), _ = trial(
            open_store(disk=0, memory=limit, shared=shared_folder), [ViewedImages(images, number)]
        )
        assert torch.equal(found, expected(number))
        assert 0 < bytes_in(shared_folder) <= limit


@needs_dev_shm
def test_full_shared_memory_is_written_to_no_more_and_the_disk_is(
    open_store, images, expected, shared_folder: Path, monkeypatch, caplog
) -> None:
    write = RowWriter.write

    def full(writer: RowWriter, rows: torch.Tensor) -> None:
        if Path(writer._file.name).is_relative_to(shared_folder):
            raise OSError(28, "No space left on device")
        write(writer, rows)

    monkeypatch.setattr(RowWriter, "write", full)
    store = open_store(memory=PLENTY, shared=shared_folder)
    (found,), spent = trial(store, [ViewedImages(images)])
    assert torch.equal(found, expected())
    assert spent.kept_bytes == DEEP_BYTES
    (warned,) = caplog.records
    assert warned.message == (
        "Features are no longer kept in shared memory: [Errno 28] No space left on device"
    )
    assert [path.name for path in shared_folder.iterdir()] == []
    assert trial(store, [ViewedImages(images)])[1].macs == 0


@needs_dev_shm
def test_pages_that_are_let_go_of_are_still_there(shared_folder: Path) -> None:
    rows = torch.arange(2.0**16).view(64, -1)
    layout = Layout.of(rows)
    writer = RowWriter(shared_folder / "key.features")
    writer.write(rows)
    writer.end(content_of("key", layout, 64), {})
    mapped = MappedRows(shared_folder / "key.features", layout, 64)
    for _ in range(2):
        assert torch.equal(mapped[torch.arange(64)], rows)
        mapped.release()
    (shared_folder / "key.features").unlink()
    mapped.release()
    assert torch.equal(mapped[torch.arange(64)], rows)


@needs_dev_shm
def test_each_study_has_a_folder_of_its_own_in_memory(shared_folder: Path) -> None:
    other = shared_memory_folder()
    assert other != shared_folder
    assert {folder.parent for folder in (other, shared_folder)} == {Path("/dev/shm")}
    assert shared_folder.stat().st_mode & 0o777 == 0o700
    remove_shared(other)
    assert shared_folder.exists()


HOLDS = """
import subprocess, sys, time
from depthsearch.features import shared_memory_folder
folder = shared_memory_folder()
(folder / "key.features").touch()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
print(folder, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@needs_dev_shm
def test_a_folder_is_removed_once_its_process_is_killed_and_not_before(shared_folder: Path) -> None:
    """Guards memory that a killed process has left, also while a program lives that was started from it."""
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        theirs = Path(process.stdout.readline().strip())
        children = psutil.Process(process.pid).children()
        try:
            remove_shared(shared_memory_folder())
            assert (theirs / "key.features").exists()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert theirs.exists()
            remove_shared(shared_memory_folder())
            assert not theirs.exists()
            assert shared_folder.exists()
        finally:
            process.kill()
            for child in children:
                child.kill()


@needs_dev_shm
def test_only_folders_of_ours_that_are_nobodys_are_removed(shared_folder: Path, tmp_path: Path) -> None:
    left, linked, file, foreign = (
        shared_folder.with_name(f"{prefix}{shared_folder.name[-8:]}-{n}")
        for n, prefix in enumerate([shared_folders.PREFIX] * 3 + ["depthsearch-"])
    )
    for folder in (left, foreign):
        folder.mkdir()
        (folder / "key.features").touch()
    (tmp_path / "kept").touch()
    linked.symlink_to(tmp_path)
    file.touch()
    try:
        remove_shared(shared_memory_folder())
        assert [path.exists() for path in (left, linked, file, foreign)] == [False, True, True, True]
        assert (tmp_path / "kept").exists()
    finally:
        for path in (linked, file):
            path.unlink()
        remove_shared(foreign)


@needs_dev_shm
def test_a_folder_that_may_not_be_read_is_left_alone(shared_folder: Path) -> None:
    """As another user's may not."""
    theirs = shared_folder.with_name(f"{shared_folder.name}-theirs")
    theirs.mkdir(mode=0o000)
    try:
        with modes_obeyed():
            made = shared_memory_folder()
        assert made is not None
        remove_shared(made)
        assert theirs.exists()
    finally:
        theirs.rmdir()


@needs_dev_shm
@pytest.mark.parametrize("moment", ["before it is opened", "before it is locked", "while it is locked"])
def test_a_folder_that_another_takes_before_it_is_locked_is_not_given(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process that starts at the same moment takes it for one that was left."""
    fcntl = pytest.importorskip("fcntl")
    made, held = [], []
    make, lock = tempfile.mkdtemp, fcntl.flock

    def made_and_taken(**how: Any) -> str:
        made.append(make(**how))
        if len(made) == 1 and moment == "before it is opened":
            Path(made[0]).rmdir()
        elif len(made) == 1 and moment == "while it is locked":
            held.append(os.open(made[0], os.O_RDONLY))
            lock(held[0], fcntl.LOCK_EX)
        return made[-1]

    def locked_late(opened: int, how: int) -> None:
        if len(made) == 1 and moment == "before it is locked":
            Path(made[0]).rmdir()
        lock(opened, how)

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_taken)
    monkeypatch.setattr(fcntl, "flock", locked_late)
    given = shared_memory_folder()
    assert given == Path(made[1])
    assert given.is_dir()
    remove_shared(given)
    assert not Path(made[0]).exists()
    for opened in held:
        os.close(opened)


def test_without_files_in_memory_there_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shared_folders, "SHARED_MEMORY", tmp_path)
    assert shared_memory_folder() is None
    assert list(tmp_path.iterdir()) == []


# --- the budget of several workers --------------------------------------------------------------


ALONE = Budget(memory_bytes=1000, device_bytes=90, disk_bytes=500, folder=Path("/nowhere"))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say how much is free in shared memory, and on the disk."""

    def say(*, memory: int, disk: int) -> None:
        usage = budget.shutil.disk_usage("/")
        free = {Path("/shm"): memory}
        monkeypatch.setattr(
            budget.shutil, "disk_usage", lambda folder: usage._replace(free=free.get(folder, disk))
        )

    return say


@pytest.mark.parametrize(
    ("memory", "disk", "kept"),
    [(10**6, 10**6, (1000, 500)), (500, 10**6, (400, 1100)), (500, 2000, (400, 900))],
    ids=["plenty", "little memory", "little of both"],
)
def test_shared_memory_is_what_fits_and_the_disk_takes_the_rest(room, memory, disk, kept) -> None:
    room(memory=memory, disk=disk)
    shared = ALONE.shared(Path("/shm"), n_workers=4, n_on_device=3)
    assert (shared.memory_bytes, shared.disk_bytes) == kept
    assert (shared.device_bytes, shared.shared_folder) == (30, Path("/shm"))


def test_without_shared_memory_its_part_goes_to_the_disk(room) -> None:
    room(memory=0, disk=10**6)
    shared = ALONE.shared(None, n_workers=4, n_on_device=1)
    assert shared == replace(ALONE, memory_bytes=0, disk_bytes=1500)


def test_where_nothing_may_be_on_disk_nothing_is_put_there(room) -> None:
    room(memory=500, disk=10**6)
    none = replace(ALONE, disk_bytes=0)
    assert none.shared(None, n_workers=4, n_on_device=1) == replace(none, memory_bytes=250)
    shared = none.shared(Path("/shm"), n_workers=4, n_on_device=1)
    assert (shared.memory_bytes, shared.disk_bytes) == (400, 0)


@pytest.mark.parametrize(("free", "kept"), [(400, (320, True)), (300, (250, False)), (0, (250, False))])
def test_where_shared_memory_is_small_and_nothing_may_be_on_disk_each_has_its_own(room, free, kept) -> None:
    """A container has 64 MB of it, unless it is told otherwise, and may have much more memory."""
    room(memory=free, disk=10**6)
    none = replace(ALONE, disk_bytes=0)
    n_bytes, is_shared = kept
    folder = Path("/shm") if is_shared else None
    wanted = replace(none, memory_bytes=n_bytes, shared_folder=folder, device_bytes=45)
    assert none.shared(Path("/shm"), n_workers=4, n_on_device=2) == wanted
    # Of two backbones each has its part of what a worker has.
    apart = none.divided(2).shared(Path("/shm"), n_workers=4, n_on_device=2)
    assert apart.memory_bytes == (n_bytes if is_shared else n_bytes // 2)


def test_files_are_divided_in_the_plan_and_memory_of_ones_own_in_fact(room) -> None:
    room(memory=10**6, disk=10**6)
    part = ALONE.divided(3)
    assert part == replace(ALONE, memory_bytes=333, device_bytes=30, n_stores=3)
    shared = ALONE.shared(Path("/shm"), n_workers=2, n_on_device=1).divided(3)
    assert (shared.memory_bytes, shared.disk_bytes, shared.n_stores) == (1000, 500, 3)
    assert part.shared(Path("/shm"), n_workers=2, n_on_device=1) == replace(shared, memory_bytes=999)


# --- processes ----------------------------------------------------------------------------------


def serve(connection: Connection) -> None:
    """Do what is asked for, in a process of its own: a function, a pickled task."""
    torch.set_num_threads(1)
    while True:
        function, pickled = connection.recv()
        function(connection, pickle.loads(pickled))


def told(connection: Connection, seconds: float = 120) -> object:
    """Wait for what a process has to say."""
    assert connection.poll(seconds), "a process says nothing"
    return connection.recv()


@pytest.fixture(scope="module")
def processes() -> Iterator[list[tuple[multiprocessing.Process, Connection]]]:
    """Four processes with nothing in common."""
    context = process_context()
    started = []
    for _ in range(N_PROCESSES):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), daemon=True)
        process.start()
        started.append((process, ours))
    yield started
    for process, connection in started:
        process.kill()
        process.join()
        connection.close()


def meet(connection: Connection, task: Task) -> None:
    """Read the deep boundary in every view, at the same moment as others; then train a point."""
    task.features.expect(asks_of(task))
    source = Boundaries(task.features, task.train_views, position_of(task.features.frozen))
    connection.send("ready")
    connection.recv()
    found = []
    for epoch in range(len(task.train_views)):
        source.prepare(epoch)
        found.append(source.batch(torch.arange(len(task.data.train)))[0].numpy())
    connection.send((found, source.spent, end_of(task)))


def begin(connection: Connection, task: Task) -> None:
    """Begin to fill, and get no further."""
    task.features.expect(asks_of(task))
    images = task.data.train

    def wait() -> None:
        connection.send("filling")
        connection.recv()

    Boundaries(task.features, [Slow(images, surprise=wait)], position_of(task.features.frozen)).prepare(1)


def asks_of(task: Task) -> list[Asks[ViewedImages]]:
    position = position_of(task.features.frozen)
    return [Asks(group=v, n_images=len(v), passes={position: 50.0}) for v in task.train_views]


def end_of(task: Task) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
    """Losses and scores of a training, and the weights that it ends in."""
    space = SearchSpace.for_model(task.backbone.model, image_size=16)
    cut = next(cut for cut in space.cuts if cut.name == DEEP)
    training, results = train_point(task, Point(cut=cut, learning_rate=1e-2, head_width=16), seed=3), []
    while True:
        try:
            result = next(training)
            results.append((result.train_loss, result.score))
        except StopIteration as stopped:
            weights = {name: tensor.numpy() for name, tensor in stopped.value.state_dict().items()}
            return results, weights


@pytest.fixture(scope="module")
def shown(task, few_digits) -> Task:
    """A task of two views on as many digits as a store runs in two batches."""
    return replace(task, data=few_digits(n_train=N_IMAGES), recipe=replace(task.recipe, views=2, epochs=3))


@needs_dev_shm
@pytest.mark.slow
def test_processes_that_open_at_once_compute_the_prefix_once_and_train_the_same(
    processes, shown, expected, frozen, shared_folder: Path, tmp_path: Path
) -> None:
    """Guards shared features among processes that race; threads would not show it."""
    kept = Budget(
        memory_bytes=PLENTY,
        device_bytes=0,
        disk_bytes=PLENTY,
        folder=tmp_path / "kept",
        shared_folder=shared_folder,
    )
    pickled = pickle.dumps(replace(shown, budget=kept))
    for _, connection in processes:
        connection.send((meet, pickled))
    for _, connection in processes:
        assert told(connection) == "ready"
    for _, connection in processes:
        connection.send("go")
    found = [told(connection) for _, connection in processes]
    assert sum(spent.macs for _, spent, _ in found) == 2 * prefix_macs(frozen)
    assert sum(spent.kept_bytes for _, spent, _ in found) == 2 * DEEP_BYTES
    results, weights = end_of(shown)
    for views, _, (their_results, their_weights) in found:
        assert [torch.equal(torch.from_numpy(view), expected(v)) for v, view in enumerate(views)] == [
            True
        ] * 2
        assert their_results == results
        assert their_weights.keys() == weights.keys()
        assert all((their_weights[name] == weights[name]).all() for name in weights)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_fills_frees_the_lock(
    processes, shown, open_store, images, expected, frozen
) -> None:
    """And nothing of what it wrote is taken for kept, or counted."""
    store = open_store()
    budget_of_all = Budget(memory_bytes=0, device_bytes=0, disk_bytes=PLENTY, folder=folder_of_store(store))
    process, connection = processes.pop()
    connection.send((begin, pickle.dumps(replace(shown, budget=budget_of_all))))
    assert told(connection) == "filling"
    (left,) = folder_of_store(store).glob("*.partial")
    assert left.stat().st_size > DEEP_BYTES
    waiting = ThreadPoolExecutor(1)
    found = waiting.submit(trial, store, [ViewedImages(images)])
    time.sleep(0.3)
    assert not found.done()
    os.kill(process.pid, signal.SIGKILL)
    (values,), spent = found.result(timeout=30)
    waiting.shutdown()
    process.join()
    assert torch.equal(values, expected())
    assert spent.macs == prefix_macs(frozen)
    assert [path.suffix for path in folder_of_store(store).iterdir() if path.is_file()] == [".features"]
