"""How many workers a GPU has room for: measured before they share one, instead of by a failing trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from depthsearch.devices import is_out_of_memory, release_memory
from depthsearch.errors import SettingsError
from depthsearch.search.space import Point, SearchSpace
from depthsearch.training.objective import train_point
from depthsearch.training.task import Task, any_of
from depthsearch.workers.plans import WorkerPlan

# What CUDA itself takes of a GPU for each process: 0.3 to 0.6 GiB.
CONTEXT_BYTES = 600 * 2**20


def check_room(tasks: Mapping[str, Task], space: SearchSpace, plans: Sequence[WorkerPlan]) -> None:
    """Refuse more workers than fit where several share a GPU, each training everything.

    Args:
        tasks: What to train, by the space's names for the backbones.
        space: What is searched.
        plans: Of the workers.

    Raises:
        SettingsError: If they do not fit.
    """
    on = Counter(plan.gpu for plan in plans if plan.gpu is not None)
    n_each = max(on.values(), default=0)
    if n_each < 2:
        return
    kept = sum(task.budget.device_bytes for task in tasks.values() if task.budget is not None)
    refuse_too_many(
        n_each,
        each_bytes=CONTEXT_BYTES + max(peak_bytes(task, space, name) for name, task in tasks.items()),
        free_bytes=min(torch.cuda.mem_get_info(gpu)[0] for gpu in on) - kept,
        batch_size=any_of(tasks).recipe.batch_size,
    )


def refuse_too_many(n_each: int, *, each_bytes: int, free_bytes: int, batch_size: int) -> None:
    """Refuse more workers on a GPU than it has room for.

    Raises:
        SettingsError: Saying how many would fit.
    """
    n_fit = free_bytes // each_bytes
    if n_each > n_fit:
        least = "one worker a GPU" if n_fit else f"a smaller --batch-size than {batch_size}"
        advice = f"{n_fit} a GPU" if n_fit > 1 else least
        raise SettingsError(
            f"{n_each} workers on a GPU need {n_each * each_bytes / 2**30:.1f} GiB, measured with everything "
            f"trained, and {free_bytes / 2**30:.1f} GiB are free beside kept features. "
            f"Give fewer --workers, {advice}, or less --keep-memory."
        )


def peak_bytes(task: Task, space: SearchSpace, backbone: str) -> int:
    """Measure the GPU memory of the largest step: everything trained, the widest head.

    A pass over the frozen layers is not measured: it computes as many images at once as there is room for.

    Raises:
        SettingsError: If the GPU has less.
    """
    torch.cuda.reset_peak_memory_stats()
    try:
        _train_once(task, space, backbone)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise SettingsError(
            f"Training everything takes more memory than a GPU has free, for one worker already. "
            f"Give a smaller --batch-size than {task.recipe.batch_size}."
        ) from error
    peak = torch.cuda.max_memory_reserved()
    release_memory()
    return int(peak)


def _train_once(task: Task, space: SearchSpace, backbone: str) -> None:
    """Train everything for one step."""
    few = torch.arange(min(task.recipe.batch_size, len(task.data.train)))
    images = task.data.train.chosen(few)
    once = replace(
        task,
        data=replace(task.data, train=images, val=images),
        recipe=replace(task.recipe, epochs=1, views=1),
        budget=None,
    )
    width = space.head_width[0] if isinstance(space.head_width, tuple) else space.head_width or 0
    point = Point(cut=space.cuts_of(backbone)[0], learning_rate=space.learning_rate[0], head_width=width)
    for _ in train_point(once, point, seed=0):
        pass
