"""What a stored study says: best cut, baselines, cost. Reads nothing but the study."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthsearch.cuts import Cut
from depthsearch.errors import StudyError

__all__ = ["Summary", "TrialSummary", "as_json", "render", "render_trials", "summarize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSummary:
    """One trial as stored.

    Attributes:
        number: Optuna's.
        cut: First trainable layer.
        params: The other parameters, by name.
        state: ``complete``, ``pruned``, ``fail``, ``running`` or ``waiting``.
        score: Last reported score, or None.
        epochs: Epochs trained.
        seconds: Spent on it, prefix included.
        macs: MACs spent on it.
        origin: ``baseline``, ``anchor`` or ``sampler``.
        reason: Why it ended early, or None.
    """

    number: int
    cut: Cut
    params: dict[str, Any]
    state: str
    score: float | None
    epochs: int
    seconds: float
    macs: int
    origin: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A study in figures.

    Attributes:
        study: Its name.
        backbone: timm's name of the model.
        weights: Where its weights come from.
        data: Name of the images.
        metric: What validation is scored with.
        best: Best complete trial; of equal ones the deepest cut (the cheapest), then the earliest. None
            before any is complete.
        feature_extraction: Best score with the whole backbone frozen.
        full_fine_tuning: Best score with nothing frozen.
        trials: All trials with a setting, by number.
        cost_full_fine_tunes: MACs spent, in trainings of everything once.
        cost_seconds: Seconds spent on trials.
    """

    study: str
    backbone: str
    weights: str
    data: str
    metric: str
    maximize: bool
    best: TrialSummary | None
    feature_extraction: float | None
    full_fine_tuning: float | None
    trials: tuple[TrialSummary, ...]
    cost_full_fine_tunes: float
    cost_seconds: float

    def count(self, state: str) -> int:
        """Count the trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def n_finished(self) -> int:
        """Count the trials that are over, however they ended."""
        return sum(self.count(state) for state in ("complete", "pruned", "fail"))

    def top_cuts(self, n: int = 5) -> list[TrialSummary]:
        """List the best complete trial of each cut, best first."""
        ranked = rank(self.trials, maximize=self.maximize)
        first = {trial.cut.index: trial for trial in reversed(ranked)}
        return [trial for trial in ranked if first[trial.cut.index] is trial][:n]


def summarize(study: optuna.Study) -> Summary:
    """Sum up a study.

    Raises:
        StudyError: If depthsearch did not make it.
    """
    attributes = study.user_attrs
    if "settings" not in attributes:
        raise StudyError(f"Study {study.study_name!r} was not made by depthsearch.")
    cuts = [Cut(**{**cut, "aliases": tuple(cut["aliases"])}) for cut in attributes["cuts"]]
    trials = tuple(_trial(t, cuts) for t in study.get_trials(deepcopy=False) if "cut" in t.params)
    maximize = study.direction == StudyDirection.MAXIMIZE
    ranked = rank(trials, maximize=maximize)

    def best_at(index: int) -> float | None:
        return next((t.score for t in ranked if t.cut.index == index), None)

    return Summary(
        study=study.study_name,
        backbone=attributes["backbone"]["name"],
        weights=attributes["backbone"]["weights"],
        data=attributes["data"]["name"],
        metric=attributes["recipe"]["metric"],
        maximize=maximize,
        best=ranked[0] if ranked else None,
        feature_extraction=best_at(len(cuts) - 1),
        full_fine_tuning=best_at(0),
        trials=trials,
        cost_full_fine_tunes=sum(t.macs for t in trials) / attributes["full_fine_tune_macs"],
        cost_seconds=sum(t.seconds for t in trials),
    )


def rank(trials: Iterable[TrialSummary], *, maximize: bool) -> list[TrialSummary]:
    """Order the complete trials: by score, then the deeper cut, then the earlier trial."""
    sign = -1.0 if maximize else 1.0
    complete = [(t.score, t) for t in trials if t.state == "complete" and t.score is not None]
    return [t for _, t in sorted(complete, key=lambda p: (sign * p[0], -p[1].cut.index, p[1].number))]


def _trial(trial: FrozenTrial, cuts: list[Cut]) -> TrialSummary:
    scores = trial.intermediate_values
    last = scores[max(scores)] if scores else None
    return TrialSummary(
        number=trial.number,
        cut=cuts[trial.params["cut"]],
        params={name: value for name, value in trial.params.items() if name != "cut"},
        state=trial.state.name.lower(),
        score=trial.value if trial.state == TrialState.COMPLETE else last,
        epochs=len(trial.user_attrs.get("results", scores)),
        seconds=trial.user_attrs.get("seconds", 0.0),
        macs=trial.user_attrs.get("macs", 0),
        origin=trial.user_attrs.get("origin", "sampler"),
        reason=trial.user_attrs.get("reason"),
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """Give a summary as plain values."""
    best = summary.best
    return {
        "study": summary.study,
        "backbone": summary.backbone,
        "weights": summary.weights,
        "data": summary.data,
        "metric": summary.metric,
        "best": None
        if best is None
        else {
            "trial": best.number,
            "cut": {
                "index": best.cut.index,
                "layer": best.cut.layer,
                "name": best.cut.name,
                "kind": best.cut.kind,
                "keras_name": best.cut.keras_name,
            },
            **best.params,
            "head_width": best.params.get("head_width", 0),
            "score": best.score,
        },
        "baselines": {
            "feature_extraction": summary.feature_extraction,
            "full_fine_tuning": summary.full_fine_tuning,
        },
        "trials": {
            "complete": summary.count("complete"),
            "pruned": summary.count("pruned"),
            "failed": summary.count("fail"),
        },
        "cost": {
            "full_fine_tunes": round(summary.cost_full_fine_tunes, 4),
            "seconds": round(summary.cost_seconds, 3),
        },
    }


def render(summary: Summary) -> RenderableType:
    """Draw the result for a terminal: the answer, the baselines, the top cuts, the cost."""
    best = summary.best
    if best is None:
        return Text(f"Study {summary.study}: no trial is complete yet.")
    metric = f"validation {summary.metric}"
    answer = Text.assemble(
        ("Best cut  ", "bold"),
        (f"{summary.backbone}: train from {best.cut}", "bold green"),
        f"\n          {metric} {_score(best.score)}, {_params(best)} (trial {best.number})",
        f"\nBaselines feature extraction {_score(summary.feature_extraction)}"
        f" · full fine-tuning {_score(summary.full_fine_tuning)}",
    )
    table = Table(title=f"Top cuts by {metric}", title_justify="left")
    for heading in ("layer", "first trainable", "kind", "frozen MACs", "setting", "score", "trial"):
        right = heading in ("layer", "frozen MACs", "score", "trial")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for trial in summary.top_cuts():
        table.add_row(
            str(trial.cut.layer),
            _names(trial.cut),
            trial.cut.kind,
            f"{trial.cut.frozen_mac_share:.3f}",
            _params(trial),
            _score(trial.score),
            str(trial.number),
        )
    counts = ", ".join(
        f"{summary.count(state)} {word}"
        for state, word in (("complete", "complete"), ("pruned", "pruned"), ("fail", "failed"))
    )
    cost = Text(
        f"Cost      {summary.cost_seconds:.1f} s, {summary.cost_full_fine_tunes:.2f} full fine-tunes "
        f"for {len(summary.trials)} trials ({counts})\nWeights   {summary.weights}"
    )
    return Group(answer, table, cost)


def render_trials(summary: Summary) -> RenderableType:
    """Draw every trial as a row."""
    table = Table()
    headings = ("trial", "layer", "first trainable", "setting", "state", "score", "epochs", "seconds")
    for heading in headings:
        left = heading in ("first trainable", "setting", "state")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for trial in summary.trials:
        table.add_row(
            str(trial.number),
            str(trial.cut.layer),
            _names(trial.cut),
            _params(trial),
            Text(trial.reason or trial.state),
            _score(trial.score),
            str(trial.epochs),
            f"{trial.seconds:.1f}",
        )
    return table


def _names(cut: Cut) -> str:
    return f"{cut.name} ({cut.keras_name})" if cut.keras_name else cut.name


def _score(score: float | None) -> str:
    return "–" if score is None else f"{score:.4f}"  # noqa: RUF001 (a dash for nothing)


def _params(trial: TrialSummary) -> str:
    words = {"learning_rate": "lr", "head_width": "head"}
    shown = []
    for name, value in trial.params.items():
        text = f"{value:.2g}" if isinstance(value, float) else str(value)
        if name == "head_width" and value == 0:
            text = "linear"
        shown.append(f"{words.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(shown)
