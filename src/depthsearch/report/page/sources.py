"""What a study was made from and what became of it: data, test, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from depthsearch.options.reproduction import study_command
from depthsearch.report.page.values import Cell, Code, Table
from depthsearch.results.stored import StoredData, StoredStudy
from depthsearch.results.summary import Summary
from depthsearch.text import counted, percent
from depthsearch.visualization.words import shown

# More classes than this are folded away.
FEW_CLASSES = 20


def data_facts(data: StoredData) -> Iterator[tuple[str, str, str]]:
    """List how many images were read, of what, what was left out, and what stands in several splits."""
    words = {"train": "train", "val": "validation", "test": "test"}
    counts = "; ".join(f"{count} {words[split]}" for split, count in data.images.items())
    yield f"{data.noun.capitalize()}s", str(sum(data.images.values())), counts
    if data.samples is not None:
        for what, columns in (("Images", "image_columns"), ("Numbers", "number_columns")):
            names = data.samples[columns]
            yield f"{what} of a sample", str(len(names)), ", ".join(names)
    yield "Classes", str(len(data.classes)), ""
    duplicates, skipped = data.duplicates, data.skipped
    groups = "groups of equal files" if duplicates else "no duplicates"
    yield "In several splits", str(len(duplicates)), groups
    yield "Skipped", str(len(skipped)), "unreadable files" if skipped else "all could be read"


def data_lists(data: StoredData) -> dict[str, list[str]]:
    """List classes, groups of equal files, and files that were left out."""
    return {
        "classes": list(data.classes),
        "duplicates": [" = ".join(group) for group in data.duplicates],
        "skipped": list(data.skipped),
    }


def test_facts(stored: StoredStudy) -> Iterator[tuple[str, str, str]]:
    """List what the final model did on the test images; nothing before there is one."""
    if stored.fit:
        figures = stored.fit["test"]
        low, high = figures["interval"]
        yield "Test accuracy", shown(figures["accuracy"]), f"{percent(0.95)}: {shown(low)} to {shown(high)}"
        yield f"Test {stored.data.noun}s", str(figures["n"]), ""
        yield "Calibration error", shown(figures["calibration_error"]), ""


def fitted_words(stored: StoredStudy) -> str:
    """Write which setting the final training had; empty before there was one."""
    fit = stored.fit
    if not fit:
        return ""
    what = f"{counted(fit['n_images'], stored.data.noun)} (train + validation)"
    solved = ", solved" if fit.get("is_solved") else ""
    return f"of trial {fit['trial']}, from layer {fit['cut']['layer']}, on {what}{solved}"


def test_tables(stored: StoredStudy) -> tuple[Table | None, Table | None]:
    """List the test by class, and its confusions where the classes are few; nothing before there was one."""
    if not stored.fit:
        return None, None
    figures, classes = stored.fit["test"], tuple(stored.data.classes)
    headings = ("class", "precision", "recall", "f1", "n")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (Code(each["name"]), *(shown(each[name]) for name in headings[1:4]), str(each["n"]))
        for each in figures["classes"]
    )
    by_class = Table(headings=headings, rows=rows, numbers=frozenset(headings[1:]))
    if len(classes) > FEW_CLASSES:
        return by_class, None
    counts: tuple[tuple[Cell, ...], ...] = tuple(
        (Code(label), *map(str, row)) for label, row in zip(classes, figures["confusion"], strict=True)
    )
    return by_class, Table(headings=("true", *classes), rows=counts, numbers=frozenset(classes))


def picture_caption(explained: Mapping[str, Any]) -> str:
    """Write what an explained image was called, and whether that is right."""
    name = Path(explained["image"]).name
    called = f"{name}: called {explained['predicted']} ({explained['probability']:.3f})"
    if explained["true"] is None:
        return called
    return f"{called}, {'right' if explained['right'] else 'is ' + str(explained['true'])}"


def command_of(summary: Summary, stored: StoredStudy) -> str:
    """Write the command that runs a study again under another name; empty where it is not known."""
    if stored.options is None:
        return ""
    n_trials = max(stored.options.trials or 1, summary.n_finished)
    return study_command(stored.options, name=f"{summary.study}-again", n_trials=n_trials)


def made_with_table(summary: Summary, stored: StoredStudy) -> Table:
    """List the versions, the machine and the weights of a study."""
    rows = [(name, str(version)) for name, version in stored.provenance.get("versions", {}).items()]
    for key in ("study file", "machine", "device", "precision"):
        if key in stored.provenance:
            rows.append((key, str(stored.provenance[key])))
    return Table(headings=("what", "which"), rows=(*rows, ("weights", summary.weights)))


def settings_table(stored: StoredStudy) -> Table:
    """List all that makes two trials of a study comparable."""
    rows = tuple((key.replace("_", " "), _setting(value)) for key, value in stored.settings.items())
    return Table(headings=("setting", "value"), rows=rows)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
