"""Operations of a traced model: where they stand, of which kind they are, what they make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.modules.conv import _ConvNd


class Watching(fx.Interpreter):
    """Runs a traced model and shows every result as it is computed."""

    def __init__(self, traced: fx.GraphModule, look: Callable[[fx.Node, Any], Any]) -> None:
        """Prepare a run.

        Args:
            traced: What to run.
            look: Called with each node and its result; what it returns, if not None, goes on in its place.
        """
        super().__init__(traced)
        self._look = look

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation and show its result."""
        result = super().run_node(n)
        other = self._look(n, result)
        return result if other is None else other


def module_around(node: fx.Node) -> str:
    """Return the path of the module in whose forward an operation stands."""
    stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    if node.op == "call_module":
        stack = stack[:-1]
    return str(stack[-1]) if stack else ""


def module_path(node: fx.Node) -> str:
    """Return the path of the leaf module that a node calls, or of the module in whose forward() it stands."""
    return str(node.target) if node.op == "call_module" else module_around(node)


def is_weighted(module: nn.Module) -> bool:
    """Return whether a module is a convolution or a linear layer."""
    return isinstance(module, _ConvNd | nn.Linear)


def is_within(path: str, module: str) -> bool:
    """Return whether a path is that of a module, or of something inside it; ``""`` is the model."""
    return not module or path == module or path.startswith(module + ".")
