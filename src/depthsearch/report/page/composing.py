"""The report of a stored study: one page that needs no network, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.filesize import decimal

from depthsearch.errors import SettingsError
from depthsearch.files import written_whole
from depthsearch.report.page import tables
from depthsearch.report.page.answer import key_figures, other_ends
from depthsearch.report.page.pictures import draw_files
from depthsearch.report.page.plots import Plots, plots_of
from depthsearch.report.page.rendering import as_html, as_markdown
from depthsearch.report.page.scripts import page_policy, page_scripts, page_style
from depthsearch.report.page.sources import (
    FEW_CLASSES,
    command_of,
    data_facts,
    data_lists,
    fitted_words,
    made_with_table,
    picture_caption,
    settings_table,
    test_facts,
    test_tables,
)
from depthsearch.report.sureness import evidence_lines, few_images
from depthsearch.results.front import front_of
from depthsearch.results.importance import LEAST_FOR_IMPORTANCE
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, standings
from depthsearch.results.trials import ENDED
from depthsearch.study.artifacts import SmallPicture
from depthsearch.study.progress import is_something_left
from depthsearch.text import percent
from depthsearch.training.outcomes import plateau_start
from depthsearch.visualization.words import in_points, metric_of

NO_CHARTS = (
    "The figures are in report.html; depthsearch report --out DIR --images draws them for this text, too."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a report says.

    Attributes:
        values: For the templates.
        plots: Its figures.
        pictures: Of images that were explained, each with its file's name and its caption.
    """

    values: Mapping[str, Any]
    plots: Plots
    pictures: tuple[tuple[str, SmallPicture, str], ...]

    def html(self) -> str:
        """Write the page."""
        scripts = [Markup(script) for script in page_scripts()]
        own = {"policy": page_policy(), "style": Markup(page_style()), "scripts": scripts}
        return as_html("report.html.j2", {**self.values, **own})

    def markdown(self, *, charts: frozenset[str] = frozenset(), no_charts: str = NO_CHARTS) -> str:
        """Write the Markdown.

        Args:
            charts: Names of the figures that there are files of.
            no_charts: Why there are none.
        """
        return as_markdown(
            "report.md.j2", {**self.values, "charts": charts, "no_charts": "" if charts else no_charts}
        )


def compose(
    summary: Summary, stored: StoredStudy, pictures: Mapping[str, SmallPicture] | None = None
) -> Report:
    """Put together what a study found, how sure that is, what it cost and how to run it again.

    Args:
        summary: Of the study.
        stored: Which.
        pictures: Of the images that were explained, by artifact, see `artifacts.small_pictures`.
    """
    plots, front = plots_of(summary, stored), front_of(summary)
    explained = [each for each in stored.explained if each.get("artifact_id") in (pictures or {})]
    shown = tuple(
        (f"what-it-sees-{number}.jpg", (pictures or {})[each["artifact_id"]], picture_caption(each))
        for number, each in enumerate(explained, start=1)
    )
    values = {
        **opening_values(summary, stored),
        **cost_values(summary, stored),
        **data_values(summary, stored),
        **_test_values(stored),
        **_again_values(summary, stored),
        "plots": plots,
        "pictures": shown,
        "plateau_start": plateau_start,
        "backbones_table": tables.backbones_table(standings(summary)),
        "top_table": tables.top_table(summary),
        "marked_table": tables.marked_table,
        "confirmation_table": tables.confirmation_table(summary),
        "front": front,
        "front_table": front and tables.front_table(front),
        "trials_table": tables.trials_table(summary),
        "epochs_trained": sum(t.epochs for t in summary.searched if t.state in ENDED),
        "epochs_wanted": stored.recipe.epochs * summary.n_finished,
        "least_for_importance": LEAST_FOR_IMPORTANCE,
    }
    return Report(values=values, plots=plots, pictures=shown)


def sentence(line: str, names: Iterable[str]) -> str:
    """Make a sentence of a line: with a capital letter, unless it begins with a name."""
    is_name = any(name and line.startswith(name) for name in names)
    return f"{line if is_name else line[:1].upper() + line[1:]}."


def opening_values(summary: Summary, stored: StoredStudy) -> dict[str, Any]:
    """Return what the template ``opening.j2`` wants."""
    answer, warning = summary.answer, few_images(summary)
    notes = () if summary.evidence is None else evidence_lines(summary, summary.evidence)
    return {
        "summary": summary,
        "is_finished": not is_something_left(stored),
        "gap": "",
        "noun": summary.noun,
        "metric": metric_of(summary),
        "answer": answer,
        "ends": () if answer is None else tuple(other_ends(summary, answer)),
        "is_confirmed": summary.evidence is not None and bool(summary.evidence.confirmed),
        "tolerance": "" if summary.evidence is None else in_points(summary.evidence.tolerance),
        "notes": [
            sentence(line, stored.backbone_names)
            for line in ([warning] if warning and answer else []) + [*notes]
        ],
        "n_running": sum(trial.state == "running" for trial in summary.trials),
        "counts": stored.data.images,
        "key_figures": tuple(key_figures(summary)),
    }


def cost_values(summary: Summary, stored: StoredStudy) -> dict[str, Any]:
    """Return what the template ``cost.j2`` wants."""
    macs = [
        sum(getattr(epoch, kind) for trial in stored.trials for epoch in trial.results)
        for kind in ("prefix_macs", "forward_macs", "backward_macs")
    ]
    return {
        "cost_table": tables.cost_table(summary, stored),
        "kept": decimal(summary.cost.kept_bytes),
        "read_again": decimal(summary.cost.read_bytes),
        "mac_shares": [percent(part / sum(macs)) for part in macs] if sum(macs) else [],
    }


def data_values(summary: Summary, stored: StoredStudy, *, with_lists: bool = True) -> dict[str, Any]:
    """Return what the template ``data.j2`` wants; without lists those that it folds away are left out."""
    return {
        "data_facts": tuple(data_facts(stored.data)),
        "data_lists": data_lists(stored.data),
        "source": stored.data.source,
        "fingerprint": stored.data.fingerprint[:16],
        "few_classes": FEW_CLASSES,
        "with_lists": with_lists,
    }


def _test_values(stored: StoredStudy) -> dict[str, Any]:
    return {
        "folder": stored.fit.get("folder"),
        "test_facts": tuple(test_facts(stored)),
        "test_tables": test_tables(stored),
        "fitted": fitted_words(stored),
        "n_readings": len(stored.test_readings),
    }


def _again_values(summary: Summary, stored: StoredStudy) -> dict[str, Any]:
    return {
        "command": command_of(summary, stored),
        "seed": stored.recipe.seed,
        "guesses": [str(trial.number) for trial in summary.searched if trial.origin == "guess"],
        "seeds_again": sorted({trial.seed for trial in summary.confirming if trial.seed is not None}),
        "made_with_table": made_with_table(summary, stored),
        "settings_table": settings_table(stored),
    }


def write_report(report: Report, folder: Path, *, images: bool = False) -> tuple[Path, Path]:
    """Write ``report.md`` with its ``charts/`` and ``report.html`` into a folder; other files there stay.

    Args:
        report: What to write.
        folder: Where; made if it is not there.
        images: Whether to draw the figures as files for the Markdown, which takes kaleido and a Chrome.

    Raises:
        SettingsError: If they cannot be written there.
    """
    markdown, html = folder / "report.md", folder / "report.html"
    charts, reason = draw_files(report.plots) if images else ({}, NO_CHARTS)
    contents = {folder / "charts" / name: small.jpeg for name, small, _ in report.pictures}
    contents |= {folder / "charts" / f"{name}.svg": content for name, content in charts.items()}
    contents[markdown] = report.markdown(charts=frozenset(charts), no_charts=reason).encode()
    contents[html] = report.html().encode()
    try:
        for path, content in contents.items():
            with written_whole(path, durable=False) as file:
                file.write(content)
    except OSError as error:
        raise SettingsError(f"--out {str(folder)!r}: {error.strerror}. Give a folder to write to.") from error
    return markdown, html
