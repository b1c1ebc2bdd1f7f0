"""Does the probe curve tell at which depths a study should train first?

On simulated responses it does not: no placement by the curve saves trials over the fixed depths, whether
the curve is unrelated to the best depth or all but determines it. Trials saved over the fixed depths, mean of
the pairs ± standard error:

    first depths            20 trials, GP, median        14 trials, TPE, halving      14 trials, TPE, none
                            10 seeds                     100 seeds                    100 seeds
    relation                0             0.95           0             0.95           0             0.95
    nearest first           -0.2 ± 0.7    -2.0 ± 1.2     -0.1 ± 0.3    -0.3 ± 0.3     +0.3 ± 0.3    +0.4 ± 0.3
    one moved               -0.5 ± 2.3    -0.6 ± 2.0     -0.3 ± 0.3    -0.8 ± 0.3     +0.1 ± 0.4    +0.0 ± 0.4
    one moved, before all   -0.3 ± 2.4    -3.6 ± 1.6     +0.2 ± 0.4    +0.3 ± 0.5     +0.3 ± 0.4    +0.4 ± 0.5
    centred                 -0.1 ± 1.8    +1.2 ± 1.7     -1.0 ± 0.4    -0.7 ± 0.3     -0.6 ± 0.4    -0.4 ± 0.4
    around                  -0.2 ± 1.8    -0.3 ± 1.8     -0.4 ± 0.5    -0.3 ± 0.4     -0.4 ± 0.5    +0.3 ± 0.5
    control: random         -1.2 ± 1.6    the same       -0.5 ± 0.4    the same       -0.6 ± 0.5    the same
    oracle: one moved       +0.9 ± 2.8    the same       +0.1 ± 0.4    the same       +2.6 ± 0.5    the same

Why: the nearest of the six fixed depths is 0.05 from the best on average, the nearest of those placed by a
closely related curve 0.04 (50 seeds). Simulated with optuna 5.0.0; real responses may differ.

    python -m benchmarks.search.first_depths compare --seeds 10
    python -m benchmarks.search.first_depths table --data photos/ --backbone resnet50 --image-size 128 \
        --epochs 8 --out photos.json
    python -m benchmarks.search.first_depths compare photos.json

``table`` trains a grid of cuts and learning rates and probes the same cuts; it goes on where it was stopped.
``compare`` runs simulated studies, on a family of made-up responses and on such tables, which differ in
nothing but the cuts of their first six trials, and says after how many trials the incumbent (the complete
trial that scored best) was truly worth 99 % of the best setting, and how far below the best it was.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.interpolate import RegularGridInterpolator
from torch import nn

from benchmarks.shared.images import load_images
from benchmarks.shared.printing import print_table
from benchmarks.shared.samplers import of_optuna
from depthsearch import Cut, Point, Recipe, Task, choose_device, list_cuts, load_backbone, split_at
from depthsearch.data import Division, ImageSet
from depthsearch.errors import DivergedError, SettingsError
from depthsearch.options.words import PRUNERS, SAMPLERS
from depthsearch.search.firsts import ANCHOR_DEPTHS, ANCHOR_LEARNING_RATES
from depthsearch.search.sampling import make_pruner, make_sampler
from depthsearch.seeds import seed_from
from depthsearch.training.objective import train_point
from depthsearch.training.outcomes import ProbePoint, plateau_start
from depthsearch.training.probe import linear_probe

Floats = NDArray[np.float64]
Params = dict[str, Any]

GOOD_ENOUGH = 0.99
REGRET_AFTER = (6, 10, 14, 20)
N_FIRST = 2 + len(ANCHOR_DEPTHS)
N_PROBED = 10
# How much of the noise's deviation a whole training shares; the rest is each epoch's own.
SHARED_NOISE = 0.8
PROBE_BATCH = 128


# --- responses: what a setting would score ------------------------------------------------------------


class Surface(Protocol):
    """The true response to a setting.

    Attributes:
        n_cuts: Candidate cuts.
        epochs: Epochs of a training.
        ranges: The searched dimensions.
        noise: Standard deviation of a score from seed to seed.
        best_score: Expected score of the best setting.
        best_depth: Where it cuts, in [0, 1].
    """

    n_cuts: int
    epochs: int
    ranges: dict[str, BaseDistribution]
    noise: float
    best_score: float
    best_depth: float

    def __hash__(self) -> int: ...

    def curve(self, params: Params) -> Floats:
        """Give the expected score after each epoch ``(epochs,)``."""

    def best_at(self, cut: int) -> float:
        """Give the expected score of a cut at its best setting."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A response, the probe curve that is known beforehand, and the seed of studies on it."""

    family: str
    surface: Surface
    probe: tuple[ProbePoint, ...]
    seed: int

    @property
    def plateau(self) -> float:
        """Depth at which the pretrained features stop helping, in [0, 1]."""
        start = plateau_start(self.probe)
        assert start is not None
        return start.cut / (self.surface.n_cuts - 1)


class Simulated:
    """A made-up response over depth, learning rate and head width.

    The score falls from the best depth to both sides, by other amounts and powers; the best learning rate
    falls as more layers learn, and too high a rate costs more than too low a one. Cuts differ by a little of
    their own. Shallow cuts and low rates start late, so that learning curves cross.
    """

    def __init__(
        self, seed: int, best_place: float, steepness: float = 1.0, peak: float | None = None
    ) -> None:
        """Draw a response.

        Args:
            seed: Of everything drawn.
            best_place: Depth at which freezing is best, but for the differences between neighbours.
            steepness: Factor to what other depths cost.
            peak: About the best score; default: drawn.
        """
        rng = np.random.default_rng(seed_from(seed, 1))
        self.n_cuts = int(rng.integers(30, 190))
        self.epochs = 10
        self.noise = float(rng.uniform(0.005, 0.01))
        self.ranges: dict[str, BaseDistribution] = {
            "cut": IntDistribution(0, self.n_cuts - 1),
            "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
            "head_width": IntDistribution(0, 1024, step=256),
        }
        self._best_place = best_place
        drawn = rng.uniform(0.85, 0.985)
        self._peak = drawn if peak is None else peak
        self._chance = rng.uniform(0.02, 0.5)
        # What learning too much, and too little, costs over the whole range of depths.
        self._costs = steepness * rng.uniform(0.01, 0.1), steepness * rng.uniform(0.04, 0.2)
        self._powers = rng.uniform(1, 2), rng.uniform(1, 3)
        self._rates = math.log10(3e-4) + rng.normal(0, 0.25), rng.uniform(0.5, 1.5)
        self._width_gain = rng.uniform(-0.005, 0.01)
        self._jitter = rng.normal(0, 0.002, self.n_cuts)
        # Time constants as shares of the training. Two trials of the vehicles study (studies/) had 0.08 with
        # the head alone and 0.10 with everything learning.
        self._times = 0.08, rng.uniform(0.01, 0.12)
        self.best_score, self.best_depth = self._find_best()

    def final(self, cut: NDArray[np.int64], log_rate: Floats, width: Floats) -> Floats:
        """Give the expected score after the last epoch; arguments broadcast."""
        depth = cut / (self.n_cuts - 1)
        away = depth - self._best_place
        cost = np.where(
            away < 0,
            self._costs[0] * np.abs(away) ** self._powers[0],
            self._costs[1] * np.abs(away) ** self._powers[1],
        )
        off = log_rate - self._best_rate(depth)
        cost = cost + np.where(off < 0, _saturating(0.03 * off**2, 0.2), _saturating(0.08 * off**2, 0.4))
        score: Floats = self._peak - cost + self._width_gain * width / 1024 + self._jitter[cut]
        return score.clip(0, 1)

    def curve(self, params: Params) -> Floats:
        """Give the expected score after each epoch ``(epochs,)``."""
        log_rate = np.array(math.log10(params["learning_rate"]))
        final = self.final(np.array(params["cut"]), log_rate, np.array(params["head_width"]))
        depth = params["cut"] / (self.n_cuts - 1)
        slower = 10 ** (-0.5 * np.clip(log_rate - self._best_rate(depth), -1, 1))
        done = np.arange(1, self.epochs + 1) / self.epochs
        learned = -np.expm1(-done / ((self._times[0] + self._times[1] * (1 - depth)) * slower))
        scores: Floats = self._chance + (final - self._chance) * learned / learned[-1]
        return scores

    def best_at(self, cut: int) -> float:
        """Give the expected score of a cut at its best setting."""
        rates = np.linspace(-5, -2, 121)
        return float(self.final(np.array(cut), rates[:, None], np.array([0, 1024])).max())

    def _best_rate(self, depth: Any) -> Any:
        return self._rates[0] + self._rates[1] * depth

    def _find_best(self) -> tuple[float, float]:
        cuts, rates = np.arange(self.n_cuts), np.linspace(-5, -2, 121)
        scores = self.final(cuts[:, None, None], rates[:, None], np.array([0, 1024]))
        cut = int(scores.max((1, 2)).argmax())
        return float(scores.max()), cut / (self.n_cuts - 1)


def _saturating(cost: Floats, most: float) -> Floats:
    return -most * np.expm1(-cost / most)


def simulated_probe(
    surface: Simulated, plateau: float, seed: int, n_val: int = 400
) -> tuple[ProbePoint, ...]:
    """Make up a probe curve: rising up to a depth, level or falling a little behind it, counted on images."""
    rng = np.random.default_rng(seed_from(seed, 2))
    peak, rise, fall = surface.best_score * rng.uniform(0.9, 1), rng.uniform(0.2, 0.6), rng.uniform(0, 0.1)
    points = []
    for cut in evenly(surface.n_cuts, N_PROBED):
        away = cut / (surface.n_cuts - 1) - plateau
        score = peak - (fall * away if away > 0 else rise * (-away) ** 1.2)
        correct = int(rng.binomial(n_val, min(max(score, 0.0), 1.0)))
        points.append(
            ProbePoint(cut=cut, layer=cut, name=str(cut), n_features=64, score=correct / n_val, n_val=n_val)
        )
    return tuple(points)


def simulated_problems(relations: Sequence[float], n_seeds: int, steepness: float) -> Iterator[Problem]:
    """Draw problems in which the probe's plateau tells more or less of the best depth.

    Both depths are uniform in [0, 1]; a relation is the correlation of their normal scores. At 1 they are the
    same, at 0 unrelated. The responses are the same for every relation.
    """
    normal = NormalDist()
    drawn = []
    for seed in range(n_seeds):
        ours, other = np.random.default_rng(seed_from(seed, 0)).standard_normal(2)
        drawn.append((seed, ours, other, Simulated(seed, normal.cdf(ours), steepness)))
    for relation in relations:
        for seed, ours, other, surface in drawn:
            plateau = normal.cdf(relation * ours + math.sqrt(1 - relation**2) * other)
            probe = simulated_probe(surface, plateau, seed)
            yield Problem(family=f"simulated, relation {relation:g}", surface=surface, probe=probe, seed=seed)


class Tabled:
    """A response between real trainings: bilinear in the cut's index and the logarithm of the rate.

    Only the rates of the table are searched, with a linear head; a training that diverged scores chance.
    """

    def __init__(self, table: dict[str, Any]) -> None:
        """Average the runs of each cell of a table, as `run_table` writes it."""
        self.n_cuts = int(table["n_cuts"])
        self.epochs = int(table["settings"]["epochs"])
        chance = 1 / int(table["n_classes"])
        cells: dict[tuple[int, float], list[list[float]]] = {}
        for run in table["runs"]:
            scores = run["scores"] + [chance] * (self.epochs - len(run["scores"]))
            cells.setdefault((run["cut"], run["learning_rate"]), []).append(scores)
        cuts = sorted({cut for cut, _ in cells})
        rates = sorted({rate for _, rate in cells})
        if len(cells) < len(cuts) * len(rates) or {cuts[0], cuts[-1]} != {0, self.n_cuts - 1}:
            raise SettingsError(f"The table {table['name']} is not complete: run `table` again to go on.")
        repeated = [np.array(runs)[:, -1] for runs in cells.values() if len(runs) > 1]
        if not repeated:
            raise SettingsError(f"The table {table['name']} has no repeated runs: nothing says its noise.")
        squares = sum(float(((scores - scores.mean()) ** 2).sum()) for scores in repeated)
        self.noise = math.sqrt(squares / sum(len(scores) - 1 for scores in repeated))
        curves = np.array([[np.mean(cells[cut, rate], 0) for rate in rates] for cut in cuts])
        self._interpolator = RegularGridInterpolator((cuts, np.log(rates)), curves)
        # A bilinear function is greatest at a grid point.
        finals = curves[:, :, -1]
        self._log_rates = np.log(rates)
        self.best_score = float(finals.max())
        self.best_depth = cuts[int(finals.max(1).argmax())] / (self.n_cuts - 1)
        self.ranges: dict[str, BaseDistribution] = {
            "cut": IntDistribution(0, self.n_cuts - 1),
            "learning_rate": FloatDistribution(rates[0], rates[-1], log=True),
        }

    def curve(self, params: Params) -> Floats:
        """Give the expected score after each epoch ``(epochs,)``."""
        scores: Floats = self._interpolator((params["cut"], math.log(params["learning_rate"])))
        return scores

    def best_at(self, cut: int) -> float:
        """Give the expected score of a cut at its best rate."""
        return float(max(self._interpolator((cut, rate))[-1] for rate in self._log_rates))


def tabled_problems(path: Path, n_seeds: int) -> Iterator[Problem]:
    """Read a table of real trainings; seeds differ in the noise and the sampler."""
    table = json.loads(path.read_text(encoding="utf-8"))
    surface = Tabled(table)
    probe = tuple(ProbePoint(**point) for point in table["probe"])
    for seed in range(n_seeds):
        yield Problem(family=table["name"], surface=surface, probe=probe, seed=seed)


# --- where the first trials are -----------------------------------------------------------------------


def centred(depth: float) -> tuple[float, ...]:
    """Choose a depth, those halfway to both ends, and one halfway to the first of these."""
    return depth, depth / 2, (1 + depth) / 2, 0.75 * depth


def snapped(depth: float) -> tuple[float, ...]:
    """Take the fixed depths with the nearest of them moved to a depth, nearest first."""
    return depth, *nearest_first(depth)[1:]


def nearest_first(depth: float) -> tuple[float, ...]:
    """Take the fixed depths by nearness to a depth."""
    return tuple(sorted(ANCHOR_DEPTHS, key=lambda fixed: abs(fixed - depth)))


def any_four(problem: Problem) -> tuple[float, ...]:
    """Draw four depths that know nothing."""
    return tuple(np.random.default_rng(seed_from(problem.seed, 3)).uniform(size=4))


# Depths in order; the ends are the baselines. The last three are for comparison: a control without
# knowledge, and what the best one could hope for.
STRATEGIES: dict[str, Callable[[Problem], Sequence[float]]] = {
    "fixed": lambda problem: (1, 0, *ANCHOR_DEPTHS),
    "nearest first": lambda problem: (1, 0, *nearest_first(problem.plateau)),
    "one moved": lambda problem: (1, 0, *snapped(problem.plateau)),
    "one moved, before all": lambda problem: (problem.plateau, 1, 0, *snapped(problem.plateau)[1:]),
    "centred": lambda problem: (1, 0, *centred(problem.plateau)),
    "around": lambda problem: (1, 0, *(problem.plateau + step for step in (0, -0.1, 0.1, -0.2))),
    "control: random": lambda problem: (1, 0, *any_four(problem)),
    "oracle: one moved": lambda problem: (1, 0, *snapped(problem.surface.best_depth)),
    "oracle: centred": lambda problem: (1, 0, *centred(problem.surface.best_depth)),
}


def first_cuts(depths: Sequence[float], n_cuts: int) -> tuple[int, ...]:
    """Turn depths into six different cuts, filled up with the fixed ones where two fall together."""
    last = n_cuts - 1
    wanted = [round(min(max(depth, 0.0), 1.0) * last) for depth in (*depths, *ANCHOR_DEPTHS, 1 / 8, 3 / 8)]
    return tuple(dict.fromkeys(wanted))[:N_FIRST]


def anchor(surface: Surface, cut: int) -> Params:
    """Give the setting that depthsearch would enqueue for a cut."""
    low, high = ANCHOR_LEARNING_RATES
    rate = low * (high / low) ** (cut / (surface.n_cuts - 1))
    rates = surface.ranges["learning_rate"]
    assert isinstance(rates, FloatDistribution)
    params = {"cut": cut, "learning_rate": min(max(rate, rates.low), rates.high), "head_width": 0}
    return {name: params[name] for name in surface.ranges}


# --- simulated studies --------------------------------------------------------------------------------


@functools.cache
def simulate_study(
    surface: Surface, cuts: tuple[int, ...], seed: int, n_trials: int, sampler: str, pruner: str
) -> tuple[float, ...]:
    """Run a study as `depthsearch.study.search` does, on a simulated response.

    Returns:
        For each number of trials the true score of the incumbent.
    """
    study = optuna.create_study(direction="maximize", pruner=make_pruner(pruner, surface.epochs))
    for cut in cuts:
        study.enqueue_trial(anchor(surface, cut))
    incumbents: list[float] = []
    observed, true = -math.inf, 0.0
    for number in range(n_trials):
        study.sampler = make_sampler(sampler, seed_from(seed, number))
        trial = study.ask(surface.ranges)
        curve = surface.curve(trial.params)
        is_baseline = number < len(cuts) and cuts[number] in (0, surface.n_cuts - 1)
        score = _train(
            trial, noisy(curve, surface.noise, seed_from(seed, number, 1)), prunable=not is_baseline
        )
        study.tell(trial, score, state=TrialState.PRUNED if score is None else TrialState.COMPLETE)
        if score is not None and score > observed:
            observed, true = score, float(curve[-1])
        incumbents.append(true)
    return tuple(incumbents)


def _train(trial: optuna.Trial, scores: Floats, *, prunable: bool) -> float | None:
    """Report an epoch after the other; return the last score, or None where the trial is pruned."""
    for epoch, score in enumerate(scores, start=1):
        trial.report(float(score), step=epoch)
        if epoch < len(scores) and trial.should_prune() and prunable:
            return None
    return float(scores[-1])


def noisy(curve: Floats, noise: float, seed: int) -> Floats:
    """Add what another seed changes: an offset for the whole training and one for each epoch."""
    rng = np.random.default_rng(seed)
    offset = SHARED_NOISE * rng.standard_normal()
    own = math.sqrt(1 - SHARED_NOISE**2) * rng.standard_normal(len(curve))
    return np.clip(curve + noise * (offset + own), 0, 1)


def distance(surface: Surface, cuts: Sequence[int]) -> float:
    """Give the distance in depth from the best cut to the nearest of some, in [0, 1]."""
    return min(abs(cut / (surface.n_cuts - 1) - surface.best_depth) for cut in cuts)


def trials_to_good(incumbents: Sequence[float], best: float) -> int:
    """Count the trials until the incumbent is good enough; one more than there are where it never is."""
    return next(
        (n for n, score in enumerate(incumbents, start=1) if score >= GOOD_ENOUGH * best), len(incumbents) + 1
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Studies of one family with one strategy, one row or value a seed.

    Attributes:
        away: Distance in depth from the best cut to the nearest of the first ones.
        trials: Trials until the incumbent was good enough.
        regrets: Points below the best after each number of trials ``(n, n_trials)``.
    """

    away: Floats
    trials: NDArray[np.int64]
    regrets: Floats


def compare(problems: Sequence[Problem], n_trials: int, sampler: str, pruner: str) -> dict[str, Outcome]:
    """Run every strategy on every problem of a family."""
    outcomes = {}
    for name, depths in STRATEGIES.items():
        first = [first_cuts(depths(problem), problem.surface.n_cuts) for problem in problems]
        studies = [
            simulate_study(problem.surface, cuts, problem.seed, n_trials, sampler, pruner)
            for problem, cuts in zip(problems, first, strict=True)
        ]
        best = [problem.surface.best_score for problem in problems]
        outcomes[name] = Outcome(
            away=np.array([distance(p.surface, cuts) for p, cuts in zip(problems, first, strict=True)]),
            trials=np.array([trials_to_good(s, b) for s, b in zip(studies, best, strict=True)]),
            regrets=100 * (np.array(best)[:, None] - np.array(studies)),
        )
    return outcomes


def rows(family: str, outcomes: dict[str, Outcome], n_trials: int) -> Iterator[list[str]]:
    """Give the lines of the printed table."""
    fixed = outcomes["fixed"].trials
    for name, outcome in outcomes.items():
        saved = fixed - outcome.trials
        yield [
            family,
            name,
            f"{outcome.away.mean():.3f}",
            _mean_and_deviation(outcome.trials),
            f"{int((outcome.trials <= n_trials).sum())}/{len(outcome.trials)}",
            f"{saved.mean():+.1f} ± {_standard_error(saved):.1f}",
            *(_mean_and_deviation(outcome.regrets[:, n - 1], 2) for n in REGRET_AFTER if n <= n_trials),
        ]


def _mean_and_deviation(values: NDArray[Any], digits: int = 1) -> str:
    deviation = values.std(ddof=1) if len(values) > 1 else math.nan
    return f"{values.mean():.{digits}f} ({deviation:.{digits}f})"


def _standard_error(values: NDArray[Any]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def run_compare(arguments: argparse.Namespace) -> None:
    """Compare the strategies on the simulated family and on tables."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    n_trials = arguments.trials
    sampler, pruner = of_optuna(arguments.sampler, arguments.pruner, n_trials)
    families: dict[str, list[Problem]] = {}
    for problem in simulated_problems(arguments.relations, arguments.seeds, arguments.steepness):
        families.setdefault(problem.family, []).append(problem)
    for path in arguments.tables:
        for problem in tabled_problems(path, arguments.seeds):
            families.setdefault(problem.family, []).append(problem)
    regrets = [f"regret after {n}" for n in REGRET_AFTER if n <= n_trials]
    lines = [["responses", "first depths", "away", "trials to 99 %", "reached", "saved", *regrets]]
    for family, problems in families.items():
        lines += rows(family, compare(problems, n_trials, sampler, pruner), n_trials)
    print(
        f"{arguments.seeds} seeds, {n_trials} trials, sampler {sampler}, pruner {pruner}. Mean (standard "
        "deviation) over seeds; away: from the best cut to the nearest of the first, in share of the depth; "
        f"never reached counts as {n_trials + 1} trials; saved: trials fewer than fixed, mean of the pairs ± "
        "standard error; regret in points.\n"
    )
    print_table(lines)


# --- tables of real trainings -------------------------------------------------------------------------


def evenly(n_cuts: int, n: int) -> list[int]:
    """Spread n indices over all cuts, both ends included."""
    return [int(index) for index in dict.fromkeys(np.linspace(0, n_cuts - 1, n).round())]


@torch.no_grad()
def pooled_features(prefix: nn.Module, images: ImageSet, task: Task) -> torch.Tensor:
    """Run a placed prefix over images; average each boundary tensor over space: ``(n, d)``, float32, CPU."""
    preprocessing, device = task.backbone.preprocessing, task.device
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocessing.mean, preprocessing.std))
    found = []
    for index in torch.arange(len(images)).split(PROBE_BATCH):
        x = (images.gather(index).float() / 255 - mean) / std
        with device.autocast():
            boundary = prefix(device.layout(device.move(x)))
        pooled = [t.float().flatten(2).mean(2) if t.ndim > 2 else t.float() for t in boundary]
        found.append(torch.cat(pooled, 1).cpu())
    return torch.cat(found)


def probe_at(task: Task, cut: Cut) -> ProbePoint:
    """Probe the features that a cut's prefix gives."""
    split = split_at(task.backbone.model, cut, image_size=task.backbone.preprocessing.image_size)
    prefix = task.device.place(split.prefix)
    train, val = (pooled_features(prefix, images, task) for images in (task.data.train, task.data.val))
    score = linear_probe(train, task.data.train.labels, val, task.data.val.labels, task.num_classes)
    return ProbePoint(
        cut=cut.index, layer=cut.layer, name=cut.name, n_features=train.shape[1], score=score, n_val=len(val)
    )


def train_cell(task: Task, cut: Cut, learning_rate: float, seed: int) -> list[float]:
    """Train a linear head at a cut; return the score after each epoch, fewer where it diverged."""
    scores: list[float] = []
    try:
        for result in train_point(task, Point(cut=cut, learning_rate=learning_rate), seed=seed):
            scores.append(result.score)
    except DivergedError:
        pass
    return scores


def cells(
    cuts: Sequence[int], n_cuts: int, rates: Sequence[float], repeats: int
) -> Iterator[tuple[int, float, int]]:
    """Give (cut, learning rate, repeat): every pair once, and at each cut one rate more often, for the noise.

    That rate is the one nearest to the anchor's, by ratio.
    """
    low, high = ANCHOR_LEARNING_RATES
    for cut in cuts:
        sensible = low * (high / low) ** (cut / (n_cuts - 1))
        nearest = min(rates, key=lambda rate: abs(math.log(rate / sensible)))
        yield from ((cut, rate, 0) for rate in rates)
        yield from ((cut, nearest, repeat) for repeat in range(1, repeats + 1))


def run_table(arguments: argparse.Namespace) -> None:
    """Train the grid and write each result as it comes."""
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(
        arguments.backbone,
        arguments.weights,
        image_size=arguments.image_size,
        demo=arguments.data == "digits",
    )
    image_size = backbone.preprocessing.image_size
    data = load_images(arguments.data, backbone, Division(val_share=arguments.val_share))
    recipe = Recipe(epochs=arguments.epochs, batch_size=arguments.batch_size)
    task = Task(backbone=backbone, data=data, recipe=recipe, device=device)
    cuts = list_cuts(backbone.model, image_size=image_size)
    wanted = evenly(len(cuts), arguments.cuts)
    settings = {
        "data": data.fingerprint,
        "backbone": backbone.name,
        "weights": f"{backbone.weights} [{backbone.digest}]",
        "image_size": image_size,
        "precision": device.precision,
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "cuts": wanted,
        "learning_rates": arguments.learning_rates,
    }
    table: dict[str, Any] = {
        "name": f"{data.name}, {backbone.name}",
        "settings": settings,
        "n_cuts": len(cuts),
        "n_classes": task.num_classes,
        "probe": [],
        "runs": [],
    }
    if arguments.out.exists():
        table = json.loads(arguments.out.read_text())
        if table["settings"] != settings:
            raise SettingsError(f"{arguments.out} has other settings. Give another --out.")
    _probe_missing(task, [cuts[index] for index in wanted], table, arguments.out)
    done = {(run["cut"], run["learning_rate"], run["repeat"]) for run in table["runs"]}
    for cut, rate, repeat in cells(wanted, len(cuts), arguments.learning_rates, arguments.repeats):
        if (cut, rate, repeat) in done:
            continue
        scores = train_cell(task, cuts[cut], rate, seed_from(repeat))
        table["runs"].append({"cut": cut, "learning_rate": rate, "repeat": repeat, "scores": scores})
        _write(table, arguments.out)
        print(f"{cuts[cut]}, lr {rate:g}, run {repeat}: {' '.join(f'{s:.4f}' for s in scores)}", flush=True)


def _probe_missing(task: Task, cuts: Sequence[Cut], table: dict[str, Any], path: Path) -> None:
    for cut in cuts[len(table["probe"]) :]:
        point = probe_at(task, cut)
        table["probe"].append(asdict(point))
        _write(table, path)
        print(f"{cut}: probe {point.score:.4f} of {point.n_features} features", flush=True)


def _write(table: dict[str, Any], path: Path) -> None:
    written = path.with_suffix(".tmp")
    written.write_text(json.dumps(table, indent=1))
    written.replace(path)


# --- command line -------------------------------------------------------------------------------------


def numbers(text: str) -> list[float]:
    """Read numbers separated by commas."""
    return [float(each) for each in text.split(",") if each]


def main() -> None:
    """Run a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    table = commands.add_parser("table", help="train a grid of cuts and learning rates")
    table.add_argument("--data", default="digits", help="folder of images, or digits")
    table.add_argument("--backbone", default="densenet121")
    table.add_argument("--weights", default="auto")
    table.add_argument("--image-size", type=int)
    table.add_argument("--val-share", type=float, default=0.2, help="of train, if there is no val")
    table.add_argument("--epochs", type=int, default=8)
    table.add_argument("--batch-size", type=int, default=64)
    table.add_argument("--cuts", type=int, default=N_PROBED, help="how many, evenly spread, ends included")
    table.add_argument(
        "--learning-rates", type=numbers, default=[1e-4, 5e-4, 2e-3, 1e-2], metavar="LR,LR,..."
    )
    table.add_argument("--repeats", type=int, default=1, help="further seeds at one rate of each cut")
    table.add_argument("--device", default="auto")
    table.add_argument("--precision", default="auto")
    table.add_argument("--out", type=Path, required=True, help="JSON file, gone on with if it is there")
    table.set_defaults(run=run_table)
    comparison = commands.add_parser("compare", help="simulate studies that start at other depths")
    comparison.add_argument("tables", type=Path, nargs="*", help="JSON files of `table`")
    comparison.add_argument("--seeds", type=int, default=10)
    comparison.add_argument("--trials", type=int, default=20)
    comparison.add_argument(
        "--relations",
        type=numbers,
        default=[0, 0.6, 0.95],
        help="of plateau and best depth; empty: tables only",
    )
    comparison.add_argument(
        "--steepness", type=float, default=1.0, help="how much depth matters, in simulated responses"
    )
    comparison.add_argument("--sampler", default="auto", choices=SAMPLERS)
    comparison.add_argument("--pruner", default="auto", choices=PRUNERS)
    comparison.set_defaults(run=run_compare)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
