"""Devices: what is moved to them, on a machine that need not have them."""

import pytest
import torch

from depthsearch.devices import Device, choose_device

CUDA = Device(kind="cuda", bf16=False, channels_last=True)


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
