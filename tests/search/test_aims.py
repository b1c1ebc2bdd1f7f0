"""Two aims: what a sampler sees of past trials, and which trials are stopped."""

import math
from collections.abc import Sequence

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.errors import SettingsError
from depthsearch.search.aims import (
    STARTUP_CHEAPER,
    AccuracyAndCostSampler,
    CheaperMedianPruner,
    read_cost_aim,
    scalarised,
    store_aim,
    weight_of,
)
from depthsearch.search.sampling import ExtrapolatingGPSampler, make_pruner, make_sampler, resolve

RANGE = {"x": FloatDistribution(0.0, 1.0)}


def trial(x: float, *scores: float, paid: float | None = 1.0, state: str = "COMPLETE") -> FrozenTrial:
    return create_trial(
        state=TrialState[state],
        value=scores[-1] if state == "COMPLETE" else None,
        params={"x": x},
        distributions=RANGE,
        intermediate_values=dict(enumerate(scores, start=1)),
        user_attrs={} if paid is None else {"training_macs": paid},
    )


# --- one number of two --------------------------------------------------------------------------


def test_the_scalarised_value_is_the_one_computed_by_hand() -> None:
    points = [(0.9, 1000.0), (0.8, 100.0), (0.6, 10.0), (0.5, 100.0)]
    # On the front are 0.9, 0.8 and 0.6: a unit of 0.3, more than the 0.2 from best to median. Costs: 0 to 2.
    expected = [
        0.75 + 0.05 * 0.75,  # 0.25 x 0, 0.75 x 1
        0.375 + 0.05 * (0.25 / 3 + 0.375),  # 0.25 x 1/3, 0.75 x 1/2
        0.25 + 0.05 * 0.25,  # 0.25 x 1, 0.75 x 0
        0.375 + 0.05 * (1 / 3 + 0.375),  # 0.25 x 4/3, 0.75 x 1/2
    ]
    assert scalarised(points, 0.25) == pytest.approx(expected)


def test_the_weight_of_the_score_alone_ranks_by_score_and_that_of_the_cost_by_cost() -> None:
    points = [(0.9, 1000.0), (0.8, 100.0), (0.6, 10.0)]
    by_score, by_cost = scalarised(points, 1.0), scalarised(points, 0.0)
    assert sorted(by_score) == by_score
    assert sorted(by_cost, reverse=True) == by_cost


def test_a_few_failures_do_not_set_the_unit_of_scores() -> None:
    points = [(0.90, 4.0), (0.89, 2.0), (0.88, 1.0), (0.89, 3.0), (0.88, 4.0)]
    alone = scalarised(points, 0.5)
    assert scalarised([*points, (0.1, 4.0)], 0.5)[:5] == pytest.approx(alone)


@pytest.mark.parametrize("points", [[(0.5, 7.0)], [(0.5, 7.0), (0.5, 7.0)]])
def test_equal_points_are_equally_good(points: list[tuple[float, float]]) -> None:
    assert scalarised(points, 0.3) == [0.0] * len(points)


def test_each_trial_draws_its_own_weight_and_the_same_one_again() -> None:
    weights = [weight_of(5, number) for number in range(200)]
    assert weights == [weight_of(5, number) for number in range(200)]
    assert weights != [weight_of(6, number) for number in range(200)]
    assert len(set(weights)) == 200
    assert 0 <= min(weights) < 0.05
    assert 0.95 < max(weights) <= 1


# --- the sampler --------------------------------------------------------------------------------


def seen(trials: Sequence[FrozenTrial], direction: str = "maximize", seed: int = 3) -> list[float]:
    """Give the values that the inner sampler sees of past trials."""
    values: list[float] = []

    class Spy(RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            assert study.direction.name == "MINIMIZE"
            values.extend(t.value for t in study.trials if t.state.is_finished())
            return super().sample_independent(study, trial, name, distribution)

    study = optuna.create_study(
        direction=direction, sampler=AccuracyAndCostSampler(Spy(seed=0), cost="macs", seed=seed)
    )
    study.add_trials(trials)
    study.ask(RANGE)
    return values


COMPLETE = [trial(0.0, 0.5, 0.6, paid=10), trial(0.5, 0.7, 0.8, paid=100), trial(1.0, 0.8, 0.9, paid=1000)]


def test_the_sampler_sees_score_and_cost_as_one_number() -> None:
    points = [(0.6, 10.0), (0.8, 100.0), (0.9, 1000.0)]
    assert seen(COMPLETE) == pytest.approx(scalarised(points, weight_of(3, 3)))


def test_a_loss_is_the_mirror_image_of_a_score() -> None:
    mirrored = [trial(t.params["x"], -t.value, paid=t.user_attrs["training_macs"]) for t in COMPLETE]
    assert seen(mirrored, "minimize") == pytest.approx(seen(COMPLETE))


def test_a_pruned_trial_is_seen_below_the_best_of_what_costs_no_more() -> None:
    """Its last score and the usual gain would make it better than what it was stopped for."""
    stopped = trial(0.2, 0.75, paid=50, state="PRUNED")
    points = [(0.6, 10.0), (0.8, 100.0), (0.9, 1000.0), (0.6 - 0.005, 50.0)]
    assert seen([*COMPLETE, stopped]) == pytest.approx(scalarised(points, weight_of(3, 4)))


def test_trials_without_a_cost_and_those_before_any_is_complete_are_not_seen() -> None:
    assert len(seen([*COMPLETE, trial(0.3, 0.5, paid=None)])) == 3
    assert seen([trial(0.3, 0.5, state="PRUNED")]) == []


@pytest.mark.parametrize("name", ["gp", "tpe"])
def test_suggestions_go_where_the_weights_point(name: str) -> None:
    """Score and cost both rise with x: at a weight near 1 the dear end is best, near 0 the cheap one."""
    trials = [trial(x / 10, 0.5 + x / 25, paid=10 ** (x / 5)) for x in range(11)] * 2
    found: dict[bool, list[float]] = {True: [], False: []}
    for seed in range(40):
        weight = weight_of(seed, len(trials))
        if 0.15 < weight < 0.85:
            continue
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed, "macs"))
        study.add_trials(trials)
        found[weight > 0.5].append(study.ask(RANGE).params["x"])
    cheap, dear = (sum(found[side]) / len(found[side]) for side in (False, True))
    assert min(len(each) for each in found.values()) >= 3
    assert cheap < 0.35
    assert dear > 0.65


@pytest.mark.parametrize("name", ["gp", "tpe"])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_with_several_backbones_each_keeps_a_cut_of_its_own(name: str) -> None:
    cuts = {"small": IntDistribution(0, 20), "large": IntDistribution(0, 60)}

    def ask(study: optuna.Study) -> dict[str, object]:
        asked = study.ask()
        backbone = asked.suggest_categorical("backbone", list(cuts))
        asked.suggest_int(f"cut_{backbone}", 0, cuts[backbone].high)
        return asked.params

    def study_of_both(seed: int) -> optuna.Study:
        study = optuna.create_study(direction="maximize", sampler=make_sampler(name, seed, "macs"))
        for i in range(16):
            backbone = list(cuts)[i % 2]
            depth = i / 15
            ranges = {"backbone": CategoricalDistribution(list(cuts)), f"cut_{backbone}": cuts[backbone]}
            params = {"backbone": backbone, f"cut_{backbone}": round(depth * cuts[backbone].high)}
            costs = {"training_macs": (1 + i % 2) * (3 - 2 * depth)}
            study.add_trial(
                create_trial(params=params, distributions=ranges, value=1 - depth / 2, user_attrs=costs)
            )
        return study

    for seed in range(3):
        params = ask(study_of_both(seed))
        assert params == ask(study_of_both(seed))
        assert params.keys() == {"backbone", f"cut_{params['backbone']}"}


@pytest.mark.parametrize(("name", "inner"), [("gp", ExtrapolatingGPSampler), ("tpe", TPESampler)])
def test_the_sampler_of_two_aims_asks_the_named_one(name: str, inner: type) -> None:
    sampler = make_sampler(name, 0, "parameters")
    assert isinstance(sampler, AccuracyAndCostSampler)
    assert type(sampler._inner) is inner
    assert type(make_sampler("random", 0, "parameters")) is RandomSampler


def test_sampling_leaves_the_study_as_it_was() -> None:
    study = optuna.create_study(direction="maximize", sampler=make_sampler("tpe", 0, "macs"))
    study.add_trials(COMPLETE * 3)
    study.ask(RANGE)
    assert [t.value for t in study.trials] == [0.6, 0.8, 0.9] * 3 + [None]
    assert all(not t.system_attrs for t in study.trials)


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
    assert resolve("auto", "auto", 5, "macs") == ("tpe", "median")
    assert resolve("auto", "none", 50, "macs") == ("gp", "none")
    with pytest.raises(SettingsError, match=r"--pruner halving ranks .* Give median or none\.$"):
        make_pruner("halving", 5, "macs")
    assert isinstance(make_pruner("median", 5, "macs"), CheaperMedianPruner)


def test_an_unknown_cost_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"No cost 'euros': give one of macs, parameters\.$"):
        make_sampler("tpe", 0, "euros")
    with pytest.raises(SettingsError, match="No cost 'euros'"):
        make_pruner("median", 5, "euros")


def test_a_study_keeps_its_latest_aim() -> None:
    study = optuna.create_study()
    assert read_cost_aim(study) is None
    store_aim(study, "parameters")
    assert read_cost_aim(study) == "parameters"
    store_aim(study, None)
    assert read_cost_aim(study) is None
    assert study.user_attrs["aim"] == {"aim": "accuracy", "cost": None}
