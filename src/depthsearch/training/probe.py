"""Linear probes: how much a linear classifier can make of the frozen features at each depth.

A probe costs one forward pass and a small linear system, no training, and its scores over depth say where
the pretrained features stop helping (`plateau_start`). It is ridge regression onto one-hot targets, solved
exactly: for standardised features z ``(n, d)`` and centred targets t ``(n, c)`` the weights are

    (zᵀz + λ n I)⁻¹ zᵀt  =  zᵀ (zzᵀ + λ n I)⁻¹ t

and the smaller of the two systems is solved. The strength λ counts in mean eigenvalues: zᵀz has the trace
n d, so n is the mean of its d eigenvalues, and the same λ means the same for any n and d.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from depthsearch.errors import DataError, TrainingError

# Pooled features of DenseNet121 and EfficientNet-Lite0 at 11 depths, of 1078 and 1600 images and a quarter of
# them, scored best with one of these; 1e-4 was better for 2 of the 44.
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
# One row in so many chooses the strength.
HELD_OUT_EVERY = 5
# A feature that deviates by less than this share of its largest value is constant but for rounding.
CONSTANT = 1e-6


def linear_probe(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    val: torch.Tensor,
    val_labels: torch.Tensor,
    num_classes: int,
) -> float:
    """Fit a linear classifier to features and score it on validation.

    The strength of its ridge is the one of a few with the least squared error on a held-out fifth of the
    training rows, stratified; validation has no part in it. Deterministic. Computed on the CPU in float64,
    with two copies of the features; 2,000 rows of 2,048 features take about a second on one core.

    Args:
        train: Features to learn from ``(n, d)``, of any floating type.
        train_labels: Their classes in [0, num_classes), int64 ``(n,)``.
        val: Features to score on ``(m, d)``.
        val_labels: Their classes, int64 ``(m,)``.
        num_classes: Classes to tell apart.

    Returns:
        Accuracy on validation, in [0, 1].

    Raises:
        DataError: If there are no training or no validation rows.
        TrainingError: If a feature is not finite.
    """
    if not len(train) or not len(val):
        raise DataError(f"A probe needs training and validation images: got {len(train)} and {len(val)}.")
    train, val = _finite(train, "training"), _finite(val, "validation")
    train_labels, val_labels = train_labels.cpu(), val_labels.cpu()
    strength = choose_strength(train, train_labels, num_classes)
    (logits,) = ridge_logits(train, train_labels, val, num_classes, [strength])
    return (logits.argmax(1) == val_labels).double().mean().item()


def _finite(features: torch.Tensor, what: str) -> torch.Tensor:
    """Bring features to the CPU in float64, refusing NaN and infinity."""
    features = features.detach().to("cpu", torch.float64)
    # One NaN or infinity makes the sum one; finite sums need no closer look.
    if not math.isfinite(features.sum().item()):
        bad = ~features.isfinite()
        if bad.any():
            raise TrainingError(
                f"{int(bad.any(1).sum())} of {len(features)} {what} images have features that are not finite "
                f"({int(bad.any(0).sum())} of {features.shape[1]} features). Check the weights, or compute "
                "with --precision float32."
            )
    return features


def choose_strength(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> float:
    """Choose the strength with the least squared error on a held-out fifth of each class.

    Squared error, as accuracy on few rows is the same for most strengths. Float32 is enough to choose and
    takes half the time; strengths so weak that its rounding could make the system singular are left out.
    """
    held_out = held_out_rows(labels)
    weakest = torch.finfo(torch.float32).eps * features.shape[1]
    strengths = [strength for strength in STRENGTHS if strength > weakest] or [STRENGTHS[-1]]
    if not held_out.any():
        return strengths[len(strengths) // 2]
    fit = ~held_out
    logits = ridge_logits(
        features[fit], labels[fit], features[held_out], num_classes, strengths, dtype=torch.float32
    )
    targets = F.one_hot(labels[held_out], num_classes)
    errors = [(each - targets).square().sum().item() for each in logits]
    return strengths[errors.index(min(errors))]


def held_out_rows(labels: torch.Tensor) -> torch.Tensor:
    """Choose a fifth of the rows of each class: a mask ``(n,)``."""
    held_out = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    held_out[torch.argsort(labels, stable=True)[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]] = True
    return held_out


def ridge_logits(
    features: torch.Tensor,
    labels: torch.Tensor,
    queries: torch.Tensor,
    num_classes: int,
    strengths: Sequence[float],
    *,
    dtype: torch.dtype = torch.float64,
    dual: bool | None = None,
) -> list[torch.Tensor]:
    """Fit ridge regressions onto one-hot targets and apply them.

    Args:
        features: Rows to learn from, float64 ``(n, d)``; all statistics are theirs.
        labels: Their classes ``(n,)``.
        queries: Rows to apply the fits to, float64 ``(m, d)``.
        num_classes: Number of classes c.
        strengths: One fit for each, in mean eigenvalues.
        dtype: Precision of the linear algebra.
        dual: Whether to solve the ``n x n`` system; default: where it is the smaller one.

    Returns:
        Logits ``(m, c)`` for each strength.
    """
    z, queries = (each.to(dtype) for each in _standardised(features, queries))
    targets = F.one_hot(labels, num_classes).to(dtype)
    intercept = targets.mean(0)
    targets -= intercept
    n, d = z.shape
    if dual is None:
        dual = n < d
    gram = z @ z.T if dual else z.T @ z
    right, left = (targets, queries @ z.T) if dual else (z.T @ targets, queries)
    logits = []
    for strength in strengths:
        system = gram.clone()
        system.diagonal().add_(strength * n)
        solution = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        logits.append(left @ solution + intercept)
    return logits


def _standardised(features: torch.Tensor, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring features to mean 0 and deviation 1, queries likewise, and drop constant features from both."""
    mean, deviation = moments(features)
    varies = deviation.isfinite()
    mean, deviation = mean[varies], deviation[varies]
    return features[:, varies].sub_(mean).div_(deviation), queries[:, varies].sub_(mean).div_(deviation)


def moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean and the deviation of each feature ``(n, d)``, infinite where it is constant."""
    variance, mean = torch.var_mean(features, 0, correction=0)
    deviation = variance.sqrt()
    varies = deviation > CONSTANT * features.abs().amax(0)
    return mean, deviation.where(varies, torch.inf)
