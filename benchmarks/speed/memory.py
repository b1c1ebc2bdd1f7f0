"""How much memory does keeping take, over the budget asked?

    python -m benchmarks.speed.memory --data photos/ --backbone resnet50 --image-size 96

Trains the same trial in processes of its own, without a store and with several budgets in memory and on disk,
and prints how much the peak resident memory (on a GPU the peak allocated) grew, as a share of what was kept.
Goal: at most 1.1.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import Point, Recipe, Task, choose_device, list_cuts, load_backbone, load_data
from depthsearch.devices import use_all_cores
from depthsearch.features import Budget
from depthsearch.training.objective import train_point

MIB = 2**20


def run(arguments: argparse.Namespace) -> None:
    """Train one trial in this process and print its peaks as JSON."""
    use_all_cores()
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(arguments.backbone, "random", image_size=arguments.image_size)
    data = load_data(arguments.data, image_size=arguments.image_size, cache=Path(arguments.folder))
    budget = Budget(
        memory_bytes=arguments.memory,
        device_bytes=arguments.memory if device.kind == "cuda" else 0,
        disk_bytes=arguments.disk,
        folder=Path(arguments.folder) / "features",
    )
    task = Task(
        backbone=backbone, data=data, recipe=Recipe(epochs=2, batch_size=32), device=device, budget=budget
    )
    cuts = list_cuts(backbone.model, image_size=arguments.image_size)
    cut = next(cut for cut in cuts if cut.frozen_mac_share >= arguments.depth)
    results = list(train_point(task, Point(cut=cut, learning_rate=1e-3), seed=0, upcoming={cut: 10.0}))
    print(
        json.dumps(
            {
                "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                "device": torch.cuda.max_memory_allocated() if device.kind == "cuda" else 0,
                "kept": sum(result.kept_bytes for result in results),
                "read": sum(result.read_bytes for result in results),
            }
        )
    )


def peaks(arguments: argparse.Namespace, memory: int, disk: int, folder: str) -> dict[str, int]:
    """Train in a process of its own; give its peaks in bytes."""
    options = ["--memory", str(memory), "--disk", str(disk), "--folder", folder, "--run"]
    command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], *options]
    found: dict[str, int] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


def main() -> None:
    """Compare budgets with no store."""
    parser = argparse.ArgumentParser(description="Peak memory over the budget asked.")
    parser.add_argument("--data", default="digits", help="folder of images, or digits")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--depth", type=float, default=0.5, help="share of MACs frozen")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    for name, default in (("--memory", 0), ("--disk", 0)):
        parser.add_argument(name, type=int, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments)
        return
    print_facts(machine_facts(choose_device(arguments.device, arguments.precision)))
    with tempfile.TemporaryDirectory() as folder:
        peaks(arguments, 0, 0, folder)
        plain = peaks(arguments, 0, 0, folder)
        print(f"without a store: peak resident {plain['resident'] / MIB:.0f} MiB")
        print("| budget, memory | budget, disk | kept | read | peak resident over none | share of kept |")
        print("|---|---|---|---|---|---|", flush=True)
        for memory, disk in ((2**33, 0), (2**28, 0), (0, 2**33)):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                (Path(place) / "images").symlink_to(Path(folder) / "images")
                found = peaks(arguments, memory, disk, place)
            which = "device" if found["device"] else "resident"
            over = found[which] - plain[which]
            share = f"{over / found['kept']:.2f}" if found["kept"] else "nothing kept"
            sizes = [memory, disk, found["kept"], found["read"], over]
            print(f"| {' | '.join(f'{size / MIB:.0f} MiB' for size in sizes)} | {share} |", flush=True)


if __name__ == "__main__":
    main()
