"""Places for workers: what is the same for processes of this machine and actors of a cluster."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from torch.hub import tqdm

from depthsearch.workers.jobs import Job

# A worker that has used no processor for so long hangs; one that waits for another's features uses a little.
HUNG_SECONDS = 300.0
# Processor time up to this counts as none.
HARDLY_SECONDS = 0.02
# How long to try to start a worker, and between tries.
PATIENCE_SECONDS = 600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
TICK_SECONDS = 1.0
# If the coordinator was away for longer, it cannot know whether its workers were idle meanwhile.
AWAY_SECONDS = 10.0


@dataclass(slots=True, kw_only=True)
class Place:
    """A place for a worker, and its job.

    Attributes:
        job: What the worker does or is to do; None: nothing.
        n_failed: How often in a row a worker was started here and could not begin anything.
        next_try: When to start the next.
    """

    job: Job | None = None
    n_failed: int = 0
    next_try: float = 0.0

    def has(self, key: int | str) -> bool:
        """Return whether its job is the one with this key."""
        return self.job is not None and self.job.key == key

    def pause(self) -> None:
        """Count a failure to start, and schedule the next try: later after each."""
        self.n_failed += 1
        pause_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self.n_failed)
        self.next_try = time.monotonic() + pause_seconds


def make_locks_mortal() -> None:
    """Set a lock for tqdm, which torch.fx uses, that processes do not share: a killed one cannot free it."""
    tqdm.set_lock(threading.RLock())
