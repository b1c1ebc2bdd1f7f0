"""Trials and attributes read in few queries: the same as Optuna reads in many."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from depthsearch.study.storage import fetching
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import study_id_of

RANGES = {
    "c": CategoricalDistribution(("a", "b")),
    "i": IntDistribution(0, 10),
    "f": FloatDistribution(1e-5, 1, log=True),
}
SCORES = {3: float("nan"), 1: float("-inf"), 2: 0.123456789012345, 4: float("inf")}


def filled(study: optuna.Study) -> None:
    """Add a trial of every state, with every kind of number."""
    study.set_user_attr("settings", {"a": [1, None]})
    study.add_trial(
        create_trial(
            value=float("inf"),
            params={"i": 3, "c": "b", "f": 1e-5},
            distributions=RANGES,
            intermediate_values=SCORES,
            user_attrs={"results": [{"é": 1}]},
            system_attrs={"one": 1},
        )
    )
    study.add_trial(create_trial(state=TrialState.FAIL))
    for number in (2, 5):
        study.enqueue_trial({"i": number}, user_attrs={"origin": "guess"})
    trial = study.ask()
    trial.suggest_int("i", 0, 10)
    trial.report(0.5, step=1)
    study.add_trial(create_trial(value=0.1, params={"i": 1}, distributions={"i": RANGES["i"]}))


def plain(trials: list[FrozenTrial]) -> list[str]:
    """Write trials in a form in which nothing that is not a number equals itself, whatever its order."""
    for trial in trials:
        trial.intermediate_values = dict(sorted(trial.intermediate_values.items()))
    return [repr(trial) for trial in trials]


WANTED = [
    (None, set(), -1),
    (None, {1, 3}, 3),
    ([TrialState.COMPLETE, TrialState.WAITING], set(), -1),
    (None, set(), 10_000),
]


def check(url: str) -> None:
    storage = open_storage(url)
    study, other = (optuna.create_study(study_name=name, storage=storage) for name in ("s", "other"))
    filled(other)
    filled(study)
    for each in (study, other):
        study_id = study_id_of(each)
        for wanted in WANTED:
            read = storage._get_trials(study_id, *wanted)
            assert plain(read) == plain(RDBStorage._get_trials(storage, study_id, *wanted)), wanted
        assert storage.get_study_user_attrs(study_id) == RDBStorage.get_study_user_attrs(storage, study_id)
    empty = study_id_of(optuna.create_study(study_name="empty", storage=storage))
    assert (storage._get_trials(empty, None, set(), -1), storage.get_study_user_attrs(empty)) == ([], {})


def test_what_is_read_is_what_optuna_reads(tmp_path) -> None:
    check(f"sqlite:///{tmp_path}/s.db")


@pytest.mark.slow
def test_what_is_read_is_what_optuna_reads_of_postgresql(postgres_url: str) -> None:
    """Guards our own queries against Optuna's, on the other database."""
    check(postgres_url)


def test_a_second_storage_finds_the_statements_compiled(tmp_path) -> None:
    def read(name: str) -> None:
        study = optuna.create_study(storage=open_storage(f"sqlite:///{tmp_path}/{name}.db"))
        filled(study)
        assert [trial.state.name for trial in study.get_trials()][:2] == ["COMPLETE", "FAIL"]

    read("first")
    n_compiled = len(fetching.COMPILED)
    read("second")
    assert len(fetching.COMPILED) == n_compiled


def test_a_study_that_was_deleted_is_a_key_error(tmp_path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    for read in (lambda: storage._get_trials(7, None, set(), -1), lambda: storage.get_study_user_attrs(7)):
        with pytest.raises(KeyError, match="Record does not exist"):
            read()
