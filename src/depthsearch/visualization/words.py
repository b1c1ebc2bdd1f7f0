"""The words for scores, settings, states and counts that figures, tables and pages share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from depthsearch.models.cuts import Cut
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

__all__ = [
    "STATES",
    "frozen_share",
    "metric_of",
    "millions",
    "setting_of",
    "shown",
    "state_of",
    "with_error",
]

# How a trial ended, or that it has not; `state_of` adds the reason.
STATES = {
    "complete": "complete",
    "pruned": "pruned",
    "fail": "failed",
    "running": "running or interrupted",
    "waiting": "waiting",
}
PARAMETERS = {"learning_rate": "lr", "head_width": "head"}


def shown(score: float | None) -> str:
    """Write a score with the digits that every output gives it."""
    return "–" if score is None or not math.isfinite(score) else f"{score:.4f}"  # noqa: RUF001 (for nothing)


def with_error(score: float | None, standard_error: float | None) -> str:
    """Write a score, and its standard error where it has one."""
    return shown(score) + ("" if standard_error is None else f" ± {standard_error:.4f}")


def metric_of(summary: Summary) -> str:
    """Name the score of a study."""
    return f"validation {summary.metric.replace('_', ' ')}"


def state_of(trial: TrialSummary) -> str:
    """Write how a trial ended, or that it has not."""
    if trial.state == "pruned":
        return trial.reason or f"pruned after epoch {trial.epochs}"
    word = STATES.get(trial.state, trial.state)
    return f"{word}: {trial.reason}" if trial.reason and trial.state == "fail" else word


def frozen_share(cut: Cut) -> str:
    """Write how much of the work lies before a cut."""
    return f"{cut.frozen_mac_share:.1%} of the MACs frozen".replace("%", " %", 1)


def setting_of(params: Mapping[str, Any]) -> str:
    """Write a trial's parameters, the cut left out, as ``lr 0.001, head linear``."""
    written = []
    for name, value in params.items():
        text = f"{value:.2g}" if isinstance(value, float) else str(value)
        if name == "head_width" and value == 0:
            text = "linear"
        written.append(f"{PARAMETERS.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(written)


def millions(count: int) -> str:
    """Write a count as millions with three digits, or as billions."""
    scaled, unit = (count / 1e9, " G") if count >= 1e9 else (count / 1e6, " M")
    return f"{scaled:.3g}{unit}"
