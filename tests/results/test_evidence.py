"""What all trials say: which cut is the answer, which cannot be told apart, which are trained again."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from stored_studies import attributes

from depthsearch.models.cuts import Cut
from depthsearch.results import (
    Evidence,
    Settled,
    StoredStudy,
    StoredTrial,
    evidence as evidence_module,
    promising,
    weigh,
)
from depthsearch.results.evidence import Advice
from depthsearch.search.aims import store_aim
from depthsearch.search.beliefs.response import Observation, Response
from depthsearch.visualization.words import layer_ranges

N_CUTS = 21
LAST = N_CUTS - 1
RANGES = {"cut": IntDistribution(0, LAST), "learning_rate": FloatDistribution(1e-4, 1e-2, log=True)}


def cut_at(index: int) -> Cut:
    return Cut(
        index=index,
        layer=10 * index,
        name=f"conv{index}",
        kind="head" if index == LAST else "conv",
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
    """Make a study of trials (cut, score), and of scores by seed for some of them: a dash for none."""

    def make(
        trials: Sequence[tuple[int, float]],
        again: dict[int, Sequence[float | str | None]] | None = None,
        *,
        direction: str = "maximize",
        tolerance: float = 0.5,
        resample: bool = False,
    ) -> optuna.Study:
        study = optuna.create_study(direction=direction)
        metric = "loss" if direction == "minimize" else "accuracy"
        for key, value in attributes(
            cuts=[asdict(cut_at(i)) for i in range(N_CUTS)],
            data={**attributes()["data"], "images": {"train": 6000, "val": 2000, "test": 50}},
            recipe={"metric": metric, "epochs": 4, "seed": 3},
            aim={"aim": "accuracy", "cost": None, "tolerance": tolerance},
        ).items():
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
        for number, scores in (again or {}).items():
            for seed, score in enumerate(scores):
                if score != "-":
                    again_ = {"origin": "confirm", "confirms": number, "seed": seed, "resample": resample}
                    add(trials[number][0], score, **again_)
        return study

    return make


def noisy(mean: float, n: int, *, seed: int, noise: float = 0.0015) -> list[float]:
    """Scores that differ by chance alone."""
    return [mean + noise * float(z) for z in np.random.default_rng(seed).standard_normal(n)]


# Up to here nothing is lost; two cuts later two points are, four cuts later eight.
EVEN_UP_TO = 14


def even(cut: int) -> float:
    return 0.9 - 0.005 * max(0, cut - EVEN_UP_TO) ** 2


def settled_by_cut(evidence: Evidence) -> dict[int, Settled]:
    return {setting.cut.index: setting for setting in evidence.settled}


# --- the answer -----------------------------------------------------------------------------------


@pytest.fixture
def on_a_plateau(store) -> Callable[..., optuna.Study]:
    """Make a study whose first cuts are truly equal: each trained again and again."""

    def make(n_seeds: int = 12, **options: Any) -> optuna.Study:
        cuts = [20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0]
        trials = [(cut, noisy(even(cut), 1, seed=cut)[0]) for cut in cuts]
        divisions = noisy(0.0, n_seeds, seed=99, noise=0.01 if options.get("resample") else 0.0)
        again = {
            n: [
                score + division
                for score, division in zip(noisy(even(cut), n_seeds, seed=100 + cut), divisions, strict=True)
            ]
            for n, cut in enumerate(cuts)
        }
        return store(trials, again, **options)

    return make


def test_the_cheapest_of_equal_cuts_is_the_answer(on_a_plateau) -> None:
    """What a division of the images does to all is several times the noise, and cancels."""
    evidence = weighed(on_a_plateau(resample=True))
    assert evidence.answer.cut.index == EVEN_UP_TO
    assert evidence.is_shown
    assert evidence.advice is None
    assert evidence.answer.n_trainings == 12


def test_trainings_on_the_same_images_show_less_than_those_on_others(on_a_plateau) -> None:
    """All settings are right and wrong about the same validation images: more seeds do not change that."""
    same, others = (weighed(on_a_plateau(resample=resample)) for resample in (False, True))
    assert settled_by_cut(same)[EVEN_UP_TO].chance < settled_by_cut(others)[EVEN_UP_TO].chance
    assert same.answer.cut.index <= EVEN_UP_TO


def test_few_trainings_cannot_show_that_nothing_is_lost(on_a_plateau) -> None:
    many, few = weighed(on_a_plateau(20)), weighed(on_a_plateau(1))
    assert settled_by_cut(many)[EVEN_UP_TO].chance > settled_by_cut(few)[EVEN_UP_TO].chance
    assert len(few.level) > 1


@pytest.mark.parametrize("resample", [False, True])
def test_a_cut_five_points_behind_after_three_seeds_is_not_among_the_best(store, resample: bool) -> None:
    trials = [(20, 0.5), (0, 0.9), (5, 0.9), (10, 0.85)]
    again = {2: noisy(0.9, 3, seed=1), 3: noisy(0.85, 3, seed=2)}
    evidence = weighed(store(trials, again, resample=resample))
    assert evidence.answer.cut.index in (0, 5)
    assert not {10, 20} & set(evidence.level)
    behind = settled_by_cut(evidence)
    assert behind[10].gap == pytest.approx(0.05, abs=0.02)
    assert behind[10].chance < 0.05
    assert behind[20].gap > 0.2


@pytest.mark.parametrize("resample", [False, True])
def test_what_is_said_is_whole_and_in_its_ranges(on_a_plateau, on_a_hill, store, resample: bool) -> None:
    poor = store([(20, 0.1), (0, 0.98), (5, 0.99), (10, 0.9)], {2: [0.99]}, resample=resample)
    for study in (on_a_plateau(2, resample=resample), on_a_hill(0.01), poor):
        evidence = weighed(study)
        assert all(0 <= setting.chance <= 1 for setting in evidence.settled)
        assert all(0 <= setting.gap <= 1 for setting in evidence.settled)
        assert evidence.best.gap == evidence.best.gap_error == 0
        assert evidence.answer in evidence.settled
        assert {evidence.answer.cut.index, evidence.best.cut.index} <= set(evidence.level)
        assert len(evidence.expected) == N_CUTS
        for each in evidence.expected:
            assert 0 <= each.low <= each.mean <= each.high <= 1
            assert 0 <= each.loss <= 1


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_larger_tolerance_never_gives_a_dearer_cut(store, direction: str) -> None:
    sign = 1 if direction == "maximize" else -1
    scores = {20: 0.7, 15: 0.85, 10: 0.88, 5: 0.89, 0: 0.9}
    trials = [(cut, 1 + sign * (score - 1)) for cut, score in scores.items()]
    again = {n: noisy(score, 5, seed=n, noise=0.001) for n, (_, score) in enumerate(trials)}
    found = [
        weighed(store(trials, again, direction=direction, tolerance=tolerance)).answer.cut.index
        for tolerance in (0, 0.3, 2, 4, 10, 50)
    ]
    assert found == sorted(found)
    assert found[0] == 0
    assert found[-1] == 20


@pytest.mark.parametrize(("rate", "further"), [(1.2e-4, (1e-5, 1e-2)), (1e-3, None), (9e-3, (1e-4, 1e-1))])
def test_a_best_learning_rate_at_an_end_of_the_range_asks_for_a_wider_one(store, rate, further) -> None:
    study = store([(cut, 0.8) for cut in (0, 5, 10)])
    study.set_user_attr("settings", {**study.user_attrs["settings"], "learning_rate": [1e-4, 1e-2]})
    study.add_trial(create_trial(value=0.95, params={"cut": 5, "learning_rate": rate}, distributions=RANGES))
    found = weighed(study).further_rates
    assert found == (None if further is None else pytest.approx(further))


def test_with_no_tolerance_the_answer_is_the_best_and_nothing_is_advised(on_a_plateau) -> None:
    evidence = weighed(on_a_plateau(3, tolerance=0))
    assert evidence.answer is evidence.best
    assert evidence.advice is None


def test_the_lowest_loss_is_best_and_gaps_count_upwards(store) -> None:
    trials = [(20, 0.9), (0, 0.5), (3, 0.32), (5, 0.3), (7, 0.32), (10, 0.4), (15, 0.5)]
    again = {3: [0.3, 0.31, 0.3], 5: [0.4, 0.42, 0.41]}
    evidence = weighed(store(trials, again, direction="minimize"))
    assert evidence.best.cut.index == 5
    behind = settled_by_cut(evidence)
    assert behind[10].gap == pytest.approx(0.1, abs=0.06)
    assert behind[20].gap > behind[10].gap > 0
    assert all(0 <= e.low <= e.mean <= e.high for e in evidence.expected)


def test_a_setting_keeps_the_seeds_it_has_where_others_have_more_or_one_failed(store) -> None:
    trials = [(20, 0.5), (0, 0.8), (5, 0.8), (10, 0.9), (15, 0.7)]
    again = {2: [0.8, 0.81, 0.8], 3: [0.91, None, 0.93], 4: ["-", 0.7]}
    evidence = weighed(store(trials, again))
    assert {c.cut.index: c.scores for c in evidence.confirmed} == {
        5: {0: 0.8, 1: 0.81, 2: 0.8},
        10: {0: 0.91, 2: 0.93},
        15: {1: 0.7},
    }
    by_cut = settled_by_cut(evidence)
    assert by_cut[10].mean == pytest.approx(0.92)
    assert by_cut[10].standard_error == pytest.approx(0.01)
    assert by_cut[15].standard_error is None
    assert [by_cut[cut].n_trainings for cut in (0, 5, 10, 15, 20)] == [1, 3, 2, 1, 1]


def test_a_training_again_that_failed_alone_leaves_the_first_score(store) -> None:
    evidence = weighed(store([(20, 0.5), (0, 0.8), (5, 0.9)], {2: [None]}))
    assert evidence.confirmed == ()
    assert settled_by_cut(evidence)[5].mean == 0.9


def test_settings_are_listed_by_depth_each_once(store) -> None:
    evidence = weighed(store([(10, 0.9), (5, 0.8), (10, 0.89), (20, 0.5)], {0: [0.9, 0.91]}))
    assert [(c.cut.index, c.trial) for c in evidence.settled] == [(5, 1), (10, 0), (20, 3)]


def test_evidence_begins_with_three_trials_of_which_one_is_complete(store) -> None:
    assert weighed(store([(5, 0.8), (10, 0.9)])) is None
    assert weighed(store([(5, 0.8), (10, 0.9)], {0: [0.8]})) is not None
    assert weighed(store([(5, 0.8), (10, 0.9), (15, 0.7)])).confirmed == ()
    study = store([])
    for index in (5, 10, 15):
        study.add_trial(
            create_trial(
                state=TrialState.PRUNED,
                params={"cut": index, "learning_rate": 1e-3},
                distributions=RANGES,
                intermediate_values={1: 0.5},
            )
        )
    assert weighed(study) is None


def test_pruned_trials_say_something_but_are_no_answer(store) -> None:
    study = store([(20, 0.5), (0, 0.8), (5, 0.8)])
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            params={"cut": 10, "learning_rate": 1e-3},
            distributions=RANGES,
            intermediate_values={3: 0.95},
        )
    )
    evidence = weighed(study)
    assert {0, 5, 20} == set(settled_by_cut(evidence))
    assert 10 in evidence.level


def test_what_freezing_more_costs_grows_with_depth(on_a_plateau) -> None:
    evidence = weighed(on_a_plateau())
    cuts = [cut_at(i) for i in range(N_CUTS)]
    prices = evidence.prices(cuts)
    depths, losses = [cut.index for cut, _ in prices], [loss for _, loss in prices]
    assert depths == sorted(depths)
    assert min(depths) > evidence.answer.cut.index
    assert depths[-1] == LAST
    assert losses[-1] == pytest.approx(0.18, abs=0.03)
    # Of those that lose at most one point nothing deeper does.
    for limit in (0.005, 0.01, 0.02):
        within = [i for i, e in enumerate(evidence.expected) if e.loss <= limit and i > EVEN_UP_TO]
        assert not within or max(within) in depths


def test_advice_is_more_where_the_best_are_less_alike_from_seed_to_seed(store) -> None:
    trials = [(cut, even(cut)) for cut in range(LAST, -1, -2)]
    quiet, loud = (
        weighed(store(trials, {n: noisy(0.9, 4, seed=n, noise=noise) for n in range(3, 11)})).advice
        for noise in (0.004, 0.008)
    )
    assert not quiet.trials
    assert not loud.trials
    assert loud.trainings > quiet.trainings > 0
    assert loud.images > quiet.images > 1


def test_where_the_doubt_is_about_settings_not_tried_more_trials_are_advised(store) -> None:
    """Between the two ends lies most of the network: trained again they do not tell of it."""
    trials = [(20, 0.9), (0, 0.9), (19, 0.7)]
    again = {n: noisy(score, 6, seed=n, noise=0.001) for n, (_, score) in enumerate(trials)}
    study = store(trials, again, resample=True)
    assert weighed(study).advice == Advice(trials=True, trainings=None, images=None)
    # Where every candidate is tried, no other is left.
    study.set_user_attr("settings", {**study.user_attrs["settings"], "search": "exhaustive"})
    assert not weighed(study).advice.trials


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
    store_aim(aimed, "macs", 0.5)
    for trial, cost in zip(study.get_trials(), paid, strict=True):
        trial.user_attrs["training_macs"] = cost
        aimed.add_trial(trial)
    return aimed


def test_with_two_aims_cuts_along_the_front_are_trained_again(store, monkeypatch) -> None:
    """Of the best scores all but one lie beside each other; what is cheap and nearly as good adds more."""
    monkeypatch.setattr(evidence_module, "_learned", lambda *_, **__: None)
    trials = [(20, 0.50), (0, 0.60), (5, 0.90), (4, 0.899), (3, 0.898), (12, 0.88), (16, 0.80), (11, 0.70)]
    paid = (100, 1000, 760, 780, 800, 400, 200, 500)
    assert [t.cut.index for t in chosen_of(store(trials), 3)] == [5, 4, 3, 20, 0]
    study = with_costs(store(trials), *paid)
    assert [t.cut.index for t in chosen_of(study, 3)] == [5, 16, 12, 20, 0]


def test_with_two_aims_a_cut_is_chosen_with_the_head_that_is_on_the_front(store, monkeypatch) -> None:
    monkeypatch.setattr(evidence_module, "_learned", lambda *_, **__: None)
    study = with_costs(store([(20, 0.5), (5, 0.9), (12, 0.8), (12, 0.79)]), 100, 900, 850, 200)
    assert [t.number for t in chosen_of(study, 2)] == [1, 3, 0]


def test_where_nothing_adds_to_the_front_the_best_scores_are_trained_again(store, monkeypatch) -> None:
    monkeypatch.setattr(evidence_module, "_learned", lambda *_, **__: None)
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
    # But for rounding, which may let another choice of scales and noise be the last one that counts.
    np.testing.assert_allclose(other.mean(asked), 7 * plain.mean(asked) - 30, rtol=1e-5)


def test_equal_scores_are_no_error() -> None:
    response = Response([Observation(place=(x, 0.5), score=0.5) for x in (0.0, 0.5, 1.0)])
    np.testing.assert_allclose(response.mean(np.array([[0.3, 0.5]])), 0.5)


def test_a_cut_replaced_in_the_set_is_shown_by_its_layer() -> None:
    cuts = [replace(cut_at(i), layer=100 + i) for i in range(3)]
    assert layer_ranges(cuts, (2,)) == "102"


@pytest.mark.parametrize("first", [0.9, 0.904])
def test_of_settings_that_cost_the_same_the_best_is_the_answer(store, first: float) -> None:
    """Not the one that was tried first."""
    study = store([(12, first), (20, 0.6), (4, 0.55)], {0: noisy(first, 6, seed=1)}, tolerance=2.0)
    other = 1.804 - first
    for seed, score in enumerate([other, *noisy(other, 6, seed=2)]):
        again = {"origin": "confirm", "confirms": 9, "seed": seed - 1, "resample": False} if seed else {}
        study.add_trial(
            create_trial(
                value=score, params={"cut": 12, "learning_rate": 3e-3}, distributions=RANGES, user_attrs=again
            )
        )
    evidence = weighed(study)
    assert evidence.answer.params["learning_rate"] == (3e-3 if other > first else 1e-3)
    assert evidence.answer.cut.index == 12
