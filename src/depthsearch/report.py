"""What a stored study says: best cut, baselines, cost. Reads nothing but the study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.study import StudyDirection
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from depthsearch.cuts import Cut
from depthsearch.errors import StudyError
from depthsearch.evidence import Confirmed, Evidence, weigh
from depthsearch.probe import ProbePoint, plateau_start
from depthsearch.trials import TrialSummary, rank, read_cuts, read_trials

__all__ = [
    "Cost",
    "Summary",
    "TrialSummary",
    "as_json",
    "level_ranges",
    "render",
    "render_trials",
    "setting_of",
    "sparkline",
    "summarize",
]

ENDED = ("complete", "pruned", "fail")
BLOCKS = "▁▂▃▄▅▆▇█"


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
        best: Best complete trial of the search, a single training; of equal ones the deepest cut (the
            cheapest), then the earliest. None before any is complete.
        feature_extraction: Best score with the whole backbone frozen.
        full_fine_tuning: Best score with nothing frozen.
        cuts: Candidates by depth.
        trials: All trials with a setting, by number.
        evidence: What training the most promising cuts again says; None before.
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
    cuts: tuple[Cut, ...]
    trials: tuple[TrialSummary, ...]
    evidence: Evidence | None
    curve: tuple[ProbePoint, ...]
    cost: Cost

    @property
    def searched(self) -> tuple[TrialSummary, ...]:
        """The search's own trials, by number."""
        return tuple(trial for trial in self.trials if trial.confirms is None)

    @property
    def confirming(self) -> tuple[TrialSummary, ...]:
        """The trials that train a setting again, by number."""
        return tuple(trial for trial in self.trials if trial.confirms is not None)

    def count(self, state: str) -> int:
        """Count the search's trials in a state."""
        return sum(trial.state == state for trial in self.searched)

    @property
    def n_finished(self) -> int:
        """Count the search's trials that are over, however they ended."""
        return sum(self.count(state) for state in ENDED)

    @property
    def chosen(self) -> TrialSummary | None:
        """The trial whose setting is the study's answer."""
        if self.evidence is None:
            return self.best
        return next(t for t in self.trials if t.number == self.evidence.answer.trial)

    def top_cuts(self, n: int = 5) -> list[TrialSummary]:
        """List the best complete trial of each cut, best first."""
        ranked = rank(self.searched, maximize=self.maximize)
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
    cuts, trials = read_cuts(study), read_trials(study)
    maximize = study.direction == StudyDirection.MAXIMIZE
    ranked = rank((t for t in trials if t.confirms is None), maximize=maximize)
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
        cuts=cuts,
        trials=trials,
        evidence=weigh(study),
        curve=tuple(ProbePoint(**point) for point in curve["points"]),
        cost=Cost(
            full_fine_tunes=(sum(t.macs for t in trials) + curve["macs"]) / unit,
            plain_full_fine_tunes=sum(t.plain_macs for t in trials) / unit,
            seconds=sum(t.seconds for t in trials) + curve["seconds"],
            kept_bytes=sum(t.kept_bytes for t in trials) + curve["kept_bytes"],
            read_bytes=sum(t.read_bytes for t in trials),
        ),
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
        "answer": None if summary.chosen is None else _answer_json(summary, summary.chosen),
        "best": None
        if best is None
        else {
            "trial": best.number,
            "cut": _cut_json(best.cut),
            **best.params,
            "head_width": best.params.get("head_width", 0),
            "score": best.score,
        },
        "evidence": _evidence_json(summary),
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


def _cut_json(cut: Cut) -> dict[str, Any]:
    return {name: getattr(cut, name) for name in ("index", "layer", "name", "kind", "keras_name")}


def _answer_json(summary: Summary, chosen: TrialSummary) -> dict[str, Any]:
    """Give the setting to take, and how sure it is."""
    evidence = summary.evidence
    return {
        "trial": chosen.number,
        "cut": _cut_json(chosen.cut),
        **chosen.params,
        "head_width": chosen.params.get("head_width", 0),
        "confirmed": evidence is not None,
        "score": chosen.score if evidence is None else evidence.answer.mean,
        "standard_error": None if evidence is None else evidence.answer.standard_error,
    }


def _evidence_json(summary: Summary) -> dict[str, Any] | None:
    evidence = summary.evidence
    if evidence is None:
        return None
    return {
        "confirmed": [
            {
                "trial": c.trial,
                "cut": _cut_json(c.cut),
                "scores": list(c.scores.values()),
                "mean": c.mean,
                "standard_error": c.standard_error,
                "gap": c.gap,
                "gap_error": c.gap_error,
            }
            for c in evidence.confirmed
        ],
        "best_trial": evidence.best.trial,
        "level_layers": [summary.cuts[index].layer for index in evidence.level],
    }


def render(summary: Summary) -> RenderableType:
    """Draw the result for a terminal: the answer, the baselines, the evidence, the top cuts, the cost."""
    chosen = summary.chosen
    if chosen is None:
        return Text(f"Study {summary.study}: no trial is complete yet.")
    metric = f"validation {summary.metric}"
    evidence = summary.evidence
    answer = Text.assemble(
        ("Best cut  ", "bold"),
        (f"{summary.backbone}: train from {chosen.cut}", "bold green"),
        f"\n          {metric} {_sure(summary, chosen)}, {_params(chosen)} (trial {chosen.number})",
        f"\nBaselines feature extraction {_end(summary, -1, summary.feature_extraction)}"
        f" · full fine-tuning {_end(summary, 0, summary.full_fine_tuning)}",
    )
    if evidence is not None:
        answer.append(f"\nEvidence  {_level(summary, evidence)}")
    table = Table(title=f"Top cuts of the search by {metric}, one training each", title_justify="left")
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
    again = f" and {len(summary.confirming)} trainings to confirm" if summary.confirming else ""
    cost = summary.cost
    account = Text(
        f"Cost      {cost.seconds:.1f} s, {cost.full_fine_tunes:.2f} full fine-tunes "
        f"for {len(summary.searched)} trials ({counts}){again}\n"
        f"          the same trials with the frozen layers run each epoch: {cost.plain_full_fine_tunes:.2f}; "
        f"features kept {decimal(cost.kept_bytes)}, read {decimal(cost.read_bytes)}\n"
        f"Weights   {summary.weights}"
    )
    tables = [table] if evidence is None else [_confirmed_table(evidence, metric), table]
    return Group(answer, *_curve(summary.curve), *tables, account)


def _sure(summary: Summary, chosen: TrialSummary) -> str:
    """Say the answer's score, and how many trainings it rests on."""
    if summary.evidence is None:
        return f"{_score(chosen.score)}, one training"
    answer = summary.evidence.answer
    return f"{_mean(answer)}, mean of {len(answer.scores)} seeds"


def _end(summary: Summary, index: int, best: float | None) -> str:
    """Say what an end of the range of cuts scores: trained again if it was, else its best trial."""
    if summary.evidence is not None:
        for confirmed in summary.evidence.confirmed:
            if confirmed.cut == summary.cuts[index]:
                return _mean(confirmed)
    return _score(best)


def _mean(confirmed: Confirmed) -> str:
    error = confirmed.standard_error
    return _score(confirmed.mean) + ("" if error is None else f" ± {error:.4f}")


def _level(summary: Summary, evidence: Evidence) -> str:
    """Say in words which cuts cannot be told from the best, and why the answer is the answer."""
    best, answer = evidence.best, evidence.answer
    which = f"{'layers' if len(evidence.level) > 1 else 'layer'} {level_ranges(summary.cuts, evidence.level)}"
    said = f"{which} cannot be told from the best ({len(evidence.level)} of {len(summary.cuts)} candidates)\n"
    if answer is best:
        return f"{said}          of those trained again, layer {answer.cut.layer} has the best mean"
    return (
        f"{said}          of those trained again within one standard error of the best mean, {_mean(best)} "
        f"(layer {best.cut.layer}), layer {answer.cut.layer} freezes most"
    )


def level_ranges(cuts: Sequence[Cut], level: Sequence[int]) -> str:
    """Write indices of candidates as ranges of layer numbers, such as ``140 to 151, 312``."""
    runs: list[list[int]] = []
    for index in level:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(
        f"{cuts[run[0]].layer} to {cuts[run[-1]].layer}" if len(run) > 1 else str(cuts[run[0]].layer)
        for run in runs
    )


def _confirmed_table(evidence: Evidence, metric: str) -> Table:
    n_seeds = len(evidence.best.scores)
    table = Table(title=f"Trained again with {n_seeds} seeds, {metric}", title_justify="left")
    headings = ("layer", "first trainable", "kind", "frozen MACs", "mean", "behind the best", "trial", "")
    for heading in headings:
        right = heading in ("layer", "frozen MACs", "mean", "behind the best", "trial")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for c in evidence.confirmed:
        behind = "" if c is evidence.best else f"{c.gap:.4f} ± {c.gap_error or 0.0:.4f}"
        words = ["answer"] * (c is evidence.answer) + ["best mean"] * (c is evidence.best)
        table.add_row(
            str(c.cut.layer),
            _names(c.cut),
            c.cut.kind,
            f"{c.cut.frozen_mac_share:.3f}",
            _mean(c),
            behind,
            str(c.trial),
            ", ".join(words),
        )
    return table


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
    return setting_of(trial.params)


def setting_of(params: Mapping[str, Any]) -> str:
    """Say in words what a trial's parameters are, the cut left out."""
    words = {"learning_rate": "lr", "head_width": "head"}
    shown = []
    for name, value in params.items():
        text = f"{value:.2g}" if isinstance(value, float) else str(value)
        if name == "head_width" and value == 0:
            text = "linear"
        shown.append(f"{words.get(name, name.replace('_', ' '))} {text}")
    return ", ".join(shown)
