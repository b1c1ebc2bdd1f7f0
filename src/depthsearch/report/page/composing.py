"""The report of a stored study: one document, written as Markdown and as a page that needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import optuna

from depthsearch.errors import SettingsError
from depthsearch.files import written_whole
from depthsearch.report.chartfile import image_files
from depthsearch.report.document import (
    Code,
    Document,
    Section,
    as_html,
    as_markdown,
)
from depthsearch.report.page.answer import opening_blocks
from depthsearch.report.page.cost import cost_blocks
from depthsearch.report.page.front import front_blocks
from depthsearch.report.page.sections import (
    backbone_blocks,
    confirmation_blocks,
    depth_blocks,
    importance_blocks,
    learning_blocks,
    rate_blocks,
    transfer_blocks,
    trial_blocks,
)
from depthsearch.report.page.sources import again_blocks, data_blocks, picture_blocks, test_blocks
from depthsearch.report.record import Record, read
from depthsearch.results.summary import Summary, summarize
from depthsearch.study.artifacts import SmallPicture


def write_report(
    study: optuna.Study, folder: Path, pictures: Mapping[str, SmallPicture] | None = None
) -> tuple[Path, Path]:
    """Write ``report.md`` with its ``charts/`` and ``report.html`` into a folder; other files there stay.

    Args:
        study: What to report on.
        folder: Where; made if it is not there.
        pictures: Of the images that were explained, by artifact, see `artifacts.small_pictures`.

    Raises:
        SettingsError: If they cannot be written there.
    """
    document = compose(summarize(study), read(study), pictures)
    paths = folder / "report.md", folder / "report.html"
    written = {folder / "charts" / name: image for name, image in image_files(document)}
    written |= zip(paths, (as_markdown(document).encode(), as_html(document).encode()), strict=True)
    try:
        for path, content in written.items():
            with written_whole(path, durable=False) as file:
                file.write(content)
    except OSError as error:
        raise SettingsError(f"--out {str(folder)!r}: {error.strerror}. Give a folder to write to.") from error
    return paths


def compose(summary: Summary, record: Record, pictures: Mapping[str, SmallPicture] | None = None) -> Document:
    """Say what a study found, how sure that is, what it cost and how to run it again."""
    made = (
        Section("Backbones", tuple(backbone_blocks(summary))),
        Section("Score against depth", tuple(depth_blocks(summary))),
        Section("Score against cost", tuple(front_blocks(summary))),
        Section("Confirmation", tuple(confirmation_blocks(summary))),
        Section("Test", tuple(test_blocks(record))),
        Section("What it sees", tuple(picture_blocks(record, pictures or {}))),
        Section("Where pretrained features stop helping", tuple(transfer_blocks(summary))),
        Section("Learning curves", tuple(learning_blocks(summary, record))),
        Section("Learning rate and depth", tuple(rate_blocks(summary))),
        Section("What mattered", tuple(importance_blocks(summary, record))),
        Section("Every trial", tuple(trial_blocks(summary))),
        Section("Cost", tuple(cost_blocks(summary, record))),
        Section("Data", tuple(data_blocks(record))),
        Section("Run it again", tuple(again_blocks(summary, record))),
    )
    return Document(
        title=f"{summary.backbone} on {summary.data}",
        subtitle=("Study ", Code(summary.study)),
        blocks=tuple(opening_blocks(summary, record)),
        sections=tuple(section for section in made if section.blocks),
    )
