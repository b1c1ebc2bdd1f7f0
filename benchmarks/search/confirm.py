"""Does the set of cuts that a study prints contain the best one, and is it small?

    python -m benchmarks.search.confirm --studies 100
    python -m benchmarks.search.confirm --studies 100 --trials 30
    python -m benchmarks.search.confirm vehicles.json --studies 10 --trials 30 --smooth

Runs simulated studies whose truth is known (the responses of `first_depths`: score over depth, learning rate
and head width, with noise from seed to seed and small differences between neighbouring cuts), searches as
`depthsearch study` does, confirms as it does, and compares what `evidence.weigh` says with the truth.
*covered*: the cut with the best true score (at its best setting) is in the printed set. The baseline is what
a person would take without confirmation: the cut of the best single score. On a table of real trainings
(`first_depths.py table`; with `--cuts` as many as there are candidates a sweep of all of them) the same
studies run on what was measured, interpolated between the cells, with the noise of its repeated cells. With
``--smooth`` a cell's truth is what a regression over all runs of the table expects there: of hundreds of
noisy cells the best is the luckiest one, and none to be reached again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from benchmarks.search.first_depths import (
    ANCHOR_DEPTHS,
    Params,
    Problem,
    Surface,
    anchor,
    first_cuts,
    noisy,
    print_table,
    simulated_problems,
    tabled_problems,
)
from benchmarks.shared.stored_study import describe
from depthsearch import Cut
from depthsearch.results import StoredStudy, promising, rank, weigh
from depthsearch.search.sampling import make_pruner, make_sampler, resolve
from depthsearch.seeds import seed_from


def stored_study(surface: Surface, pruner: str) -> optuna.Study:
    """Make a study that describes its cuts as a real one does; MACs are even over depth."""
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, surface.epochs))
    last = surface.n_cuts - 1
    cuts = [
        Cut(
            index=i,
            layer=i + 1,
            name=f"layer{i + 1}",
            kind="head" if i == last else "conv",
            keras_name=None,
            aliases=(),
            first_layer=f"layer{i + 1}",
            frozen_mac_share=i / last,
            frozen_parameter_share=i / last,
            trainable_parameters=last - i,
            boundary_bytes=1,
        )
        for i in range(surface.n_cuts)
    ]
    describe(study, cuts, epochs=surface.epochs)
    return study


def search(study: optuna.Study, surface: Surface, seed: int, n_trials: int, sampler: str) -> None:
    """Search as `depthsearch.study.search` does."""
    for cut in first_cuts((1, 0, *ANCHOR_DEPTHS), surface.n_cuts):
        study.enqueue_trial(anchor(surface, cut))
    for number in range(n_trials):
        study.sampler = make_sampler(sampler, seed_from(seed, number))
        trial = study.ask(surface.ranges)
        scores = noisy(surface.curve(trial.params), surface.noise, seed_from(seed, number, 1))
        state = TrialState.COMPLETE
        for epoch, score in enumerate(scores, start=1):
            trial.report(float(score), step=epoch)
            if epoch < len(scores) and trial.should_prune() and number > 1:
                state = TrialState.PRUNED
                break
        study.tell(trial, float(scores[-1]) if state == TrialState.COMPLETE else None, state=state)


def train_again(study: optuna.Study, surface: Surface, seed: int, n_cuts: int, n_seeds: int) -> None:
    """Confirm as `depthsearch.study.confirm` does."""
    chosen = promising(StoredStudy.read(study), n_cuts)
    numbers = [trial.number for trial in chosen]
    plan = {"trials": numbers, "seeds": n_seeds, "resample": False}
    study.set_user_attr("confirmation", plan)
    trials = study.get_trials(deepcopy=False)
    for again in range(n_seeds):
        for number in numbers:
            scores = noisy(
                surface.curve(trials[number].params), surface.noise, seed_from(seed, number, again, 2)
            )
            study.add_trial(
                create_trial(
                    params=trials[number].params,
                    distributions=trials[number].distributions,
                    value=float(scores[-1]),
                    user_attrs={"origin": "confirm", "confirms": number, "seed": again, "resample": False},
                )
            )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One study against the truth; scores in points.

    Attributes:
        covered: Whether the best cut is in the printed set.
        share: Of the candidates that are in the set.
        regret: How far the answer, at its setting, is below the best.
        cut_regret: How far the answer's cut is below the best, each at its best setting.
        single_regret: The same for the best single score.
        frozen: Depth of the answer in [0, 1].
        interval: Whether the answer's mean, two standard errors to both sides, holds its true score.
        optimism: How much the best single score is above its true one.
    """

    covered: bool
    share: float
    regret: float
    cut_regret: float
    single_regret: float
    frozen: float
    interval: bool
    optimism: float


def judge(study: optuna.Study, surface: Surface) -> Outcome:
    """Compare what the study says with what is true."""
    evidence = weigh(StoredStudy.read(study))
    assert evidence is not None
    searched = [trial for trial in StoredStudy.read(study).trials if trial.confirms is None]
    single = rank(searched, maximize=True)[0]
    best_cut = round(surface.best_depth * (surface.n_cuts - 1))

    def true(number: int) -> float:
        params: Params = study.trials[number].params
        return float(surface.curve(params)[-1])

    answer = evidence.answer
    error = answer.standard_error or 0.0
    assert single.score is not None
    return Outcome(
        covered=best_cut in evidence.level,
        share=len(evidence.level) / surface.n_cuts,
        regret=100 * (surface.best_score - true(answer.trial)),
        cut_regret=100 * (surface.best_score - surface.best_at(answer.cut.index)),
        single_regret=100 * (surface.best_score - true(single.number)),
        frozen=answer.cut.frozen_mac_share,
        interval=abs(answer.mean - true(answer.trial)) <= 2 * error,
        optimism=100 * (single.score - true(single.number)),
    )


def main() -> None:
    """Run the studies and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="*", help="JSON files of first_depths.py table")
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--trials", type=int, default=14)
    parser.add_argument("--confirm", type=int, default=3, help="cuts, the ends on top")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smooth", action="store_true", help="take the tables' noise out, by a regression")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler, pruner = resolve("auto", "auto", arguments.trials)
    families = [
        list(tabled_problems(path, arguments.studies, smooth=arguments.smooth)) for path in arguments.tables
    ]
    for problems in families or [list(simulated_problems([0.0], arguments.studies, 1.0))]:
        started = time.perf_counter()
        outcomes = [outcome_of(problem, arguments, sampler, pruner) for problem in problems]
        print(
            f"{problems[0].family}: {len(outcomes)} studies of {arguments.trials} trials (sampler {sampler}, "
            f"pruner {pruner}), {arguments.confirm} cuts and both ends confirmed, {arguments.seeds} seeds; "
            f"{time.perf_counter() - started:.0f} s\n"
        )
        print_table([["", "value"], *([name, value] for name, value in figures(outcomes))])
        print(flush=True)


def outcome_of(problem: Problem, arguments: argparse.Namespace, sampler: str, pruner: str) -> Outcome:
    """Run one study on a problem, from the search to the judgement."""
    surface = problem.surface
    study = stored_study(surface, pruner)
    search(study, surface, problem.seed, arguments.trials, sampler)
    train_again(study, surface, problem.seed, arguments.confirm, arguments.seeds)
    return judge(study, surface)


def figures(outcomes: list[Outcome]) -> list[tuple[str, str]]:
    """Sum the outcomes up: a name and a value a row."""
    shares = np.array([o.share for o in outcomes])
    low, middle, high = np.quantile(shares, (0.25, 0.5, 0.75))
    regrets, cuts, singles = (
        np.array([getattr(o, name) for o in outcomes]) for name in ("regret", "cut_regret", "single_regret")
    )
    return [
        ("best cut in the printed set", f"{sum(o.covered for o in outcomes)}/{len(outcomes)}"),
        ("set, share of the candidates, median (quartiles)", f"{middle:.2f} ({low:.2f} to {high:.2f})"),
        ("answer below the best, points, mean (median)", f"{regrets.mean():.2f} ({np.median(regrets):.2f})"),
        ("answer at most 0.5 points below the best", f"{sum(regrets <= 0.5)}/{len(outcomes)}"),
        ("answer's cut at its best setting, points below", f"{cuts.mean():.2f} ({np.median(cuts):.2f})"),
        ("answer's cut at most 0.5 points below", f"{sum(cuts <= 0.5)}/{len(outcomes)}"),
        ("best single score's, points, mean (median)", f"{singles.mean():.2f} ({np.median(singles):.2f})"),
        ("best single score above its true one, points", f"{np.mean([o.optimism for o in outcomes]):.2f}"),
        (
            "answer's mean within two errors of the truth",
            f"{sum(o.interval for o in outcomes)}/{len(outcomes)}",
        ),
        ("answer's depth, mean", f"{np.mean([o.frozen for o in outcomes]):.2f}"),
    ]


if __name__ == "__main__":
    main()
