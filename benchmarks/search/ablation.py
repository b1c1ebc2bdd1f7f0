"""What does each part of the search bring? The same replays with one part after the other taken out.

    python -m benchmarks.search.ablation benchmarks/search/tables/*.npz --seeds 20 --n-val 107 200 150 400

Studies of the product on recorded trainings, see `replay.py`, with all of its parts and without one each.
Beside the regret of the answer at some budgets stands that of a study which nobody has bounded, and what it
cost when it ended by itself. With ``--n-val`` a study sees only so many validation images of each table: as
few as a folder of photos has.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path
from unittest import mock

import numpy as np
import optuna

from benchmarks.search import policies
from benchmarks.search.recorded import Recorded
from benchmarks.search.replay import read_table
from benchmarks.search.truth import truth_of
from benchmarks.shared.printing import print_table
from depthsearch.search.planning import moves, planner

# Of a study that ends by itself.
NOBODY = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the search that can be taken out.

    Attributes:
        name: In the table.
        policy: The search without it.
        without: Takes out what no option does.
    """

    name: str
    policy: policies.Policy = policies.depthsearch
    without: Callable[[], AbstractContextManager[object]] = nullcontext


PARTS = (
    Part(name="all of it"),
    Part(name="training again", policy=partial(policies.depthsearch, may_train_again=False)),
    Part(name="pausing", without=lambda: mock.patch.multiple(planner, CHEAP=math.inf)),
    Part(
        name="cost: the largest gain is next",
        without=lambda: mock.patch.object(moves.Move, "rate", property(lambda move: move.gain)),
    ),
    Part(
        name="the cut first: every learning rate is weighed at once",
        without=lambda: mock.patch.object(
            planner.Planner, "_new", partialmethod(planner.Planner._new, any_rate=True)
        ),
    ),
    Part(
        name="the best setting at other learning rates",
        without=lambda: mock.patch.multiple(planner, OTHER_RATE_COST=0.0),
    ),
    Part(name="the best setting once more", without=lambda: mock.patch.multiple(planner, ONCE_MORE_COST=0.0)),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each part and table, and for each part the mean over tables."""
    parser = argparse.ArgumentParser(description="Replays with one part of the search taken out.")
    parser.add_argument("tables", type=Path, nargs="+", metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budgets", type=float, nargs="+", default=[2.0, 4.0])
    parser.add_argument("--n-val", type=int, nargs="+", default=[], metavar="N", help="one for each table")
    options = parser.parse_args(arguments)
    if options.n_val and len(options.n_val) != len(options.tables):
        parser.error(f"{len(options.tables)} tables need as many numbers after --n-val")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    budgets = [*options.budgets, NOBODY]
    shown: list[list[str]] = []
    for part in PARTS:
        of_part = []
        for path, n_val in zip(options.tables, options.n_val or [None] * len(options.tables), strict=True):
            table = read_table(path)
            truth = truth_of(table, "auto")
            found = []
            for seed in range(options.seeds):
                with part.without():
                    answers = part.policy(Recorded(table, seed, n_val=n_val), budgets)
                regrets = [truth.regret(answers[b].cut, answers[b].rate) for b in budgets]
                found.append([*regrets, answers[NOBODY].cost])
            of_part.append(np.array(found))
            shown.append(_row(part.name, path.stem, of_part[-1]))
        if len(of_part) > 1:
            shown.append(_row(part.name, "mean", np.mean(of_part, axis=0)))
    headings = [f"regret at {budget:g}" for budget in options.budgets]
    print_table([["without", "table", *headings, "regret at its own end", "which cost"], *shown])


def _row(name: str, table: str, found: np.ndarray) -> list[str]:
    """Show means with their standard errors over studies."""
    error = (
        found.std(axis=0, ddof=1) / math.sqrt(len(found))
        if len(found) > 1
        else np.full(found.shape[1], np.nan)
    )
    *regrets, cost = zip(found.mean(axis=0), error, strict=True)
    return [name, table, *(f"{mean:.2f} ± {each:.2f}" for mean, each in regrets), f"{cost[0]:.1f}"]


if __name__ == "__main__":
    main()
