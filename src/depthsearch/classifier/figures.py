"""What a classifier got right: accuracy with its interval, classes, confusions, calibration.

Notation: ``n`` images, ``k`` classes.

Sources: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927),
for the interval; C. Guo et al., "On calibration of modern neural networks", ICML 2017, section 2, for the
expected calibration error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

CONFIDENCE = 0.95
CALIBRATION_BINS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassFigures:
    """One class.

    Attributes:
        name: The class.
        precision: Share of the images called so that are; 0 where none is called so.
        recall: Share of its images that are called so.
        f1: Harmonic mean of the two.
        n: Its images.
    """

    name: str
    precision: float
    recall: float
    f1: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How a classifier did on ``n`` images.

    Attributes:
        n: Images.
        accuracy: Share that is right.
        interval: Wilson's 95 % interval of the accuracy.
        negative_log_likelihood: Mean, in nats.
        calibration_error: Expected, in [0, 1], over 15 bins of equal width.
        classes: One by one, in the order of the labels.
        confusion: ``(k, k)``: images of the row's class that are called the column's.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    negative_log_likelihood: float
    calibration_error: float
    classes: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]

    def as_json(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def figures_of(logits: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> Figures:
    """Judge logits.

    Args:
        logits: ``(n, k)``, float32, n at least 1.
        labels: ``(n,)``, int64.
        classes: ``k`` names.
    """
    probabilities = logits.softmax(1)
    predicted = probabilities.argmax(1)
    n, n_right = len(labels), int((predicted == labels).sum())
    interval = binomtest(n_right, n).proportion_ci(CONFIDENCE, method="wilson")
    known = range(len(classes))
    by_class = precision_recall_fscore_support(labels, predicted, labels=known, zero_division=0.0)
    return Figures(
        n=n,
        accuracy=n_right / n,
        interval=(float(interval.low), float(interval.high)),
        negative_log_likelihood=F.cross_entropy(logits.double(), labels).item(),
        calibration_error=calibration_error(probabilities, labels),
        classes=tuple(
            ClassFigures(name=name, precision=float(p), recall=float(r), f1=float(f1), n=int(support))
            for name, p, r, f1, support in zip(classes, *by_class, strict=True)
        ),
        confusion=tuple(map(tuple, confusion_matrix(labels, predicted, labels=known).tolist())),
    )


def calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Average the gap between confidence and accuracy over bins of equal width, by their images.

    Args:
        probabilities: ``(n, k)``.
        labels: ``(n,)``.
    """
    confidence, predicted = (part.numpy() for part in probabilities.max(1))
    confidence = confidence.astype(np.float64)
    # Bin i holds confidences in (i / 15, (i + 1) / 15].
    bins = np.clip(np.ceil(confidence * CALIBRATION_BINS) - 1, 0, CALIBRATION_BINS - 1).astype(int)
    gaps = np.bincount(bins, weights=(predicted == labels.numpy()) - confidence)
    return float(np.abs(gaps).sum() / len(labels))
