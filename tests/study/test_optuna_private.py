"""Optuna's private names that are used: each is there, and does what is wanted of it."""

from types import FunctionType

import optuna
import pytest
from optuna.artifacts import _upload, get_all_artifact_meta, upload_artifact
from optuna.storages import InMemoryStorage, RDBStorage
from optuna.trial import TrialState

from depthsearch.study.artifacts import Artifacts
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import (
    database_of,
    fixed_params,
    forget_artifact,
    list_artifacts,
    planned_params,
    storage_of,
    study_id_of,
    trial_id_of,
)

FOUND_IN = "5.0.0"
# The methods of a database that Optuna's cache calls: `PatientStorage` waits in them.
OVERRIDDEN = ("_get_trials", "_get_best_trial_id", "_create_new_trial", "_set_trial_param")


def names_in(method: object) -> tuple[str, ...]:
    return method.__code__.co_names if isinstance(method, FunctionType) else ()


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_a_method_that_is_overridden_is_still_called_by_that_name(name: str) -> None:
    cache = vars(type(storage_of(optuna.create_study(storage="sqlite://"))))
    called = {used for method in cache.values() for used in names_in(method)}
    told = f"Optuna {optuna.__version__} has no RDBStorage.{name}, which {FOUND_IN} had: mend PatientStorage."
    assert hasattr(RDBStorage, name), told
    assert name in called, told


def test_what_is_read_of_private_names_is_there() -> None:
    told = f"Optuna {optuna.__version__} has no {{}}, which {FOUND_IN} had: mend optuna_private."
    study = optuna.create_study(storage="sqlite://")
    assert hasattr(study, "_storage"), told.format("Study._storage")
    assert hasattr(study, "_study_id"), told.format("Study._study_id")
    assert hasattr(study._storage, "_backend"), told.format("_CachedStorage._backend")
    assert hasattr(study.ask(), "_cached_frozen_trial"), told.format("Trial._cached_frozen_trial")
    assert hasattr(_upload, "ARTIFACTS_ATTR_PREFIX"), told.format("artifacts._upload.ARTIFACTS_ATTR_PREFIX")


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_database_of_a_study_is_what_it_was_made_with(in_memory: bool) -> None:
    storage = InMemoryStorage() if in_memory else open_storage("sqlite://")
    study = optuna.create_study(study_name="s", storage=storage)
    assert database_of(study) is (None if in_memory else storage)
    assert storage_of(study).get_study_name_from_id(study_id_of(study)) == "s"


def test_numbers_of_trials_are_those_of_their_study() -> None:
    storage = open_storage("sqlite://")
    first, second = (optuna.create_study(study_name=name, storage=storage) for name in "ab")
    first.ask()
    number = second.ask().number
    assert trial_id_of(second, number) != trial_id_of(first, number)
    storage_of(second).set_trial_state_values(trial_id_of(second, number), state=TrialState.FAIL)
    assert [study.get_trials()[number].state.name for study in (first, second)] == ["RUNNING", "FAIL"]


def test_what_a_trial_was_enqueued_with_is_known_before_and_after_it_has_begun() -> None:
    study = optuna.create_study()
    study.enqueue_trial({"x": 0.5})
    (waiting,) = study.get_trials()
    assert fixed_params(waiting) == planned_params(waiting) == {"x": 0.5}
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_int("y", 3, 3)
    (begun,) = study.get_trials()
    assert (fixed_params(begun), planned_params(begun)) == ({"x": 0.5}, {"x": 0.5, "y": 3})
    study.ask()
    assert fixed_params(study.get_trials()[1]) == {}


def test_an_artifact_that_is_forgotten_is_listed_no_more(tmp_path) -> None:
    study = optuna.create_study()
    (tmp_path / "a.txt").write_text("a")
    store = Artifacts(tmp_path / "artifacts")
    kept, gone = (
        upload_artifact(artifact_store=store, file_path=str(tmp_path / "a.txt"), study_or_trial=study)
        for _ in range(2)
    )
    assert list_artifacts(study) == {meta.artifact_id: "a.txt" for meta in get_all_artifact_meta(study)}
    forget_artifact(study, gone)
    assert list_artifacts(study) == {kept: "a.txt"}
