"""The errors that depthsearch raises for what its user can mend.

    DepthsearchError
    ├── TraceError     the model cannot be followed operation by operation
    ├── CutError       no such cut, or none at all
    ├── DataError      the images cannot be used
    ├── WeightsError   the pretrained weights cannot be had or do not fit
    ├── SettingsError  an option's value, or two that do not go together
    ├── StudyError     the stored study cannot be gone on with
    ├── StorageError   the database is away for too long, or refuses (in `storage`: Optuna's error as well)
    ├── ModelError     a model folder that cannot be written or used
    └── TrainingError  a training that cannot go on
        └── DivergedError  its loss is not finite

Each message is one line: what was given, what would be right, the next step. The command line prints it
and exits with status 2, or 75 where the database was away for too long; anything else that surfaces is a
bug of ours and keeps its traceback.
"""


class DepthsearchError(Exception):
    """Anything that the user can mend."""


class TraceError(DepthsearchError):
    """A model whose operations cannot be followed."""


class CutError(DepthsearchError):
    """A cut that the model does not have."""


class DataError(DepthsearchError):
    """Images that cannot be used."""


class WeightsError(DepthsearchError):
    """Weights that cannot be had or do not fit."""


class SettingsError(DepthsearchError):
    """A value that cannot be used, or values that do not go together."""


class StudyError(DepthsearchError):
    """A stored study that cannot be gone on with."""


class ModelError(DepthsearchError):
    """A model folder that cannot be written or used."""


class TrainingError(DepthsearchError):
    """A training that cannot go on."""


class DivergedError(TrainingError):
    """A training whose loss is not finite."""
