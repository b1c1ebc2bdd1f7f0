"""The lease of a study: one coordinator at a time, and a dead one can be replaced.

It is a user attribute of the study, changed only by compare-and-swap: of two coordinators that start at the
same moment one gets it. A thread renews it, so that an epoch may take longer than the lease lasts.

It is stored and no lock of the database's server: that would be free at once when its holder dies, but also
when the server restarts, under a holder that lives and waits for the server.

A request to stop is addressed to the lease's token, so that one to a dead coordinator never stops a later
one. The holder reads it when it renews its lease.
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
from depthsearch.options.attributes import StudyKey
from depthsearch.signals import deferred
from depthsearch.study.storage.connecting import is_of_one_thread
from depthsearch.study.storage.optuna_private import USER_ATTRIBUTES, database_of, study_id_of
from depthsearch.study.storage.patient import PatientStorage, patiently, query

# A coordinator on another machine that has not renewed its lease for so long is taken for dead.
LEASE_SECONDS = 120.0
# How often it is renewed in that time, and how often a failed renewal is tried.
RENEWALS, TRIES = 6, 60
# Giving it back is a courtesy, not worth a longer wait.
GIVE_BACK_SECONDS = 2.0
CHANGES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that runs a study, as the study stores it.

    Attributes:
        pid: Its number.
        host: The machine it runs on.
        machine: Its boot and container, see `this_machine`.
        started: When it started, see `start_of`.
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
        """Write the process and its host."""
        return f"process {self.pid} on {self.host}"


# Returns the new holder, from the present one and the time of the database's clock; or raises.
_Decide = Callable[[Holder | None, float], Holder | None]


def holder_of(attributes: Mapping[str, Any], now: float) -> Holder | None:
    """Return the living process that runs a study; None if there is none.

    Args:
        attributes: The study's user attributes, or `StoredStudy.lease`.
        now: The time by `clock_of` the study.
    """
    holder = _stored(attributes.get(StudyKey.COORDINATOR))
    return holder if holder is not None and _lives(holder, now) else None


def clock_of(study: optuna.Study) -> float:
    """Read the clock by which a study's lease expires, in seconds since 1970: its database's, if it has one.

    Clocks of machines may differ by more than a lease.
    """
    storage = database_of(study)
    return time.time() if storage is None else query(storage, _now)


def asked_of(attributes: Mapping[str, Any], token: str) -> str | None:
    """Return after what the holder of a lease is to stop, ``epoch`` or ``trial``; None: it was not asked."""
    request = attributes.get(StudyKey.STOP_REQUEST)
    return str(request["after"]) if request and request["token"] == token else None


class Lease:
    """A study's lease while it is held; a thread renews it until it is given back."""

    def __init__(self, study: optuna.Study, doing: str) -> None:
        """Acquire a study's lease, see `lease`."""
        self._study = study
        self._study_id = study_id_of(study)
        self._storage = database_of(study)
        # Made once: they are run at each epoch and at each write.
        self._select_mine = self._selected(StudyKey.COORDINATOR, StudyKey.STOP_REQUEST)
        # SQLAlchemy leaves FOR SHARE out for SQLite, where this is the only writer.
        self._select_holder = self._selected(StudyKey.COORDINATOR).with_for_update(read=True)
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
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._change(self._taken)
        if self._storage is None or is_of_one_thread(self._storage):
            return
        if isinstance(self._storage, PatientStorage):
            self._storage.guards.add(self._refuse_if_lost)
        self._thread = threading.Thread(target=self._keep, name="depthsearch-lease", daemon=True)
        self._thread.start()

    def renew(self) -> str | None:
        """Check that the lease is still held, and whether to stop; to be called before anything is written.

        Returns:
            After what to stop, ``epoch`` or ``trial``; None: it was not asked to.

        Raises:
            StudyError: If another process has taken the lease, or the study was deleted.
        """
        attributes = self._attributes()
        if not self._is_mine(_stored(attributes.get(StudyKey.COORDINATOR))):
            raise self._lost(is_deleted=StudyKey.COORDINATOR not in attributes)
        if time.monotonic() - self._last_renewed > LEASE_SECONDS / RENEWALS and self._thread is None:
            self._extend()
        return asked_of(attributes, self._mine.token)

    def asked(self) -> str | None:
        """Return after what its holder is to stop, as `renew` does; also once the lease is given back."""
        return asked_of(self._attributes(), self._mine.token)

    def give_back(self) -> None:
        """Release the lease, if it is still held; where the database is away, it expires by itself."""
        self._ended.set()
        if isinstance(self._storage, PatientStorage):
            self._storage.guards.discard(self._refuse_if_lost)
        with contextlib.suppress(StorageInternalError):
            # A renewal that comes between is seen by this change, and one that comes later finds no lease.
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
                self._extend(patience_seconds=0)
                pause = LEASE_SECONDS / RENEWALS
            except StudyError:
                # Given back, or taken: its holder finds out when it calls renew.
                return
            except (StorageInternalError, SQLAlchemyError):
                # Away or locked: waiting here would make `give_back` wait as well, which joins this thread.
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
        """Refuse to write after another process has taken the study."""
        stored = connection.execute(self._select_holder).scalar()
        if not self._is_mine(_stored(json.loads(stored or "null"))):
            raise self._lost(is_deleted=stored is None)

    def _lost(self, *, is_deleted: bool = False) -> StudyError:
        happened = "deleted" if is_deleted else "taken over by another process"
        return StudyError(f"Study {self._study.study_name!r} was {happened}.")

    def _is_mine(self, holder: Holder | None) -> bool:
        return holder is not None and holder.token == self._mine.token

    def _selected(self, *keys: str) -> sqlalchemy.Select[Any]:
        columns = USER_ATTRIBUTES.c
        rows = (columns.study_id == self._study_id) & columns.key.in_(keys)
        return sqlalchemy.select(columns.value_json, columns.key).where(rows)

    def _attributes(self) -> Mapping[str, Any]:
        """Read who holds the lease and the request to stop; reading all attributes would take longer."""
        if self._storage is None:
            return self._study.user_attrs
        rows = query(self._storage, lambda connection: connection.execute(self._select_mine).all())
        return {key: json.loads(value) for value, key in rows}

    def _change(self, decide: _Decide, *, patience_seconds: float | None = None) -> None:
        """Change who holds the lease, by compare-and-swap.

        Args:
            decide: Chooses the new holder; called again if another process was quicker.
            patience_seconds: How long to wait for a database that is away; None: as long as the study does.

        Raises:
            StorageInternalError: If it is away for longer.
        """
        storage = self._storage
        if storage is None:
            holder = decide(_stored(self._study.user_attrs.get(StudyKey.COORDINATOR)), time.time())
            self._study.set_user_attr(StudyKey.COORDINATOR, holder and asdict(holder))
            return

        def swap(_: bool) -> bool:
            # If a change was made and its answer lost, the next try finds its own token.
            try:
                with storage.engine.begin() as connection:
                    return self._is_swapped(connection, decide)
            except IntegrityError:
                # Another process has inserted the attribute first.
                return False

        for _ in range(CHANGES):
            if patiently(storage, swap, writes=True, patience_seconds=patience_seconds):
                return
        name = self._study.study_name
        raise StudyError(
            f"The lease of study {name!r} cannot be acquired: other processes keep changing it. Try again."
        )

    def _is_swapped(self, connection: Connection, decide: _Decide) -> bool:
        """Change the lease in a transaction; return whether it was still what `decide` was called with."""
        before = connection.execute(self._selected(StudyKey.COORDINATOR)).scalar()
        holder = decide(_stored(json.loads(before or "null")), _now(connection))
        after = json.dumps(holder and asdict(holder))
        if before is None:
            # Without a holder it is given back after the study was deleted.
            if holder is not None:
                values = {"study_id": self._study_id, "key": StudyKey.COORDINATOR, "value_json": after}
                connection.execute(sqlalchemy.insert(USER_ATTRIBUTES).values(values))
            return True
        columns = USER_ATTRIBUTES.c
        is_as_read = (columns.key == StudyKey.COORDINATOR) & (columns.value_json == before)
        swap = sqlalchemy.update(USER_ATTRIBUTES).where(columns.study_id == self._study_id, is_as_read)
        return bool(connection.execute(swap.values(value_json=after)).rowcount == 1)


@contextlib.contextmanager
def lease(study: optuna.Study, doing: str = "study") -> Iterator[Lease]:
    """Hold the study's lease: a second coordinator is refused while the first lives.

    Args:
        study: The study.
        doing: What for: ``study`` or ``fit``.

    Yields:
        The lease; `Lease.renew` checks that it is still held.

    Raises:
        StudyError: If another process holds it.
    """
    acquired = None
    try:
        # A deferred interrupt is raised at the end of this block, once the lease is known here.
        with deferred():
            acquired = Lease(study, doing)
        yield acquired
    finally:
        if acquired is not None:
            acquired.give_back()


def _stored(values: Mapping[str, Any] | None) -> Holder | None:
    return Holder(**values) if values else None


def _now(connection: Connection) -> float:
    """Read the clock that all processes share; see `clock_of`."""
    if connection.dialect.name == "postgresql":
        return float(
            connection.execute(sqlalchemy.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    # An SQLite file is used on one machine.
    return time.time()


def _lives(holder: Holder, now: float) -> bool:
    """Return whether a process lives: as the system reports on its own machine, else by its last renewal."""
    is_here = (holder.host, holder.machine) == (socket.gethostname(), this_machine())
    lives = process_lives(holder.pid, holder.started) if is_here else None
    return now - holder.renewed < LEASE_SECONDS if lives is None else lives
