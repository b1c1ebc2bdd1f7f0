"""One setting trained and measured."""

from depthsearch.training.loop import EpochResult, Recipe, train
from depthsearch.training.objective import (
    Objective,
    Task,
    TransferCurve,
    full_fine_tune_macs,
    head_size_of,
    note_cost,
    tasks_of,
    train_point,
    transfer_curve,
)
from depthsearch.training.probe import ProbePoint, linear_probe, plateau_start

__all__ = [
    "EpochResult",
    "Objective",
    "ProbePoint",
    "Recipe",
    "Task",
    "TransferCurve",
    "full_fine_tune_macs",
    "head_size_of",
    "linear_probe",
    "note_cost",
    "plateau_start",
    "tasks_of",
    "train",
    "train_point",
    "transfer_curve",
]
