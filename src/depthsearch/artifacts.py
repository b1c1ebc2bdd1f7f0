"""Files that belong to a study, in a folder beside its database; optuna-dashboard shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna.artifacts.exceptions import ArtifactNotFound
from sqlalchemy.engine import make_url

__all__ = ["Artifacts", "artifact_folder", "keep_artifact"]


class Artifacts(FileSystemArtifactStore):
    """An artifact store whose folder is made by the first artifact."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact."""
        self.folder.mkdir(parents=True, exist_ok=True)
        super().write(artifact_id, content_body)


def artifact_folder(url: str) -> Path | None:
    """Name the folder of a database's artifacts: ``studies-artifacts`` beside ``studies.db``.

    Args:
        url: SQLAlchemy's.

    Returns:
        None for a database that is no file, so that there is no place beside it.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        return None
    database = Path(parsed.database)
    return database.with_name(f"{database.stem}-artifacts")


def keep_artifact(study: optuna.Study, store: Artifacts, path: Path) -> str:
    """Make a file an artifact of a study, unless the study has one of that name and content.

    Returns:
        The artifact's identifier.

    Raises:
        OSError: If it cannot be read or written.
    """
    content = path.read_bytes()
    for artifact_id, filename in _kept(study):
        if filename == path.name and _content(store, artifact_id) == content:
            return artifact_id
    return upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)


def _kept(study: optuna.Study) -> Iterator[tuple[str, str]]:
    """List a study's artifacts: identifiers and names.

    Optuna's own list stumbles over those that were deleted in the dashboard, which leaves a null.
    """
    attributes = study._storage.get_study_system_attrs(study._study_id)
    for key, text in attributes.items():
        described = json.loads(text) if key.startswith(ARTIFACTS_ATTR_PREFIX) else None
        if described is not None:
            yield described["artifact_id"], described["filename"]


def _content(store: Artifacts, artifact_id: str) -> bytes | None:
    try:
        with store.open_reader(artifact_id) as file:
            return file.read()
    except ArtifactNotFound:
        return None
