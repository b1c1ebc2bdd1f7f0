"""Is a training step on kept features nothing but arithmetic?

    python -m benchmarks.speed.suffix_rate --data photos/ --backbone resnet50 densenet121 --image-size 224

For each backbone and a few cuts: images a second of the second epoch's training steps on kept features
(gathering, moving, schedule and all), against the same step on one batch that lies on the device and is
repeated: forward, loss, backward, fused optimizer, nothing else. Both in turn, several rounds; the ratio is
the median of the rounds'. The weights are random unless others are given: the arithmetic is the same.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import Cut, Point, Recipe, Task, choose_device, list_cuts, load_backbone, load_data
from depthsearch.devices import Device, use_all_cores
from depthsearch.features import Boundaries, Budget
from depthsearch.models.split import suffix_of
from depthsearch.training.gradients import quick_gradients
from depthsearch.training.objective import model_for, train_point

# The head alone is solved, not trained.
DEPTHS = (0.0, 0.5, 0.8, 0.95)


def kept_rate(task: Task, point: Point) -> float:
    """Images a second of an epoch of training on kept features."""
    results = train_point(task, point, seed=0, upcoming={point.cut: 10.0})
    _, second = itertools.islice(results, 2)
    results.close()
    return second.images_per_second


def resident_rate(task: Task, point: Point) -> float:
    """Images a second of as many steps on one resident batch, repeated."""
    device, size = task.device, task.recipe.batch_size
    suffix = device.place(suffix_of(task.graph, model_for(task, point, 0), point.cut)).train()
    source = Boundaries(task.features, task.train_views, task.position(point.cut))
    source.prepare(1)
    batch = tuple(tensor.clone() for tensor in source.batch(torch.arange(size)))
    labels = source.labels[:size].to(device.torch_device)
    optimizer = torch.optim.AdamW(suffix.parameters(), lr=1e-3, fused=device.kind in ("cpu", "cuda"))
    step(suffix, batch, labels, optimizer, device)
    n_steps = max(1, len(task.data.train) // size)
    wait(device)
    started = time.perf_counter()
    for _ in range(n_steps):
        step(suffix, batch, labels, optimizer, device)
    wait(device)
    return n_steps * size / (time.perf_counter() - started)


def step(
    suffix: nn.Module,
    batch: tuple[torch.Tensor, ...],
    labels: torch.Tensor,
    optimizer: torch.optim.Optimizer,
    device: Device,
) -> None:
    """Make one step."""
    with device.autocast(), quick_gradients(device):
        logits = suffix(batch)
    loss = F.cross_entropy(logits.float(), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def wait(device: Device) -> None:
    """Wait until the device has done what it was told."""
    if device.kind == "cuda":
        torch.cuda.synchronize()


def cuts_at(cuts: list[Cut]) -> list[Cut]:
    """Take cuts by their share of frozen MACs."""
    return [next(cut for cut in cuts if cut.frozen_mac_share >= depth - 1e-9) for depth in DEPTHS]


def measure(arguments: argparse.Namespace, backbone_name: str, device: Device, folder: Path) -> None:
    """Print a row for each cut of a backbone."""
    backbone = load_backbone(backbone_name, arguments.weights, image_size=arguments.image_size)
    preprocessing = backbone.preprocessing
    data = load_data(arguments.data, image_size=preprocessing.image_size, cache=folder)
    n = min(arguments.images, len(data.train))
    few = replace(data.train, rows=data.train.rows[:n], labels=data.train.labels[:n])
    data = replace(data, train=few, val=replace(few, rows=few.rows[:2], labels=few.labels[:2]))
    budget = Budget(memory_bytes=2**33, device_bytes=2**34, disk_bytes=0, folder=folder)
    recipe = Recipe(epochs=2, batch_size=arguments.batch_size)
    task = Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget)
    for cut in cuts_at(list_cuts(backbone.model, image_size=preprocessing.image_size)):
        point = Point(cut=cut, learning_rate=1e-3)
        rounds = [(kept_rate(task, point), resident_rate(task, point)) for _ in range(arguments.rounds)]
        ratios = sorted(kept / resident for kept, resident in rounds)
        rates = [f"{median(side):.0f}" for side in zip(*rounds, strict=True)]
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        cells = [backbone.name, cut, f"{cut.frozen_mac_share:.3f}", *rates, f"{median(ratios):.2f}", spread]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Measure every backbone asked for."""
    parser = argparse.ArgumentParser(description="Steps on kept features against one resident batch.")
    parser.add_argument("--data", default="digits", help="folder of images, or digits")
    parser.add_argument("--backbone", nargs="+", default=["densenet121"])
    parser.add_argument("--weights", default="random")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, default=512, help="training images at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    use_all_cores()
    device = choose_device(arguments.device, arguments.precision)
    print_facts(machine_facts(device))
    print(f"{arguments.images} images, {arguments.image_size} px, batches of {arguments.batch_size}, "
          f"n = {arguments.rounds} rounds")  # fmt: skip
    print(
        "| backbone | first trainable | frozen MACs | kept, images/s | resident, images/s | ratio | range |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.backbone:
            measure(arguments, name, device, Path(folder))


if __name__ == "__main__":
    main()
