"""What a study may take: full fine-tunes and time."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import optuna

from depthsearch.results.stored import StoredStudy


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a study may take.

    Attributes:
        budget: Full fine-tunes in all.
        until: When to begin nothing more, by `time.monotonic`.
    """

    budget: float = math.inf
    until: float = math.inf

    @property
    def are_given(self) -> bool:
        """Whether anything bounds the study."""
        return math.isfinite(self.budget) or math.isfinite(self.until)

    def left(self, study: optuna.Study) -> float:
        """Return how many full fine-tunes are left; 0 where time is up."""
        if self.is_time_up():
            return 0.0
        return self.budget if math.isinf(self.budget) else max(0.0, self.budget - spent_on(study))

    def is_reached(self, study: optuna.Study) -> bool:
        """Return whether nothing more may be begun."""
        return self.left(study) <= 0

    def is_time_up(self) -> bool:
        """Return whether what is under way is to be left for the next call."""
        return time.monotonic() >= self.until


def spent_on(study: optuna.Study) -> float:
    """Return what a study's trials and probes have cost, in full fine-tunes of its first backbone."""
    stored = StoredStudy.read(study)
    unit = next(iter(stored.backbones.values())).full_fine_tune_macs
    probed = sum(curve.macs for curve in stored.curves.values())
    return float(probed + sum(trial.macs for trial in stored.trials)) / unit
