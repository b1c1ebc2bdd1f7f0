"""How sure the answer is, in words, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from depthsearch.report.tables import LAYER, NAME, TRIAL, Column, FittingTable
from depthsearch.results.evidence import MOST_TIMES, Advice, Evidence, Settled
from depthsearch.results.summary import Summary, cut_json
from depthsearch.search.beliefs.verdict import COVERED, SURE
from depthsearch.text import counted, percent, plural
from depthsearch.visualization.words import (
    in_points,
    layer_of,
    layer_ranges,
    names_of,
    setting_of,
    shown,
    with_error,
    with_trainings,
)

# Fewer validation images than this say little.
FEW_IMAGES = 30


def evidence_lines(summary: Summary, evidence: Evidence) -> Iterator[str]:
    """Write why the answer is the answer, which cut may be the best, what freezing more costs."""
    best, answer = evidence.best, evidence.answer
    tolerance, chance = in_points(evidence.tolerance), percent(answer.chance)
    if evidence.is_shown:
        loses = f"loses less than {tolerance} against the best cut"
        yield f"{layer_of(answer.cut)} {loses} with {chance} probability"
    else:
        yield (
            f"{layer_of(answer.cut)} has the highest expected score; with a probability of {chance} it loses "
            f"less than {tolerance} against the best cut"
        )
    if answer is not best:
        score = with_trainings(best.mean, best.standard_error, best.n_trainings)
        yield f"{layer_of(best.cut)} has the highest expected score, {score}"
    top = _top(summary, evidence)
    if shown(top.mean) not in (shown(answer.mean), shown(best.mean)):
        score = with_trainings(top.mean, top.standard_error, top.n_trainings)
        yield (
            f"{layer_of(top.cut)} (trial {top.trial}) has scored {score}; expected scores are "
            "learned from all trials together"
        )
    which = layer_ranges(summary.cuts, evidence.level)
    if not summary.parts:
        which = f"{'layers' if len(evidence.level) > 1 else 'layer'} {which}"
    n_cuts = counted(len(summary.cuts), "candidate")
    yield f"the best cut is among {which} ({len(evidence.level)} of {n_cuts}, {percent(COVERED)})"
    prices = [
        f"up to {layer_of(cut)} at most {in_points(loss)}" for cut, loss in evidence.prices(summary.cuts)
    ]
    if prices:
        yield f"freezing more costs ({percent(SURE)}): {'; '.join(prices)}"
    if evidence.further_rates is not None:
        low, high = evidence.further_rates
        yield (
            f"the best learning rate, {best.params['learning_rate']:.2g}, is at an end of those searched: "
            f"a study with --learning-rate {low:g}:{high:g} looks further"
        )
    if evidence.advice is not None:
        yield _advised(evidence.advice)


def _top(summary: Summary, evidence: Evidence) -> Settled:
    """Return the setting of the best printed score, which need not be the one expected to be best."""
    sign = 1.0 if summary.maximize else -1.0
    return max(evidence.settled, key=lambda setting: sign * setting.mean)


def _advised(advice: Advice) -> str:
    """Write what would make the answer surer, as far as that can be had."""
    if advice.trials:
        return "to be surer: more trials (--budget, --trials); most of the doubt is about settings not tried"
    n, times = advice.trainings, advice.images
    ways = [] if n is None else [f"about {n} more {plural('training', n)} of two cuts"]
    if times is not None:
        ways.append(f"{times} times as many validation images")
    if ways:
        return f"to be surer: {', or '.join(ways)}"
    return f"even {MOST_TIMES} times as many validation images would not tell the answer from its rivals"


def few_images(summary: Summary) -> str:
    """Write a warning where the validation images are too few for scores to mean much; else nothing."""
    n = summary.n_val
    if n is None or n >= FEW_IMAGES:
        return ""
    worth = f", each worth {1 / n:.4f}" if n and summary.metric == "accuracy" else ""
    return f"only {counted(n, f'validation {summary.noun}')}{worth}: most differences of scores are chance"


def confirmed_table(evidence: Evidence, metric: str) -> FittingTable:
    """List the settings that were trained again."""

    def behind(setting: Settled) -> str:
        return "" if setting is evidence.best else with_error(setting.gap, setting.gap_error)

    def what(setting: Settled) -> str:
        words = ["answer"] * (setting is evidence.answer) + ["best expected"] * (setting is evidence.best)
        return ", ".join(words)

    return FittingTable.of(
        evidence.confirmed,
        {
            LAYER: lambda setting: str(setting.cut.layer),
            NAME: lambda setting: names_of(setting.cut),
            Column(heading="setting", wraps=True): setting_of,
            Column(heading="mean", is_right=True): lambda setting: with_error(
                setting.mean, setting.standard_error
            ),
            Column(heading="n", is_right=True, rank=3): lambda setting: str(len(setting.scores)),
            Column(heading="behind the best", is_right=True, rank=2): behind,
            Column(heading="chance", is_right=True): lambda setting: percent(setting.chance),
            TRIAL: lambda setting: str(setting.trial),
            Column(heading="note", rank=1, wraps=True): what,
        },
        f"Trained again, {metric}; behind the best: by expected scores, not by means; "
        f"chance: that it loses less than {in_points(evidence.tolerance)}",
    )


def evidence_json(summary: Summary) -> dict[str, Any] | None:
    """Return what all trials say; None where that is too little."""
    evidence = summary.evidence
    if evidence is None:
        return None
    return {
        "settled": [
            {
                "trial": c.trial,
                "cut": cut_json(c.cut),
                "scores": list(c.scores.values()),
                "mean": c.mean,
                "standard_error": c.standard_error,
                "gap": c.gap,
                "gap_error": c.gap_error,
                "chance": c.chance,
            }
            for c in evidence.settled
        ],
        "answer_trial": evidence.answer.trial,
        "best_trial": evidence.best.trial,
        "tolerance": evidence.tolerance,
        "is_shown": evidence.is_shown,
        "level_layers": _level_json(summary, evidence),
        "candidates": [
            {"cut": cut_json(cut), **asdict(expected)}
            for cut, expected in zip(summary.cuts, evidence.expected, strict=True)
        ],
        "prices": [
            {"cut": cut_json(cut), "loses_at_most": loss} for cut, loss in evidence.prices(summary.cuts)
        ],
        "further_rates": evidence.further_rates,
        "advice": None if evidence.advice is None else asdict(evidence.advice),
    }


def _level_json(summary: Summary, evidence: Evidence) -> list[int] | dict[str, list[int]]:
    """List the layers that cannot be told from the best; of several backbones for each."""
    level = [summary.cuts[place] for place in evidence.level]
    if not summary.parts:
        return [cut.layer for cut in level]
    return {part.backbone: [c.layer for c in level if c in part.cuts] for part in summary.parts}
