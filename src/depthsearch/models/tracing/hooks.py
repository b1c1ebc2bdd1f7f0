"""Hooks of modules: those of a whole model run as operations, others keep their module whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


class ModelHooks(nn.Module):
    """Runs the forward hooks of a whole model, which torch.fx leaves out."""

    def __init__(self, model: nn.Module, *, after: bool) -> None:
        super().__init__()
        # In a tuple, so that it is not registered as a submodule.
        self.model = (model,)
        self.after = after
        named = model._forward_hooks if after else model._forward_pre_hooks
        keyed = model._forward_hooks_with_kwargs if after else model._forward_pre_hooks_with_kwargs
        self.hooks = tuple((hook, number in keyed) for number, hook in named.items() if not is_own(hook))

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelHooks:
        """Keep the model whose hooks they are."""
        return self

    def forward(self, value: Any) -> Any:
        """Call hook after hook, as torch does; those behind forward are not given its input."""
        for hook, with_kwargs in self.hooks:
            named: tuple[dict[str, Any], ...] = ({},) if with_kwargs else ()
            if self.after:
                result = hook(self.model[0], (), *named, value)
                value = value if result is None else result
            else:
                result = hook(self.model[0], (value,), *named)
                args = result[0] if with_kwargs and result is not None else result
                value = value if args is None else args[0] if isinstance(args, tuple) else args
        return value


def has_hooks(module: nn.Module) -> bool:
    """Return whether a module has hooks of somebody else's."""
    return any(not is_own(hook) for name in HOOKS for hook in getattr(module, name, {}).values())


def is_own(hook: object) -> bool:
    """Return whether a hook is one of ours, which changes nothing that a model computes."""
    return type(hook).__module__.split(".")[0] == __name__.split(".")[0]


@contextlib.contextmanager
def without_global_hooks() -> Iterator[None]:
    """Switch off the hooks on all modules, which are not to see what stands for a tensor."""
    registries = [getattr(nn.modules.module, f"_global{name}") for name in HOOKS]
    before = [dict(registry) for registry in registries]
    for registry in registries:
        registry.clear()
    try:
        yield
    finally:
        for registry, hooks in zip(registries, before, strict=True):
            registry.update(hooks)
