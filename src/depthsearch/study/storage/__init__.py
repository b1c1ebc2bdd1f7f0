"""The database that studies live in: SQLite on one machine, PostgreSQL for several."""

from depthsearch.study.storage.attributes import set_system_attrs, set_trial_attrs
from depthsearch.study.storage.connecting import is_of_one_thread
from depthsearch.study.storage.opening import check_storage, open_storage
from depthsearch.study.storage.optuna_private import database_of
from depthsearch.study.storage.patient import PatientStorage, StorageError, patiently

__all__ = [
    "PatientStorage",
    "StorageError",
    "check_storage",
    "database_of",
    "is_of_one_thread",
    "open_storage",
    "patiently",
    "set_system_attrs",
    "set_trial_attrs",
]
