from .costs import (
    full_fine_tune_macs as full_fine_tune_macs,
    head_size_of as head_size_of,
    note_cost as note_cost,
)
from .loop import train as train
from .objective import Objective as Objective, train_point as train_point, transfer_curve as transfer_curve
from .outcomes import (
    EpochResult as EpochResult,
    ProbePoint as ProbePoint,
    TransferCurve as TransferCurve,
    plateau_start as plateau_start,
)
from .probe import linear_probe as linear_probe
from .recipe import Recipe as Recipe
from .task import Task as Task, tasks_of as tasks_of
