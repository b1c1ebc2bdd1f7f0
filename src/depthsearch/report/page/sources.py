"""What a study was made from and what became of it: data, test, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions
from depthsearch.report.page.answer import image_counts
from depthsearch.report.page.values import Cell, Code, Table
from depthsearch.report.record import Record
from depthsearch.results.summary import Summary
from depthsearch.visualization.words import shown

__all__ = [
    "command_of",
    "data_facts",
    "data_lists",
    "fitted_words",
    "made_with_table",
    "picture_caption",
    "settings_table",
    "test_facts",
    "test_tables",
]

# More classes than this are folded away.
FEW_CLASSES = 20


def data_facts(record: Record, noun: str) -> Iterator[tuple[str, str, str]]:
    """List how many images were read, of what, what was left out, and what stands in several splits."""
    lists = data_lists(record)
    counts = image_counts(record)
    words = (("train", "train"), ("val", "validation"), ("test", "test"))
    yield (
        f"{noun.capitalize()}s",
        str(sum(counts.values())),
        "; ".join(f"{counts[key]} {word}" for key, word in words if key in counts),
    )
    samples = record.data.get("samples")
    if isinstance(samples, Mapping):
        for what, columns in (("Images", "image_columns"), ("Numbers", "number_columns")):
            names = [str(name) for name in samples.get(columns, ())]
            yield f"{what} of a sample", str(len(names)), ", ".join(names)
    duplicates, skipped = lists["duplicates"], lists["skipped"]
    yield "Classes", str(len(lists["classes"])), ""
    yield (
        "In several splits",
        str(len(duplicates)),
        "groups of equal files" if duplicates else "no duplicates",
    )
    yield "Skipped", str(len(skipped)), "unreadable files" if skipped else "all could be read"


def data_lists(record: Record) -> dict[str, list[str]]:
    """List classes, groups of equal files, and files that were left out."""
    return {
        "classes": [str(name) for name in record.data.get("classes", ())],
        "duplicates": [" = ".join(map(str, group)) for group in record.data.get("duplicates", ())],
        "skipped": [str(path) for path in record.data.get("skipped", ())],
    }


def test_facts(record: Record, noun: str) -> Iterator[tuple[str, str, str]]:
    """List what the final model did on the test images, as far as the fit has stored it."""
    figures = _test_figures(record)
    if isinstance(figures.get("accuracy"), int | float):
        yield "Test accuracy", shown(figures["accuracy"]), _interval(figures.get("interval"))
    if isinstance(figures.get("n"), int):
        yield f"Test {noun}s", str(figures["n"]), ""
    if isinstance(figures.get("calibration_error"), int | float):
        yield "Calibration error", shown(figures["calibration_error"]), ""


def _interval(interval: Any) -> str:
    is_pair = isinstance(interval, list | tuple) and len(interval) == 2
    return f"95 %: {shown(interval[0])} to {shown(interval[1])}" if is_pair else ""


def _test_figures(record: Record) -> Mapping[str, Any]:
    figures = record.fit.get("figures", record.fit.get("test"))
    return figures if isinstance(figures, Mapping) else {}


def fitted_words(record: Record, noun: str) -> str:
    """Write which setting the final training had; empty where it is not known."""
    fit = record.fit
    cut = fit.get("cut")
    layer = fit.get("layer", cut.get("layer") if isinstance(cut, Mapping) else None)
    parts = (
        ("of trial {}", fit.get("trial")),
        ("from layer {}", layer),
        (f"on {{}} {noun}s (train + validation)", fit.get("n_images")),
    )
    return ", ".join(words.format(value) for words, value in parts if value is not None)


def test_tables(record: Record) -> tuple[Table | None, Table | None]:
    """List the test by class, and its confusions where the classes are few."""
    figures = _test_figures(record)
    classes = [str(name) for name in record.data.get("classes", ())]
    by_class = list(_by_class(figures.get("per_class", figures.get("classes")), classes))
    names = tuple(dict.fromkeys(name for _, values in by_class for name in values))
    rows: list[tuple[Cell, ...]] = [
        (Code(label), *(_figure(values.get(name)) for name in names)) for label, values in by_class
    ]
    table = Table(headings=("class", *names), rows=tuple(rows), numbers=frozenset(names)) if rows else None
    confusion = figures.get("confusion")
    if not (isinstance(confusion, list) and len(confusion) == len(classes) <= FEW_CLASSES):
        return table, None
    counts: list[tuple[Cell, ...]] = [
        (Code(label), *map(str, row)) for label, row in zip(classes, confusion, strict=True)
    ]
    return table, Table(headings=("true", *classes), rows=tuple(counts), numbers=frozenset(classes))


def _by_class(stored: Any, classes: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Bring what is stored for each class, by name or in their order, into one form."""
    if isinstance(stored, list | tuple):
        stored = dict(zip(classes, stored, strict=False))
    for label, values in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(values, Mapping):
            yield str(label), {key: value for key, value in values.items() if key != "name"}
        else:
            yield str(label), {"accuracy": values}


def _figure(value: Any) -> str:
    return shown(value) if value is None or isinstance(value, float) else str(value)


def picture_caption(explained: Mapping[str, Any]) -> str:
    """Write what an explained image was called, and whether that is right."""
    name = Path(str(explained.get("image", ""))).name
    called = f"{name}: called {explained.get('predicted')}"
    if isinstance(explained.get("probability"), int | float):
        called += f" ({explained['probability']:.3f})"
    if explained.get("true") is None:
        return called
    return f"{called}, {'right' if explained.get('right') else 'is ' + str(explained['true'])}"


def command_of(summary: Summary, record: Record) -> str:
    """Write the command that runs a study again under another name; empty where it is not known."""
    options = record.provenance.get("options")
    if not (isinstance(options, Mapping) and options):
        return ""
    n_trials = max(options.get("trials") or 1, summary.n_finished)
    again = StudyOptions.from_json(options)
    return study_command(again, name=f"{summary.study}-again", n_trials=n_trials)


def made_with_table(summary: Summary, record: Record) -> Table:
    """List the versions, the machine and the weights of a study."""
    versions = record.provenance.get("versions")
    rows = [(name, str(v)) for name, v in versions.items()] if isinstance(versions, Mapping) else []
    for key in ("study file", "machine", "device", "precision"):
        if key in record.provenance:
            rows.append((key, str(record.provenance[key])))
    return Table(headings=("what", "which"), rows=(*rows, ("weights", summary.weights)))


def settings_table(record: Record) -> Table:
    """List all that makes two trials of a study comparable."""
    rows = tuple((str(key), _setting(value)) for key, value in record.settings.items())
    return Table(headings=("setting", "value"), rows=rows)


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
