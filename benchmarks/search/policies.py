"""Ways of searching that `replay.py` compares. A policy is one function, and its name in `POLICIES`."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.search.recorded import Recorded
from depthsearch.errors import DivergedError
from depthsearch.options.study import StudyOptions, with_defaults
from depthsearch.results import StoredStudy, StoredTrial, rank, weigh
from depthsearch.search.sampling import resolve
from depthsearch.seeds import seed_from
from depthsearch.study import confirm, open_study, search
from depthsearch.study.choosing.limits import Limits
from depthsearch.study.conducting import SEARCHED

# A study of a rival that has run so many trials has ended, whatever is left of its budget.
MOST_TRIALS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study says once it has spent so much.

    Attributes:
        cut: Index of the answer's cut.
        rate: Index of the recorded learning rate nearest to the answer's.
        level: Indices of the cuts that it cannot tell from the best; None: it does not say.
        cost: What was spent, in full fine-tunes.
    """

    cut: int
    rate: int
    level: tuple[int, ...] | None
    cost: float


# Runs one study within each of some budgets, in full fine-tunes, and returns its answer at each.
Policy = Callable[[Recorded, Sequence[float]], Mapping[float, Answer]]


def gain(recorded: Recorded, budgets: Sequence[float]) -> Mapping[float, Answer]:
    """Search by gain per cost and confirm, within each budget by a study of its own."""
    return {
        budget: _of_product(Recorded(recorded.table, recorded.seed), [budget], "gain", "pause", budget)[
            budget
        ]
        for budget in budgets
    }


def before(recorded: Recorded, budgets: Sequence[float]) -> Mapping[float, Answer]:
    """Search and confirm with the defaults of the program, and ask at each budget what it would answer."""
    return _of_product(recorded, budgets, "auto", "auto")


def _of_product(
    recorded: Recorded,
    budgets: Sequence[float],
    sampler: str,
    pruner: str,
    budget: float | None = None,
) -> Mapping[float, Answer]:
    options = with_defaults(
        StudyOptions(backbone=(recorded.table.about.backbone,), data=recorded.task.data.name)
    )
    n_trials = options.trials or 0
    sampler, pruner = resolve(sampler, pruner, n_trials)
    task, space, executor = recorded.task, recorded.space, recorded.executor()
    study = open_study(optuna.storages.InMemoryStorage(), "replay", task, space, {})
    with (
        tempfile.TemporaryDirectory() as folder,
        recorded.limited(budgets, lambda: answer_of(study, recorded)) as answers,
    ):
        checkpoints = Path(folder)
        searching = search(
            study,
            task,
            space,
            n_trials=n_trials,
            sampler=sampler,
            pruner=pruner,
            checkpoints=checkpoints,
            limits=None if budget is None else Limits(budget=SEARCHED * budget),
            then_confirm=True,
            executor=executor,
        )
        confirming = confirm(
            study,
            task,
            space,
            n_cuts=int(options.confirm or 0),
            n_seeds=options.seeds or 0,
            checkpoints=checkpoints,
            executor=executor,
        )
        for _ in chain(searching, confirming):
            pass
    return answers


def answer_of(study: optuna.Study, recorded: Recorded) -> Answer:
    """Return what a study of the product says: its evidence, else the best single training so far.

    Before the first training that is the head alone.
    """
    stored = StoredStudy.read(study)
    trials = stored.trials
    if not trials:
        n_cuts, n_rates = recorded.table.done.shape[1:]
        return Answer(cut=n_cuts - 1, rate=n_rates // 2, level=None, cost=recorded.cost)
    evidence = weigh(stored)
    level = None if evidence is None else evidence.level
    if evidence is not None:
        chosen = next(trial for trial in trials if trial.number == evidence.answer.trial)
    else:
        chosen = _best_so_far(trials)
    rate = recorded.nearest_rate(chosen.params["learning_rate"])
    return Answer(cut=chosen.cut.index, rate=rate, level=level, cost=recorded.cost)


def _best_so_far(trials: Sequence[StoredTrial]) -> StoredTrial:
    """Choose the best complete trial, else the one with the best last score, else the first."""
    complete = rank((trial for trial in trials if trial.confirms is None), maximize=True)
    return complete[0] if complete else max(trials, key=lambda t: -1.0 if t.score is None else t.score)


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
    "gain": gain,
    "before": before,
    "TPESampler+MedianPruner": _rival(TPESampler, _median),
    "TPESampler+HyperbandPruner": _rival(TPESampler, _hyperband),
    "GPSampler": _rival(GPSampler, _unpruned),
    "RandomSampler": _rival(RandomSampler, _unpruned),
}
