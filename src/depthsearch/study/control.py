"""Requests to a study from other processes: to stop, or to try a setting next.

They are written into the study, so that they also work from another machine through the database. The
coordinator reads them after each epoch and between trials.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from depthsearch.errors import CutError, SettingsError, StudyError
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.options.attributes import StudyKey, TrialKey
from depthsearch.options.study import StudyOptions
from depthsearch.results.stored import StoredStudy, Wanted
from depthsearch.search.firsts import sensible_setting
from depthsearch.search.origins import Origin, origin_of
from depthsearch.signals import deferred
from depthsearch.study.lease import Holder, clock_of, holder_of
from depthsearch.study.storage.optuna_private import planned_params

# The origin of a trial that a person asked for.
GUESS: Origin = "guess"
AFTER = ("epoch", "trial")
POLL_SECONDS = 0.2


def request_stop(study: optuna.Study, *, after: str = "epoch") -> Holder:
    """Request that the process that runs a study stops; return at once. The next start goes on from there.

    Args:
        study: The study.
        after: What may end first: the running ``epoch``, so that the next start goes on with its trial as
            after Ctrl-C, or the ``trial``.

    Returns:
        The process; `wait_until_free` waits for it.

    Raises:
        SettingsError: If ``after`` is neither.
        StudyError: If no process runs the study, or it trains the study's answer (``fit``).
    """
    StoredStudy.read(study)
    if after not in AFTER:
        raise SettingsError(f"after {after!r}: give epoch or trial.")
    while True:
        holder = holder_of(study.user_attrs, clock_of(study))
        if holder is None:
            raise StudyError(
                f"Nobody runs study {study.study_name!r}: there is nothing to stop. "
                "Where it stands: depthsearch status."
            )
        if holder.doing != "study":
            raise StudyError(
                f"Study {study.study_name!r} is held by {holder}, which trains its answer (depthsearch "
                f"{holder.doing}). Interrupt that process where it runs: the same command goes on later."
            )
        with deferred():
            study.set_user_attr(StudyKey.STOP_REQUEST, {"token": holder.token, "after": after})
        # Meanwhile a search may have released its lease and acquired another for the confirmation.
        now = holder_of(study.user_attrs, clock_of(study))
        if now is None or now.token == holder.token:
            return holder


def wait_until_free(study: optuna.Study, holder: Holder, seconds: float) -> bool:
    """Wait until a process has released a study's lease or is dead; return whether that has happened.

    Args:
        study: The study.
        holder: From `request_stop`.
        seconds: How long to wait at most.
    """
    deadline = time.monotonic() + seconds
    while True:
        now = holder_of(study.user_attrs, clock_of(study))
        if now is None or now.token != holder.token:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(POLL_SECONDS, left))


def note_wanted(study: optuna.Study, wanted: Wanted) -> None:
    """Store what a start of a study is to reach, for `status`."""
    if study.user_attrs.get(StudyKey.WANTED) != asdict(wanted):
        study.set_user_attr(StudyKey.WANTED, asdict(wanted))


def note_bounds(study: optuna.Study, options: StudyOptions) -> None:
    """Store budget and time of a study's latest start, for the command that goes on or runs it again."""
    provenance = study.user_attrs[StudyKey.PROVENANCE]
    # One that was opened in Python keeps no options.
    stored = provenance.get("options")
    bounds = {"budget": options.budget, "timeout": options.timeout}
    if stored and stored != {**stored, **bounds}:
        study.set_user_attr(StudyKey.PROVENANCE, {**provenance, "options": {**stored, **bounds}})


def mark(study: optuna.Study, cuts: Sequence[Cut]) -> None:
    """Store which candidates somebody wants to see pointed out: a guess, a habit, a rival."""
    candidates = StoredStudy.read(study).cuts
    study.set_user_attr(StudyKey.MARKED, [candidates.index(cut) for cut in cuts])


def trials_in_total(n_trials: int, origins: Iterable[Origin], *, is_exhaustive: bool) -> int:
    """Count the trials after which a search is done: in an exhaustive one guesses are extra."""
    return n_trials + (sum(origin == GUESS for origin in origins) if is_exhaustive else 0)


def enqueue(
    study: optuna.Study,
    layer: str | int,
    *,
    learning_rate: float | None = None,
    head_width: int | None = None,
    backbone: str | None = None,
    to_the_end: bool = False,
) -> int:
    """Enqueue a setting that a study tries next, a person's own guess, whether it runs or not.

    Args:
        study: The study.
        layer: First trainable layer, a candidate of the study: its number, Keras name or module path.
        learning_rate: Default: the sensible one at that depth.
        head_width: Width of the head's hidden layers, 0: a linear head. Default: linear where that is
            searched.
        backbone: Its name; needed if the layer is in several of the study's.
        to_the_end: Whether it is never pruned; else it is judged as the sampler's trials are.

    Returns:
        Number of the trial.

    Raises:
        CutError: If there is no such candidate.
        SettingsError: If a value is outside what the study searches, or the backbone is ambiguous.
        StudyError: If the study has such a trial already, or depthsearch did not make the study.
    """
    stored = StoredStudy.read(study)
    space = stored.space
    cut = _find(stored, layer, backbone)
    options = {"learning_rate": learning_rate, "head_width": head_width}
    given = {name: value for name, value in options.items() if value is not None}
    _refuse_outside(stored, cut, given)
    params = {**sensible_setting(space, cut.backbone, space.cuts_of(cut.backbone).index(cut)), **given}
    if not params.get("head_width", 1) and "head_width" not in space.distributions(cut.backbone):
        del params["head_width"]
    _refuse_repeated(study, params, cut)
    with deferred():
        attributes: dict[str, Any] = {TrialKey.ORIGIN: GUESS}
        if to_the_end:
            attributes[TrialKey.TO_THE_END] = True
        study.enqueue_trial(params, user_attrs=attributes)
    guesses = (trial for trial in study.get_trials(deepcopy=False) if origin_of(trial) == GUESS)
    numbers = [trial.number for trial in guesses if _is_same(planned_params(trial), params)]
    return numbers[-1]


def _find(stored: StoredStudy, layer: str | int, backbone: str | None) -> Cut:
    """Find a candidate, among all backbones if none is given."""
    space, names = stored.space, {each.name: key for key, each in stored.backbones.items()}
    if backbone is not None and backbone not in names:
        raise SettingsError(
            f"Backbone {backbone!r} is not in study {stored.name!r}: give {' or '.join(names)}."
        )
    if backbone is not None or len(names) == 1:
        return find_cut(space.cuts_of(names[backbone] if backbone else space.backbones[0]), layer)
    matches = {}
    for name, key in names.items():
        with contextlib.suppress(CutError):
            matches[name] = find_cut(space.cuts_of(key), layer)
    if len(matches) > 1:
        raise SettingsError(f"Layer {layer} is in {' and '.join(matches)}: choose one with --backbone.")
    return next(iter(matches.values())) if matches else find_cut(space.cuts, layer)


def _refuse_outside(stored: StoredStudy, cut: Cut, given: Mapping[str, Any]) -> None:
    """Refuse values that the study does not search."""
    distributions = stored.space.distributions(cut.backbone)
    for name, value in given.items():
        searched = distributions.get(name)
        if searched is None:
            # Without a width to search every head is linear.
            right, is_right = "0, a linear head", value == 0
        elif isinstance(searched, IntDistribution):
            right = _multiples(searched)
            is_right = searched.low <= value <= searched.high and (value - searched.low) % searched.step == 0
        else:
            assert isinstance(searched, FloatDistribution)
            low, high = searched.low, searched.high
            right, is_right = f"{low:g}" if low == high else f"{low:g} to {high:g}", low <= value <= high
        if not is_right:
            raise SettingsError(
                f"{name.replace('_', ' ')} {value} is not in study {stored.name!r}, which has {right}. "
                "Give that, or start a study of another --name."
            )


def _multiples(widths: IntDistribution) -> str:
    """List the widths of a range, the middle of a long list left out."""
    if widths.low == widths.high:
        return str(widths.low)
    shown = [str(value) for value in range(widths.low, widths.high + 1, widths.step)]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:2], "...", shown[-1]])


def _refuse_repeated(study: optuna.Study, params: Mapping[str, Any], cut: Cut) -> None:
    """Refuse a setting that was tried or waits; one that failed may be tried again."""
    for trial in study.get_trials(deepcopy=False):
        counts = trial.state != TrialState.FAIL and origin_of(trial) != "confirm"
        if counts and _is_same(planned_params(trial), params):
            raise StudyError(
                f"Trial {trial.number} of study {study.study_name!r} has just this setting at {cut} and is "
                f"{trial.state.name.lower()}. Give another layer or value."
            )


def _is_same(params: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    if params.keys() != others.keys():
        return False
    return all(
        math.isclose(value, others[name], rel_tol=1e-9) if isinstance(value, float) else value == others[name]
        for name, value in params.items()
    )
