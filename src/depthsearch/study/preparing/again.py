"""Loading a stored study's backbone and images again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from depthsearch.errors import StudyError
from depthsearch.options.study import StudyOptions
from depthsearch.options.weights import weights_by_backbone
from depthsearch.results.stored import StoredStudy
from depthsearch.search.space import SearchSpace
from depthsearch.study.events import Say
from depthsearch.study.preparing.tasks import device_here, load_backbones, load_images, load_tasks
from depthsearch.training.task import Task


def stored_options(study: StoredStudy) -> StudyOptions:
    """Return the options that a study was run with.

    Raises:
        StudyError: If they are not stored.
    """
    if study.options is None:
        raise StudyError(
            f"The options of study {study.name!r} are not stored. Run it again under another --name."
        )
    return study.options


def prepare_again(
    study: StoredStudy, say: Say, *, backbone: str = "", subset: float | None = None, **changes: Any
) -> tuple[Task, SearchSpace]:
    """Load a backbone and the images of a stored study again; refuse them if they have changed.

    Args:
        study: The study.
        say: Receives notes on what is loaded.
        backbone: The name that the study's cuts have for it: empty if there is only one.
        subset: Share of the images to use, once those of the study are checked; default: the study's.
        **changes: Options to change, such as the device; None: as in the study.

    Returns:
        Task and space of this backbone alone.

    Raises:
        StudyError: If the study's options are not stored, or its images or weights have changed.
    """
    options = stored_options(study)
    stored = study.backbones[backbone]
    weights = weights_by_backbone(options.weights, options.backbone)
    options = replace(
        options,
        backbone=(stored.name,),
        weights=weights.get(stored.name, options.weights),
        layers=_layers_of(stored.name, options),
        **{name: value for name, value in changes.items() if value is not None},
    )
    device = device_here(options)
    backbones, space = load_backbones(options, say)
    (task,) = load_tasks(options, say, backbones, space, device).values()
    if task.backbone.build_digest != stored.build_digest:
        raise StudyError(
            f"The network {stored.name} of study {study.name!r} has changed. Restore it, or run the "
            "study again under another --name."
        )
    if task.data.fingerprint != stored.data_fingerprint or task.backbone.digest != stored.digest:
        changed = "images" if task.data.fingerprint != stored.data_fingerprint else "weights"
        origin = study.data.source if changed == "images" else stored.weights
        raise StudyError(
            f"The {changed} of study {study.name!r} ({origin}) have changed. "
            "Restore them, or run the study again under another --name."
        )
    if subset is not None and subset != options.subset:
        data = load_images(replace(options, subset=subset), say, task.backbone.preprocessing)
        task = replace(task, data=data)
    return task, space


def _layers_of(name: str, options: StudyOptions) -> tuple[str, ...] | None:
    """Return the picked layers, without those of the study's other backbones alone."""
    others = options.backbone
    prefixes = tuple(f"{other}:" for other in others if other != name and not name.startswith(f"{other}:"))
    return tuple(layer for layer in options.layers or () if not layer.startswith(prefixes)) or None
