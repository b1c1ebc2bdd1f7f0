"""What trainings and probes gave, in values: a stored study is read without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch's steps.
        val_loss: Cross entropy on validation, without label smoothing; NaN where there is none.
        score: The recipe's metric on validation; NaN where there is none.
        seconds: Training and validation together.
        images_per_second: Training samples, of one image or several, over training seconds.
        prefix_macs: MACs spent on the frozen prefix.
        forward_macs: MACs spent on the suffix, forward, validation included.
        backward_macs: MACs spent on the suffix, backward: twice those forward.
        plain_macs: MACs of the same epoch with the whole prefix run for every image.
        kept_bytes: Written to the feature store.
        read_bytes: Read from the feature store.
    """

    epoch: int
    train_loss: float
    val_loss: float
    score: float
    seconds: float
    images_per_second: float
    prefix_macs: int
    forward_macs: int
    backward_macs: int
    plain_macs: int
    kept_bytes: int
    read_bytes: int

    @property
    def macs(self) -> int:
        """MACs spent in all."""
        return self.prefix_macs + self.forward_macs + self.backward_macs


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePoint:
    """A linear probe at one depth.

    Attributes:
        cut: Index of the cut among the candidates by depth.
        layer: Number of its first trainable layer.
        name: Module path of that layer.
        n_features: Features that the probe saw, constant ones included.
        score: Accuracy of the probe on validation, in [0, 1].
        n_val: Validation images behind the score.
    """

    cut: int
    layer: int
    name: str
    n_features: int
    score: float
    n_val: int

    @property
    def standard_error(self) -> float:
        """Binomial standard error of the score, one success and one failure added.

        So it is never zero: after 100 of 100 correct it is 0.01, one image.
        """
        share = (self.score * self.n_val + 1) / (self.n_val + 2)
        return math.sqrt(share * (1 - share) / self.n_val)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferCurve:
    """How far the pretrained features carry: a linear probe at depths from the first layers to the last.

    Attributes:
        points: By depth.
        macs: MACs spent on the one pass over the images.
        seconds: Pass and probes together.
        kept_bytes: Written to the feature store on the way.
    """

    points: tuple[ProbePoint, ...]
    macs: int
    seconds: float
    kept_bytes: int


def plateau_start(points: Iterable[ProbePoint]) -> ProbePoint | None:
    """Find where the pretrained features stop helping: the shallowest depth as good as the best.

    As good means within one standard error of the best score. Layers behind it make nothing of the images
    that a linear classifier would miss, so they are the ones to train anew.

    Args:
        points: Probes at several depths, in any order, on the same validation images.

    Returns:
        The point, or None where there is none.
    """
    by_depth = sorted(points, key=lambda point: point.cut)
    if not by_depth:
        return None
    best = max(by_depth, key=lambda point: point.score)
    return next(point for point in by_depth if point.score >= best.score - best.standard_error)
