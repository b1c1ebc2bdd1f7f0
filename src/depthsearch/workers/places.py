"""Places for workers: what processes of this machine and actors of a cluster have in common."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from torch.hub import tqdm

from depthsearch.workers.jobs import Job

__all__ = ["HUNG_SECONDS", "Place", "make_locks_mortal"]

# A worker that has used no processor for so long hangs; one that waits for another's features uses a little.
HUNG_SECONDS = 300.0
HARDLY_SECONDS = 0.02
# How long to try to start a worker, and between tries.
PATIENCE_SECONDS = 600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
TICK_SECONDS = 1.0
# Not having looked for so long, one has not seen them idle either.
AWAY_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Place:
    """A place for a worker, and what it does.

    Attributes:
        job: What the worker is to do, or does; None: nothing.
        n_failed: How often a worker was started here and could not begin anything, one time after the other.
        next_try: When to try again.
    """

    job: Job | None = None
    n_failed: int = 0
    next_try: float = 0.0

    def has(self, key: int | str) -> bool:
        """Return whether its job is the one with this key."""
        return self.job is not None and self.job.key == key

    def pause(self) -> None:
        """Note a failure to start, and wait longer after each."""
        self.n_failed += 1
        pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self.n_failed)
        self.next_try = time.monotonic() + pause_seconds


def make_locks_mortal() -> None:
    """Give progress bars, of which torch.fx makes one, a lock that ends with a process that is killed."""
    tqdm.set_lock(threading.RLock())
