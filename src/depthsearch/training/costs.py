"""What a setting of a task costs, known before any training."""

from __future__ import annotations

from typing import Any

import optuna

from depthsearch.models.heads import HeadSize, head_macs, head_size
from depthsearch.models.split import Suffix
from depthsearch.options.attributes import TrialKey
from depthsearch.search.space import Point
from depthsearch.training.task import Task


def head_size_of(task: Task, *, width: int = 0, depth: int = 1) -> HeadSize:
    """Count MACs of one sample, weight tensors and parameters of a head; a linear one by default."""
    return head_size(
        task.backbone.model,
        task.backbone.classifier,
        task.num_classes,
        width=width,
        depth=depth,
        images_each=task.images_each,
        n_numbers=task.n_numbers,
    )


def suffix_macs(task: Task, suffix: Suffix, position: int) -> int:
    """Forward MACs of a suffix for one sample: of each of its images, and once of its own head."""
    classifier = task.backbone.classifier
    before_head = (
        layer.macs for layer in task.graph.layers if layer.position >= position and layer.module != classifier
    )
    return task.images_each * sum(before_head) + head_macs(suffix.graph.get_submodule(classifier))


def note_cost(trial: optuna.Trial, task: Task, point: Point) -> None:
    """Keep in a trial's user attributes what its setting costs, see `cost_attributes`."""
    for key, value in cost_attributes(task, point).items():
        trial.set_user_attr(key, value)


def cost_attributes(task: Task, point: Point) -> dict[str, Any]:
    """Return what a trial's user attributes say of its setting's cost, which is known before any training.

    ``training_macs`` are those of one sample: frozen layers forward, all others and the head forward and
    backward. ``trainable_parameters`` are those of the backbone that learn, and the head's;
    ``head_weights`` the tensors of the head, and the parameters in them.
    """
    head = head_size_of(task, width=point.head_width, depth=point.head_depth)
    return {
        TrialKey.TRAINING_MACS: task.images_each * point.cut.training_macs + 3 * head.macs,
        TrialKey.TRAINABLE_PARAMETERS: point.cut.trainable_parameters + head.parameters,
        TrialKey.HEAD_WEIGHTS: (head.tensors, head.parameters),
    }


def full_fine_tune_macs(task: Task) -> int:
    """MACs of training everything once with a linear head: the unit that costs are given in."""
    macs = sum(layer.macs for layer in task.graph.layers if layer.module != task.backbone.classifier)
    macs = task.images_each * macs + head_size_of(task).macs
    return task.recipe.epochs * macs * (3 * len(task.data.train) + len(task.data.val))
