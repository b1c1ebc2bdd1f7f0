"""Which of Optuna's samplers and pruners a benchmark takes that simulates searches without a planner."""

from __future__ import annotations

from depthsearch.search.sampling import resolve


def of_optuna(sampler: str, pruner: str, n_trials: int, cost: str | None = None) -> tuple[str, str]:
    """Choose for ``auto`` as the program does where its own planner is not asked for; arguments as there."""
    _, pruner = resolve("tpe", pruner, n_trials, cost)
    return resolve(sampler, pruner, n_trials, cost)
