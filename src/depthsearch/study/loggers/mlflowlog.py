"""A study as a run of MLflow, and each of its trials as a run below it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState

from depthsearch.errors import SettingsError
from depthsearch.options.attributes import StudyKey
from depthsearch.study.events import EpochDone, Event, Stopped, TrialEnded, TrialStarted
from depthsearch.study.loggers.eventlog import SCALARS, Sink, forgiving, require_extra, teller
from depthsearch.text import first_line, without_password

STATUS = {TrialState.COMPLETE: "FINISHED", TrialState.PRUNED: "KILLED", TrialState.FAIL: "FAILED"}
# Where the user has not set them. MLflow's retries would delay a study for minutes when its server is away.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_EXPERIMENT_NAME": "depthsearch",
}


def check_mlflow(uri: str) -> None:
    """Check that MLflow answers, before anything is loaded.

    Raises:
        SettingsError: If it does not answer, or is not installed.
    """
    with _connected(uri) as client:
        client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])


@contextmanager
def mlflow_log(uri: str, study: optuna.Study) -> Iterator[Sink]:
    """Write a study and its trials as runs of MLflow; a study that goes on does so in the same runs.

    A pruned trial is ``KILLED`` there, and so is a study that is stopped. If writing fails later, one warning
    is logged, and the study goes on.

    Args:
        uri: MLflow's, such as ``http://host:5000`` or ``sqlite:///mlflow.db``.
        study: The study of the events.

    Raises:
        SettingsError: If MLflow cannot be written to, or is not installed.
    """
    with _connected(uri) as client:
        parent = _run(
            client, study.study_name, {"depthsearch.study": study.user_attrs[StudyKey.CHECKPOINT_ID]}
        )
    attempt = forgiving(_shown(uri))
    log_event = _logging(client, parent, study)
    status = "FINISHED"

    def tell(event: Event) -> None:
        nonlocal status
        status = "KILLED" if isinstance(event, Stopped) else "FINISHED"
        attempt(log_event, event)

    try:
        yield tell
    except BaseException as error:
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        raise
    finally:
        attempt(_without_warnings()(client.set_terminated), parent, status)


@contextmanager
def _connected(uri: str) -> Iterator[Any]:
    """Connect to MLflow; an error in this context becomes one line."""
    require_extra("mlflow", "mlflow")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with _without_warnings():
            from mlflow import MlflowClient

            yield MlflowClient(uri)
    except Exception as error:  # MLflow raises errors of its many libraries.
        raise SettingsError(f"{_shown(uri)} cannot be written to: {first_line(error)}") from error


def _shown(uri: str) -> str:
    return f"--mlflow {without_password(uri)}"


def _logging(client: Any, parent: str, study: optuna.Study) -> Sink:
    """Return a function that writes a trial's events to MLflow."""
    entries_of = teller(study)
    runs: dict[int, str] = {}
    steps: dict[int, set[int]] = {}

    @_without_warnings()
    def tell(event: Event) -> None:
        _, entries = entries_of(event)
        if isinstance(event, TrialStarted):
            tags = {"depthsearch.trial": str(event.number), "mlflow.parentRunId": parent}
            run = runs[event.number] = _run(client, f"trial {event.number}", tags)
            steps[event.number] = {each.step for each in client.get_metric_history(run, "score")}
            for key in entries.keys() - {"trial", "adopted", "worker"}:
                client.log_param(run, key, entries[key])
            # A parameter cannot change, and a trial may go on with another worker.
            client.set_tag(run, "worker", entries["worker"] or "")
        elif isinstance(event, EpochDone) and event.result.epoch not in steps[event.number]:
            for key in SCALARS:
                client.log_metric(runs[event.number], key, entries[key], step=event.result.epoch)
        elif isinstance(event, TrialEnded):
            for key in ("state", "reason"):
                client.set_tag(runs[event.number], key, entries[key] or "")
            client.set_terminated(runs.pop(event.number), STATUS[event.state])

    return tell


def _run(client: Any, name: str, tags: dict[str, str]) -> str:
    """Resume the run with these tags, or create it; return its identifier."""
    experiment_name = os.environ["MLFLOW_EXPERIMENT_NAME"]
    known = client.get_experiment_by_name(experiment_name)
    experiment = known.experiment_id if known else client.create_experiment(experiment_name)
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    for run in client.search_runs([experiment], query, max_results=1):
        client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)
    return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Hide the warnings of MLflow's libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
