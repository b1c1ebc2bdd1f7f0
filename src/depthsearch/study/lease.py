"""The lease of a study: one coordinator at a time, and a dead one's place can be taken.

It is a user attribute of the study that is only ever changed from what was just read: of two that start in
the same moment the database lets one. A thread renews it, so that an epoch may take longer than it holds.

Who wants a study to stop asks the holder of its lease, by the lease's token: what a dead coordinator was
asked never stops a later one. The holder sees it where it renews its lease.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from depthsearch.errors import StudyError
from depthsearch.machine import start_of, this_machine
from depthsearch.signals import deferred
from depthsearch.study.storage import PatientStorage, database_of, is_of_one_thread

__all__ = ["Holder", "Lease", "asked_of", "clock_of", "holder_of", "lease"]

# A coordinator on another machine that has not renewed its lease for so long is taken for dead.
LEASE_SECONDS = 120.0
# So long it was before a lease said so itself.
OLD_LEASE_SECONDS = 900.0
# It is renewed so often in that time; after a failure, tried again so often.
RENEWALS, TRIES = 6, 60
# To give it back is a courtesy, not worth a longer wait.
GIVE_BACK_SECONDS = 2.0
CHANGES = 100
# The study's user attributes: who runs it, and what its holder is asked.
COORDINATOR, REQUEST = "coordinator", "stop_request"

# Of Optuna's schema.
_ATTRIBUTES = sqlalchemy.table(
    "study_user_attributes",
    sqlalchemy.column("study_id"),
    sqlalchemy.column("key"),
    sqlalchemy.column("value_json"),
)
# What a lease is changed from, and the time by the database's clock; gives what to.
_Decide = Callable[[Any, float], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that runs a study.

    Attributes:
        pid: Its number.
        host: The machine it runs on.
        doing: ``study``, or ``fit``.
        token: Of its lease.
    """

    pid: int
    host: str
    doing: str
    token: str | None

    def __str__(self) -> str:
        """Name it in a message."""
        return f"process {self.pid} on {self.host}"


def holder_of(attributes: Mapping[str, Any], now: float) -> Holder | None:
    """Find the process that runs a study; None: nobody that lives.

    Args:
        attributes: The study's user attributes, read once.
        now: The time by `clock_of` the study.
    """
    holder = attributes.get(COORDINATOR)
    if not holder or not _lives(holder, now):
        return None
    return _named(holder)


def clock_of(study: optuna.Study) -> float:
    """Read the clock by which a study's lease runs out, in seconds since 1970: its database's, if it has one.

    Machines' own may differ by more than a lease.
    """
    storage = database_of(study)
    if not isinstance(storage, PatientStorage):
        return time.time()

    def read(_: bool) -> float:
        with storage.engine.connect() as connection:
            return _now(connection)

    return storage.patiently(read, writes=False)


def _named(holder: Mapping[str, Any]) -> Holder:
    doing, token = holder.get("doing", "study"), holder.get("token")
    return Holder(pid=holder["pid"], host=holder["host"], doing=doing, token=token)


def asked_of(attributes: Mapping[str, Any], token: str | None) -> str | None:
    """Say after what the holder of a lease is asked to stop, ``epoch`` or ``trial``; None: it is not."""
    request = attributes.get(REQUEST)
    return str(request["after"]) if request and token and request["token"] == token else None


class Lease:
    """A study's lease while it is held; a thread renews it until it is given back."""

    def __init__(self, study: optuna.Study, doing: str) -> None:
        """Take a study's lease.

        Args:
            study: Whose.
            doing: What for: ``study`` or ``fit``.

        Raises:
            StudyError: If another process holds it.
        """
        self._study = study
        self._token = uuid.uuid4().hex
        self._mine = {
            "host": socket.gethostname(),
            "machine": this_machine(),
            "pid": os.getpid(),
            "started": start_of(os.getpid()),
            "doing": doing,
            "token": self._token,
            "seconds": LEASE_SECONDS,
        }
        self._last_renewed = time.monotonic()
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        _change(study, self._taken)
        self._thread: threading.Thread | None = None
        storage = database_of(study)
        if storage is None or is_of_one_thread(storage):
            return
        if isinstance(storage, PatientStorage):
            storage.guards.append(self._refuse_if_lost)
        self._thread = threading.Thread(target=self._keep, name="depthsearch-lease", daemon=True)
        self._thread.start()

    def renew(self) -> str | None:
        """Learn whether it is still held, and what is asked; to be called now and then, before a writing.

        Returns:
            After what the holder is asked to stop, ``epoch`` or ``trial``; None: it is not.

        Raises:
            StudyError: If another process has taken it.
        """
        attributes = _read_lease(self._study)
        if not self._is_mine(attributes.get(COORDINATOR)):
            raise self._lost(is_deleted=COORDINATOR not in attributes)
        if time.monotonic() - self._last_renewed > LEASE_SECONDS / RENEWALS and self._thread is None:
            self._extend()
        return asked_of(attributes, self._token)

    def asked(self) -> str | None:
        """Say after what its holder is, or was, asked to stop; also once the lease is given back."""
        return asked_of(_read_lease(self._study), self._token)

    def give_back(self) -> None:
        """Let others have it, if it is still held; where the database is away, it runs out by itself."""
        self._ended.set()
        with self._renewing:
            storage = database_of(self._study)
            if isinstance(storage, PatientStorage) and self._refuse_if_lost in storage.guards:
                storage.guards.remove(self._refuse_if_lost)
            with contextlib.suppress(StorageInternalError):
                _change(
                    self._study,
                    lambda holder, _: None if self._is_mine(holder) else holder,
                    patience_seconds=GIVE_BACK_SECONDS,
                )
        if self._thread is not None:
            self._thread.join()

    def _keep(self) -> None:
        """Renew the lease until it is given back, or another has taken it."""
        pause = LEASE_SECONDS / RENEWALS
        while not self._ended.wait(pause):
            try:
                with self._renewing:
                    if self._ended.is_set():
                        return
                    self._extend(patience_seconds=0)
                pause = LEASE_SECONDS / RENEWALS
            except StudyError:
                # The holder finds out where it calls renew.
                return
            except (StorageInternalError, SQLAlchemyError):
                # Away, or locked: not to wait here, where whoever gives it back would wait as well.
                pause = LEASE_SECONDS / TRIES

    def _extend(self, patience_seconds: float | None = None) -> None:
        _change(self._study, self._renewed, patience_seconds=patience_seconds)
        self._last_renewed = time.monotonic()

    def _taken(self, holder: Any, now: float) -> dict[str, Any]:
        if holder and not self._is_mine(holder) and _lives(holder, now):
            raise StudyError(
                f"Study {self._study.study_name!r} is being run by {_named(holder)}. "
                "Stop that one first, or give another --name."
            )
        return {**self._mine, "renewed": now}

    def _renewed(self, holder: Any, now: float) -> dict[str, Any]:
        if not self._is_mine(holder):
            raise self._lost()
        return {**self._mine, "renewed": now}

    def _refuse_if_lost(self, connection: Connection) -> None:
        """Refuse a transaction that would write after another has taken the study."""
        stored, holder = _read(connection, self._study._study_id, keep=True)
        if not self._is_mine(holder):
            raise self._lost(is_deleted=stored is None)

    def _lost(self, *, is_deleted: bool = False) -> StudyError:
        happened = "deleted" if is_deleted else "taken over by another process"
        return StudyError(f"Study {self._study.study_name!r} was {happened}.")

    def _is_mine(self, holder: Any) -> bool:
        return bool(holder) and holder.get("token") == self._token


@contextlib.contextmanager
def lease(study: optuna.Study, doing: str = "study") -> Iterator[Lease]:
    """Hold the study's lease: a second coordinator is refused while the first lives.

    Args:
        study: Whose.
        doing: What for: ``study`` or ``fit``.

    Yields:
        The lease, to be asked now and then whether it is still held.

    Raises:
        StudyError: If another process holds it.
    """
    held = None
    try:
        # An interrupt that was held back comes at the end of this.
        with deferred():
            held = Lease(study, doing)
        yield held
    finally:
        if held is not None:
            held.give_back()


def _read_lease(study: optuna.Study) -> Mapping[str, Any]:
    """Read who holds a study's lease and what is asked of it, and nothing else: a study holds much."""
    storage = database_of(study)
    if not isinstance(storage, PatientStorage):
        return study.user_attrs
    columns = _ATTRIBUTES.c
    wanted = (columns.study_id == study._study_id) & columns.key.in_([COORDINATOR, REQUEST])

    def read(_: bool) -> dict[str, Any]:
        with storage.engine.connect() as connection:
            rows = connection.execute(sqlalchemy.select(columns.key, columns.value_json).where(wanted))
            return {key: json.loads(value) for key, value in rows}

    return storage.patiently(read, writes=False)


def _change(study: optuna.Study, decide: _Decide, *, patience_seconds: float | None = None) -> None:
    """Change who holds a study's lease, from what was read and nothing else.

    Args:
        study: Whose.
        decide: Gives the new holder, or raises; called again if another was quicker.
        patience_seconds: How long to wait for a database that is away; None: as long as the study does.

    Raises:
        StorageInternalError: If it is away for longer.
    """
    storage = database_of(study)
    if storage is None:
        study.set_user_attr(COORDINATOR, decide(study.user_attrs.get(COORDINATOR), time.time()))
        return

    def swap(_: bool = False) -> bool:
        # A change that was made and its answer lost is read like any other: by its token.
        try:
            with storage.engine.begin() as connection:
                return _is_swapped(connection, study._study_id, decide)
        except IntegrityError:
            # A study has each attribute once: another was the first to have one at all.
            return False

    for _ in range(CHANGES):
        if isinstance(storage, PatientStorage):
            is_changed = storage.patiently(swap, writes=True, patience_seconds=patience_seconds)
        else:
            is_changed = swap()
        if is_changed:
            return
    raise StudyError(f"The lease of study {study.study_name!r} cannot be had: others change it all the time.")


def _is_swapped(connection: Connection, study_id: int, decide: _Decide) -> bool:
    """Change the lease in a transaction; say whether it was still what `decide` was told."""
    before, holder = _read(connection, study_id)
    wanted = decide(holder, _now(connection))
    after = json.dumps(wanted)
    if before is None and wanted is None:
        # Given back where the study has been deleted.
        return True
    if before is None:
        values = {"study_id": study_id, "key": COORDINATOR, "value_json": after}
        connection.execute(sqlalchemy.insert(_ATTRIBUTES).values(values))
        return True
    is_as_read = _is_of(study_id) & (_ATTRIBUTES.c.value_json == before)
    changed = connection.execute(sqlalchemy.update(_ATTRIBUTES).where(is_as_read).values(value_json=after))
    return bool(changed.rowcount == 1)


def _read(connection: Connection, study_id: int, *, keep: bool = False) -> tuple[str | None, Any]:
    """Read who holds a study's lease: as stored, and what that says; kept so until the transaction ends."""
    asked = sqlalchemy.select(_ATTRIBUTES.c.value_json).where(_is_of(study_id))
    if keep:
        # SQLite, whose only writer this is, leaves the words out.
        asked = asked.with_for_update(read=True)
    stored = connection.execute(asked).scalar()
    return stored, None if stored is None else json.loads(stored)


def _is_of(study_id: int) -> sqlalchemy.ColumnElement[bool]:
    return (_ATTRIBUTES.c.study_id == study_id) & (_ATTRIBUTES.c.key == COORDINATOR)


def _now(connection: Connection) -> float:
    """Read the clock that all who want a study share; see `clock_of`."""
    if connection.dialect.name == "postgresql":
        return float(
            connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    # SQLite is of one machine.
    return time.time()


def _lives(holder: Mapping[str, Any], now: float) -> bool:
    is_fresh = bool(now - holder["renewed"] < holder.get("seconds", OLD_LEASE_SECONDS))
    # On Windows, os.kill would end the process that it asks for.
    if not _is_here(holder) or os.name == "nt":
        return is_fresh
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = start_of(holder["pid"])
    if started is None or holder["started"] is None:
        # The system does not tell, or hides other users' processes.
        return is_fresh
    # The same number may have been given to another process since.
    return bool(started == holder["started"])


def _is_here(holder: Mapping[str, Any]) -> bool:
    """Say whether a process would be seen from here: two containers, or machines, may have one name."""
    machine = this_machine()
    return bool(holder["host"] == socket.gethostname() and holder.get("machine", machine) == machine)
