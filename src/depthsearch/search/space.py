"""The search space: where to cut, how fast to learn, how wide a head; and in which backbone, if of several.

Every dimension but the backbone is a number with an order. A categorical cut would hide from the sampler that
neighbouring depths behave alike, which at the same number of trials costs about half of what the sampler can
find. With several backbones the cut is conditional on the backbone: each has a parameter of its own for it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from depthsearch.errors import SettingsError
from depthsearch.models.cuts import DEFAULT_KINDS, Cut
from depthsearch.options.attributes import TrialKey
from depthsearch.options.words import LEARNING_RATES, OPTIMIZERS, OPTIONAL_RANGES

if TYPE_CHECKING:
    from torch import nn

    from depthsearch.models.tracing.inputs import ExampleInputs

# The parameter that chooses among several backbones.
BACKBONE = "backbone"
# What can be fixed for all trials, where it is not searched.
FIXABLE = tuple(OPTIONAL_RANGES)


def cut_parameter(backbone: str) -> str:
    """Name the parameter of a backbone's cut: ``cut`` where there is only one backbone."""
    return f"cut_{backbone}" if backbone else "cut"


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

    @property
    def is_solved(self) -> bool:
        """Whether only a linear head learns: it is solved, without learning rate or epochs."""
        return self.cut.kind == "head" and self.cut.index > 0 and not self.head_width


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """The ranges to search; what is not searched has the value fixed here, or keeps `Point`'s default.

    Attributes:
        cuts: Candidates by depth; those of several backbones one backbone after the other, see `across`.
        learning_rate: Lowest and highest, searched on a log scale.
        head_width: Widest head and the step between widths: every multiple from 0 is tried. Or the one width
            to use; 0: a linear head.
        head_depth: Fewest and most hidden layers.
        dropout: Lowest and highest probability.
        weight_decay: Lowest and highest, searched on a log scale.
        optimizer: Names to choose from.
        fixed: One value for all trials of ``head_depth``, ``dropout``, ``weight_decay``, ``optimizer``.
    """

    cuts: tuple[Cut, ...]
    learning_rate: tuple[float, float] = LEARNING_RATES
    head_width: tuple[int, int] | int = (1024, 256)
    head_depth: tuple[int, int] | None = None
    dropout: tuple[float, float] | None = None
    weight_decay: tuple[float, float] | None = None
    optimizer: tuple[str, ...] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse ranges that cannot be searched."""
        if not self.cuts:
            raise SettingsError("A search space needs cuts: give list_cuts(model).")
        runs = [name for name, _ in groupby(cut.backbone for cut in self.cuts)]
        if len(runs) > len(set(runs)) or (len(runs) > 1 and "" in runs):
            raise SettingsError("The cuts of several backbones are mixed: give SearchSpace.across(models).")
        for name in ("learning_rate", "weight_decay"):
            ends = getattr(self, name)
            if ends is not None and not 0 < ends[0] <= ends[1]:
                raise SettingsError(f"{name} {ends}: give the lowest, above 0, and the highest.")
        if self.dropout is not None and not 0 <= self.dropout[0] <= self.dropout[1] < 1:
            raise SettingsError(f"dropout {self.dropout}: give the lowest and the highest in [0, 1).")
        if self.head_depth is not None and not 1 <= self.head_depth[0] <= self.head_depth[1]:
            raise SettingsError(f"head_depth {self.head_depth}: give the fewest, at least 1, and the most.")
        unknown = set(self.optimizer or ()) - set(OPTIMIZERS)
        if unknown or self.optimizer == ():
            raise SettingsError(f"optimizer {self.optimizer}: choose from {', '.join(OPTIMIZERS)}.")
        self._check_widths()
        self._check_fixed()

    def _check_widths(self) -> None:
        """Refuse widths that no head can have."""
        if isinstance(self.head_width, int):
            if self.head_width < 0:
                raise SettingsError(f"head_width {self.head_width}: give a width, or 0 for a linear head.")
        else:
            widest, step = self.head_width
            if not 0 < step <= widest or widest % step:
                raise SettingsError(
                    f"head_width {self.head_width}: give the widest and a step that divides it."
                )

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
        channels: int | None = None,
        example_inputs: ExampleInputs | None = None,
        head: str | None = None,
        layers: Sequence[str | int] | None = None,
        **ranges: Any,
    ) -> SearchSpace:
        """Search all candidate cuts of a model, or those picked.

        Args:
            model: An image model that torch.fx can trace. Left as it was.
            kinds: Candidate kinds, see `list_cuts`.
            image_size: Height and width for the cuts' costs, in pixels; default: the model's own.
            channels: Of the images; default: the model's own.
            example_inputs: A batch of images instead of a size; see `trace.trace`.
            head: Module path of the head, where it is not found by itself; see `list_cuts`.
            layers: Which candidates, the two ends besides: numbers, names or patterns, see `list_cuts`.
            **ranges: The other attributes of a space.

        Raises:
            TraceError: If the model cannot be followed.
            CutError: If it has no candidate, or not a layer that is picked.
            SettingsError: If a range cannot be searched.
        """
        from depthsearch.models.candidates import list_cuts

        cuts = list_cuts(
            model,
            kinds,
            image_size=image_size,
            channels=channels,
            example_inputs=example_inputs,
            head=head,
            layers=layers,
        )
        return cls(cuts=tuple(cuts), **ranges)

    @classmethod
    def across(
        cls,
        models: Mapping[str, nn.Module],
        kinds: Sequence[str] = DEFAULT_KINDS,
        *,
        image_size: int | Mapping[str, int] | None = None,
        layers: Sequence[str | int] | None = None,
        from_scratch: Collection[str] = (),
        **ranges: Any,
    ) -> SearchSpace:
        """Search all candidate cuts of several models.

        Args:
            models: By the names that the backbones are to have. One alone makes the space of `for_model`.
            kinds: Candidate kinds, see `list_cuts`.
            image_size: Height and width for the cuts' costs, in pixels; of all, or of each by its name.
            layers: Candidates of every pretrained model, see `for_model`; ``"vgg16:block5_conv1"`` is of
                the model under that name alone. A model of which none is picked keeps all its candidates.
            from_scratch: Names of those that nobody has pretrained. To freeze random layers makes no sense,
                so these have one cut, at which everything is trained.
            **ranges: The other attributes of a space, the same for every backbone.

        Raises:
            TraceError: If a model cannot be followed.
            CutError: If one has no candidate, or not a layer that is picked.
            SettingsError: If there is no model, one has no name, a layer is of none of them, or a range
                cannot be searched.
        """
        from depthsearch.models.candidates import list_cuts

        if not models or (len(models) > 1 and "" in models):
            raise SettingsError(f"Backbones {list(models)}: give at least one, each under a name.")
        pretrained = [name for name in models if name not in from_scratch]
        picked = _by_backbone(layers, pretrained)
        sizes = image_size if isinstance(image_size, Mapping) else dict.fromkeys(models, image_size)
        cuts = [
            replace(cut, backbone=name if len(models) > 1 else "")
            for name, model in models.items()
            for cut in (
                list_cuts(model, image_size=sizes[name])[:1]
                if name in from_scratch
                else list_cuts(model, kinds, image_size=sizes[name], layers=picked[name])
            )
        ]
        return cls(cuts=tuple(cuts), **ranges)

    @property
    def backbones(self) -> tuple[str, ...]:
        """Names of the backbones to choose from; one empty name where there is only one."""
        return tuple(self._cuts)

    @cached_property
    def _cuts(self) -> Mapping[str, tuple[Cut, ...]]:
        # Asked for very often: a planner weighs a thousand settings at once.
        return {name: tuple(run) for name, run in groupby(self.cuts, key=lambda cut: cut.backbone)}

    def cuts_of(self, backbone: str) -> tuple[Cut, ...]:
        """List a backbone's candidates by depth."""
        return self._cuts.get(backbone, ())

    def distributions(self, backbone: str | None = None) -> dict[str, BaseDistribution]:
        """Return the searched dimensions as Optuna's distributions, by parameter name.

        Args:
            backbone: Only what a trial of this backbone has; default: every backbone's cut.
        """
        return dict(self._distributions[backbone])

    @cached_property
    def _distributions(self) -> Mapping[str | None, Mapping[str, BaseDistribution]]:
        """The searched dimensions of all backbones together (None), and of each."""
        several = {BACKBONE: CategoricalDistribution(self.backbones)} if len(self.backbones) > 1 else {}
        cuts = {
            name: {cut_parameter(name): IntDistribution(0, len(run) - 1)} for name, run in self._cuts.items()
        }
        every = {key: value for cut in cuts.values() for key, value in cut.items()}
        return {of: {**several, **own, **self._ranges} for of, own in ((None, every), *cuts.items())}

    @cached_property
    def _ranges(self) -> Mapping[str, BaseDistribution]:
        """The searched dimensions that all backbones share."""
        ranges: dict[str, BaseDistribution] = {
            "learning_rate": FloatDistribution(*self.learning_rate, log=True)
        }
        if not isinstance(self.head_width, int):
            ranges["head_width"] = IntDistribution(0, self.head_width[0], step=self.head_width[1])
        elif self.head_width:
            ranges["head_width"] = IntDistribution(self.head_width, self.head_width)
        if self.head_depth is not None:
            ranges["head_depth"] = IntDistribution(*self.head_depth)
        if self.dropout is not None:
            ranges["dropout"] = FloatDistribution(*self.dropout)
        if self.weight_decay is not None:
            ranges["weight_decay"] = FloatDistribution(*self.weight_decay, log=True)
        if self.optimizer is not None:
            ranges["optimizer"] = CategoricalDistribution(self.optimizer)
        return ranges

    def suggest_parameters(self, trial: optuna.Trial) -> dict[str, Any]:
        """Let a trial choose a point, as a plain dictionary: for loops that are not depthsearch's.

        Returns:
            Numbers and words by the names of the trial's parameters: ``cut``, ``learning_rate``,
            ``head_width`` and what else is searched. `point` makes a `Point` of them. The same trial gives
            the same again.
        """
        self.suggest(trial)
        return dict(trial.params)

    def suggest(self, trial: optuna.Trial) -> Point:
        """Let a trial choose a point, and note the cut's number and names in its user attributes."""
        point = self.choose(trial)
        for name, value in cut_attributes(point.cut).items():
            trial.set_user_attr(name, value)
        return point

    def choose(self, trial: optuna.Trial) -> Point:
        """Let a trial choose a point; its user attributes stay as they are, see `cut_attributes`."""
        several = len(self.backbones) > 1
        backbone = trial.suggest_categorical(BACKBONE, self.backbones) if several else self.backbones[0]
        for name, distribution in self.distributions(backbone).items():
            _suggest(trial, name, distribution)
        return self.point(trial.params)

    def backbone_of(self, params: Mapping[str, Any]) -> str:
        """Return the name of the backbone that a trial's parameters choose; the one there is by default."""
        name: str = params.get(BACKBONE, self.backbones[0])
        return name

    def has_cut(self, params: Mapping[str, Any]) -> bool:
        """Return whether a trial's parameters, perhaps not all of them, say where to cut."""
        return cut_parameter(self.backbone_of(params)) in params

    def cut_of(self, params: Mapping[str, Any]) -> Cut:
        """Return the cut that a trial's parameters choose."""
        backbone = self.backbone_of(params)
        index: int = params[cut_parameter(backbone)]
        return self.cuts_of(backbone)[index]

    def is_whole(self, params: Mapping[str, Any]) -> bool:
        """Return whether a trial's parameters are all there: one that was killed while it chose has some."""
        return self._distributions[self.backbone_of(params)].keys() <= params.keys()

    def is_solved(self, params: Mapping[str, Any]) -> bool:
        """Return whether only a linear head learns: it is solved, the learning rate says nothing."""
        cut = self.cut_of(params)
        return cut.kind == "head" and cut.index > 0 and not params.get("head_width")

    def place(self, params: Mapping[str, Any]) -> tuple[float, ...]:
        """Return where a setting lies in each range, in [0, 1]: cut, learning rate, the rest.

        What says nothing at a setting lies in the middle: of a head that is solved all but its width, of a
        linear head the number of hidden layers. The backbone has no part in it, nor has what is not searched.
        """
        backbone, solved = self.backbone_of(params), self.is_solved(params)
        where, ranges = cut_parameter(backbone), self._distributions[backbone]
        others = (params.keys() & ranges.keys()) - {where, "learning_rate", BACKBONE}
        names = [where, "learning_rate", *sorted(others)]

        def says_nothing(name: str) -> bool:
            if name == "head_depth":
                return not params.get("head_width")
            return solved and name not in (where, "head_width")

        return tuple(0.5 if says_nothing(name) else _share(ranges[name], params[name]) for name in names)

    def point(self, params: Mapping[str, Any]) -> Point:
        """Return the point that a trial's parameters stand for."""
        named = {f.name for f in fields(Point)} - {"cut"}
        searched = {name: value for name, value in params.items() if name in named}
        return Point(cut=self.cut_of(params), **{**self.fixed, **searched})


def _share(distribution: BaseDistribution, value: Any) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices.index(value) / max(1, len(distribution.choices) - 1)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return float((value - low) / ((high - low) or 1.0))


def _by_backbone(
    layers: Sequence[str | int] | None, backbones: Sequence[str]
) -> dict[str, list[str | int] | None]:
    """List the layers that are picked of each backbone; None: all its candidates."""
    if layers and not backbones:
        raise SettingsError(
            "layers are picked, and no backbone has pretrained ones to freeze: leave them out."
        )
    picked_of: dict[str, list[str | int]] = {name: [] for name in backbones}
    for layer in layers or ():
        # A name may hold a colon itself: torchvision:resnet50.
        whose = max((name for name in picked_of if str(layer).startswith(f"{name}:")), key=len, default=None)
        if ":" not in str(layer):
            for picked in picked_of.values():
                picked.append(layer)
        elif whose is not None:
            picked_of[whose].append(str(layer).removeprefix(f"{whose}:"))
        else:
            raise SettingsError(f"layers: {layer!r} is of none of {', '.join(backbones)}. Give one of these.")
    return {name: picked or None for name, picked in picked_of.items()}


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    if isinstance(distribution, IntDistribution):
        trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)


def cut_attributes(cut: Cut) -> dict[str, Any]:
    """Return what a trial's user attributes say of its cut."""
    return {
        TrialKey.CUT_LAYER: cut.layer,
        TrialKey.CUT_NAME: cut.name,
        TrialKey.CUT_KIND: cut.kind,
        TrialKey.CUT_KERAS_NAME: cut.keras_name,
        TrialKey.FROZEN_MAC_SHARE: round(cut.frozen_mac_share, 4),
    }
