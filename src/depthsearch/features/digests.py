"""Digests of what determines a value of the frozen backbone: its operations and weights, nothing else.

Each node of the graph has a digest of its operation, its constants, its weights and its inputs' digests.
Layers behind a value, names of modules and the head say nothing about it and are left out.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import fx, nn

from depthsearch.hashing import digest_of
from depthsearch.models.tracing.graph import LayerGraph

PLAIN = (bool, int, float, str, torch.dtype, type(None))
# Counts the batches seen in training; in eval mode nothing reads it.
COUNTER = "num_batches_tracked"


def value_digests(graph: LayerGraph, module: nn.Module | None = None) -> dict[fx.Node, str]:
    """Compute for each node the digest of all that determines its value in eval mode, but for the image.

    The weights are those of the module, if there is one, else of the traced model itself.
    """
    module = module or graph.traced
    digests: dict[fx.Node, str] = {}
    before: list[str] = []
    for node in graph.nodes:
        args = fx.node.map_arg((node.args, node.kwargs), digests.__getitem__)
        parts = [node.op, _operation(module, node), repr(args)]
        if not graph.changed.isdisjoint(node.all_input_nodes):
            # What it reads was changed in place by something in between.
            parts += before
        digests[node] = _digest(*parts)
        before.append(digests[node])
    return digests


def _operation(owner: nn.Module, node: fx.Node) -> str:
    if node.op == "call_module":
        return _module(owner.get_submodule(str(node.target)))
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        value = getattr(owner.get_submodule(path), name)
        return _tensor(value) if isinstance(value, torch.Tensor) else name
    if node.op == "call_function":
        return _function(node.target)
    return str(node.target) if node.op == "call_method" else ""


def _module(module: nn.Module) -> str:
    parts = []
    for path, part in module.named_modules():
        settings = {name: _setting(value) for name, value in vars(part).items() if not name.startswith("_")}
        settings.pop("training")
        parts += [path, _function(type(part)), repr(sorted(settings.items()))]
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not name.endswith(COUNTER):
            parts += [name, _tensor(tensor)]
    return _digest(*parts)


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_setting, value))})"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_setting(each)}' for name, each in value.items())}}}"
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, functools.partial):
        return f"{_setting(value.func)}{_setting(value.args)}{_setting(value.keywords)}"
    if isinstance(value, types.FunctionType):
        code, closed = value.__code__, [cell.cell_contents for cell in value.__closure__ or ()]
        return (
            f"{_function(value)} {code.co_code.hex()} {code.co_names} {_setting((*code.co_consts, *closed))}"
        )
    if isinstance(value, PLAIN):
        return repr(value)
    return _function(value) if hasattr(value, "__qualname__") else _function(type(value))


def _function(function: Any) -> str:
    return f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"


def _tensor(tensor: torch.Tensor) -> str:
    content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    digest = digest_of(content)
    return f"{tensor.dtype} {tuple(tensor.shape)} {digest}"


def _digest(*parts: str) -> str:
    return digest_of("\n".join(parts))
