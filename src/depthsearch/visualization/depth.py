"""Score against depth, of one backbone: every trial, both ends, the best, and what repetitions say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from plotly.graph_objects import Figure

from depthsearch.results.evidence import Evidence, Settled
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, end_score
from depthsearch.text import counted, percent
from depthsearch.visualization.axes import depth_axis, score_axis, score_range, stage_names
from depthsearch.visualization.marks import best_mark, cut_text, trial_marks
from depthsearch.visualization.reading import read_part
from depthsearch.visualization.style import COLOURS, Trace, figure, hover, plain, points
from depthsearch.visualization.words import runs, setting_of, shown, with_trainings


def plot_score_by_depth(study: optuna.Study | StoredStudy, *, backbone: str | None = None) -> Figure:
    """Plot each trial's score at the depth of its cut, with what confirmation says where there was one.

    Args:
        study: Made by depthsearch, as Optuna has it or as it was read.
        backbone: Which of several; None: that of the answer.

    Raises:
        StudyError: If depthsearch did not make the study.
        SettingsError: If it has no such backbone.
    """
    return draw_score_by_depth(read_part(study, backbone))


def draw_score_by_depth(summary: Summary) -> Figure:
    """Draw the summary of one backbone, see `plot_score_by_depth`."""
    evidence = summary.evidence
    low, high = _range(summary)
    lines, names = stage_names(summary)
    return figure(
        (f"Score against depth: {summary.backbone}", _how_sure(summary)),
        [
            *_expected(evidence),
            *_ends(summary),
            *trial_marks(summary.trials, lambda t: t.cut.index, (low, high), maximize=summary.maximize),
            *_answers(summary),
        ],
        x=depth_axis(summary),
        y=score_axis(summary, low, high),
        shapes=[*_level(evidence), *lines, *_marked(summary)],
        annotations=[*names, *(_asked_for(cut.index, cut.layer) for cut in summary.marked)],
    )


def _range(summary: Summary) -> tuple[float, float]:
    """Choose the range of scores: answer, both ends and all that was trained again are always in it."""
    evidence = summary.evidence
    best = None if summary.best is None else summary.best.score
    kept = [end_score(summary, -1).score, end_score(summary, 0).score, best]
    if evidence is not None:
        kept += [score for confirmed in evidence.confirmed for score in confirmed.scores.values()]
        kept.append(evidence.answer.mean)
    states = (
        ("complete",)
        if any(score is not None for score in kept)
        else ("complete", "pruned", "paused", "running", "fail")
    )
    return score_range(summary, [t.score for t in summary.trials if t.state in states], kept)


def _how_sure(summary: Summary) -> str:
    """Write the answer in a line, or that there is none yet."""
    best, evidence = summary.best, summary.evidence
    if evidence is not None:
        answer = evidence.answer
        word = "answer" if summary.holds_answer else "its best"
        return f"{word}: layer {answer.cut.layer}, {_trained(answer)}"
    if best is None:
        return f"{counted(len(summary.searched), 'trial')}, none complete yet"
    return f"best so far: layer {best.cut.layer}, {shown(best.score)}, one training"


def _expected(evidence: Evidence | None) -> Iterator[Trace]:
    """Draw what all trials say of each depth: a line, in a band of 95 %."""
    expected = () if evidence is None else evidence.expected
    common = {
        "type": "scatter",
        "mode": "lines",
        "x": list(range(len(expected))),
        "hoverinfo": "skip",
        "legendgroup": "expected",
    }
    edge = {**common, "line": {"width": 0}, "showlegend": False}
    yield {**edge, "name": "expected, low", "y": [e.low for e in expected]}
    band = {"fill": "tonexty", "fillcolor": "rgba(43,131,198,0.15)", "name": f"expected, {percent(0.95)}"}
    yield {**edge, **band, "showlegend": True, "y": [e.high for e in expected]}
    line = {"color": COLOURS["complete"], "width": 1, "dash": "dot"}
    yield {**common, "name": "expected", "showlegend": False, "line": line, "y": [e.mean for e in expected]}


def _ends(summary: Summary) -> Iterator[Trace]:
    """Draw what freezing nothing and freezing everything give, as lines over the whole depth."""
    low, high = depth_axis(summary)["range"]
    for name, index, dash in (("head only", -1, "dash"), ("everything trained", 0, "dashdot")):
        score = end_score(summary, index).score
        if score is not None:
            text = f"{name} {shown(score)}"
            yield {
                "type": "scatter",
                "mode": "lines",
                "name": text,
                "x": [low, high],
                "y": [score, score],
                "line": {"color": COLOURS["line"], "width": 1.4, "dash": dash},
                "hovertemplate": f"{text}<extra></extra>",
            }


def _answers(summary: Summary) -> Iterator[Trace]:
    """Draw the best single training, or the means over seeds with the answer last."""
    best, evidence = summary.best, summary.evidence
    if evidence is None:
        if best is not None and best.score is not None:
            yield best_mark(summary, best.cut.index, best.score)
        return
    others = [each for each in evidence.confirmed if each is not evidence.answer]
    yield _means(others, "trained again: mean ± standard error", "mean", 11)
    yield _means([evidence.answer], "answer" if summary.holds_answer else "best of this backbone", "best", 15)


def _means(confirmed: Sequence[Settled], name: str, kind: str, size: float) -> Trace:
    texts = [hover(_trained(each).capitalize(), cut_text(each.cut), setting_of(each)) for each in confirmed]
    places, means = [each.cut.index for each in confirmed], [each.mean for each in confirmed]
    errors = [each.standard_error for each in confirmed]
    return points(name, kind, places, means, texts, size=size, errors=errors)


def _trained(setting: Settled) -> str:
    return with_trainings(setting.mean, setting.standard_error, setting.n_trainings)


def _level(evidence: Evidence | None) -> Iterator[dict[str, Any]]:
    """Shade the depths among which the best is."""
    level = sorted(set(evidence.level)) if evidence is not None else []
    for run in runs(level):
        yield {
            "type": "rect",
            "yref": "paper",
            "x0": run[0] - 0.5,
            "x1": run[-1] + 0.5,
            "y0": 0,
            "y1": 1,
            "fillcolor": "rgba(0,158,115,0.13)",
            "line": {"width": 0},
            "layer": "below",
            "name": "may be the best",
            "showlegend": run[0] == level[0],
        }


def _marked(summary: Summary) -> Iterator[dict[str, Any]]:
    for cut in summary.marked:
        ends = {"x0": cut.index, "x1": cut.index, "yref": "paper", "y0": 0, "y1": 1}
        yield {"type": "line", **ends, "line": {"color": COLOURS["best"], "width": 1, "dash": "dot"}}


def _asked_for(place: int, layer: int) -> dict[str, Any]:
    at = {"x": place, "y": 0.02, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
    font = {"size": 11, "color": COLOURS["best"]}
    return {**at, "text": plain(f"asked for: {layer}"), "showarrow": False, "font": font}
