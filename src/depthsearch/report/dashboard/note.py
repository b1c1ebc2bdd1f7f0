"""The note of a study: its answer so far, the best cuts, what it cost, its images, and where it stands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import optuna

from depthsearch.report.document import Block, Code, Document, Inline, Paragraph, Section, Table, as_markdown
from depthsearch.report.page.answer import mean_with_error, opening_blocks, plural
from depthsearch.report.page.cost import cost_blocks
from depthsearch.report.page.sources import data_blocks
from depthsearch.report.plots import metric_of, shown
from depthsearch.report.record import Record
from depthsearch.report.text import duration, setting_of
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary
from depthsearch.study.progress import Status

__all__ = ["note_text"]

# Best cuts that the note lists.
N_CUTS = 8
# The dashboard sets the columns of a table side by side without a gap.
GAP = "\N{EM SPACE}"
HEADINGS = ("layer", "Keras name", "module path", "score", "evidence", "MACs frozen", "setting", "trial")


def note_text(study: optuna.Study, summary: Summary, record: Record, found: Status) -> str:
    """Write a study's note in Markdown; names that come from users are escaped.

    Args:
        study: Whose.
        summary: Of it.
        record: Of it; `importance` is not needed.
        found: Where it stands.
    """
    made = (
        Section("Best cuts", tuple(map(_spaced, _best_cuts(summary)))),
        Section("Cost", tuple(map(_spaced, cost_blocks(summary, record)))),
        Section(f"{summary.noun.capitalize()}s", tuple(_data(record))),
    )
    return as_markdown(
        Document(
            title=f"{summary.backbone} on {summary.data}",
            subtitle=_state(study, found),
            blocks=tuple(opening_blocks(summary, record)),
            sections=tuple(section for section in made if section.blocks),
        )
    )


def _spaced(block: Block) -> Block:
    """Set the columns of a table apart; but for their first cells, which may be emphasised."""
    if not isinstance(block, Table):
        return block
    return replace(
        block,
        headings=tuple(heading + GAP for heading in block.headings),
        rows=tuple((first, *(_before_gap(cell) for cell in rest)) for first, *rest in block.rows),
        numbers=frozenset(heading + GAP for heading in block.numbers),
    )


def _before_gap(cell: Inline) -> Inline:
    return (*cell, GAP) if isinstance(cell, tuple) else (cell, GAP)


def _state(study: optuna.Study, found: Status) -> Inline:
    """Say who runs the study and how far it is, as of the latest event that it keeps."""
    n, wanted = found.trials_done, found.trials_wanted
    progress = f"{n}{f' of {wanted}' if wanted else ''} {plural('trial', wanted or n)} done"
    if found.confirming:
        progress += f", {found.confirmed} of {found.confirming} trainings of the confirmation"
    latest = _latest(study)
    when = f" As of {latest:%Y-%m-%d %H:%M:%S} UTC." if latest else ""
    if found.holder is not None:
        doing = "trains its answer" if found.holder.doing == "fit" else "runs it"
        left = f", about {duration(found.seconds_left)} left" if found.seconds_left else ""
        return f"{found.state.capitalize()}: {found.holder} {doing}; {progress}{left}.{when}"
    if found.state == "interrupted":
        return (f"Interrupted: nobody runs it; {progress}.{when} What goes on with it: ",
                Code(f"depthsearch status {shlex.quote(study.study_name)}"), ".")  # fmt: skip
    return f"{found.state.capitalize()}: {progress}.{when}"


def _latest(study: optuna.Study) -> datetime | None:
    """Give when a trial last began or ended, in UTC; Optuna gives the time of this machine's zone."""
    trials = study.get_trials(deepcopy=False)
    times = [when for t in trials for when in (t.datetime_start, t.datetime_complete) if when is not None]
    latest = max(times, default=None)
    return None if latest is None else latest.astimezone(UTC)


def _best_cuts(summary: Summary) -> Iterator[Block]:
    """List the cuts that were trained again, by their means, then others by their best training."""
    top = summary.top_cuts(N_CUTS)
    if not top:
        return
    evidence = summary.evidence
    again = {} if evidence is None else {c.cut: c for c in evidence.confirmed}
    ranked = sorted(again.values(), key=lambda confirmed: confirmed.gap)
    by_number = {trial.number: trial for trial in summary.trials}
    rows = [
        _row(summary, by_number[c.trial], mean_with_error(c), f"mean of {len(c.scores)} seeds")
        for c in ranked
    ]
    rows += [_row(summary, t, shown(t.score), "one training") for t in top if t.cut not in again]
    of_several = ("backbone",) if summary.parts else ()
    cuts = [by_number[c.trial].cut for c in ranked] + [trial.cut for trial in top if trial.cut not in again]
    chosen = summary.chosen
    place = cuts.index(chosen.cut) if chosen is not None and chosen.cut in cuts else None
    kept = list(range(len(rows)))[:N_CUTS]
    if place is not None and place not in kept:
        # The answer is the cheapest of those that cannot be told from the best, of which there may be many.
        kept[-1] = place
    marked = "" if place is None else f"; the marked one is the {'answer' if evidence else 'best'}"
    yield Paragraph(f"By {metric_of(summary)}{marked}.")
    yield Table(
        headings=(*of_several, *HEADINGS),
        rows=tuple(rows[row] for row in kept),
        marked=None if place is None else kept.index(place),
    )


def _row(summary: Summary, trial: TrialSummary, score: str, evidence: str) -> tuple[Inline, ...]:
    cut = trial.cut
    row = (
        str(cut.layer),
        Code(cut.keras_name) if cut.keras_name else "",
        Code(cut.name),
        score,
        evidence,
        f"{cut.frozen_mac_share:.0%}".replace("%", " %"),
        setting_of(trial.params),
        str(trial.number),
    )
    return (cut.backbone, *row) if summary.parts else row


def _data(record: Record) -> Iterator[Block]:
    """Tell the facts of the images, without the lists that a report folds away."""
    yield from (block for block in data_blocks(record) if not hasattr(block, "summary"))
