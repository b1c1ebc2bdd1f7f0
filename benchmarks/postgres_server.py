"""A throw-away PostgreSQL server on the loopback, for tests and benchmarks: started, stopped and killed.

with postgres_server() as server:
    open_storage(server.url)
    server.stop("immediate")
    server.start()
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

__all__ = ["PostgresServer", "postgres_server", "why_missing"]

USER, PASSWORD = "depthsearch", "s3cret-w0rd"
# PostgreSQL refuses to run as root: Debian's package makes this user.
UNPRIVILEGED = "postgres"
# Below the ports that a system hands out: what is free at a restart was free before.
PORTS = range(20_000, 32_000)
# Nobody cuts the power here; little memory, so that many fit. A killed server keeps what was committed.
SETTINGS = (
    "fsync=off",
    "full_page_writes=off",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=16MB",
    "lc_messages=C",
)


def why_missing() -> str | None:
    """Return why no server can be started here; None: it can."""
    if sys.platform == "win32":
        return "on Windows no server is started for tests"
    if _binaries() is None:
        return "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and not _is_user(UNPRIVILEGED):
        return f"PostgreSQL does not run as root, and there is no user {UNPRIVILEGED}"
    return None


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that may run or not.

    Attributes:
        folder: All of it.
        port: Its.
    """

    folder: Path
    port: int

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of its first database."""
        return self.url_of("depthsearch")

    def url_of(self, database: str, password: str = PASSWORD) -> str:
        """Name a database of it by SQLAlchemy's URL."""
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Create an empty database and give its URL."""
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        address = ("-h", "127.0.0.1", "-p", str(self.port), "-U", USER)
        _run("createdb", *address, database, environment=environment)
        return self.url_of(database)

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = " ".join(f"-c {each}" for each in (f"port={self.port}", *SETTINGS))
        log = str(self.folder / "log")
        _run("pg_ctl", "-D", str(self._data), "-w", "-t", "60", "-l", log, "-o", options, "start")

    def stop(self, how: str = "fast") -> None:
        """Stop it.

        Args:
            how: ``fast`` ends sessions in order, ``immediate`` as a crash would.
        """
        _run("pg_ctl", "-D", str(self._data), "-w", "-m", how, "stop")

    def kill(self) -> None:
        """Kill its first process, as the system does where memory is short; the others end with it."""
        first = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        others = first.children(recursive=True)
        first.kill()
        psutil.wait_procs([first, *others], timeout=30)

    @property
    def is_running(self) -> bool:
        """Whether its port answers."""
        return _is_answered(self.port)

    @property
    def _data(self) -> Path:
        return self.folder / "data"


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server in a temporary folder; both are gone afterwards.

    Raises:
        RuntimeError: If none can be started here.
    """
    if reason := why_missing():
        raise RuntimeError(reason)
    folder = Path(tempfile.mkdtemp(prefix="depthsearch-postgres-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, folder / "password"):
                shutil.chown(path, UNPRIVILEGED)
        initdb = ("-D", str(folder / "data"), "-U", USER, f"--pwfile={folder / 'password'}", "-N")
        _run("initdb", *initdb, "--auth=scram-sha-256", "-E", "UTF8", "--locale=C")
        server = _started(folder)
        try:
            server.create("depthsearch")
            yield server
        finally:
            if server.is_running:
                server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(folder: Path, n_tries: int = 5) -> PostgresServer:
    """Start the server on a port that is free."""
    for tried in range(1, n_tries + 1):
        server = PostgresServer(folder, next(p for p in _shuffled(PORTS) if not _is_answered(p)))
        try:
            server.start()
        except subprocess.CalledProcessError:
            if tried == n_tries:
                raise
        else:
            return server
    raise AssertionError("unreachable")


def _shuffled(ports: Sequence[int]) -> list[int]:
    # Not the generator that a test may have seeded.
    return random.SystemRandom().sample(ports, len(ports))


def _is_answered(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _run(program: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
    folder = _binaries()
    assert folder is not None
    # What a server inherits it keeps open: a pipe would never end.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:
        ended = subprocess.run(
            [folder / program, *arguments],
            cwd="/",
            env=environment,
            user=UNPRIVILEGED if os.geteuid() == 0 else None,
            group=_group() if os.geteuid() == 0 else None,
            extra_groups=[] if os.geteuid() == 0 else None,
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=subprocess.STDOUT,
            check=False,
        )
        told.seek(0)
        if ended.returncode:
            raise subprocess.CalledProcessError(ended.returncode, ended.args, told.read())


def _binaries() -> Path | None:
    """Find the folder of the newest server; Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _group() -> int:
    import pwd

    return pwd.getpwnam(UNPRIVILEGED).pw_gid


def _is_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
