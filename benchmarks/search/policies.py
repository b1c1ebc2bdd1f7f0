"""Ways of searching that `replay.py` compares. A policy is one function, and its name in `POLICIES`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.search.answers import Answer, answer_at, first_answer
from benchmarks.search.before import before
from benchmarks.search.recorded import Recorded
from depthsearch.errors import DivergedError
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.results import StoredStudy, weigh
from depthsearch.search.planning.moves import Race
from depthsearch.search.sampling import GAIN, PAUSE
from depthsearch.seeds import seed_from
from depthsearch.study import open_study, search
from depthsearch.study.choosing.limits import Limits

# A study of a rival that has run so many trials has ended, whatever is left of its budget.
MOST_TRIALS = 100


# Runs one study within each of some budgets, in full fine-tunes, and returns its answer at each.
Policy = Callable[[Recorded, Sequence[float]], Mapping[float, Answer]]


def depthsearch(
    recorded: Recorded,
    budgets: Sequence[float],
    *,
    may_train_again: bool = True,
    which: Literal["answer", "best"] = "answer",
) -> Mapping[float, Answer]:
    """Search with the defaults of the program within the largest budget; ask at each what it would answer.

    Without an end to that one the study ends by itself as one that nobody has bounded.

    Args:
        recorded: The table.
        budgets: In full fine-tunes.
        may_train_again: Whether settings are trained again on other divisions of the images.
        which: What is judged: the ``answer``, the cheapest setting that loses less than the tolerance, or the
            ``best``, which is what rivals look for.
    """
    # Whatever the table was recorded with: the demo's digits have smaller defaults.
    options = with_defaults(StudyOptions(backbone=(recorded.table.about.backbone,), data="photos/"))
    task, space = recorded.task, recorded.space
    study = open_study(optuna.storages.InMemoryStorage(), "replay", task, space, {}, is_planned=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        recorded.limited(budgets, lambda: answer_of(study, recorded, which)) as answers,
    ):
        searching = search(
            study,
            task,
            space,
            n_trials=options.trials or 0,
            sampler=GAIN,
            pruner=PAUSE,
            race=Race(n_seeds=options.seeds or 0) if may_train_again else None,
            limits=Limits(budget=max(budgets)),
            checkpoints=Path(folder),
            executor=recorded.executor(),
        )
        for _ in searching:
            pass
    return answers


def answer_of(study: optuna.Study, recorded: Recorded, which: Literal["answer", "best"] = "answer") -> Answer:
    """Return what a study of the product says: its evidence, else the best single training so far."""
    stored = StoredStudy.read(study)
    evidence = weigh(stored)
    if evidence is None:
        return first_answer(stored.trials, recorded)
    setting = evidence.answer if which == "answer" else evidence.best
    chosen = next(trial for trial in stored.trials if trial.number == setting.trial)
    return answer_at(chosen, recorded, level=evidence.level)


def of_optuna(
    sampler: Callable[[int], BaseSampler],
    pruner: Callable[[int], BasePruner],
    recorded: Recorded,
    budgets: Sequence[float],
) -> Mapping[float, Answer]:
    """Search as somebody does who writes a loop of ask and tell around a training with kept features.

    Its answer is the best complete trial; without one, the best last score.

    Args:
        sampler: Made from a seed.
        pruner: Made from the number of epochs.
        recorded: The table.
        budgets: In full fine-tunes.
    """
    epochs = recorded.table.about.epochs
    study = optuna.create_study(
        direction="maximize", sampler=sampler(seed_from(recorded.seed)), pruner=pruner(epochs)
    )
    with recorded.limited(budgets, lambda: _best_trial(study, recorded)) as answers:
        for _ in range(MOST_TRIALS):
            _run_trial(study, recorded)
    return answers


def _run_trial(study: optuna.Study, recorded: Recorded) -> None:
    """Run one trial; one that diverges fails."""
    trial = study.ask(recorded.space.distributions())
    rate = recorded.nearest_rate(trial.params["learning_rate"])
    score = math.nan
    try:
        for result in recorded.train(trial.params["cut"], rate):
            score = result.score
            trial.report(score, step=result.epoch)
            if result.epoch < recorded.table.about.epochs and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                return
    except DivergedError:
        study.tell(trial, state=TrialState.FAIL)
        return
    study.tell(trial, score)


def _best_trial(study: optuna.Study, recorded: Recorded) -> Answer:
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]

    def score(trial: optuna.trial.FrozenTrial) -> float:
        steps = trial.intermediate_values
        return steps[max(steps)] if steps else -1.0

    best = max(complete or trials, key=score)
    rate = recorded.nearest_rate(best.params["learning_rate"])
    return Answer(cut=best.params["cut"], rate=rate, level=None, cost=recorded.cost)


def _median(epochs: int) -> BasePruner:
    """Optuna's default but for a warm-up: without one it cuts off what starts late."""
    return MedianPruner(n_warmup_steps=math.ceil(epochs / 4))


def _hyperband(epochs: int) -> BasePruner:
    return HyperbandPruner(min_resource=1, max_resource=epochs)


def _rival(sampler: type[BaseSampler], pruner: Callable[[int], BasePruner]) -> Policy:
    return partial(of_optuna, lambda seed: sampler(seed=seed), pruner)  # type: ignore[call-arg]


def _unpruned(epochs: int) -> BasePruner:
    return NopPruner()


POLICIES: dict[str, Policy] = {
    "depthsearch": depthsearch,
    "depthsearch-best": partial(depthsearch, which="best"),
    "before": before,
    "TPESampler+MedianPruner": _rival(TPESampler, _median),
    "TPESampler+HyperbandPruner": _rival(TPESampler, _hyperband),
    "GPSampler": _rival(GPSampler, _unpruned),
    "RandomSampler": _rival(RandomSampler, _unpruned),
}
