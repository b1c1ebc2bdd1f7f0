"""What a study found: scores over depth, confirmation, curves, importance, and every trial."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from depthsearch.report.document import (
    Block,
    Code,
    Inline,
    Paragraph,
    Strong,
    Table,
)
from depthsearch.report.page.answer import mean_with_error, plural
from depthsearch.report.plots import (
    backbones_figure,
    depth_figure,
    importance_figure,
    learning_figure,
    names_of,
    rate_figure,
    shown,
    state_of,
    transfer_figure,
)
from depthsearch.report.record import LEAST_FOR_IMPORTANCE, Record
from depthsearch.report.text import BACKBONE_HEADINGS, backbone_row, setting_of
from depthsearch.results.evidence import Confirmed
from depthsearch.results.summary import Summary, standings
from depthsearch.results.trials import TrialSummary
from depthsearch.training.probe import plateau_start


def backbone_blocks(summary: Summary) -> Iterator[Block]:
    """Compare the backbones, each at its best cut."""
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


def rate_blocks(summary: Summary) -> Iterator[Block]:
    """Show learning rate against depth."""
    for part in summary.each:
        if part.trials:
            yield from _named(summary, part)
            yield rate_figure(part)


def depth_blocks(summary: Summary) -> Iterator[Block]:
    """Show the scores over depth, and the best cuts."""
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
            told = (
                mean_with_error(confirmed),
                f"{ranked.index(confirmed) + 1} of {len(ranked)}",
                _gap(confirmed),
            )
        rows.append((str(cut.layer), names_of(cut), *told, shown(single.get(cut))))
    yield Table(headings=headings, rows=tuple(rows), numbers=frozenset(headings) - {"first trainable"})


def confirmation_blocks(summary: Summary) -> Iterator[Block]:
    """Show what training the best settings again has given."""
    evidence = summary.evidence
    if evidence is None:
        return
    seeds = sorted({seed for confirmed in evidence.confirmed for seed in confirmed.scores})
    by_seed = tuple(f"seed {seed}" for seed in seeds)
    headings = ("layer", "mean", "behind the best", "first trainable", "setting", *by_seed)
    rows = tuple(
        (
            str(confirmed.cut.layer),
            mean_with_error(confirmed),
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


def transfer_blocks(summary: Summary) -> Iterator[Block]:
    """Show how far the frozen features carry a linear classifier."""
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


def learning_blocks(summary: Summary, record: Record) -> Iterator[Block]:
    """Show every trial epoch by epoch."""
    if not any(record.epochs.get(trial.number) for trial in summary.trials):
        return
    n_pruned = summary.count("pruned")
    if n_pruned:
        wanted = record.recipe.get("epochs", 0) * summary.n_finished
        trained = sum(
            trial.epochs for trial in summary.searched if trial.state in ("complete", "pruned", "fail")
        )
        yield Paragraph(
            f"{n_pruned} {plural('trial', n_pruned)} pruned: {trained} of {wanted} epochs were trained."
        )
    yield learning_figure(summary, record)


def importance_blocks(summary: Summary, record: Record) -> Iterator[Block]:
    """Show how much each parameter mattered, where there are enough trials."""
    n_complete = summary.count("complete")
    if record.importance:
        yield Paragraph(
            f"Estimated from {n_complete} complete trials; those pruned have no part in it. It says what the "
            "scores varied with over the ranges searched, not what is worth changing at the answer."
        )
        yield importance_figure(record.importance)
    elif n_complete < LEAST_FOR_IMPORTANCE:
        yield Paragraph(
            f"Not estimated: with {n_complete} complete {plural('trial', n_complete)} the parameters' "
            f"importance would be chance; it takes {LEAST_FOR_IMPORTANCE}."
        )
    else:
        yield Paragraph("Not estimated: the scores of the complete trials cannot be told apart.")


def trial_blocks(summary: Summary) -> Iterator[Block]:
    """List every trial."""
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
