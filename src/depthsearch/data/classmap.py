"""Classes under other names, several under one: superclasses of a set that has finer ones."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from depthsearch.data.listing import Listing
from depthsearch.errors import DataError
from depthsearch.files import read_regular
from depthsearch.text import a_few

_MOST_BYTES = 2**26
_EXAMPLE = 'Give a JSON object such as {"oak": "tree", "elm": "tree", "rose": "flower"}.'


def mapped(listing: Listing, file: Path) -> Listing:
    """Rename the classes of a listing as a file says.

    The fingerprint is that of the new classes; a map that changes no name changes nothing.

    Args:
        listing: The images.
        file: A JSON object, from the name of each class to its new name.

    Raises:
        DataError: If the file cannot be used, or does not fit the classes.
    """
    names = _read(file)
    _refuse_misfits(listing, names, file)
    if all(old == new for old, new in names.items()):
        return listing
    classes = tuple(sorted(set(names.values())))
    if len(classes) == 1:
        raise DataError(f"{file} maps every class to {classes[0]!r}. Leave two or more.")
    places = {name: place for place, name in enumerate(classes)}
    new_label = np.array([places[names[name]] for name in listing.classes], dtype=np.int64)
    labels = new_label[listing.labels]
    mapping = f"{len(listing.classes)} classes mapped to {len(classes)} by {file.name}"
    return replace(
        listing,
        classes=classes,
        labels=labels,
        known_by=tuple(
            f"{classes[label]}: {known}" for label, known in zip(labels, listing.known_by, strict=True)
        ),
        layout=f"{listing.layout}; {mapping}".removeprefix("; "),
    )


def _read(file: Path) -> dict[str, str]:
    try:
        content = read_regular(file, most_bytes=_MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"No file {file} for --classes-map. {_EXAMPLE}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "reason", "")
        raise DataError(f"Cannot read {file} for --classes-map: {reason}. {_EXAMPLE}") from error
    try:
        names = json.loads(content, object_pairs_hook=partial(_without_repeats, file))
    except RecursionError as error:
        raise DataError(f"{file} is no JSON object of names: it is nested too deeply. {_EXAMPLE}") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file} is no JSON: {error.msg} in line {error.lineno}, column {error.colno}. {_EXAMPLE}"
        ) from error
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file} holds no JSON object of names. {_EXAMPLE}")
    for old, new in names.items():
        if not isinstance(new, str) or not new.strip():
            raise DataError(f"{file} maps {old!r} to {json.dumps(new)}, which is no name. {_EXAMPLE}")
    return names


def _without_repeats(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = Counter(name for name, _ in pairs)
    if repeated := [name for name, n in counts.items() if n > 1]:
        raise DataError(f"{file} names {a_few(repeated)} more than once. Give each class one new name.")
    return dict(pairs)


def _refuse_misfits(listing: Listing, names: Mapping[str, str], file: Path) -> None:
    unknown = sorted(set(names) - set(listing.classes))
    if unknown:
        near = difflib.get_close_matches(unknown[0], listing.classes, n=1)
        hint = f"Near {unknown[0]!r}: {near[0]!r}" if near else f"It has {a_few(listing.classes)}"
        raise DataError(
            f"{file} names {len(unknown)} that are no class of {listing.name}: {a_few(unknown)}. {hint}."
        )
    left_out = sorted(set(listing.classes) - set(names))
    if left_out:
        raise DataError(
            f"{file} leaves out {len(left_out)} of the {len(listing.classes)} classes of {listing.name}: "
            f"{a_few(left_out)}. Map each, to its own name if it is to stay."
        )
