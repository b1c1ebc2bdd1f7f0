"""All uses of Optuna's private names, which another version may not have.

`PatientStorage` also overrides the methods by which Optuna's cache calls a database. The test of this module
lists all of them, and names the version that has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

# Each key of a study stands there once.
USER_ATTRIBUTES = models.StudyUserAttributeModel.__table__
SYSTEM_ATTRIBUTES = models.StudySystemAttributeModel.__table__


def storage_of(study: Study) -> BaseStorage:
    """Return the storage that a study is read from and written to."""
    return study._storage


def database_of(study: Study) -> RDBStorage | None:
    """Return the database behind a study; None if it is kept in this process's memory or in a journal."""
    storage = study._storage
    # Optuna wraps a database in a cache.
    backend = getattr(storage, "_backend", storage)
    return backend if isinstance(backend, RDBStorage) else None


def study_id_of(study: Study) -> int:
    """Return the number that a study has in its storage, also of one that was deleted meanwhile."""
    # The public way queries the database by the study's name, each time.
    return study._study_id


def trial_id_of(study: Study, number: int) -> int:
    """Return the number that a trial has in its storage, where trials of several studies are."""
    return study._storage.get_trial_id_from_study_id_trial_number(study_id_of(study), number)


def note_user_attrs(trial: Trial, values: Mapping[str, Any]) -> None:
    """Let a trial know user attributes that were stored by another way than its own."""
    trial._cached_frozen_trial.user_attrs.update(values)


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the parameters that a trial was enqueued with; empty if it was not."""
    return dict(trial.system_attrs.get("fixed_params", {}))


def planned_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's parameters, also those of one that is enqueued and has not begun."""
    return {**fixed_params(trial), **trial.params}


def list_artifacts(study: Study) -> Mapping[str, str]:
    """Return the names of a study's artifacts by their identifiers.

    Optuna's own list fails at artifacts that were deleted in the dashboard, which leaves a null.
    """
    attributes = study._storage.get_study_system_attrs(study_id_of(study))
    stored = (json.loads(text) for key, text in attributes.items() if key.startswith(ARTIFACTS_ATTR_PREFIX))
    return {each["artifact_id"]: each["filename"] for each in stored if each is not None}


def forget_artifact(study: Study, artifact_id: str) -> None:
    """Remove an artifact from a study's list, as the dashboard does; its file stays."""
    key = ARTIFACTS_ATTR_PREFIX + artifact_id
    study._storage.set_study_system_attr(study_id_of(study), key, json.dumps(None))
