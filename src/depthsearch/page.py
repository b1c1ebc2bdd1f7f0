"""The report of a stored study: one document, written as Markdown and as a page that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from rich.filesize import decimal

from depthsearch.artifacts import SmallPicture
from depthsearch.chartfile import image_files
from depthsearch.cuts import Cut
from depthsearch.document import (
    Block,
    Code,
    Commands,
    Details,
    Document,
    Facts,
    Inline,
    Items,
    Paragraph,
    Picture,
    Section,
    Strong,
    Table,
    as_html,
    as_markdown,
)
from depthsearch.errors import SettingsError
from depthsearch.evidence import Confirmed
from depthsearch.files import written_whole
from depthsearch.frontpage import front_blocks
from depthsearch.plots import (
    backbones_figure,
    depth_figure,
    end_score,
    importance_figure,
    learning_figure,
    metric_of,
    names_of,
    rate_figure,
    shown,
    state_of,
    transfer_figure,
)
from depthsearch.probe import plateau_start
from depthsearch.record import LEAST_FOR_IMPORTANCE, Record, read
from depthsearch.report import BACKBONE_HEADINGS, backbone_row, level_ranges, setting_of
from depthsearch.reproduction import study_command
from depthsearch.summary import Summary, standings, summarize, trainable
from depthsearch.trials import TrialSummary

__all__ = ["compose", "write_report"]

# More classes than this are folded away.
FEW_CLASSES = 20
STATES = (("complete", "complete"), ("pruned", "pruned"), ("fail", "failed"), ("running", "running"))


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
        Section("Backbones", tuple(_backbones(summary))),
        Section("Score against depth", tuple(_depth(summary))),
        Section("Score against cost", tuple(front_blocks(summary))),
        Section("Confirmation", tuple(_confirmation(summary))),
        Section("Test", tuple(_test(record))),
        Section("What it sees", tuple(_pictures(record, pictures or {}))),
        Section("Where pretrained features stop helping", tuple(_transfer(summary))),
        Section("Learning curves", tuple(_learning(summary, record))),
        Section("Learning rate and depth", tuple(_rates(summary))),
        Section("What mattered", tuple(_importance(summary, record))),
        Section("Every trial", tuple(_trials(summary))),
        Section("Cost", tuple(_cost(summary, record))),
        Section("Data", tuple(_data(record))),
        Section("Run it again", tuple(_again(summary, record))),
    )
    return Document(
        title=f"{summary.backbone} on {summary.data}",
        subtitle=("Study ", Code(summary.study)),
        blocks=tuple(_opening(summary, record)),
        sections=tuple(section for section in made if section.blocks),
    )


# --- the answer ---------------------------------------------------------------------------------


def _opening(summary: Summary, record: Record) -> Iterator[Block]:
    yield Paragraph(_answer(summary, record), "lead")
    for caveat in _caveats(summary, record):
        yield Paragraph(caveat, "note")
    yield Facts(tuple(_key_figures(summary, record)))


def _answer(summary: Summary, record: Record) -> Inline:
    """Say in one sentence where to cut, and what that gives."""
    evidence = summary.evidence
    so_far = "" if record.is_finished else " so far"
    chosen: Any = evidence.answer if evidence is not None else summary.chosen
    if chosen is None:
        done = f"{summary.n_finished} {_plural('trial', summary.n_finished)}"
        return f"{summary.backbone}: no trial is complete{so_far or ' yet'}; {done} over."
    of_it = _part_with(summary, chosen.cut)
    measured = _mean(chosen) if evidence is not None else shown(chosen.score)
    how = f" (mean of {len(chosen.scores)} seeds)" if evidence is not None else ""
    against = [
        f"{shown(baseline)} with {what}"
        for baseline, what, is_it in (
            (end_score(of_it, -1), "only the head trained", chosen.cut.kind == "head"),
            (end_score(of_it, 0), "everything trained", chosen.cut.index == 0),
        )
        if baseline is not None and not is_it
    ]
    compared = f", against {' and '.join(against)}" if against else ""
    level = ""
    if evidence is not None and len(evidence.level) > 1:
        ranges = level_ranges(summary.cuts, evidence.level)
        level = f"; {'' if summary.parts else 'layers '}{ranges} cannot be told from the best"
    return (
        f"{of_it.backbone}{so_far}: ",
        *_cut_in_words(chosen.cut),
        f": {metric_of(summary)} ",
        Strong(measured),
        f"{how}{compared}{level}.",
    )


def _part_with(summary: Summary, cut: Cut) -> Summary:
    """Give the part of a summary that is of a cut's backbone."""
    return next(part for part in summary.each if cut in part.cuts)


def _cut_in_words(cut: Cut) -> tuple[Strong | Code | str, ...]:
    keras = f"{cut.keras_name}, " if cut.keras_name else ""
    names = f" ({keras}", Code(cut.name), ")"
    if cut.kind == "head":
        return (
            Strong("train only the head"),
            f", layer {cut.layer}",
            *names,
            ", with the whole backbone frozen",
        )
    if cut.index == 0:
        return Strong("train everything"), f", from layer {cut.layer}", *names, " on"
    return Strong(f"train from layer {cut.layer}"), *names, ", everything before it frozen"


def _mean(confirmed: Confirmed) -> str:
    error = confirmed.standard_error
    return shown(confirmed.mean) + (f" ± {error:.4f}" if error is not None else "")


def _caveats(summary: Summary, record: Record) -> Iterator[str]:
    """Say how far the answer can be trusted."""
    if not record.is_finished:
        running = sum(trial.state == "running" for trial in summary.trials)
        also = f", {running} {'is' if running == 1 else 'are'} running or interrupted" if running else ""
        n = summary.n_finished
        yield f"The study is not finished: {n} {_plural('trial', n)} {'is' if n == 1 else 'are'} done{also}."
    n_complete = summary.count("complete")
    if summary.evidence is None and n_complete:
        yield (
            f"Not confirmed: every setting was trained once, with one seed, and this is the best of "
            f"{n_complete} complete {_plural('trial', n_complete)} on the same validation {summary.noun}s"
            f"{_one_image(summary, record)}. Differences of a few {summary.noun}s are noise."
        )


def _one_image(summary: Summary, record: Record) -> str:
    n_val = _counts(record).get("val")
    if not n_val or summary.metric != "accuracy":
        return ""
    return f" ({n_val}; one is worth {1 / n_val:.4f})"


def _key_figures(summary: Summary, record: Record) -> Iterator[tuple[str, Inline, Inline]]:
    evidence, chosen = summary.evidence, summary.chosen
    metric = metric_of(summary).capitalize()
    if evidence is not None:
        error = evidence.answer.standard_error
        setting = setting_of(evidence.answer.params)
        yield metric, shown(evidence.answer.mean), setting if error is None else f"± {error:.4f}; {setting}"
    elif chosen is not None:
        yield metric, shown(chosen.score), f"trial {chosen.number}: {setting_of(chosen.params)}"
    if chosen is not None:
        share = f"{chosen.cut.frozen_mac_share:.0%}".replace("%", " %")
        yield "Frozen", share, "of the backbone's MACs"
        learns = trainable(summary, chosen)
        if learns is not None:
            numbers = f"{learns.parameters:,} of {learns.all_parameters:,} parameters, the head's included"
            yield "Trainable tensors", f"{learns.tensors} of {learns.all_tensors}", numbers
    of_it = summary if chosen is None else _part_with(summary, chosen.cut)
    whose = f" of {of_it.backbone}" if summary.parts else ""
    yield "Head only", shown(end_score(of_it, -1)), f"feature extraction{whose}"
    yield "Everything trained", shown(end_score(of_it, 0)), f"full fine-tuning{whose}"
    yield "Trials", str(len(summary.searched)), _counted(summary)
    cost = summary.cost
    yield "Cost", f"{cost.full_fine_tunes:.2f}", f"full fine-tunes; {_duration(cost.seconds)}"


def _counted(summary: Summary) -> str:
    counts = [f"{summary.count(state)} {word}" for state, word in STATES if summary.count(state)]
    if summary.confirming:
        counts.append(f"{len(summary.confirming)} trained again")
    return ", ".join(counts) or "none begun"


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


# --- the sections -------------------------------------------------------------------------------


def _backbones(summary: Summary) -> Iterator[Block]:
    found = standings(summary)
    if not summary.parts or not found:
        return
    yield Paragraph(
        "Each backbone at its best cut: its score, what learns of it, and what that takes. Training counts "
        "frozen layers once and all others three times (forward, and two products backward); MACs are those "
        "of one image through the whole backbone, as after training; the cost of all its trials is in full "
        "fine-tunes of its own."
    )
    headings = BACKBONE_HEADINGS
    yield Table(
        headings=headings,
        rows=tuple(
            _with_code(backbone_row(standing), headings.index("first trainable")) for standing in found
        ),
        numbers=frozenset(headings) - {"backbone", "first trainable"},
        marked=next((place for place, standing in enumerate(found) if standing.is_answer), None),
    )
    yield backbones_figure(summary, found)


def _with_code(row: Sequence[str], place: int) -> tuple[Inline, ...]:
    return (*row[:place], Code(row[place]), *row[place + 1 :])


def _named(summary: Summary, part: Summary) -> Iterator[Block]:
    """Head what is shown of one of several backbones."""
    if summary.parts:
        yield Paragraph((Strong(part.backbone),))


def _rates(summary: Summary) -> Iterator[Block]:
    for part in summary.each:
        if part.trials:
            yield from _named(summary, part)
            yield rate_figure(part)


def _depth(summary: Summary) -> Iterator[Block]:
    if not summary.trials:
        yield Paragraph("No trial has begun.")
        return
    for part in summary.each:
        if part.trials:
            yield from _named(summary, part)
            yield depth_figure(part)
            if part.marked:
                yield from _marked(part)
    top = summary.top_cuts()
    if top:
        yield Paragraph("The best complete trial of each of the best cuts:")
        headings = ("layer", "score", "first trainable", "kind", "frozen MACs", "setting", "trial")
        yield Table(
            headings=headings,
            rows=tuple(
                (
                    str(trial.cut.layer),
                    shown(trial.score),
                    names_of(trial.cut),
                    trial.cut.kind,
                    f"{trial.cut.frozen_mac_share:.3f}",
                    setting_of(trial.params),
                    str(trial.number),
                )
                for trial in top
            ),
            numbers=frozenset({"layer", "frozen MACs", "score", "trial"}),
        )


def _marked(summary: Summary) -> Iterator[Block]:
    """Compare the layers that were asked for with the best, by means over seeds or by single trainings."""
    evidence = summary.evidence
    by_mean = {} if evidence is None else {c.cut: c for c in evidence.confirmed}
    single = {trial.cut: trial.score for trial in reversed(summary.top_cuts(len(summary.cuts)))}
    ranked = sorted(by_mean.values(), key=lambda confirmed: confirmed.gap)
    yield Paragraph("The layers that were asked for:")
    headings = (
        "layer",
        "first trainable",
        "mean over seeds",
        "place among the means",
        "behind the best",
        "best trial",
    )
    rows = []
    for cut in summary.marked:
        confirmed = by_mean.get(cut)
        told = ("", "", "")
        if confirmed is not None:
            told = (_mean(confirmed), f"{ranked.index(confirmed) + 1} of {len(ranked)}", _gap(confirmed))
        rows.append((str(cut.layer), names_of(cut), *told, shown(single.get(cut))))
    yield Table(headings=headings, rows=tuple(rows), numbers=frozenset(headings) - {"first trainable"})


def _confirmation(summary: Summary) -> Iterator[Block]:
    evidence = summary.evidence
    if evidence is None:
        return
    seeds = sorted({seed for confirmed in evidence.confirmed for seed in confirmed.scores})
    by_seed = tuple(f"seed {seed}" for seed in seeds)
    headings = ("layer", "mean", "behind the best", "first trainable", "setting", *by_seed)
    rows = tuple(
        (
            str(confirmed.cut.layer),
            _mean(confirmed),
            _gap(confirmed),
            names_of(confirmed.cut),
            setting_of(confirmed.params),
            *(shown(confirmed.scores.get(seed)) for seed in seeds),
        )
        for confirmed in evidence.confirmed
    )
    answers = [confirmed.cut == evidence.answer.cut for confirmed in evidence.confirmed]
    cheapest = "trains with the fewest MACs" if summary.parts else "freezes most"
    yield Paragraph(
        "The best settings were trained again with the same seeds. ± is the standard error of a mean; the "
        "differences to the best are taken seed by seed. The marked row is the answer: of those within "
        f"one standard error of the best, the one that {cheapest}."
    )
    yield Table(
        headings=headings,
        rows=rows,
        numbers=frozenset(headings) - {"first trainable", "setting"},
        marked=answers.index(True) if True in answers else None,
    )


def _gap(confirmed: Confirmed) -> str:
    error = confirmed.gap_error
    return shown(confirmed.gap) + (f" ± {error:.4f}" if error is not None else "")


def _transfer(summary: Summary) -> Iterator[Block]:
    for part in summary.each:
        start = plateau_start(part.curve)
        if start is None:
            continue
        yield from _named(summary, part)
        yield Paragraph(
            (
                "A linear classifier on the pooled frozen features, at each of a few depths: the pretrained "
                f"layers stop helping it at layer {start.layer} (",
                Code(start.name),
                ").",
            )
        )
        yield transfer_figure(part)


def _learning(summary: Summary, record: Record) -> Iterator[Block]:
    if not any(record.epochs.get(trial.number) for trial in summary.trials):
        return
    n_pruned = summary.count("pruned")
    if n_pruned:
        wanted = record.recipe.get("epochs", 0) * summary.n_finished
        trained = sum(
            trial.epochs for trial in summary.searched if trial.state in ("complete", "pruned", "fail")
        )
        yield Paragraph(
            f"{n_pruned} {_plural('trial', n_pruned)} pruned: {trained} of {wanted} epochs were trained."
        )
    yield learning_figure(summary, record)


def _importance(summary: Summary, record: Record) -> Iterator[Block]:
    n_complete = summary.count("complete")
    if record.importance:
        yield Paragraph(
            f"Estimated from {n_complete} complete trials; those pruned have no part in it. It says what the "
            "scores varied with over the ranges searched, not what is worth changing at the answer."
        )
        yield importance_figure(record.importance)
    elif n_complete < LEAST_FOR_IMPORTANCE:
        yield Paragraph(
            f"Not estimated: with {n_complete} complete {_plural('trial', n_complete)} the parameters' "
            f"importance would be chance; it takes {LEAST_FOR_IMPORTANCE}."
        )
    else:
        yield Paragraph("Not estimated: the scores of the complete trials cannot be told apart.")


def _trials(summary: Summary) -> Iterator[Block]:
    if not summary.trials:
        return
    headings = ("trial", "layer", "score", "state", "setting", "first trainable", "epochs", "seconds")
    best = summary.best
    yield Table(
        headings=headings,
        rows=tuple(_trial_row(trial) for trial in summary.trials),
        numbers=frozenset(headings) - {"first trainable", "setting", "state"},
        marked=summary.trials.index(best) if best is not None else None,
    )


def _trial_row(trial: TrialSummary) -> tuple[Inline, ...]:
    return (
        str(trial.number),
        str(trial.cut.layer),
        shown(trial.score),
        state_of(trial) + (", trained again" if trial.confirms is not None else ""),
        setting_of(trial.params),
        names_of(trial.cut),
        str(trial.epochs),
        f"{trial.seconds:.1f}",
    )


def _cost(summary: Summary, record: Record) -> Iterator[Block]:
    headings = ("", "trials", "epochs", "seconds", "full fine-tunes", "nothing kept")
    rows = [_cost_row(word, trials, record.units) for word, trials in _groups(summary)]
    if any(part.curve for part in summary.each):
        seconds = sum(probing.get("seconds", 0.0) for probing in record.probing.values())
        spent = sum(probing.get("macs", 0) / record.units[key] for key, probing in record.probing.items())
        rows.append(("linear probes", "", "", f"{seconds:.1f}", f"{spent:.2f}", ""))
    cost = summary.cost
    rows.append(
        (
            "in all",
            str(len(summary.trials)),
            str(sum(trial.epochs for trial in summary.trials)),
            f"{cost.seconds:.1f}",
            f"{cost.full_fine_tunes:.2f}",
            f"{cost.plain_full_fine_tunes:.2f}",
        )
    )
    yield Paragraph(
        "One full fine-tune is the work of training everything once, counted in multiply-accumulates (MACs)"
        f"{', for each backbone its own' if summary.parts else ''}. "
        "The last column is what the same trials had cost with the frozen layers run in every epoch."
    )
    yield Table(headings=headings, rows=tuple(rows), numbers=frozenset(headings[1:]), marked=len(rows) - 1)
    yield Paragraph(
        f"Features of frozen layers: {decimal(cost.kept_bytes)} kept, {decimal(cost.read_bytes)} read again."
        + _where_macs_went(record)
    )


def _groups(summary: Summary) -> Iterator[tuple[str, list[TrialSummary]]]:
    for state, word in STATES:
        trials = [trial for trial in summary.searched if trial.state == state]
        if trials:
            yield word, trials
    if summary.confirming:
        yield "trained again", list(summary.confirming)


def _cost_row(word: str, trials: Sequence[TrialSummary], units: Mapping[str, int]) -> tuple[Inline, ...]:
    spent, plain = (
        sum(getattr(trial, name) / units[trial.cut.backbone] for trial in trials)
        for name in ("macs", "plain_macs")
    )
    return (
        word,
        str(len(trials)),
        str(sum(trial.epochs for trial in trials)),
        f"{sum(trial.seconds for trial in trials):.1f}",
        f"{spent:.2f}",
        f"{plain:.2f}",
    )


def _where_macs_went(record: Record) -> str:
    frozen, forward, backward = (
        sum(epoch.macs[kind] for epochs in record.epochs.values() for epoch in epochs) for kind in range(3)
    )
    total = frozen + forward + backward
    if not total:
        return ""
    shares = [f"{part / total:.0%}".replace("%", " %") for part in (frozen, forward, backward)]
    return (
        f" Of the trials' MACs {shares[0]} went into frozen layers, {shares[1]} forward and {shares[2]} "
        "backward through the others."
    )


# --- data, test, reproduction -------------------------------------------------------------------


def _counts(record: Record) -> Mapping[str, int]:
    counts = record.data.get("images")
    return counts if isinstance(counts, Mapping) else {}


def _data(record: Record) -> Iterator[Block]:
    data = record.data
    classes = [str(name) for name in data.get("classes", ())]
    skipped = [str(path) for path in data.get("skipped", ())]
    duplicates = [" = ".join(map(str, group)) for group in data.get("duplicates", ())]
    counts = _counts(record)
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


def _test(record: Record) -> Iterator[Block]:
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


def _pictures(record: Record, pictures: Mapping[str, SmallPicture]) -> Iterator[Block]:
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


def _again(summary: Summary, record: Record) -> Iterator[Block]:
    options = record.provenance.get("options")
    if isinstance(options, Mapping) and options:
        n_trials = max(options.get("trials") or 1, summary.n_finished)
        yield Commands(study_command(options, name=f"{summary.study}-again", n_trials=n_trials))
        yield Paragraph(
            "Same machine, same versions: the same study, under another name. "
            "Add --storage to keep it elsewhere.",
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
