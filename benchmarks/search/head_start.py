"""Is it better to start from a solved head? The same trainings from a random head and from the regression.

    python -m benchmarks.search.head_start --data photos/ --backbone tf_efficientnet_lite0 --image-size 96

On each of some divisions of the same images the head alone is solved (`training.exact`). Then cuts at some
depths are trained at some learning rates, with everything alike but the head: random, as in a study, or with
the weights of the regression. Fine-tuning after a linear probe is from Kumar et al., "Fine-tuning can distort
pretrained features and underperform out-of-distribution", ICLR 2022.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import fmean, stdev

from torch import nn

from benchmarks.search.heads import add_arguments, loaded, trained
from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.printing import print_table
from depthsearch import Cut, Point, Task, list_cuts
from depthsearch.training.objective import train_point


def linear_of(model: nn.Module, classifier: str) -> nn.Linear:
    """Return the only linear layer of a head."""
    (linear,) = (each for each in model.get_submodule(classifier).modules() if isinstance(each, nn.Linear))
    return linear


def solved(task: Task, head_only: Cut, seed: int) -> tuple[nn.Linear, float]:
    """Return the head that a study makes where nothing else learns, and its score."""
    training = train_point(task, Point(cut=head_only, learning_rate=1e-3), seed=seed)
    score = next(training).score
    try:
        next(training)
    except StopIteration as end:
        return linear_of(end.value.graph, task.backbone.classifier), score
    raise RuntimeError("a solved head has one epoch")


def starting_from(solved_head: nn.Linear, classifier: str) -> Callable[[nn.Module], None]:
    """Return what gives a model the weights of a solved head."""

    def start(model: nn.Module) -> None:
        linear_of(model, classifier).load_state_dict(solved_head.state_dict())

    return start


def _numbers(text: str) -> list[float]:
    return [float(each) for each in text.split(",")]


def main() -> None:
    """Print a row for each cut and learning rate."""
    parser = argparse.ArgumentParser(description="Trainings from a random head and from a solved one.")
    add_arguments(parser, splits=6, epochs=6)
    parser.add_argument("--depths", type=_numbers, default=_numbers("0,0.35,0.7,0.9,0.95"), metavar="SHARES")
    parser.add_argument("--learning-rates", type=_numbers, default=_numbers("3e-4,1e-3,3e-3"))
    arguments = parser.parse_args()
    heads_alone: list[float] = []
    scores: dict[tuple[Point, bool], list[float]] = {}
    with loaded(arguments, disk_bytes=2**32) as task:
        every = list_cuts(task.backbone.model, image_size=arguments.image_size)
        cuts = [min(every, key=lambda cut: abs(cut.frozen_mac_share - share)) for share in arguments.depths]
        points = [Point(cut=cut, learning_rate=rate) for cut in cuts for rate in arguments.learning_rates]
        for seed in range(1, arguments.splits + 1):
            split = task.resampled(seed)
            head, score = solved(split, every[-1], seed)
            heads_alone.append(score)
            for point in points:
                cut, rate = point.cut, point.learning_rate
                start = starting_from(head, task.backbone.classifier)
                scores.setdefault((point, False), []).append(trained(split, cut, seed, rate))
                scores.setdefault((point, True), []).append(trained(split, cut, seed, rate, start=start))
    print_facts(machine_facts(task.device))
    sizes = f"{len(task.data.train)} training, {len(task.data.val)} validation images"
    print(f"{sizes}; {arguments.epochs} epochs, n = {arguments.splits} divisions; ± standard error")
    print(f"the head alone, solved: {fmean(heads_alone):.3f} ± {_error(heads_alone):.3f}\n")
    lines = [("layer", "frozen MACs", "learning rate", "random head", "solved head", "solved is ahead by")]
    for point in points:
        random, from_solved = scores[point, False], scores[point, True]
        ahead = [100 * (ours - plain) for ours, plain in zip(from_solved, random, strict=True)]
        lines.append(
            (
                str(point.cut.layer),
                f"{point.cut.frozen_mac_share:.2f}",
                f"{point.learning_rate:g}",
                f"{fmean(random):.3f}",
                f"{fmean(from_solved):.3f}",
                f"{fmean(ahead):+.1f} ± {_error(ahead):.1f} points",
            )
        )
    print_table(lines)


def _error(each: list[float]) -> float:
    """Return the standard error of a mean."""
    return stdev(each) / len(each) ** 0.5


if __name__ == "__main__":
    main()
