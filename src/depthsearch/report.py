"""What a stored study says: best cut, baselines, cost. Reads nothing but the study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from depthsearch.cuts import Cut
from depthsearch.errors import StudyError
from depthsearch.probe import ProbePoint, plateau_start

__all__ = ["Cost", "Summary", "TrialSummary", "as_json", "render", "render_trials", "sparkline", "summarize"]

BLOCKS = "▁▂▃▄▅▆▇█"


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
        plain_macs: MACs of the same epochs with the frozen prefix run for every image in each.
        kept_bytes: Written to the feature store.
        read_bytes: Read from it.
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
    plain_macs: int
    kept_bytes: int
    read_bytes: int
    origin: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a study took, the probes included.

    Attributes:
        full_fine_tunes: MACs spent, in trainings of everything once.
        plain_full_fine_tunes: What a loop without a feature store would have spent on the same trials.
        seconds: Spent on trials and probes.
        kept_bytes: Written to the feature store.
        read_bytes: Read from it.
    """

    full_fine_tunes: float
    plain_full_fine_tunes: float
    seconds: float
    kept_bytes: int
    read_bytes: int


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
        curve: Linear probes of the frozen features, by depth.
        cost: What it took.
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
    curve: tuple[ProbePoint, ...]
    cost: Cost

    def count(self, state: str) -> int:
        """Count the trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def n_finished(self) -> int:
        """Count the trials that are over, however they ended."""
        return sum(self.count(state) for state in ("complete", "pruned", "fail"))

    @property
    def chosen(self) -> TrialSummary | None:
        """The trial whose setting is the study's answer."""
        return self.best

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
    unit = attributes["full_fine_tune_macs"]
    curve = {"points": (), "macs": 0, "seconds": 0.0, "kept_bytes": 0, **attributes.get("transfer_curve", {})}

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
        curve=tuple(ProbePoint(**point) for point in curve["points"]),
        cost=Cost(
            full_fine_tunes=(sum(t.macs for t in trials) + curve["macs"]) / unit,
            plain_full_fine_tunes=sum(t.plain_macs for t in trials) / unit,
            seconds=sum(t.seconds for t in trials) + curve["seconds"],
            kept_bytes=sum(t.kept_bytes for t in trials) + curve["kept_bytes"],
            read_bytes=sum(t.read_bytes for t in trials),
        ),
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
        plain_macs=trial.user_attrs.get("plain_macs", trial.user_attrs.get("macs", 0)),
        kept_bytes=trial.user_attrs.get("kept_bytes", 0),
        read_bytes=trial.user_attrs.get("read_bytes", 0),
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
        "transfer_curve": [asdict(point) for point in summary.curve],
        "cost": {
            "full_fine_tunes": round(summary.cost.full_fine_tunes, 4),
            "plain_full_fine_tunes": round(summary.cost.plain_full_fine_tunes, 4),
            "seconds": round(summary.cost.seconds, 3),
            "kept_bytes": summary.cost.kept_bytes,
            "read_bytes": summary.cost.read_bytes,
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
    cost = summary.cost
    account = Text(
        f"Cost      {cost.seconds:.1f} s, {cost.full_fine_tunes:.2f} full fine-tunes "
        f"for {len(summary.trials)} trials ({counts})\n"
        f"          the same trials with the frozen layers run each epoch: {cost.plain_full_fine_tunes:.2f}; "
        f"features kept {decimal(cost.kept_bytes)}, read {decimal(cost.read_bytes)}\n"
        f"Weights   {summary.weights}"
    )
    return Group(answer, *_curve(summary.curve), table, account)


def _curve(points: Sequence[ProbePoint]) -> list[Text]:
    """Draw the transfer curve as a line: where the pretrained features stop helping."""
    start = plateau_start(points)
    if start is None:
        return []
    best = max(points, key=lambda point: point.score)
    return [
        Text(
            f"Transfer  {sparkline([point.score for point in points])} accuracy of a linear probe at "
            f"{len(points)} depths, from {_score(points[0].score)} (layer {points[0].layer}) over at most "
            f"{_score(best.score)} (layer {best.layer}) to {_score(points[-1].score)}\n"
            f"          the pretrained layers stop helping a linear classifier at layer {start.layer} "
            f"({start.name})"
        )
    ]


def sparkline(scores: Sequence[float]) -> str:
    """Draw scores as a row of blocks, the lowest of them the lowest block."""
    low, high = min(scores), max(scores)
    span = (high - low) or 1.0
    return "".join(BLOCKS[round((s - low) / span * (len(BLOCKS) - 1))] for s in scores)


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
