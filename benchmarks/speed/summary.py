"""How long does a summary of a study take, against reading the study as one goes along?

    python -m benchmarks.speed.summary
    python -m benchmarks.speed.summary --again 0

A study of 100 trials, 15 of them trained again or none, in SQLite: `summarize` against what is commonly
written for the same figures on plain Optuna: `study.trials` and `study.user_attrs` wherever something of them
is needed. Only `summarize` has the regression behind the evidence, too; reading the study, which is most of
what is left without it, stands by itself. In turn, several rounds, processor seconds; once with a storage
just opened, once with one that has read the study.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from benchmarks.shared.machine import machine_facts, print_facts
from benchmarks.shared.stored_study import describe
from depthsearch import Cut, choose_device
from depthsearch.results import StoredStudy, summarize
from depthsearch.study import open_storage

N_CUTS, EPOCHS, SEEDS = 120, 10, 3
RANGES = {
    "cut": IntDistribution(0, N_CUTS - 1),
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "head_width": IntDistribution(0, 1024, step=256),
}
SPENT = {"prefix_macs": 10, "forward_macs": 20, "backward_macs": 30, "plain_macs": 99}
BYTES = {"kept_bytes": 10, "read_bytes": 20}


def cut(index: int) -> Cut:
    """Make a cut of a deep backbone."""
    name = f"features.denseblock{index // 30}.denselayer{index % 30}.conv1"
    return Cut(
        index=index,
        layer=2 + 3 * index,
        name=name,
        kind="head" if index == N_CUTS - 1 else "conv",
        keras_name=None,
        aliases=(),
        first_layer=name,
        frozen_mac_share=index / (N_CUTS - 1),
        frozen_parameter_share=index / (N_CUTS - 1),
        trainable_parameters=100 * (N_CUTS - index),
        boundary_bytes=1024,
        training_macs=1000 * (N_CUTS - index),
    )


def add(study: optuna.Study, params: dict[str, Any], score: float, **attributes: Any) -> None:
    """Add a trial that was trained to its end."""
    scores = {epoch: score * (0.5 + 0.05 * epoch) for epoch in range(1, EPOCHS + 1)}
    common = {
        "train_loss": 0.1,
        "val_loss": 0.2,
        "seconds": 1.0,
        "images_per_second": 100.0,
        **SPENT,
        **BYTES,
    }
    results = [{"epoch": epoch, "score": score, **common} for epoch, score in scores.items()]
    spent = {"macs": 600, "plain_macs": 990, "seconds": 10.0, **BYTES}
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE,
            value=score,
            params=params,
            distributions=RANGES,
            intermediate_values=scores,
            user_attrs={"results": results, **spent, **attributes},
        )
    )


def make(url: str, n_trials: int, n_again: int) -> None:
    """Store a study in which some settings were trained again."""
    study = optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    describe(study, [cut(index) for index in range(N_CUTS)], epochs=EPOCHS)
    dice = random.Random(0)
    found = []
    for number in range(n_trials - n_again * SEEDS):
        depth, rate = dice.random(), dice.uniform(-5, -2)
        width = 256 * dice.randrange(5)
        params = {"cut": int(depth * N_CUTS), "learning_rate": 10**rate, "head_width": width}
        score = 0.9 - 0.3 * (depth - 0.6) ** 2 - 0.02 * abs(rate + 3) + dice.gauss(0, 0.01)
        add(study, params, score)
        found.append((score, number, params))
    best = sorted(found, key=lambda each: -each[0])[:n_again]
    plan = {"trials": [number for _, number, _ in best], "seeds": SEEDS, "resample": False}
    if best:
        study.set_user_attr("confirmation", plan)
    for score, number, params in best:
        for seed in range(SEEDS):
            again = {"origin": "confirm", "confirms": number, "seed": seed, "resample": False}
            add(study, params, score + dice.gauss(0, 0.005), **again)


def plainly(study: optuna.Study) -> tuple[Any, ...]:
    """Sum a study up as one writes it with Optuna alone."""
    cuts = study.user_attrs["cuts"]
    searched = [trial for trial in study.trials if "confirms" not in trial.user_attrs]
    complete = [trial for trial in searched if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0.0)
    ends = [
        max((t.value or 0.0 for t in complete if t.params["cut"] == end), default=None)
        for end in (0, len(cuts) - 1)
    ]
    by_setting: dict[int, list[float]] = {}
    for trial in study.trials:
        if "confirms" in trial.user_attrs:
            by_setting.setdefault(trial.user_attrs["confirms"], []).append(trial.value or 0.0)
    unit = study.user_attrs["backbones"][""]["full_fine_tune_macs"]
    macs = sum(trial.user_attrs["macs"] for trial in study.trials) / unit
    seconds = sum(trial.user_attrs["seconds"] for trial in study.trials)
    names = study.user_attrs["data"]["name"], study.user_attrs["recipe"]["metric"]
    counts = {state: sum(trial.state == state for trial in study.trials) for state in TrialState}
    return names, cuts[best.params["cut"]], ends, by_setting, macs, seconds, counts


def seconds_of(work: Callable[[optuna.Study], Any], url: str, *, is_fresh: bool, plain: bool) -> float:
    """Time a summary, in processor seconds."""
    storage = optuna.storages.RDBStorage(url) if plain else open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    if not is_fresh:
        work(study)
    started = time.process_time()
    work(study)
    return time.process_time() - started


def main() -> None:
    """Print the milliseconds of each, and the ratio to the plain one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--again", type=int, default=5, help="settings trained again, three times each")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print_facts(machine_facts(choose_device("cpu", "float32")))
    ways: dict[str, Callable[[optuna.Study], Any]] = {
        "plain": plainly,
        "summarize": summarize,
        "reading alone": StoredStudy.read,
    }
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder)}/s.db"
        make(url, given.trials, given.again)
        for is_fresh in (True, False):
            spent: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(given.rounds):
                for name, work in ways.items():
                    spent[name].append(seconds_of(work, url, is_fresh=is_fresh, plain=name == "plain"))
            print("storage just opened:" if is_fresh else "storage that has read it:")
            for name, seconds in spent.items():
                ratio = median(seconds) / median(spent["plain"])
                spread = f"{1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f}"
                print(f"  {name:14} {1e3 * median(seconds):6.1f} ms ({spread}), {ratio:.2f} of plain")


if __name__ == "__main__":
    main()
