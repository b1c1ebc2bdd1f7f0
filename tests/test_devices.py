"""Devices: what is moved to them, on a machine that need not have them."""

import gc
import weakref

import pytest
import torch

from depthsearch.devices import (
    Device,
    choose_device,
    is_device_fault,
    is_out_of_memory,
    quick_releases,
    release_memory,
)

CUDA = Device(kind="cuda", bf16=False, channels_last=True)
# PyTorch before 2.8 has no class for it.
Accelerator = getattr(torch, "AcceleratorError", RuntimeError)


def test_only_what_lies_in_the_host_s_memory_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A meta tensor stands for one on a GPU: neither can be pinned."""
    monkeypatch.setattr(Device, "torch_device", torch.device("meta"))
    there = torch.zeros(3, 2, device="meta")
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        there.pin_memory()
    assert CUDA.move(there) is there
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    here = torch.zeros(3, 2)
    assert CUDA.move(here).device.type == "meta"
    assert [tensor is here for tensor in pinned] == [True]


def test_on_a_cpu_no_gpu_is_asked_for_its_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver too old for this PyTorch counts GPUs that cannot be used."""

    def fail(*_: object) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("current_device", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, fail)
    expected = torch.get_rng_state()
    with choose_device("cpu", "float32").own_randomness():
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), expected)


def test_on_a_gpu_its_own_randomness_alone_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: f"state of {gpu}")
    given_back = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, gpu: given_back.append((state, gpu)))
    with CUDA.own_randomness():
        assert not given_back
    assert given_back == [("state of 2", 2)]


# --- what an error means ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA error: out of memory"), "memory"),
        (Accelerator("CUDA error: out of memory"), "memory"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.07 GB)"), "memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
            "memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
            "memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), "memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "fault"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "fault"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
            "fault",
        ),
        (RuntimeError("CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasLtMatmul(handle)`"), "fault"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "fault"),
        (Accelerator("CUDA error: unspecified launch failure"), "fault"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (64x10 and 20x5)"), ""),
        (ValueError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), ""),
        (OSError("CUDA error: the file lies on a disk of the network"), ""),
    ],
)
def test_an_error_tells_of_too_little_memory_of_a_failed_gpu_or_of_neither(error, expected: str) -> None:
    assert (is_out_of_memory(error), is_device_fault(error)) == (expected == "memory", expected == "fault")


def test_a_gpu_that_has_failed_need_not_take_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail() -> None:
        asked.append(True)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    release_memory()
    assert asked


class Knot:
    """Refers to itself, as models do."""

    def __init__(self) -> None:
        self.itself = self


def test_in_a_study_what_was_there_before_is_passed_over_and_a_trial_s_is_released() -> None:
    gc.unfreeze()
    before = weakref.ref(kept := Knot())
    with quick_releases(), quick_releases():
        of_trial = weakref.ref(Knot())
        del kept
        release_memory()
        assert of_trial() is None
        assert before() is not None
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0
    release_memory()
    assert before() is None


def test_what_somebody_else_has_set_aside_stays_so() -> None:
    gc.unfreeze()
    gc.freeze()
    with quick_releases():
        pass
    assert gc.get_freeze_count() > 1000
