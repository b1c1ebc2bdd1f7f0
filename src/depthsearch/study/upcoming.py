"""How many trials are still to come at each cut: what is worth keeping depends on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.search.space import BACKBONE, SearchSpace, cut_parameter
from depthsearch.study.confirmation import count_searched
from depthsearch.study.storage.optuna_private import fixed_params


def upcoming_trials(trials: Sequence[FrozenTrial], space: SearchSpace, *, n_trials: int) -> dict[Cut, float]:
    """Expect how many more trials will come at each cut.

    Those enqueued are known. Of the others each cut gets an even share, and more where trials have been: a
    sampler comes back to where it was. (The mean of a Dirichlet distribution, one trial spread evenly for
    each that was.)
    """
    waiting = [fixed_params(t) for t in trials if t.state == TrialState.WAITING]
    known = Counter(_cut_in(space, params) for params in waiting)
    been = Counter(_cut_in(space, t.params) for t in trials if t.params)
    n_been = been.total() - been[None]
    others = max(0, n_trials - count_searched(trials))
    total = 2 * n_been or 1
    even = (n_been or 1) / len(space.cuts)
    return {cut: known[cut] + others * (been[cut] + even) / total for cut in space.cuts}


def _cut_in(space: SearchSpace, params: Mapping[str, Any]) -> Cut | None:
    """Find the cut that parameters name, if they do."""
    backbone = params.get(BACKBONE, space.backbones[0])
    index = params.get(cut_parameter(backbone))
    return None if index is None else space.cuts_of(backbone)[index]
