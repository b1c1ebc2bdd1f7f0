"""What do gradients in float32 of depthwise convolutions save a CPU that computes in bfloat16?

    python -m benchmarks.speed.depthwise --backbone tf_efficientnet_lite0 mobilenetv2_100 --image-size 96

Times training steps of whole backbones with random weights, in turn: in float32, under PyTorch's autocast,
and as `training.loop` takes them (`training.gradients`). The last column is the ratio of the second to the
third.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.printing import print_table
from depthsearch import choose_device, load_backbone
from depthsearch.devices import use_all_cores
from depthsearch.training.gradients import quick_gradients

Forward = Callable[[], contextlib.AbstractContextManager[object]]


def plain_autocast() -> contextlib.AbstractContextManager[object]:
    """Compute as PyTorch does in bfloat16."""
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=False)


@contextlib.contextmanager
def ours() -> Iterator[None]:
    """Compute as a study does in bfloat16."""
    device = choose_device("cpu", "bf16")
    with device.autocast(), quick_gradients(device):
        yield


def step_seconds(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, forward: Forward) -> float:
    """Time one step, forward and backward."""
    started = time.perf_counter()
    with forward():
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    model.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Steps of backbones with depthwise convolutions in bf16.")
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0", "mobilenetv2_100"])
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    use_all_cores()
    device = choose_device("cpu", "bf16")
    ways: list[Forward] = [contextlib.nullcontext, plain_autocast, ours]
    rows = [["backbone", "float32, s", "autocast, s", "ours, s", "autocast / ours"]]
    for name in options.backbone:
        backbone = load_backbone(name, "random", image_size=options.image_size)
        model = device.place(backbone.model).train()
        size = options.image_size
        images = device.layout(torch.randn(options.batch_size, 3, size, size))
        labels = torch.zeros(options.batch_size, dtype=torch.int64)
        times = [
            [step_seconds(model, images, labels, way) for way in ways] for _ in range(options.rounds + 1)
        ]
        seconds = [median(each) for each in zip(*times[1:], strict=True)]
        ratios = sorted(plain / own for _, plain, own in times[1:])
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append([name, *(f"{each:.3f}" for each in seconds), spread])
    print_facts(machine_facts(device))
    print_table(rows)


if __name__ == "__main__":
    main()
