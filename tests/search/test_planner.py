"""What is trained next by gain per cost: on made-up trials of which it is clear what is right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import TrialKey
from depthsearch.search.beliefs.learning import ScoreError
from depthsearch.search.firsts import sensible_setting
from depthsearch.search.planning import planner as planning, promise
from depthsearch.search.planning.known import Known
from depthsearch.search.planning.moves import (
    OVERHEAD,
    Move,
    Race,
    Repeat,
    cost_of_training,
    is_paused,
    passes_each,
)
from depthsearch.search.planning.planner import CHECK, FIRST_MOST, Planner
from depthsearch.search.planning.problem import Problem
from depthsearch.search.space import SearchSpace

N_CUTS, EPOCHS = 21, 8
AT_CHECK = math.ceil(CHECK * EPOCHS)
IMAGE_MACS = 1_000_000
EXACT = ScoreError(n_val=2000, is_share=True)


def cut(index: int) -> Cut:
    share = index / (N_CUTS - 1)
    return Cut(
        index=index,
        layer=index + 1,
        name=f"layer{index + 1}",
        kind="head" if index == N_CUTS - 1 else "conv",
        keras_name=None,
        aliases=(),
        first_layer=f"layer{index + 1}",
        frozen_mac_share=share,
        frozen_parameter_share=share,
        trainable_parameters=N_CUTS - index,
        boundary_bytes=1,
        training_macs=round(IMAGE_MACS * (3 - 2 * share)),
    )


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(cuts=tuple(map(cut, range(N_CUTS))), learning_rate=(1e-5, 1e-2), head_width=0)


@pytest.fixture
def planner(space: SearchSpace) -> Planner:
    return Planner(Problem(space, epochs=EPOCHS, error=EXACT))


@pytest.fixture
def racing(space: SearchSpace) -> Callable[..., Planner]:
    """Make a planner that may train settings again."""

    def make(n_seeds: int = 5, **options: Any) -> Planner:
        return Planner(Problem(space, epochs=EPOCHS, error=EXACT), Race(n_seeds=n_seeds, **options))

    return make


def trial(
    space: SearchSpace,
    index: int,
    score: float,
    *,
    rate: float = 1e-3,
    epoch: int = EPOCHS,
    state: TrialState = TrialState.COMPLETE,
    **attributes: object,
) -> FrozenTrial:
    """Make a trial whose curve rises towards a score; one that ends early has a part of it."""
    curve = {e: score - 0.06 * (1 - e / EPOCHS) ** 2 for e in range(1, epoch + 1)}
    return create_trial(
        state=state,
        params={"cut": index, "learning_rate": rate},
        distributions=space.distributions(),
        intermediate_values=curve,
        value=score if state == TrialState.COMPLETE else None,
        user_attrs=attributes,
    )


def numbered(*trials: FrozenTrial) -> list[FrozenTrial]:
    for number, each in enumerate(trials):
        each.number = number
    return list(trials)


def sloping(space: SearchSpace) -> list[FrozenTrial]:
    """Trials that score the more the more is frozen, six of them."""
    return [trial(space, index, 0.6 + 0.015 * index) for index in (20, 18, 15, 10, 5, 0)]


def moves_of(planner: Planner, trials: list[FrozenTrial], seed: int = 0) -> list[Move]:
    return planner._moves(Known(planner.problem, trials), seed)


# --- costs ------------------------------------------------------------------------------------------


def test_everything_costs_one_full_fine_tune_and_the_head_nothing_once_features_are_kept() -> None:
    assert cost_of_training(cut(0), EPOCHS) == 1
    assert cost_of_training(cut(N_CUTS - 1), EPOCHS) == 0
    assert cost_of_training(cut(10), EPOCHS) == pytest.approx(0.5)


def test_a_setting_of_several_backbones_costs_what_its_own_does() -> None:
    near = [replace(cut(index), backbone="near") for index in range(N_CUTS)]
    far = [replace(cut(index), backbone="far") for index in range(N_CUTS)]
    both = SearchSpace(cuts=(*near, *far), learning_rate=(1e-4, 1e-2), head_width=0)
    problem = Problem(both, epochs=EPOCHS, error=EXACT, head_macs=lambda *_: 1000.0)

    def cost(backbone: str, index: int, done: int) -> float:
        params = {"backbone": backbone, f"cut_{backbone}": index, "learning_rate": 1e-3}
        return problem.cost(params, done)

    dear, half, solved = cost("far", 0, 0), cost("far", 0, EPOCHS // 2), cost("far", N_CUTS - 1, EPOCHS // 2)
    assert dear > half > solved > 0
    assert cost("near", 0, 0) == pytest.approx(dear)
    assert solved == pytest.approx(cost("far", N_CUTS - 1, 0)), "a head is solved anew: nothing of it is done"


@pytest.mark.parametrize("epochs", [1, 3, EPOCHS, 50])
def test_a_training_passes_more_often_as_long_as_that_costs_next_to_nothing(epochs: int) -> None:
    passes = [passes_each(replace(cut(19), frozen_mac_share=1 - s), epochs, 30) for s in (0, 0.004, 0.01, 1)]
    most = max(1, 30 // epochs)
    assert passes == [most, min(most, 5), min(most, 2), 1]
    assert all(passes_each(each, epochs, 1) == 1 for each in map(cut, range(N_CUTS)))
    for each in map(cut, range(N_CUTS)):
        dearer = cost_of_training(each, epochs, late_passes=30) - cost_of_training(each, epochs)
        assert 0 <= dearer <= OVERHEAD


def test_the_head_is_paid_too_and_a_large_one_passes_less_often() -> None:
    """In a small network on small images the new head is a good part of what learns."""
    head, last = 0.05 * IMAGE_MACS, cut(N_CUTS - 1)
    assert passes_each(last, 3, 30, head_macs=head) == 1
    assert passes_each(last, 3, 30, head_macs=head / 20) == 8
    assert cost_of_training(last, 3, late_passes=30, head_macs=head) == pytest.approx(0.05, rel=1e-4)
    assert cost_of_training(cut(10), 3, head_macs=head) == pytest.approx(0.55, rel=1e-4)
    assert cost_of_training(last, 3, late_passes=30, head_macs=head / 20) == pytest.approx(0.02, rel=1e-4)


def test_a_planner_knows_what_each_head_costs() -> None:
    wide = SearchSpace(cuts=tuple(map(cut, range(N_CUTS))), head_width=(512, 256), fixed={"head_depth": 2})
    problem = Problem(wide, epochs=EPOCHS, head_macs=lambda _, width, depth: 100.0 * width * depth)
    costs = [problem.cost({"cut": N_CUTS - 1, "learning_rate": 1e-3, "head_width": w}) for w in (0, 256, 512)]
    assert costs == pytest.approx([0, 0.0512, 0.1024], rel=1e-4)


def test_what_is_done_is_not_paid_again() -> None:
    left = cost_of_training(cut(10), EPOCHS, done=6)
    assert left == pytest.approx(0.5 * 2 / EPOCHS)


def test_another_backbone_is_paid_by_its_size() -> None:
    twice = replace(cut(10), training_macs=2 * cut(10).training_macs)
    whole = cut(0).training_macs
    costs = [cost_of_training(each, EPOCHS, whole_macs=whole) for each in (cut(10), twice)]
    assert costs[0] == pytest.approx(cost_of_training(cut(10), EPOCHS), rel=1e-5)
    assert costs[1] == pytest.approx(2 * costs[0])


# --- what comes next --------------------------------------------------------------------------------


def test_the_cheapest_comes_first_while_nothing_is_known(space, planner) -> None:
    move = planner.next_move([], seed=0)
    assert move.number is None
    assert move.params["cut"] == N_CUTS - 1


def test_the_next_cut_is_near_the_best(space, planner) -> None:
    move = planner.next_move(numbered(*sloping(space)), seed=0)
    assert move.params["cut"] >= 15


def test_a_dear_cut_needs_a_larger_gain_than_a_cheap_one(space, planner) -> None:
    """The response is symmetric about the middle: what is tried lies on the cheap side."""
    level = [trial(space, index, 0.8 + 0.01 * math.sin(index)) for index in (0, 5, 10, 15, 20)]
    move = planner.next_move(numbered(*level), seed=0)
    assert move.params["cut"] > 10


def test_nothing_is_worth_it_once_every_depth_and_rate_is_known_and_level(space, planner) -> None:
    assert planner.next_move(numbered(*level(space, RATES)), seed=0) is None


def level(space: SearchSpace, rates: Iterable[float]) -> list[FrozenTrial]:
    """Trials of every second cut at some learning rates, none of which promises anything."""
    return [trial(space, i, 0.8 + 1e-4 * i, rate=rate) for i in range(0, N_CUTS, 2) for rate in rates]


RATES = np.geomspace(1e-5, 1e-2, 7).clip(1e-5, 1e-2).tolist()


@pytest.fixture
def last(space, planner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Move | None]:
    """Say what is done where nothing is worth its cost: a cut scores more, tried at some learning rates."""
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)

    def next_move(index: int, rates: Iterable[float], **options: Any) -> Move | None:
        others = [each for each in level(space, RATES) if each.params["cut"] != index]
        best = [trial(space, index, 0.83, rate=rate) for rate in rates]
        return planner.next_move(numbered(*others, *best), seed=0, is_thrifty=True, **options)

    return next_move


def test_before_it_ends_the_best_cut_is_tried_between_the_learning_rates(last) -> None:
    ends = RATES[0], RATES[-1]
    move = last(18, ends)
    assert (move.params["cut"], move.params["learning_rate"]) == (18, pytest.approx(10**-3.5))
    assert last(18, RATES[:4]).params["learning_rate"] == pytest.approx(1e-2)
    assert last(18, RATES) is None
    assert last(18, ends, may_be_new=False) is None
    assert last(18, ends, most=0.9 * move.cost) is None


def test_a_dear_cut_and_a_head_that_is_solved_are_not(last) -> None:
    assert last(2, (RATES[0], RATES[-1])) is None
    assert last(N_CUTS - 1, RATES[:1]) is None


def test_before_it_ends_even_everything_is_trained_once_more_if_it_seems_best(space, monkeypatch) -> None:
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)
    everything = [trial(space, 0, 0.804, rate=rate) for rate in RATES]
    trials = numbered(*[t for t in level(space, RATES) if t.params["cut"]], *everything)
    # With its head, everything costs a little more than one full fine-tune.
    problem = Problem(space, epochs=EPOCHS, error=EXACT, head_macs=lambda *_: 1000.0)
    move = Planner(problem, Race(n_seeds=5)).next_move(trials, seed=0, is_thrifty=True)
    assert move is not None
    assert {trials[repeat.number].params["cut"] for repeat in move.repeats} > {0}
    assert 1 < move.cost <= planning.ONCE_MORE_COST


def test_a_setting_like_one_that_was_trained_again_is_not(space, monkeypatch) -> None:
    """Else the best of many like ones, the luckiest, is trained again, then the next that seems best."""
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)
    monkeypatch.setattr(planning, "OTHER_RATE_COST", 0.0)
    planner = Planner(Problem(space, epochs=EPOCHS, error=EXACT), Race(n_seeds=5))
    others = [t for t in level(space, RATES) if t.params["cut"]]

    def ended(index: int) -> bool:
        trials = numbered(*others, trial(space, index, 0.802, rate=1e-3), trial(space, 0, 0.804, rate=1e-3))
        number = len(others)
        trials = numbered(*trials, again(space, number, index, 0.802, 0))
        return planner.next_move(trials, seed=0, is_thrifty=True) is None

    assert ended(1)
    assert not ended(11)


def test_where_nothing_beats_the_head_alone_the_best_of_the_others_is_tried_at_other_rates(
    space, planner, monkeypatch
) -> None:
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)
    others = [trial(space, i, 0.7 + 0.001 * i, rate=1e-5) for i in range(10, N_CUTS - 1)]
    move = planner.next_move(numbered(trial(space, N_CUTS - 1, 0.8), *others), seed=0, is_thrifty=True)
    assert (move.params["cut"], move.params["learning_rate"]) == (N_CUTS - 2, pytest.approx(1e-2))


def test_a_new_cut_is_weighed_at_its_sensible_learning_rate(space, planner) -> None:
    new = [move for move in moves_of(planner, numbered(*sloping(space))) if move.is_new]
    assert len({move.params["cut"] for move in new}) > 10
    assert all(move.params == sensible_setting(space, "", move.params["cut"]) for move in new)


def test_with_another_optimizer_than_adamw_no_learning_rate_is_known_to_be_sensible(space) -> None:
    other = replace(space, fixed={"optimizer": "sgd"})
    trials = [trial(other, index, 0.8 + 0.01 * index) for index in (5, 12, 18)]
    moves = moves_of(Planner(Problem(other, epochs=EPOCHS, error=EXACT)), numbered(*trials))
    assert len({move.params["learning_rate"] for move in moves if move.params["cut"] == 10}) > 5


def test_what_is_left_of_a_budget_goes_to_any_learning_rate(space, planner, monkeypatch) -> None:
    monkeypatch.setattr(planning, "OTHER_RATE_COST", 0.0)
    sensible = [sensible_setting(space, "", index)["learning_rate"] for index in range(N_CUTS)]
    trials = numbered(*[trial(space, i, 0.8 + 0.001 * i, rate=rate) for i, rate in enumerate(sensible)])
    move = planner.next_move(trials, seed=0)
    assert abs(math.log(move.params["learning_rate"] / sensible[move.params["cut"]])) > 0.5
    assert planner.next_move(trials, seed=0, is_thrifty=True) is None
    assert planner.next_move(trials, seed=0, may_be_new=False) is None


def test_the_more_was_spent_the_more_must_be_promised_where_nobody_bounds_it(
    space, planner, monkeypatch
) -> None:
    monkeypatch.setattr(planning, "OTHER_RATE_COST", 0.0)
    trials = numbered(*[trial(space, i, 0.8 + 0.01 * n) for n, i in enumerate((20, 17, 14, 11, 8, 5))])
    move = planner.next_move(trials, seed=0, is_thrifty=True)
    assert move.rate > 2 * planning.LEAST_RATE
    spent = sum(planner.cost_of(each.params) for each in trials)
    # It doubles with each full fine-tune: this many more are not worth it.
    doublings = math.log2(move.rate / planning.LEAST_RATE)
    monkeypatch.setattr(planning, "MODEST", spent - doublings + 0.1)
    assert planner.next_move(trials, seed=0, is_thrifty=True) == move
    monkeypatch.setattr(planning, "MODEST", spent - doublings - 0.1)
    assert planner.next_move(trials, seed=0, is_thrifty=True) is None
    assert planner.next_move(trials, seed=0) == move


def test_a_learning_rate_that_is_given_is_tried_at_no_other(space, monkeypatch) -> None:
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)
    given = replace(space, learning_rate=(1e-3, 1e-3))
    trials = numbered(*[trial(given, index, 0.8 + 0.001 * index) for index in range(10, 20)])
    assert (
        Planner(Problem(given, epochs=EPOCHS, error=EXACT)).next_move(trials, seed=0, is_thrifty=True) is None
    )


def test_a_promising_paused_trial_goes_on(space, planner) -> None:
    trials = numbered(
        *sloping(space),
        trial(space, 19, 0.95, rate=3e-5, epoch=6, state=TrialState.RUNNING, **{TrialKey.PAUSED: 6}),
    )
    assert is_paused(trials[-1])
    move = planner.next_move(trials, seed=0)
    assert move.number == len(trials) - 1
    assert move.cost == pytest.approx(cost_of_training(cut(19), EPOCHS, done=6), rel=1e-3)


def test_a_weak_paused_trial_stays_paused(space, planner) -> None:
    trials = numbered(
        *sloping(space), trial(space, 3, 0.4, epoch=2, state=TrialState.RUNNING, **{TrialKey.PAUSED: 2})
    )
    move = planner.next_move(trials, seed=0)
    assert move is None or move.number is None


def test_what_is_left_of_the_budget_is_kept_to(space, planner) -> None:
    trials = numbered(*sloping(space))
    for most in (0.05, 0.2, 0.5):
        move = planner.next_move(trials, seed=1, most=most)
        assert move is None or move.cost <= most
    assert planner.next_move(trials, seed=1, most=0.0) is None


def test_with_no_new_settings_only_paused_trials_go_on(space, planner) -> None:
    trials = numbered(*sloping(space))
    assert planner.next_move(trials, seed=0, may_be_new=False) is None


def test_two_workers_do_not_train_alike(space, planner) -> None:
    trials = numbered(*sloping(space))
    first = planner.next_move(trials, seed=0)
    running = create_trial(
        state=TrialState.RUNNING, params=dict(first.params), distributions=space.distributions()
    )
    second = planner.next_move(numbered(*trials, running), seed=0)
    apart = (
        abs(first.params["cut"] - second.params["cut"]),
        abs(math.log10(first.params["learning_rate"] / second.params["learning_rate"])),
    )
    assert apart[0] >= 1 or apart[1] >= 0.3


def test_the_same_trials_and_seed_give_the_same_move(space, planner) -> None:
    trials = numbered(*sloping(space))
    assert planner.next_move(trials, seed=5) == planner.next_move(trials, seed=5)


def test_a_head_that_is_solved_is_not_tried_at_another_rate(space, planner) -> None:
    trials = numbered(*sloping(space))
    cuts = [move.params["cut"] for move in moves_of(planner, trials)]
    assert N_CUTS - 1 not in cuts


def test_every_candidate_of_a_deep_network_is_reached() -> None:
    cuts = tuple(
        replace(cut(0), index=i, layer=i + 1, name=str(i), frozen_mac_share=i / 399) for i in range(400)
    )
    planner = Planner(Problem(SearchSpace(cuts=cuts, head_width=0), epochs=EPOCHS))
    reached = {move.params["cut"] for seed in range(60) for move in moves_of(planner, [], seed)}
    assert len(reached) > 390


def test_equal_scores_do_not_say_that_all_settings_are_equal(space, racing) -> None:
    """Each cheap cut answers the majority's class: what learns more may do better."""
    level = [trial(space, index, 0.7) for index in (20, 19, 18, 17, 16, 15)]
    planner = Planner(Problem(space, epochs=EPOCHS, error=ScoreError(n_val=100, is_share=True)))
    move = planner.next_move(numbered(*level), seed=0)
    assert move is not None
    assert move.gain > 0.0005


def test_cuts_whose_trainings_fail_are_left_out_with_all_that_train_more(space, planner) -> None:
    def failed(index: int) -> FrozenTrial:
        return trial(space, index, 0.0, epoch=0, state=TrialState.FAIL)

    def cuts(*more: FrozenTrial) -> set[int]:
        known = [trial(space, index, 0.6 + 0.015 * index, rate=1e-5) for index in (20, 18, 15)]
        return {move.params["cut"] for move in moves_of(planner, numbered(*known, *more))}

    assert cuts() == cuts(failed(4)) == set(range(N_CUTS - 1))
    assert min(cuts(failed(4), failed(9))) == 5
    assert min(cuts(failed(4), failed(9), failed(8))) == 9
    # What trains as much came to its end, so that it was something else.
    assert min(cuts(failed(4), failed(9), trial(space, 3, 0.7))) == 0


def test_a_search_in_which_nothing_comes_to_its_end_is_given_up(space, planner) -> None:
    trials: list[FrozenTrial] = []
    while move := planner.next_move(numbered(*trials), seed=len(trials)):
        trials.append(
            create_trial(
                state=TrialState.PRUNED,
                params=dict(move.params),
                distributions=space.distributions(),
                user_attrs={TrialKey.DIVERGED: True},
            )
        )
    assert len(trials) == 10


def test_of_the_first_trainings_one_is_chosen_that_the_budget_pays(space, planner) -> None:
    head = numbered(trial(space, N_CUTS - 1, 0.7))
    assert planner.next_move(head, seed=0, most=0.04) is None
    assert planner.next_move(head, seed=0, most=0.06).params["cut"] == N_CUTS - 2
    both = numbered(*head, trial(space, N_CUTS - 2, 0.7))
    # A tenth would be next.
    assert planner.next_move(both, seed=0, most=0.06).cost <= 0.06


# --- pauses -----------------------------------------------------------------------------------------


def test_a_weak_dear_trial_is_paused_and_a_strong_one_goes_on(space, planner) -> None:
    known = [trial(space, index, 0.9 - 0.015 * index) for index in (20, 18, 15, 10, 5, 0)]
    weak = trial(space, 2, 0.3, rate=1e-4, epoch=AT_CHECK, state=TrialState.RUNNING)
    strong = trial(space, 2, 0.97, rate=1e-4, epoch=AT_CHECK, state=TrialState.RUNNING)
    assert planner.should_pause(numbered(*known, weak), 6, seed=0)
    assert not planner.should_pause(numbered(*known, strong), 6, seed=0)


def test_a_cheap_trial_is_never_paused_nor_one_between_checks(space, planner) -> None:
    cheap = trial(space, 20, 0.3, epoch=AT_CHECK, state=TrialState.RUNNING)
    between = trial(space, 2, 0.3, epoch=3, state=TrialState.RUNNING)
    assert not planner.should_pause(numbered(*sloping(space), cheap), 6, seed=0)
    assert not planner.should_pause(numbered(*sloping(space), between), 6, seed=0)


def test_with_two_aims_a_cheap_cut_need_not_beat_a_dear_one(space) -> None:
    """Everything learning is best by far: along the front what is cheap may still gain."""
    trials = numbered(*[trial(space, i, 0.95 - 0.02 * i) for i in (20, 18, 15, 10, 5, 0)])
    alone, front = (Planner(Problem(space, epochs=EPOCHS, error=EXACT, front=f)) for f in (None, "macs"))
    gains = {}
    for name, planner in (("alone", alone), ("front", front)):
        known = Known(planner.problem, trials)
        moves = planner._weighed(planner._moves(known, 0), known)
        gains[name] = max(move.gain for move in moves if move.params["cut"] > 15)
    assert gains["front"] > gains["alone"]


def test_the_front_is_that_of_the_cost_that_is_asked_for(space) -> None:
    """A large head has few MACs in a large network, and many parameters."""
    wide = SearchSpace(cuts=space.cuts, head_width=(512, 256))

    def costs(front: str) -> list[float]:
        problem = Problem(wide, epochs=EPOCHS, front=front, head_macs=lambda _, width, __: width / 16)
        settings = [
            {"cut": index, "learning_rate": 1e-3, "head_width": w} for index, w in ((19, 512), (0, 0))
        ]
        return [problem.front_cost(each) for each in settings]

    assert costs("macs") == [cut(19).training_macs + 96, cut(0).training_macs]
    assert costs("parameters") == [2 + 32, N_CUTS]


# --- training again ---------------------------------------------------------------------------------


def again(
    space: SearchSpace,
    number: int,
    index: int,
    score: float,
    seed: int,
    *,
    state: TrialState = TrialState.COMPLETE,
    epoch: int = 1,
    **attributes: object,
) -> FrozenTrial:
    """Make a further training of a setting, on the division of a seed; one that runs has few epochs."""
    named = {
        TrialKey.ORIGIN: "confirm",
        TrialKey.CONFIRMS: number,
        TrialKey.SEED: seed,
        TrialKey.RESAMPLE: True,
        **attributes,
    }
    epoch = EPOCHS if state == TrialState.COMPLETE else epoch
    return trial(space, index, score, epoch=epoch, state=state, **named)


def close(space: SearchSpace) -> list[FrozenTrial]:
    """Trials of which the two best, numbers 1 and 2, are hardly apart."""
    return [trial(space, i, s) for i, s in ((20, 0.6), (17, 0.895), (13, 0.9), (6, 0.8), (0, 0.7))]


def repeats_of(planner: Planner, trials: list[FrozenTrial]) -> list[tuple[Repeat, ...]]:
    return [move.repeats for move in moves_of(planner, trials) if move.repeats]


def test_without_a_race_nothing_is_trained_again(space, planner) -> None:
    assert not planner.races
    assert repeats_of(planner, numbered(*close(space))) == []


def test_two_settings_are_trained_again_on_the_same_division(space, racing) -> None:
    pairs = repeats_of(racing(), numbered(*close(space)))
    # Each beside the best one.
    assert sorted({repeat.number for repeat in pair} for pair in pairs) == [{2, n} for n in (0, 1, 3, 4)]
    assert all({repeat.seed for repeat in pair} == {0} for pair in pairs)


def test_what_costs_of_a_pair_is_both(space, racing) -> None:
    for move in moves_of(racing(), numbered(*close(space))):
        if move.repeats and move.params["cut"] == 17:
            assert move.cost == pytest.approx(
                cost_of_training(cut(17), EPOCHS) + cost_of_training(cut(13), EPOCHS)
            )
            assert not move.is_new


def test_what_is_best_is_trained_again_where_nothing_new_may_be_tried(space, racing) -> None:
    move = racing().next_move(numbered(*close(space)), seed=0, may_be_new=False)
    assert {repeat.number for repeat in move.repeats} == {1, 2}


def test_only_the_one_that_lacks_a_seed_is_trained(space, racing) -> None:
    trials = numbered(*close(space), again(space, 2, 13, 0.9, 0))
    assert (Repeat(number=1, seed=0),) in repeats_of(racing(), trials)
    trials = numbered(*close(space), again(space, 1, 17, 0.895, 0))
    assert (Repeat(number=2, seed=0),) in repeats_of(racing(), trials)


def test_what_both_have_is_trained_with_the_next_seed(space, racing) -> None:
    trials = numbered(*close(space), again(space, 2, 13, 0.9, 0), again(space, 1, 17, 0.895, 0))
    assert (Repeat(number=2, seed=1), Repeat(number=1, seed=1)) in repeats_of(racing(), trials)


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL])
def test_a_repeat_that_runs_or_failed_is_not_chosen_again(space, racing, state: TrialState) -> None:
    """One that fails would fail for ever."""
    trials = numbered(
        *close(space), *(again(space, n, i, 0.9, 0, state=state) for n, i in ((1, 17), (2, 13)))
    )
    chosen = {repeat for pair in repeats_of(racing(), trials) for repeat in pair}
    assert not {Repeat(number=1, seed=0), Repeat(number=2, seed=0)} & chosen


def test_a_repeat_that_nobody_had_begun_may_be_chosen_again(space, racing) -> None:
    dropped = again(space, 1, 17, 0.9, 0, state=TrialState.FAIL, **{TrialKey.DROPPED: True})
    pairs = repeats_of(racing(), numbered(*close(space), dropped))
    assert (Repeat(number=2, seed=0), Repeat(number=1, seed=0)) in pairs


def test_a_setting_that_failed_is_not_tried_again(space, planner) -> None:
    first = planner.next_move([], seed=0)
    failed = create_trial(
        state=TrialState.FAIL, params=dict(first.params), distributions=space.distributions()
    )
    assert planner.next_move(numbered(failed), seed=0).params != first.params
    move = planner.next_move(numbered(*sloping(space)), seed=0)
    failed = create_trial(
        state=TrialState.FAIL, params=dict(move.params), distributions=space.distributions()
    )
    assert dict(move.params) not in [
        dict(other.params) for other in moves_of(planner, numbered(*sloping(space), failed))
    ]


def test_no_setting_is_trained_again_more_often_than_there_are_seeds(space, racing) -> None:
    trials = close(space)
    trials += [again(space, n, i, 0.9, seed) for n, i in ((1, 17), (2, 13)) for seed in (0, 1)]
    pairs = repeats_of(racing(2), numbered(*trials))
    assert all(repeat.number not in (1, 2) for pair in pairs for repeat in pair)
    assert all(repeat.seed < 2 for pair in pairs for repeat in pair)
    both = [again(space, n, i, 0.8, seed) for n, i in ((0, 20), (3, 6), (4, 0)) for seed in (0, 1)]
    assert repeats_of(racing(2), numbered(*trials, *both)) == []


def test_no_more_cuts_are_trained_again_than_asked_for(space, racing) -> None:
    trials = close(space)
    trials += [again(space, n, i, 0.9, 0) for n, i in ((1, 17), (2, 13))]
    cuts = {move.params["cut"] for move in moves_of(racing(n_cuts=2), numbered(*trials)) if move.repeats}
    assert cuts == {17}
    cuts = {move.params["cut"] for move in moves_of(racing(n_cuts=3), numbered(*trials)) if move.repeats}
    assert cuts == {20, 17, 6, 0}
    # Two at least: one alone is compared with nothing.
    assert repeats_of(racing(n_cuts=1), numbered(*close(space))) != []


def test_a_clear_winner_is_not_trained_again_beside_what_is_far_behind(space, racing) -> None:
    """Of what may be trained again the strongest rival promises most for its cost."""
    planner, trials = racing(), numbered(*close(space))
    known = Known(planner.problem, trials)
    moves = planner._weighed([move for move in planner._moves(known, 0) if move.repeats], known)
    assert max(moves, key=lambda move: move.rate).params["cut"] == 17
    far = [move for move in moves if move.params["cut"] == 0]
    assert all(move.gain < 0.0005 for move in far)


def test_a_best_setting_that_was_trained_once_is_trained_again(space, racing, monkeypatch) -> None:
    """Also where that promises nothing: the best of many is in part the luckiest."""
    monkeypatch.setattr(planning, "LEAST_RATE", math.inf)
    planner = racing()
    first = numbered(*level(space, RATES), *[trial(space, 18, 0.83, rate=rate) for rate in RATES])
    trials = list(first)
    assert planner.next_move(trials, seed=0, is_thrifty=True, most=0.01) is None
    while move := planner.next_move(numbered(*trials), seed=0, is_thrifty=True):
        (lead,) = set(Known(planner.problem, trials).leads)
        assert lead.number in [repeat.number for repeat in move.repeats]
        assert not lead.seeds
        for repeat in move.repeats:
            of = first[repeat.number]
            trials.append(again(space, of.number, of.params["cut"], of.value, repeat.seed))
    assert len(first) < len(trials) < len(first) + 20


def test_two_settings_come_apart_and_the_race_is_over(space, racing) -> None:
    trials = close(space)
    for seed in range(4):
        trials += [again(space, 1, 17, 0.80, seed), again(space, 2, 13, 0.90, seed)]
    assert racing(20).next_move(numbered(*trials), seed=0, may_be_new=False) is None


def test_on_the_same_images_again_a_race_ends(space, racing) -> None:
    """What these images do to like settings alike no further training on them tells."""
    planner = racing(20, resample=False)
    trials = numbered(*[trial(space, i, 0.9 + 0.002 * math.sin(i)) for i in (20, 19, 18, 17, 14, 11, 8)])
    for n in range(60):
        move = planner.next_move(trials, seed=n, may_be_new=False)
        if move is None:
            break
        for repeat in move.repeats:
            index = trials[repeat.number].params["cut"]
            score = 0.9 + 0.002 * math.sin(index + len(trials))
            more = again(space, repeat.number, index, score, repeat.seed, **{TrialKey.RESAMPLE: False})
            trials = numbered(*trials, more)
    assert move is None
    assert len(trials) < 30


def test_few_settings_are_not_trained_again_for_nothing(space, racing) -> None:
    """The search does not end before six trials; where no new ones may be, it does, once the best is sure."""
    trials = numbered(*[trial(space, i, s) for i, s in ((20, 0.95), (10, 0.6), (1, 0.58))])
    assert racing().next_move(trials, seed=0).is_new
    move = racing().next_move(trials, seed=0, may_be_new=False)
    assert {repeat.number for repeat in move.repeats} == {0, 1}
    more = [(0, 20, 0.95), (1, 10, 0.6)]
    trials = numbered(*trials, *[again(space, *each, move.repeats[0].seed) for each in more])
    assert racing().next_move(trials, seed=0, may_be_new=False) is None


def test_a_repeat_is_told_apart_from_a_paused_trial_and_a_new_setting() -> None:
    pair = Move(params={}, place=(), repeats=(Repeat(number=0, seed=1),), cost=0.1)
    paused, new = Move(params={}, place=(), number=3, cost=0.1), Move(params={}, place=(), cost=0.1)
    assert [move.is_new for move in (pair, paused, new)] == [False, False, True]


def test_where_a_front_is_sought_a_setting_is_compared_with_what_costs_no_more(space) -> None:
    trials = numbered(*close(space))
    planner = Planner(Problem(space, epochs=EPOCHS, error=EXACT, front="macs"), Race(n_seeds=3))
    by_number = {trial.number: trial.params["cut"] for trial in trials}
    for pair in repeats_of(planner, trials):
        lead, other = (by_number[repeat.number] for repeat in pair)
        # Frozen more, so cheaper.
        assert lead > other
    # What is better than all that is cheaper is made sure of as well.
    rising = numbered(*[trial(space, i, 0.95 - 0.02 * i) for i in (20, 18, 15, 10, 5, 0)])
    chosen = {repeat.number for pair in repeats_of(planner, rising) for repeat in pair}
    assert chosen == set(range(6))


def test_a_loss_is_learned_upside_down(space) -> None:
    sloped = [trial(space, index, 0.4 + 0.01 * index) for index in (20, 18, 15, 10, 5, 0)]
    error = ScoreError(n_val=100, is_share=False)
    planner = Planner(Problem(space, epochs=EPOCHS, maximize=False, error=error), Race(n_seeds=3))
    known = Known(planner.problem, numbered(*sloped))
    assert known.best_params("")["cut"] == 0
    assert {lead.params["cut"] for lead in known.leads} == {0}


def test_with_few_cuts_other_learning_rates_are_tried_while_too_little_is_known() -> None:
    """Two cuts at their sensible learning rates are two trials: nothing is learned from fewer than three."""
    ends = (cut(0), replace(cut(N_CUTS - 1), index=1))
    few = SearchSpace(cuts=ends, learning_rate=(1e-5, 1e-2), head_width=0)
    planner = Planner(Problem(few, epochs=EPOCHS, error=EXACT))
    trials: list[FrozenTrial] = []
    for _ in range(3):
        move = planner.next_move(trials, seed=0)
        assert move is not None
        trials = numbered(*trials, trial(few, move.params["cut"], 0.8, rate=move.params["learning_rate"]))
    assert [each.params["cut"] for each in trials] == [1, 0, 0]
    assert trials[1].params["learning_rate"] != trials[2].params["learning_rate"]


# --- workers, backbones, the same images ------------------------------------------------------------


def test_paused_trials_count_among_those_after_which_a_search_may_end(space, racing) -> None:
    """Where the head alone is far ahead, not every dear cut is begun only to be paused."""

    def tried(index: int, score: float, paused: int = 0) -> FrozenTrial:
        rate = sensible_setting(space, "", index)["learning_rate"]
        if not paused:
            return trial(space, index, score, rate=rate)
        attributes = {TrialKey.PAUSED: paused}
        return trial(space, index, score, rate=rate, epoch=5, state=TrialState.RUNNING, **attributes)

    told = [(20, 0.95, 0), (17, 0.6, 0), (13, 0.6, 5), (9, 0.6, 5), (5, 0.6, 5)]
    trials = numbered(*itertools.starmap(tried, told))
    early = racing().next_move(trials, seed=0, is_thrifty=True)
    assert early.params == sensible_setting(space, "", early.params["cut"]), "five are too few to end"
    trials = numbered(*trials, tried(0, 0.6, 5))
    move = racing().next_move(trials, seed=0, is_thrifty=True)
    assert move.params["cut"] == 17, "the best that has a learning rate is tried at another"


@pytest.mark.parametrize("n_pairs", [1, 3])
def test_what_is_being_trained_again_promises_no_more(space, racing, n_pairs: int) -> None:
    """Several workers do not all train the same again: its scores are taken for known."""
    trials = close(space)
    beside = [
        again(space, number, index, 0.9, seed, state=TrialState.RUNNING, epoch=0)
        for seed in range(n_pairs)
        for number, index in ((1, 17), (2, 13))
    ]

    def gain(trials: list[FrozenTrial]) -> float:
        known = Known((planner := racing()).problem, trials)
        weighed = planner._weighed(planner._moves(known, 0, may_be_new=False), known)
        return max(move.gain for move in weighed if {r.number for r in move.repeats} == {1, 2})

    alone = gain(numbered(*trials))
    assert gain(numbered(*trials, *beside)) < (1 - 0.1 * n_pairs) * alone


def test_a_trial_that_was_killed_while_it_chose_has_no_setting_yet(space, planner) -> None:
    part = trial(space, 9, 0.5, epoch=0, state=TrialState.RUNNING)
    del part._params["learning_rate"], part._distributions["learning_rate"]
    trials = numbered(*sloping(space), part)
    assert planner.next_move(trials, seed=0) == planner.next_move(trials[:-1], seed=0)


def test_the_order_of_backbones_changes_no_choice() -> None:
    small = [
        replace(cut(i), backbone="small", training_macs=cut(i).training_macs // 25) for i in range(N_CUTS)
    ]
    large = [replace(cut(i), backbone="large") for i in range(N_CUTS)]
    moves = []
    for cuts in ((*small, *large), (*large, *small)):
        both = SearchSpace(cuts=cuts, learning_rate=(1e-4, 1e-2), head_width=0)
        planner = Planner(Problem(both, epochs=EPOCHS, error=EXACT), Race(n_seeds=5))
        trials = [
            create_trial(
                params={"backbone": name, f"cut_{name}": index, "learning_rate": 1e-3},
                distributions=both.distributions(name),
                value=score,
            )
            for name, index, score in (
                ("small", 20, 0.8),
                ("large", 20, 0.82),
                ("small", 15, 0.84),
                ("large", 18, 0.85),
                ("small", 5, 0.83),
                ("large", 16, 0.845),
            )
        ]
        unit = max(1.0, large[0].training_macs / cuts[0].training_macs)
        moves.append(planner.next_move(numbered(*trials), seed=0, most=3 * unit))
        assert planner.cost_of(trials[0].params | {"cut_small": 0}) == pytest.approx(unit / 25, rel=1e-3)
    assert moves[0].params == moves[1].params
    assert moves[0].rate == pytest.approx(moves[1].rate)


def test_many_workers_do_not_spend_the_budget_before_the_first_score(space, planner) -> None:
    begun: list[FrozenTrial] = []
    while (move := planner.next_move(numbered(*begun), seed=len(begun))) is not None:
        begun.append(
            trial(
                space,
                move.params["cut"],
                0,
                rate=move.params["learning_rate"],
                epoch=0,
                state=TrialState.RUNNING,
            )
        )
        assert move.cost <= FIRST_MOST
        if len(begun) == 16:
            break
    assert len({each.params["cut"] for each in begun}) >= 4


def test_a_solved_head_is_not_trained_again_on_the_same_images(space, racing) -> None:
    trials = numbered(
        *[trial(space, i, s) for i, s in ((20, 0.9), (17, 0.899), (13, 0.898), (6, 0.8), (0, 0.7))]
    )
    for resample in (True, False):
        chosen = {repeat.number for pair in repeats_of(racing(resample=resample), trials) for repeat in pair}
        assert (0 in chosen) == resample
        assert {1, 2} <= chosen


def test_the_best_of_the_settled_is_always_among_those_that_a_move_is_compared_with(
    space, racing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known well, and others that are not may come before it in what may turn out the best."""
    trials = numbered(*close(space), *[again(space, 2, 13, 0.9, seed) for seed in range(12)])
    known = Known((planner := racing(20)).problem, trials)
    places = np.array([setting.place for setting in known.settled])
    belief = known.learned.response.beliefs(places, len(places))[0]
    widest = (belief.mean + 2 * np.sqrt(belief.variance)).argmax()
    assert widest != belief.mean.argmax(), "else this shows nothing"

    def gain() -> float:
        weighed = planner._weighed(planner._moves(known, 0, may_be_new=False), known)
        return max(move.gain for move in weighed if move.params["cut"] == 17)

    among_all = gain()
    monkeypatch.setattr(promise, "MOST_RIVALS", 1)
    assert gain() == pytest.approx(among_all, rel=0.05)
    assert among_all > 0
