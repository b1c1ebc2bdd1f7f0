"""Devices: what is moved to them, on a machine that need not have them."""

import pytest
import torch

from depthsearch.devices import Device

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
