"""Where optuna-dashboard finds a study's note and plots: system attributes of the study.

Its own `save_note` and `save_plotly_graph_object` cut a text into pieces of 2,045 letters and write one after
the other, so that who looks meanwhile gets half of the old and half of the new. Here each text is one value,
written in the transaction that takes its old pieces away; what has not changed is not written at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA
from optuna_dashboard._note import get_note_from_system_attrs, note_str_key_prefix, note_ver_key
from plotly.graph_objects import Figure

from depthsearch.signals import deferred
from depthsearch.study.storage.attributes import set_system_attrs
from depthsearch.study.storage.optuna_private import storage_of, study_id_of

# Lines that Markdown shows nothing of. Between them stands what depthsearch writes.
BEGIN = "[//]: # (depthsearch begins: what stands from here to its end is written anew after each trial)"
END = "[//]: # (depthsearch ends: words of your own are kept, here and above its beginning)"


def keep_note(study: optuna.Study, text: str) -> bool:
    """Put a text into a study's note, in the place of the last one; what others wrote around it stays.

    The note's version stays too, as it counts what people save: the dashboard refuses whoever edits a note
    whose version has moved on, which would be after each trial. What they save may hold an old text of ours,
    in whose place the next one comes.

    Args:
        study: Whose.
        text: Markdown.

    Returns:
        Whether anything was written.
    """
    attributes = _attributes(study)
    body = with_ours(get_note_from_system_attrs(attributes, None)["body"], text)
    is_new = _keep(study, attributes, note_str_key_prefix(None), body)
    if note_ver_key(None) not in attributes:
        with deferred():
            storage_of(study).set_study_system_attr(study_id_of(study), note_ver_key(None), 1)
    return is_new


def with_ours(note: str, text: str) -> str:
    """Return a note with a text of ours between its markers, above all else where it has none.

    A marker without its counterpart is taken out, and all else taken for a person's own words.
    """
    ours = f"{BEGIN}\n\n{text.strip()}\n\n{END}"
    before, begin, rest = note.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return f"{before}{ours}{after}"
    theirs = note.replace(BEGIN, "").replace(END, "").strip()
    return f"{ours}\n\n{theirs}" if theirs else ours


def keep_plot(study: optuna.Study, name: str, figure: Figure) -> bool:
    """Keep a figure where the dashboard draws it.

    Args:
        study: Whose.
        name: Letters, digits, dots, hyphens and underscores; a figure of this name is replaced.
        figure: Of `depthsearch.visualization`.

    Returns:
        Whether anything was written.
    """
    return _keep(study, _attributes(study), f"{SYSTEM_ATTR_PLOT_DATA}{name}:", figure.to_json())


def _attributes(study: optuna.Study) -> dict[str, Any]:
    return storage_of(study).get_study_system_attrs(study_id_of(study))


def _keep(study: optuna.Study, attributes: Mapping[str, Any], prefix: str, text: str) -> bool:
    """Write a text as the first piece of what has a prefix; empty the others, as the dashboard joins all."""
    pieces = {key: "" for key in attributes if key.startswith(prefix)} | {f"{prefix}0": text}
    changed = {key: value for key, value in pieces.items() if attributes.get(key) != value}
    if changed:
        with deferred():
            set_system_attrs(study, changed)
    return bool(changed)
