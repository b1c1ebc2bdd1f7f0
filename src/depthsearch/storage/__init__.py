"""The database that studies live in: SQLite on one machine, PostgreSQL for several."""

from depthsearch.storage.connecting import database_of, is_of_one_thread
from depthsearch.storage.opening import check_storage, open_storage
from depthsearch.storage.patient import PatientStorage, StorageError

__all__ = [
    "PatientStorage",
    "StorageError",
    "check_storage",
    "database_of",
    "is_of_one_thread",
    "open_storage",
]
