"""The studies and folders that the command line names."""

from __future__ import annotations

import shlex
from pathlib import Path

import optuna

from depthsearch.errors import SettingsError, StudyError
from depthsearch.files import folder_named, full_path, is_file
from depthsearch.options.commands import InitOptions, StoredOptions
from depthsearch.options.study import DEFAULT_STORAGE
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import summarize
from depthsearch.results.trials import StoredTrial
from depthsearch.study.artifacts import Artifacts, artifact_folder
from depthsearch.study.preparing.places import existing
from depthsearch.study.storage.opening import open_storage
from depthsearch.text import without_password


def named_study(options: StoredOptions) -> optuna.Study:
    """Load the study that the command line names; if there is only one, no name is needed."""
    if options.name and options.study and options.name != options.study:
        raise SettingsError(f"Two studies, {options.study!r} and --name {options.name!r}: give one.")
    storage = open_storage(existing(options.storage))
    names = optuna.get_all_study_names(storage)
    name = options.study or options.name or (names[0] if len(names) == 1 else None)
    if name not in names:
        problem = f"No study {name!r}" if name else "Which study? Give --name"
        raise SettingsError(
            f"{problem}; {without_password(options.storage)} has: {', '.join(names) or 'none'}."
        )
    return optuna.load_study(study_name=name, storage=storage)


def artifacts_of(storage: str, artifacts: str | None = None) -> Artifacts | None:
    """Open the folder of the studies' artifacts; None for a database that is no file.

    Raises:
        SettingsError: If it is a file.
    """
    folder = Path(artifacts) if artifacts else artifact_folder(storage)
    if folder is not None and is_file(folder):
        raise SettingsError(f"{folder} is a file. Give a folder for the studies' artifacts with --artifacts.")
    return None if folder is None else Artifacts(folder)


def model_folder(study_name: str) -> Path:
    """Return the default folder of a study's model."""
    return Path(f"{folder_named(study_name)}-model")


def storage_option(url: str) -> str:
    """Return what a command needs behind it to find the studies of a database; of the usual one nothing."""
    return "" if url == DEFAULT_STORAGE else f" --storage {shlex.quote(url)}"


def study_file(options: InitOptions) -> Path:
    """Return where ``init`` writes its study file."""
    return options.out or Path(f"{folder_named(full_path(options.data).stem)}.toml")


def answer_of(study: StoredStudy) -> StoredTrial:
    """Return the trial that is a study's answer.

    Raises:
        StudyError: If none is complete.
    """
    if (chosen := summarize(study).chosen) is None:
        raise StudyError(
            f"No trial of study {study.name!r} is complete: it has no answer to train. "
            "How it goes on: depthsearch status."
        )
    return chosen
