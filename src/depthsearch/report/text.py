"""What a stored study says, as JSON and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.text import Text

from depthsearch.report.sureness import confirmed_table, evidence_json, evidence_lines, few_images
from depthsearch.report.tables import KIND, LAYER, MACS, NAME, SCORE, SETTING, TRIAL, Column, FittingTable
from depthsearch.results.front import Front, front_of
from depthsearch.results.summary import Cost, Standing, Summary, cut_json, end_score, standings, trainable
from depthsearch.results.trials import StoredTrial
from depthsearch.text import counted
from depthsearch.training.outcomes import ProbePoint, plateau_start
from depthsearch.visualization.words import (
    millions,
    names_of,
    origin_of,
    setting_of,
    shown,
    state_of,
    trial_counts,
    with_error,
    with_trainings,
)

BLOCKS = "▁▂▃▄▅▆▇█"
BACKBONE_HEADINGS = (
    "backbone",
    "score",
    "layer",
    "first trainable",
    "parameters trained",
    "training MACs",
    "MACs",
    "trials",
    "cost",
)


def as_json(summary: Summary) -> dict[str, Any]:
    """Return a summary as plain values."""
    best = summary.best
    return {
        "study": summary.study,
        "backbone": summary.backbone,
        "weights": summary.weights,
        "data": summary.data,
        "metric": summary.metric,
        "aim": "accuracy" if summary.cost_aim is None else "accuracy+cost",
        "answer": None if summary.chosen is None else _answer_json(summary, summary.chosen),
        "best": None
        if best is None
        else {
            "trial": best.number,
            "cut": cut_json(best.cut),
            **best.params,
            "head_width": best.params.get("head_width", 0),
            "score": best.score,
        },
        "evidence": evidence_json(summary),
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
        "cost": _cost_json(summary.cost),
        "front": _front_json(front_of(summary)),
        **({"backbones": [_backbone_json(part) for part in summary.parts]} if summary.parts else {}),
    }


def _front_json(front: Front | None) -> dict[str, Any] | None:
    """Return the points of a front by rising cost."""
    if front is None:
        return None
    return {
        "cost": front.cost,
        "confirmed": front.is_confirmed,
        "points": [
            {
                "trial": point.trial.number,
                "cut": cut_json(point.trial.cut),
                **point.trial.params,
                "score": point.score,
                "standard_error": point.standard_error,
                "training_macs": point.trial.training_macs,
                "trainable_parameters": point.trial.trainable_parameters,
                "answer": point.is_answer,
            }
            for point in front.points
        ],
    }


def _cost_json(cost: Cost) -> dict[str, Any]:
    return {
        "full_fine_tunes": round(cost.full_fine_tunes, 4),
        "plain_full_fine_tunes": round(cost.plain_full_fine_tunes, 4),
        "seconds": round(cost.seconds, 3),
        "kept_bytes": cost.kept_bytes,
        "read_bytes": cost.read_bytes,
    }


def _backbone_json(part: Summary) -> dict[str, Any]:
    """Return what one of several backbones reached, at which cost."""
    standing = next(iter(standings(part)), None)
    return {
        "backbone": part.backbone,
        "weights": part.weights,
        "parameters": part.cuts[0].trainable_parameters,
        "macs": part.cuts[0].training_macs // 3,
        "answer": None
        if standing is None
        else {
            **_answer_json(part, standing.trial),
            "trainable_parameters": standing.trial.cut.trainable_parameters,
            "training_macs": standing.trial.cut.training_macs,
        },
        "baselines": {
            "feature_extraction": part.feature_extraction,
            "full_fine_tuning": part.full_fine_tuning,
        },
        "trials": len(part.searched),
        "transfer_curve": [asdict(point) for point in part.curve],
        "cost": _cost_json(part.cost),
    }


def _answer_json(summary: Summary, chosen: StoredTrial) -> dict[str, Any]:
    """Return the setting to take, and how sure it is."""
    evidence, answer = summary.evidence, summary.answer
    assert answer is not None
    learns = trainable(summary, chosen)
    return {
        "trial": chosen.number,
        "cut": cut_json(chosen.cut),
        **chosen.params,
        "head_width": chosen.params.get("head_width", 0),
        "confirmed": evidence is not None and bool(evidence.answer.scores),
        "score": answer.score,
        "standard_error": answer.standard_error,
        "trainable": None if learns is None else asdict(learns),
    }


def render(summary: Summary) -> RenderableType:
    """Draw the result for a terminal: the answer, the baselines, the evidence, the top cuts, the cost."""
    chosen, answer = summary.chosen, summary.answer
    if chosen is None or answer is None:
        return Text(f"Study {summary.study}: no trial is complete yet.")
    part, metric = summary.part_with(chosen.cut), f"validation {summary.metric}"
    evidence = summary.evidence
    score = with_trainings(answer.score, answer.standard_error, answer.n_trainings)
    lines = Text.assemble(
        ("Best cut  ", "bold"),
        (f"{chosen.cut.backbone or summary.backbone}: train from {chosen.cut.named}", "bold green"),
        f"\n          {metric} {score}, {setting_of(chosen)} (trial {chosen.number})",
        f"\nBaselines {f'of {chosen.cut.backbone}: ' if chosen.cut.backbone else ''}"
        f"feature extraction {with_error(*end_score(part, -1))}"
        f" · full fine-tuning {with_error(*end_score(part, 0))}",
    )
    learns = trainable(summary, chosen)
    if learns is not None:
        lines.append(
            f"\nTrainable {learns.tensors} of {learns.all_tensors} weight tensors, "
            f"{learns.parameters:,} of {learns.all_parameters:,} parameters, the head's included"
        )
    if warning := few_images(summary):
        lines.append(f"\nCareful   {warning}", "yellow")
    if evidence is not None and len(summary.cuts) > 1:
        for at, line in enumerate(evidence_lines(summary, evidence)):
            lines.append(f"\n{'' if at else 'Evidence':<9} {line}")
    tables = [_top_table(summary, metric)]
    if evidence is not None and evidence.confirmed:
        tables.insert(0, confirmed_table(evidence, metric))
    front = front_of(summary)
    if front is not None:
        tables.insert(0, _front_table(front, metric))
    if summary.parts:
        tables.insert(0, _backbones_table(standings(summary), metric))
    curves = [line for part in summary.each for line in _curve(part)]
    return Group(lines, *curves, *tables, _account(summary))


def _top_table(summary: Summary, metric: str) -> FittingTable:
    """List the best trial of each of the best cuts."""
    return FittingTable.of(
        summary.top_cuts(),
        {
            LAYER: lambda trial: str(trial.cut.layer),
            NAME: lambda trial: names_of(trial.cut),
            KIND: lambda trial: trial.cut.kind,
            MACS: lambda trial: f"{trial.cut.frozen_mac_share:.3f}",
            SETTING: setting_of,
            SCORE: lambda trial: shown(trial.score),
            TRIAL: lambda trial: str(trial.number),
        },
        f"Top cuts of the search by {metric}, one training each",
    )


def _account(summary: Summary) -> Text:
    """Write what a study took."""
    cost = summary.cost
    probes = alone = ""
    if cost.probe_full_fine_tunes:
        probes = f", {cost.probe_full_fine_tunes:.2f} of them linear probes,"
        alone = f"the trials alone: {cost.full_fine_tunes - cost.probe_full_fine_tunes:.2f}; "
    return Text(
        f"Cost      {cost.seconds:.1f} s, {cost.full_fine_tunes:.2f} full fine-tunes{probes} "
        f"for {counted(len(summary.trials), 'trial')} ({trial_counts(summary)})\n"
        f"          {alone}the same trials with the frozen layers run in each epoch: "
        f"{cost.plain_full_fine_tunes:.2f}; "
        f"features kept {decimal(cost.kept_bytes)}, read {decimal(cost.read_bytes)}\n"
        f"Weights   {summary.weights}"
    )


def _front_table(front: Front, metric: str) -> FittingTable:
    """Show what score costs: of which setting none scores better and costs no more."""
    how = "means over seeds" if front.is_confirmed else "single trainings, so too good"
    return FittingTable.of(
        front.points,
        {
            Column(heading=front.cost_name, is_right=True, wraps=True): lambda point: millions(point.cost),
            SCORE: lambda point: with_error(point.score, point.standard_error),
            LAYER: lambda point: str(point.trial.cut.layer),
            NAME: lambda point: names_of(point.trial.cut),
            SETTING: lambda point: setting_of(point.trial),
            TRIAL: lambda point: str(point.trial.number),
            Column(heading="note", rank=1): lambda point: front.answer_word if point.is_answer else "",
        },
        f"Front: {metric} against {front.cost_name} ({how})",
    )


def _backbones_table(found: Sequence[Standing], metric: str) -> FittingTable:
    """Compare the backbones: what each reaches at its best cut, what that takes, what it has cost."""
    ranks = {"trials": 5, "cost": 4, "MACs": 3, "training MACs": 2, "parameters trained": 1}
    left = ("backbone", "first trainable")
    return FittingTable(
        title=f"Backbones, each at its best cut, by {metric}",
        columns=[
            Column(
                heading=heading,
                is_right=heading not in left,
                rank=ranks.get(heading, 0),
                wraps=heading in left,
            )
            for heading in BACKBONE_HEADINGS
        ],
        rows=[backbone_row(standing) for standing in found],
    )


def backbone_row(standing: Standing) -> tuple[str, ...]:
    """Write a backbone's row under `BACKBONE_HEADINGS`: MACs of an image, cost in full fine-tunes."""
    trial, cut = standing.trial, standing.trial.cut
    of_head = trial.trainable_parameters - cut.trainable_parameters
    return (
        standing.backbone,
        with_error(standing.score, standing.standard_error),
        str(cut.layer),
        f"{cut.name} ({cut.keras_name})" if cut.keras_name else cut.name,
        f"{millions(trial.trainable_parameters)} of {millions(standing.parameters + of_head)}",
        millions(cut.training_macs),
        millions(standing.macs),
        str(standing.n_trials),
        f"{standing.cost.full_fine_tunes:.2f}",
    )


def _curve(summary: Summary) -> list[Text]:
    """Draw the transfer curve as a line: where the pretrained features stop helping."""
    points: Sequence[ProbePoint] = summary.curve
    start = plateau_start(points)
    if start is None:
        return []
    best = max(points, key=lambda point: point.score)
    whose = f"{summary.cuts[0].backbone}: " if summary.cuts[0].backbone else ""
    line = sparkline([point.score for point in points])
    return [
        Text(
            f"Transfer  {whose}{line} accuracy of a linear probe at {counted(len(points), 'depth')}, from "
            f"{shown(points[0].score)} (layer {points[0].layer}) over at most "
            f"{shown(best.score)} (layer {best.layer}) to {shown(points[-1].score)}\n"
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
    return FittingTable.of(
        summary.trials,
        {
            Column(heading="trial", is_right=True): lambda trial: str(trial.number),
            LAYER: lambda trial: str(trial.cut.layer),
            NAME: lambda trial: names_of(trial.cut),
            SETTING: setting_of,
            Column(heading="origin", rank=1, wraps=True): origin_of,
            Column(heading="state", wraps=True): state_of,
            SCORE: lambda trial: shown(trial.score),
            Column(heading="epochs", is_right=True, rank=4): lambda trial: str(trial.epochs),
            Column(heading="seconds", is_right=True, rank=5): lambda trial: f"{trial.seconds:.1f}",
        },
    )
