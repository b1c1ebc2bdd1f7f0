"""Freeze a model before a cut, in place, for your own training loop.

Frozen means that gradients are off *and* that the modules are held in eval mode, whoever calls ``train()``.
What is held is noted on the model by the paths of its modules, so that it survives copies, pickling, and the
exchange of modules (``SyncBatchNorm.convert_sync_batchnorm``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

from torch import nn

from depthsearch.errors import CutError
from depthsearch.models.cuts import Cut
from depthsearch.models.split import frozen_parameters, trace_to
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.inputs import ExampleInputs


@dataclass(eq=False, slots=True)
class _Hold:
    """What one call of `freeze_before` holds frozen.

    Attributes:
        whole: Paths of the modules held with all that is inside.
        alone: Paths of modules of which only the own mode is held.
        parameters: Names of frozen parameters.
    """

    whole: list[str]
    alone: list[str]
    parameters: list[str]


@dataclass(eq=False, slots=True)
class _Keeper:
    """A hook before the model's forward: what is held is in eval mode whenever the model runs.

    Attributes:
        holds: The earliest first.
        modes: Of each module that is held, before it was.
        gradients: Whether each parameter that is held took gradients before.
    """

    holds: list[_Hold] = field(default_factory=list)
    modes: dict[str, bool] = field(default_factory=dict)
    gradients: dict[str, bool] = field(default_factory=dict)

    def __call__(self, model: nn.Module, args: object = None) -> None:
        """Put what is held into eval mode, also modules that have taken the place of others."""
        for hold in self.holds:
            for path in hold.alone:
                _switch(_submodule(model, path), training=False)
            for path in hold.whole:
                frozen_part = _submodule(model, path)
                for module in frozen_part.modules() if frozen_part is not None else ():
                    _switch(module, training=False)


@dataclass(eq=False, slots=True)
class _Train:
    """Stands in for ``module.train``; a plain object, so that the model can be copied and pickled.

    Attributes:
        module: Whose ``train`` it is.
        is_whole: Whether the module is held with all that is inside.
        is_held: Whether its own mode is held.
    """

    module: nn.Module
    is_whole: bool
    is_held: bool

    def __call__(self, mode: bool = True) -> nn.Module:
        """Switch the mode of what is not held."""
        if not self.is_whole:
            type(self.module).train(self.module, mode)
            if self.is_held:
                self.module.training = False
            keeper = _keeper(self.module)
            if keeper is not None:
                keeper(self.module)
        return self.module


class Frozen:
    """What `freeze_before` did to a model, and how to undo it. Use it as a context manager or call `undo`."""

    def __init__(self, model: nn.Module, hold: _Hold) -> None:
        self._model = model
        self._hold = hold

    def undo(self) -> None:
        """Restore each parameter's requires_grad and each module's mode.

        What another `freeze_before` still holds stays frozen.
        """
        keeper = _keeper(self._model)
        if keeper is not None and self._hold in keeper.holds:
            _release(self._model, keeper, self._hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.undo()


def freeze_before(
    model: nn.Module,
    cut: Cut,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    head: str | None = None,
) -> Frozen:
    """Freeze everything executed before a cut, in place, for your own training loop.

    Frozen parameters take no gradient; frozen modules stay in eval mode, also after ``model.train()``. What
    is used on both sides of the cut is frozen. The keys of the state dict are unchanged. Freeze a model
    before it is compiled or wrapped.

    Args:
        model: Backbone with its head; parameters behind the cut keep their requires_grad.
        cut: One of ``list_cuts(model)``.
        image_size: Height and width of the images, in pixels; default: the cut's own.
        channels: Of the images; default: the cut's own.
        example_inputs: A batch of images instead of a size; see `trace.trace`.
        head: Module path of the head, where the cut freezes the whole backbone and does not say.

    Returns:
        A handle whose ``undo()`` brings the model back to what it was.

    Raises:
        TraceError: If the model cannot be followed.
        CutError: If ``cut`` is not a cut of this model, lies within code that asks for the mode on both sides
            of it, or behind something that is no fixed function of an image whatever the mode.
    """
    graph, position = trace_to(
        model, cut, head, image_size=image_size, channels=channels, example_inputs=example_inputs
    )
    whole = _held_whole(graph, model, position)
    alone = _held_alone(graph, model, position, cut, whole)
    hold = _Hold(whole=whole, alone=alone, parameters=frozen_parameters(graph, model, position))
    keeper = _keeper(model)
    if keeper is None:
        keeper = _Keeper()
        model.register_forward_pre_hook(keeper, prepend=True)
    keeper.holds.append(hold)
    for path in (*whole, *alone):
        keeper.modes.setdefault(path, model.get_submodule(path).training)
    for name in hold.parameters:
        keeper.gradients.setdefault(name, model.get_parameter(name).requires_grad)
    # Once all are noted: a parameter may have several names.
    for name in hold.parameters:
        model.get_parameter(name).requires_grad_(False)
    keeper(model)
    _stand_in(model, keeper)
    return Frozen(model, hold)


def _held_whole(graph: LayerGraph, model: nn.Module, position: int) -> list[str]:
    """List the modules that run before a position, with those inside, and those that end before it."""
    operations = [node for node in graph.nodes if node.op not in ("placeholder", "output", "get_attr")]
    places = {node: place for place, node in enumerate(graph.nodes)}
    leaves = {str(n.target) for n in operations if n.op == "call_module" and places[n] < position}
    before, behind = set[str](), set[str]()
    for node in operations:
        around = {path for path, _ in (node.meta.get("nn_module_stack") or {}).values()}
        (before if places[node] < position else behind).update(around)
    # What runs on both sides is frozen, and so is what is inside.
    frozen = leaves | (before - behind)
    return [
        path for path, _ in model.named_modules() if path and any(path in frozen for path in _upwards(path))
    ]


def _upwards(path: str) -> Iterator[str]:
    """Yield a module's path and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _held_alone(graph: LayerGraph, model: nn.Module, position: int, cut: Cut, whole: list[str]) -> list[str]:
    """List the modules of which only the own mode is to be held: their code asks for it before the cut."""
    reading = dict.fromkeys(path for path, at in graph.mode_reads if at < position and path not in whole)
    for path in reading:
        if any(at >= position for other, at in graph.mode_reads if other == path):
            where = f"'{path}'" if path else f"{type(model).__name__} itself"
            raise CutError(
                f"{where} asks for its mode (self.training) before and behind {cut}: it cannot be frozen in "
                "part. Cut at a module's border, or move one of the two into a module of its own."
            )
    return list(reading)


def _keeper(model: nn.Module) -> _Keeper | None:
    return next((hook for hook in model._forward_pre_hooks.values() if isinstance(hook, _Keeper)), None)


def _stand_in(model: nn.Module, keeper: _Keeper) -> None:
    """Put `_Train` in the place of ``train`` of the model and of all that is held, and of nothing else."""
    whole = {path for hold in keeper.holds for path in hold.whole}
    alone = {path for hold in keeper.holds for path in hold.alone}
    for path, module in model.named_modules():
        if isinstance(vars(module).get("train"), _Train):
            del vars(module)["train"]
        if path in whole or path in alone or (not path and keeper.holds):
            vars(module)["train"] = _Train(module, path in whole, path in whole or path in alone)


def _release(model: nn.Module, keeper: _Keeper, hold: _Hold) -> None:
    """Undo what one hold alone holds."""
    keeper.holds.remove(hold)
    frozen = {name for other in keeper.holds for name in other.parameters}
    held = {path for other in keeper.holds for path in (*other.whole, *other.alone)}
    for name in hold.parameters:
        if name not in frozen:
            requires_grad = keeper.gradients.pop(name)
            for parameter in _parameters(model, name):
                parameter.requires_grad_(requires_grad)
    _stand_in(model, keeper)
    for path in (*hold.alone, *hold.whole):
        if path not in held:
            _switch(_submodule(model, path), training=keeper.modes.pop(path))
    if not keeper.holds:
        hooks = model._forward_pre_hooks
        for number in [number for number, hook in hooks.items() if hook is keeper]:
            del hooks[number]


def _parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """Find a parameter by its name, or what pruning or a parametrization has made of it since."""
    path, _, own = name.rpartition(".")
    owner = _submodule(model, path)
    if owner is None:
        return []
    parametrized = f"parametrizations.{own}.original"
    later = (own, f"{own}_orig", f"{own}_g", f"{own}_v", parametrized, f"{parametrized}0", f"{parametrized}1")
    return [parameter for own_name, parameter in owner.named_parameters() if own_name in later]


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    """Find a module by its path; None: it has been taken away."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _switch(module: nn.Module | None, *, training: bool) -> None:
    if module is not None and module.training != training:
        module.training = training
