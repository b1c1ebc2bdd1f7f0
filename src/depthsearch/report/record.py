"""What a stored study holds beside its summary: epochs, data facts, options. Older ones lack some of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from depthsearch.results.stored import curve_key, read_backbones
from depthsearch.study.progress import is_something_left

__all__ = ["LEAST_FOR_IMPORTANCE", "Epoch", "Record", "read"]

# With fewer complete trials the shares are those of chance.
LEAST_FOR_IMPORTANCE = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """An epoch of a trial; the losses are there once the trial has ended.

    Attributes:
        number: Counted from 1.
        score: The study's metric on validation.
        train_loss: Mean over the steps.
        val_loss: On validation.
        macs: MACs spent: on frozen layers, forward, and backward.
    """

    number: int
    score: float
    train_loss: float | None = None
    val_loss: float | None = None
    macs: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """All of a stored study that a report shows and a `Summary` has not.

    Attributes:
        epochs: What each trial gave, by its number.
        recipe: How all trials were trained.
        data: Name, classes, counts, duplicates, skipped files.
        settings: All that makes two trials comparable.
        provenance: Versions, machine and options; empty in the oldest studies.
        units: MACs of one full fine-tune of each backbone, by the name that its cuts have for it.
        probing: What the linear probes of each backbone cost: ``macs`` and ``seconds``.
        is_finished: Whether nothing of the study is left to do.
        importance: Share of the scores' variance for each parameter; empty where trials are too few.
        fit: The final training and its test, where there was one.
        test_readings: How often the test images were read, as stored.
        explained: Images whose depths were drawn, as stored.
    """

    epochs: Mapping[int, tuple[Epoch, ...]]
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    units: Mapping[str, int]
    probing: Mapping[str, Mapping[str, Any]]
    is_finished: bool
    importance: Mapping[str, float] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    test_readings: Any = None
    explained: tuple[Mapping[str, Any], ...] = ()


def read(study: optuna.Study, *, importance: bool = True) -> Record:
    """Read what a report shows of a study that depthsearch made.

    Args:
        study: Which.
        importance: Whether to estimate how much each parameter mattered, which takes longer than all else.
    """
    attributes = study.user_attrs
    backbones = read_backbones(study)
    trials = study.get_trials(deepcopy=False)
    return Record(
        epochs={trial.number: _epochs(trial) for trial in trials},
        recipe=attributes["recipe"],
        data=attributes["data"],
        settings=attributes["settings"],
        provenance=_mapping(attributes.get("provenance")),
        units={key: backbone.full_fine_tune_macs for key, backbone in backbones.items()},
        probing={key: _mapping(attributes.get(curve_key(key))) for key in backbones},
        is_finished=not is_something_left(study),
        importance=_importance(study, trials) if importance else {},
        fit=_mapping(attributes.get("fit")),
        test_readings=attributes.get("test_readings"),
        explained=tuple(_mapping(each) for each in attributes.get("explained") or ()),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _epochs(trial: FrozenTrial) -> tuple[Epoch, ...]:
    """Take the stored results; of a trial that still runs there are only the reported scores."""
    results = trial.user_attrs.get("results")
    if not results:
        reported = sorted(trial.intermediate_values.items())
        return tuple(Epoch(number=step, score=score) for step, score in reported)
    kinds = ("prefix_macs", "forward_macs", "backward_macs")
    return tuple(
        Epoch(
            number=result["epoch"],
            score=result["score"],
            train_loss=result.get("train_loss"),
            val_loss=result.get("val_loss"),
            macs=(result.get(kinds[0], 0), result.get(kinds[1], 0), result.get(kinds[2], 0)),
        )
        for result in results
    )


def _importance(study: optuna.Study, trials: list[FrozenTrial]) -> dict[str, float]:
    """Split the variance of the complete trials' scores among the parameters, by a seeded fANOVA.

    Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014.
    """
    searched = [t for t in trials if t.state == TrialState.COMPLETE and "confirms" not in t.user_attrs]
    if len(searched) < LEAST_FOR_IMPORTANCE:
        return {}
    # A copy: trials that only repeat a setting would count it more often.
    copy = optuna.create_study(direction=study.direction)
    copy.add_trials(searched)
    try:
        found = get_param_importances(copy, evaluator=FanovaImportanceEvaluator(seed=0))
    except (RuntimeError, ValueError):
        # All scores alike, or a space that changed on the way: nothing can be told apart.
        return {}
    return {name: float(share) for name, share in found.items()}
