"""The words for scores, settings, states and counts that figures, tables and pages share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from depthsearch.models.cuts import Cut
from depthsearch.results.evidence import Settled
from depthsearch.results.summary import Summary
from depthsearch.results.trials import State, StoredTrial
from depthsearch.text import percent

# How a trial ended, or that it has not; `state_of` adds the reason.
STATES: dict[State, str] = {
    "complete": "complete",
    "pruned": "pruned",
    "fail": "failed",
    "running": "running or interrupted",
    "paused": "paused",
    "waiting": "waiting",
}
# Counts below this are written in full: of a million they are next to nothing.
SMALL = 100_000
PARAMETERS = {"learning_rate": "lr", "head_width": "head"}


def shown(score: float | None) -> str:
    """Write a score with the digits that every output gives it."""
    return "–" if score is None or not math.isfinite(score) else f"{score:.4f}"  # noqa: RUF001 (for nothing)


def in_points(loss: float) -> str:
    """Write a difference of two scores in points, hundredths of a score."""
    return f"{100 * loss:.1f} points"


def with_trainings(score: float | None, standard_error: float | None, n_trainings: int) -> str:
    """Write a setting's score, and how many trainings it rests on."""
    rests_on = f"mean of {n_trainings} trainings" if n_trainings > 1 else "one training"
    return f"{with_error(score, standard_error)}, {rests_on}"


def with_error(score: float | None, standard_error: float | None) -> str:
    """Write a score, and its standard error where it has one."""
    return shown(score) + ("" if standard_error is None else f" ± {standard_error:.4f}")


def metric_of(summary: Summary) -> str:
    """Name the score of a study."""
    return f"validation {summary.metric.replace('_', ' ')}"


def state_of(trial: StoredTrial) -> str:
    """Write how a trial ended, or that it has not."""
    if trial.state == "pruned":
        return trial.reason or f"pruned after epoch {trial.epochs}"
    word = STATES[trial.state]
    return f"{word}: {trial.reason}" if trial.reason and trial.state == "fail" else word


def origin_of(trial: StoredTrial) -> str:
    """Write what a trial is for, such as ``baseline`` or ``trial 3 again, seed 0``."""
    if trial.confirms is None:
        return trial.origin
    seed = "" if trial.seed is None else f", seed {trial.seed}"
    return f"trial {trial.confirms} again{seed}"


def trial_counts(summary: Summary) -> str:
    """Write how the search's trials ended, and how many trials train a setting again."""
    counts = [f"{summary.count(state)} {word}" for state, word in STATES.items() if summary.count(state)]
    n_again = len(summary.confirming)
    again = f"{n_again} {'trains' if n_again == 1 else 'train'} a setting again" if n_again else ""
    searched = ", ".join(counts)
    if again and searched:
        return f"{len(summary.searched)} of the search: {searched}; {again}"
    return searched or again or "none begun"


def frozen_share(cut: Cut) -> str:
    """Write how much of the work lies before a cut."""
    return f"{percent(cut.frozen_mac_share, 1)} of the MACs frozen"


def setting_of(trial: StoredTrial | Settled) -> str:
    """Write a trial's setting, the cut left out, as ``lr 0.001, head linear``."""
    return written_setting(trial.params, is_solved=trial.is_solved)


def written_setting(params: Mapping[str, Any], *, is_solved: bool) -> str:
    """Write the parameters that count: where a linear head is solved, no learning rate or the like does."""
    written = []
    for name, value in params.items():
        if is_solved and name != "head_width":
            continue
        text = f"{value:.2g}" if isinstance(value, float) else str(value)
        if name == "head_width" and value == 0:
            text = "linear"
        written.append(f"{PARAMETERS.get(name, name.replace('_', ' '))} {text}")
    if is_solved:
        written.append("solved")
    return ", ".join(written)


def names_of(cut: Cut) -> str:
    """Write a cut's backbone if of several, its module path, and its Keras name where it has one."""
    backbone = f"{cut.backbone} " if cut.backbone else ""
    return f"{backbone}{cut.name} ({cut.keras_name})" if cut.keras_name else f"{backbone}{cut.name}"


def layer_of(cut: Cut) -> str:
    """Write a cut's backbone if of several, and its layer's number."""
    return f"{cut.backbone} layer {cut.layer}" if cut.backbone else f"layer {cut.layer}"


def layer_ranges(cuts: Sequence[Cut], places: Sequence[int]) -> str:
    """Write places of candidates as ranges of layer numbers, such as ``140 to 151, 312``.

    Those of several backbones begin with its name and stand between semicolons.
    """
    written = []
    for backbone, of_backbone in groupby(places, key=lambda place: cuts[place].backbone):
        ranges = ", ".join(
            str(cuts[run[0]].layer) if len(run) == 1 else f"{cuts[run[0]].layer} to {cuts[run[-1]].layer}"
            for run in runs(list(of_backbone))
        )
        written.append(f"{backbone} {ranges}" if backbone else ranges)
    return "; ".join(written)


def runs(numbers: Sequence[int]) -> Iterator[list[int]]:
    """Divide rising numbers into runs without a gap."""
    for _, members in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        yield [number for _, number in members]


def millions(count: int) -> str:
    """Write a count as millions with three digits, or as billions; a small one in full."""
    if count < SMALL:
        return f"{count:,.0f}"
    scaled, unit = (count / 1e9, " G") if count >= 1e9 else (count / 1e6, " M")
    return f"{scaled:.3g}{unit}"
