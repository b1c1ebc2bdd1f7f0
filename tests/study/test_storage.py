"""The database: SQLite beside its readers, PostgreSQL, outages of both, and passwords that nobody sees."""

import contextlib
import gc
import json
import os
import pickle
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import racing
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.trial import TrialState, create_trial
from privileges import modes_obeyed

from benchmarks.shared.postgres_server import PASSWORD
from depthsearch import cli
from depthsearch.cli import entry
from depthsearch.errors import SettingsError
from depthsearch.signals import deferred, let_through, sigterm_interrupts
from depthsearch.study import open_storage as exported, open_study, search
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import database_of, storage_of, study_id_of, trial_id_of
from depthsearch.study.storage.patient import StorageError
from depthsearch.text import hidden, without_password, without_password as hide_exported

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def open_(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Open databases; what is open is closed at the end."""

    def opened(url: str, **names: Any) -> optuna.storages.RDBStorage:
        storage = open_storage(url, **names)
        request.addfinalizer(storage.engine.dispose)
        return storage

    return opened


def new_study(storage: optuna.storages.RDBStorage, name: str = "s") -> optuna.Study:
    return optuna.create_study(study_name=name, storage=storage)


@contextlib.contextmanager
def locked(url: str, how: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
    """Hold the lock of an SQLite database, as another process would."""
    connection = sqlite3.connect(
        url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
    )
    connection.execute(f"BEGIN {how}")
    try:
        yield connection
    finally:
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        connection.close()


@contextlib.contextmanager
def later(seconds: float, what: Callable[[], object]) -> Iterator[None]:
    """Do something in a moment, beside what is done meanwhile."""
    timer = threading.Timer(seconds, what)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "depthsearch.study.storage.patient"
    ]


# --- SQLite -------------------------------------------------------------------------------------


def test_the_package_of_studies_exports_what_opens_them() -> None:
    assert exported is open_storage
    assert hide_exported is without_password


def test_an_sqlite_database_keeps_a_log(url: str, open_) -> None:
    storage = open_(url)
    new_study(storage)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


@pytest.mark.parametrize("how", ["IMMEDIATE", "EXCLUSIVE"])
def test_who_reads_waits_for_nobody(url: str, open_, how: str) -> None:
    new_study(open_(url)).set_user_attr("key", "value")
    with locked(url, how):
        storage = open_(url, patience_seconds=0, busy_seconds=0)
        study = optuna.load_study(study_name="s", storage=storage)
        assert study.user_attrs == {"key": "value"}
        assert study.get_trials() == []
        assert storage.get_current_version() == storage.get_head_version()
        with pytest.raises(StorageError, match=r"has been away for 0 s: database is locked$"):
            study.set_user_attr("key", "another")


def test_opening_a_complete_database_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "optuna.db"
    plain = optuna.storages.RDBStorage(f"sqlite:///{path}")
    new_study(plain)
    plain.engine.dispose()
    before = path.read_bytes()
    storage = open_storage(f"sqlite:///{path}")
    optuna.load_study(study_name="s", storage=storage).get_trials()
    storage.engine.dispose()
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["a b.db", "{SCHEMA}.db", "x#y.db", "50%25.db", "ü@1:2.db"])
def test_a_file_may_have_any_name(tmp_path: Path, open_, name: str) -> None:
    url = f"sqlite:///{tmp_path}/{name}"
    new_study(open_(url))
    assert optuna.get_all_study_names(open_(url)) == ["s"]
    assert (tmp_path / name.replace("%25", "%")).is_file()


def test_what_a_storage_left_open_is_closed_with_it(url: str) -> None:
    storage = open_storage(url)
    new_study(storage).set_user_attr("key", 1)
    log = Path(f"{url.removeprefix('sqlite:///')}-wal")
    assert log.exists()
    del storage
    gc.collect()
    assert not log.exists()


def test_memory_is_a_database_too(open_) -> None:
    study = new_study(open_("sqlite://"))
    study.set_user_attr("key", 1)
    assert study.user_attrs == {"key": 1}


def test_a_lock_that_is_short_is_not_worth_a_word(url: str, open_, caplog) -> None:
    study = new_study(open_(url))
    with locked(url) as connection, later(0.7, lambda: connection.execute("ROLLBACK")):
        study.set_user_attr("key", 1)
    assert study.user_attrs == {"key": 1}
    assert told(caplog) == []


def test_a_lock_that_is_held_for_long_is_waited_for(url: str, open_, caplog) -> None:
    study = new_study(open_(url, busy_seconds=0.3))
    with locked(url) as connection, later(1.5, lambda: connection.execute("ROLLBACK")):
        study.set_user_attr("key", 1)
    assert study.user_attrs == {"key": 1}
    begun, ended = told(caplog)
    assert begun == f"The database {url} is away (database is locked): waiting for it, up to 600 s."
    assert ended.startswith(f"The database {url} is back after ")


def test_patience_has_an_end(url: str, open_) -> None:
    study = new_study(open_(url, patience_seconds=0.5, busy_seconds=0.1))
    with locked(url), pytest.raises(StorageInternalError, match=r"away for \d s: database is locked$"):
        study.set_user_attr("key", 1)
    study.set_user_attr("key", 2)
    assert study.user_attrs == {"key": 2}


def test_a_full_disk_is_waited_for(url: str, open_, caplog) -> None:
    storage = open_(url)
    study = new_study(storage)
    limits = [1]

    @sqlalchemy.event.listens_for(storage.engine, "connect")
    def limit(connection: Any, _: Any) -> None:
        if limits:
            connection.execute("PRAGMA max_page_count=1")

    storage.engine.dispose()
    with later(1.0, limits.clear):
        study.set_user_attr("key", "x" * 100_000)
    assert len(study.user_attrs["key"]) == 100_000
    assert "is away (database or disk is full)" in told(caplog)[0]


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_file_that_is_gone_for_a_while_is_waited_for(tmp_path: Path, open_, caplog, what: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    storage = open_(f"sqlite:///{folder}/studies.db")
    study = new_study(storage)
    storage.engine.dispose()
    moved = folder if what == "folder" else folder / "studies.db"
    moved.rename(tmp_path / "moved")
    with later(1.0, lambda: (tmp_path / "moved").rename(moved)):
        study.set_user_attr("key", 1)
    assert study.user_attrs == {"key": 1}
    assert "is away (unable to open database file)" in told(caplog)[0]


def test_what_time_does_not_mend_is_not_waited_for(url: str, open_) -> None:
    storage = open_(url)
    study = new_study(storage)
    study.ask()
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trial_params")
    with pytest.raises(StorageError, match=r"cannot be used: no such table: trial_params$"):
        study.get_trials()


def test_a_storage_can_be_sent_to_another_process(url: str, open_) -> None:
    new_study(open_(url))
    sent = pickle.loads(pickle.dumps(open_(url, patience_seconds=0.1, busy_seconds=0.1)))
    study = optuna.load_study(study_name="s", storage=sent)
    with locked(url), pytest.raises(StorageError, match=r"database is locked$"):
        study.set_user_attr("key", 1)
    sent.engine.dispose()


# --- what cannot be written to ------------------------------------------------------------------


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Give a folder and what makes it and all in it read-only."""
    with contextlib.ExitStack() as until_end:

        def freeze() -> None:
            for path in tmp_path.iterdir():
                path.chmod(0o555 if path.is_dir() else 0o444)
            tmp_path.chmod(0o555)
            until_end.enter_context(modes_obeyed())

        yield tmp_path, freeze
    for path in (tmp_path, *tmp_path.iterdir()):
        path.chmod(0o755)


def test_a_copy_that_cannot_be_written_to_can_be_read(read_only, open_) -> None:
    folder, freeze = read_only
    storage = open_storage(f"sqlite:///{folder}/studies.db")
    new_study(storage).set_user_attr("key", 1)
    storage.engine.dispose()
    freeze()
    study = optuna.load_study(study_name="s", storage=open_(f"sqlite:///{folder}/studies.db"))
    assert study.user_attrs == {"key": 1}
    with pytest.raises(StorageError, match=r"cannot be used: attempt to write a readonly database$"):
        study.set_user_attr("key", 2)


def test_a_copy_that_lacks_its_latest_writes_is_not_half_read(read_only) -> None:
    folder, freeze = read_only
    (folder / "at").mkdir()
    storage = open_storage(f"sqlite:///{folder}/at/studies.db")
    new_study(storage)
    for name in ("studies.db", "studies.db-wal"):
        (folder / name).write_bytes((folder / "at" / name).read_bytes())
    storage.engine.dispose()
    freeze()
    with pytest.raises(SettingsError, match=r"latest writes in studies\.db-wal, and .* Copy both files"):
        open_storage(f"sqlite:///{folder}/studies.db")


def test_a_running_study_can_be_read_by_who_may_not_write(read_only, open_) -> None:
    folder, freeze = read_only
    new_study(open_(f"sqlite:///{folder}/studies.db")).set_user_attr("key", 1)
    freeze()
    study = optuna.load_study(study_name="s", storage=open_(f"sqlite:///{folder}/studies.db"))
    assert study.user_attrs == {"key": 1}


# --- several processes --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_start_together_make_one_database_and_share_its_trials(
    kind: str, url: str, request: pytest.FixtureRequest
) -> None:
    """Guards the creation of a database against a race."""
    url = url if kind == "sqlite" else request.getfixturevalue("postgres_url")
    begun = racing.run(racing.begin_trials, url, 4)
    assert sorted(number for mine in begun for number in mine) == list(range(40))


SERVE = """
import sys
from depthsearch.report.dashboard.serving import serve
from depthsearch.study.storage.opening import open_storage
serve(open_storage(sys.argv[1]), "127.0.0.1", 0, writable=True)
"""


@pytest.fixture
def dashboard() -> Iterator[Callable[[str], str]]:
    """Serve dashboards in other processes; give their addresses."""
    with contextlib.ExitStack() as stack:

        def serve(url: str) -> str:
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", SERVE, url], stderr=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return next(line for line in process.stderr if "http" in line).split()[2].rstrip("/")

        yield serve


def ask(address: str, body: dict[str, Any] | None = None) -> int:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address,
        data=data,
        headers={"Content-Type": "application/json", "Origin": address.partition("/api/")[0]},
        method="PUT" if body is not None else "GET",
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        answer.read()
        return int(answer.status)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_dashboard_that_reads_and_writes_breaks_no_study(
    kind: str, request: pytest.FixtureRequest, url: str, open_, dashboard
) -> None:
    """Guards a study against locks of whoever watches it."""
    url = url if kind == "sqlite" else request.getfixturevalue("postgres_url")
    # Any outage would end in an error.
    storage = open_(url, patience_seconds=5, busy_seconds=5)
    study = new_study(storage)
    address = f"{dashboard(url)}/api/studies/{study_id_of(study)}"
    answers: list[int] = []
    ended = threading.Event()

    def look() -> None:
        while not ended.is_set():
            answers.append(ask(f"{address}?after=0"))

    def note() -> None:
        version = 0
        while not ended.is_set():
            version += 1
            answers.append(ask(f"{address}/note", {"version": version, "body": f"note {version}"}))

    threads = [threading.Thread(target=what) for what in (look, look, look, note)]
    for thread in threads:
        thread.start()
    until, n_trials = time.monotonic() + 3, 0
    # On a busy machine, few trials in that time.
    while time.monotonic() < until or n_trials <= 5:
        n_trials += 1
        trial = study.ask()
        for step in range(5):
            trial.report(trial.suggest_float("x", 0, 1), step)
        trial.set_user_attr("key", step)
        study.tell(trial, 0.5)
    ended.set()
    for thread in threads:
        thread.join()
    trials = study.get_trials()
    assert len(answers) > 20
    assert set(answers) <= {200, 204}
    assert len(trials) == n_trials
    assert all(trial.state == TrialState.COMPLETE for trial in trials)
    assert [trial.number for trial in trials] == list(range(len(trials)))


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["immediate", "fast", "kill"])
def test_a_server_that_restarts_is_waited_for(postgres, postgres_url: str, open_, caplog, how: str) -> None:
    study = new_study(open_(postgres_url))
    postgres.kill() if how == "kill" else postgres.stop(how)
    with later(0.5, postgres.start):
        study.set_user_attr("key", 1)
    assert study.user_attrs == {"key": 1}
    begun, ended = told(caplog)
    shown = postgres_url.replace(PASSWORD, "***")
    assert begun.startswith(f"The database {shown} is away (")
    assert ended.startswith(f"The database {shown} is back after ")
    assert PASSWORD not in caplog.text


def test_a_server_that_stays_away_is_named(postgres, postgres_url: str, open_) -> None:
    study = new_study(open_(postgres_url, patience_seconds=0.5))
    postgres.stop()
    with pytest.raises(StorageError, match=r"^The database \S+ has been away for \d s: .*Connection refused"):
        _ = study.user_attrs


@pytest.mark.slow
def test_a_search_goes_on_after_the_server_was_away(
    postgres, postgres_url: str, url: str, open_, task, space, tmp_path: Path
) -> None:
    """Guards patience with a PostgreSQL server that is really stopped and started."""

    def run(url: str, at_epoch: Callable[[int], None]) -> list[Any]:
        study = open_study(open_(url), "s", task, space, {})
        options = {"n_trials": 4, "sampler": "tpe", "pruner": "none", "checkpoints": tmp_path / "checkpoints"}
        for n, _ in enumerate(search(study, task, space, **options)):
            at_epoch(n)
        return [(t.state, t.params, t.value, t.intermediate_values) for t in study.get_trials()]

    def disturb(n: int) -> None:
        # In the middle of a trial, before its next report.
        if n in (2, 7):
            postgres.stop("immediate")
            timers.append(threading.Timer(1.0, postgres.start))
            timers[-1].start()

    timers: list[threading.Timer] = []
    disturbed = run(postgres_url, disturb)
    assert len(timers) == 2
    for timer in timers:
        timer.join()
    assert disturbed == run(url, lambda n: None)


def test_a_server_that_refuses_is_not_waited_for(postgres, postgres_url: str, open_) -> None:
    admin = sqlalchemy.create_engine(postgres.url.replace("postgresql", "postgresql+psycopg"))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("DROP ROLE IF EXISTS other")
        connection.exec_driver_sql("CREATE ROLE other LOGIN SUPERUSER PASSWORD 'f1rst'")
        study = new_study(open_(postgres_url.replace(f"depthsearch:{PASSWORD}", "other:f1rst")))
        connection.exec_driver_sql("ALTER ROLE other PASSWORD 'sec0nd'")
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'other'"
        )
    admin.dispose()
    with pytest.raises(StorageError, match=r'password authentication failed for user "other"$') as raised:
        study.set_user_attr("key", 1)
    assert "f1rst" not in str(raised.value)


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = r"^--storage postgresql://u:\*\*\*@h/d needs a driver: pip install 'depthsearch\[postgres\]'\.$"
    with pytest.raises(SettingsError, match=message):
        open_storage("postgresql://u:secret@h/d")
    with pytest.raises(SettingsError, match=r"needs a driver: No module named 'MySQLdb'\. Install it"):
        open_storage("mysql://u:secret@h/d")


# --- answers that were lost ---------------------------------------------------------------------


class Wire:
    """A connection to a server, which can be cut when a commit has gone through and its answer has not."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.n_cut = 0
        self.armed = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.own_port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                for ends in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_asked: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if is_asked and self.armed and b"COMMIT" in data:
                    self.armed = False
                    self.n_cut += 1
                    # Its answer goes nowhere.
                    source.shutdown(socket.SHUT_RDWR)
                    target.sendall(data)
                    time.sleep(0.2)
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire(postgres) -> Iterator[Wire]:
    wire = Wire(postgres.port)
    yield wire
    wire.close()


@pytest.fixture
def far(postgres_url: str, wire: Wire, open_) -> optuna.Study:
    """A study behind that connection."""
    return new_study(open_(postgres_url.replace(str(wire.port), str(wire.own_port))))


def test_a_trial_whose_answer_was_lost_is_made_once(far: optuna.Study, wire: Wire) -> None:
    wire.armed = True
    trial = far.ask()
    assert wire.n_cut == 1
    assert [(t.number, t.state) for t in far.get_trials()] == [(trial.number, TrialState.RUNNING)]


def test_a_setting_whose_answer_was_lost_is_enqueued_once(far: optuna.Study, wire: Wire) -> None:
    far.enqueue_trial({"x": 0.5}, user_attrs={"origin": "guess"})
    wire.armed = True
    far.enqueue_trial({"x": 0.5}, user_attrs={"origin": "guess"})
    assert wire.n_cut == 1
    assert [t.state for t in far.get_trials()] == [TrialState.WAITING] * 2


def test_a_trial_begun_with_the_answer_lost_is_begun(far: optuna.Study, wire: Wire) -> None:
    far.enqueue_trial({"x": 0.5})
    wire.armed = True
    trial = far.ask()
    assert wire.n_cut == 1
    assert [(t.number, t.state) for t in far.get_trials()] == [(trial.number, TrialState.RUNNING)]
    # Another's is not.
    assert not storage_of(far).set_trial_state_values(trial_id_of(far, trial.number), TrialState.RUNNING)


def test_a_trial_told_with_the_answer_lost_is_told(far: optuna.Study, wire: Wire) -> None:
    trial = far.ask()
    wire.armed = True
    far.tell(trial, 0.25)
    assert wire.n_cut == 1
    assert [(t.state, t.value) for t in far.get_trials()] == [(TrialState.COMPLETE, 0.25)]
    with pytest.raises(UpdateFinishedTrialError, match="has already finished"):
        storage_of(far).set_trial_state_values(trial_id_of(far, trial.number), TrialState.COMPLETE, [0.25])


def test_a_study_made_or_deleted_with_the_answer_lost_is_so(far: optuna.Study, wire: Wire) -> None:
    storage = database_of(far)
    wire.armed = True
    another = new_study(storage, "another")
    assert wire.n_cut == 1
    with pytest.raises(DuplicatedStudyError, match="Another study with study_name='another' already exists"):
        new_study(storage, "another")
    wire.armed = True
    optuna.delete_study(study_name="another", storage=storage)
    assert wire.n_cut == 2
    assert optuna.get_all_study_names(storage) == ["s"]
    with pytest.raises(KeyError, match="Record does not exist"):
        storage.delete_study(study_id_of(another))


def test_what_is_written_twice_is_written_once(far: optuna.Study, wire: Wire) -> None:
    trial = far.ask()
    for n, write in enumerate(
        (
            lambda: trial.suggest_float("x", 0, 1),
            lambda: trial.report(0.5, step=1),
            lambda: trial.set_user_attr("key", 1),
            lambda: far.set_user_attr("key", 1),
        ),
        start=1,
    ):
        wire.armed = True
        write()
        assert wire.n_cut == n
    (stored,) = far.get_trials()
    assert stored.params == trial.params
    assert stored.intermediate_values == {1: 0.5}
    assert (stored.user_attrs, far.user_attrs) == ({"key": 1}, {"key": 1})


def test_a_finished_trial_is_made_once(far: optuna.Study, wire: Wire) -> None:
    wire.armed = True
    far.add_trial(create_trial(value=0.5, user_attrs={"key": 1}))
    assert wire.n_cut == 1
    assert [t.value for t in far.get_trials()] == [0.5]


# --- interrupts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_a_wait_at_once_also_where_it_is_held_back(url: str, open_, number: int) -> None:
    study = new_study(open_(url))
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(url))
        stack.enter_context(sigterm_interrupts())
        stack.enter_context(later(0.5, lambda: os.kill(os.getpid(), number)))
        stack.enter_context(pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name))
        with deferred(), deferred():
            study.set_user_attr("key", 1)
    assert time.monotonic() - started < 5
    assert study.user_attrs == {}


def test_an_interrupt_that_was_held_back_passes_once_something_waits() -> None:
    done = []

    def wait() -> None:
        with sigterm_interrupts(), deferred():
            signal.raise_signal(signal.SIGINT)
            done.append("held back")
            with let_through():
                done.append("not reached")

    with pytest.raises(KeyboardInterrupt, match="SIGINT"):
        wait()
    assert done == ["held back"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_was_held_back_passes_also_after_an_error() -> None:
    def fail() -> None:
        with sigterm_interrupts(), contextlib.suppress(OSError), deferred():
            signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk is full")

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        fail()


def test_interrupts_are_held_back_again_after_a_wait() -> None:
    done = []

    def wait() -> None:
        with sigterm_interrupts(), deferred():
            with let_through():
                pass
            signal.raise_signal(signal.SIGTERM)
            done.append("held back")

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        wait()
    assert done == ["held back"]


def test_an_interrupt_ends_the_wait_for_a_server(postgres, postgres_url: str, open_) -> None:
    study = new_study(open_(postgres_url))
    postgres.stop()
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(sigterm_interrupts())
        stack.enter_context(later(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)))
        stack.enter_context(pytest.raises(KeyboardInterrupt, match="SIGINT"))
        with deferred():
            study.set_user_attr("key", 1)
    assert time.monotonic() - started < 5


# --- passwords ----------------------------------------------------------------------------------

SECRETS = [
    ("postgresql://u:s3cret@h:5432/d", "postgresql://u:***@h:5432/d"),
    ("postgresql+psycopg://u:s3cret@h/d?sslmode=require", "postgresql+psycopg://u:***@h/d?sslmode=require"),
    ("postgresql://u:s3%40cret%2F%3A@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3@cret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3/cret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3/c@ret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3:cret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3?c@ret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://u:s3 cret@h/d", "postgresql://u:***@h/d"),
    ("postgresql://:s3cret@h/d", "postgresql://:***@h/d"),
    ("postgresql://u:s3cret@[::1]:5432/d", "postgresql://u:***@[::1]:5432/d"),
    ("postgresql://u:s3cret@h:port/d", "postgresql://u:***@h:port/d"),
    ("postgresql://u:s3cret/d", "postgresql://u:***/d"),
    ("postgresql://u@h/d?password=s3cret", "postgresql://u@h/d?password=***"),
    (
        "postgresql://h/d?user=u&pass%77ord=s3cret&sslmode=require",
        "postgresql://h/d?sslmode=require&user=u&password=***",
    ),
    ("postgresql://u:s3cret@h/d?sslpassword=s3cret2", "postgresql://u:***@h/d?sslpassword=***"),
    # Azure's users have an @, and so have people who sign in by their address.
    ("postgresql://u@srv:s3cret@h/d", "postgresql://u@srv:***@h/d"),
    ("http://u@example.org:s3cret@h:5000", "http://u@example.org:***@h:5000"),
    ("postgresql://u@srv:s3@cret@h/d", "postgresql://u@srv:***@h/d"),
]


@pytest.mark.parametrize(("url", "shown"), SECRETS)
def test_a_password_is_hidden(url: str, shown: str) -> None:
    assert without_password(url) == shown
    assert "s3" not in hidden(f"argument --storage={url}: 'x'")
    assert "cret" not in hidden(f"argument --storage={url}: 'x'")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///depthsearch.db",
        "sqlite:////a b/@c:d/{e}.db",
        "sqlite://",
        "postgresql://h/d",
        "postgresql://u@h:5432/d?sslmode=require&application_name=a",
        "postgresql://[::1]:5432/d",
        "https://host:8080/path",
        "studies.db",
    ],
)
def test_what_has_no_password_is_shown_as_it_is(url: str) -> None:
    assert without_password(url) == url
    assert hidden(f"at {url} it") == f"at {url} it"


@pytest.mark.parametrize("url", [url for url, _ in SECRETS] + ["u:s3cret@h/d"])
def test_an_error_shows_no_password(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    address = url.replace("@h", "@127.0.0.1").replace("//h/", "//127.0.0.1/").replace("5432", "1")
    assert cli.main(["status", "--storage", address]) == 2
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(["status", "--storrage", address])
    told = "".join(capsys.readouterr())
    assert told.count("depthsearch") >= 2
    assert "s3" not in told
    assert "cret" not in told


def test_a_command_to_go_on_with_has_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("depthsearch.cli.checks.CHECKS", {"fit": interrupted})
    assert cli.main(["fit", "--storage", "postgresql://u:s3:c@ret@h/d", "--out", "x"]) == entry.INTERRUPTED
    told = capsys.readouterr().err
    assert told.endswith("go on with: depthsearch fit --storage 'postgresql://u:***@h/d' --out x\n")


def test_a_wrong_password_is_not_shown(postgres, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "--storage", postgres.url_of("depthsearch", "wr%40ng")]) == 2
    told = capsys.readouterr().err
    assert told.endswith('cannot be opened: password authentication failed for user "depthsearch"\n')
    assert "wr" not in told


def test_a_password_may_come_from_the_environment(
    postgres_url: str, open_, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    new_study(open_(postgres_url.replace(f":{PASSWORD}", "")))


STUDY = (
    "study --backbone test_resnet --weights random --image-size 16 --subset 0.1 --trials 2 --epochs 1 "
    "--confirm 0 --sampler random --pruner none --device cpu --precision float32 --name s --head-width 0"
)


@pytest.mark.slow
def test_a_study_on_postgresql_keeps_and_shows_no_password(
    postgres_url: str, capsys: pytest.CaptureFixture[str], caplog, tmp_path: Path
) -> None:
    """Guards the password in all that a study stores and prints."""
    out = ["--out", str(tmp_path / "report")]
    for command in (STUDY, f"{STUDY} --json", "status", "status s", "status --json", "report s --json"):
        assert cli.main([*command.split(), "--storage", postgres_url]) == 0
    assert cli.main(["report", "s", "--storage", postgres_url, *out]) == 0
    assert cli.main(["fit", "s", "--storage", postgres_url, "--out", str(tmp_path / "model")]) == 0
    told = "".join(capsys.readouterr()) + caplog.text
    assert "in postgresql://depthsearch:***@127.0.0.1" in told
    assert PASSWORD not in told
    storage = open_storage(postgres_url)
    tables = sqlalchemy.MetaData()
    with storage.engine.connect() as connection:
        tables.reflect(connection)
        for table in tables.sorted_tables:
            assert PASSWORD not in str(connection.execute(sqlalchemy.select(table)).all())
    storage.engine.dispose()
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes()
