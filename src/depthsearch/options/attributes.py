"""The names under which a study stores what is known of it: user attributes of the study and of its trials.

They are an interface, explained in docs/reference/stored-attributes.md: whoever changes what one of them
holds raises `FORMAT`. Written by `study`, `training`, `search` and `classifier`, read by `results`.
"""

from __future__ import annotations

from enum import StrEnum

# Of all that is stored. Studies of another are refused.
FORMAT = 1


class StudyKey(StrEnum):
    """User attributes of a study."""

    FORMAT = "format"
    SETTINGS = "settings"
    CUTS = "cuts"
    BACKBONES = "backbones"
    DATA = "data"
    RECIPE = "recipe"
    PROVENANCE = "provenance"
    CHECKPOINT_ID = "checkpoint_id"
    ANCHORS = "anchors"
    TRANSFER_CURVE = "transfer_curve"
    AIM = "aim"
    WANTED = "wanted"
    CONFIRMATION = "confirmation"
    MARKED = "marked"
    COORDINATOR = "coordinator"
    STOP_REQUEST = "stop_request"
    FIT = "fit"
    TEST_READINGS = "test_readings"
    EXPLAINED = "explained"


class TrialKey(StrEnum):
    """User attributes of a trial."""

    ORIGIN = "origin"
    CUT_LAYER = "cut_layer"
    CUT_NAME = "cut_name"
    CUT_KIND = "cut_kind"
    CUT_KERAS_NAME = "cut_keras_name"
    FROZEN_MAC_SHARE = "frozen_mac_share"
    TRAINING_MACS = "training_macs"
    TRAINABLE_PARAMETERS = "trainable_parameters"
    HEAD_WEIGHTS = "head_weights"
    RESULTS = "results"
    MACS = "macs"
    PLAIN_MACS = "plain_macs"
    KEPT_BYTES = "kept_bytes"
    READ_BYTES = "read_bytes"
    SECONDS = "seconds"
    REASON = "reason"
    DIVERGED = "diverged"
    LOST = "lost"
    PRUNE_AT = "prune_at"
    PAUSED = "paused"
    RESUMED = "resumed"
    TO_THE_END = "to_the_end"
    CONFIRMS = "confirms"
    SEED = "seed"
    RESAMPLE = "resample"
    DROPPED = "dropped"


def curve_key(backbone: str) -> str:
    """Return the study's attribute of a backbone's transfer curve; the name is empty if it has only one."""
    return f"{StudyKey.TRANSFER_CURVE}_{backbone}" if backbone else str(StudyKey.TRANSFER_CURVE)
