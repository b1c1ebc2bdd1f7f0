"""What is lost when processes are killed, the database goes away, the disk is full or files are gone.

    python benchmarks/faults.py --kills 200 --storage sqlite postgres

Runs `depthsearch study` on photos that it makes of scikit-learn's digits: an exhaustive search at several
learning rates, then a confirmation, with four workers. Meanwhile it

- kills (SIGKILL) workers and coordinators at random moments, and starts the same command again, until there
  were so many kills; as many studies as it takes, one after the other;
- kills the database for some seconds (PostgreSQL), or locks it for longer than SQLite waits;
- moves the photos and what was decoded of them away for a while, beside kills;
- fills the disk that the database, checkpoints and features lie on, for a while (needs to mount a tmpfs).

Every trial has its own seed, so that it has to end in the scores of an undisturbed study that ran in one
process. A trial that has lost its worker three times is failed by rule; so a worker is spared while its trial
has lost two. Prints the account; exits with 1 unless nothing is lost, doubled or stuck and all is equal.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from machine import machine_facts, print_facts
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from postgres_server import PostgresServer, postgres_server

from depthsearch import choose_device, load_data
from depthsearch.study import open_storage
from depthsearch.summary import summarize

NAME = "faults"
MOST_LOST = 2
STARTS = 400
TMPFS_MIB = 96


@dataclass(kw_only=True)
class Scene:
    """Where a study runs, and what has been done to it.

    Attributes:
        folder: Database, cache and log.
        photos: The images.
        storage: URL of the database.
        workers: How many.
        epochs: Of each trial.
        rates: Learning rates.
        n_kills: Of workers and of coordinators, so far.
        n_starts: Of the command.
        ends: Its exit statuses.
    """

    folder: Path
    photos: Path
    storage: str
    workers: int
    epochs: int
    rates: str
    n_kills: Counter[str] = field(default_factory=Counter)
    n_starts: int = 0
    ends: Counter[int] = field(default_factory=Counter)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The study's events."""
        return self.folder / "events.jsonl"

    def start(self) -> None:
        """Start the command, or go on with it."""
        options = (
            f"--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32 "
            f"--search exhaustive --learning-rates {self.rates} --epochs {self.epochs} --batch-size 32 "
            f"--confirm 2 --seeds 2 --keep-memory 8MiB --keep-disk 64MiB --name {NAME} "
            f"--workers {self.workers} --hung-after 60"
        )
        command = [sys.executable, "-m", "depthsearch", "study", *options.split()]
        command += ["--data", str(self.photos), "--storage", self.storage, "--log-file", str(self.log)]
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"},
            )
        self.n_starts += 1

    def has_ended(self) -> bool:
        """Whether the study is done; where its process has gone, it is started again."""
        assert self.process is not None
        status = self.process.poll()
        if status is None:
            return False
        self.ends[status] += 1
        if status == 0:
            return True
        if self.n_starts >= STARTS:
            raise RuntimeError(f"not done after {STARTS} starts; see {self.folder / 'output'}")
        # A mistake of the user's, such as photos that are not there, is said at once.
        time.sleep(1.0 if status > 0 else 0.0)
        self.start()
        return False

    def kill_something(self, chance: random.Random, share_of_coordinators: float) -> None:
        """Kill a worker or the coordinator."""
        assert self.process is not None
        if self.process.poll() is not None:
            return
        if chance.random() < share_of_coordinators:
            self.process.kill()
            self.n_kills["coordinator"] += 1
            return
        spared = self.spared()
        with contextlib.suppress(psutil.Error):
            processes = psutil.Process(self.process.pid).children(recursive=True)
            victims = [p for p in processes if p.name().startswith("worker") and p.name() not in spared]
            if victims:
                chance.choice(victims).kill()
                self.n_kills["worker"] += 1

    def spared(self) -> set[str]:
        """Name the workers whose trial must not lose another."""
        n_lost: Counter[int] = Counter()
        at: dict[str, int] = {}
        for event in read_log(self.log):
            if event["event"] == "trial_lost":
                n_lost[event["trial"]] += 1
            elif event["event"] == "trial_started" and event.get("worker"):
                at[event["worker"]] = event["trial"]
        return {worker for worker, trial in at.items() if n_lost[trial] >= MOST_LOST}


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Read a study's events; the last line may be torn."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


# --- the account --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of a study's trials.

    Attributes:
        finished: That ended as they would have.
        lost: Settings without a finished trial, and trials that failed.
        doubled: More than one trial of a setting and seed.
        stuck: Begun or waiting, and nobody's.
        different: With other scores than undisturbed.
        same_answer: Whether the answer is the same.
    """

    finished: int
    lost: int
    doubled: int
    stuck: int
    different: int
    same_answer: bool

    @property
    def is_clean(self) -> bool:
        """Whether nothing is lost, doubled, stuck or different."""
        return not (self.lost or self.doubled or self.stuck or self.different) and self.same_answer


def key_of(trial: FrozenTrial) -> tuple[Any, ...]:
    """What a trial is for: each is wanted once."""
    repeats = tuple(trial.user_attrs.get(name) for name in ("confirms", "seed"))
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    return (*repeats, *sorted(params.items()))


def scores_of(trial: FrozenTrial) -> list[tuple[float, ...]]:
    """What a trial ended in, to the bit."""
    results = trial.user_attrs.get("results", [])
    return [(r["epoch"], r["score"], r["val_loss"], r["train_loss"]) for r in results]


def account(storage: str, undisturbed: str) -> Account:
    """Compare a study with one that nobody disturbed."""
    study, expected = (
        optuna.load_study(study_name=NAME, storage=open_storage(u)) for u in (storage, undisturbed)
    )
    wanted = {key_of(trial): trial for trial in expected.get_trials()}
    trials = [t for t in study.get_trials() if not t.user_attrs.get("dropped")]
    found = Counter(key_of(trial) for trial in trials if trial.state.is_finished())
    good = [t for t in trials if t.state == TrialState.COMPLETE and key_of(t) in wanted]
    done = {key_of(trial) for trial in good}
    return Account(
        finished=len(good),
        lost=len(wanted.keys() - done) + sum(trial.state == TrialState.FAIL for trial in trials),
        doubled=sum(n - 1 for n in found.values()) + sum(key not in wanted for key in found),
        stuck=sum(not trial.state.is_finished() for trial in trials),
        different=sum(scores_of(t) != scores_of(wanted[key_of(t)]) for t in good),
        same_answer=answer_of(study) == answer_of(expected),
    )


def answer_of(study: optuna.Study) -> tuple[Any, ...]:
    """The answer and what confirms it; trials are numbered otherwise only if there were more of them."""
    summary = summarize(study)
    assert summary.evidence is not None
    answer = summary.evidence.answer
    return answer.cut.name, answer.mean, tuple(answer.scores)


# --- the faults ---------------------------------------------------------------------------------


def kill_until(scene: Scene, n_kills: int, chance: random.Random, arguments: argparse.Namespace) -> None:
    """Kill processes at random moments until the study is done."""
    scene.start()
    pause = time.monotonic() + chance.expovariate(1 / arguments.seconds_between)
    while not scene.has_ended():
        time.sleep(0.05)
        if time.monotonic() > pause and scene.n_kills.total() < n_kills:
            scene.kill_something(chance, arguments.coordinators)
            pause = time.monotonic() + chance.expovariate(1 / arguments.seconds_between)


def disturb_while_running(scene: Scene, disturb: Callable[[], None], n_times: int, every: float) -> None:
    """Disturb a study some times while it runs."""
    scene.start()
    n_done, pause = 0, time.monotonic() + every
    while not scene.has_ended():
        time.sleep(0.05)
        n_epochs = sum(event["event"] == "epoch_done" for event in read_log(scene.log))
        if n_done < n_times and n_epochs > 3 and time.monotonic() > pause:
            disturb()
            n_done += 1
            pause = time.monotonic() + every
    if n_done < n_times:
        print(f"  (the study was done after {n_done} of {n_times} disturbances)", flush=True)


def without_database(server: PostgresServer, seconds: float) -> None:
    """Kill the database server, and start it again later."""
    server.kill()
    time.sleep(seconds)
    server.start()


def with_database_locked(path: Path, seconds: float) -> None:
    """Hold SQLite's lock."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")


def without_files(scene: Scene, seconds: float) -> None:
    """Move photos and decoded images away, kill a worker and the coordinator, and bring them back."""
    assert scene.process is not None
    moved = [scene.photos, scene.folder / "cache" / "depthsearch" / "images"]
    away = [path.with_name(path.name + "-away") for path in moved]
    for path, hidden in zip(moved, away, strict=True):
        path.rename(hidden)
    scene.kill_something(random.Random(0), 0.0)
    time.sleep(seconds / 2)
    scene.kill_something(random.Random(0), 1.0)
    if not scene.has_ended():
        time.sleep(seconds / 2)
    for path, hidden in zip(moved, away, strict=True):
        # What was decoded anew meanwhile is the same.
        shutil.rmtree(path, ignore_errors=True)
        hidden.rename(path)


def with_full_disk(folder: Path, seconds: float) -> None:
    """Fill the disk, and make room again."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**20))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 64)
    time.sleep(seconds)
    filler.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """Mount a small disk; None where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


# --- the whole ----------------------------------------------------------------------------------


def make_photos(folder: Path, n_each: int) -> None:
    """Write some digits as image files, a folder for each class."""
    digits = load_data("digits", image_size=16)
    for label, name in enumerate(digits.classes):
        rows = digits.train.rows[digits.train.labels == label][:n_each]
        (folder / name).mkdir(parents=True)
        for place, pixels in enumerate(digits.train.images[rows]):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / name / f"{place:03d}.png")


def show(what: str, scene: Scene, found: Account, seconds: float) -> bool:
    """Print a row of the account; say whether it is clean."""
    kills = f"{scene.n_kills['worker']} + {scene.n_kills['coordinator']}"
    print(
        f"| {what} | {kills} | {scene.n_starts} | {found.finished} | {found.lost} | {found.doubled} | "
        f"{found.stuck} | {found.different} | {'yes' if found.same_answer else 'NO'} | {seconds:.0f} |",
        flush=True,
    )
    return found.is_clean


def main() -> int:
    """Print the account of each kind of fault."""
    parser = argparse.ArgumentParser(description="What faults cost.")
    parser.add_argument("--kills", type=int, default=200, help="in all, over the storages")
    parser.add_argument(
        "--storage", nargs="+", choices=("sqlite", "postgres"), default=["sqlite", "postgres"]
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rates", default="3e-4,1e-3,3e-3,6e-3")
    parser.add_argument("--images", type=int, default=40, help="of each class")
    parser.add_argument("--seconds-between", type=float, default=1.5, help="kills, on average")
    parser.add_argument("--coordinators", type=float, default=0.1, help="share of the kills")
    parser.add_argument("--away", type=float, default=10.0, help="seconds that something is gone")
    parser.add_argument("--only", nargs="+", choices=("kills", "database", "files", "disk"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print_facts(machine_facts(choose_device("cpu", "float32")))
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="depthsearch-faults-")))
        return 0 if all(run_all(root, arguments, stack)) else 1


def run_all(root: Path, arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Iterator[bool]:
    """Run every kind of fault; say of each whether its account is clean."""
    make_photos(root / "photos", arguments.images)
    server = stack.enter_context(postgres_server()) if "postgres" in arguments.storage else None
    undisturbed = make_scene(root, arguments, "undisturbed", workers=1)
    undisturbed.start()
    while not undisturbed.has_ended():
        time.sleep(0.1)
    columns = "kills: workers + coordinators | starts | finished | lost | doubled | stuck | different"
    print(f"| fault | {columns} | same answer | seconds |\n|{'---|' * 10}", flush=True)
    wanted = set(arguments.only or ("kills", "database", "files", "disk"))
    rows: list[Iterator[tuple[str, Scene]]] = []
    for storage in arguments.storage:
        on = server if storage == "postgres" else None
        if "kills" in wanted:
            rows.append(killed(root, arguments, on))
        if "database" in wanted:
            rows.append(with_outages(root, arguments, on))
    if "files" in wanted:
        rows.append(with_files_gone(root, arguments))
    if "disk" in wanted:
        rows.append(with_disk_full(root, arguments))
    for row in rows:
        started = time.monotonic()
        for what, scene in row:
            found = account(scene.storage, undisturbed.storage)
            yield show(what, scene, found, time.monotonic() - started)
            started = time.monotonic()


def make_scene(
    root: Path,
    arguments: argparse.Namespace,
    name: str,
    *,
    server: PostgresServer | None = None,
    folder: Path | None = None,
    workers: int | None = None,
) -> Scene:
    """Make a place for a study: its database on the server, or a file."""
    folder = folder or root / name
    folder.mkdir(exist_ok=True)
    return Scene(
        folder=folder,
        photos=root / "photos",
        storage=f"sqlite:///{folder}/studies.db" if server is None else server.create(name.replace("-", "_")),
        workers=workers or arguments.workers,
        epochs=arguments.epochs,
        rates=arguments.rates,
    )


def killed(
    root: Path, arguments: argparse.Namespace, server: PostgresServer | None
) -> Iterator[tuple[str, Scene]]:
    """Run studies until there were enough kills."""
    kind = "SQLite" if server is None else "PostgreSQL"
    chance, left = random.Random(arguments.seed), arguments.kills // len(arguments.storage)
    for number in itertools.count(1):
        if left <= 0:
            return
        scene = make_scene(root, arguments, f"kills-{kind}-{number}".lower(), server=server)
        kill_until(scene, left, chance, arguments)
        left -= scene.n_kills.total()
        yield f"kills, {kind}, study {number}", scene


def with_outages(
    root: Path, arguments: argparse.Namespace, server: PostgresServer | None
) -> Iterator[tuple[str, Scene]]:
    """Take the database away, or lock it, three times."""
    seconds = arguments.away
    if server is None:
        scene = make_scene(root, arguments, "locked")
        locked = functools.partial(with_database_locked, scene.folder / "studies.db", seconds)
        disturb_while_running(scene, locked, 3, 5.0)
        yield f"SQLite locked 3 times for {seconds:g} s", scene
    else:
        scene = make_scene(root, arguments, "outages", server=server)
        disturb_while_running(scene, functools.partial(without_database, server, seconds), 3, 5.0)
        yield f"PostgreSQL killed 3 times, back after {seconds:g} s", scene


def with_files_gone(root: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, Scene]]:
    """Take photos and decoded images away, twice."""
    scene = make_scene(root, arguments, "files")
    disturb_while_running(scene, functools.partial(without_files, scene, arguments.away), 2, 5.0)
    yield f"photos and decoded images gone twice for {arguments.away:g} s", scene


def with_disk_full(root: Path, arguments: argparse.Namespace) -> Iterator[tuple[str, Scene]]:
    """Fill the disk three times."""
    with small_disk(root / "small") as disk:
        if disk is None:
            print("| full disk | not run: no tmpfs can be mounted here" + " |" * 9, flush=True)
            return
        scene = make_scene(root, arguments, "disk", folder=disk)
        disturb_while_running(scene, functools.partial(with_full_disk, disk, arguments.away), 3, 5.0)
        yield f"disk full 3 times for {arguments.away:g} s", scene


if __name__ == "__main__":
    # What a terminal would do to it is for the studies: they are all ended here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
