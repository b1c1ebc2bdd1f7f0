"""What others may ask of a study, whether it runs or not: to stop, or to try a setting next.

Both are written into the study, so that they work from another process, and from another machine through the
database. The coordinator looks after each epoch and between trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from depthsearch.errors import CutError, SettingsError, StudyError
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.results.stored import read_backbones, read_space
from depthsearch.search.firsts import sensible_setting
from depthsearch.search.space import SearchSpace
from depthsearch.signals import deferred
from depthsearch.study.lease import REQUEST, Holder, clock_of, holder_of
from depthsearch.study.storage.optuna_private import planned_params

# The origin of a trial that a person asked for, and the user attribute of one that is not to be pruned.
GUESS, TO_THE_END = "guess", "to_the_end"
# The study's user attribute that says what its latest search was to reach.
WANTED = "wanted"
AFTER = ("epoch", "trial")
POLL_SECONDS = 0.2


def request_stop(study: optuna.Study, *, after: str = "epoch") -> Holder:
    """Ask whoever runs a study to stop; nothing is lost, and the next start goes on. Returns at once.

    Args:
        study: Which.
        after: What to let end first: the ``epoch``, which leaves the running trial to the next start, as
            Ctrl-C does, or the ``trial``.

    Returns:
        Who was asked; `wait_until_free` waits for it.

    Raises:
        SettingsError: If there is nothing of that name to wait for.
        StudyError: If nobody runs the study, or the process trains its answer (``fit``).
    """
    _refuse_foreign(study)
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
                f"{holder.doing}). Interrupt that one where it runs: the same command goes on."
            )
        with deferred():
            study.set_user_attr(REQUEST, {"token": holder.token, "after": after})
        # Meanwhile a search may have given its lease back, to take another for the confirmation.
        now = holder_of(study.user_attrs, clock_of(study))
        if now is None or now.token == holder.token:
            return holder


def wait_until_free(study: optuna.Study, holder: Holder, seconds: float) -> bool:
    """Wait until a process has given a study's lease back, or is dead; say whether it has.

    Args:
        study: Which.
        holder: From `request_stop`.
        seconds: For how long at most.
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


def note_wanted(study: optuna.Study, *, n_trials: int, then_confirm: bool, n_workers: int = 1) -> None:
    """Keep in a study what it is to reach and with how many workers, for those who look from outside."""
    wanted = {"trials": n_trials, "confirm": then_confirm, "workers": n_workers}
    if study.user_attrs.get(WANTED) != wanted:
        study.set_user_attr(WANTED, wanted)


def trials_in_total(study: optuna.Study, n_trials: int) -> int:
    """Count the trials after which a search is done: guesses come on top where all candidates are wanted."""
    if not is_exhaustive(study):
        return n_trials
    trials = study.get_trials(deepcopy=False)
    return n_trials + sum(bool(trial.user_attrs.get("origin") == GUESS) for trial in trials)


def is_exhaustive(study: optuna.Study) -> bool:
    """Say whether a study tries every candidate."""
    return str(study.user_attrs["settings"].get("search", "")).startswith("exhaustive")


def enqueue(
    study: optuna.Study,
    layer: str | int,
    *,
    learning_rate: float | None = None,
    head_width: int | None = None,
    backbone: str | None = None,
    to_the_end: bool = False,
) -> int:
    """Have a study try a setting next: a person's own guess, whether the study runs or not.

    Args:
        study: Which.
        layer: First trainable layer, a candidate of the study: its number, Keras name or module path.
        learning_rate: Default: the sensible one at that depth.
        head_width: Width of the head's hidden layers, 0: a linear head. Default: linear where that is
            searched.
        backbone: timm's name; needed if the layer is in several of the study's.
        to_the_end: Whether it is never pruned; else it is judged as the sampler's trials are.

    Returns:
        Number of the trial.

    Raises:
        CutError: If there is no such candidate.
        SettingsError: If a value is not within what the study searches, or the backbone is not clear.
        StudyError: If the study has such a trial, or depthsearch did not make it.
    """
    _refuse_foreign(study)
    space = read_space(study)
    cut = _find(study, space, layer, backbone)
    given = {"learning_rate": learning_rate, "head_width": head_width}
    asked = {name: value for name, value in given.items() if value is not None}
    _refuse_outside(study, space, cut, asked)
    params = {**sensible_setting(space, cut.backbone, space.cuts_of(cut.backbone).index(cut)), **asked}
    if not params.get("head_width", 1) and "head_width" not in space.distributions(cut.backbone):
        del params["head_width"]
    _refuse_repeated(study, params, cut)
    with deferred():
        attributes = {"origin": GUESS, **({TO_THE_END: True} if to_the_end else {})}
        study.enqueue_trial(params, user_attrs=attributes)
    mine = (t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("origin") == GUESS)
    numbers = [trial.number for trial in mine if _is_same(planned_params(trial), params)]
    return numbers[-1]


def _refuse_foreign(study: optuna.Study) -> None:
    if "settings" not in study.user_attrs:
        raise StudyError(
            f"Study {study.study_name!r} was not made by depthsearch. See which are: depthsearch status."
        )


def _find(study: optuna.Study, space: SearchSpace, layer: str | int, backbone: str | None) -> Cut:
    """Find a candidate; in several backbones, if it is not said in which."""
    names = {stored.name: key for key, stored in read_backbones(study).items()}
    if backbone is not None and backbone not in names:
        raise SettingsError(
            f"backbone {backbone!r} is none of study {study.study_name!r}: give {' or '.join(names)}."
        )
    if backbone is not None or len(names) == 1:
        return find_cut(space.cuts_of(names[backbone] if backbone else space.backbones[0]), layer)
    found = {}
    for name, key in names.items():
        try:
            found[name] = find_cut(space.cuts_of(key), layer)
        except CutError:
            continue
    if len(found) > 1:
        raise SettingsError(f"Layer {layer} is in {' and '.join(found)}: name one of these, with --backbone.")
    return next(iter(found.values())) if found else find_cut(space.cuts, layer)


def _refuse_outside(study: optuna.Study, space: SearchSpace, cut: Cut, asked: Mapping[str, Any]) -> None:
    """Refuse values that the study does not search."""
    distributions = space.distributions(cut.backbone)
    for name, value in asked.items():
        words, found = name.replace("_", " "), distributions.get(name)
        if found is None:
            # Without a width to search every head is linear.
            right, is_right = "0, a linear head", value == 0
        elif isinstance(found, IntDistribution):
            right = _multiples(found)
            is_right = found.low <= value <= found.high and (value - found.low) % found.step == 0
        else:
            assert isinstance(found, FloatDistribution)
            right, is_right = f"{found.low:g} to {found.high:g}", found.low <= value <= found.high
            right = f"{found.low:g}" if found.low == found.high else right
        if not is_right:
            raise SettingsError(
                f"{words} {value} is not in study {study.study_name!r}, which has {right}. Give that, or "
                "start a study of another --name for others."
            )


def _multiples(widths: IntDistribution) -> str:
    """Name what an even range of whole numbers has."""
    if widths.low == widths.high:
        return str(widths.low)
    shown = [str(value) for value in range(widths.low, widths.high + 1, widths.step)]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:2], "...", shown[-1]])


def _refuse_repeated(study: optuna.Study, params: Mapping[str, Any], cut: Cut) -> None:
    """Refuse a setting that is tried or waits; one that failed may be tried again."""
    for trial in study.get_trials(deepcopy=False):
        counts = trial.state != TrialState.FAIL and trial.user_attrs.get("origin") != "confirm"
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
