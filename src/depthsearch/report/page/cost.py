"""What a study cost, and where the work went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.filesize import decimal

from depthsearch.report.document import (
    Block,
    Inline,
    Paragraph,
    Table,
)
from depthsearch.report.record import Record
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

STATES = (("complete", "complete"), ("pruned", "pruned"), ("fail", "failed"), ("running", "running"))


def cost_blocks(summary: Summary, record: Record) -> Iterator[Block]:
    """Say what the trials took, with and without keeping features."""
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


def image_counts(record: Record) -> Mapping[str, int]:
    """Give how many images, or samples, each split has."""
    counts = record.data.get("images")
    return counts if isinstance(counts, Mapping) else {}
