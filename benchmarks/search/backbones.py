"""One study of several backbones, or one study for each, at the same cost?

    python -m benchmarks.search.backbones --studies 50
    python -m benchmarks.search.backbones --studies 50 --trials 90

Simulated responses of three backbones (those of `first_depths`: score over depth, learning rate and head
width): peaks and best depths of the three differ as much as ``--peaks`` and ``--depths`` say.

- *one study each*: a third of the trials for each backbone, with the sampler and pruner that depthsearch
  takes for so many trials; the best of the three;
- *jointly*: one study whose sampler chooses the backbone too, the cut conditional on it, one depth for all
  to the sampler;
- *conditional, TPE*: the same with Optuna's own TPE, to which the cuts of two backbones have nothing to do
  with each other.

The two joint ways run as many trials as the first one's cost allows: epochs, each by how much of the backbone
learns in it (frozen layers forward, the others forward and backward), as no features were kept.

Said is how far the incumbent (the complete trial that scored best) truly is below the best of all settings of
all backbones, and how often it is of the best backbone.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.search.first_depths import Simulated, noisy
from benchmarks.shared.printing import print_table
from benchmarks.shared.samplers import of_optuna
from depthsearch import Cut, SearchSpace
from depthsearch.search.firsts import first_settings
from depthsearch.search.sampling import make_pruner, make_sampler
from depthsearch.seeds import seed_from

EPOCHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One way of spending the trials.

    Attributes:
        regret: Points that the incumbent is truly below the best setting of all backbones.
        is_best_backbone: Whether it is of the backbone that has that setting.
        trials: How many were run.
        cost: In epochs of full fine-tuning.
    """

    regret: float
    is_best_backbone: bool
    trials: int
    cost: float


def draw_backbones(seed: int, n: int, peaks: float, depths: float) -> dict[str, Simulated]:
    """Make up responses of related backbones.

    Args:
        seed: Of everything drawn.
        n: How many.
        peaks: Standard deviation of what they reach at best.
        depths: Standard deviation of the depth where they do.
    """
    rng = np.random.default_rng(seed_from(seed, 4))
    depth, peak = rng.uniform(0, 1), rng.uniform(0.85, 0.96)
    found = {}
    for i in range(n):
        place = float(np.clip(depth + depths * rng.standard_normal(), 0, 1))
        best = float(np.clip(peak + peaks * rng.standard_normal(), 0, 0.99))
        found[f"backbone{i}"] = Simulated(seed_from(seed, i, 5), place, peak=best)
    return found


def candidates(backbones: dict[str, Simulated]) -> tuple[Cut, ...]:
    """Make candidates for responses; MACs are even over depth."""
    return tuple(
        Cut(
            index=i,
            layer=i + 1,
            name=f"layer{i + 1}",
            kind="head" if i == response.n_cuts - 1 else "conv",
            keras_name=None,
            aliases=(),
            first_layer=f"layer{i + 1}",
            frozen_mac_share=i / (response.n_cuts - 1),
            frozen_parameter_share=i / (response.n_cuts - 1),
            trainable_parameters=response.n_cuts - 1 - i,
            boundary_bytes=1,
            backbone=name if len(backbones) > 1 else "",
        )
        for name, response in backbones.items()
        for i in range(response.n_cuts)
    )


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Found:
    """What a simulated study ends with; the better by what it has seen.

    Attributes:
        seen: The incumbent's score in the study.
        backbone: Whose it is.
        true: What it is truly worth.
        trials: How many were run.
        cost: In epochs of full fine-tuning.
    """

    seen: float
    backbone: str
    true: float
    trials: int
    cost: float


def simulate(
    backbones: dict[str, Simulated], seed: int, n_trials: int, *, most: float | None = None, tpe: bool = False
) -> Found:
    """Run a study as `depthsearch.study.search` does.

    Args:
        backbones: Responses by name.
        seed: Of suggestions and noise.
        n_trials: How many trials; with ``most`` it only decides sampler and pruner.
        most: Cost after which no trial is begun, in epochs of full fine-tuning.
        tpe: Whether to take Optuna's TPE as it is.
    """
    space = SearchSpace(cuts=candidates(backbones))
    sampler, pruner = of_optuna("tpe" if tpe else "auto", "auto", n_trials)
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, EPOCHS))
    first = first_settings(space)
    for params, _ in first:
        study.enqueue_trial(params)
    best, cost, number = (-math.inf, "", 0.0), 0.0, 0
    while number < n_trials if most is None else cost < most:
        study.sampler = make_sampler(sampler, seed_from(seed, number))
        trial = study.ask()
        cut = space.suggest(trial).cut
        name = cut.backbone or next(iter(backbones))
        curve = backbones[name].curve({**trial.params, "cut": cut.index})
        scores = noisy(curve, backbones[name].noise, seed_from(seed, number, 1))
        baseline = number < len(first) and first[number][1] == "baseline"
        n_epochs = run_trial(study, trial, [float(score) for score in scores], prunable=not baseline)
        cost += n_epochs * (1 - 2 / 3 * cut.frozen_mac_share)
        if n_epochs == len(scores) and study.trials[number].state == TrialState.COMPLETE:
            best = max(best, (float(scores[-1]), name, float(curve[-1])))
        number += 1
    return Found(seen=best[0], backbone=best[1], true=best[2], trials=number, cost=cost)


def run_trial(study: optuna.Study, trial: optuna.Trial, scores: list[float], *, prunable: bool) -> int:
    """Report scores until the pruner says so, and tell the trial; give the epochs trained."""
    for epoch, score in enumerate(scores, start=1):
        trial.report(score, step=epoch)
        if epoch < len(scores) and trial.should_prune() and prunable:
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, scores[-1])
    return len(scores)


def one_each(backbones: dict[str, Simulated], seed: int, n_trials: int) -> Found:
    """Spend the trials on one study for each backbone; take the best single score of all."""
    found = [
        simulate({name: response}, seed_from(seed, i), n_trials // len(backbones))
        for i, (name, response) in enumerate(backbones.items())
    ]
    return replace(max(found), trials=sum(f.trials for f in found), cost=sum(f.cost for f in found))


def run_ways(backbones: dict[str, Simulated], seed: int, n_trials: int) -> dict[str, Found]:
    """Search in each of the ways, at the cost of the first."""
    each = one_each(backbones, seed, n_trials)
    return {
        "one study each": each,
        "jointly": simulate(backbones, seed, n_trials, most=each.cost),
        "conditional, TPE": simulate(backbones, seed, n_trials, most=each.cost, tpe=True),
    }


def main() -> None:
    """Run the studies and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--trials", type=int, default=60, help="in all")
    parser.add_argument("--backbones", type=int, default=3)
    parser.add_argument("--peaks", type=float, default=0.015, help="standard deviation of the best scores")
    parser.add_argument("--depths", type=float, default=0.15, help="standard deviation of the best depths")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    started = time.perf_counter()
    outcomes: dict[str, list[Outcome]] = {}
    for seed in range(arguments.studies):
        backbones = draw_backbones(seed, arguments.backbones, arguments.peaks, arguments.depths)
        top = max(backbones, key=lambda name: backbones[name].best_score)
        for way, found in run_ways(backbones, seed, arguments.trials).items():
            regret = 100 * (backbones[top].best_score - found.true)
            outcome = Outcome(
                regret=regret, is_best_backbone=found.backbone == top, trials=found.trials, cost=found.cost
            )
            outcomes.setdefault(way, []).append(outcome)
    print(
        f"{arguments.studies} draws of {arguments.backbones} backbones, {arguments.trials} trials in one "
        f"study each; {time.perf_counter() - started:.0f} s\n"
    )
    print_table([["searched", *HEADINGS], *([name, *row(found)] for name, found in outcomes.items())])
    each, jointly = (np.array([o.regret for o in outcomes[name]]) for name in ("one study each", "jointly"))
    gain = each - jointly
    error = gain.std(ddof=1) / math.sqrt(len(gain)) if len(gain) > 1 else math.nan
    print(f"\njointly better by {gain.mean():.2f} ± {error:.2f} points (mean of the pairs ± standard error)")


HEADINGS = ("points below the best, mean", "median", "best backbone found", "trials, mean", "cost, mean")


def row(outcomes: list[Outcome]) -> list[str]:
    """Sum the outcomes of one way up."""
    regrets = np.array([outcome.regret for outcome in outcomes])
    return [
        f"{regrets.mean():.2f}",
        f"{np.median(regrets):.2f}",
        f"{sum(outcome.is_best_backbone for outcome in outcomes)}/{len(outcomes)}",
        f"{np.mean([outcome.trials for outcome in outcomes]):.0f}",
        f"{np.mean([outcome.cost for outcome in outcomes]):.0f}",
    ]


if __name__ == "__main__":
    main()
