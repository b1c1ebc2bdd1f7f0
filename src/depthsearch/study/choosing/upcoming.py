"""How many more trials are expected at each cut, which decides what features are worth keeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.search.space import SearchSpace
from depthsearch.study.choosing.confirmation import count_searched
from depthsearch.study.storage.optuna_private import fixed_params


def upcoming_trials(trials: Sequence[FrozenTrial], space: SearchSpace, *, n_trials: int) -> dict[Cut, float]:
    """Estimate how many more trials will come at each cut.

    Those enqueued are known. Of the others each cut gets an even share, and more where trials have been, as a
    sampler returns to good places: the mean of a Dirichlet distribution whose prior is one trial, spread
    evenly, for each trial so far.
    """
    waiting = [fixed_params(t) for t in trials if t.state == TrialState.WAITING]
    enqueued = Counter(_cut_in(space, params) for params in waiting)
    tried = Counter(_cut_in(space, t.params) for t in trials if t.params)
    n_tried = tried.total() - tried[None]
    n_others = max(0, n_trials - count_searched(trials))
    total = 2 * n_tried or 1
    even = (n_tried or 1) / len(space.cuts)
    return {cut: enqueued[cut] + n_others * (tried[cut] + even) / total for cut in space.cuts}


def _cut_in(space: SearchSpace, params: Mapping[str, Any]) -> Cut | None:
    """Return the cut in a trial's parameters; None if they have none."""
    return space.cut_of(params) if space.has_cut(params) else None
