"""Score against depth, of one backbone: every trial, the best, and what repetitions say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from depthsearch.report.charts import Axis
from depthsearch.report.dashboard.figure import COLOURS, cut_text, figure, names_x, plotted, trial_text
from depthsearch.report.plots import WIDE, end_score, score_axis, shown
from depthsearch.report.plots.frame import depth_axis, scores_of
from depthsearch.report.text import setting_of
from depthsearch.results.evidence import Confirmed, Evidence
from depthsearch.results.summary import Summary
from depthsearch.results.trials import TrialSummary

__all__ = ["depth_plot"]

SYMBOLS = {"complete": "circle", "pruned": "x-thin", "running": "circle-open", "fail": "square"}
WORDS = {"complete": "complete", "pruned": "pruned", "running": "running", "fail": "failed"}


def depth_plot(summary: Summary) -> dict[str, Any]:
    """Draw each trial's score at the depth of its cut.

    Args:
        summary: Of one backbone.
    """
    axis = score_axis(scores_of(summary, "complete"), _kept_in_view(summary), WIDE, summary)
    evidence = summary.evidence
    traces = [*_expected(evidence)] if evidence is not None else []
    traces += _ends(summary)
    for state in ("fail", "pruned", "running", "complete"):
        of_it = [t for t in summary.trials if t.state == state and _has_score(t)]
        again = [t for t in of_it if t.confirms is not None]
        traces.append(_trials([t for t in of_it if t.confirms is None], axis, state, WORDS[state]))
        if state == "complete":
            traces.append({**_trials(again, axis, state, "trained again"), "marker": _marker("diamond", 5)})
    traces += _best(summary) if evidence is None else _means(summary, evidence)
    return figure(
        (f"Score against depth: {summary.backbone}", _how_sure(summary)),
        traces,
        x=names_x(depth_axis(summary, WIDE)),
        y={"title": axis.label, "range": [axis.low, axis.high]},
        shapes=[*_level(evidence), *_marked(summary)],
        annotations=[_arrow(cut.index, f"asked for: {cut.layer}") for cut in summary.marked],
    )


def _kept_in_view(summary: Summary) -> list[float]:
    evidence = summary.evidence
    best = None if summary.best is None else summary.best.score
    found = [end_score(summary, -1), end_score(summary, 0), best]
    if evidence is not None:
        found += [score for confirmed in evidence.confirmed for score in confirmed.scores.values()]
        found += [expected.mean for expected in evidence.expected]
    return [score for score in found if score is not None]


def _has_score(trial: TrialSummary) -> bool:
    return trial.score is not None and math.isfinite(trial.score)


def _how_sure(summary: Summary) -> str:
    """Say the answer in a line, or that there is none yet."""
    best, evidence = summary.best, summary.evidence
    if evidence is not None:
        answer = evidence.answer
        error = "" if answer.standard_error is None else f" ± {answer.standard_error:.4f}"
        word = "answer" if summary.holds_answer else "its best"
        return f"{word}: layer {answer.cut.layer}, {shown(answer.mean)}{error}, {len(answer.scores)} seeds"
    if best is None:
        return f"{len(summary.searched)} trials, none complete yet"
    return f"best so far: layer {best.cut.layer}, {shown(best.score)}, one training"


def _marker(symbol: str, size: float, colour: str = COLOURS["complete"]) -> dict[str, Any]:
    return {"symbol": symbol, "size": size, "color": colour, "line": {"width": 1.5, "color": colour}}


def _trials(trials: Sequence[TrialSummary], axis: Axis, state: str, name: str) -> dict[str, Any]:
    """Draw trials; those beyond the axis at its edge, as a triangle that points there."""
    places = [_within(trial.score or 0.0, axis) for trial in trials]
    symbols = [beyond or SYMBOLS[state] for _, beyond in places]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [trial.cut.index for trial in trials],
        "y": [y for y, _ in places],
        "text": [trial_text(trial) for trial in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
        "marker": {**_marker(SYMBOLS[state], 8, COLOURS[state]), "symbol": symbols},
    }


def _within(score: float, axis: Axis) -> tuple[float, str]:
    """Place a score on the axis, with the symbol of one that lies beyond it."""
    if axis.low <= score <= axis.high:
        return score, ""
    return (axis.low, "triangle-down") if score < axis.low else (axis.high, "triangle-up")


def _best(summary: Summary) -> Iterator[dict[str, Any]]:
    best = summary.best
    if best is not None:
        yield {
            "type": "scatter",
            "mode": "markers",
            "name": "best, one training",
            "x": [best.cut.index],
            "y": [best.score],
            "text": [trial_text(best)],
            "hovertemplate": "%{text}<extra></extra>",
            "marker": _marker("star", 14, COLOURS["best"]),
        }


def _means(summary: Summary, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Draw the means over seeds with their standard errors, the answer last."""
    others = [c for c in evidence.confirmed if c.cut != evidence.answer.cut]
    word = "answer" if summary.holds_answer else "best of this backbone"
    yield _mean_trace(others, "mean over seeds ± standard error", _marker("diamond", 10))
    yield _mean_trace([evidence.answer], word, _marker("star", 15, COLOURS["best"]))


def _mean_trace(confirmed: Sequence[Confirmed], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    texts = []
    for each in confirmed:
        error = "" if each.standard_error is None else f" ± {each.standard_error:.4f}"
        rows = (
            f"mean of {len(each.scores)} seeds: {shown(each.mean)}{error}",
            cut_text(each.cut),
            setting_of(each.params),
        )
        texts.append("<br>".join(map(plotted, rows)))
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [each.cut.index for each in confirmed],
        "y": [each.mean for each in confirmed],
        "error_y": {"type": "data", "array": [each.standard_error or 0.0 for each in confirmed]},
        "text": texts,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def _expected(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """Draw what all trials say of each depth: a line, in a band of 95 %."""
    places = list(range(len(evidence.expected)))
    pale = {"type": "scatter", "mode": "lines", "x": places, "hoverinfo": "skip"}
    edge = {**pale, "line": {"width": 0}, "showlegend": False}
    yield {**edge, "name": "low", "y": [e.low for e in evidence.expected]}
    band = {"fill": "tonexty", "fillcolor": "rgba(31,102,176,0.12)", "name": "expected, 95 %"}
    yield {**edge, **band, "showlegend": True, "y": [e.high for e in evidence.expected]}
    line = {"color": COLOURS["complete"], "width": 1, "dash": "dot"}
    yield {
        **pale,
        "name": "expected",
        "showlegend": False,
        "line": line,
        "y": [e.mean for e in evidence.expected],
    }


def _ends(summary: Summary) -> Iterator[dict[str, Any]]:
    """Draw what freezing nothing and freezing everything give, as lines over the whole depth."""
    for name, index, dash in (("head only", -1, "dash"), ("everything trained", 0, "dashdot")):
        score = end_score(summary, index)
        if score is not None and len(summary.cuts) > 1:
            yield {
                "type": "scatter",
                "mode": "lines",
                "name": f"{name} {shown(score)}",
                "x": [0, len(summary.cuts) - 1],
                "y": [score, score],
                "line": {"color": COLOURS["pale"], "width": 1, "dash": dash},
                "hovertemplate": f"{name} {shown(score)}<extra></extra>",
            }


def _level(evidence: Evidence | None) -> Iterator[dict[str, Any]]:
    """Shade the depths that cannot be told from the best."""
    if evidence is None or not evidence.level:
        return
    level = sorted(evidence.level)
    starts = [level[0], *(b for a, b in pairwise(level) if b > a + 1)]
    ends = [*(a for a, b in pairwise(level) if b > a + 1), level[-1]]
    for start, end in zip(starts, ends, strict=True):
        yield {
            "type": "rect",
            "yref": "paper",
            "x0": start - 0.5,
            "x1": end + 0.5,
            "y0": 0,
            "y1": 1,
            "fillcolor": "rgba(200,67,11,0.08)",
            "line": {"width": 0},
            "layer": "below",
            "name": "cannot be told from the best",
            "showlegend": start == level[0],
        }


def _marked(summary: Summary) -> Iterator[dict[str, Any]]:
    for cut in summary.marked:
        place = {"x0": cut.index, "x1": cut.index, "y0": 0, "y1": 1}
        line = {"color": COLOURS["pale"], "width": 1, "dash": "dot"}
        yield {"type": "line", "yref": "paper", **place, "line": line}


def _arrow(place: int, text: str) -> dict[str, Any]:
    at = {"x": place, "y": 0.02, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    return {**at, "text": plotted(text), "showarrow": False, "font": {"size": 11, "color": COLOURS["pale"]}}
