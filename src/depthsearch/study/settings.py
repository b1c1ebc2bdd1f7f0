"""The settings of a study, all that makes two trials comparable: stored with it, and compared ever after."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from depthsearch.errors import SettingsError, StudyError
from depthsearch.options.backbones import plain_name
from depthsearch.options.declaring import flag_of, options_of, text_of
from depthsearch.options.study import StudyOptions

# Settings that an option of the same name decides alone, where it is given or has a default.
PLAIN = (
    *("epochs", "late_passes", "batch_size", "schedule", "label_smoothing", "metric", "seed", "momentum"),
    *("views", "augment", "balance", "head", "image_size", "learning_rate"),
)


def default_name(options: StudyOptions, data_name: str) -> str:
    """Name a study that is given no name by its backbones and images."""
    return f"{'-'.join(map(plain_name, options.backbone))}-{data_name}"


def settings_given(options: StudyOptions) -> dict[str, Any]:
    """Return the settings that are known from the options alone, all defaults filled in."""
    values = {name: getattr(options, name) for name in PLAIN}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def refuse_other_settings(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse to go on with a study under other settings.

    Args:
        name: Of the study.
        stored: Its settings.
        given: The ones to compare, or some of them.

    Raises:
        StudyError: If some differ, naming each.
    """
    differences = [
        f"{_typed(key, stored.get(key))} (here {_value(key, value)})"
        for key, value in given.items()
        if _content(stored.get(key)) != _content(value)
    ]
    if differences:
        raise StudyError(
            f"Study {name!r} is stored with other settings: {'; '.join(differences)}. To go on with it, give "
            "what is stored; for a new study, give another --name."
        )


def _content(value: Any) -> Any:
    """Return a setting's fingerprint if it has one: a file or folder may have been renamed."""
    if isinstance(value, list):
        return [_content(part) for part in value]
    fingerprint = re.search(r"\[(\w+)\]$", value) if isinstance(value, str) else None
    return fingerprint[1] if fingerprint else value


def _typed(key: str, value: Any) -> str:
    """Write a setting as it is typed, where an option decides it."""
    return f"{flag_of(key) if key in options_of(StudyOptions) else key} {_value(key, value)}"


def _value(key: str, value: Any) -> str:
    option = options_of(StudyOptions).get(key)
    if option is None or option.kind is None:
        return str(value)
    try:
        return text_of(option.kind, value)
    except SettingsError:
        # Of some settings there is no value, or one for each backbone.
        return str(value)
