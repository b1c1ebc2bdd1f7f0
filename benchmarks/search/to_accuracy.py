"""How soon does a study reach the accuracy that a plain search ends with? Real trainings, by the clock.

    python -m benchmarks.search.to_accuracy --data photos/ --backbone tf_efficientnet_lite0 --image-size 96 \
        --weights auto --seeds 3

The plain search is what somebody who knows PyTorch and Optuna writes (`benchmarks.speed.plain`): TPE with the
median pruner proposes the first trainable layer and the learning rate for 20 trials; what lies in front of
that layer runs without gradients, the rest learns with AdamW on a cosine schedule. The study is ``depthsearch
study`` with its defaults, its further trainings included. Both have the same images to train and validate on,
batch size, epochs, range of learning rates, linear head and device.

For each seed: seconds of the plain search in all; how soon the study has a complete training that scores as
much on the same validation images; how long it takes in all; and how much better its answer is than the plain
one when both are trained again, with new seeds on new divisions of the images, the same for both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import optuna

from benchmarks.shared.images import load_images
from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.printing import print_table
from benchmarks.speed.plain import add_arguments, make_loaders, plain_model, print_data, train_model
from depthsearch import Point, Recipe, Task, choose_device, list_cuts, load_backbone
from depthsearch.data import Division
from depthsearch.errors import DivergedError
from depthsearch.features import choose_budget
from depthsearch.options.study import StudyOptions
from depthsearch.options.words import LEARNING_RATES
from depthsearch.results import rank
from depthsearch.seeds import seed_from
from depthsearch.study import StudyResult, TrialEnded, TrialStarted, run
from depthsearch.training.objective import train_point

# Sets the trainings that judge the answers apart from all others.
JUDGING = 0x70AC


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One seed's two searches.

    Attributes:
        seed: Of both.
        plain_seconds: Of the plain search in all.
        plain_score: Its best on validation.
        reached_seconds: Until the study had a complete training that scores as much; None: it never had.
        study_seconds: Of the study in all.
        study_cost: Likewise, in full fine-tunes.
        plain_answer: Layer and learning rate.
        study_answer: Likewise.
        plain_again: Scores of the plain answer, trained again.
        study_again: Of the study's answer.
    """

    seed: int
    plain_seconds: float
    plain_score: float
    reached_seconds: float | None
    study_seconds: float
    study_cost: float
    plain_answer: str
    study_answer: str
    plain_again: list[float]
    study_again: list[float]

    @property
    def gain(self) -> float:
        """Points by which the study's answer is better."""
        return 100 * (fmean(self.study_again) - fmean(self.plain_again))

    @property
    def row(self) -> list[str]:
        """What is printed of it."""
        reached = (
            "never" if self.reached_seconds is None else f"1/{self.plain_seconds / self.reached_seconds:.1f}"
        )
        return [
            str(self.seed),
            f"{self.plain_seconds:.0f}",
            f"{self.plain_score:.4f}",
            self.plain_answer,
            reached,
            f"{self.study_seconds / self.plain_seconds:.2f}",
            f"{self.study_cost:.2f}",
            self.study_answer,
            f"{self.gain:+.2f}",
        ]


HEADINGS = (
    "seed",
    "plain, s",
    "its best",
    "plain answer",
    "as good after",
    "study, share",
    "full fine-tunes",
    "study's answer",
    "gain, points",
)


def plain_search(task: Task, *, n_trials: int, num_workers: int) -> tuple[Point, float, float]:
    """Search the plain way; return the best trial's point and score, and the seconds of all."""
    started = time.perf_counter()
    cuts = list_cuts(task.backbone.model, image_size=task.backbone.preprocessing.image_size)
    loaders = make_loaders(task, num_workers=num_workers)
    points: dict[int, Point] = {}

    def objective(trial: optuna.Trial) -> float:
        cut = cuts[trial.suggest_int("cut", 0, len(cuts) - 1)]
        point = Point(cut=cut, learning_rate=trial.suggest_float("learning_rate", *LEARNING_RATES, log=True))
        points[trial.number] = point
        seed, score = seed_from(task.recipe.seed, trial.number), 0.0
        model = plain_model(task, point, seed)
        for epoch in train_model(model, task, point, seed=seed, loaders=loaders):
            score = epoch.score
            trial.report(score, step=epoch.epoch)
            if epoch.epoch < task.recipe.epochs and trial.should_prune():
                raise optuna.TrialPruned
        print(f"plain {trial.number}: {cut}, lr {point.learning_rate:.2g}: {score:.4f}", flush=True)
        return score

    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=task.recipe.seed),
        pruner=optuna.pruners.MedianPruner(),
    )
    study.optimize(objective, n_trials=n_trials)
    best = study.best_trial
    return points[best.number], float(best.value or 0.0), time.perf_counter() - started


def study_search(
    options: argparse.Namespace, seed: int, enough: float
) -> tuple[StudyResult, float, float | None]:
    """Run a study; return it, its seconds, and after how many it had a training that scores enough."""
    reached: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()

        searched: set[int] = set()

        def follow(event: object) -> None:
            if isinstance(event, TrialStarted) and event.origin != "confirm":
                searched.add(event.number)
            if not isinstance(event, TrialEnded) or event.number not in searched:
                return
            is_complete = event.state == optuna.trial.TrialState.COMPLETE
            if is_complete and (event.score or 0.0) >= enough:
                reached.append(time.perf_counter() - started)

        result = run(
            StudyOptions(
                backbone=options.backbone,
                data=options.data,
                weights=options.weights,
                image_size=options.image_size,
                epochs=options.epochs,
                batch_size=options.batch_size,
                subset=options.subset,
                learning_rate=LEARNING_RATES,
                head_width=0,
                device=options.device,
                precision=options.precision,
                seed=seed,
                storage=f"sqlite:///{folder}/study.db",
            ),
            events=follow,
        )
        return result, time.perf_counter() - started, reached[0] if reached else None


def again(task: Task, point: Point, seeds: Sequence[int]) -> list[float]:
    """Train a setting on new divisions of the images; one that diverges scores nothing."""
    scores = []
    for seed in seeds:
        score = 0.0
        with contextlib.suppress(DivergedError):
            for result in train_point(task.resampled(seed), point, seed=seed):
                score = result.score
        scores.append(score)
    return scores


def compare(options: argparse.Namespace, task: Task, seed: int) -> Compared:
    """Run both searches with a seed, and train both answers again."""
    point, score, plain_seconds = plain_search(task, n_trials=options.trials, num_workers=options.workers)
    result, seconds, reached = study_search(options, seed, score)
    chosen = result.summary.chosen or rank(result.stored.trials, maximize=True)[0]
    ours = Point(cut=chosen.cut, learning_rate=chosen.params["learning_rate"])
    seeds = [seed_from(seed, number, JUDGING) for number in range(options.again)]
    return Compared(
        seed=seed,
        plain_seconds=plain_seconds,
        plain_score=score,
        reached_seconds=reached,
        study_seconds=seconds,
        study_cost=result.summary.cost.full_fine_tunes,
        plain_answer=f"{point.cut.layer}, lr {point.learning_rate:.2g}",
        study_answer=f"{ours.cut.layer}, lr {ours.learning_rate:.2g}",
        plain_again=again(task, point, seeds),
        study_again=again(task, ours, seeds),
    )


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_arguments(parser, image_size=96, epochs=6)
    parser.set_defaults(weights="auto")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--trials", type=int, default=20, help="of the plain search")
    parser.add_argument("--subset", type=float, default=1.0, help="share of the images of each class to use")
    parser.add_argument("--seeds", type=int, default=3, help="from --seed on")
    parser.add_argument("--again", type=int, default=5, help="trainings that judge each answer")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each seed, and the medians."""
    options = read_options(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    device = choose_device(options.device, options.precision)
    print_facts(machine_facts(device))
    compared: list[Compared] = []
    for seed in range(options.seed, options.seed + options.seeds):
        backbone = load_backbone(options.backbone, options.weights, image_size=options.image_size)
        data = load_images(options.data, backbone, Division(subset=options.subset, seed=seed))
        recipe = Recipe(epochs=options.epochs, batch_size=options.batch_size, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            budget = choose_budget(device, Path(folder))
            task = Task(backbone=backbone, data=data, recipe=recipe, device=device, budget=budget)
            if not compared:
                print_data(data)
            compared.append(compare(options, task, seed))
        print_table([list(HEADINGS), *(each.row for each in compared)])
        if options.json is not None:
            options.json.write_text(json.dumps([asdict(each) for each in compared], indent=1))
    shares = [(each.reached_seconds or float("inf")) / each.plain_seconds for each in compared]
    whole = median(each.study_seconds / each.plain_seconds for each in compared)
    print(
        f"\nMedian of {len(compared)} seeds: as good after 1/{1 / median(shares):.1f} of the plain search's "
        f"time, all after {whole:.2f} of it, "
        f"{median(each.gain for each in compared):+.2f} points."
    )


if __name__ == "__main__":
    main()
