"""Several attributes of a study written at once, where Optuna writes one after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import optuna
import sqlalchemy

from depthsearch.study.storage.optuna_private import SYSTEM_ATTRIBUTES, database_of, storage_of, study_id_of
from depthsearch.study.storage.patient import patiently

__all__ = ["set_system_attrs"]


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
