"""How the score depends on the cut: a regression over every trial of a study that says how sure it is.

A study tries a few of many cuts, most of them once, and its scores are noisy. A Gaussian process over depth,
learning rate and the other searched dimensions borrows strength from neighbours (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, chapters 2 and 5). With a few dozen trials its length scales
and noise are not known well enough to be taken for given: they are averaged over a grid, each weighed by how
probable it makes the scores, and the scores' scale is integrated out, so that intervals are those of a
Student distribution. ``n`` trials, ``m`` settings asked for, ``d`` dimensions in [0, 1], the depth first.

With several backbones each has a response of its own, and one tells something of the others: the correlation
between two backbones at the same depth, one for all pairs, is averaged over as well.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

Floats = NDArray[np.floating[Any]]

# Length scales in shares of a dimension's range: the score changes slowly over depth and over the logarithm
# of the learning rate, and hardly with the rest (head width, ...).
DEPTH_SCALES = (0.4, 0.8, 1.6, 3.2)
RATE_SCALES = (0.6, 1.2, 2.4)
REST_SCALE = 4.0
# What is expected far from all trials is at least this quantile of their scores. Cheap cuts are tried most
# and are often poor: that must not speak against those that were hardly tried.
USUAL_QUANTILE = 0.75
# Variance of the noise over that of the response.
NOISE_SHARES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# What is expected before any trial, on a log scale: median and deviation.
USUAL_SCALE, SCALE_SPREAD = 0.4, 1.0
USUAL_NOISE, NOISE_SPREAD = 0.03, 1.5
# Deviation likewise where validation images say how large the noise is at least.
KNOWN_NOISE_SPREAD = 0.7
# Variance of what a division of the images does to all settings alike, over that of the response.
SPLIT_SHARES = (0.03, 0.3)
# Variance of what it does to neighbouring settings alike, over that of the noise: they are right and wrong
# about the same images, so that one division says less than its many trainings seem to.
SPLIT_NOISE = 1.5
# Between two backbones at the same setting, each as probable.
KINSHIPS = (0.2, 0.5, 0.8, 0.95)
# Of the grid's weight; the rest changes nothing that is shown.
KEPT_WEIGHT = 0.98
# Settings whose correlations with all trials lie in a processor's cache.
BLOCK = 512
# Against variances of about one.
MUCH = 1e12
# Of a variance of about one.
ROUNDING = 1e-9
# Scales and noises that are enough to compare what settings promise: the most probable ones.
N_BELIEFS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One trial's score.

    Attributes:
        place: Its setting ``(d,)`` in [0, 1]: the depth of its cut, the learning rate, the rest.
        score: More is better.
        backbone: Which of the backbones, counted from 0.
        split: Which division of the images into training and validation it was measured on: what a division
            does to all settings alike is told from what the settings do.
        error: Standard deviation of what is not known of the score besides noise, in its unit: of a training
            that has not come to its end.
    """

    place: tuple[float, ...]
    score: float
    backbone: int = 0
    split: int = 0
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class _Kernel:
    """How alike two settings are.

    Attributes:
        scales: Length scale of each dimension ``(d,)``.
        kinship: Between two backbones at the same setting.
    """

    scales: tuple[float, ...]
    kinship: float

    def __call__(self, a: Floats, of_a: NDArray[np.int64], b: Floats, of_b: NDArray[np.int64]) -> Floats:
        """Correlate settings ``(n, d)`` of backbones ``(n,)`` with others: ``(n, m)``."""
        correlation = _matern(a, b, self.scales)
        if self.kinship < 1:
            correlation[of_a[:, None] != of_b[None]] *= self.kinship
        return correlation


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    """The process with one choice of scales and noise, up to the variance of the response.

    Attributes:
        kernel: How alike settings are.
        noise: Variance of a score from training to training.
        split_share: Variance of what a division of the images does to all settings.
        root: Lower triangular root of the covariance of the scores ``(n, n)``.
        ones: Ones over it ``(n,)``.
        rest: Over it what the scores differ from the mean ``(n,)``.
        mean: What is expected far from all trials.
        variance: Of the response.
        log_weight: How probable the choice is.
    """

    kernel: _Kernel
    noise: float
    split_share: float
    root: Floats
    ones: Floats
    rest: Floats
    mean: float
    variance: float
    log_weight: float

    def explained(self, to_trials: Floats) -> tuple[Floats, Floats]:
        """Return what the trials explain of ``m`` values, and what is not known of their mean.

        Args:
            to_trials: Covariances with the trials ``(m, n)``.

        Returns:
            A matrix ``(n, m)`` whose squares are what is explained, and deviations ``(m,)``.
        """
        half: Floats = solve_triangular(self.root, to_trials.T, lower=True, check_finite=False)
        return half, (1 - self.ones @ half) / math.sqrt(float(self.ones @ self.ones))


def _fits_of(
    kernel: _Kernel,
    noises: Sequence[tuple[float, float]],
    wider: Floats,
    usual: float,
    log_priors: Floats,
    least_variance: float,
) -> Iterator[_Fit]:
    """Fit the process with one kernel and each of ``s`` noises.

    Args:
        kernel: How alike settings are.
        noises: Variance of the noise, and of what a division does to all settings ``(s, 2)``.
        wider: Covariances of the scores with these noises, and below them, as two rows, ones and the scores
            ``(s, n + 2, n + 2)``: one call finds the root and divides both by it.
        usual: Least score that is expected far from all trials.
        log_priors: How probable each choice is beforehand ``(s,)``.
        least_variance: Of the response.
    """
    n = wider.shape[1] - 2
    roots = np.linalg.cholesky(wider)
    ones, halves = roots[:, n, :n], roots[:, n + 1, :n]
    precisions = (ones**2).sum(1)
    means = np.maximum((ones * halves).sum(1) / precisions, usual)
    rests = halves - means[:, None] * ones
    # With a flat prior on the mean and a scale-free one on the variance, both integrated out: what is not
    # known of the mean stays unknown where the quantile takes its place.
    squares = np.maximum((rests**2).sum(1), max((n - 1) * least_variance, 1e-12))
    log_weights = log_priors - np.log(roots[:, range(n), range(n)]).sum(1)
    log_weights -= 0.5 * (np.log(precisions) + (n - 1) * np.log(squares))
    for at, (noise, split_share) in enumerate(noises):
        yield _Fit(
            kernel=kernel,
            noise=noise,
            split_share=split_share,
            root=roots[at, :n, :n],
            ones=ones[at],
            rest=rests[at],
            mean=float(means[at]),
            variance=float(squares[at]) / (n - 1),
            log_weight=float(log_weights[at]),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Belief:
    """What is believed of ``m`` settings with one choice of scales and noise.

    Attributes:
        weight: How probable the choice is.
        mean: Of each true score ``(m,)``.
        covariance: Of the first ``k`` true scores with all ``(k, m)``.
        variance: Of each true score ``(m,)``.
        noise: Variance of a score from training to training.
        score_covariance: Of the first ``k`` true scores with what a training of each setting is expected to
            score on the study's own division, noise left out ``(k, m)``.
        score_own: Of each true score with that of the same setting ``(m,)``.
        score_variance: Of that ``(m,)``.
        judged: Of each division of the images that was asked for, what further trainings of the first ``k``
            are expected to score on it, noise left out: its covariance with the true scores of the first
            ``k``, and among itself, both ``(k, k)``.
    """

    weight: float
    mean: Floats
    covariance: Floats
    variance: Floats
    noise: float
    score_covariance: Floats
    score_own: Floats
    score_variance: Floats
    judged: Mapping[int, tuple[Floats, Floats]]

    def of_another_score(self, division: int, ours: int, theirs: int | None = None) -> tuple[Floats, float]:
        """Return what another score says of the first ``k`` true scores, or the difference of two.

        Args:
            division: Of the images that it is judged on.
            ours: Which of the first ``k`` is trained again.
            theirs: Which one is trained beside it; None: none.

        Returns:
            Covariances ``(k,)``, and the variance of what is observed.
        """
        covariance, among = self.judged[division]
        if theirs is None:
            return covariance[:, ours], float(among[ours, ours]) + self.noise
        variance = among[ours, ours] + among[theirs, theirs] - 2 * among[ours, theirs]
        return covariance[:, ours] - covariance[:, theirs], float(variance) + 2 * self.noise


class Response:
    """What a study's trials say of settings, tried or not."""

    def __init__(self, observations: Sequence[Observation], *, noise: float | None = None) -> None:
        """Learn from trials.

        Args:
            observations: At least three; fewer say nothing of the noise.
            noise: Standard deviation of a score that is expected from seed to seed; None: it is not known.

        Raises:
            ValueError: If there are fewer than three.
        """
        if len(observations) < 3:
            raise ValueError(f"{len(observations)} observations: at least 3 are needed.")
        self._places = np.array([o.place for o in observations])
        self._backbones = np.array([o.backbone for o in observations])
        self._splits = np.array([o.split for o in observations])
        scores = np.array([o.score for o in observations])
        self._offset = float(scores.mean())
        # Equal scores do not say that all settings are equal: they may differ by as much as a score is off.
        self._unit = max(float(scores.std()), noise or 0.0) or 1.0
        self._least_variance = 0.0 if noise is None else (noise / self._unit) ** 2
        # The response has a variance of about one in this unit.
        self._errors = (np.array([o.error for o in observations]) / self._unit) ** 2
        self._usual_noise, self._noise_spread = USUAL_NOISE, NOISE_SPREAD
        if noise is not None:
            self._usual_noise, self._noise_spread = (noise / self._unit) ** 2, KNOWN_NOISE_SPREAD
        fits = self._fits((scores - self._offset) / self._unit)
        log_weights = np.array([fit.log_weight for fit in fits])
        weights = np.exp(log_weights - log_weights.max())
        order = np.argsort(-weights, kind="stable")
        share = np.cumsum(weights[order]) / weights.sum()
        kept = order[: int(np.searchsorted(share, KEPT_WEIGHT)) + 1]
        self._fitted = [fits[i] for i in kept]
        self._weights = weights[kept] / weights[kept].sum()

    def _fits(self, scores: Floats) -> Sequence[_Fit]:
        n, d = self._places.shape
        found: list[_Fit] = []
        kinships = KINSHIPS if len(set(self._backbones)) > 1 else (1.0,)
        split_shares = SPLIT_SHARES if len(set(self._splits)) > 1 else (0.0,)
        noises = list(itertools.product(NOISE_SHARES, split_shares))
        noise, split_share = np.array(noises).T[:, :, None, None]
        is_same = np.equal.outer(self._splits, self._splits)
        off = (np.log(NOISE_SHARES) - math.log(self._usual_noise)) / self._noise_spread
        log_priors = np.repeat(-0.5 * off**2, len(split_shares))
        rates = RATE_SCALES if d > 1 else (1.0,)
        usual = float(np.quantile(scores, USUAL_QUANTILE))
        of_splits = split_share * is_same
        wider = np.zeros((len(noises), n + 2, n + 2))
        wider[:, n:, :n] = np.ones(n), scores
        wider[:, n:, n:] = MUCH * np.eye(2)
        for depth_scale, rate_scale, kinship in itertools.product(DEPTH_SCALES, rates, kinships):
            scales = (depth_scale, *[rate_scale] * (d > 1), *[REST_SCALE] * (d - 2))
            kernel = _Kernel(scales, kinship)
            correlation = kernel(self._places, self._backbones, self._places, self._backbones)
            of_noise = np.eye(n) + SPLIT_NOISE * correlation * is_same
            covariances = np.multiply(noise, of_noise, out=wider[:, :n, :n])
            covariances += correlation + np.diag(self._errors) + of_splits
            of_scale = -0.5 * (math.log(depth_scale / USUAL_SCALE) / SCALE_SPREAD) ** 2
            found += _fits_of(kernel, noises, wider, usual, log_priors + of_scale, self._least_variance)
        return found

    def mean(self, places: Floats, backbones: Sequence[int] | NDArray[np.int64] | None = None) -> Floats:
        """Expect the scores of settings ``(m, d)``, of the first backbone or of ``(m,)``: ``(m,)``.

        Settings in single precision are reckoned in it, in a quarter of the time.
        """
        total, which = np.zeros(len(places)), _given(backbones, len(places))
        residuals = [
            solve_triangular(fit.root, fit.rest, lower=True, trans="T", check_finite=False).astype(
                places.dtype
            )
            for fit in self._fitted
        ]
        for start in range(0, len(places), BLOCK):
            block = slice(start, start + BLOCK)
            to_trials = self._to_trials(self._fitted, places[block], which[block])
            for weight, fit, residual in zip(self._weights, self._fitted, residuals, strict=True):
                total[block] += weight * (fit.mean + to_trials[fit.kernel] @ residual)
        return self._offset + self._unit * total

    def beliefs(
        self,
        places: Floats,
        n_first: int,
        backbones: Sequence[int] | NDArray[np.int64] | None = None,
        *,
        divisions: Collection[int] = (),
    ) -> list[Belief]:
        """Return what is believed of settings, once for each probable choice of scales.

        Args:
            places: The settings ``(m, d)``.
            n_first: Of how many of them, the first ones, the covariance with all is wanted.
            backbones: Of the settings ``(m,)``; None: all of the first.
            divisions: Of the images, those that `Belief.judged` is to tell of.
        """
        which, n = _given(backbones, len(places)), len(self._places)
        first = places[:n_first], which[:n_first]
        found, fits = [], self._fitted[:N_BELIEFS]
        by_kernel = self._to_trials(fits, places, which)
        priors = {kernel: kernel(*first, places, which) for kernel in by_kernel}
        for weight, fit in zip(self._weights[:N_BELIEFS], fits, strict=True):
            to_trials, prior = by_kernel[fit.kernel], priors[fit.kernel]
            half, left = fit.explained(to_trials)
            unit = self._unit**2 * fit.variance * (n - 1) / max(1, n - 3)
            explained = half[:, :n_first], left[:n_first]
            judged = {
                division: _scaled(
                    unit, self._judged(fit, division, prior[:, :n_first], to_trials[:n_first], *explained)
                )
                for division in divisions
            }
            half_score, left_score = fit.explained(self._on_division(fit, 0, to_trials))
            score = 1 + SPLIT_NOISE * fit.noise + fit.split_share + left_score**2 - (half_score**2).sum(0)
            found.append(
                Belief(
                    weight=float(weight),
                    mean=self._offset + self._unit * (fit.mean + fit.rest @ half),
                    covariance=unit * (prior + np.outer(left[:n_first], left) - explained[0].T @ half),
                    variance=(unit * (1 - (half**2).sum(0) + left**2)).clip(1e-12),
                    noise=unit * fit.noise,
                    score_covariance=unit
                    * (prior + np.outer(left[:n_first], left_score) - explained[0].T @ half_score),
                    score_own=unit * (1 + left * left_score - (half * half_score).sum(0)),
                    score_variance=(unit * score).clip(1e-12),
                    judged=judged,
                )
            )
        return found

    def _judged(
        self, fit: _Fit, division: int, among: Floats, to_trials: Floats, half: Floats, left: Floats
    ) -> tuple[Floats, Floats]:
        """Return `Belief.judged` of a division, up to the variance of the response.

        Args:
            fit: Of the trials.
            division: Which.
            among: Correlations of the ``k`` settings ``(k, k)``.
            to_trials: With the trials ``(k, n)``.
            half: `_Fit.explained` of their true scores ``(n, k)``.
            left: Likewise ``(k,)``.
        """
        half_judged, left_judged = fit.explained(self._on_division(fit, division, to_trials))
        covariance = among + np.outer(left, left_judged) - half.T @ half_judged
        judged = among * (1 + SPLIT_NOISE * fit.noise) + fit.split_share
        judged += np.outer(left_judged, left_judged) - half_judged.T @ half_judged
        return covariance, judged

    def _on_division(self, fit: _Fit, division: int, to_trials: Floats) -> Floats:
        """Return the covariances with the trials of what settings would score on a division ``(m, n)``.

        A division does something to like settings alike, and something to all.
        """
        is_same = self._splits == division
        shared: Floats = is_same * (SPLIT_NOISE * fit.noise * to_trials + fit.split_share)
        return to_trials + shared

    def _to_trials(
        self, fits: Iterable[_Fit], places: Floats, which: NDArray[np.int64]
    ) -> dict[_Kernel, Floats]:
        """Correlate settings with the trials ``(m, n)``, once for each kernel of some fits."""
        trials = self._places.astype(places.dtype)
        kernels = dict.fromkeys(fit.kernel for fit in fits)
        return {kernel: kernel(places, which, trials, self._backbones) for kernel in kernels}

    def draws(
        self, places: Floats, n: int, seed: int, backbones: Sequence[int] | NDArray[np.int64] | None = None
    ) -> Floats:
        """Draw what the true scores of settings may be, together: ``(n, m)``; arguments as of `mean`.

        In single precision: its rounding is nothing beside what a draw says of its distribution.
        """
        which = _given(backbones, len(places))
        rng = np.random.default_rng(seed)
        n_trials, n_drawn = len(self._places), 0
        counts = rng.multinomial(n, self._weights)
        fits = [(count, fit) for count, fit in zip(counts, self._fitted, strict=True) if count]
        by_kernel = self._to_trials([fit for _, fit in fits], places, which)
        priors = {kernel: kernel(places, which, places, which) for kernel in by_kernel}
        # Filled in place: to make room for so many numbers takes longer than to reckon with them.
        drawn = np.empty((n, len(places)), dtype=np.float32)
        for count, fit in fits:
            half, left = fit.explained(by_kernel[fit.kernel])
            root = _root(priors[fit.kernel] - half.T @ half + np.outer(left, left))
            # Student's: the variance is drawn as well.
            scale = np.sqrt(fit.variance * (n_trials - 1) / rng.chisquare(n_trials - 1, count))
            own = drawn[n_drawn : n_drawn + count]
            normals = rng.standard_normal((count, len(places)))
            np.matmul(normals.astype(np.float32), root.T.astype(np.float32), out=own)
            own *= scale[:, None].astype(np.float32)
            own += (fit.mean + fit.rest @ half).astype(np.float32)
            n_drawn += count
        drawn *= self._unit
        drawn += self._offset
        return drawn


def _scaled(unit: float, pair: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    return unit * pair[0], unit * pair[1]


def _root(covariance: Floats) -> Floats:
    """Return a matrix whose product with its transpose is a covariance ``(m, m)``, but for rounding."""
    try:
        # Of settings that are all but the same rounding may make a negative variance.
        return np.linalg.cholesky(covariance + ROUNDING * np.eye(len(covariance)))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        root: Floats = vectors * np.sqrt(values.clip(0))
        return root


def _given(backbones: Sequence[int] | NDArray[np.int64] | None, n: int) -> NDArray[np.int64]:
    return np.zeros(n, dtype=np.int64) if backbones is None else np.asarray(backbones)


def _matern(a: Floats, b: Floats, scales: Sequence[float]) -> Floats:
    """Correlate settings ``(n, d)`` with ``(m, d)`` by a Matern kernel of order 5/2: ``(n, m)``.

    In place, as there may be a million of them.
    """
    units = np.array(scales, dtype=a.dtype) / math.sqrt(5)
    a, b = a / units, b / units
    distance = (-2 * a) @ b.T
    distance += (a * a).sum(1)[:, None]
    distance += (b * b).sum(1)
    # Squares; those of equal settings are nothing but for rounding.
    np.maximum(distance, 0, out=distance)
    np.sqrt(distance, out=distance)
    correlation = distance / 3
    correlation += 1
    correlation *= distance
    correlation += 1
    np.negative(distance, out=distance)
    correlation *= np.exp(distance, out=distance)
    return correlation
