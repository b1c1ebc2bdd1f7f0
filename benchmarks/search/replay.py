"""How good is the answer of a study at what cost? Whole studies on recorded trainings, ours and Optuna's.

    python -m benchmarks.search.replay benchmarks/search/tables/*.npz --seeds 20
    python -m benchmarks.search.replay vehicles.npz --policies before GPSampler --budgets 0.5,1,2

Tables are of `record.py`; of one that is still being recorded the seeds that are whole count. The searches of
`policies.py` run on them: those of the product through its own coordinator, with a worker that looks results
up; Optuna's samplers and pruners in a plain loop, with features kept as well. Each is stopped at each budget
(in full fine-tunes: the first pass over the images, pruned trials and confirmation count) and asked for its
answer. What a study sees of a table is drawn anew for each study, the same for every policy, see `recorded`.

- *regret*: points that the answer's setting, cut and learning rate, is truly below the best setting. What is
  true is the mean over the seeds of the table, or where that mean is too noisy a regression of it over
  neighbouring cuts and learning rates (``--truth``); each table says which;
- *within 0.5*: share of the studies whose regret is at most half a point;
- *covered*: how often the set that the study prints holds the cut of the best setting; *set*: the median
  share of the cuts that are in it. Optuna's own give no set.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna

from benchmarks.search.policies import POLICIES, Answer
from benchmarks.search.recorded import Recorded
from benchmarks.search.tables import Table
from benchmarks.search.truth import Truth, truth_of
from benchmarks.shared.printing import print_table
from depthsearch.options.words import LEARNING_RATES

WITHIN = 0.5
ONE_POINT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One study at one budget, against the truth.

    Attributes:
        table: Its name.
        policy: Its name.
        budget: In full fine-tunes.
        seed: Of the study.
        regret: Points below the best setting.
        within: Whether that is at most half a point.
        covered: Whether the set holds the best cut; None: there is no set.
        set_share: Share of the cuts that are in it; None likewise.
        cost: What was spent.
        frozen: Share of the MACs that the answer freezes.
    """

    table: str
    policy: str
    budget: float
    seed: int
    regret: float
    within: bool
    covered: bool | None
    set_share: float | None
    cost: float
    frozen: float


def judge(
    table: Table, truth: Truth, answer: Answer, *, name: str, policy: str, budget: float, seed: int
) -> Judged:
    """Compare an answer with the truth."""
    regret = truth.regret(answer.cut, answer.rate)
    level = answer.level
    return Judged(
        table=name,
        policy=policy,
        budget=budget,
        seed=seed,
        regret=regret,
        within=regret <= WITHIN,
        covered=None if level is None else truth.best_cut in level,
        set_share=None if level is None else len(level) / len(table.cuts),
        cost=answer.cost,
        frozen=table.cuts[answer.cut].frozen_mac_share,
    )


def replayed(
    table: Table, truth: Truth, name: str, policy: str, seeds: Sequence[int], budgets: Sequence[float]
) -> list[Judged]:
    """Run the studies of a policy on a table."""
    judged = []
    for seed in seeds:
        answers = POLICIES[policy](Recorded(table, seed), budgets)
        judged += [
            judge(table, truth, answers[budget], name=name, policy=policy, budget=budget, seed=seed)
            for budget in budgets
        ]
    return judged


HEADINGS = ("policy", "budget", "n", "regret, mean ± sd", "median", "within 0.5", "covered", "set", "cost")


def rows(judged: Sequence[Judged], budgets: Sequence[float]) -> list[list[str]]:
    """Sum a policy's studies up, a row a budget."""
    found = []
    for budget in budgets:
        of_budget = [each for each in judged if each.budget == budget]
        regrets = np.array([each.regret for each in of_budget])
        covered = [each.covered for each in of_budget if each.covered is not None]
        shares = [each.set_share for each in of_budget if each.set_share is not None]
        spread = regrets.std(ddof=1) if len(regrets) > 1 else math.nan
        found.append(
            [
                of_budget[0].policy,
                f"{budget:g}",
                str(len(of_budget)),
                f"{regrets.mean():.2f} ± {spread:.2f}",
                f"{np.median(regrets):.2f}",
                f"{sum(each.within for each in of_budget)}/{len(of_budget)}",
                f"{sum(covered)}/{len(covered)}" if covered else "",
                f"{np.median(shares):.2f}" if shares else "",
                f"{np.mean([each.cost for each in of_budget]):.2f}",
            ]
        )
    return found


def to_one_point(judged: Sequence[Judged], budgets: Sequence[float]) -> str:
    """Return the smallest budget from which on the mean regret is at most a point."""
    means = {b: np.mean([each.regret for each in judged if each.budget == b]) for b in budgets}
    enough = [b for b in budgets if all(means[more] <= ONE_POINT for more in budgets if more >= b)]
    return f"{min(enough):g}" if enough else f"above {max(budgets):g}"


def describe(table: Table, truth: Truth) -> str:
    """Say what a table is, and what is true of it."""
    about = table.about
    cut, rate = np.unravel_index(truth.score.argmax(), truth.score.shape)
    ends = [f"{truth.score[end].max():.4f}" for end in (0, -1)]
    way = {"mean": "mean over the seeds", "smooth": "regression over neighbours"}[truth.way]
    return (
        f"{about.name}: {about.n_train} training and {about.n_val} validation images of {len(about.classes)} "
        f"classes, {about.image_size} px, {about.epochs} epochs; {len(table.cuts)} cuts, "
        f"{len(about.learning_rates)} learning rates, {about.seeds} seeds.\n"
        f"Truth: {way} (a difference of two means has a standard error of {100 * truth.error:.2f} points). "
        f"Best: {table.cuts[cut]}, frozen {table.cuts[cut].frozen_mac_share:.2f}, "
        f"learning rate {about.learning_rates[rate]:g}, {truth.best_score:.4f}; "
        f"everything {ends[0]}, head only {ends[1]}."
    )


def read_table(path: Path, rates: tuple[float, float] = LEARNING_RATES) -> Table:
    """Read a table, or the whole seeds of one that is still being recorded.

    Args:
        path: Of the table.
        rates: Lowest and highest learning rate: those of a study, unless it is to search others.

    Raises:
        ValueError: If there is no whole seed, or no such learning rate.
    """
    table = Table.read(path).with_rates(*rates)
    n_whole = len(table.whole_seeds)
    if not n_whole:
        raise ValueError(f"{path} has no seed yet of which every training is there. Record on.")
    return table.first_seeds(n_whole)


def _range(text: str) -> tuple[float, float]:
    low, high = text.split(":")
    return float(low), float(high)


def _numbers(text: str) -> list[float]:
    return sorted(float(each) for each in text.split(","))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--policies", nargs="+", choices=tuple(POLICIES), default=tuple(POLICIES))
    parser.add_argument("--seeds", type=int, default=20, help="studies of each policy on each table")
    parser.add_argument("--budgets", type=_numbers, default=_numbers("1,2,3,4,6,10"), metavar="N,N,...")
    parser.add_argument(
        "--learning-rates",
        type=_range,
        default=LEARNING_RATES,
        metavar="LOW:HIGH",
        help="which of those of the table are searched; default: as a study does",
    )
    parser.add_argument("--truth", choices=("auto", "mean", "smooth"), default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every study at every budget")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay, print a table for each recorded one, and write the JSON."""
    options = read_options(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    judged: list[Judged] = []
    for path in options.tables:
        try:
            table = read_table(path, options.learning_rates)
        except ValueError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
        truth, started = truth_of(table, options.truth), time.perf_counter()
        print(f"{describe(table, truth)}\n", flush=True)
        shown: list[list[str]] = []
        reached: dict[str, str] = {}
        for policy in options.policies:
            of_policy = replayed(table, truth, path.stem, policy, range(options.seeds), options.budgets)
            shown += rows(of_policy, options.budgets)
            reached[policy] = to_one_point(of_policy, options.budgets)
            judged += of_policy
            if options.json is not None:
                options.json.write_text(json.dumps([asdict(each) for each in judged], indent=1))
        print_table([list(HEADINGS), *shown])
        within = ", ".join(f"{policy} {budget}" for policy, budget in reached.items())
        print(f"\nBudget from which the mean regret is at most a point: {within}.")
        print(f"{time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
