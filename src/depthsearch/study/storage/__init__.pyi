from .attributes import set_system_attrs as set_system_attrs, set_trial_attrs as set_trial_attrs
from .connecting import is_of_one_thread as is_of_one_thread
from .opening import check_storage as check_storage, open_storage as open_storage
from .optuna_private import database_of as database_of
from .patient import PatientStorage as PatientStorage, StorageError as StorageError, patiently as patiently
