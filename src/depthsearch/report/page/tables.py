"""The tables of a report, of what a study found and what it took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from depthsearch.report.page.values import Cell, Code, Table, names_of
from depthsearch.report.record import Epoch, Record
from depthsearch.report.text import BACKBONE_HEADINGS, backbone_row, sparkline
from depthsearch.results.evidence import Confirmed
from depthsearch.results.front import Front
from depthsearch.results.summary import Standing, Summary
from depthsearch.results.trials import TrialSummary
from depthsearch.training.probe import ProbePoint, plateau_start
from depthsearch.visualization.words import millions, setting_of, shown, state_of, with_error

__all__ = [
    "STATES",
    "backbones_table",
    "confirmation_table",
    "cost_table",
    "depth_table",
    "front_table",
    "importance_table",
    "learning_table",
    "marked_table",
    "top_table",
    "transfer_table",
    "trials_table",
]

STATES = (("complete", "complete"), ("pruned", "pruned"), ("fail", "failed"), ("running", "running"))
# Columns of words; all others hold numbers.
WORDS = frozenset(
    {"backbone", "first trainable", "features before", "kind", "setting", "state", "curve", "parameter", ""}
)


def _table(headings: Sequence[str], rows: Sequence[tuple[Cell, ...]], marked: int | None = None) -> Table:
    return Table(
        headings=tuple(headings), rows=tuple(rows), numbers=frozenset(headings) - WORDS, marked=marked
    )


def backbones_table(compared: Sequence[Standing]) -> Table:
    """Compare the backbones, each at its best cut."""
    place = BACKBONE_HEADINGS.index("first trainable")
    rows = [backbone_row(standing) for standing in compared]
    marked = next((row for row, standing in enumerate(compared) if standing.is_answer), None)
    return _table(
        BACKBONE_HEADINGS, [(*row[:place], Code(row[place]), *row[place + 1 :]) for row in rows], marked
    )


def top_table(summary: Summary) -> Table | None:
    """List the best complete trial of each of the best cuts."""
    rows = [
        (
            str(trial.cut.layer),
            shown(trial.score),
            names_of(trial.cut),
            trial.cut.kind,
            f"{trial.cut.frozen_mac_share:.3f}",
            setting_of(trial.params),
            str(trial.number),
        )
        for trial in summary.top_cuts()
    ]
    headings = ("layer", "score", "first trainable", "kind", "frozen MACs", "setting", "trial")
    return _table(headings, rows) if rows else None


def depth_table(summary: Summary) -> Table:
    """List what is known of each depth that was tried: best score, mean over seeds, what all trials say."""
    evidence = summary.evidence
    scores: dict[int, list[float]] = {}
    for trial in summary.searched:
        if trial.state == "complete" and trial.score is not None:
            scores.setdefault(trial.cut.index, []).append(trial.score)
    best = max if summary.maximize else min
    n_trials = Counter(trial.cut for trial in summary.searched)
    tried = [(place, cut) for place, cut in enumerate(summary.cuts) if n_trials[cut]]
    rows = []
    for place, cut in tried:
        single = scores.get(cut.index)
        row = [str(cut.layer), names_of(cut), str(n_trials[cut]), shown(best(single)) if single else ""]
        if evidence is not None:
            confirmed = next((c for c in evidence.confirmed if c.cut == cut), None)
            row.append("" if confirmed is None else _mean(confirmed))
            if evidence.expected:
                expected = evidence.expected[place]
                row.append(f"{shown(expected.mean)} ({shown(expected.low)} to {shown(expected.high)})")
            row.append("yes" if place in evidence.level else "")
        rows.append(tuple(row))
    headings = ["layer", "first trainable", "trials", "best score"]
    if evidence is not None:
        headings += [
            "mean over seeds",
            *(["expected (95 %)"] if evidence.expected else []),
            "level with the best",
        ]
    cuts, chosen = [cut for _, cut in tried], summary.chosen
    return _table(
        headings, rows, cuts.index(chosen.cut) if chosen is not None and chosen.cut in cuts else None
    )


def marked_table(summary: Summary) -> Table:
    """Compare the layers that were asked for with the best, by means over seeds or by single trainings."""
    evidence = summary.evidence
    by_mean = {} if evidence is None else {c.cut: c for c in evidence.confirmed}
    single = {trial.cut: trial.score for trial in reversed(summary.top_cuts(len(summary.cuts)))}
    ranked = sorted(by_mean.values(), key=lambda confirmed: confirmed.gap)
    rows = []
    for cut in summary.marked:
        confirmed = by_mean.get(cut)
        place = "" if confirmed is None else f"{ranked.index(confirmed) + 1} of {len(ranked)}"
        mean, gap = ("", "") if confirmed is None else (_mean(confirmed), _gap(confirmed))
        rows.append((str(cut.layer), names_of(cut), mean, place, gap, shown(single.get(cut))))
    headings = ("mean over seeds", "place among the means", "behind the best", "best trial")
    return _table(("layer", "first trainable", *headings), rows)


def confirmation_table(summary: Summary) -> Table | None:
    """List what training the best settings again has given."""
    evidence = summary.evidence
    if evidence is None:
        return None
    seeds = sorted({seed for confirmed in evidence.confirmed for seed in confirmed.scores})
    rows = [
        (
            str(confirmed.cut.layer),
            _mean(confirmed),
            _gap(confirmed),
            names_of(confirmed.cut),
            setting_of(confirmed.params),
            *(shown(confirmed.scores.get(seed)) for seed in seeds),
        )
        for confirmed in evidence.confirmed
    ]
    headings = (
        "layer",
        "mean",
        "behind the best",
        "first trainable",
        "setting",
        *(f"seed {seed}" for seed in seeds),
    )
    cuts = [confirmed.cut for confirmed in evidence.confirmed]
    return _table(headings, rows, cuts.index(evidence.answer.cut) if evidence.answer.cut in cuts else None)


def _mean(confirmed: Confirmed) -> str:
    return with_error(confirmed.mean, confirmed.standard_error)


def _gap(confirmed: Confirmed) -> str:
    return with_error(confirmed.gap, confirmed.gap_error)


def front_table(front: Front) -> Table:
    """List the points of a front by rising cost."""
    rows = [
        (
            millions(point.cost),
            with_error(point.score, point.standard_error),
            str(point.trial.cut.layer),
            names_of(point.trial.cut),
            setting_of(point.trial.params),
            str(point.trial.number),
            front.answer_word if point.is_answer else "",
        )
        for point in front.points
    ]
    headings = (front.cost_name, "score", "layer", "first trainable", "setting", "trial", "")
    return _table(headings, rows, next((place for place, p in enumerate(front.points) if p.is_answer), None))


def transfer_table(summary: Summary) -> Table:
    """List the linear probes of a backbone by depth."""
    curve: Sequence[ProbePoint] = sorted(summary.curve, key=lambda point: point.cut)
    start = plateau_start(curve)
    rows = [
        (
            str(point.layer),
            names_of(summary.cuts[point.cut]),
            str(point.n_features),
            shown(point.score),
            f"{point.standard_error:.4f}",
        )
        for point in curve
    ]
    headings = ("layer", "features before", "features", "accuracy", "standard error")
    return _table(headings, rows, None if start is None else curve.index(start))


def learning_table(summary: Summary, epochs: Mapping[int, Sequence[Epoch]]) -> Table:
    """List the trials that have a score with their first and last epochs."""
    headings = (
        "trial",
        "layer",
        "state",
        "epochs",
        "curve",
        "first",
        "last",
        "training loss",
        "validation loss",
    )
    finite = {
        number: [epoch for epoch in curve if math.isfinite(epoch.score)] for number, curve in epochs.items()
    }
    trials = [trial for trial in summary.trials if finite.get(trial.number)]
    rows = [
        (
            str(trial.number),
            str(trial.cut.layer),
            state_of(trial),
            str(len(curve)),
            sparkline([epoch.score for epoch in curve]),
            shown(curve[0].score),
            shown(curve[-1].score),
            shown(curve[-1].train_loss),
            shown(curve[-1].val_loss),
        )
        for trial in trials
        for curve in [finite[trial.number]]
    ]
    return _table(headings, rows, trials.index(summary.best) if summary.best in trials else None)


def importance_table(importance: Mapping[str, float]) -> Table:
    """List how much each parameter mattered."""
    ranked = sorted(importance.items(), key=lambda pair: (-pair[1], pair[0]))
    return _table(
        ("parameter", "share"), [(name.replace("_", " "), f"{share:.2f}") for name, share in ranked]
    )


def trials_table(summary: Summary) -> Table:
    """List every trial."""
    headings = ("trial", "layer", "score", "state", "setting", "first trainable", "epochs", "seconds")
    rows = [
        (
            str(trial.number),
            str(trial.cut.layer),
            shown(trial.score),
            state_of(trial) + (", trained again" if trial.confirms is not None else ""),
            setting_of(trial.params),
            names_of(trial.cut),
            str(trial.epochs),
            f"{trial.seconds:.1f}",
        )
        for trial in summary.trials
    ]
    return _table(headings, rows, summary.trials.index(summary.best) if summary.best is not None else None)


def cost_table(summary: Summary, record: Record) -> Table:
    """List what the trials took by how they ended, with and without keeping features."""
    headings = ("", "trials", "epochs", "seconds", "full fine-tunes", "nothing kept")
    rows = [_cost_row(word, trials, record.units) for word, trials in _groups(summary)]
    if any(part.curve for part in summary.each):
        seconds = sum(probing.get("seconds", 0.0) for probing in record.probing.values())
        spent = sum(probing.get("macs", 0) / record.units[key] for key, probing in record.probing.items())
        rows.append(("linear probes", "", "", f"{seconds:.1f}", f"{spent:.2f}", ""))
    cost, n_epochs = summary.cost, sum(trial.epochs for trial in summary.trials)
    spent_in_all = (f"{cost.seconds:.1f}", f"{cost.full_fine_tunes:.2f}", f"{cost.plain_full_fine_tunes:.2f}")
    rows.append(("in all", str(len(summary.trials)), str(n_epochs), *spent_in_all))
    return _table(headings, rows, len(rows) - 1)


def _groups(summary: Summary) -> Iterator[tuple[str, list[TrialSummary]]]:
    for state, word in STATES:
        trials = [trial for trial in summary.searched if trial.state == state]
        if trials:
            yield word, trials
    if summary.confirming:
        yield "trained again", list(summary.confirming)


def _cost_row(word: str, trials: Sequence[TrialSummary], units: Mapping[str, int]) -> tuple[str, ...]:
    spent = sum(trial.macs / units[trial.cut.backbone] for trial in trials)
    plain = sum(trial.plain_macs / units[trial.cut.backbone] for trial in trials)
    n_epochs, seconds = sum(trial.epochs for trial in trials), sum(trial.seconds for trial in trials)
    return word, str(len(trials)), str(n_epochs), f"{seconds:.1f}", f"{spent:.2f}", f"{plain:.2f}"
