"""What does ``--aim accuracy+cost`` find of the front of score and cost, against other ways of searching?

    python -m benchmarks.search.aims --studies 40 --trials 14
    python -m benchmarks.search.aims --studies 40 --trials 14 --cost parameters
    python -m benchmarks.search.aims --studies 20

Simulated responses (those of `first_depths`: score over depth, learning rate and head width, with noise from
seed to seed), whose true front is known: MACs are even over depth, parameters grow with it, and the head's
come on top. Each way of searching gets the same trials of the same response:

- *accuracy+cost*: searched for the best score, and a trial judged only against what costs no more;
- *accuracy*: as `depthsearch study` searches without a second aim, judged against all trials;
- *accuracy, nothing pruned*: the same, with every trial trained to its end;
- *random*, *random, nothing pruned*: settings at random, pruned as with one aim or not.

Of each study the front of its complete trials by their observed scores is taken, and the true scores of these
settings count. *front found* is the area that they dominate, over that of the true front: to the right of
that up to the dearest setting, downwards to two points below its lowest score, cost on a log scale.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState

from benchmarks.search.first_depths import (
    ANCHOR_DEPTHS,
    Params,
    Simulated,
    anchor,
    first_cuts,
    noisy,
)
from benchmarks.shared.printing import print_table
from benchmarks.shared.samplers import of_optuna
from depthsearch.options.words import COSTS
from depthsearch.search.pareto import hypervolume, non_dominated
from depthsearch.search.sampling import make_pruner, make_sampler
from depthsearch.seeds import seed_from

# About those of a ResNet50 at 224 px with ten classes.
BACKBONE_MACS, BACKBONE_PARAMETERS, FEATURES, CLASSES = 4.1e9, 23.5e6, 2048, 10
# Points below the lowest score of the true front that still count.
MARGIN = 0.02
Point = tuple[float, float]


def costs_of(surface: Simulated, params: Params) -> dict[str, float]:
    """Give the cost of a setting: training MACs of an image, and trainable parameters."""
    learning = 1 - params["cut"] / (surface.n_cuts - 1)
    width = params["head_width"]
    head = FEATURES * width + width * CLASSES if width else FEATURES * CLASSES
    return {
        "macs": BACKBONE_MACS * (1 + 2 * learning) + 3 * head,
        # Later layers are the wide ones.
        "parameters": BACKBONE_PARAMETERS * (1 - (1 - learning) ** 3) + head,
    }


def true_front(surface: Simulated, cost: str) -> list[Point]:
    """List the best true score of each cut and head width, and its cost, where nothing beats it."""
    cuts, rates = np.arange(surface.n_cuts), np.linspace(-5, -2, 121)
    points = []
    for width in range(0, 1025, 256):
        best = surface.final(cuts[:, None], rates, np.array(width)).max(1)
        for cut, score in enumerate(best):
            paid = costs_of(surface, {"cut": cut, "head_width": width})[cost]
            points.append((float(score), math.log(paid)))
    return [points[i] for i in non_dominated(points)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One study against the truth.

    Attributes:
        found: Share of the true front's area that the study's front dominates.
        regret: Points that the best of its front is truly below the best.
        epochs: Trained in all.
        work: Epochs of full fine-tuning that they took, by training MACs.
    """

    found: float
    regret: float
    epochs: int
    work: float


def simulate(
    surface: Simulated, seed: int, n_trials: int, cost: str, sampler: str, pruner: BasePruner
) -> Outcome:
    """Run a study as `depthsearch.study.search` does, and judge its front."""
    study = optuna.create_study(direction="maximize", pruner=pruner)
    cuts = first_cuts((1, 0, *ANCHOR_DEPTHS), surface.n_cuts)
    for cut in cuts:
        study.enqueue_trial(anchor(surface, cut))
    n_epochs, work = 0, 0.0
    for number in range(n_trials):
        study.sampler = make_sampler(sampler, seed_from(seed, number))
        trial = study.ask(surface.ranges)
        costs = costs_of(surface, trial.params)
        for name, attribute in COSTS.items():
            trial.set_user_attr(attribute, costs[name])
        scores = noisy(surface.curve(trial.params), surface.noise, seed_from(seed, number, 1))
        state = TrialState.COMPLETE
        for epoch, score in enumerate(scores, start=1):
            n_epochs += 1
            work += costs["macs"] / (3 * BACKBONE_MACS)
            trial.report(float(score), step=epoch)
            if epoch < len(scores) and trial.should_prune() and number > 1:
                state = TrialState.PRUNED
                break
        study.tell(trial, float(scores[-1]) if state == TrialState.COMPLETE else None, state=state)
    return judge(study, surface, cost, n_epochs, work)


def judge(study: optuna.Study, surface: Simulated, cost: str, n_epochs: int, work: float) -> Outcome:
    """Compare the front that a study shows with the true one."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    shown = [(float(t.value or 0.0), costs_of(surface, t.params)[cost]) for t in complete]
    chosen = [complete[i].params for i in non_dominated(shown)]
    points = [
        (float(surface.curve(params)[-1]), math.log(costs_of(surface, params)[cost])) for params in chosen
    ]
    truth = true_front(surface, cost)
    dearest = costs_of(surface, {"cut": 0, "head_width": 1024})[cost]
    reference = min(score for score, _ in truth) - MARGIN, math.log(dearest)
    return Outcome(
        found=hypervolume(points, reference) / hypervolume(truth, reference),
        regret=100 * (surface.best_score - max(score for score, _ in points)),
        epochs=n_epochs,
        work=work,
    )


def outcomes_of(seed: int, n_trials: int, cost: str, given: str = "auto") -> dict[str, Outcome]:
    """Search one response in every way, with a sampler that may be ``auto``."""
    rng = np.random.default_rng(seed_from(seed, 6))
    surface = Simulated(seed_from(seed, 7), float(rng.uniform()))
    sampler, alone = of_optuna(given, "auto", n_trials)
    _, together = of_optuna("auto", "auto", n_trials, cost)
    # Sampler, pruner, whether that has two aims.
    ways = {
        "accuracy+cost": (sampler, together, True),
        "accuracy": (sampler, alone, False),
        "accuracy, nothing pruned": (sampler, "none", False),
        "random": ("random", alone, False),
        "random, nothing pruned": ("random", "none", False),
    }
    return {
        name: simulate(
            surface,
            seed,
            n_trials,
            cost,
            sampler,
            make_pruner(pruner, surface.epochs, cost if cheaper else None),
        )
        for name, (sampler, pruner, cheaper) in ways.items()
    }


HEADINGS = ("front found, mean", "sd", "gain of accuracy+cost", "points below the best", "epochs", "work")


def row(outcomes: list[Outcome], ours: list[Outcome]) -> list[str]:
    """Sum the outcomes of one way up; the gain is the mean of the pairs with its standard error."""
    found = np.array([outcome.found for outcome in outcomes])
    gain = np.array([outcome.found for outcome in ours]) - found
    error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
    return [
        f"{found.mean():.3f}",
        f"{found.std(ddof=1) if len(found) > 1 else math.nan:.3f}",
        "" if outcomes is ours else f"{gain.mean():+.3f} ± {error:.3f}",
        f"{np.mean([outcome.regret for outcome in outcomes]):.2f}",
        f"{np.mean([outcome.epochs for outcome in outcomes]):.0f}",
        f"{np.mean([outcome.work for outcome in outcomes]):.0f}",
    ]


def main() -> None:
    """Run the studies and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--cost", choices=tuple(COSTS), default="macs")
    parser.add_argument("--sampler", choices=("auto", "gp", "tpe"), default="auto", help="but for random")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.perf_counter()
    outcomes: dict[str, list[Outcome]] = {}
    for seed in range(arguments.first, arguments.first + arguments.studies):
        of_seed = outcomes_of(seed, arguments.trials, arguments.cost, arguments.sampler)
        for name, outcome in of_seed.items():
            outcomes.setdefault(name, []).append(outcome)
    print(
        f"{arguments.studies} studies of {arguments.trials} trials each way, score against "
        f"{arguments.cost}, sampler {arguments.sampler}; {time.perf_counter() - started:.0f} s\n"
    )
    ours = outcomes["accuracy+cost"]
    print_table([["search", *HEADINGS], *([name, *row(found, ours)] for name, found in outcomes.items())])


if __name__ == "__main__":
    main()
