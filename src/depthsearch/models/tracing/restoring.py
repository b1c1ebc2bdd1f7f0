"""Restore models and random number generators to what they were.

Models are run, traced and compared here, and none of it may be seen afterwards: whatever the code of a model
does to its modes, attributes, buffers and parameters, also after an error.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode; restore the mode of every module afterwards, also after an error."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore the attributes of a model's modules, the values of its buffers and each requires_grad.

    Code that is followed may keep what stands for a tensor (``self.features = x``), and torch.fx adds
    constants to the model. Lists, dicts and sets among the attributes get their members back; parameters are
    not copied.
    """
    before = [
        (module, dict(vars(module)), [(v, v.copy()) for v in vars(module).values() if _is_container(v)])
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule)
    ]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    parameters = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for module, attributes, containers in before:
            vars(module).clear()
            vars(module).update(attributes)
            for container, members in containers:
                _refill(container, members)
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
        for parameter, requires_grad in parameters:
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)


def is_lazy(tensor: torch.Tensor) -> bool:
    """Return whether a tensor waits for the first image to get its size."""
    return isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | set)


def _refill(container: Any, members: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(members)
    else:
        container.update(members)


def random_states() -> list[bytes]:
    """Return the states of the random number generators that a model's code may draw from."""
    others = random.getstate(), np.random.get_state()
    return [*torch_states(), repr(others).encode()]


def torch_states() -> list[bytes]:
    """Return the states of PyTorch's random number generators."""
    states = [torch.get_rng_state().numpy().tobytes()]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append(torch.cuda.get_rng_state().numpy().tobytes())
    return states


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Restore the states of the random number generators."""
    states = random.getstate(), np.random.get_state()
    # All of them are named, so that PyTorch does not warn of many.
    used = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=list(used)):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
