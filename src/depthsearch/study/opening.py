"""Creating a study, or opening one whose settings, all that makes two trials comparable, are the same."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection

from depthsearch.data.dataset import DataSet
from depthsearch.models.backbones.backbone import Backbone
from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import FORMAT, StudyKey, TrialKey
from depthsearch.options.words import METRICS
from depthsearch.results.stored import StoredBackbone, StoredData, StoredStudy
from depthsearch.search.firsts import first_settings
from depthsearch.search.space import FIXABLE, Point, SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.signals import deferred
from depthsearch.study.lease import lease
from depthsearch.study.settings import refuse_other_settings
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.task import Task, any_of, tasks_of


def open_study(
    storage: RDBStorage,
    name: str,
    task: Task | Mapping[str, Task],
    space: SearchSpace,
    provenance: Mapping[str, Any],
    *,
    exhaustive: bool = False,
    learning_rates: Sequence[float] = (),
    is_planned: bool = False,
) -> optuna.Study:
    """Create a study, or open the one of that name if it searches the same.

    Args:
        storage: The database.
        name: Its name.
        task: What is trained; with several backbones one for each, by the space's names for them, alike but
            for the backbone and its images' size.
        space: What is searched.
        provenance: What else to store with a new study: versions, where data and weights come from.
        exhaustive: Whether its first trials are every candidate, once, each trained to its last epoch; else
            they are the ends and a spread over depth.
        learning_rates: Of an exhaustive search: every candidate once at each, all within the space's range.
            Empty: each at the sensible one of its depth.
        is_planned: Whether what is tried first is chosen by what it costs: only the head alone of each
            backbone is there from the start.

    Raises:
        StudyError: If the study of that name has other settings, naming each difference, or another process
            is creating it.
    """
    tasks = tasks_of(task)
    direction = StudyDirection[METRICS[any_of(tasks).recipe.metric].upper()]
    settings = {**_settings(tasks, space), "search": _named_search(exhaustive, learning_rates)}
    with deferred():
        study = optuna.create_study(
            study_name=name, storage=storage, direction=direction, load_if_exists=True
        )
    _refuse_differences(study, settings, direction)
    if study.user_attrs.get(StudyKey.ANCHORS):
        return study
    # Of two processes that start a study at the same moment one describes it.
    with lease(study), deferred():
        if StudyKey.SETTINGS not in study.user_attrs:
            _describe_study(study, tasks, space, provenance)
            study.set_user_attr(StudyKey.SETTINGS, settings)
        _refuse_differences(study, settings, direction)
        if study.user_attrs.get(StudyKey.ANCHORS):
            return study
        first = first_settings(
            space, exhaustive=exhaustive, learning_rates=learning_rates, only_heads=is_planned
        )
        for params, origin in first:
            study.enqueue_trial(params, user_attrs={TrialKey.ORIGIN: origin}, skip_if_exists=True)
        study.set_user_attr(StudyKey.ANCHORS, True)
    return study


def _settings(tasks: Mapping[str, Task], space: SearchSpace) -> dict[str, Any]:
    """Collect the settings that make two trials comparable; what differs between backbones is a list."""
    each = [_settings_of(task, space, space.cuts_of(backbone)) for backbone, task in tasks.items()]
    merged = {key: [settings[key] for settings in each] for key in each[0]}
    return {
        key: values[0] if all(v == values[0] for v in values) else values for key, values in merged.items()
    }


def _settings_of(task: Task, space: SearchSpace, cuts: Sequence[Cut]) -> dict[str, Any]:
    recipe = asdict(task.recipe)
    for searched in ("learning_rate", "weight_decay", "optimizer"):
        recipe.pop(searched)
    preprocessing = asdict(task.backbone.preprocessing)
    preprocessing.pop("ranges")  # covered by the fingerprint of the images
    ranges = asdict(space)
    ranges.pop("cuts")
    ranges.pop("fixed")
    usual = Point(cut=cuts[0], learning_rate=space.learning_rate[0])
    values = {name: getattr(usual, name) for name in FIXABLE} | dict(space.fixed)
    fixed = {name: value for name, value in values.items() if ranges[name] is None}
    return {
        "backbone": _name_of(task.backbone),
        "weights": f"{task.backbone.weights} [{task.backbone.digest[:12]}]",
        "data": f"{task.data.name} [{task.data.fingerprint[:12]}]",
        "image_size": preprocessing.pop("image_size"),
        "preprocessing": ", ".join(f"{key} {value}" for key, value in preprocessing.items()),
        "precision": task.device.precision,
        "head": task.backbone.head,
        "cuts": f"{len(cuts)} from {cuts[0].name} to {cuts[-1].name} "
        f"[{seed_from(*(ord(c) for cut in cuts for c in cut.name))}]",
        **{key: list(value) if isinstance(value, tuple) else value for key, value in ranges.items()},
        **fixed,
        **recipe,
    }


def _name_of(backbone: Backbone) -> str:
    """Return a backbone's name, with a digest of its code where it has one."""
    digest = backbone.build_digest
    return f"{backbone.name} [{digest[:12]}]" if digest else backbone.name


def _refuse_differences(study: optuna.Study, settings: Mapping[str, Any], direction: StudyDirection) -> None:
    attributes, name = study.user_attrs, study.study_name
    is_used = StudyKey.SETTINGS in attributes or bool(study.get_trials(deepcopy=False))
    if not is_used and study.directions == [direction]:
        # New, or its making was interrupted.
        return
    stored = StoredStudy.read(study).settings
    # What one of the two lacks is a difference too.
    refuse_other_settings(name, stored, {key: settings.get(key) for key in {**stored, **settings}})


def _describe_study(
    study: optuna.Study, tasks: Mapping[str, Task], space: SearchSpace, provenance: Mapping[str, Any]
) -> None:
    attributes = {
        StudyKey.CHECKPOINT_ID: uuid.uuid4().hex,
        StudyKey.CUTS: [asdict(cut) for cut in space.cuts],
        StudyKey.BACKBONES: {key: asdict(_stored(task)) for key, task in tasks.items()},
        StudyKey.DATA: asdict(_stored_data(any_of(tasks).data)),
        StudyKey.RECIPE: asdict(any_of(tasks).recipe),
        StudyKey.PROVENANCE: dict(provenance),
        # From here on it is ours to readers.
        StudyKey.FORMAT: FORMAT,
    }
    for key, value in attributes.items():
        study.set_user_attr(key, value)


def _stored_data(data: DataSet) -> StoredData:
    return StoredData(
        name=data.name,
        source=data.source,
        fingerprint=data.fingerprint,
        classes=list(data.classes),
        images={"train": len(data.train), "val": len(data.val), "test": len(data.test)},
        samples=None if data.columns.is_plain else data.columns.as_json(),
        skipped=list(data.skipped),
        duplicates=[list(group) for group in data.duplicates],
    )


def _stored(task: Task) -> StoredBackbone:
    return StoredBackbone(
        name=task.backbone.name,
        weights=str(task.backbone.weights),
        digest=task.backbone.digest,
        preprocessing=asdict(task.backbone.preprocessing),
        data_fingerprint=task.data.fingerprint,
        full_fine_tune_macs=full_fine_tune_macs(task),
        build_digest=task.backbone.build_digest,
    )


def _named_search(exhaustive: bool, learning_rates: Sequence[float]) -> str:
    rates = f", learning rates {', '.join(map(str, learning_rates))}" if learning_rates else ""
    return f"exhaustive{rates}" if exhaustive else "adaptive"
