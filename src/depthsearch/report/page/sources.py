"""What a study was made from and what became of it: data, test, pictures, and how to run it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions
from depthsearch.report.document import (
    Block,
    Code,
    Commands,
    Details,
    Facts,
    Inline,
    Items,
    Paragraph,
    Picture,
    Table,
)
from depthsearch.report.page.cost import image_counts
from depthsearch.report.plots import (
    shown,
)
from depthsearch.report.record import Record
from depthsearch.results.summary import Summary
from depthsearch.study.artifacts import SmallPicture

# More classes than this are folded away.
FEW_CLASSES = 20


def data_blocks(record: Record) -> Iterator[Block]:
    """Say which images were read from where, what was left out, and what stands in several splits."""
    data = record.data
    classes = [str(name) for name in data.get("classes", ())]
    skipped = [str(path) for path in data.get("skipped", ())]
    duplicates = [" = ".join(map(str, group)) for group in data.get("duplicates", ())]
    counts = image_counts(record)
    split = "; ".join(
        f"{counts[key]} {word}"
        for key, word in (("train", "train"), ("val", "validation"), ("test", "test"))
        if key in counts
    )
    yield Facts(
        (
            (f"{_noun(record).capitalize()}s", str(sum(counts.values())), split),
            *_parts(data.get("samples")),
            ("Classes", str(len(classes)), ""),
            (
                "In several splits",
                str(len(duplicates)),
                "groups of equal files" if duplicates else "no duplicates",
            ),
            ("Skipped", str(len(skipped)), "unreadable files" if skipped else "all could be read"),
        )
    )
    yield Paragraph(
        ("Read from ", Code(str(data.get("source", data.get("name", "?")))), "; fingerprint ",
         Code(str(data.get("fingerprint", "unknown"))[:16]), ".")
    )  # fmt: skip
    if 0 < len(classes) <= FEW_CLASSES:
        yield Paragraph(("Classes: ", *_listed(classes), "."))
    elif classes:
        yield Details(f"All {len(classes)} classes", Items(tuple(Code(name) for name in classes)))
    if duplicates:
        yield Details("Equal files in several splits", Items(tuple(Code(group) for group in duplicates)))
    if skipped:
        yield Details("Skipped files", Items(tuple(Code(path) for path in skipped)))


def _noun(record: Record) -> str:
    return "sample" if record.data.get("samples") else "image"


def _parts(samples: Any) -> Iterator[tuple[str, str, str]]:
    """Say what a sample is made of, where it is more than an image."""
    if isinstance(samples, Mapping):
        for what, columns in (("Images", "image_columns"), ("Numbers", "number_columns")):
            names = [str(name) for name in samples.get(columns, ())]
            yield f"{what} of a sample", str(len(names)), ", ".join(names)


def _listed(names: Sequence[str]) -> Iterator[str | Code]:
    for place, name in enumerate(names):
        if place:
            yield ", "
        yield Code(name)


def test_blocks(record: Record) -> Iterator[Block]:
    """Tell what the final model did on the test images; the fit says what it likes to say."""
    figures = record.fit.get("figures", record.fit.get("test"))
    figures = figures if isinstance(figures, Mapping) else {}
    if not record.fit:
        return
    facts: list[tuple[str, Inline, Inline]] = []
    if isinstance(figures.get("accuracy"), int | float):
        facts.append(("Test accuracy", shown(figures["accuracy"]), _interval(figures.get("interval"))))
    if isinstance(figures.get("n"), int):
        facts.append((f"Test {_noun(record)}s", str(figures["n"]), ""))
    if isinstance(figures.get("calibration_error"), int | float):
        facts.append(("Calibration error", shown(figures["calibration_error"]), ""))
    if facts:
        yield Facts(tuple(facts))
    told = _fitted(record.fit, _noun(record))
    if told:
        yield Paragraph(f"The final training, {', '.join(told)}.")
    if "folder" in record.fit:
        yield Paragraph(("The model: ", Code(str(record.fit["folder"]))))
    yield from _test_tables(figures, [str(name) for name in record.data.get("classes", ())])
    readings = record.test_readings
    n_readings = len(readings) if isinstance(readings, list | tuple) else readings
    if isinstance(n_readings, int):
        yield Paragraph(
            f"The test {_noun(record)}s were read {'once' if n_readings == 1 else f'{n_readings} times'}.",
            "note",
        )


def _fitted(fit: Mapping[str, Any], noun: str) -> list[str]:
    """Say which setting the final training had."""
    cut = fit.get("cut")
    layer = fit.get("layer", cut.get("layer") if isinstance(cut, Mapping) else None)
    found = (
        ("of trial {}", fit.get("trial")),
        ("from layer {}", layer),
        (f"on {{}} {noun}s (train + validation)", fit.get("n_images")),
    )
    return [words.format(value) for words, value in found if value is not None]


def _interval(interval: Any) -> str:
    if isinstance(interval, list | tuple) and len(interval) == 2:
        return f"95 %: {shown(interval[0])} to {shown(interval[1])}"
    return ""


def _test_tables(figures: Mapping[str, Any], classes: Sequence[str]) -> Iterator[Block]:
    rows = list(_per_class(figures.get("per_class", figures.get("classes")), classes))
    if rows:
        names = tuple(dict.fromkeys(name for _, values in rows for name in values))
        yield Table(
            headings=("class", *names),
            rows=tuple(
                (Code(label), *(_figure(values.get(name)) for name in names)) for label, values in rows
            ),
            numbers=frozenset(names),
        )
    confusion = figures.get("confusion")
    if isinstance(confusion, list) and len(confusion) == len(classes) <= FEW_CLASSES:
        yield Paragraph("Confusion: a row for each true class, a column for each predicted one.")
        yield Table(
            headings=("true", *classes),
            rows=tuple(
                (Code(label), *(str(n) for n in row)) for label, row in zip(classes, confusion, strict=True)
            ),
            numbers=frozenset(classes),
        )


def _per_class(stored: Any, classes: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Bring what is stored for each class, by name or in their order, into one form."""
    if isinstance(stored, list | tuple):
        stored = dict(zip(classes, stored, strict=False))
    for label, values in stored.items() if isinstance(stored, Mapping) else ():
        if isinstance(values, Mapping):
            yield str(label), {key: value for key, value in values.items() if key != "name"}
        else:
            yield str(label), {"accuracy": values}


def _figure(value: Any) -> str:
    return shown(value) if isinstance(value, float) else "–" if value is None else str(value)  # noqa: RUF001


def picture_blocks(record: Record, pictures: Mapping[str, SmallPicture]) -> Iterator[Block]:
    """Show feature maps and Grad-CAM over depth, where they were drawn and can be found."""
    found = [each for each in record.explained if each.get("artifact_id") in pictures]
    if not found:
        return
    yield Paragraph(
        "Feature maps and Grad-CAM at layers from the first to the last, before fine-tuning and after it. "
        "Right and wrong predictions of the final model."
    )
    for each in found:
        small = pictures[each["artifact_id"]]
        yield Picture(jpeg=small.jpeg, width=small.width, height=small.height, caption=_caption(each))


def _caption(explained: Mapping[str, Any]) -> str:
    name = Path(str(explained.get("image", ""))).name
    said = f"{name}: called {explained.get('predicted')}"
    if isinstance(explained.get("probability"), int | float):
        said += f" ({explained['probability']:.3f})"
    if explained.get("true") is None:
        return said
    return f"{said}, {'right' if explained.get('right') else 'is ' + str(explained['true'])}"


def again_blocks(summary: Summary, record: Record) -> Iterator[Block]:
    """Say how to run the study again: command, seeds, versions, machine."""
    options = record.provenance.get("options")
    if isinstance(options, Mapping) and options:
        n_trials = max(options.get("trials") or 1, summary.n_finished)
        again = StudyOptions.from_json(options)
        yield Commands(study_command(again, name=f"{summary.study}-again", n_trials=n_trials))
        yield Paragraph(
            "Same machine, same versions: the same study, under another name. "
            "Add --storage to keep it elsewhere.",
            "note",
        )
        if guesses := [str(trial.number) for trial in summary.searched if trial.origin == "guess"]:
            yield Paragraph(
                f"Not by that command: trials {', '.join(guesses)}, which somebody had it try (depthsearch "
                "enqueue).",
                "note",
            )
    else:
        yield Paragraph(
            "The command is not known: this study was stored by an older depthsearch, without its options."
        )
    yield Paragraph(_seeds(summary, record))
    versions = record.provenance.get("versions")
    facts = [(name, str(v)) for name, v in versions.items()] if isinstance(versions, Mapping) else []
    facts += [
        (key, str(record.provenance[key]))
        for key in ("study file", "machine", "device", "precision")
        if key in record.provenance
    ]
    facts.append(("weights", summary.weights))
    yield Table(headings=("what", "which"), rows=tuple((name, value) for name, value in facts))
    settings = tuple((str(key), _setting(value)) for key, value in record.settings.items())
    yield Details("All that makes two trials comparable", Table(headings=("setting", "value"), rows=settings))


def _seeds(summary: Summary, record: Record) -> str:
    base = record.recipe.get("seed", "unknown")
    told = f"Seed {base}: trial n draws its setting, its head and its batches from seed and n."
    seeds = sorted({trial.seed for trial in summary.confirming if trial.seed is not None})
    if seeds:
        told += f" What was trained again has seeds of its own: {', '.join(map(str, seeds))}."
    return told


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
