"""A stored study in figures: best cut, baselines, evidence, cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import optuna

from depthsearch.models.cuts import Cut
from depthsearch.results.evidence import Evidence, weigh
from depthsearch.results.stored import StoredStudy
from depthsearch.results.trials import ENDED, State, StoredTrial, cost_of, rank
from depthsearch.training.outcomes import ProbePoint, TransferCurve

NO_CURVE = TransferCurve(points=(), macs=0, seconds=0.0, kept_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a study took, the probes included.

    Attributes:
        full_fine_tunes: MACs spent, in trainings of everything once.
        probe_full_fine_tunes: Those of them that linear probes took.
        plain_full_fine_tunes: What a loop without a feature store would have spent on the same trials.
        seconds: Spent on trials and probes.
        kept_bytes: Written to the feature store.
        read_bytes: Read from it.
    """

    full_fine_tunes: float
    probe_full_fine_tunes: float
    plain_full_fine_tunes: float
    seconds: float
    kept_bytes: int
    read_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a study so far.

    Attributes:
        cut: Where.
        backbone: timm's name.
        score: Of one training, or the mean of several.
        standard_error: Of the mean; None with one training.
        n_trainings: Behind the score; more than one: confirmed.
        trial: Number of the trial that had the setting first.
    """

    cut: Cut
    backbone: str
    score: float | None
    standard_error: float | None
    n_trainings: int
    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in figures.

    Attributes:
        study: Its name.
        backbone: timm's name of the model; of several all names.
        weights: Where its weights come from.
        data: Name of the images.
        metric: What validation is scored with.
        best: Best complete trial of the search, a single training; of equal ones the deepest cut (the
            cheapest), then the earliest. None before any is complete.
        feature_extraction: Best score with the whole backbone frozen; of several backbones the answer's.
            None also where nothing may be frozen.
        full_fine_tuning: Best score with nothing frozen; likewise.
        cuts: Candidates by depth; of several backbones one after the other.
        trials: All trials with a setting, by number.
        evidence: What training the most promising cuts again says; None before.
        curve: Linear probes of the frozen features, by depth; of several backbones their parts have them.
        cost: What it took.
        parts: With several backbones the same of each of them alone; else empty.
        holds_answer: Whether the study's answer is of this backbone, if this is of one of several. Without
            it ``evidence.answer`` is its own best.
        cost_aim: What the study aims at beside the score, one of `words.COSTS`; None: nothing.
        marked: Candidates that somebody wants to see pointed out.
        noun: What a sample is called: ``image``, or ``sample`` where it is more than that.
        n_val: Validation images; None: unknown.
    """

    study: str
    backbone: str
    weights: str
    data: str
    metric: str
    maximize: bool
    best: StoredTrial | None
    feature_extraction: float | None
    full_fine_tuning: float | None
    cuts: tuple[Cut, ...]
    trials: tuple[StoredTrial, ...]
    evidence: Evidence | None
    curve: tuple[ProbePoint, ...]
    cost: Cost
    parts: tuple[Summary, ...] = ()
    holds_answer: bool = True
    cost_aim: str | None = None
    marked: tuple[Cut, ...] = ()
    noun: str = "image"
    n_val: int | None = None

    @property
    def each(self) -> tuple[Summary, ...]:
        """The summary of each backbone: its parts, or itself."""
        return self.parts or (self,)

    @property
    def searched(self) -> tuple[StoredTrial, ...]:
        """The search's own trials, by number."""
        return tuple(trial for trial in self.trials if trial.confirms is None)

    @property
    def confirming(self) -> tuple[StoredTrial, ...]:
        """The trials that train a setting again, by number."""
        return tuple(trial for trial in self.trials if trial.confirms is not None)

    def count(self, state: State) -> int:
        """Count the search's trials in a state."""
        return sum(trial.state == state for trial in self.searched)

    @property
    def n_finished(self) -> int:
        """Count the search's trials that are over, however they ended."""
        return sum(self.count(state) for state in ENDED)

    @property
    def chosen(self) -> StoredTrial | None:
        """The trial whose setting is the study's answer."""
        if self.evidence is None:
            return self.best
        return next(t for t in self.trials if t.number == self.evidence.answer.trial)

    @property
    def answer(self) -> Answer | None:
        """The answer so far; None before a trial is complete."""
        chosen = self.chosen
        if chosen is None:
            return None
        settled = None if self.evidence is None else self.evidence.answer
        return Answer(
            cut=chosen.cut,
            backbone=self.part_with(chosen.cut).backbone,
            score=chosen.score if settled is None else settled.mean,
            standard_error=None if settled is None else settled.standard_error,
            n_trainings=1 if settled is None else settled.n_trainings,
            trial=chosen.number,
        )

    def part_with(self, cut: Cut) -> Summary:
        """Return the summary of the backbone that a cut is of."""
        return next(part for part in self.each if cut in part.cuts)

    def top_cuts(self, n: int = 5) -> list[StoredTrial]:
        """List the best complete trial of each cut, best first."""
        best: dict[Cut, StoredTrial] = {}
        for trial in rank(self.searched, maximize=self.maximize):
            best.setdefault(trial.cut, trial)
        return list(best.values())[:n]


def summarize(study: optuna.Study | StoredStudy) -> Summary:
    """Sum up a study.

    Raises:
        StudyError: If depthsearch did not make it, it has another format, or it is damaged.
    """
    stored = StoredStudy.read(study)
    evidence = weigh(stored)
    parts = tuple(_of_backbone(stored, key, evidence) for key in stored.backbones)
    return parts[0] if len(parts) == 1 else _joined(parts, stored.trials, evidence)


def _of_backbone(stored: StoredStudy, key: str, evidence: Evidence | None) -> Summary:
    backbone, curve = stored.backbones[key], stored.curves.get(key, NO_CURVE)
    cuts = tuple(cut for cut in stored.cuts if cut.backbone == key)
    trials = tuple(trial for trial in stored.trials if trial.cut.backbone == key)
    ranked = rank((t for t in trials if t.confirms is None), maximize=stored.maximize)
    unit = backbone.full_fine_tune_macs

    def best_at(cut: Cut) -> float | None:
        return next((t.score for t in ranked if t.cut == cut), None)

    return Summary(
        study=stored.name,
        backbone=backbone.name,
        weights=backbone.weights,
        data=stored.data.name,
        metric=stored.recipe.metric,
        maximize=stored.maximize,
        best=ranked[0] if ranked else None,
        # A backbone trained from scratch has one cut, at which nothing is frozen.
        feature_extraction=best_at(cuts[-1]) if len(cuts) > 1 else None,
        full_fine_tuning=best_at(cuts[0]),
        cuts=cuts,
        trials=trials,
        evidence=evidence and _part_of(evidence, stored.cuts.index(cuts[0]), len(cuts), key),
        curve=curve.points,
        cost=Cost(
            full_fine_tunes=(sum(t.macs for t in trials) + curve.macs) / unit,
            probe_full_fine_tunes=curve.macs / unit,
            plain_full_fine_tunes=sum(t.plain_macs for t in trials) / unit,
            seconds=sum(t.seconds for t in trials) + curve.seconds,
            kept_bytes=sum(t.kept_bytes for t in trials) + curve.kept_bytes,
            read_bytes=sum(t.read_bytes for t in trials),
        ),
        holds_answer=evidence is None or evidence.answer.cut.backbone == key,
        cost_aim=stored.cost_aim,
        marked=tuple(cut for cut in stored.marked if cut.backbone == key),
        noun=stored.data.noun,
        n_val=stored.data.images.get("val"),
    )


def _part_of(evidence: Evidence, start: int, n_cuts: int, backbone: str) -> Evidence | None:
    """Return the evidence on one backbone; None if nothing of it was trained again."""
    settled = tuple(setting for setting in evidence.settled if setting.cut.backbone == backbone)
    if not settled:
        return None
    own = min(settled, key=lambda setting: (setting.gap, cost_of(setting.cut)))
    return replace(
        evidence,
        settled=settled,
        best=evidence.best if evidence.best in settled else own,
        answer=evidence.answer if evidence.answer in settled else own,
        level=tuple(place - start for place in evidence.level if 0 <= place - start < n_cuts),
        expected=evidence.expected[start : start + n_cuts],
    )


def _joined(parts: Sequence[Summary], trials: tuple[StoredTrial, ...], evidence: Evidence | None) -> Summary:
    """Sum up a study of several backbones: one answer, and what it cost in all."""
    first = parts[0]
    ranked = rank((t for t in trials if t.confirms is None), maximize=first.maximize)
    best = ranked[0] if ranked else None
    chosen = evidence.answer.cut if evidence is not None else best.cut if best is not None else first.cuts[0]
    of_answer = next(part for part in parts if chosen in part.cuts)
    return replace(
        first,
        backbone=", ".join(part.backbone for part in parts),
        weights="; ".join(f"{part.backbone}: {part.weights}" for part in parts),
        best=best,
        feature_extraction=of_answer.feature_extraction,
        full_fine_tuning=of_answer.full_fine_tuning,
        cuts=tuple(cut for part in parts for cut in part.cuts),
        trials=trials,
        evidence=evidence,
        curve=(),
        cost=_total(part.cost for part in parts),
        parts=tuple(replace(part, holds_answer=part is of_answer) for part in parts),
        holds_answer=True,
    )


def _total(costs: Iterable[Cost]) -> Cost:
    """Add costs up; each backbone's work counts in its own full fine-tunes."""
    every = list(costs)
    return Cost(**{each.name: sum(getattr(cost, each.name) for cost in every) for each in fields(Cost)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainable:
    """What learns at a cut, and what would with nothing frozen; the head is counted with both.

    Attributes:
        tensors: Weight tensors that learn at the cut.
        parameters: Numbers in them.
        all_tensors: Weight tensors that learn with nothing frozen.
        all_parameters: Numbers in them.
    """

    tensors: int
    parameters: int
    all_tensors: int
    all_parameters: int


def trainable(summary: Summary, trial: StoredTrial) -> Trainable | None:
    """Count what learns in a trial; None where its head was not noted."""
    cut = trial.cut
    first = next(each for each in summary.cuts if each.backbone == cut.backbone)
    if trial.head_weights is None or not first.trainable_tensors:
        return None
    tensors, parameters = trial.head_weights
    return Trainable(
        tensors=cut.trainable_tensors + tensors,
        parameters=cut.trainable_parameters + parameters,
        all_tensors=first.trainable_tensors + tensors,
        all_parameters=first.trainable_parameters + parameters,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A backbone with its best cut, to be compared with others.

    Attributes:
        backbone: timm's name.
        trial: The one that had the setting first.
        score: Mean over seeds if it was trained again, else of one training.
        standard_error: Of the mean; None where there is none.
        n_trainings: Behind the score.
        is_answer: Whether it is the study's answer.
        parameters: Of the backbone; `Cut.trainable_parameters` says how many of them learn.
        macs: Of one image forward through the backbone; `Cut.training_macs` says what training takes.
        n_trials: Spent on searching this backbone.
        cost: Of all its trials.
    """

    backbone: str
    trial: StoredTrial
    score: float | None
    standard_error: float | None
    n_trainings: int
    is_answer: bool
    parameters: int
    macs: int
    n_trials: int
    cost: Cost


def standings(summary: Summary) -> list[Standing]:
    """Compare the backbones that have a complete trial, the answer's first, then by score."""
    compared = [_standing(part, chosen) for part in summary.each if (chosen := part.chosen) is not None]
    sign = -1.0 if summary.maximize else 1.0
    return sorted(compared, key=lambda s: (not s.is_answer, sign * (s.score or 0.0), s.backbone))


def _standing(part: Summary, chosen: StoredTrial) -> Standing:
    answer = part.answer
    assert answer is not None
    return Standing(
        backbone=part.backbone,
        trial=chosen,
        score=answer.score,
        standard_error=answer.standard_error,
        n_trainings=answer.n_trainings,
        is_answer=part.holds_answer,
        parameters=part.cuts[0].trainable_parameters,
        macs=part.cuts[0].training_macs // 3,
        n_trials=len(part.searched),
        cost=part.cost,
    )


def cut_json(cut: Cut) -> dict[str, Any]:
    """Return a cut's number and names as plain values."""
    whose = {"backbone": cut.backbone} if cut.backbone else {}
    return {
        **whose,
        **{name: getattr(cut, name) for name in ("index", "layer", "name", "kind", "keras_name")},
    }


class EndScore(NamedTuple):
    """The score of a backbone's first or last cut, with the standard error of a mean."""

    score: float | None
    standard_error: float | None = None


def end_score(summary: Summary, index: int) -> EndScore:
    """Return the score of a backbone's first or last cut: the mean if it was trained again, else its best.

    Args:
        summary: Of one backbone.
        index: 0: nothing is frozen there; -1: all but the head.
    """
    # With one candidate both ends are it, and nothing is ever frozen.
    if summary.evidence is not None and (index == 0 or len(summary.cuts) > 1):
        for confirmed in summary.evidence.confirmed:
            if confirmed.cut == summary.cuts[index]:
                return EndScore(confirmed.mean, confirmed.standard_error)
    return EndScore(summary.feature_extraction if index else summary.full_fine_tuning)
