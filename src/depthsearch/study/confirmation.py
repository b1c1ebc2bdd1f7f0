"""Which trainings confirm the most promising cuts: planned once, enqueued, and told from the search's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from depthsearch.results.evidence import promising
from depthsearch.search.aims import read_cost_aim
from depthsearch.study.lost import REPEATS, has_failed_by_loss
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of

# Sets the seeds of confirmation apart from those of trials.
CONFIRMATION = 0x5EED
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def plan_confirmation(study: optuna.Study, *, n_cuts: int, n_seeds: int, resample: bool) -> dict[str, Any]:
    """Choose the trials to repeat; the same ones as before where the search has not gone on since."""
    finished = study.get_trials(deepcopy=False, states=FINISHED)
    chosen_by = {"after": count_searched(finished), "cuts": n_cuts, "cost": read_cost_aim(study)}
    before = study.user_attrs.get("confirmation", {})
    if all(before.get(key) == value for key, value in chosen_by.items()):
        numbers = before["trials"]
    else:
        numbers = [trial.number for trial in promising(study, n_cuts)]
    plan = {**chosen_by, "trials": numbers, "seeds": n_seeds, "resample": resample}
    study.set_user_attr("confirmation", plan)
    return plan


def enqueue_confirmation(study: optuna.Study, plan: Mapping[str, Any]) -> None:
    """Enqueue what is planned and not there yet, seed by seed: stopped early, all have as many."""
    trials = study.get_trials(deepcopy=False)
    wanted_still = (t for t in trials if not t.user_attrs.get("dropped") and not has_failed_by_loss(t))
    there = {_repeats(trial) for trial in wanted_still}
    for seed in range(plan["seeds"]):
        for number in plan["trials"]:
            wanted = (number, seed, plan["resample"])
            if wanted not in there:
                attributes = dict(zip(REPEATS, wanted, strict=True))
                study.enqueue_trial(trials[number].params, user_attrs={"origin": "confirm", **attributes})


def drop_others(study: optuna.Study, plan: Mapping[str, Any]) -> None:
    """End what an earlier plan has left waiting and this one does not want: nobody shall train it."""
    for trial in waiting_to_confirm(study):
        number, seed, resample = _repeats(trial)
        wanted = number in plan["trials"] and seed < plan["seeds"] and resample == plan["resample"]
        if not wanted:
            drop(study, trial)


def drop(study: optuna.Study, waiting: FrozenTrial) -> None:
    """End a training that nobody has begun; where a later plan wants it, it is enqueued again."""
    storage, trial_id = storage_of(study), trial_id_of(study, waiting.number)
    storage.set_trial_user_attr(trial_id, "dropped", True)
    storage.set_trial_state_values(trial_id, state=TrialState.FAIL)


def waiting_to_confirm(study: optuna.Study) -> list[FrozenTrial]:
    """List the trainings of a confirmation that nobody has begun."""
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if trial.user_attrs.get("origin") == "confirm"]


def _repeats(trial: FrozenTrial) -> tuple[Any, ...]:
    """Say which trial a trial repeats, with which seed, and whether on another division."""
    return tuple(trial.user_attrs.get(key) for key in REPEATS)


def count_searched(trials: Iterable[FrozenTrial]) -> int:
    """Count the search's own trials, those that confirm left out."""
    return sum(trial.user_attrs.get("origin") != "confirm" for trial in trials)
