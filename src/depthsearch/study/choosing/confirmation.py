"""Which trainings confirm the most promising cuts: planned once, enqueued, and told from the search's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from depthsearch.options.attributes import StudyKey, TrialKey
from depthsearch.results.evidence import promising
from depthsearch.results.stored import ConfirmationPlan, StoredStudy
from depthsearch.results.trials import ENDED, StoredTrial, UnsetTrial
from depthsearch.search.origins import Origin, origin_of
from depthsearch.search.planning.moves import Repeat
from depthsearch.search.space import SearchSpace
from depthsearch.study.choosing.lost import REPEATS, has_failed_by_loss
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of

# Sets the seeds of confirmation apart from those of trials.
CONFIRMATION = 0x5EED
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def plan_confirmation(study: optuna.Study, *, n_cuts: int, n_seeds: int, resample: bool) -> ConfirmationPlan:
    """Choose the trials to repeat; the same ones as before where the search has not gone on since."""
    stored = StoredStudy.read(study)
    n_searched = count_searched(trial for trial in stored.every_trial if trial.state in ENDED)
    before = stored.plan
    plan = ConfirmationPlan(
        trials=(), seeds=n_seeds, resample=resample, after=n_searched, cuts=n_cuts, cost=stored.cost_aim
    )
    if before is not None and replace(before, trials=(), seeds=n_seeds, resample=resample) == plan:
        plan = replace(plan, trials=before.trials)
    else:
        plan = replace(plan, trials=tuple(trial.number for trial in promising(stored, n_cuts)))
    study.set_user_attr(StudyKey.CONFIRMATION, asdict(plan))
    return plan


def enqueue_confirmation(study: optuna.Study, plan: ConfirmationPlan, space: SearchSpace) -> None:
    """Enqueue what is planned and not there yet, seed by seed: stopped early, all have as many."""
    trials = study.get_trials(deepcopy=False)
    wanted_still = (t for t in trials if not t.user_attrs.get(TrialKey.DROPPED) and not has_failed_by_loss(t))
    there = {_repeats(trial) for trial in wanted_still}
    for seed in range(plan.seeds):
        for number in plan.trials:
            wanted, first = (number, seed, plan.resample), trials[number]
            # A head that is solved comes to the same on the same images.
            tells_more = plan.resample or not space.is_solved(first.params)
            if tells_more and wanted not in there:
                enqueue_again(study, [Repeat(number=number, seed=seed)], resample=plan.resample)


def enqueue_again(study: optuna.Study, repeats: Iterable[Repeat], *, resample: bool) -> None:
    """Enqueue further trainings of settings that are known.

    Args:
        study: Whose.
        repeats: Of which trials, with which seeds.
        resample: Whether each seed divides training and validation images anew.
    """
    trials = study.get_trials(deepcopy=False)
    for repeat in repeats:
        wanted = (repeat.number, repeat.seed, resample)
        attributes: dict[str, Any] = dict(zip(REPEATS, wanted, strict=True))
        attributes[TrialKey.ORIGIN] = "confirm"
        study.enqueue_trial(trials[repeat.number].params, user_attrs=attributes)


def drop_others(study: optuna.Study, plan: ConfirmationPlan) -> None:
    """End what an earlier plan has left waiting and this one does not want: nobody shall train it."""
    for trial in waiting_to_confirm(study):
        number, seed, resample = _repeats(trial)
        wanted = number in plan.trials and seed < plan.seeds and resample == plan.resample
        if not wanted:
            drop(study, trial)


def drop(study: optuna.Study, waiting: FrozenTrial) -> None:
    """End a training that nobody has begun; where a later plan wants it, it is enqueued again."""
    storage, trial_id = storage_of(study), trial_id_of(study, waiting.number)
    storage.set_trial_user_attr(trial_id, TrialKey.DROPPED, True)
    storage.set_trial_state_values(trial_id, state=TrialState.FAIL)


def waiting_to_confirm(study: optuna.Study) -> list[FrozenTrial]:
    """List the trainings of a confirmation that nobody has begun."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if origin_of(trial) == "confirm"]


def _repeats(trial: FrozenTrial) -> tuple[Any, ...]:
    """Return which trial a trial repeats, with which seed, and whether on another division."""
    return tuple(trial.user_attrs.get(key) for key in REPEATS)


def count_searched(trials: Iterable[FrozenTrial | StoredTrial | UnsetTrial]) -> int:
    """Count the search's own trials, those that confirm left out."""
    return sum(_origin(trial) != "confirm" for trial in trials)


def _origin(trial: FrozenTrial | StoredTrial | UnsetTrial) -> Origin:
    return origin_of(trial) if isinstance(trial, FrozenTrial) else trial.origin
