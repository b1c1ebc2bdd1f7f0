"""How long a cluster has had no worker at all: noted after a while, an error in the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from depthsearch.errors import StudyError

# How long to be without any worker before a warning.
NOTE_SECONDS = 20.0

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Absence:
    """The time without any worker.

    Attributes:
        patience_seconds: For how long to wait.
        reason: Why there is none, as far as is known.
        since: Since when, by `time.monotonic`; None: there is one.
        is_noted: Whether a warning has said so.
    """

    patience_seconds: float
    reason: str
    since: float | None = None
    is_noted: bool = False

    def end(self) -> None:
        """Note that there is a worker."""
        self.since, self.is_noted = None, False

    def go_on(self, now: float) -> None:
        """Note that there is none.

        Raises:
            StudyError: If there has been none for long.
        """
        if self.since is None:
            self.since = now
        waited = now - self.since
        if waited > NOTE_SECONDS and not self.is_noted:
            self.is_noted = True
            log.warning("Waiting for a worker of the cluster: %s", self.reason)
        if waited > self.patience_seconds:
            raise StudyError(
                f"The cluster has had no worker for {self.patience_seconds:g} s: {self.reason}. "
                "Mend that and run the same command again."
            )
