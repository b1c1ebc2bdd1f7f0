"""A study and its trials as runs of MLflow."""

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from typing import Any

import optuna
import pytest

from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.study import EpochDone, Stopped, TrialStarted, coordinator, open_study, request_stop, search
from depthsearch.study.loggers import mlflowlog
from depthsearch.study.loggers.mlflowlog import mlflow_log

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow")


@pytest.fixture(autouse=True)
def _files_are_enough(monkeypatch) -> None:
    """Let MLflow keep runs in files, quicker than a database, and not wait for servers."""
    for name, value in mlflowlog.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.fixture
def study(task, space, open_quick_storage, tmp_path) -> optuna.Study:
    return open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "it's", task, space, {})


@pytest.fixture
def events(study, task, space, tmp_path):
    def run(n_trials: int = 1, pruner: str = "none"):
        options = {"sampler": "random", "pruner": pruner, "checkpoints": tmp_path}
        return search(study, task, space, n_trials=n_trials, **options)

    return run


@pytest.fixture
def uri(tmp_path) -> str:
    return f"file://{tmp_path}/mlruns"


def runs_of(uri: str) -> dict[str, Any]:
    """Give the runs by name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("depthsearch")
    runs = client.search_runs([experiment.experiment_id])
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs)
    return named


def curve_of(uri: str, run: Any, name: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [(each.step, each.value) for each in MlflowClient(uri).get_metric_history(run.info.run_id, name)]


def test_a_trial_is_a_run_below_the_study_with_its_setting_and_figures_by_epoch(study, events, uri) -> None:
    results: dict[int, Any] = {}
    with mlflow_log(uri, study) as tell:
        for event in events():
            tell(event)
            if isinstance(event, EpochDone):
                results[event.result.epoch] = event.result
    found = runs_of(uri)
    parent, run = found["it's"], found["trial 0"]
    assert (parent.info.status, run.info.status) == ("FINISHED", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.tags["state"] == "complete"
    assert run.data.params["cut"] == "fc"
    assert run.data.params["learning_rate"] == str(study.trials[0].params["learning_rate"])
    assert {"layer", "backbone", "origin", "head_width", "optimizer"} <= run.data.params.keys()
    for name in ("score", "val_loss", "train_loss", "seconds"):
        assert curve_of(uri, run, name) == [(epoch, getattr(each, name)) for epoch, each in results.items()]


def test_a_study_that_goes_on_does_so_in_the_same_runs(study, events, uri) -> None:
    def interrupted() -> None:
        with mlflow_log(uri, study) as tell, closing(events()) as first:
            for event in first:
                tell(event)
                if isinstance(event, EpochDone):
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = runs_of(uri)
    assert (before["it's"].info.status, before["trial 0"].info.status) == ("KILLED", "RUNNING")
    with mlflow_log(uri, study) as tell:
        assert runs_of(uri)["it's"].info.status == "RUNNING"
        for event in events():
            tell(event)
    after = runs_of(uri)
    assert {name: run.info.run_id for name, run in after.items()} == {
        name: run.info.run_id for name, run in before.items()
    }
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    reported = study.trials[0].intermediate_values
    assert curve_of(uri, after["trial 0"], "score") == list(reported.items())


def test_a_trial_goes_on_in_its_run_with_another_worker(study, events, uri) -> None:
    started = next(event for event in events() if isinstance(event, TrialStarted))
    for worker in ("worker 2", "worker 1", None):
        with mlflow_log(uri, study) as tell:
            tell(replace(started, worker=worker))
            if worker is not None:
                assert runs_of(uri)["trial 0"].data.tags["worker"] == worker
    assert "worker" not in runs_of(uri)["trial 0"].data.params


def test_a_pruned_trial_and_a_stopped_study_are_killed(study, events, uri, monkeypatch) -> None:
    always = optuna.pruners.ThresholdPruner(lower=2.0)
    monkeypatch.setattr(coordinator, "make_pruner", lambda *_: always)
    with mlflow_log(uri, study) as tell:
        for event in events(4):
            tell(event)
            if isinstance(event, EpochDone) and event.number == 2:
                request_stop(study)
    assert isinstance(event, Stopped)
    found = runs_of(uri)
    assert found["trial 2"].data.tags["reason"] == "pruned after epoch 1"
    assert [found[name].info.status for name in ("trial 1", "trial 2", "it's")] == [
        "FINISHED",
        "KILLED",
        "KILLED",
    ]


def test_a_crash_is_a_failed_study(study, uri) -> None:
    with pytest.raises(RuntimeError, match="a bug"), mlflow_log(uri, study):
        raise RuntimeError("a bug")
    assert runs_of(uri)["it's"].info.status == "FAILED"


def test_a_study_goes_on_where_mlflow_is_away(study, events, uri, tmp_path, caplog) -> None:
    with mlflow_log(uri, study) as tell:
        shutil.rmtree(tmp_path / "mlruns")
        for event in events():
            tell(event)
    assert study.trials[0].value is not None
    (said,) = (
        record.getMessage()
        for record in caplog.records
        if record.name == "depthsearch.study.loggers.eventlog"
    )
    assert said.startswith(f"The study goes on without --mlflow {uri}, which failed: ")


def test_a_server_that_is_away_at_the_start_is_one_line_without_its_password(
    pictures, tmp_path, capsys
) -> None:
    argv = "study --backbone test_resnet --weights random --image-size 16 --trials 1 --device cpu --data"
    uri = "http://me:secret@127.0.0.1:9"
    argv = [*argv.split(), str(pictures), "--storage", f"sqlite:///{tmp_path}/s.db", "--mlflow", uri]
    assert main(argv) == 2
    told = capsys.readouterr().err
    line = told.splitlines()[-1]
    assert line.startswith("depthsearch study: --mlflow http://me:***@127.0.0.1:9 cannot be written to: ")
    assert "secret" not in told
    assert told == f"{line}\n"
    assert not (tmp_path / "s.db").exists()


def test_a_missing_mlflow_is_said_before_anything_is_loaded(study, uri, monkeypatch, capsys) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "depthsearch.study.loggers.eventlog.find_spec", lambda name: None if name == "mlflow" else found(name)
    )
    assert main(["study", "--backbone", "nonesuch", "--mlflow", uri]) == 2
    assert capsys.readouterr().err == (
        'depthsearch study: --mlflow needs mlflow: pip install "depthsearch[mlflow]", '
        "or leave --mlflow out.\n"
    )
    with pytest.raises(SettingsError, match=r"^--mlflow needs mlflow: "), mlflow_log(uri, study):
        pass


@pytest.mark.slow
def test_a_database_holds_the_runs_of_the_command_line_too_and_all_is_quiet(pictures, tmp_path) -> None:
    """Guards MLflow as the command uses it, which prints and warns on its own."""
    url, uri = (f"sqlite:///{tmp_path}/{name}.db" for name in ("s", "mlflow"))
    options = "--backbone test_resnet --weights random --image-size 16 --epochs 1 --trials 2 --confirm 0"
    argv = ["study", *options.split(), "--device", "cpu", "--data", str(pictures), "--name", "noughts"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "depthsearch", *argv, "--storage", url, "--mlflow", uri],
        capture_output=True,
        text=True,
        check=False,
        env=plain,
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert not [word for word in ("INFO", "Warning", "mlflow") if word in ended.stderr]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        found = database.execute("SELECT name, status FROM runs ORDER BY name").fetchall()
        (n_metrics,) = database.execute("SELECT count(*) FROM metrics").fetchone()
    database.close()
    assert found == [("noughts", "FINISHED"), ("trial 0", "FINISHED"), ("trial 1", "FINISHED")]
    assert n_metrics == 2 * len(mlflowlog.SCALARS)
    study = optuna.load_study(study_name="noughts", storage=url)
    assert "mlflow" not in study.user_attrs["provenance"]["options"]
