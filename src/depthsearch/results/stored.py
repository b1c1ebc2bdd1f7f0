"""What a stored study says of its backbones, of their candidate cuts, and of what is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from depthsearch.errors import DepthsearchError, StudyError
from depthsearch.models.cuts import Cut
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import SearchSpace

__all__ = [
    "StoredBackbone",
    "curve_key",
    "mark",
    "read_backbones",
    "read_cuts",
    "read_marked",
    "read_space",
    "refuse_damaged",
    "why_unreadable",
]

# The ranges of a space, which a study's settings have under these names.
RANGES = ("learning_rate", "head_width", "head_depth", "dropout", "weight_decay", "optimizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackbone:
    """A backbone that a study searches.

    Attributes:
        name: As ``--backbone`` takes it.
        weights: Where its weights come from.
        digest: Of the weights.
        preprocessing: Of its images, by name.
        data_fingerprint: Of the images, decoded as it wants them.
        full_fine_tune_macs: MACs of training everything once, the unit of its costs.
        build_digest: See `backbones.Backbone.build_digest`.
    """

    name: str
    weights: str
    digest: str
    preprocessing: Mapping[str, Any]
    data_fingerprint: str
    full_fine_tune_macs: int
    build_digest: str = ""


def read_cuts(study: optuna.Study) -> tuple[Cut, ...]:
    """Read the candidates of a study, by depth; of several backbones one after the other."""
    lists = ("aliases", "image_shape")
    return tuple(
        Cut(**{**cut, **{name: tuple(cut[name]) for name in lists if name in cut}})
        for cut in study.user_attrs["cuts"]
    )


def read_space(study: optuna.Study) -> SearchSpace:
    """Read what a study searches; what is fixed besides has no part in it."""
    settings = study.user_attrs["settings"]
    ranges = {name: settings[key] for name in RANGES if (key := f"space: {name}") in settings}
    # The database turned tuples into lists.
    ranges = {name: tuple(value) if isinstance(value, list) else value for name, value in ranges.items()}
    return SearchSpace(cuts=read_cuts(study), **ranges)


def read_backbones(study: optuna.Study) -> dict[str, StoredBackbone]:
    """Read the backbones of a study by the names that its cuts have for them: empty if there is only one."""
    attributes = study.user_attrs
    if "backbones" in attributes:
        return {key: StoredBackbone(**each) for key, each in attributes["backbones"].items()}
    # Stored when a study had one backbone.
    only = StoredBackbone(
        **attributes["backbone"],
        data_fingerprint=attributes["data"]["fingerprint"],
        full_fine_tune_macs=attributes["full_fine_tune_macs"],
    )
    return {"": only}


def mark(study: optuna.Study, cuts: Sequence[Cut]) -> None:
    """Store which of its candidates somebody wants to see pointed out: a guess, a habit, a rival."""
    candidates = read_cuts(study)
    study.set_user_attr("marked", [candidates.index(cut) for cut in cuts])


def read_marked(study: optuna.Study) -> tuple[Cut, ...]:
    """Read which candidates are to be pointed out."""
    cuts = read_cuts(study)
    return tuple(cuts[place] for place in study.user_attrs.get("marked", ()))


def refuse_damaged(study: optuna.Study) -> None:
    """Refuse a study that has settings but cannot be read: damaged, or of a program that has some, too.

    Raises:
        StudyError: Saying what cannot be read.
    """
    reason = why_unreadable(study)
    if reason:
        raise StudyError(
            f"Study {study.study_name!r} is damaged, or was made by another program: {reason}. Restore a "
            "copy of its database, or give another --name."
        )


def why_unreadable(study: optuna.Study) -> str:
    """Say what of a study cannot be read; empty if it can, and where depthsearch did not make it."""
    attributes = study.user_attrs
    if "settings" not in attributes:
        return ""
    for name in ("settings", "data", "provenance"):
        if not isinstance(attributes.get(name, {}), Mapping):
            return f"its {name} are of another kind"
    try:
        read_space(study)
        read_backbones(study)
        read_marked(study)
        if options := attributes.get("provenance", {}).get("options"):
            StudyOptions.from_json(options)
        attributes["data"]["name"], attributes["data"]["fingerprint"]
    except (LookupError, TypeError, AttributeError, ValueError, DepthsearchError) as error:
        return f"{type(error).__name__}, {error}"
    return ""


def curve_key(backbone: str) -> str:
    """Name the study's attribute that a backbone's transfer curve is stored in."""
    return f"transfer_curve_{backbone}" if backbone else "transfer_curve"
