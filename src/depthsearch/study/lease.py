"""The lease of a study: one coordinator at a time, and a dead one's place can be taken.

It is a user attribute of the study that is only ever changed from what was just read: of two that start in
the same moment the database lets one. A thread renews it, so that an epoch may take longer than it lasts.

A lock of the database's server would be free at once where its holder dies, but also where the server
restarts, under a holder that lives and waits for it: the next to ask would take the study. A lease is stored.

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
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from depthsearch.errors import StudyError
from depthsearch.machine import process_lives, start_of, this_machine
from depthsearch.signals import deferred
from depthsearch.study.storage import PatientStorage, database_of, is_of_one_thread, patiently
from depthsearch.study.storage.optuna_private import study_id_of

__all__ = ["Holder", "Lease", "asked_of", "clock_of", "holder_of", "lease"]

# A coordinator on another machine that has not renewed its lease for so long is taken for dead.
LEASE_SECONDS = 120.0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that runs a study, as the study stores it.

    Attributes:
        pid: Its number.
        host: The machine it runs on.
        machine: What its number belongs to, see `this_machine`.
        started: What tells it from an earlier process of its number, see `start_of`.
        doing: ``study``, or ``fit``.
        token: Of its lease.
        renewed: When it renewed its lease, by `clock_of` the study.
    """

    pid: int
    host: str
    machine: str | None
    started: str | None
    doing: str
    token: str
    renewed: float

    def __str__(self) -> str:
        """Name it in a message."""
        return f"process {self.pid} on {self.host}"


# Returns the new holder for the present one and the time by the database's clock, or raises.
_Decide = Callable[[Holder | None, float], Holder | None]


def holder_of(attributes: Mapping[str, Any], now: float) -> Holder | None:
    """Return the process that runs a study; None if nobody does that lives.

    Args:
        attributes: The study's user attributes, read once.
        now: The time by `clock_of` the study.
    """
    holder = _stored(attributes.get(COORDINATOR))
    return holder if holder is not None and _lives(holder, now) else None


def clock_of(study: optuna.Study) -> float:
    """Read the clock by which a study's lease runs out, in seconds since 1970: its database's, if it has one.

    Machines' own may differ by more than a lease.
    """
    storage = database_of(study)

    def read(_: bool) -> float:
        assert storage is not None
        with storage.engine.connect() as connection:
            return _now(connection)

    return time.time() if storage is None else patiently(storage, read, writes=False)


def asked_of(attributes: Mapping[str, Any], token: str) -> str | None:
    """Return after what the holder of a lease is asked to stop, ``epoch`` or ``trial``; None: it is not."""
    request = attributes.get(REQUEST)
    return str(request["after"]) if request and request["token"] == token else None


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
        self._study_id = study_id_of(study)
        self._storage = database_of(study)
        self._mine = Holder(
            pid=os.getpid(),
            host=socket.gethostname(),
            machine=this_machine(),
            started=start_of(os.getpid()),
            doing=doing,
            token=uuid.uuid4().hex,
            renewed=0.0,
        )
        self._last_renewed = time.monotonic()
        self._renewing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._change(self._taken)
        if self._storage is None or is_of_one_thread(self._storage):
            return
        if isinstance(self._storage, PatientStorage):
            self._storage.guards.append(self._refuse_if_lost)
        self._thread = threading.Thread(target=self._keep, name="depthsearch-lease", daemon=True)
        self._thread.start()

    def renew(self) -> str | None:
        """Check that the lease is still held, and what is asked; to be called before anything is written.

        Returns:
            After what the holder is asked to stop, ``epoch`` or ``trial``; None: it is not.

        Raises:
            StudyError: If another process has taken it, or the study was deleted.
        """
        attributes = self._attributes()
        if not self._is_mine(_stored(attributes.get(COORDINATOR))):
            raise self._lost(is_deleted=COORDINATOR not in attributes)
        if time.monotonic() - self._last_renewed > LEASE_SECONDS / RENEWALS and self._thread is None:
            self._extend()
        return asked_of(attributes, self._mine.token)

    def asked(self) -> str | None:
        """Return after what its holder is, or was, asked to stop; also once the lease is given back."""
        return asked_of(self._attributes(), self._mine.token)

    def give_back(self) -> None:
        """Let others have it, if it is still held; where the database is away, it runs out by itself."""
        self._ended.set()
        with self._renewing:
            if isinstance(self._storage, PatientStorage) and self._refuse_if_lost in self._storage.guards:
                self._storage.guards.remove(self._refuse_if_lost)
            with contextlib.suppress(StorageInternalError):
                self._change(
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
        self._change(self._renewed, patience_seconds=patience_seconds)
        self._last_renewed = time.monotonic()

    def _taken(self, holder: Holder | None, now: float) -> Holder:
        if holder is not None and not self._is_mine(holder) and _lives(holder, now):
            raise StudyError(
                f"Study {self._study.study_name!r} is being run by {holder}. "
                "Stop that one first, or give another --name."
            )
        return replace(self._mine, renewed=now)

    def _renewed(self, holder: Holder | None, now: float) -> Holder:
        if not self._is_mine(holder):
            raise self._lost()
        return replace(self._mine, renewed=now)

    def _refuse_if_lost(self, connection: Connection) -> None:
        """Refuse a transaction that would write after another has taken the study."""
        # SQLite, whose only writer this is, leaves the words of the lock out.
        stored = connection.execute(self._selected(COORDINATOR).with_for_update(read=True)).scalar()
        if not self._is_mine(_stored(None if stored is None else json.loads(stored))):
            raise self._lost(is_deleted=stored is None)

    def _lost(self, *, is_deleted: bool = False) -> StudyError:
        happened = "deleted" if is_deleted else "taken over by another process"
        return StudyError(f"Study {self._study.study_name!r} was {happened}.")

    def _is_mine(self, holder: Holder | None) -> bool:
        return holder is not None and holder.token == self._mine.token

    def _selected(self, *keys: str) -> sqlalchemy.Select[Any]:
        columns = _ATTRIBUTES.c
        wanted = (columns.study_id == self._study_id) & columns.key.in_(keys)
        return sqlalchemy.select(columns.value_json, columns.key).where(wanted)

    def _attributes(self) -> Mapping[str, Any]:
        """Read who holds the lease and what is asked of it, and nothing else: a study holds much."""
        storage = self._storage
        if storage is None:
            return self._study.user_attrs

        def read(_: bool) -> dict[str, Any]:
            with storage.engine.connect() as connection:
                rows = connection.execute(self._selected(COORDINATOR, REQUEST))
                return {key: json.loads(value) for value, key in rows}

        return patiently(storage, read, writes=False)

    def _change(self, decide: _Decide, *, patience_seconds: float | None = None) -> None:
        """Change who holds the lease, from what was read and nothing else.

        Args:
            decide: Called again if another was quicker.
            patience_seconds: How long to wait for a database that is away; None: as long as the study does.

        Raises:
            StorageInternalError: If it is away for longer.
        """
        storage = self._storage
        if storage is None:
            holder = decide(_stored(self._study.user_attrs.get(COORDINATOR)), time.time())
            self._study.set_user_attr(COORDINATOR, holder and asdict(holder))
            return

        def swap(_: bool) -> bool:
            # A change that was made and its answer lost is read like any other: by its token.
            try:
                with storage.engine.begin() as connection:
                    return self._is_swapped(connection, decide)
            except IntegrityError:
                # A study has each attribute once: another was the first to have one at all.
                return False

        for _ in range(CHANGES):
            if patiently(storage, swap, writes=True, patience_seconds=patience_seconds):
                return
        name = self._study.study_name
        raise StudyError(f"The lease of study {name!r} cannot be had: others change it all the time.")

    def _is_swapped(self, connection: Connection, decide: _Decide) -> bool:
        """Change the lease in a transaction; return whether it was still what `decide` was called with."""
        before = connection.execute(self._selected(COORDINATOR)).scalar()
        wanted = decide(_stored(None if before is None else json.loads(before)), _now(connection))
        after = json.dumps(wanted and asdict(wanted))
        if before is None and wanted is None:
            # Given back where the study has been deleted.
            return True
        columns = _ATTRIBUTES.c
        if before is None:
            values = {"study_id": self._study_id, "key": COORDINATOR, "value_json": after}
            connection.execute(sqlalchemy.insert(_ATTRIBUTES).values(values))
            return True
        is_as_read = (columns.study_id == self._study_id) & (columns.key == COORDINATOR)
        is_as_read &= columns.value_json == before
        changed = connection.execute(
            sqlalchemy.update(_ATTRIBUTES).where(is_as_read).values(value_json=after)
        )
        return bool(changed.rowcount == 1)


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


def _stored(values: Mapping[str, Any] | None) -> Holder | None:
    return Holder(**values) if values else None


def _now(connection: Connection) -> float:
    """Read the clock that all who want a study share; see `clock_of`."""
    if connection.dialect.name == "postgresql":
        return float(
            connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    # SQLite is of one machine.
    return time.time()


def _lives(holder: Holder, now: float) -> bool:
    """Return whether a process lives: asked of the system on its own machine, else by its silence."""
    is_here = (holder.host, holder.machine) == (socket.gethostname(), this_machine())
    lives = process_lives(holder.pid, holder.started) if is_here else None
    return now - holder.renewed < LEASE_SECONDS if lives is None else lives
