"""What stands above all sections of a report: the answer and the key figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from depthsearch.models.cuts import Cut
from depthsearch.report.page.tables import STATES
from depthsearch.report.page.values import Cell
from depthsearch.results.summary import Summary, end_score, trainable
from depthsearch.text import duration
from depthsearch.visualization.words import layer_ranges, metric_of, percent, setting_of, shown, with_error

__all__ = ["Answer", "answer_of", "key_figures", "plural"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer so far.

    Attributes:
        cut: Where to cut.
        backbone: Of the cut.
        score: As written, with its error where it has one.
        n_trainings: Behind the score.
        ends: What else the backbone scores: a score, and what is trained there.
        level: Layers that cannot be told from the best, as written; empty: the answer alone.
    """

    cut: Cut
    backbone: str
    score: str
    n_trainings: int
    ends: tuple[tuple[str, str], ...]
    level: str


def answer_of(summary: Summary) -> Answer | None:
    """Return the answer of a study; None before any trial is complete."""
    evidence, chosen = summary.evidence, summary.chosen
    if chosen is None:
        return None
    cut = chosen.cut if evidence is None else evidence.answer.cut
    part = summary.part_with(cut)
    ends = (
        (end_score(part, -1).score, "only the head trained", cut.kind == "head"),
        (end_score(part, 0).score, "everything trained", cut.index == 0),
    )
    level = ""
    if evidence is not None and len(evidence.level) > 1:
        level = f"{'' if summary.parts else 'layers '}{layer_ranges(summary.cuts, evidence.level)}"
    mean = None if evidence is None else evidence.answer
    return Answer(
        cut=cut,
        backbone=part.backbone,
        score=shown(chosen.score) if mean is None else with_error(mean.mean, mean.standard_error),
        n_trainings=1 if mean is None else mean.n_trainings,
        ends=tuple(
            (shown(score), what) for score, what, is_answer in ends if score is not None and not is_answer
        ),
        level=level,
    )


def key_figures(summary: Summary) -> Iterator[tuple[str, Cell, Cell]]:
    """List the key figures: name, value, and what there is to say of it."""
    evidence, chosen = summary.evidence, summary.chosen
    metric = metric_of(summary).capitalize()
    if evidence is not None:
        error = evidence.answer.standard_error
        setting = setting_of(evidence.answer.params)
        yield metric, shown(evidence.answer.mean), setting if error is None else f"± {error:.4f}; {setting}"
    elif chosen is not None:
        yield metric, shown(chosen.score), f"trial {chosen.number}: {setting_of(chosen.params)}"
    if chosen is not None:
        yield "Frozen", percent(chosen.cut.frozen_mac_share), "of the backbone's MACs"
        learns = trainable(summary, chosen)
        if learns is not None:
            numbers = f"{learns.parameters:,} of {learns.all_parameters:,} parameters, the head's included"
            yield "Trainable tensors", f"{learns.tensors} of {learns.all_tensors}", numbers
    part = summary if chosen is None else summary.part_with(chosen.cut)
    whose = f" of {part.backbone}" if summary.parts else ""
    yield "Head only", shown(end_score(part, -1).score), f"feature extraction{whose}"
    yield "Everything trained", shown(end_score(part, 0).score), f"full fine-tuning{whose}"
    yield "Trials", str(len(summary.searched)), _counted(summary)
    cost = summary.cost
    yield "Cost", f"{cost.full_fine_tunes:.2f}", f"full fine-tunes; {duration(cost.seconds)}"


def _counted(summary: Summary) -> str:
    counts = [f"{summary.count(state)} {word}" for state, word in STATES if summary.count(state)]
    if summary.confirming:
        counts.append(f"{len(summary.confirming)} trained again")
    return ", ".join(counts) or "none begun"


def plural(word: str, n: int) -> str:
    """Return a word in the number that fits."""
    return word if n == 1 else f"{word}s"
