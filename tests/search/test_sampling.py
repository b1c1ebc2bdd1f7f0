"""Samplers and pruners, stepped through as a study does."""

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.errors import SettingsError
from depthsearch.search.extrapolation import course_of, extrapolated
from depthsearch.search.sampling import ExtrapolatingGPSampler, make_pruner, make_sampler, resolve

RANGE = {"x": FloatDistribution(0.0, 1.0)}


def complete(*scores: float, x: float = 0.5) -> FrozenTrial:
    """A trial that ran to its end."""
    steps = dict(enumerate(scores, start=1))
    return create_trial(params={"x": x}, distributions=RANGE, value=scores[-1], intermediate_values=steps)


def pruned(*scores: float, x: float = 0.5) -> FrozenTrial:
    """A trial that was stopped after its last score."""
    steps = dict(enumerate(scores, start=1))
    return create_trial(
        state=TrialState.PRUNED, params={"x": x}, distributions=RANGE, intermediate_values=steps
    )


# --- extrapolation ------------------------------------------------------------------------------


def finals(trials: list[FrozenTrial], sign: float = 1.0) -> list[float | None]:
    return extrapolated([course_of(trial) for trial in trials], sign)


def test_a_pruned_trial_gains_what_complete_ones_gained_from_its_epoch_on() -> None:
    trials = [complete(0.2, 0.5, 0.6), complete(0.3, 0.6, 0.9), complete(0.4, 0.5, 0.8), pruned(0.1, 0.2)]
    # From epoch 2 on the complete ones gained 0.1, 0.3 and 0.3: 0.2 + median.
    assert finals(trials) == pytest.approx([0.6, 0.9, 0.8, 0.5])


def test_only_complete_trials_with_that_epoch_count_for_the_gain() -> None:
    long, short = complete(0.1, 0.2, 0.5), complete(0.4)
    assert finals([long, short, pruned(0.1, 0.1)]) == pytest.approx([0.5, 0.4, 0.4])


def test_a_pruned_trial_never_becomes_the_one_to_follow() -> None:
    trials = [complete(0.1, 0.6), complete(0.2, 0.7), pruned(0.69), pruned(0.05)]
    assert finals(trials) == pytest.approx([0.6, 0.7, 0.695, 0.55])


def test_minimizing_is_the_mirror_image() -> None:
    trials = [complete(0.9, 0.4), complete(0.8, 0.3), pruned(0.31), pruned(0.95)]
    assert finals(trials, -1.0) == pytest.approx([0.4, 0.3, 0.305, 0.45])


def test_nothing_is_said_before_a_trial_is_complete() -> None:
    assert finals([pruned(0.5), pruned(0.6)]) == [None, None]


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.6), (-1.0, 0.9)])
def test_a_trial_stopped_before_its_first_score_counts_as_the_worst(sign: float, expected: float) -> None:
    trials = [complete(0.6), complete(0.9), complete(0.7), pruned()]
    assert finals(trials, sign)[-1] == expected


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.595), (-1.0, 0.605)])
def test_the_worst_of_one_is_still_below_the_best(sign: float, expected: float) -> None:
    assert finals([complete(0.6), pruned()], sign)[-1] == pytest.approx(expected)


# --- samplers -----------------------------------------------------------------------------------


def suggestions(sampler_class: type, trials: list[FrozenTrial], direction: str = "maximize") -> list[float]:
    """Give the next suggestion of a sampler for each of four seeds."""
    found = []
    for seed in range(4):
        sampler = sampler_class(seed=seed, n_startup_trials=2)
        study = optuna.create_study(direction=direction, sampler=sampler)
        study.add_trials(trials)
        found.append(study.ask(RANGE).params["x"])
    return found


# Scores rise with x as far as trials are complete; what lies beyond was stopped far below.
RISING = [complete(0.3 + x / 2, 0.4 + x, x=x) for x in (0.0, 0.1, 0.2, 0.3, 0.4)]
STOPPED = [pruned(0.02, x=x) for x in (0.7, 0.8, 0.9, 1.0)]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_neighbourhood_of_a_pruned_trial_is_not_proposed_again() -> None:
    blind = suggestions(GPSampler, RISING + STOPPED)
    seeing = suggestions(ExtrapolatingGPSampler, RISING + STOPPED)
    assert min(blind) > 0.6, "Optuna's own no longer ignores pruned trials"
    assert max(seeing) < 0.6


def test_minimizing_samples_the_mirror_image() -> None:
    mirrored = [
        create_trial(
            state=t.state,
            params=t.params,
            distributions=RANGE,
            value=None if t.value is None else -t.value,
            intermediate_values={step: -score for step, score in t.intermediate_values.items()},
        )
        for t in RISING + STOPPED
    ]
    expected = suggestions(ExtrapolatingGPSampler, RISING + STOPPED)
    assert suggestions(ExtrapolatingGPSampler, mirrored, "minimize") == pytest.approx(expected)


def test_the_sampler_suggests_at_random_while_nothing_is_complete() -> None:
    found = suggestions(ExtrapolatingGPSampler, STOPPED)
    assert len(set(found)) == 4
    assert found == suggestions(ExtrapolatingGPSampler, [])


def test_sampling_leaves_the_study_as_it_was() -> None:
    study = optuna.create_study(
        direction="maximize", sampler=ExtrapolatingGPSampler(seed=0, n_startup_trials=2)
    )
    study.add_trials(RISING + STOPPED)
    study.ask(RANGE)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED] * 4 + [TrialState.RUNNING]


@pytest.mark.parametrize(
    ("given", "n_trials", "expected"),
    [
        (("auto", "auto"), 5, ("gain", "pause")),
        (("auto", "auto"), 50, ("gain", "pause")),
        (("gain", "auto"), 50, ("gain", "pause")),
        (("auto", "halving"), 19, ("tpe", "halving")),
        (("auto", "median"), 20, ("gp", "median")),
        (("gp", "auto"), 20, ("gp", "median")),
        (("gp", "auto"), 5, ("gp", "halving")),
        (("auto", "none"), 50, ("gp", "none")),
        (("random", "median"), 5, ("random", "median")),
    ],
)
def test_auto_stands_for_what_suits_the_number_of_trials(given, n_trials: int, expected) -> None:
    assert resolve(*given, n_trials) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("gp", ExtrapolatingGPSampler), ("tpe", TPESampler), ("random", RandomSampler)]
)
def test_each_sampler_has_a_name_and_follows_its_seed(name: str, expected: type) -> None:
    def first(seed: int) -> float:
        return optuna.create_study(sampler=make_sampler(name, seed)).ask(RANGE).params["x"]

    assert type(make_sampler(name, 0)) is expected
    assert first(3) == first(3) != first(4)


# --- pruners ------------------------------------------------------------------------------------


def stopped_after(study: optuna.Study, scores: list[float]) -> int | None:
    """Run a trial; give the epoch after which it was pruned."""
    trial = study.ask()
    for epoch, score in enumerate(scores, start=1):
        trial.report(score, step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, scores[-1])
    return None


def study_with(pruner: str, epochs: int, direction: str = "maximize") -> optuna.Study:
    return optuna.create_study(
        direction=direction, pruner=make_pruner(pruner, epochs), sampler=RandomSampler(seed=0)
    )


@pytest.mark.parametrize(("epochs", "first"), [(10, 2), (11, 3), (4, 1), (1, 1)])
def test_halving_judges_first_at_a_fifth_of_the_epochs(epochs: int, first: int) -> None:
    study = study_with("halving", epochs)
    assert stopped_after(study, [0.9] * epochs) is None
    assert stopped_after(study, [0.1] * epochs) == first


def test_halving_judges_again_at_each_doubling() -> None:
    study = study_with("halving", 10)
    assert stopped_after(study, [0.5] * 10) is None
    assert stopped_after(study, [0.6, 0.6, 0.4, 0.4, *[0.4] * 6]) == 4
    assert stopped_after(study, [0.7] * 7 + [0.3] * 3) == 8


def test_median_waits_for_a_quarter_of_the_epochs() -> None:
    study = study_with("median", 10)
    for _ in range(10):
        assert stopped_after(study, [0.9] * 10) is None
    assert stopped_after(study, [0.1] * 10) == 3


def test_median_waits_for_ten_complete_trials() -> None:
    study = study_with("median", 10)
    for _ in range(9):
        assert stopped_after(study, [0.9] * 10) is None
    assert stopped_after(study, [0.1] * 10) is None
    assert stopped_after(study, [0.1] * 10) == 3


@pytest.mark.parametrize("pruner", ["halving", "median"])
def test_a_tie_goes_on(pruner: str) -> None:
    study = study_with(pruner, 8)
    assert [stopped_after(study, [0.5] * 8) for _ in range(13)] == [None] * 13


@pytest.mark.parametrize("pruner", ["halving", "median"])
def test_less_is_better_where_the_study_minimizes(pruner: str) -> None:
    study = study_with(pruner, 8, "minimize")
    for _ in range(10):
        assert stopped_after(study, [0.5] * 8) is None
    assert stopped_after(study, [0.1] * 8) is None
    assert stopped_after(study, [0.9] * 8) == 2


def test_no_pruner_never_prunes() -> None:
    study = study_with("none", 10)
    assert [stopped_after(study, [score] * 10) for score in (0.9, 0.8, 0.0)] == [None] * 3


def test_a_trial_that_diverged_counts_as_the_worst_however_well_it_began() -> None:
    scores = {"state": TrialState.COMPLETE, "value": 0.6}, {"state": TrialState.COMPLETE, "value": 0.9}
    complete = [optuna.trial.create_trial(**score, intermediate_values={1: 0.5}) for score in scores]
    diverged = optuna.trial.create_trial(
        state=TrialState.PRUNED, intermediate_values={1: 0.8}, user_attrs={"diverged": True}
    )
    assert finals([*complete, diverged])[-1] == 0.6


@pytest.mark.parametrize("make", [make_sampler, make_pruner])
def test_an_unknown_name_is_refused(make) -> None:
    with pytest.raises(SettingsError, match="'typo': give one of"):
        make("typo", 3)
