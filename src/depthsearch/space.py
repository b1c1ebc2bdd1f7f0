"""The search space: where to cut, how fast to learn, how wide a head.

Every dimension is a number with an order. A categorical cut would hide from the sampler that neighbouring
depths behave alike, which at the same number of trials costs about half of what the sampler can find.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from torch import nn

from depthsearch.cuts import DEFAULT_KINDS, Cut, list_cuts
from depthsearch.errors import SettingsError
from depthsearch.training import OPTIMIZERS

__all__ = ["FIXABLE", "Point", "SearchSpace"]

# What can be fixed for all trials, where it is not searched.
FIXABLE = ("head_depth", "dropout", "weight_decay", "optimizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting to train.

    Attributes:
        cut: First trainable layer.
        learning_rate: Peak learning rate.
        head_width: Width of the head's hidden layers; 0: a linear head.
        head_depth: Number of hidden layers, where there are any.
        dropout: Dropout probability in the head.
        weight_decay: Decoupled weight decay.
        optimizer: ``adamw`` or ``sgd``.
    """

    cut: Cut
    learning_rate: float
    head_width: int = 0
    head_depth: int = 1
    dropout: float = 0.0
    weight_decay: float = 0.01
    optimizer: str = "adamw"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """The ranges to search; what is not searched has the value fixed here, or keeps `Point`'s default.

    Attributes:
        cuts: Candidates by depth.
        learning_rate: Lowest and highest, searched on a log scale.
        head_width: Widest head and the step between widths; every multiple from 0 is tried.
        head_depth: Fewest and most hidden layers.
        dropout: Lowest and highest probability.
        weight_decay: Lowest and highest, searched on a log scale.
        optimizer: Names to choose from.
        fixed: One value for all trials of ``head_depth``, ``dropout``, ``weight_decay``, ``optimizer``.
    """

    cuts: tuple[Cut, ...]
    learning_rate: tuple[float, float] = (1e-5, 1e-2)
    head_width: tuple[int, int] | None = (1024, 256)
    head_depth: tuple[int, int] | None = None
    dropout: tuple[float, float] | None = None
    weight_decay: tuple[float, float] | None = None
    optimizer: tuple[str, ...] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse ranges that cannot be searched."""
        if not self.cuts:
            raise SettingsError("A search space needs cuts: give list_cuts(model).")
        for name in ("learning_rate", "weight_decay"):
            ends = getattr(self, name)
            if ends is not None and not 0 < ends[0] <= ends[1]:
                raise SettingsError(f"{name} {ends}: give the lowest, above 0, and the highest.")
        if self.dropout is not None and not 0 <= self.dropout[0] <= self.dropout[1] < 1:
            raise SettingsError(f"dropout {self.dropout}: give the lowest and the highest in [0, 1).")
        if self.head_depth is not None and not 1 <= self.head_depth[0] <= self.head_depth[1]:
            raise SettingsError(f"head_depth {self.head_depth}: give the fewest, at least 1, and the most.")
        if self.head_width is not None:
            widest, step = self.head_width
            if not 0 < step <= widest or widest % step:
                raise SettingsError(
                    f"head_width {self.head_width}: give the widest and a step that divides it."
                )
        unknown = set(self.optimizer or ()) - set(OPTIMIZERS)
        if unknown or self.optimizer == ():
            raise SettingsError(f"optimizer {self.optimizer}: choose from {', '.join(OPTIMIZERS)}.")
        self._check_fixed()

    def _check_fixed(self) -> None:
        """Refuse values that cannot be trained with, and those of what is searched."""
        right = {
            "head_depth": lambda value: value >= 1,
            "dropout": lambda value: 0 <= value < 1,
            "weight_decay": lambda value: 0 <= value < float("inf"),
            "optimizer": lambda value: value in OPTIMIZERS,
        }
        for name, value in self.fixed.items():
            if name not in right:
                raise SettingsError(f"{name} cannot be fixed: give some of {', '.join(FIXABLE)}.")
            if getattr(self, name) is not None:
                raise SettingsError(f"{name} is fixed at {value} and searched: give one of the two.")
            if not right[name](value):
                raise SettingsError(f"{name} {value!r} cannot be trained with; see Point.")

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        kinds: Sequence[str] = DEFAULT_KINDS,
        *,
        image_size: int | None = None,
        layers: Sequence[str | int] | None = None,
        **ranges: Any,
    ) -> SearchSpace:
        """Search all candidate cuts of a model, or those picked.

        Args:
            model: A CNN that torch.fx can trace. Left as it was.
            kinds: Candidate kinds, see `list_cuts`.
            image_size: Height and width for the cuts' costs, in pixels.
            layers: Which candidates, the two ends besides: numbers, names or patterns, see `list_cuts`.
            **ranges: The other attributes of a space.

        Raises:
            TraceError: If the model cannot be followed.
            CutError: If it has no candidate, or not a layer that is picked.
            SettingsError: If a range cannot be searched.
        """
        return cls(cuts=tuple(list_cuts(model, kinds, image_size=image_size, layers=layers)), **ranges)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Give the searched dimensions as Optuna's distributions, by parameter name."""
        found: dict[str, BaseDistribution] = {
            "cut": IntDistribution(0, len(self.cuts) - 1),
            "learning_rate": FloatDistribution(*self.learning_rate, log=True),
        }
        if self.head_width is not None:
            found["head_width"] = IntDistribution(0, self.head_width[0], step=self.head_width[1])
        if self.head_depth is not None:
            found["head_depth"] = IntDistribution(*self.head_depth)
        if self.dropout is not None:
            found["dropout"] = FloatDistribution(*self.dropout)
        if self.weight_decay is not None:
            found["weight_decay"] = FloatDistribution(*self.weight_decay, log=True)
        if self.optimizer is not None:
            found["optimizer"] = CategoricalDistribution(self.optimizer)
        return found

    def suggest(self, trial: optuna.Trial) -> Point:
        """Let a trial choose a point, and note the cut's number and names in its user attributes."""
        for name, distribution in self.distributions().items():
            _suggest(trial, name, distribution)
        point = self.point(trial.params)
        for name, value in cut_attributes(point.cut).items():
            trial.set_user_attr(name, value)
        return point

    def point(self, params: Mapping[str, Any]) -> Point:
        """Give the point that a trial's parameters stand for."""
        named = {f.name for f in fields(Point)} - {"cut"}
        return Point(
            cut=self.cuts[params["cut"]], **{**self.fixed, **{k: v for k, v in params.items() if k in named}}
        )


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)


def cut_attributes(cut: Cut) -> dict[str, Any]:
    """Name a cut in a trial's user attributes."""
    return {
        "cut_layer": cut.layer,
        "cut_name": cut.name,
        "cut_kind": cut.kind,
        "cut_keras_name": cut.keras_name,
        "frozen_mac_share": round(cut.frozen_mac_share, 4),
    }
