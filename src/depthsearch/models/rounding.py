"""How many images a CPU has to compute at once so that each result is the same bits as in any other batch.

Two things depend on the size of a batch. Products of few rows are summed in another order. And PyTorch
divides an elementwise operation among threads and computes each part in vectors: what is left over at a
part's end is computed one by one, by another exponential function.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import fx, nn

from depthsearch.devices import Device

LEAST_BATCH = 16
# More rows than these are not tried: parts of equal size need not exist, as among five threads.
MOST_MORE = 32
# Elements: of the longest step of vectors (AVX-512, float32), and of a part that is not divided any more.
# Source: ATen/native/cpu/Loops.h and ATen/TensorIterator.h of PyTorch.
STEP, GRAIN = 32, 32768
# Elements of one row of any gate that there is, nearly: all but those of an odd number of channels.
MOST_GATES = (2,)
# Operations whose vectors use an exponential function of their own: modules, functions and methods.
GATES = ("sigmoid", "silu", "gelu", "elu", "selu", "celu", "mish", "softplus", "logsigmoid", "glu")


def gates_of(module: fx.GraphModule, nodes: Collection[fx.Node]) -> list[fx.Node]:
    """List the nodes, of a module's graph, whose operation is rounded otherwise at the end of a part."""
    modules: Mapping[str, nn.Module] = dict(module.named_modules())
    return [node for node in nodes if _operation(node, modules) in GATES]


def _operation(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    if node.op == "call_module":
        name = type(modules[str(node.target)]).__name__
    else:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.lower().strip("_")


def rows_at_once(n_rows: int, elements: Collection[int], *, n_threads: int | None = None) -> int:
    """Return the least number of rows, at least ``n_rows``, that are rounded as in any other batch.

    Where there is none nearby, as for some numbers of threads, it is the next whole number of steps.

    Args:
        n_rows: To compute.
        elements: Of one row, of each operation of `gates_of`.
        n_threads: Of PyTorch; default: as many as it uses.
    """
    n_threads = n_threads or torch.get_num_threads()
    least = max(n_rows, LEAST_BATCH)
    for rows in range(least, least + MOST_MORE + 1):
        if all(_is_even(rows * each, n_threads) for each in elements):
            return rows
    return math.ceil(least / STEP) * STEP


def filled_up(rows: torch.Tensor, device: Device, elements: Collection[int] = MOST_GATES) -> torch.Tensor:
    """Repeat the last row of a batch ``(b, ...)`` until each is rounded as in any other batch on this device.

    The rows may lie elsewhere. For the elements see `rows_at_once`.
    """
    if device.kind != "cpu":
        return rows
    n_more = rows_at_once(len(rows), elements) - len(rows)
    return torch.cat([rows, rows[-1:].expand(n_more, *rows.shape[1:])]) if n_more else rows


def _is_even(n_elements: int, n_threads: int) -> bool:
    """Return whether every part of a division among threads is a whole number of steps."""
    n_parts = min(n_threads, math.ceil(n_elements / GRAIN))
    part = math.ceil(n_elements / n_parts)
    return part % STEP == 0 and n_elements % STEP == 0
