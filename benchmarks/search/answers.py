"""What a replayed study answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.search.recorded import Recorded
from depthsearch.results import StoredTrial, rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a study says once it has spent so much.

    Attributes:
        cut: Index of the answer's cut.
        rate: Index of the recorded learning rate nearest to the answer's.
        level: Indices of the cuts that it cannot tell from the best; None: it does not say.
        cost: What was spent, in full fine-tunes.
    """

    cut: int
    rate: int
    level: tuple[int, ...] | None
    cost: float


def answer_at(trial: StoredTrial, recorded: Recorded, level: tuple[int, ...] | None = None) -> Answer:
    """Return the answer that a trial's setting is, at what the study has cost by now."""
    rate = recorded.nearest_rate(trial.params["learning_rate"])
    return Answer(cut=trial.cut.index, rate=rate, level=level, cost=recorded.cost)


def first_answer(trials: Sequence[StoredTrial], recorded: Recorded) -> Answer:
    """Return what a study answers that can judge nothing yet: its best training, or the head alone."""
    if not trials:
        n_cuts, n_rates = recorded.table.done.shape[1:]
        return Answer(cut=n_cuts - 1, rate=n_rates // 2, level=None, cost=recorded.cost)
    return answer_at(best_so_far(trials), recorded)


def best_so_far(trials: Sequence[StoredTrial]) -> StoredTrial:
    """Choose the best complete trial, else the one with the best last score, else the first."""
    complete = rank((trial for trial in trials if trial.confirms is None), maximize=True)
    return complete[0] if complete else max(trials, key=lambda t: -1.0 if t.score is None else t.score)
