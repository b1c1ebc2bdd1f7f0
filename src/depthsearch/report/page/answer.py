"""What stands above all sections of a report: the answer and the key figures."""

from __future__ import annotations

from collections.abc import Iterator

from depthsearch.report.page.values import Cell
from depthsearch.results.summary import Answer, Summary, end_score, trainable
from depthsearch.text import duration, percent
from depthsearch.visualization.words import metric_of, setting_of, shown, trial_counts


def other_ends(summary: Summary, answer: Answer) -> Iterator[tuple[str, str]]:
    """List what else the answer's backbone scores: a score, and what is trained there."""
    part, cut = summary.part_with(answer.cut), answer.cut
    ends = ((-1, "only the head trained", cut.kind == "head"), (0, "everything trained", cut.index == 0))
    for index, what, is_answer in ends:
        score = end_score(part, index).score
        if score is not None and not is_answer:
            yield shown(score), what


def key_figures(summary: Summary) -> Iterator[tuple[str, Cell, Cell]]:
    """List the key figures: name, value, and what there is to say of it."""
    chosen, answer = summary.chosen, summary.answer
    if chosen is not None and answer is not None:
        setting, error = setting_of(chosen), answer.standard_error
        if summary.evidence is None:
            setting = f"trial {chosen.number}: {setting}"
        elif error is not None:
            setting = f"± {error:.4f}; {setting}"
        yield metric_of(summary).capitalize(), shown(answer.score), setting
        yield "Frozen", percent(chosen.cut.frozen_mac_share), "of the backbone's MACs"
        learns = trainable(summary, chosen)
        if learns is not None:
            numbers = f"{learns.parameters:,} of {learns.all_parameters:,} parameters, the head's included"
            yield "Trainable tensors", f"{learns.tensors} of {learns.all_tensors}", numbers
    part = summary if chosen is None else summary.part_with(chosen.cut)
    whose = f" of {part.backbone}" if summary.parts else ""
    yield "Head only", shown(end_score(part, -1).score), f"feature extraction{whose}"
    yield "Everything trained", shown(end_score(part, 0).score), f"full fine-tuning{whose}"
    yield "Trials", str(len(summary.trials)), trial_counts(summary)
    cost = summary.cost
    yield "Cost", f"{cost.full_fine_tunes:.2f}", f"full fine-tunes; {duration(cost.seconds)}"
