"""Where to compute, and in which precision and memory layout."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from depthsearch.errors import SettingsError
from depthsearch.machine import processor_model, usable_cores
from depthsearch.options.words import DEVICES, PRECISIONS

# How errors say in small letters that memory did not suffice, and that a GPU failed. CUDA's libraries cannot
# begin their work where no memory is left for it, and say that they did not.
NO_MEMORY = (
    "out of memory",
    "can't allocate",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
    "cudnn_status_alloc_failed",
    # cuDNN 9, of both kinds of memory.
    "device_allocation_failed",
    "host_allocation_failed",
    "cudnn_status_not_initialized",
)
FAULTS = ("cuda error", "cudnn error", "cublas_status")

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device with the precision and layout that it computes best in.

    Attributes:
        kind: ``cpu``, ``cuda`` or ``mps``.
        bf16: Whether to compute under bfloat16 autocast.
        channels_last: Whether to keep images and kernels in NHWC order.
        compiled: Whether to compile what is trained with ``torch.compile``.
    """

    kind: str
    bf16: bool
    channels_last: bool
    compiled: bool = False

    @property
    def torch_device(self) -> torch.device:
        """The torch device."""
        return torch.device(self.kind)

    @property
    def precision(self) -> str:
        """``bf16`` or ``float32``."""
        return "bf16" if self.bf16 else "float32"

    @property
    def fingerprint(self) -> str:
        """All that decides, besides the numbers themselves, how they are rounded."""
        if self.kind == "cuda":
            hardware = torch.cuda.get_device_name()
        else:
            hardware = torch.backends.cpu.get_cpu_capability() if self.kind == "cpu" else ""
        layout = "channels last" if self.channels_last else "channels first"
        return f"{self.kind} {hardware} {self.precision} {layout} torch {torch.__version__}"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Compute in the device's precision inside this context."""
        return torch.autocast(self.kind, torch.bfloat16, enabled=self.bf16, cache_enabled=False)

    def own_randomness(self) -> contextlib.AbstractContextManager[object]:
        """Restore the random generators that training on the device uses after this context."""
        # No other GPU is asked: looking for one fails where the driver is too old for this PyTorch.
        gpus = [torch.cuda.current_device()] if self.kind == "cuda" else []
        return torch.random.fork_rng(devices=gpus)

    def move(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring a tensor to the device; one that is there already stays where it is."""
        if self.kind == "cuda" and tensor.device.type == "cpu":
            return tensor.pin_memory().to(self.torch_device, non_blocking=True)
        return tensor.to(self.torch_device)

    def layout(self, images: torch.Tensor) -> torch.Tensor:
        """Bring images ``(n, c, h, w)`` into the device's memory order."""
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def place(self, module: Module) -> Module:
        """Move a module to the device, kernels in its memory order."""
        module = module.to(self.torch_device)
        if self.channels_last:
            for parameter in module.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return module


def choose_device(kind: str = "auto", precision: str = "auto", *, compiled: bool = False) -> Device:
    """Choose a device, and bfloat16 where it is computed in hardware.

    Args:
        kind: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``bf16`` or ``float32``.
        compiled: Whether to compile what is trained: it takes a while for each cut, and then runs faster.

    Raises:
        SettingsError: If the device is not there or cannot compute in that precision.
    """
    if kind not in DEVICES or precision not in PRECISIONS:
        raise SettingsError(
            f"No device {kind!r} with precision {precision!r}: devices are {', '.join(DEVICES)}, "
            f"precisions {', '.join(PRECISIONS)}."
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = next(k for k in ("cuda", "mps", "cpu") if there[k])
    if not there[kind]:
        raise SettingsError(
            f"No {kind} device here: this torch {torch.__version__} sees "
            f"{', '.join(k for k, is_there in there.items() if is_there)}. Give --device auto."
        )
    bf16 = _has_bf16(kind) if precision == "auto" else precision == "bf16"
    if bf16 and kind == "mps":
        raise SettingsError("bf16 is not supported on mps. Give --precision float32.")
    return Device(kind=kind, bf16=bf16, channels_last=kind != "mps", compiled=compiled)


def _has_bf16(kind: str) -> bool:
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())


def use_all_cores() -> None:
    """Set PyTorch's threads to the cores that this process may use, unless OMP_NUM_THREADS is set.

    By default PyTorch counts the machine's cores; in a container with fewer its threads wait for each other.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))


def processor_name(device: Device) -> str:
    """Return the name of the GPU, or of the CPU with the instructions that torch uses on it."""
    if device.kind == "cuda":
        return torch.cuda.get_device_name(device.torch_device)
    return f"{processor_model()} ({torch.backends.cpu.get_cpu_capability()})"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _mentions(error, NO_MEMORY)


def is_device_fault(error: BaseException) -> bool:
    """Return whether a GPU failed: an ECC error, a failed launch, an error in one of CUDA's libraries.

    Its process can compute nothing more on that GPU.
    """
    if is_out_of_memory(error):
        return False
    # PyTorch before 2.8 has no class for it.
    known: type[Exception] | tuple[()] = getattr(torch, "AcceleratorError", ())
    return isinstance(error, known) or (isinstance(error, RuntimeError) and _mentions(error, FAULTS))


def _mentions(error: BaseException, phrases: Iterable[str]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)


@contextlib.contextmanager
def quick_releases() -> Iterator[None]:
    """Let `release_memory` look only at what is made in the meantime.

    PyTorch and its kin are half a million objects: to go through them takes 0.2 s, after each trial.
    """
    # Whoever has set some aside already is to take them back.
    is_ours = not gc.get_freeze_count()
    if is_ours:
        gc.collect()
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()


def release_memory() -> None:
    """Return the memory of a training that has ended to the device."""
    # Models refer to themselves: only the garbage collector frees them.
    gc.collect()
    if torch.cuda.is_available():
        # A GPU that has failed raises here too.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
