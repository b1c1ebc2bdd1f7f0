"""What the public functions draw from: a study, read once into values."""

from __future__ import annotations

import optuna

from depthsearch.errors import SettingsError
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, summarize


def read_part(study: optuna.Study | StoredStudy, backbone: str | None) -> Summary:
    """Read what figures show of one backbone of a study.

    Args:
        study: Which.
        backbone: Its name; None: that of the answer, which with one backbone is the only one.

    Raises:
        SettingsError: If the study has no such backbone.
    """
    summary = summarize(study)
    parts = {part.backbone: part for part in summary.each}
    if backbone is None:
        return next((part for part in summary.parts if part.holds_answer), summary)
    if backbone not in parts:
        raise SettingsError(
            f"Study {summary.study!r} has no backbone {backbone!r}. Give one of: {', '.join(parts)}."
        )
    return parts[backbone]
