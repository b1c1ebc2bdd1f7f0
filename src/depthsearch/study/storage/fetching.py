"""A study's attributes and trials out of a database, in as few queries as there are answers.

Optuna asks once for each of the six tables that trials lie in, and for the study besides.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Float, String, bindparam
from sqlalchemy.engine import Connection, Row

from depthsearch.study.storage.optuna_private import USER_ATTRIBUTES, models

# How Optuna stores numbers that are not finite, in scores and in values.
NUMBERS = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}

# By kind: what a trial has of it, each with its place, its name, its number and its text.
Details = dict[str, list[tuple[int, str, float, str]]]


class _Compiled(dict[Any, Any]):
    """What statements become for a kind of database, whichever storage asks first.

    SQLAlchemy's key begins with the dialect, of which each storage has an object of its own.
    """

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((type(key[0]), *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((type(key[0]), *key[1:]), value)


def _part(
    wanted: Any, kind: str, model: Any, name: Any, text: Any, number: Any = None
) -> sqlalchemy.Select[Any]:
    """Select what trials have of one kind: its name, its number and its text."""
    table = model.__table__
    (place,) = table.primary_key
    nothing = sqlalchemy.cast(sqlalchemy.null(), Float(53))
    return sqlalchemy.select(
        sqlalchemy.literal_column(f"'{kind}'", String).label("kind"),
        table.c.trial_id.label("trial_id"),
        place.label("place"),
        sqlalchemy.cast(table.c[name], String).label("name"),
        (nothing if number is None else table.c[number]).label("number"),
        sqlalchemy.cast(table.c[text], sqlalchemy.Text).label("text"),
    ).where(table.c.trial_id.in_(wanted))


STUDY_ID = models.StudyModel.__table__.c.study_id
TRIALS, SCORES = models.TrialModel.__table__, models.TrialIntermediateValueModel
THE_STUDY = bindparam("study_id") == STUDY_ID
IS_WANTED = (
    (TRIALS.c.study_id == bindparam("study_id"))
    & ((TRIALS.c.trial_id > bindparam("after")) | TRIALS.c.trial_id.in_(bindparam("older", expanding=True)))
    & TRIALS.c.state.in_(bindparam("states", expanding=True))
)
COMPILED = _Compiled()
# Of a study without any there is one empty row, of none there is no row.
SELECT_ATTRIBUTES = (
    sqlalchemy.select(USER_ATTRIBUTES.c.key, USER_ATTRIBUTES.c.value_json)
    .select_from(STUDY_ID.table.outerjoin(USER_ATTRIBUTES))
    .where(THE_STUDY)
)
SELECT_TRIALS = (
    sqlalchemy.select(TRIALS)
    .select_from(STUDY_ID.table.outerjoin(TRIALS, IS_WANTED))
    .where(THE_STUDY)
    .order_by(TRIALS.c.trial_id)
)


def _details(wanted: Any) -> sqlalchemy.CompoundSelect[Any]:
    """Select all that trials have beside their own rows.

    Args:
        wanted: Their numbers in the database, or what selects these.
    """
    return sqlalchemy.union_all(
        _part(wanted, "param", models.TrialParamModel, "param_name", "distribution_json", "param_value"),
        _part(wanted, "value", models.TrialValueModel, "objective", "value_type", "value"),
        _part(wanted, "score", SCORES, "step", "intermediate_value_type", "intermediate_value"),
        _part(wanted, "user", models.TrialUserAttributeModel, "key", "value_json"),
        _part(wanted, "system", models.TrialSystemAttributeModel, "key", "value_json"),
    )


SELECT_DETAILS = _details(sqlalchemy.select(TRIALS.c.trial_id).where(IS_WANTED))
SELECT_TRIAL = sqlalchemy.select(TRIALS).where(TRIALS.c.trial_id == bindparam("trial_id"))
SELECT_ITS_DETAILS = _details([bindparam("trial_id")])


def fetch_user_attrs(connection: Connection, study_id: int) -> dict[str, Any]:
    """Return a study's user attributes.

    Raises:
        KeyError: If there is no such study.
    """
    connection = connection.execution_options(compiled_cache=COMPILED)
    rows = connection.execute(SELECT_ATTRIBUTES, {"study_id": study_id}).all()
    if not rows:
        raise KeyError(models.NOT_FOUND_MSG)
    return {key: json.loads(value) for key, value in rows if key is not None}


def fetch_trials(
    connection: Connection,
    study_id: int,
    states: Container[TrialState] | None,
    included_trial_ids: Iterable[int],
    trial_id_greater_than: int,
) -> list[FrozenTrial]:
    """Return the trials of a study; arguments as of Optuna's ``RDBStorage._get_trials``.

    Raises:
        KeyError: If there is no such study.
    """
    wanted = {
        "study_id": study_id,
        "after": trial_id_greater_than,
        "older": [trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than],
        "states": [state for state in TrialState if states is None or state in states],
    }
    connection = connection.execution_options(compiled_cache=COMPILED)
    rows = connection.execute(SELECT_TRIALS, wanted).all()
    if not rows:
        raise KeyError(models.NOT_FOUND_MSG)
    trials = [row for row in rows if row.trial_id is not None]
    if not trials:
        return []
    details = _by_trial(connection.execute(SELECT_DETAILS, wanted).all())
    return [_trial(row, details[row.trial_id]) for row in trials]


def fetch_trial(connection: Connection, trial_id: int) -> FrozenTrial:
    """Return a trial by its number in the database.

    Raises:
        KeyError: If there is no such trial.
    """
    wanted = {"trial_id": trial_id}
    connection = connection.execution_options(compiled_cache=COMPILED)
    row = connection.execute(SELECT_TRIAL, wanted).one_or_none()
    if row is None:
        raise KeyError(models.NOT_FOUND_MSG)
    return _trial(row, _by_trial(connection.execute(SELECT_ITS_DETAILS, wanted).all())[trial_id])


def _by_trial(rows: Iterable[Any]) -> Mapping[int, Details]:
    details: dict[int, Details] = defaultdict(lambda: defaultdict(list))
    for kind, trial_id, place, name, number, text in rows:
        details[trial_id][kind].append((place, name, number, text))
    return details


def _trial(row: Row[Any], details: Details) -> FrozenTrial:
    params = [(name, number, _distribution(text)) for _, name, number, text in sorted(details["param"])]
    values = {int(name): NUMBERS.get(text, number) for _, name, number, text in details["value"]}
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=[values[objective] for objective in sorted(values)] or None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={name: each.to_external_repr(number) for name, number, each in params},
        distributions={name: each for name, _, each in params},
        user_attrs={name: json.loads(text) for _, name, _, text in details["user"]},
        system_attrs={name: json.loads(text) for _, name, _, text in details["system"]},
        intermediate_values={
            int(name): NUMBERS.get(text, number) for _, name, number, text in sorted(details["score"])
        },
        trial_id=row.trial_id,
    )


# Trials of a study have the same few, and nobody changes one.
@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


def _local(stored: datetime | None) -> datetime | None:
    """Return a time, stored as one of UTC, in this machine's zone, which it does not name."""
    return None if stored is None else stored.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
