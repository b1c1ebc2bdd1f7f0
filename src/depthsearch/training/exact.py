"""A linear head on frozen features, solved: multinomial logistic regression, trained to its end.

Where all layers are frozen and the head is linear, the training loss is convex, so nothing is left to chance:
no learning rate, no epochs, no order of the images. For standardised features z ``(n, d)`` and targets t
``(n, c)``, label smoothing included, it minimises over W ``(d, c)`` and the intercept b

    mean over rows of w_i · cross_entropy(z_i W + b, t_i)  +  λ/2 · ‖W‖²

by SciPy's L-BFGS-B (Byrd, Lu, Nocedal and Zhu, A limited memory algorithm for bound constrained optimization,
SIAM Journal on Scientific Computing 16, 1995). The strength λ is the strongest of a few whose loss on a
held-out fifth of the training images is about the least; validation has no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import nn

from depthsearch.devices import Device
from depthsearch.errors import DivergedError
from depthsearch.features.sources import BoundarySource
from depthsearch.models.split import Suffix
from depthsearch.training.loop import class_weights, costs_of, validate
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.probe import held_out_rows, moments
from depthsearch.training.recipe import Recipe

# From strong to weak: each starts from the solution of the one before. A held-out loss higher by a share than
# the least so far ends the search, as weaker ones fit the noise further; one within a share of it is as good.
STRENGTHS = tuple(10 ** (exponent / 2) for exponent in range(1, -9, -1))
WORSE_ENOUGH = 1.05
AS_GOOD = 1.01
MOST_STEPS = 500
# Steps that L-BFGS remembers.
MEMORY = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearFit:
    """A fitted linear layer.

    Attributes:
        weight: ``(c, d)``, for features as they were given.
        bias: ``(c,)``.
        strength: The λ that was chosen.
        n_passes: How often the rows were gone through, forward and backward, in all fits.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    strength: float
    n_passes: int


def fit_linear(
    features: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    weights: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    n_views: int = 1,
) -> LinearFit:
    """Fit multinomial logistic regression, its strength chosen inside these rows. Deterministic on a CPU.

    It is computed where the features are: in float64 on a CPU, in float32 on a GPU.

    Args:
        features: ``(n_views * n, d)``, the n images of one view after those of another.
        labels: Their classes in [0, num_classes), int64 ``(n_views * n,)``.
        num_classes: Classes to tell apart, ``c``.
        weights: Of each class in the loss ``(c,)``; None: all 1.
        label_smoothing: Probability given to the other classes, in [0, 1).
        n_views: Views of each image: all of an image are held out together.

    Raises:
        DivergedError: If a feature is not finite.
    """
    dtype = torch.float64 if features.device.type == "cpu" else torch.float32
    rows = features.detach().to(dtype)
    if not bool(rows.isfinite().all()):
        raise DivergedError("features of the frozen layers are not finite")
    labels = labels.to(rows.device)
    targets = F.one_hot(labels, num_classes).to(dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing / num_classes
    each = torch.ones(len(rows), dtype=dtype, device=rows.device)
    if weights is not None:
        each = weights.to(each)[labels]
    held_out = held_out_rows(labels[: len(labels) // n_views]).repeat(n_views)
    # Constant features become 0: their deviation is infinite.
    mean, deviation = moments(rows)
    z = (rows - mean) / deviation
    rotation = None
    if len(z) < z.shape[1]:
        # The solution is a combination of the rows: in their own basis there are only n numbers to find.
        _, _, basis = torch.linalg.svd(z, full_matrices=False)
        rotation = basis.T
        z = z @ rotation
    strength, rough = _choose_strength(z, targets, each, held_out)
    solution = _Problem(z, targets, each)
    if rough is not None:
        solution.weight, solution.bias = rough.weight, rough.bias
    solution.solve(strength, is_final=True)
    inner = solution.weight if rotation is None else rotation @ solution.weight
    weight = (inner / deviation[:, None]).T
    return LinearFit(
        weight=weight,
        bias=solution.bias - weight @ mean,
        strength=strength,
        n_passes=solution.n_passes + (0 if rough is None else rough.n_passes),
    )


class _Problem:
    """The loss over some rows, and the best weights found so far."""

    def __init__(self, z: torch.Tensor, targets: torch.Tensor, each: torch.Tensor) -> None:
        self._z, self._targets, self._each = z, targets, each / each.sum()
        self.weight = z.new_zeros(z.shape[1], targets.shape[1])
        self.bias = (self._each @ targets).clamp(min=1e-6).log()
        self.n_passes = 0

    def solve(self, strength: float, *, is_final: bool = False) -> None:
        """Minimise from where the last strength has ended, roughly where it is only to be compared."""
        shape, weights = self.weight.shape, self.weight.numel()
        # Float32 rounds the gradient itself at about this.
        tolerance = (1e-7 if is_final else 1e-5) if self.weight.dtype == torch.float64 else 1e-4

        def unpacked(numbers: NDArray[np.float64]) -> tuple[torch.Tensor, torch.Tensor]:
            both = torch.from_numpy(numbers).to(self.weight.dtype).to(self.weight.device)
            return both[:weights].view(shape), both[weights:]

        def loss_and_gradient(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            self.n_passes += 1
            weight, bias = unpacked(numbers)
            logs = torch.addmm(bias, self._z, weight).log_softmax(1)
            loss = -(self._each @ (self._targets * logs).sum(1)) + 0.5 * strength * weight.square().sum()
            # By the logits: a row's targets sum to 1.
            slope = self._each[:, None] * (logs.exp() - self._targets)
            gradient = torch.cat([(self._z.T @ slope + strength * weight).flatten(), slope.sum(0)])
            return loss.item(), gradient.cpu().double().numpy()

        found = minimize(
            loss_and_gradient,
            torch.cat([self.weight.flatten(), self.bias]).cpu().double().numpy(),
            jac=True,
            method="L-BFGS-B",
            options={"maxcor": MEMORY, "maxiter": MOST_STEPS, "gtol": tolerance, "ftol": 0.0},
        )
        self.weight, self.bias = (each.clone() for each in unpacked(found.x))

    def loss_of(self, z: torch.Tensor, targets: torch.Tensor, each: torch.Tensor) -> float:
        """Compute the loss on other rows, without the penalty."""
        logits = z @ self.weight + self.bias
        return float(-(each @ (targets * logits.log_softmax(1)).sum(1)) / each.sum())


def _choose_strength(
    z: torch.Tensor, targets: torch.Tensor, each: torch.Tensor, held_out: torch.Tensor
) -> tuple[float, _Problem | None]:
    """Find the strongest strength about as good as the best on held-out rows, and the fit without them."""
    if not bool(held_out.any()):
        return STRENGTHS[len(STRENGTHS) // 2], None
    fit = ~held_out
    problem = _Problem(z[fit], targets[fit], each[fit])
    losses: list[float] = []
    solutions: list[tuple[torch.Tensor, torch.Tensor]] = []
    for strength in STRENGTHS:
        problem.solve(strength)
        losses.append(problem.loss_of(z[held_out], targets[held_out], each[held_out]))
        solutions.append((problem.weight, problem.bias))
        if losses[-1] > WORSE_ENOUGH * min(losses):
            break
    chosen = next(i for i, loss in enumerate(losses) if loss <= AS_GOOD * min(losses))
    problem.weight, problem.bias = solutions[chosen]
    return STRENGTHS[chosen], problem


def only_linear_layer(suffix: Suffix, classifier: str) -> nn.Linear | None:
    """Return a suffix's classifier if that is linear and all that learns, so that it can be solved."""
    head = suffix.graph.get_submodule(classifier)
    linear = head if isinstance(head, nn.Linear) else getattr(head, "classifier", None)
    learns = {id(p) for p in suffix.parameters() if p.requires_grad}
    if isinstance(linear, nn.Linear) and learns == {id(p) for p in linear.parameters()}:
        return linear
    return None


def solve(
    suffix: Suffix,
    linear: nn.Linear,
    train_source: BoundarySource,
    val_source: BoundarySource | None,
    recipe: Recipe,
    device: Device,
    *,
    suffix_macs: int,
) -> Generator[EpochResult, None, None]:
    """Solve a suffix of which only a linear layer learns, in place, and yield the one result.

    Its epoch is the recipe's last: what comes out is what training would end in. Of the recipe the label
    smoothing, the balance of the classes, the views and the metric count; learning rate, weight decay,
    optimizer and dropout do not.

    Args:
        suffix: Maps boundary tensors of b samples to logits ``(b, num_classes)``.
        linear: Its `only_linear_layer`.
        train_source: Boundaries to learn from.
        val_source: Boundaries to score on; None: there is no validation.
        recipe: See above.
        device: Where.
        suffix_macs: Forward MACs of the suffix for one sample.

    Raises:
        DivergedError: If a feature or the validation loss is not finite.
    """
    started = time.perf_counter()
    suffix = device.place(suffix)
    sources = [source for source in (train_source, val_source) if source is not None]
    before = [replace(source.spent) for source in sources]
    n_views = min(recipe.views, recipe.epochs)
    rows = _inputs_of(suffix, linear, train_source, recipe, device, n_views)
    labels = train_source.labels.repeat(n_views)
    fit = _fit_in_place(linear, rows, labels, recipe, n_views)
    trained = time.perf_counter() - started
    val_loss, score = validate(suffix, val_source, recipe, device, recipe.epochs)
    costs = costs_of(sources, before, suffix_macs)
    # Each pass multiplies with the weights once forward and once for their gradient.
    passes = fit.n_passes * len(labels) * linear.weight.numel()
    costs["plain_macs"] += 2 * passes - costs["backward_macs"]
    costs["forward_macs"] += passes
    costs["backward_macs"] = passes
    yield EpochResult(
        epoch=recipe.epochs,
        train_loss=_train_loss(rows, labels, fit),
        val_loss=val_loss,
        score=score,
        seconds=time.perf_counter() - started,
        images_per_second=len(train_source.labels) / trained,
        **costs,
    )


def _inputs_of(
    suffix: Suffix, linear: nn.Linear, source: BoundarySource, recipe: Recipe, device: Device, n_views: int
) -> torch.Tensor:
    """Compute what the linear layer gets of each image in each view: ``(n_views * n, d)``."""
    rows: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows.append(given[0].detach().float())

    suffix.eval()
    hook = linear.register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for epoch in range(1, n_views + 1):
                source.prepare(epoch)
                for index in torch.arange(len(source.labels)).split(2 * recipe.batch_size):
                    with device.autocast():
                        suffix(source.batch(index))
    finally:
        hook.remove()
    return torch.cat(rows)


def _fit_in_place(
    linear: nn.Linear, rows: torch.Tensor, labels: torch.Tensor, recipe: Recipe, n_views: int
) -> LinearFit:
    """Fit a linear layer to its inputs ``(n_views * n, d)``, with the recipe's loss."""
    weights = None if recipe.balance == "none" else class_weights(labels, linear.out_features)
    fit = fit_linear(
        rows,
        labels,
        linear.out_features,
        weights=weights,
        label_smoothing=recipe.label_smoothing,
        n_views=n_views,
    )
    with torch.no_grad():
        linear.weight.copy_(fit.weight)
        if linear.bias is not None:
            linear.bias.copy_(fit.bias)
    return fit


def _train_loss(rows: torch.Tensor, labels: torch.Tensor, fit: LinearFit) -> float:
    """Compute the mean cross entropy on the training rows."""
    logits = rows.to(fit.weight) @ fit.weight.T + fit.bias
    return F.cross_entropy(logits, labels.to(logits.device)).item()
