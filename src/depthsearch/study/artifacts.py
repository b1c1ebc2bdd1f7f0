"""Artifacts: files of a study, in a folder beside its database, which optuna-dashboard shows."""

from __future__ import annotations

import io
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.artifacts.exceptions import ArtifactNotFound
from PIL import Image

from depthsearch.study.storage.databasefile import database_file
from depthsearch.study.storage.optuna_private import forget_artifact, list_artifacts

# Of the small copies: longest side in pixels, and JPEG quality.
SMALL_SIDE = 1400
SMALL_QUALITY = 80


class Artifacts(FileSystemArtifactStore):
    """An artifact store whose folder is made with the first artifact."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Write an artifact."""
        self.folder.mkdir(parents=True, exist_ok=True)
        super().write(artifact_id, content_body)


def artifact_folder(url: str) -> Path | None:
    """Return the folder of a database's artifacts: ``studies-artifacts`` beside ``studies.db``.

    Returns:
        None for a database that is no file, and for what is no database.
    """
    database = database_file(url)
    # A folder's path may end in no name at all.
    return database.with_name(f"{database.stem}-artifacts") if database and database.name else None


def keep_artifact(study: optuna.Study, store: Artifacts, path: Path) -> str:
    """Store a file as an artifact of a study, unless the study has one of that name and content.

    Returns:
        The artifact's identifier.

    Raises:
        OSError: If it cannot be read or written.
    """
    content = path.read_bytes()
    for artifact_id, filename in list_artifacts(study).items():
        if filename == path.name and _content(store, artifact_id) == content:
            return artifact_id
    return upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)


def keep_latest(study: optuna.Study, store: Artifacts, name: str, content: bytes) -> str:
    """Store a file as an artifact of a study, replacing earlier ones of its name.

    Returns:
        The artifact's identifier.

    Raises:
        OSError: If it cannot be written.
    """
    before = [artifact_id for artifact_id, filename in list_artifacts(study).items() if filename == name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        kept = keep_artifact(study, store, path)
    for artifact_id in before:
        if artifact_id != kept:
            forget_artifact(study, artifact_id)
            with suppress(ArtifactNotFound):
                store.remove(artifact_id)
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallPicture:
    """A picture small enough to be embedded in a page.

    Attributes:
        jpeg: The file.
        width: In pixels.
        height: In pixels.
    """

    jpeg: bytes
    width: int
    height: int


def small_pictures(study: optuna.Study, store: Artifacts) -> dict[str, SmallPicture]:
    """Make small copies of a study's pictures, by artifact identifier; missing files are left out."""
    pictures = {}
    for artifact_id, filename in list_artifacts(study).items():
        content = _content(store, artifact_id) if filename.endswith(".png") else None
        if content is None:
            continue
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
                small = picture.convert("RGB")
        except (OSError, Image.DecompressionBombError):
            continue
        small.thumbnail((SMALL_SIDE, SMALL_SIDE))
        jpeg = io.BytesIO()
        small.save(jpeg, "JPEG", quality=SMALL_QUALITY, optimize=True)
        pictures[artifact_id] = SmallPicture(jpeg=jpeg.getvalue(), width=small.width, height=small.height)
    return pictures


def _content(store: Artifacts, artifact_id: str) -> bytes | None:
    try:
        with store.open_reader(artifact_id) as file:
            return file.read()
    except ArtifactNotFound:
        return None
