"""What a trial is for; stored as its user attribute ``origin``."""

from __future__ import annotations

from typing import Literal

from optuna.trial import FrozenTrial, Trial

from depthsearch.options.attributes import TrialKey

# ``baseline``: an end of the depths; ``anchor``: of the spread over depth; ``exhaustive``: every candidate;
# ``sampler``: proposed by the sampler; ``guess``: enqueued by a person; ``confirm``: a confirmation.
Origin = Literal["baseline", "anchor", "exhaustive", "sampler", "guess", "confirm"]


def origin_of(trial: FrozenTrial | Trial) -> Origin:
    """Return what a trial is for; the sampler's own trials do not store it."""
    origin: Origin = trial.user_attrs.get(TrialKey.ORIGIN, "sampler")
    return origin
