"""The note of a study: its answer so far, the best cuts, what it cost, its images, and where it stands."""

from __future__ import annotations

import shlex
from datetime import UTC

from depthsearch.report.page.composing import cost_values, data_values, opening_values
from depthsearch.report.page.rendering import as_markdown
from depthsearch.report.page.values import Cell, Code, Table
from depthsearch.results.evidence import Settled
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary
from depthsearch.results.trials import StoredTrial
from depthsearch.study.progress import Status
from depthsearch.text import counted, duration, percent, plural
from depthsearch.visualization.words import setting_of, shown, with_error

# Best cuts that the note lists.
N_CUTS = 8
# The dashboard sets the columns of a table side by side without a gap.
GAP = "\N{EM SPACE}"
HEADINGS = ("layer", "Keras name", "module path", "score", "evidence", "MACs frozen", "setting", "trial")


def note_text(stored: StoredStudy, summary: Summary, status: Status) -> str:
    """Write a study's note in Markdown; names that come from users are escaped.

    Args:
        stored: Whose.
        summary: Of it.
        status: Where it stands.
    """
    values = {
        **opening_values(summary, stored),
        **cost_values(summary, stored),
        **data_values(summary, stored, with_lists=False),
        "gap": GAP,
        "state": _state(stored, status),
        "best_cuts": _best_cuts(summary),
    }
    return as_markdown("note.md.j2", values)


def _state(stored: StoredStudy, status: Status) -> Cell:
    """Write who runs the study and how far it is, as of the latest event that it keeps."""
    n, wanted = status.trials_done, status.trials_wanted
    most = "at most " if status.trials_at_most else ""
    progress = f"{n}{f' of {most}{wanted}' if wanted else ''} {plural('trial', wanted or n)} done"
    if status.confirming and status.trials_at_most:
        progress += f", {counted(status.confirmed, 'training')} of settings again"
    elif status.confirming:
        progress += f", {status.confirmed} of {counted(status.confirming, 'training')} of the confirmation"
    when = f" As of {stored.latest.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC." if stored.latest else ""
    if status.holder is not None:
        doing = "trains its answer" if status.holder.doing == "fit" else "runs it"
        left = f", about {duration(status.seconds_left)} left" if status.seconds_left else ""
        return f"{status.state.capitalize()}: {status.holder} {doing}; {progress}{left}.{when}"
    if status.state == "interrupted":
        return (f"Interrupted: nobody runs it; {progress}.{when} What goes on with it: ",
                Code(f"depthsearch status {shlex.quote(stored.name)}"), ".")  # fmt: skip
    return f"{status.state.capitalize()}: {progress}.{when}"


def _best_cuts(summary: Summary) -> Table | None:
    """List the cuts that were trained again, by their means, then others by their best training."""
    top = summary.top_cuts(N_CUTS)
    if not top:
        return None
    evidence = summary.evidence
    again = {} if evidence is None else evidence.best_again
    by_number = {trial.number: trial for trial in summary.trials}
    listed = [
        (by_number[c.trial], with_error(c.mean, c.standard_error), _rests_on(c)) for c in again.values()
    ]
    listed += [(trial, shown(trial.score), "one training") for trial in top if trial.cut not in again]
    chosen, kept = summary.chosen, listed[:N_CUTS]
    answer = next((row for row in listed if chosen is not None and row[0].cut == chosen.cut), None)
    if answer is not None and answer not in kept:
        # The answer is the cheapest of those that lose little, of which there may be many.
        kept[-1] = answer
    return Table(
        headings=(*(("backbone",) if summary.parts else ()), *HEADINGS),
        rows=tuple(_row(summary, *row) for row in kept),
        marked=None if answer is None else kept.index(answer),
    )


def _rests_on(settled: Settled) -> str:
    n = len(settled.scores)
    return f"mean of {n} trainings" if n > 1 else "trained again once"


def _row(summary: Summary, trial: StoredTrial, score: str, evidence: str) -> tuple[Cell, ...]:
    cut = trial.cut
    row = (
        str(cut.layer),
        Code(cut.keras_name) if cut.keras_name else "",
        Code(cut.name),
        score,
        evidence,
        percent(cut.frozen_mac_share),
        setting_of(trial),
        str(trial.number),
    )
    return (cut.backbone, *row) if summary.parts else row
