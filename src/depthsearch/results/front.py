"""The front of a study with two aims: the settings of which none scores better and costs no more."""

from __future__ import annotations

import math
from dataclasses import dataclass

from depthsearch.options.words import COSTS
from depthsearch.results.evidence import Evidence, Settled
from depthsearch.results.summary import Summary
from depthsearch.results.trials import StoredTrial
from depthsearch.search.pareto import non_dominated


def cost_name(cost: str, noun: str) -> str:
    """Name one of `words.COSTS`, where a sample is called so: ``image`` or ``sample``."""
    return {"macs": f"training MACs of {'an' if noun == 'image' else 'a'} {noun}"}.get(
        cost, "trainable parameters"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A setting with its score and its cost.

    Attributes:
        trial: The one that had it first.
        score: Mean over seeds where it was trained again, else of its one training.
        standard_error: Of the mean; None with one training.
        n_trainings: Behind the score.
        cost: Training MACs of a sample or trainable parameters, the head included.
        is_answer: Whether it is the study's answer.
    """

    trial: StoredTrial
    score: float
    standard_error: float | None
    n_trainings: int
    cost: int
    is_answer: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """The front of a study.

    Attributes:
        cost: The second aim, one of `words.COSTS`.
        is_confirmed: Whether it is of means over seeds. A front of single trainings is too good: it is made
            of those that were lucky.
        points: On the front, by rising cost.
        others: What they dominate.
        noun: What a sample is called.
    """

    cost: str
    is_confirmed: bool
    points: tuple[FrontPoint, ...]
    others: tuple[FrontPoint, ...]
    noun: str = "image"

    @property
    def cost_name(self) -> str:
        """Name the cost, for people."""
        return cost_name(self.cost, self.noun)

    @property
    def every(self) -> tuple[FrontPoint, ...]:
        """All points, those on the front first."""
        return self.points + self.others

    @property
    def answer_word(self) -> str:
        """What the marked point is: before confirmation no more than the best of single trainings."""
        return "answer" if self.is_confirmed else "best"


def front_of(summary: Summary) -> Front | None:
    """Find the front of a study: of what was trained again where something was, else of its complete trials.

    Returns:
        None where the study aims at the score alone, or has no point.
    """
    cost = summary.cost_aim
    if cost is None:
        return None
    # A cost of nothing was not noted.
    points = [p for p in _points(summary, COSTS[cost]) if p.cost > 0 and math.isfinite(p.score)]
    if not points:
        return None
    sign = 1.0 if summary.maximize else -1.0
    places = non_dominated([(sign * point.score, point.cost) for point in points])
    return Front(
        cost=cost,
        is_confirmed=summary.evidence is not None and bool(summary.evidence.confirmed),
        points=tuple(points[i] for i in places),
        others=tuple(point for i, point in enumerate(points) if i not in places),
        noun=summary.noun,
    )


def _points(summary: Summary, field: str) -> list[FrontPoint]:
    chosen, evidence = summary.chosen, summary.evidence
    by_number = {trial.number: trial for trial in summary.trials}
    scored: list[tuple[StoredTrial, float, float | None, int]]
    if evidence is None:
        searched = summary.searched
        scored = [(t, t.score, None, 1) for t in searched if t.state == "complete" and t.score is not None]
    else:
        scored = [
            (by_number[settled.trial], settled.mean, settled.standard_error, settled.n_trainings)
            for settled in _shown(evidence)
        ]
    return [
        FrontPoint(
            trial=trial,
            score=score,
            standard_error=standard_error,
            n_trainings=n_trainings,
            cost=getattr(trial, field),
            is_answer=chosen is not None and trial.number == chosen.number,
        )
        for trial, score, standard_error, n_trainings in scored
    ]


def _shown(evidence: Evidence) -> list[Settled]:
    """List the settings that were trained again, with the answer; where none was, all."""
    if not evidence.confirmed:
        return list(evidence.settled)
    return [setting for setting in evidence.settled if setting.scores or setting is evidence.answer]
