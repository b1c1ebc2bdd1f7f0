"""What is trained next by gain per cost: on made-up trials of which it is clear what is right."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import TrialKey
from depthsearch.search.gain import Planner, cost_of_training, is_paused
from depthsearch.search.space import SearchSpace

N_CUTS, EPOCHS = 21, 8
IMAGE_MACS = 1_000_000


def cut(index: int) -> Cut:
    share = index / (N_CUTS - 1)
    return Cut(
        index=index,
        layer=index + 1,
        name=f"layer{index + 1}",
        kind="conv",
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
    return Planner(space, epochs=EPOCHS, n_val=2000)


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
    curve = {e: score - 0.2 * (1 - e / EPOCHS) for e in range(1, epoch + 1)}
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


# --- costs ------------------------------------------------------------------------------------------


def test_everything_costs_one_full_fine_tune_and_the_head_one_pass_forward() -> None:
    assert cost_of_training(cut(0), EPOCHS) == 1
    assert cost_of_training(cut(N_CUTS - 1), EPOCHS) == pytest.approx(1 / (3 * EPOCHS))
    half = cost_of_training(cut(10), EPOCHS)
    assert half == pytest.approx(0.5 + 0.5 / (3 * EPOCHS))


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
    rates = (1e-5, 1e-4, 1e-3, 1e-2)
    known = [
        trial(space, i, 0.8 - 0.1 * abs(math.log10(r) + 3), rate=r) for i in range(0, 21, 2) for r in rates
    ]
    assert planner.next_move(numbered(*known), seed=0) is None


def test_a_promising_paused_trial_goes_on(space, planner) -> None:
    trials = numbered(
        *sloping(space),
        trial(space, 19, 0.99, epoch=6, state=TrialState.RUNNING, **{TrialKey.PAUSED: 6}),
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
    cuts = [move.params["cut"] for move in planner._moves(trials, 0)]
    assert N_CUTS - 1 not in cuts


def test_every_candidate_of_a_deep_network_is_reached() -> None:
    cuts = tuple(
        replace(cut(0), index=i, layer=i + 1, name=str(i), frozen_mac_share=i / 399) for i in range(400)
    )
    planner = Planner(SearchSpace(cuts=cuts, head_width=0), epochs=EPOCHS)
    reached = {move.params["cut"] for seed in range(60) for move in planner._moves([], seed)}
    assert len(reached) > 390


# --- pauses -----------------------------------------------------------------------------------------


def test_a_weak_dear_trial_is_paused_and_a_strong_one_goes_on(space, planner) -> None:
    weak = trial(space, 2, 0.3, epoch=2, state=TrialState.RUNNING)
    strong = trial(space, 2, 1.0, epoch=2, state=TrialState.RUNNING)
    assert planner.should_pause(numbered(*sloping(space), weak), 6, seed=0)
    assert not planner.should_pause(numbered(*sloping(space), strong), 6, seed=0)


def test_a_cheap_trial_is_never_paused_nor_one_between_checks(space, planner) -> None:
    cheap = trial(space, 20, 0.3, epoch=2, state=TrialState.RUNNING)
    between = trial(space, 2, 0.3, epoch=3, state=TrialState.RUNNING)
    assert not planner.should_pause(numbered(*sloping(space), cheap), 6, seed=0)
    assert not planner.should_pause(numbered(*sloping(space), between), 6, seed=0)


def test_with_two_aims_a_cheap_cut_need_not_beat_a_dear_one(space) -> None:
    """Everything learning is best by far: along the front what is cheap may still gain."""
    trials = numbered(*[trial(space, i, 0.95 - 0.02 * i) for i in (20, 18, 15, 10, 5, 0)])
    alone, front = (Planner(space, epochs=EPOCHS, n_val=2000, seeks_front=f) for f in (False, True))
    gains = {}
    for name, planner in (("alone", alone), ("front", front)):
        learned = planner._learn(trials)
        moves = planner._weighed(list(planner._moves(trials, 0)), trials, learned)
        gains[name] = max(move.gain for move in moves if move.params["cut"] > 15)
    assert gains["front"] > gains["alone"]
