"""A trial's attributes and scores into a database, in one statement for all of them.

Optuna loads the trial as an object for each, and opens a transaction for each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy
from optuna.trial import TrialState
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from depthsearch.study.storage.optuna_private import models

# The kinds of database that replace a row where there is one.
INSERTS: Mapping[str, Callable[[Any], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
TRIALS = models.TrialModel.__table__
SELECT_STATE = sqlalchemy.select(TRIALS.c.state).where(TRIALS.c.trial_id == sqlalchemy.bindparam("trial_id"))


def _upserts(model: Any, key: str, values: Sequence[str]) -> Mapping[str, Any]:
    """Make the statement that inserts rows or replaces their values, by kind of database."""
    table, statements = model.__table__, {}
    for kind, insert in INSERTS.items():
        statement = insert(table)
        new = {name: statement.excluded[name] for name in values}
        statements[kind] = statement.on_conflict_do_update(
            index_elements=[table.c.trial_id, table.c[key]], set_=new
        )
    return statements


UPSERT_USER_ATTRS = _upserts(models.TrialUserAttributeModel, "key", ["value_json"])
SCORES = models.TrialIntermediateValueModel
UPSERT_SCORE = _upserts(SCORES, "step", ["intermediate_value", "intermediate_value_type"])


def can_write(kind: str) -> bool:
    """Return whether this module can write to a kind of database, by SQLAlchemy's name of it."""
    return kind in INSERTS


def state_of(connection: Connection, trial_id: int) -> TrialState:
    """Return a trial's state.

    Raises:
        KeyError: If there is no such trial.
    """
    state: TrialState | None = connection.execute(SELECT_STATE, {"trial_id": trial_id}).scalar()
    if state is None:
        raise KeyError(models.NOT_FOUND_MSG)
    return state


def write_user_attrs(connection: Connection, trial_id: int, values: Mapping[str, Any]) -> None:
    """Set user attributes of a trial: JSON values by name."""
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in values.items()
    ]
    connection.execute(UPSERT_USER_ATTRS[connection.dialect.name], rows)


def write_score(connection: Connection, trial_id: int, step: int, score: float) -> None:
    """Set a trial's score at a step."""
    number, kind = SCORES.intermediate_value_to_stored_repr(score)
    row = {"trial_id": trial_id, "step": step, "intermediate_value": number, "intermediate_value_type": kind}
    connection.execute(UPSERT_SCORE[connection.dialect.name], row)
