"""What stands above all sections of a report: the answer, how sure it is, and the key figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from depthsearch.models.cuts import Cut
from depthsearch.report.document import (
    Block,
    Code,
    Facts,
    Inline,
    Paragraph,
    Strong,
)
from depthsearch.report.page.cost import STATES, image_counts
from depthsearch.report.plots import (
    end_score,
    metric_of,
    shown,
)
from depthsearch.report.record import Record
from depthsearch.report.text import duration, level_ranges, setting_of
from depthsearch.results.evidence import Confirmed
from depthsearch.results.summary import Summary, trainable


def opening_blocks(summary: Summary, record: Record) -> Iterator[Block]:
    """Say the answer, what limits it, and the key figures."""
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
        done = f"{summary.n_finished} {plural('trial', summary.n_finished)}"
        return f"{summary.backbone}: no trial is complete{so_far or ' yet'}; {done} over."
    of_it = _part_with(summary, chosen.cut)
    measured = mean_with_error(chosen) if evidence is not None else shown(chosen.score)
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


def mean_with_error(confirmed: Confirmed) -> str:
    """Write a mean over seeds with its standard error, where there is one."""
    error = confirmed.standard_error
    return shown(confirmed.mean) + (f" ± {error:.4f}" if error is not None else "")


def _caveats(summary: Summary, record: Record) -> Iterator[str]:
    """Say how far the answer can be trusted."""
    if not record.is_finished:
        running = sum(trial.state == "running" for trial in summary.trials)
        also = f", {running} {'is' if running == 1 else 'are'} running or interrupted" if running else ""
        n = summary.n_finished
        yield f"The study is not finished: {n} {plural('trial', n)} {'is' if n == 1 else 'are'} done{also}."
    n_complete = summary.count("complete")
    if summary.evidence is None and n_complete:
        yield (
            f"Not confirmed: every setting was trained once, with one seed, and this is the best of "
            f"{n_complete} complete {plural('trial', n_complete)} on the same validation {summary.noun}s"
            f"{_one_image(summary, record)}. Differences of a few {summary.noun}s are noise."
        )


def _one_image(summary: Summary, record: Record) -> str:
    n_val = image_counts(record).get("val")
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
    yield "Cost", f"{cost.full_fine_tunes:.2f}", f"full fine-tunes; {duration(cost.seconds)}"


def _counted(summary: Summary) -> str:
    counts = [f"{summary.count(state)} {word}" for state, word in STATES if summary.count(state)]
    if summary.confirming:
        counts.append(f"{len(summary.confirming)} trained again")
    return ", ".join(counts) or "none begun"


def plural(word: str, n: int) -> str:
    """Give a word in the number that fits."""
    return word if n == 1 else f"{word}s"
