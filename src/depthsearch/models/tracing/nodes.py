"""Where the operations of a traced model stand: in which module, of which kind."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["is_weighted", "module_around", "module_path"]


def module_around(node: fx.Node) -> str:
    """Path of the module in whose forward an operation stands."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        stack = stack[:-1]
    return str(stack[-1]) if stack else ""


def module_path(node: fx.Node) -> str:
    """Path of the leaf module that a node calls, or of the module in whose forward() it stands."""
    return str(node.target) if node.op == "call_module" else module_around(node)


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module is a convolution or a linear layer."""
    return isinstance(module, _ConvNd | nn.Linear)
