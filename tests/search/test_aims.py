"""Two aims: which trials are stopped, and what a study keeps of them."""

import math
from collections.abc import Sequence

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from depthsearch.errors import SettingsError
from depthsearch.search.aims import STARTUP_CHEAPER, CheaperMedianPruner, store_aim
from depthsearch.search.sampling import make_pruner, resolve

# --- the pruner ---------------------------------------------------------------------------------


def stopped_after(study: optuna.Study, scores: Sequence[float], paid: float | None) -> int | None:
    """Run a trial; give the epoch after which it was pruned."""
    asked = study.ask()
    if paid is not None:
        asked.set_user_attr("training_macs", paid)
    for epoch, score in enumerate(scores, start=1):
        asked.report(score, step=epoch)
        if asked.should_prune():
            study.tell(asked, state=TrialState.PRUNED)
            return epoch
    study.tell(asked, scores[-1])
    return None


def study_pruned(direction: str = "maximize", epochs: int = 8) -> optuna.Study:
    return optuna.create_study(
        direction=direction, pruner=make_pruner("median", epochs, "macs"), sampler=RandomSampler(seed=0)
    )


def test_a_cheap_trial_is_never_stopped_for_being_less_accurate_than_dear_ones() -> None:
    study = study_pruned()
    for _ in range(20):
        assert stopped_after(study, [0.9] * 8, paid=100) is None
    assert stopped_after(study, [0.1] * 8, paid=99) is None


def test_a_trial_is_stopped_that_is_worse_than_most_of_what_costs_no_more() -> None:
    study = study_pruned()
    for score in (0.5, 0.6, 0.7, 0.8):
        assert stopped_after(study, [score] * 8, paid=100) is None
    assert stopped_after(study, [0.64] * 8, paid=100) == 2
    assert stopped_after(study, [0.64] * 8, paid=200) == 2
    assert stopped_after(study, [0.65] * 8, paid=200) is None, "a tie goes on"
    assert stopped_after(study, [0.64] * 8, paid=50) is None


def test_of_losses_the_higher_is_stopped() -> None:
    study = study_pruned("minimize")
    for _ in range(STARTUP_CHEAPER):
        assert stopped_after(study, [0.5] * 8, paid=100) is None
    assert stopped_after(study, [0.4] * 8, paid=100) is None
    assert stopped_after(study, [0.9] * 8, paid=100) == 2


def test_the_rule_waits_for_enough_cheaper_trials_and_for_a_quarter_of_the_epochs() -> None:
    study = study_pruned(epochs=10)
    for _ in range(STARTUP_CHEAPER - 1):
        assert stopped_after(study, [0.9] * 10, paid=1) is None
    for _ in range(10):
        assert stopped_after(study, [0.9] * 10, paid=50) is None
    assert stopped_after(study, [0.1] * 10, paid=49) is None, "three were cheaper"
    assert stopped_after(study, [0.1] * 10, paid=49) == math.ceil(10 / 4)


def test_a_trial_without_a_cost_neither_judges_nor_is_judged() -> None:
    study = study_pruned()
    for _ in range(8):
        assert stopped_after(study, [0.9] * 8, paid=None) is None
    assert stopped_after(study, [0.1] * 8, paid=1000) is None
    for _ in range(8):
        assert stopped_after(study, [0.9] * 8, paid=1) is None
    assert stopped_after(study, [0.1] * 8, paid=None) is None
    assert stopped_after(study, [0.1] * 8, paid=1000) == 2


# --- names --------------------------------------------------------------------------------------


def test_with_two_aims_auto_prunes_by_the_median_and_halving_is_refused() -> None:
    assert resolve("tpe", "auto", 5, "macs") == ("tpe", "median")
    assert resolve("auto", "none", 50, "macs") == ("gp", "none")
    with pytest.raises(SettingsError, match=r"--pruner halving ranks .* Give median or none\.$"):
        make_pruner("halving", 5, "macs")
    assert isinstance(make_pruner("median", 5, "macs"), CheaperMedianPruner)


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"No cost 'euros': give one of macs, parameters\.$"):
        make_pruner("median", 5, "euros")


def test_a_study_keeps_its_latest_aim() -> None:
    study = optuna.create_study()
    store_aim(study, "parameters", 0.5)
    assert study.user_attrs["aim"] == {"aim": "accuracy+cost", "cost": "parameters", "tolerance": 0.5}
    store_aim(study, None, 2.0)
    assert study.user_attrs["aim"] == {"aim": "accuracy", "cost": None, "tolerance": 2.0}
