"""What fixed views cost in accuracy against fresh augmentation in every epoch.

    python -m benchmarks.speed.views --data photos/ --backbone tf_efficientnet_lite0 --layer 81 --epochs 32

Trains one cut with V = 1 (no augmentation), 4 and 16 views and with a new view in every epoch, from the same
seeds, and prints the last epoch's validation accuracy: mean and standard deviation over seeds. Both the views
and the training are seeded, so each seed has views of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev

from benchmarks.shared.images import load_images
from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import Point, Recipe, Task, choose_device, find_cut, list_cuts, load_backbone
from depthsearch.devices import use_all_cores
from depthsearch.features import choose_budget
from depthsearch.training.objective import train_point


def main() -> None:
    """Train every number of views with every seed and print a table."""
    arguments = _arguments()
    use_all_cores()
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(arguments.backbone, arguments.weights, image_size=arguments.image_size)
    data = load_images(arguments.data, backbone)
    cut = find_cut(list_cuts(backbone.model, image_size=data.image_size), arguments.layer)
    point = Point(cut=cut, learning_rate=arguments.learning_rate)
    print_facts(machine_facts(device))
    print(f"{data.name}: {len(data.train)} train, {len(data.val)} validation; {backbone.name}, "
          f"{backbone.weights}, {data.image_size} px; train from {cut}, lr {point.learning_rate:g}, "
          f"{arguments.epochs} epochs", flush=True)  # fmt: skip
    scores: dict[str, list[list[float]]] = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory() as folder:
            budget = choose_budget(device, Path(folder), disk_bytes=0)
            for n_views in (*arguments.views, arguments.epochs + 1):
                recipe = Recipe(
                    epochs=arguments.epochs, batch_size=arguments.batch_size, seed=seed, views=n_views
                )
                task = Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget)
                name = "fresh" if n_views > arguments.epochs else str(n_views)
                results = list(train_point(task, point, seed=seed))
                scores.setdefault(name, []).append([result.score for result in results])
                seconds = sum(result.seconds for result in results)
                print(f"seed {seed}, views {name}: {results[-1].score:.4f}, {seconds:.0f} s", flush=True)
    print("\n| views | last epoch, mean | sd | n |\n|---|---|---|---|")
    for name, runs in scores.items():
        last = [run[-1] for run in runs]
        spread = f"{stdev(last):.4f}" if len(last) > 1 else ""
        print(f"| {name} | {mean(last):.4f} | {spread} | {len(last)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(scores))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy with fixed views against fresh augmentation.")
    parser.add_argument("--data", required=True, help="folder of images")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--layer", required=True, help="first trainable layer: number, name or path")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path, help="write every epoch's score here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
