"""What processes do that start in the same moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import TrialState

from depthsearch.errors import StudyError
from depthsearch.study.lease import lease
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of
from depthsearch.workers.process import process_context


def run(what: Callable[[str, Any], Any], url: str, n: int) -> list[Any]:
    """Do something in several processes at once; give what each gives."""
    # Forked where that can be done: each would import PyTorch for many seconds.
    context = process_context()
    gate, results = context.Barrier(n), context.Queue()
    processes = [context.Process(target=_run, args=(what, url, gate, results)) for _ in range(n)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return found


def _run(what: Callable[[str, Any], Any], url: str, gate: Any, results: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    gate.wait(120)
    results.put(what(url, gate))
    results.close()
    results.join_thread()


def begin_trials(url: str, gate: Any) -> list[int]:
    """Open a database that may not be there yet, enqueue ten trials and begin what waits."""
    storage = open_storage(url)
    study = optuna.create_study(study_name="s", storage=storage, load_if_exists=True)
    for _ in range(10):
        study.enqueue_trial({"x": 0.5})
    gate.wait(120)
    begun = []
    while waiting := study.get_trials(states=(TrialState.WAITING,)):
        for trial in waiting:
            if storage_of(study).set_trial_state_values(trial_id_of(study, trial.number), TrialState.RUNNING):
                begun.append(trial.number)
    storage.engine.dispose()
    return begun


def take_leases(url: str, gate: Any) -> list[str]:
    """Take the lease of each study, and keep those that are to be had."""
    storage = open_storage(url)
    studies = [
        optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage)
    ]
    kept = []
    for study in studies:
        gate.wait(120)
        try:
            with lease(study):
                kept.append(study.study_name)
                # Until the others have tried.
                gate.wait(120)
        except StudyError:
            gate.wait(120)
    storage.engine.dispose()
    return kept
