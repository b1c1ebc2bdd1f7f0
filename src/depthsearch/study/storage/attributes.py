"""Several attributes of a study or a trial written at once, where Optuna writes one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy

from depthsearch.study.storage.optuna_private import (
    SYSTEM_ATTRIBUTES,
    database_of,
    note_user_attrs,
    storage_of,
    study_id_of,
    trial_id_of,
)
from depthsearch.study.storage.patient import PatientStorage, patiently


def set_system_attrs(study: optuna.Study, values: Mapping[str, Any]) -> None:
    """Set system attributes of a study in one transaction: a reader sees all of them or none.

    Args:
        study: The study; in a process's memory they are set one after the other.
        values: JSON values by attribute name.

    Raises:
        StorageInternalError: If the database refuses, or is away for long.
    """
    storage, study_id = database_of(study), study_id_of(study)
    if storage is None or len(values) == 1:
        for key, value in values.items():
            storage_of(study).set_study_system_attr(study_id, key, value)
        return
    rows = [
        {"study_id": study_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()
    ]
    old = (SYSTEM_ATTRIBUTES.c.study_id == study_id) & SYSTEM_ATTRIBUTES.c.key.in_(values)

    def write(_: bool) -> None:
        with storage.engine.begin() as connection:
            connection.execute(sqlalchemy.delete(SYSTEM_ATTRIBUTES).where(old))
            connection.execute(sqlalchemy.insert(SYSTEM_ATTRIBUTES), rows)

    patiently(storage, write, writes=True)


def set_trial_attrs(trial: optuna.Trial, values: Mapping[str, Any]) -> None:
    """Set user attributes of a running trial in one transaction.

    Args:
        trial: The trial; one in a process's memory or in a journal gets them one after the other.
        values: JSON values by attribute name.

    Raises:
        StorageInternalError: If the database refuses, or is away for long.
        UpdateFinishedTrialError: If the trial has ended.
    """
    storage = database_of(trial.study)
    if not isinstance(storage, PatientStorage):
        for key, value in values.items():
            trial.set_user_attr(key, value)
        return
    storage.set_trial_user_attrs(trial_id_of(trial.study, trial.number), values)
    note_user_attrs(trial, values)
