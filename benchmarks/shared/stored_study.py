"""Studies that were never trained, stored as real ones are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import optuna

from depthsearch import Cut, Recipe
from depthsearch.options.attributes import FORMAT, StudyKey
from depthsearch.results import StoredBackbone, StoredData

__all__ = ["describe"]


def describe(study: optuna.Study, cuts: Sequence[Cut], *, epochs: int) -> None:
    """Store what a study of one backbone has beside its trials."""
    backbone = StoredBackbone(
        name="backbone",
        weights="random",
        digest="0",
        preprocessing={},
        data_fingerprint="0",
        full_fine_tune_macs=10_000,
    )
    images = {"train": 300, "val": 100, "test": 50}
    data = StoredData(name="photos", source="photos", fingerprint="0", classes=["a", "b"], images=images)
    for key, value in {
        StudyKey.FORMAT: FORMAT,
        StudyKey.SETTINGS: {"search": "adaptive", "learning_rate": [1e-5, 1e-2]},
        StudyKey.CUTS: [asdict(cut) for cut in cuts],
        StudyKey.BACKBONES: {"": asdict(backbone)},
        StudyKey.DATA: asdict(data),
        StudyKey.RECIPE: asdict(Recipe(epochs=epochs)),
        StudyKey.PROVENANCE: {},
    }.items():
        study.set_user_attr(key, value)
