"""How the first version searched and answered, for `replay.py` to compare with.

Its search was Optuna's, a Gaussian process with gentle pruning by the median or TPE with successive halving,
for a number of trials that was fixed beforehand. Then the most promising cuts and both ends were trained
again, all with as many seeds on the same division of the images, and the answer was the cheapest of them
within one standard error of the best mean (Breiman, Friedman, Olshen and Stone, Classification and Regression
Trees, 1984, section 3.4.3).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

import optuna

from benchmarks.search.answers import Answer, answer_at, first_answer
from benchmarks.search.recorded import Recorded
from depthsearch.results import StoredStudy, StoredTrial
from depthsearch.results.trials import cost_of
from depthsearch.search.sampling import FEW_TRIALS, resolve
from depthsearch.study import confirm, open_study, search

# Trials, cuts that are trained again and seeds of each; of the demo on digits.
USUAL, DEMO = (30, 3, 3), (14, 2, 2)


def before(recorded: Recorded, budgets: Sequence[float]) -> Mapping[float, Answer]:
    """Search and confirm as the first version did, and ask at each budget what it would answer."""
    n_trials, n_cuts, n_seeds = DEMO if recorded.task.data.name == "digits" else USUAL
    sampler, pruner = resolve("tpe" if n_trials < FEW_TRIALS else "gp", "auto", n_trials)
    task, space, executor = recorded.task, recorded.space, recorded.executor()
    study = open_study(optuna.storages.InMemoryStorage(), "replay", task, space, {})
    with (
        tempfile.TemporaryDirectory() as folder,
        recorded.limited(budgets, lambda: _answer_of(study, recorded)) as answers,
    ):
        how = {"checkpoints": Path(folder), "executor": executor}
        searching = search(
            study, task, space, n_trials=n_trials, sampler=sampler, pruner=pruner, then_confirm=True, **how
        )
        confirming = confirm(study, task, space, n_cuts=n_cuts, n_seeds=n_seeds, **how)
        for _ in chain(searching, confirming):
            pass
    return answers


def _answer_of(study: optuna.Study, recorded: Recorded) -> Answer:
    """Return the cheapest setting within one standard error of the best mean; the best training before."""
    stored = StoredStudy.read(study)
    runs = _runs(stored)
    if len(runs) < 2:
        return first_answer(stored.trials, recorded)
    by_number = {trial.number: trial for trial in stored.trials}
    best = max(runs.values(), key=lambda scores: fmean(scores.values()))
    level = [by_number[number] for number, scores in runs.items() if _is_level(scores, best)]
    return answer_at(min(level, key=lambda trial: cost_of(trial.cut)), recorded)


def _runs(stored: StoredStudy) -> dict[int, dict[int, float]]:
    """Collect the scores by seed of each setting that was planned, for seeds that all are through with."""
    if stored.plan is None:
        return {}
    runs: dict[int, dict[int, float]] = {number: {} for number in stored.plan.trials}
    for trial in stored.trials:
        if trial.confirms in runs and trial.state == "complete":
            runs[trial.confirms][_seed(trial)] = trial.score or 0.0
    seeds = set.intersection(*(set(scores) for scores in runs.values())) if runs else set()
    shared = {number: {seed: scores[seed] for seed in sorted(seeds)} for number, scores in runs.items()}
    return shared if seeds else {}


def _seed(trial: StoredTrial) -> int:
    assert trial.seed is not None
    return trial.seed


def _is_level(scores: Mapping[int, float], best: Mapping[int, float]) -> bool:
    gaps = [best[seed] - score for seed, score in scores.items()]
    error = stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return fmean(gaps) <= error + 1e-12
