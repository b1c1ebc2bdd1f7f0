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
has lost two. A coordinator may end only where it was killed, or with status 2 where the photos are gone: the
study pauses for everything else.

Prints the account; exits with 1 unless every fault could be made as often as wanted, no coordinator crashed,
nothing is lost, doubled or stuck and all is equal.
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
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
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
from depthsearch.results.summary import summarize
from depthsearch.study import open_storage
from depthsearch.study.storage.optuna_private import planned_params

NAME = "faults"
FAULTS = ("kills", "database", "files", "disk")
SHOWN = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
MOST_LOST = 2
STARTS, MOST_CRASHES, RESTART_SECONDS = 400, 3, 1.0
# The status of a command that says what its user has to mend; how long to wait for it.
REFUSED = 2
REFUSAL_SECONDS = 120.0
TMPFS_MIB = 96
# Less room than that is none: a page may have been given back meanwhile.
FULL_BYTES = 2**18
# Less than that would not be noticed.
LEAST_AWAY = 1.0
LAST_LINES = 15
COLUMNS = (
    "fault", "made (needed)", "kills: workers + coordinators", "starts", "crashes", "finished", "lost",
    "doubled", "stuck", "different", "same answer", "seconds",
)  # fmt: skip


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
        may_refuse: Whether the command may say now that something is to be mended, and end.
        n_kills: Of workers and of coordinators, so far.
        n_starts: Of the command.
        n_refusals: How often it ended so.
        n_crashes: How often it ended otherwise, though nobody killed it.
        process: The command; None: it was killed.
    """

    folder: Path
    photos: Path
    storage: str
    workers: int
    epochs: int
    rates: str
    may_refuse: bool = False
    n_kills: Counter[str] = field(default_factory=Counter)
    n_starts: int = 0
    n_refusals: int = 0
    n_crashes: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """The study's events."""
        return self.folder / "events.jsonl"

    @property
    def output(self) -> Path:
        """What the command says."""
        return self.folder / "output"

    def start(self) -> None:
        """Start the command, or go on with it."""
        options = (
            f"--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32 "
            f"--search exhaustive --learning-rates {self.rates} --epochs {self.epochs} --batch-size 32 "
            f"--confirm 2 --seeds 2 --keep-memory 8MiB --keep-disk 64MiB --name {NAME} "
            f"--workers {self.workers}"
        )
        if self.workers > 1:
            options += " --hung-after 60"
        command = [sys.executable, "-m", "depthsearch", "study", *options.split()]
        command += ["--data", str(self.photos), "--storage", self.storage, "--log-file", str(self.log)]
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"},
            )
        self.n_starts += 1

    def has_ended(self) -> bool:
        """Whether the study is done; where its process has gone, it is started again.

        Raises:
            RuntimeError: If that was tried often.
        """
        if self.process is not None:
            status = self.process.poll()
            if not status:
                return status == 0
            self._note_end(status)
        if self.n_crashes > MOST_CRASHES or self.n_starts >= STARTS:
            raise RuntimeError(f"not done after {self.n_starts} starts and {self.n_crashes} crashes")
        self.start()
        return False

    def _note_end(self, status: int) -> None:
        if status == REFUSED and self.may_refuse:
            self.n_refusals += 1
        else:
            self.n_crashes += 1
            self.tell_crash(status)
        # A mistake of the user's, such as photos that are not there, is said at once.
        time.sleep(RESTART_SECONDS)

    def tell_crash(self, status: int) -> None:
        """Show what the command said last: its folder is gone at the end."""
        lines = self.output.read_text(errors="replace").splitlines() if self.output.exists() else []
        print(f"A coordinator ended with status {status}; it said last:", *lines[-LAST_LINES:],
              sep="\n  ", file=sys.stderr, flush=True)  # fmt: skip

    def kill_something(self, chance: random.Random, share_of_coordinators: float) -> None:
        """Kill a worker or the coordinator."""
        if self.process is None or self.process.poll() is not None:
            return
        if chance.random() < share_of_coordinators:
            self.kill_coordinator()
        else:
            self.kill_worker(chance)

    def kill_coordinator(self) -> bool:
        """Kill the command; say whether it ran until then."""
        assert self.process is not None
        self.process.kill()
        if self.process.wait() != -signal.SIGKILL:
            return False
        self.process = None
        self.n_kills["coordinator"] += 1
        return True

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill one of the workers; say whether there was one to be killed."""
        assert self.process is not None
        spared = self.spared()
        with contextlib.suppress(psutil.Error):
            processes = psutil.Process(self.process.pid).children(recursive=True)
            victims = [p for p in processes if p.name().startswith("worker") and p.name() not in spared]
            if victims:
                chance.choice(victims).kill()
                self.n_kills["worker"] += 1
                return True
        return False

    def end(self) -> None:
        """End what still runs; its workers end with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def n_epochs(self) -> int:
        """Count the epochs that are done."""
        events = read_log(self.log)
        return sum(event["event"] == "epoch_done" and not event.get("again") for event in events)

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
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


# --- the account --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Disturbed:
    """A study that is done, and was disturbed.

    Attributes:
        what: Was done to it.
        scene: Where it ran.
        n_made: Faults that it met.
        n_needed: With fewer it tells nothing.
    """

    what: str
    scene: Scene
    n_made: int
    n_needed: int


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of a study and its trials.

    Attributes:
        made: Faults that it met.
        needed: With fewer it tells nothing.
        crashed: Coordinators that ended where the study should have paused.
        finished: Trials that ended as they would have.
        lost: Settings without a finished trial, and trials that failed.
        doubled: More than one trial of a setting and seed.
        stuck: Begun or waiting, and nobody's.
        different: With other scores than undisturbed.
        same_answer: Whether the answer is the same.
    """

    made: int
    needed: int
    crashed: int
    finished: int
    lost: int
    doubled: int
    stuck: int
    different: int
    same_answer: bool

    @property
    def is_clean(self) -> bool:
        """Whether all faults were met, and nothing crashed or is lost, doubled, stuck or different."""
        is_wrong = self.crashed or self.lost or self.doubled or self.stuck or self.different
        return self.made >= self.needed and not is_wrong and self.same_answer


def key_of(trial: FrozenTrial) -> tuple[Any, ...]:
    """What a trial is for: each is wanted once."""
    repeats = tuple(trial.user_attrs.get(name) for name in ("confirms", "seed"))
    params = planned_params(trial)
    return (*repeats, *sorted(params.items()))


def scores_of(trial: FrozenTrial) -> list[tuple[float, ...]]:
    """What a trial ended in, to the bit."""
    results = trial.user_attrs.get("results", [])
    return [(r["epoch"], r["score"], r["val_loss"], r["train_loss"]) for r in results]


def account(disturbed: Disturbed, undisturbed: Scene) -> Account:
    """Compare a study with one that nobody disturbed."""
    study, expected = (
        optuna.load_study(study_name=NAME, storage=open_storage(scene.storage))
        for scene in (disturbed.scene, undisturbed)
    )
    wanted = {key_of(trial): trial for trial in expected.get_trials()}
    trials = [t for t in study.get_trials() if not t.user_attrs.get("dropped")]
    found = Counter(key_of(trial) for trial in trials if trial.state.is_finished())
    good = [t for t in trials if t.state == TrialState.COMPLETE and key_of(t) in wanted]
    done = {key_of(trial) for trial in good}
    return Account(
        made=disturbed.n_made,
        needed=disturbed.n_needed,
        crashed=disturbed.scene.n_crashes,
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


def disturb_while_running(scene: Scene, disturb: Callable[[], bool], n_times: int, n_epochs: int) -> int:
    """Disturb a study while it runs, after equal parts of its epochs.

    Args:
        scene: Where it runs.
        disturb: Makes a fault; says whether it could.
        n_times: How often.
        n_epochs: Of the whole study.

    Returns:
        How often the study met a fault.
    """
    scene.start()
    n_tried = n_made = 0
    while not scene.has_ended():
        time.sleep(0.05)
        if n_tried < n_times and scene.n_epochs() >= n_epochs * (n_tried + 1) / (n_times + 1):
            n_tried += 1
            # A study that was done meanwhile did not need what was away.
            n_made += disturb() and (scene.process is None or scene.process.poll() != 0)
    return n_made


def without_database(server: PostgresServer, seconds: float) -> bool:
    """Kill the database server, and start it again later."""
    server.kill()
    is_away = not server.is_running
    time.sleep(seconds)
    server.start()
    return is_away


def with_database_locked(path: Path, seconds: float) -> bool:
    """Hold SQLite's lock."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    return True


def without_files(scene: Scene, seconds: float) -> bool:
    """Move photos and decoded images away, kill a worker and the coordinator, and bring them back.

    Returns:
        Whether both were killed, and the command started again has said that the photos are gone.
    """
    moved = [scene.photos, scene.folder / "cache" / "depthsearch" / "images"]
    away = [path.with_name(path.name + "-away") for path in moved]
    n_refusals = scene.n_refusals
    for path, hidden in zip(moved, away, strict=True):
        path.rename(hidden)
    try:
        is_killed = scene.kill_worker(random.Random(0))
        time.sleep(seconds / 2)
        is_killed = scene.kill_coordinator() and is_killed
        start_without_files(scene, seconds / 2)
    finally:
        # The photos at last: while they are gone, nothing is decoded anew.
        for path, hidden in reversed(list(zip(moved, away, strict=True))):
            shutil.rmtree(path, ignore_errors=True)
            hidden.rename(path)
    return is_killed and scene.n_refusals > n_refusals


def start_without_files(scene: Scene, seconds: float) -> None:
    """Start the command for so long, and until it has said once that the photos are gone; then kill it."""
    scene.may_refuse = True
    n_refusals = scene.n_refusals
    back = time.monotonic() + seconds
    latest = back + REFUSAL_SECONDS
    while time.monotonic() < (back if scene.n_refusals > n_refusals else latest):
        if scene.has_ended():
            return
        time.sleep(0.1)
    # From now on the photos may be there.
    while not scene.kill_coordinator():
        scene.has_ended()
    scene.may_refuse = False


def with_full_disk(folder: Path, seconds: float) -> bool:
    """Fill the disk, and make room again."""
    filler = folder / "filler"
    for piece in (2**20, 64):
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(piece))
    is_full = shutil.disk_usage(folder).free < FULL_BYTES
    time.sleep(seconds)
    filler.unlink()
    return is_full


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount a small disk.

    Raises:
        RuntimeError: If that is not allowed here.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        raise RuntimeError("only root can mount a tmpfs")
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise RuntimeError(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
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


@dataclass(kw_only=True)
class Bench:
    """What all rows of the account have in common.

    Attributes:
        root: Folder of all studies.
        options: Of the command line.
        stack: Ends what is started.
        server: PostgreSQL, once it is wanted.
        undisturbed: The study that the others are compared with.
    """

    root: Path
    options: argparse.Namespace
    stack: contextlib.ExitStack
    server: PostgresServer | None = None
    undisturbed: Scene | None = None

    @contextlib.contextmanager
    def scene(self, name: str, storage: str = "sqlite", *, workers: int | None = None) -> Iterator[Scene]:
        """Make a place for a study, its database on the server or in a file; end what runs there."""
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        url = f"sqlite:///{folder}/studies.db"
        if storage == "postgres":
            url = self._server().create(name.replace("-", "_"))
        scene = Scene(
            folder=folder,
            photos=self.root / "photos",
            storage=url,
            workers=workers or self.options.workers,
            epochs=self.options.epochs,
            rates=self.options.rates,
        )
        try:
            yield scene
        finally:
            scene.end()

    def _server(self) -> PostgresServer:
        """Start PostgreSQL.

        Raises:
            RuntimeError: If that cannot be done here.
        """
        if self.server is None:
            self.server = self.stack.enter_context(postgres_server())
        return self.server

    def disturb(self, scene: Scene, disturb: Callable[[], bool], n_times: int, what: str) -> Disturbed:
        """Disturb a study some times until it is done."""
        assert self.undisturbed is not None
        n_made = disturb_while_running(scene, disturb, n_times, self.undisturbed.n_epochs())
        return Disturbed(what=what, scene=scene, n_made=n_made, n_needed=n_times)

    def run_undisturbed(self) -> None:
        """Run the study that the others are compared with.

        Raises:
            SystemExit: If it cannot be run.
        """
        with self.scene("undisturbed", workers=1) as scene:
            scene.start()
            assert scene.process is not None
            if status := scene.process.wait():
                scene.tell_crash(status)
                sys.exit("The undisturbed study failed: there is nothing to compare with.")
            self.undisturbed = scene

    def killed(self, storage: str, n_kills: int) -> Generator[Disturbed, None, None]:
        """Run studies until there were enough kills."""
        chance, left = random.Random(self.options.seed), n_kills
        for number in itertools.count(1):
            with self.scene(f"kills-{storage}-{number}", storage) as scene:
                kill_until(scene, left, chance, self.options)
                n_made = scene.n_kills.total()
                what = f"kills, {SHOWN[storage]}, study {number}"
                yield Disturbed(what=what, scene=scene, n_made=n_made, n_needed=1)
            left -= n_made
            # Where nothing can be killed, the next study would change nothing.
            if left <= 0 or n_made == 0:
                return

    def without_server(self) -> Generator[Disturbed, None, None]:
        """Kill the database server three times."""
        seconds = self.options.away
        with self.scene("outages", "postgres") as scene:
            away = functools.partial(without_database, self._server(), seconds)
            yield self.disturb(scene, away, 3, f"PostgreSQL killed, back after {seconds:g} s")

    def with_lock(self) -> Generator[Disturbed, None, None]:
        """Lock SQLite's file three times."""
        seconds = self.options.away
        with self.scene("locked") as scene:
            locked = functools.partial(with_database_locked, scene.folder / "studies.db", seconds)
            yield self.disturb(scene, locked, 3, f"SQLite locked for {seconds:g} s")

    def with_files_gone(self) -> Generator[Disturbed, None, None]:
        """Take photos and decoded images away, twice."""
        seconds = self.options.away
        with self.scene("files") as scene:
            gone = functools.partial(without_files, scene, seconds)
            yield self.disturb(scene, gone, 2, f"photos and decoded images gone for {seconds:g} s")

    def with_disk_full(self) -> Generator[Disturbed, None, None]:
        """Fill the disk three times."""
        seconds = self.options.away
        with small_disk(self.root / "disk"), self.scene("disk") as scene:
            full = functools.partial(with_full_disk, scene.folder, seconds)
            yield self.disturb(scene, full, 3, f"disk full for {seconds:g} s")

    def rows(self) -> Iterator[tuple[str, Generator[Disturbed, None, None]]]:
        """Give each kind of fault that is wanted, by its name."""
        wanted, storages = self.options.only, self.options.storage
        for storage in storages:
            if "kills" in wanted:
                # Rounded up, so that none has too few.
                yield (
                    f"kills, {SHOWN[storage]}",
                    self.killed(storage, -(-self.options.kills // len(storages))),
                )
            if "database" in wanted:
                on_server = storage == "postgres"
                yield f"{SHOWN[storage]} away", self.without_server() if on_server else self.with_lock()
        if "files" in wanted:
            yield "photos gone", self.with_files_gone()
        if "disk" in wanted:
            yield "disk full", self.with_disk_full()


def judge(rows: Iterable[tuple[str, Generator[Disturbed, None, None]]], undisturbed: Scene) -> list[bool]:
    """Print every row of the account; say of each whether it is clean. One that cannot be done is not."""
    verdicts = []
    for name, studies in rows:
        started = time.monotonic()
        try:
            with contextlib.closing(studies):
                for disturbed in studies:
                    found = account(disturbed, undisturbed)
                    verdicts.append(found.is_clean)
                    show(disturbed, found, time.monotonic() - started)
                    started = time.monotonic()
        except Exception as error:  # noqa: BLE001 (one row that cannot be run does not keep the others from it)
            if not isinstance(error, RuntimeError):
                traceback.print_exc()
            print(f"| {name} | NOT DONE: {error}{' |' * (len(COLUMNS) - 1)}", flush=True)
            verdicts.append(False)
    return verdicts


def show(disturbed: Disturbed, found: Account, seconds: float) -> None:
    """Print a row of the account."""
    scene = disturbed.scene
    cells = (
        disturbed.what,
        f"{found.made} ({found.needed})",
        f"{scene.n_kills['worker']} + {scene.n_kills['coordinator']}",
        scene.n_starts,
        found.crashed,
        found.finished,
        found.lost,
        found.doubled,
        found.stuck,
        found.different,
        "yes" if found.same_answer else "NO",
        f"{seconds:.0f}",
    )
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> int:
    """Print the account of each kind of fault."""
    options = parse_options()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print_facts(machine_facts(choose_device("cpu", "float32")))
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="depthsearch-faults-")))
        bench = Bench(root=root, options=options, stack=stack)
        make_photos(root / "photos", options.images)
        bench.run_undisturbed()
        assert bench.undisturbed is not None
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
        return 0 if all(judge(bench.rows(), bench.undisturbed)) else 1


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="What faults cost.")
    parser.add_argument("--kills", type=int, default=200, help="in all, over the storages; 0: none")
    parser.add_argument("--storage", nargs="+", choices=tuple(SHOWN), default=list(SHOWN))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rates", default="3e-4,1e-3,3e-3,6e-3")
    parser.add_argument("--images", type=int, default=40, help="of each class")
    parser.add_argument("--seconds-between", type=float, default=1.5, help="kills, on average")
    parser.add_argument("--coordinators", type=float, default=0.1, help="share of the kills")
    parser.add_argument("--away", type=float, default=10.0, help="seconds that something is gone")
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.away < LEAST_AWAY:
        parser.error(f"--away {options.away:g} is too short to be noticed: give {LEAST_AWAY:g} or more")
    if options.kills <= 0:
        options.only = [fault for fault in options.only if fault != "kills"]
    if not options.only:
        parser.error(f"--only kills with --kills {options.kills} leaves nothing to do")
    return options


if __name__ == "__main__":
    # What a terminal would do to it is for the studies: they are all ended here.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
