"""The tables of a report, of what a study found and what it took."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from depthsearch.models.cuts import Cut
from depthsearch.report.page.values import Cell, Code, Table, names_of
from depthsearch.report.text import BACKBONE_HEADINGS, backbone_row, sparkline
from depthsearch.results.evidence import Evidence, Expected, Settled
from depthsearch.results.front import Front, FrontPoint
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Standing, Summary
from depthsearch.results.trials import ENDED, State, StoredTrial
from depthsearch.search.beliefs.verdict import SURE
from depthsearch.text import percent
from depthsearch.training.outcomes import ProbePoint, plateau_start
from depthsearch.visualization import words
from depthsearch.visualization.words import (
    in_points,
    millions,
    origin_of,
    setting_of,
    shown,
    state_of,
    with_error,
)

STATES: tuple[tuple[State, str], ...] = (
    *((state, words.STATES[state]) for state in ENDED),
    ("running", "running"),
    ("paused", words.STATES["paused"]),
)
# Columns of words; all others hold numbers.
WORDS = frozenset(
    {
        "backbone",
        "first trainable",
        "features before",
        "kind",
        "setting",
        "origin",
        "state",
        "curve",
        "parameter",
        "note",
        "",
    }
)
Row = TypeVar("Row")


def _table(
    rows: Iterable[Row], columns: Mapping[str, Callable[[Row], Cell]], marked: Row | None = None
) -> Table:
    """Write things as rows.

    Args:
        rows: The things.
        columns: What to write of each, by heading.
        marked: The one to emphasise.
    """
    every = list(rows)
    return Table(
        headings=tuple(columns),
        rows=tuple(tuple(write(row) for write in columns.values()) for row in every),
        numbers=frozenset(columns) - WORDS,
        marked=next((place for place, row in enumerate(every) if row is marked), None),
    )


def backbones_table(compared: Sequence[Standing]) -> Table:
    """Compare the backbones, each at its best cut."""
    place = BACKBONE_HEADINGS.index("first trainable")
    rows = [backbone_row(standing) for standing in compared]
    return Table(
        headings=BACKBONE_HEADINGS,
        rows=tuple((*row[:place], Code(row[place]), *row[place + 1 :]) for row in rows),
        numbers=frozenset(BACKBONE_HEADINGS) - WORDS,
        marked=next((row for row, standing in enumerate(compared) if standing.is_answer), None),
    )


def top_table(summary: Summary) -> Table | None:
    """List the best complete trial of each of the best cuts."""
    columns: dict[str, Callable[[StoredTrial], Cell]] = {
        "layer": lambda t: str(t.cut.layer),
        "score": lambda t: shown(t.score),
        "first trainable": lambda t: names_of(t.cut),
        "kind": lambda t: t.cut.kind,
        "frozen MACs": lambda t: f"{t.cut.frozen_mac_share:.3f}",
        "setting": setting_of,
        "trial": lambda t: str(t.number),
    }
    top = summary.top_cuts()
    return _table(top, columns) if top else None


def depth_table(summary: Summary) -> Table:
    """List what is known of each depth that was tried: best score, mean over seeds, what all trials say."""
    evidence = summary.evidence
    n_trials = Counter(trial.cut for trial in summary.searched)
    best = {trial.cut: trial.score for trial in summary.top_cuts(len(summary.cuts))}
    columns: dict[str, Callable[[Cut], Cell]] = {
        "layer": lambda cut: str(cut.layer),
        "first trainable": names_of,
        "trials": lambda cut: str(n_trials[cut]),
        "best score": lambda cut: shown(best[cut]) if cut in best else "",
    }
    if evidence is not None:
        means = {cut: _mean(setting) for cut, setting in evidence.best_again.items()}
        expected = dict(zip(summary.cuts, evidence.expected, strict=False))
        level = {summary.cuts[place] for place in evidence.level}
        columns["mean, trained again"] = lambda cut: means.get(cut, "")
        columns[f"expected ({percent(0.95)})"] = lambda cut: _expected(expected.get(cut))
        columns[f"loses at most ({percent(SURE)})"] = lambda cut: _loss(expected.get(cut))
        columns["may be the best"] = lambda cut: "yes" if cut in level else ""
    chosen = summary.chosen.cut if summary.chosen is not None and summary.holds_answer else None
    tried = [cut for cut in summary.cuts if n_trials[cut]]
    return _table(tried, columns, next((cut for cut in tried if cut == chosen), None))


def _expected(expected: Expected | None) -> str:
    if expected is None:
        return ""
    return f"{shown(expected.mean)} ({shown(expected.low)} to {shown(expected.high)})"


def _loss(expected: Expected | None) -> str:
    return "" if expected is None else in_points(expected.loss)


def marked_table(summary: Summary) -> Table:
    """Compare the layers that were asked for with the best, by means over seeds or by single trainings."""
    evidence = summary.evidence
    again = {} if evidence is None else evidence.best_again
    single = {trial.cut: trial.score for trial in summary.top_cuts(len(summary.cuts))}
    columns: dict[str, Callable[[Cut], Cell]] = {
        "layer": lambda cut: str(cut.layer),
        "first trainable": names_of,
        "mean, trained again": lambda cut: _mean(again[cut]) if cut in again else "",
        "place among the means": lambda cut: (
            f"{list(again).index(cut) + 1} of {len(again)}" if cut in again else ""
        ),
        "behind the best": lambda cut: _gap(again[cut], evidence) if evidence and cut in again else "",
        "best trial": lambda cut: shown(single.get(cut)),
    }
    return _table(summary.marked, columns)


def confirmation_table(summary: Summary) -> Table | None:
    """List what training the best settings again has given."""
    evidence = summary.evidence
    if evidence is None or not evidence.confirmed:
        return None
    columns: dict[str, Callable[[Settled], Cell]] = {
        "layer": lambda c: str(c.cut.layer),
        "mean": _mean,
        "behind the best": partial(_gap, evidence=evidence),
        "chance": lambda c: percent(c.chance),
        "first trainable": lambda c: names_of(c.cut),
        "setting": setting_of,
    }
    for seed in sorted({seed for confirmed in evidence.confirmed for seed in confirmed.scores}):
        columns[f"seed {seed}"] = partial(_score_of, seed=seed)
    answer = next((each for each in evidence.confirmed if each is evidence.answer), None)
    return _table(evidence.confirmed, columns, answer)


def _score_of(confirmed: Settled, *, seed: int) -> str:
    return shown(confirmed.scores.get(seed))


def _mean(confirmed: Settled) -> str:
    return with_error(confirmed.mean, confirmed.standard_error)


def _gap(confirmed: Settled, evidence: Evidence) -> str:
    return "" if confirmed is evidence.best else with_error(confirmed.gap, confirmed.gap_error)


def front_table(front: Front) -> Table:
    """List the points of a front by rising cost."""
    columns: dict[str, Callable[[FrontPoint], Cell]] = {
        front.cost_name: lambda p: millions(p.cost),
        "score": lambda p: with_error(p.score, p.standard_error),
        "layer": lambda p: str(p.trial.cut.layer),
        "first trainable": lambda p: names_of(p.trial.cut),
        "setting": lambda p: setting_of(p.trial),
        "trial": lambda p: str(p.trial.number),
        "note": lambda p: front.answer_word if p.is_answer else "",
    }
    return _table(front.points, columns, next((p for p in front.points if p.is_answer), None))


def transfer_table(summary: Summary) -> Table:
    """List the linear probes of a backbone by depth."""
    curve: Sequence[ProbePoint] = sorted(summary.curve, key=lambda point: point.cut)
    columns: dict[str, Callable[[ProbePoint], Cell]] = {
        "layer": lambda p: str(p.layer),
        "features before": lambda p: names_of(summary.cuts[p.cut]),
        "features": lambda p: str(p.n_features),
        "accuracy": lambda p: shown(p.score),
        "standard error": lambda p: f"{p.standard_error:.4f}",
    }
    return _table(curve, columns, plateau_start(curve))


def learning_table(summary: Summary) -> Table:
    """List the trials that have a score with their first and last epochs."""
    curves = {
        trial.number: [score for _, score in sorted(trial.scores.items()) if math.isfinite(score)]
        for trial in summary.trials
    }

    def last_loss(trial: StoredTrial, name: str) -> float | None:
        """Return a loss of the last epoch that has a score; a trial that runs has none yet."""
        scored = [result for result in trial.results if math.isfinite(result.score)]
        return getattr(scored[-1], name) if scored else None

    columns: dict[str, Callable[[StoredTrial], Cell]] = {
        "trial": lambda t: str(t.number),
        "layer": lambda t: str(t.cut.layer),
        "state": state_of,
        "epochs": lambda t: str(len(curves[t.number])),
        "curve": lambda t: sparkline(curves[t.number]),
        "first": lambda t: shown(curves[t.number][0]),
        "last": lambda t: shown(curves[t.number][-1]),
        "training loss": lambda t: shown(last_loss(t, "train_loss")),
        "validation loss": lambda t: shown(last_loss(t, "val_loss")),
    }
    return _table((t for t in summary.trials if curves[t.number]), columns, summary.best)


def importance_table(importance: Mapping[str, float]) -> Table:
    """List how much each parameter mattered."""
    ranked = sorted(importance.items(), key=lambda pair: (-pair[1], pair[0]))
    columns: dict[str, Callable[[tuple[str, float]], Cell]] = {
        "parameter": lambda pair: pair[0].replace("_", " "),
        "share": lambda pair: f"{pair[1]:.2f}",
    }
    return _table(ranked, columns)


def trials_table(summary: Summary) -> Table:
    """List every trial."""
    columns: dict[str, Callable[[StoredTrial], Cell]] = {
        "trial": lambda t: str(t.number),
        "layer": lambda t: str(t.cut.layer),
        "score": lambda t: shown(t.score),
        "origin": origin_of,
        "state": state_of,
        "setting": setting_of,
        "first trainable": lambda t: names_of(t.cut),
        "epochs": lambda t: str(t.epochs),
        "seconds": lambda t: f"{t.seconds:.1f}",
    }
    return _table(summary.trials, columns, summary.best)


def cost_table(summary: Summary, stored: StoredStudy) -> Table:
    """List what the trials took by how they ended, with and without keeping features."""
    units = {key: backbone.full_fine_tune_macs for key, backbone in stored.backbones.items()}
    rows = [_cost_row(word, trials, units) for word, trials in _groups(summary)]
    if stored.curves:
        seconds = sum(curve.seconds for curve in stored.curves.values())
        spent = sum(curve.macs / units[key] for key, curve in stored.curves.items())
        rows.append(("linear probes", "", "", f"{seconds:.1f}", f"{spent:.2f}", ""))
    cost, n_epochs = summary.cost, sum(trial.epochs for trial in summary.trials)
    spent_in_all = (f"{cost.seconds:.1f}", f"{cost.full_fine_tunes:.2f}", f"{cost.plain_full_fine_tunes:.2f}")
    rows.append(("in all", str(len(summary.trials)), str(n_epochs), *spent_in_all))
    headings = ("", "trials", "epochs", "seconds", "full fine-tunes", "nothing kept")
    numbers = frozenset(headings) - WORDS
    return Table(headings=headings, rows=tuple(rows), numbers=numbers, marked=len(rows) - 1)


def _groups(summary: Summary) -> Iterator[tuple[str, list[StoredTrial]]]:
    for state, word in STATES:
        trials = [trial for trial in summary.searched if trial.state == state]
        if trials:
            yield word, trials
    if summary.confirming:
        yield "trained again", list(summary.confirming)


def _cost_row(word: str, trials: Sequence[StoredTrial], units: Mapping[str, int]) -> tuple[str, ...]:
    spent = sum(trial.macs / units[trial.cut.backbone] for trial in trials)
    plain = sum(trial.plain_macs / units[trial.cut.backbone] for trial in trials)
    n_epochs, seconds = sum(trial.epochs for trial in trials), sum(trial.seconds for trial in trials)
    return word, str(len(trials)), str(n_epochs), f"{seconds:.1f}", f"{spent:.2f}", f"{plain:.2f}"
