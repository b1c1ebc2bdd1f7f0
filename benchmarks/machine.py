"""What a figure was measured on."""

from __future__ import annotations

import platform
from dataclasses import replace

import numpy as np
import optuna
import PIL
import timm
import torch
import torchvision

from depthsearch.devices import Device, processor_name
from depthsearch.machine import usable_cores

__all__ = ["machine_facts", "print_facts"]


def machine_facts(device: Device) -> dict[str, str]:
    """Name what a timing depends on."""
    facts = {
        "cpu": processor_name(replace(device, kind="cpu")),
        "cores": f"{usable_cores()} usable, {torch.get_num_threads()} torch threads",
        "device": torch.cuda.get_device_name() if device.kind == "cuda" else device.kind,
        "precision": device.precision,
        "python": platform.python_version(),
    }
    for module in (torch, torchvision, timm, optuna, np, PIL):
        facts[module.__name__] = str(module.__version__)
    return facts


def print_facts(facts: dict[str, str]) -> None:
    """Print the facts in a line."""
    print("Machine   " + "; ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
