"""A trial's attributes and scores written in few statements: as Optuna writes them, all of them or none."""

from pathlib import Path

import optuna
import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from depthsearch.study.storage import patient
from depthsearch.study.storage.attributes import set_trial_attrs
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import storage_of, study_id_of, trial_id_of

VALUES = {"results": [{"é": 1.5}], "macs": 10**15, "reason": None, "head_weights": (1, 2)}
SCORES = {1: 0.123456789012345, 2: float("nan"), 3: float("inf"), 4: float("-inf")}


def stored(study: optuna.Study, number: int) -> tuple[str, str]:
    """Read a trial's attributes and scores afresh."""
    trial = storage_of(study).get_trial(trial_id_of(study, number))
    return repr(trial.user_attrs), repr(dict(sorted(trial.intermediate_values.items())))


def check(url: str) -> None:
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage)
    ours, optunas, other = (study.ask() for _ in range(3))
    for values, score in ((VALUES, 0.0), (VALUES | {"macs": 7}, 1.0)):
        set_trial_attrs(ours, values)
        for key, value in values.items():
            RDBStorage.set_trial_user_attr(storage, trial_id_of(study, optunas.number), key, value)
        for step, end in SCORES.items():
            storage.set_trial_intermediate_value(trial_id_of(study, ours.number), step, end + score)
            by_optuna = (storage, trial_id_of(study, optunas.number), step, end + score)
            RDBStorage.set_trial_intermediate_value(*by_optuna)
        assert stored(study, ours.number) == stored(study, optunas.number)
    assert stored(study, other.number) == ("{}", "{}")
    for number in range(3):
        trial_id = trial_id_of(study, number)
        read = repr(storage.get_trial(trial_id))
        assert read == repr(RDBStorage.get_trial(storage, trial_id))


def test_what_is_written_is_what_optuna_writes(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path}/s.db")


@pytest.mark.slow
def test_what_is_written_is_what_optuna_writes_to_postgresql(postgres_url: str) -> None:
    """Guards our own statements against Optuna's, on the other database."""
    check(postgres_url)


def test_a_database_of_another_kind_is_written_to_by_optuna(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(patient, "can_write", lambda kind: False)
    check(f"sqlite:///{tmp_path}/s.db")


@pytest.mark.parametrize("kind", ["database", "memory", "journal", "Optuna's database"])
def test_attributes_set_at_once_are_those_of_the_trial_and_of_its_study(kind: str, tmp_path: Path) -> None:
    storages: dict[str, BaseStorage] = {
        "database": open_storage(f"sqlite:///{tmp_path}/s.db"),
        "memory": InMemoryStorage(),
        "journal": JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
        "Optuna's database": RDBStorage(f"sqlite:///{tmp_path}/optuna.db"),
    }
    study = optuna.create_study(storage=storages[kind])
    trial = study.ask()
    trial.set_user_attr("before", 1)
    set_trial_attrs(trial, {"macs": 7, "seconds": 0.5})
    assert trial.user_attrs == {"before": 1, "macs": 7, "seconds": 0.5} == study.trials[0].user_attrs


def test_where_one_attribute_cannot_be_stored_none_is(tmp_path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/s.db"))
    trial = study.ask()
    with pytest.raises(TypeError, match="not JSON serializable"):
        set_trial_attrs(trial, {"macs": 7, "results": object()})
    assert stored(study, 0) == ("{}", "{}")
    assert trial.user_attrs == {}


def test_a_trial_that_has_ended_is_not_written_to(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(UpdateFinishedTrialError, match="can not be updated"):
        set_trial_attrs(trial, {"macs": 7})
    with pytest.raises(UpdateFinishedTrialError, match="can not be updated"):
        storage.set_trial_intermediate_value(trial_id_of(study, 0), 1, 0.5)


def test_a_trial_of_a_deleted_study_is_a_key_error(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage)
    trial = study.ask()
    trial_id = trial_id_of(study, trial.number)
    storage.delete_study(study_id_of(study))
    for use in (
        lambda: storage.get_trial(trial_id),
        lambda: storage.set_trial_user_attrs(trial_id, {"macs": 7}),
        lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.5),
    ):
        with pytest.raises(KeyError, match="Record does not exist"):
            use()
