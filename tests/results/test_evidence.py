"""What training again says: which cuts are chosen for it, which is the answer, which cannot be told apart."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from stored_studies import attributes

from depthsearch.models.cuts import Cut
from depthsearch.results import Evidence, StoredStudy, StoredTrial, promising, weigh
from depthsearch.results import evidence as evidence_module
from depthsearch.search.aims import store_aim
from depthsearch.search.response import Observation, Response
from depthsearch.visualization.words import layer_ranges

N_CUTS = 21
LAST = N_CUTS - 1
RANGES = {"cut": IntDistribution(0, LAST), "learning_rate": FloatDistribution(1e-4, 1e-2, log=True)}


def cut_at(index: int) -> Cut:
    return Cut(
        index=index,
        layer=10 * index,
        name=f"conv{index}",
        kind="conv",
        keras_name=None,
        aliases=(),
        first_layer=f"conv{index}",
        frozen_mac_share=index / LAST,
        frozen_parameter_share=index / LAST,
        trainable_parameters=LAST - index,
        boundary_bytes=1,
    )


def weighed(study: optuna.Study) -> Evidence | None:
    return weigh(StoredStudy.read(study))


def chosen_of(study: optuna.Study, n_cuts: int) -> list[StoredTrial]:
    return promising(StoredStudy.read(study), n_cuts)


@pytest.fixture
def store() -> Callable[..., optuna.Study]:
    """Make a study of trials (cut, score), and of scores by seed for some of them."""

    def make(
        trials: Sequence[tuple[int, float]],
        again: dict[int, Sequence[float | None]] | None = None,
        *,
        direction: str = "maximize",
    ) -> optuna.Study:
        study = optuna.create_study(direction=direction)
        for key, value in attributes(cuts=[asdict(cut_at(i)) for i in range(N_CUTS)]).items():
            study.set_user_attr(key, value)

        def add(cut: int, score: float | None, **more: object) -> None:
            study.add_trial(
                create_trial(
                    state=TrialState.FAIL if score is None else TrialState.COMPLETE,
                    value=score,
                    params={"cut": cut, "learning_rate": 1e-3},
                    distributions=RANGES,
                    user_attrs=more,
                )
            )

        for cut, score in trials:
            add(cut, score)
        if again:
            n_seeds = max(len(scores) for scores in again.values())
            plan = {"trials": list(again), "seeds": n_seeds, "resample": False}
            study.set_user_attr("confirmation", plan)
            for number, scores in again.items():
                for seed, score in enumerate(scores):
                    add(
                        trials[number][0], score, origin="confirm", confirms=number, seed=seed, resample=False
                    )
        return study

    return make


# --- the answer -----------------------------------------------------------------------------------


def test_the_answer_freezes_most_within_one_standard_error_of_the_best(store) -> None:
    trials = [(5, 0.9), (10, 0.9), (15, 0.9)]
    # Differences from the best: 0.010, -0.006, 0.008 (0.004 +- 0.0050); 0.03, 0.03, 0.04 (0.033 +- 0.0033).
    again = {0: [0.90, 0.91, 0.92], 1: [0.890, 0.916, 0.912], 2: [0.87, 0.88, 0.88]}
    evidence = weighed(store(trials, again))
    assert [c.cut.index for c in evidence.confirmed] == [5, 10, 15]
    assert (evidence.best.cut.index, evidence.answer.cut.index) == (5, 10)
    assert evidence.confirmed[1].gap == pytest.approx(0.004)
    assert evidence.confirmed[1].gap_error == pytest.approx(0.0050332, rel=1e-4)
    assert not evidence.confirmed[2].is_level


def test_the_error_is_that_of_pairs_so_what_a_seed_does_to_all_cancels(store) -> None:
    """Scores differ much from seed to seed, alike for both cuts: the worse is surely worse."""
    again = {0: [0.70, 0.80, 0.90], 1: [0.69, 0.79, 0.8905]}
    evidence = weighed(store([(5, 0.9), (10, 0.9), (0, 0.1)], again))
    assert evidence.confirmed[1].standard_error > 0.05
    assert evidence.answer is evidence.best
    # The other way round, the same scores by other seeds: not to be told apart.
    again = {0: [0.70, 0.80, 0.90], 1: [0.79, 0.8905, 0.69]}
    assert weighed(store([(5, 0.9), (10, 0.9), (0, 0.1)], again)).answer.cut.index == 10


def test_rounding_does_not_decide_where_gap_and_error_are_the_same(store) -> None:
    """Of two seeds one is equal: gap and error are both half the other's difference."""
    for difference in (1 / 359, 2 / 359, 1 / 107, 0.3):
        again = {0: [0.9 + difference, 0.9], 1: [0.9, 0.9]}
        assert weighed(store([(5, 0.9), (12, 0.9), (0, 0.1)], again)).answer.cut.index == 12


def test_of_equal_means_the_deepest_is_best_and_the_answer(store) -> None:
    evidence = weighed(store([(5, 0.9), (12, 0.9), (0, 0.1)], {0: [0.75, 0.875], 1: [0.875, 0.75]}))
    assert evidence.best is evidence.answer
    assert evidence.best.cut.index == 12


def test_the_lowest_loss_is_best_and_gaps_count_upwards(store) -> None:
    study = store([(5, 0.3), (10, 0.3)], {0: [0.2, 0.21], 1: [0.4, 0.42]}, direction="minimize")
    evidence = weighed(study)
    assert evidence.answer.cut.index == 5
    assert evidence.confirmed[1].gap == pytest.approx(0.205)


def test_a_setting_that_failed_with_one_seed_is_out(store) -> None:
    again = {0: [0.8, 0.81, 0.8], 1: [0.99, None, 0.99], 2: [0.7, 0.7, 0.71]}
    evidence = weighed(store([(5, 0.8), (10, 0.99), (15, 0.7)], again))
    assert [c.cut.index for c in evidence.confirmed] == [5, 15]


def test_only_seeds_that_all_settings_are_through_with_count(store) -> None:
    again = {0: [0.8, 0.81, 0.1], 1: [0.7, 0.71]}
    evidence = weighed(store([(5, 0.8), (10, 0.7)], again))
    assert [list(c.scores) for c in evidence.confirmed] == [[0, 1], [0, 1]]


def test_there_is_no_evidence_before_anything_was_trained_again(store) -> None:
    assert weighed(store([(5, 0.8), (10, 0.9)])) is None
    assert weighed(store([(5, 0.8), (10, 0.9)], {0: [0.8, 0.8]})) is None


def test_trainings_on_other_splits_do_not_count(store) -> None:
    study = store([(5, 0.8), (10, 0.7)], {0: [0.8, 0.81], 1: [0.7, 0.71]})
    study.set_user_attr("confirmation", {**study.user_attrs["confirmation"], "resample": True})
    assert weighed(study) is None


# --- the cuts that cannot be told apart -----------------------------------------------------------


def hill(depth: float) -> float:
    return 0.9 - 0.8 * (depth - 0.5) ** 2


@pytest.fixture
def on_a_hill(store) -> Callable[[float], optuna.Study]:
    """Make a study of a response that is best in the middle, with some noise."""

    def make(noise: float) -> optuna.Study:
        rng = np.random.default_rng(1)
        cuts = [20, 0, 5, 10, 15, 18, 8, 12, 11, 3, 9, 7]
        trials = [(cut, hill(cut / LAST) + noise * rng.standard_normal()) for cut in cuts]
        again = {
            n: [hill(cuts[n] / LAST) + noise * rng.standard_normal() for _ in range(3)]
            for n in (3, 7, 8, 0, 1)
        }
        return store(trials, again)

    return make


def test_the_set_holds_what_lies_between_and_not_what_is_far(on_a_hill) -> None:
    level = weighed(on_a_hill(0.004)).level
    assert 10 in level
    assert not {0, 1, 2, 18, 19, 20} & set(level)
    assert list(level) == sorted(level)


def test_a_cut_whose_own_seeds_are_far_behind_is_not_in_the_set(store, monkeypatch) -> None:
    """Of other learning rates there nothing may be known, but it was trained at its best setting."""
    monkeypatch.setattr(evidence_module, "_expect", lambda *_: ((), set(range(N_CUTS))))
    trials = [(20, 0.10), (0, 0.61), (10, 0.50)]
    again = {1: [0.57, 0.55, 0.52], 2: [0.57, 0.37, 0.51], 0: [0.11, 0.10, 0.11]}
    evidence = weighed(store(trials, again))
    assert [c.is_behind for c in evidence.confirmed] == [False, False, True]
    assert evidence.level == tuple(range(LAST))


def test_the_set_grows_with_the_noise(on_a_hill) -> None:
    assert len(weighed(on_a_hill(0.001)).level) < len(weighed(on_a_hill(0.03)).level)


def test_every_candidate_has_an_interval_and_those_near_trials_hold_the_truth(on_a_hill) -> None:
    expected = weighed(on_a_hill(0.004)).expected
    assert len(expected) == N_CUTS
    inside = [e.low <= hill(i / LAST) <= e.high for i, e in enumerate(expected)]
    assert sum(inside) >= 18
    assert all(e.low <= e.mean <= e.high for e in expected)


def test_the_same_study_says_the_same(on_a_hill) -> None:
    assert weighed(on_a_hill(0.004)) == weighed(on_a_hill(0.004))


def test_ranges_of_layers_are_written_short() -> None:
    cuts = [cut_at(i) for i in range(N_CUTS)]
    assert layer_ranges(cuts, (3, 4, 5, 9, 11, 12)) == "30 to 50, 90, 110 to 120"


# --- what is trained again ------------------------------------------------------------------------


def test_a_lucky_trial_among_poor_neighbours_does_not_come_first(store) -> None:
    trials = [(0, 0.70), (20, 0.50), (3, 0.71), (4, 0.78), (5, 0.70), (6, 0.71)]
    trials += [(12, 0.77), (13, 0.765), (14, 0.77), (15, 0.772), (13, 0.768)]
    assert max(trials, key=lambda t: t[1])[0] == 4
    assert chosen_of(store(trials), 1)[0].cut.index in (12, 13, 14, 15)


def test_the_ends_come_on_top_once_each_and_cuts_are_distinct(store) -> None:
    trials = [(20, 0.5), (0, 0.6), (10, 0.9), (10, 0.91), (12, 0.88), (4, 0.7)]
    chosen = [t.cut.index for t in chosen_of(store(trials), 3)]
    assert chosen[:2] in ([10, 12], [12, 10])
    assert chosen[-2:] == [20, 0]
    assert len(set(chosen)) == len(chosen) == 5
    # An end that is itself promising is not there twice.
    trials = [(20, 0.9), (0, 0.6), (19, 0.89), (18, 0.88)]
    chosen = [t.cut.index for t in chosen_of(store(trials), 2)]
    assert sorted(chosen) == [0, 19, 20] or sorted(chosen) == [0, 18, 20]


def test_a_cut_without_a_complete_trial_cannot_be_trained_again(store) -> None:
    assert [t.cut.index for t in chosen_of(store([(10, 0.9)]), 3)] == [10]


def with_costs(study: optuna.Study, *paid: int) -> optuna.Study:
    """Copy a study that aims at the cost as well, with a cost for each trial."""
    aimed = optuna.create_study(direction=study.direction)
    for key, value in study.user_attrs.items():
        aimed.set_user_attr(key, value)
    store_aim(aimed, "macs")
    for trial, cost in zip(study.get_trials(), paid, strict=True):
        trial.user_attrs["training_macs"] = cost
        aimed.add_trial(trial)
    return aimed


def test_with_two_aims_cuts_along_the_front_are_trained_again(store, monkeypatch) -> None:
    """Of the best scores all but one lie beside each other; what is cheap and nearly as good adds more."""
    monkeypatch.setattr(evidence_module, "_response", lambda *_, **__: None)
    trials = [(20, 0.50), (0, 0.60), (5, 0.90), (4, 0.899), (3, 0.898), (12, 0.88), (16, 0.80), (11, 0.70)]
    paid = (100, 1000, 760, 780, 800, 400, 200, 500)
    assert [t.cut.index for t in chosen_of(store(trials), 3)] == [5, 4, 3, 20, 0]
    study = with_costs(store(trials), *paid)
    assert [t.cut.index for t in chosen_of(study, 3)] == [5, 16, 12, 20, 0]


def test_with_two_aims_a_cut_is_chosen_with_the_head_that_is_on_the_front(store, monkeypatch) -> None:
    monkeypatch.setattr(evidence_module, "_response", lambda *_, **__: None)
    study = with_costs(store([(20, 0.5), (5, 0.9), (12, 0.8), (12, 0.79)]), 100, 900, 850, 200)
    assert [t.number for t in chosen_of(study, 2)] == [1, 3, 0]


def test_where_nothing_adds_to_the_front_the_best_scores_are_trained_again(store, monkeypatch) -> None:
    monkeypatch.setattr(evidence_module, "_response", lambda *_, **__: None)
    trials = [(20, 0.9), (0, 0.6), (5, 0.7), (12, 0.8)]
    study = with_costs(store(trials), 100, 1000, 700, 400)
    assert [t.cut.index for t in chosen_of(study, 2)] == [20, 12, 0]


# --- the regression -------------------------------------------------------------------------------


def test_two_observations_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 observations: at least 3"):
        Response([Observation(place=(0.1, 0.5), score=0.1), Observation(place=(0.2, 0.5), score=0.2)])


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    asked = np.linspace(0.1, 0.9, 9)
    held = []
    for _ in range(40):
        slope, bend, where = rng.normal(0, 0.05), rng.uniform(0, 0.3), rng.uniform(0.2, 0.8)

        def truth(x, slope=slope, bend=bend, where=where):
            return 0.8 + slope * x - bend * (x - where) ** 2

        places = rng.uniform(size=15)
        scores = truth(places) + 0.005 * rng.standard_normal(15)
        response = Response(
            [Observation(place=(p, 0.5), score=s) for p, s in zip(places, scores, strict=True)]
        )
        draws = response.draws(np.column_stack([asked, np.full(9, 0.5)]), 2000, seed=0)
        low, high = np.quantile(draws, (0.025, 0.975), axis=0)
        held.extend((low <= truth(asked)) & (truth(asked) <= high))
    assert 0.85 < np.mean(held) <= 1.0


def test_scores_in_other_units_give_the_same_shape() -> None:
    places = [(x, 0.5) for x in (0.0, 0.2, 0.5, 0.7, 1.0)]
    scores = [0.1, 0.4, 0.6, 0.5, 0.2]
    plain = Response([Observation(place=p, score=s) for p, s in zip(places, scores, strict=True)])
    other = Response([Observation(place=p, score=7 * s - 30) for p, s in zip(places, scores, strict=True)])
    asked = np.array([[0.35, 0.5], [0.9, 0.4]])
    np.testing.assert_allclose(other.mean(asked), 7 * plain.mean(asked) - 30)


def test_equal_scores_are_no_error() -> None:
    response = Response([Observation(place=(x, 0.5), score=0.5) for x in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(response.mean(np.array([[0.3, 0.5]])), 0.5)


def test_a_cut_replaced_in_the_set_is_shown_by_its_layer() -> None:
    cuts = [replace(cut_at(i), layer=100 + i) for i in range(3)]
    assert layer_ranges(cuts, (2,)) == "102"
