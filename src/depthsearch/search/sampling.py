"""Which setting to try next, and which trial to stop: samplers and pruners with defaults that were measured.

On simulated freeze-depth studies a Gaussian process over ordered numbers needs about half the trials of the
tree-structured Parzen estimator (TPE), but Optuna's ignores pruned trials and proposes them again. Here it
sees them with an extrapolated final score. With few trials TPE and successive halving do better. Both pruners
wait for a first share of the epochs: curves of different depths cross, and early judgement removes the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.errors import SettingsError
from depthsearch.options.words import PRUNERS, SAMPLERS
from depthsearch.search.aims import CheaperMedianPruner
from depthsearch.search.extrapolation import course_of, extrapolated, running_beside, study_of
from depthsearch.search.space import BACKBONE, cut_parameter

FEW_TRIALS = 20
# The sampler and the pruner that `planning.planner.Planner` is: no samplers and pruners of Optuna's.
GAIN, PAUSE = "gain", "pause"
STARTUP_TRIALS = 6
# What stands for the cuts of all backbones, in [0, 1].
DEPTH = "depth"


def resolve(sampler: str, pruner: str, n_trials: int, cost: str | None = None) -> tuple[str, str]:
    """Choose what ``auto`` stands for: gain with pauses.

    Where another pruner is asked for, TPE under 20 trials, else GP; with a sampler of Optuna's, halving under
    20 trials, else a gentle median, with a ``cost`` as second aim median in any case, see `make_pruner`.

    Raises:
        SettingsError: If trials are to be paused, and there is nobody to take them up again.
    """
    few = n_trials < FEW_TRIALS
    if sampler == "auto" and pruner in ("auto", PAUSE):
        sampler = GAIN
    if sampler == "auto":
        sampler = "tpe" if few else "gp"
    if pruner == "auto" and sampler == GAIN:
        pruner = PAUSE
    if pruner == "auto":
        pruner = "halving" if few and cost is None else "median"
    if pruner == PAUSE and sampler != GAIN:
        raise SettingsError(
            f"--pruner {PAUSE} leaves trials for --sampler {GAIN} to take up again, and --sampler {sampler} "
            "never does. Leave one of the two out."
        )
    return sampler, pruner


def make_sampler(name: str, seed: int) -> BaseSampler:
    """Make a sampler.

    Args:
        name: Resolved.
        seed: Of the suggestions.
    """
    known = [word for word in SAMPLERS[1:] if word != GAIN]
    if name not in known:
        raise SettingsError(f"No sampler {name!r}: give one of {', '.join(known)}.")
    if name == "random":
        return RandomSampler(seed=seed)
    if name == "gp":
        return ExtrapolatingGPSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


def make_pruner(name: str, epochs: int, cost: str | None = None) -> BasePruner:
    """Make a pruner that judges from a fifth (halving) or a quarter (median) of the epochs on.

    Halving keeps the better half at each doubling of epochs; median stops what is worse than the median of
    the trials before it, once ten are complete. A tie with the limit goes on.

    With a second aim, median compares a trial only with those that cost at most as much, see
    `aims.CheaperMedianPruner`. Halving is refused there: it keeps one ranking of all trials at each rung, in
    which cheap ones would lose to dear ones.

    Args:
        name: Resolved.
        epochs: Of a trial that is not pruned.
        cost: The second aim, one of `words.COSTS`; None: the score alone.
    """
    if name not in PRUNERS[1:]:
        raise SettingsError(f"No pruner {name!r}: give one of {', '.join(PRUNERS[1:])}.")
    if cost is not None and name == "halving":
        raise SettingsError(
            "--pruner halving ranks cheap trials with dear ones, which two aims must not do. "
            "Give median or none."
        )
    if cost is not None and name == "median":
        return CheaperMedianPruner(cost=cost, n_warmup_steps=math.ceil(epochs / 4))
    if name == "halving":
        return SuccessiveHalvingPruner(min_resource=math.ceil(epochs / 5), reduction_factor=2)
    if name == "median":
        return MedianPruner(n_startup_trials=10, n_warmup_steps=math.ceil(epochs / 4))
    # `PAUSE` is the planner's, not Optuna's to judge.
    return NopPruner()


class ExtrapolatingGPSampler(BaseSampler):
    """A Gaussian process that learns from pruned trials too.

    A pruned trial counts with its last score plus the median gain that complete trials made from that epoch
    on, but at most a little below the best: a trial that was stopped must not become the one to follow.

    With several backbones the cuts of all are one dimension to it, the depth: what half of one backbone says
    is a hint for half of another.
    """

    def __init__(self, *, seed: int | None = None, n_startup_trials: int = STARTUP_TRIALS) -> None:
        """Make a sampler.

        Args:
            seed: Of the suggestions.
            n_startup_trials: Finished trials before which suggestions are random.
        """
        self._gp = GPSampler(seed=seed, n_startup_trials=n_startup_trials)

    def reseed_rng(self) -> None:
        """Draw a new seed, for a copy of the sampler in another process."""
        self._gp.reseed_rng()

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Search the dimensions that all finished trials share, and each backbone's cut."""
        shared = self._gp.infer_relative_search_space(_shadow(study, trial), trial)
        if shared.pop(DEPTH, None) is None:
            return shared
        return {**shared, **_cut_distributions(study)}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Suggest the setting that promises most."""
        shadow = _shadow(study, trial)
        cuts = {name: cut for name, cut in _cut_distributions(study).items() if name in search_space}
        shared = {name: distribution for name, distribution in search_space.items() if name not in cuts}
        if cuts:
            shared[DEPTH] = FloatDistribution(0, 1)
        # GPSampler notes its suggestion at the trial it is for, so the shadow needs one of its own.
        shadow.ask()
        suggested = self._gp.sample_relative(shadow, shadow.get_trials(deepcopy=False)[-1], shared)
        return _with_cut(suggested, cuts)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Suggest a value at random, while there is too little to learn from."""
        return self._gp.sample_independent(study, trial, param_name, param_distribution)


def _shadow(study: optuna.Study, trial: FrozenTrial) -> optuna.Study:
    """Copy a study with every pruned trial completed, and one depth for the cuts of several backbones.

    What other workers are at is there as running: the Gaussian process keeps away from it.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    guesses = zip(trials, extrapolated([course_of(trial) for trial in trials], sign), strict=True)
    copies = [_copied(known, value) for known, value in guesses if value is not None]
    copies += [_copied(other) for other in running_beside(study, trial)]
    return study_of(copies, study.direction)


def _copied(trial: FrozenTrial, value: float | None = None) -> FrozenTrial:
    """Copy a trial, as complete with this value, or as it runs."""
    params, distributions = dict(trial.params), dict(trial.distributions)
    for name, cut in _cut_of(trial).items():
        del distributions[name]
        params[DEPTH] = params.pop(name) / max(1, cut.high)
        distributions[DEPTH] = FloatDistribution(0, 1)
    state = TrialState.RUNNING if value is None else TrialState.COMPLETE
    return create_trial(state=state, params=params, distributions=distributions, value=value)


def _cut_of(trial: FrozenTrial) -> dict[str, IntDistribution]:
    """Find the range of the cut of a trial's backbone, by parameter name, where there are several."""
    name = cut_parameter(trial.params.get(BACKBONE, ""))
    distribution = trial.distributions.get(name)
    if BACKBONE in trial.params and isinstance(distribution, IntDistribution):
        return {name: distribution}
    return {}


def _cut_distributions(study: optuna.Study) -> dict[str, IntDistribution]:
    """Find the range of each backbone's cut in the trials; none where there is only one backbone."""
    return {name: cut for trial in study.get_trials(deepcopy=False) for name, cut in _cut_of(trial).items()}


def _with_cut(suggested: dict[str, Any], cuts: Mapping[str, IntDistribution]) -> dict[str, Any]:
    """Turn a suggested depth into a cut of the suggested backbone."""
    if DEPTH not in suggested:
        return suggested
    depth, name = suggested.pop(DEPTH), cut_parameter(suggested[BACKBONE])
    return {**suggested, name: round(depth * cuts[name].high)} if name in cuts else suggested
