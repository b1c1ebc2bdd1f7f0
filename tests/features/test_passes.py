"""Passes over the frozen layers: how many images at once, on a GPU that is none and computes on the CPU."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from insides import memory_of_store
from torch import nn

from depthsearch import features
from depthsearch.devices import Device, choose_device
from depthsearch.features import Budget, FeatureStore, FrozenBackbone, Spent, ViewedImages
from depthsearch.features.passes import MOST_IMAGES, PassSize, live_bytes
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace
from depthsearch.search.space import Point
from depthsearch.training.objective import train_point, transfer_curve
from depthsearch.training.outcomes import TransferCurve
from depthsearch.training.task import Task
from depthsearch.workers import Probing, run_job

CPU = choose_device("cpu", "float32")
CUDA = Device(kind="cuda", bf16=False, channels_last=True)
PLENTY = 2**40
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture(scope="module")
def graph(backbone) -> LayerGraph:
    return trace(backbone.model, image_size=16)


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Have CUDA's calls answered, and say how much memory is free."""
    free = [PLENTY]
    monkeypatch.setattr(Device, "torch_device", torch.device("cpu"))
    monkeypatch.setattr(Device, "autocast", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(Device, "own_randomness", lambda _: torch.random.fork_rng(devices=[]))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[0], PLENTY))

    def set_(n_bytes: int) -> None:
        free[0] = n_bytes

    return set_


@pytest.fixture
def on_gpu(task, space, free_bytes, tmp_path) -> Task:
    budget = Budget(memory_bytes=0, device_bytes=PLENTY, disk_bytes=0, folder=tmp_path)
    return replace(task, device=CUDA, budget=budget)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let frozen layers run out of memory with more images at once than the last number here."""
    most, real = [PLENTY], FrozenBackbone.run

    def run(frozen, part, values, watched, look) -> None:
        n_images = len(next(iter(values.values())))
        seen: list[int] = []

        def look_and_fail(node, value) -> None:
            look(node, value)
            seen.append(len(value))
            # Some values of the batch are kept already.
            if n_images > most[-1] and len(seen) == 2:
                raise torch.OutOfMemoryError(str(FULL))

        real(frozen, part, values, watched, look_and_fail)

    monkeypatch.setattr(FrozenBackbone, "run", run)
    return most


# --- what is alive at once ----------------------------------------------------------------------


class Branching(nn.Module):
    """A branch around a convolution to twice the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.narrow = (nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        x = x + self.narrow(self.wide(x))
        return self.fc(x.mean((2, 3)))


def test_alive_are_the_image_what_is_computed_and_what_is_needed_later() -> None:
    channel = 4 * 10 * 10
    # At the narrow convolution: the image, what goes around, what goes in and what comes out.
    assert live_bytes(trace(Branching(), image_size=10)) == (3 + 4 + 8 + 4) * channel


# --- how many images ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_free", "expected"),
    [(PLENTY, 256), (8 * 256, 256), (8 * 255, 128), (8 * 100, 64), (8 * 2, 2), (9, 1), (7, 1), (0, 1)],
)
def test_a_gpu_computes_as_many_images_as_fit_an_eighth_of_what_is_free(
    graph, free_bytes, n_free: int, expected: int
) -> None:
    free_bytes(n_free * live_bytes(graph))
    assert PassSize(graph, CUDA).n_images == expected


def test_what_pytorch_holds_unused_counts_as_free(graph, free_bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    each = live_bytes(graph)
    free_bytes(8 * 4 * each)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 40 * each)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 8 * each)
    assert PassSize(graph, CUDA).n_images == 8


def test_the_number_stays_until_it_is_halved_or_chosen_again(graph, free_bytes) -> None:
    free_bytes(8 * 4 * live_bytes(graph))
    size = PassSize(graph, CUDA)
    assert size.n_images == 4
    free_bytes(PLENTY)
    assert [size.n_images, size.halve(), size.n_images, size.halve(), size.n_images] == [4, True, 2, True, 1]
    assert not size.halve()
    size.choose_again()
    assert size.n_images == 256


def test_a_cpu_computes_as_many_whatever_is_free(graph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    size = PassSize(graph, CPU)
    assert (size.n_images, size.halve(), size.n_images) == (64, False, 64)
    assert MOST_IMAGES["cpu"] == 64


# --- too little memory --------------------------------------------------------------------------


def opened(task: Task, position: int) -> FeatureStore:
    """Fill a task's store with the boundary at a position."""
    store, viewed = task.features, task.train_views[0]
    store.expect([features.Asks(group=viewed, n_images=len(viewed), passes={position: 100.0})])
    store.open(viewed, store.frozen.graph.boundary(position), position, Spent())
    return store


def kept(store: FeatureStore, viewed: ViewedImages) -> dict[str, torch.Tensor]:
    """List what is kept on the GPU, by the node's name."""
    memory = memory_of_store(store)
    assert memory.name == "device"
    names = {item.key: item.node.name for item in store.items(viewed).values()}
    return {names[key]: resident.rows for key, resident in memory.rows.items()}


def test_a_pass_that_does_not_fit_is_done_again_with_half_as_many_images(on_gpu, space, room) -> None:
    cut = space.cuts[9]
    assert len(on_gpu.graph.boundary(on_gpu.position(cut))) > 1
    expected = kept(opened(on_gpu, on_gpu.position(cut)), on_gpu.train_views[0])
    room.append(20)
    again = replace(on_gpu)
    found = kept(opened(again, again.position(cut)), again.train_views[0])
    assert found.keys() == expected.keys()
    for name, rows in found.items():
        torch.testing.assert_close(rows, expected[name])
    assert again.features.pass_size.n_images == 16


def test_a_probing_that_does_not_fit_is_done_again_with_half_as_many_images(on_gpu, space, room) -> None:
    expected = transfer_curve(on_gpu, space.cuts)
    room.append(20)
    again = replace(on_gpu)
    found = transfer_curve(again, space.cuts)
    assert [(p.cut, p.n_features) for p in found.points] == [(p.cut, p.n_features) for p in expected.points]
    assert again.features.pass_size.n_images == 16


def test_on_a_cpu_too_little_memory_is_told_at_once(task, space, room) -> None:
    room.append(20)
    with pytest.raises(torch.OutOfMemoryError):
        transfer_curve(replace(task), space.cuts)


def test_probing_gives_back_what_is_kept_on_the_gpu_and_tries_once_more(
    on_gpu, space, room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a training has kept there is in the way of the next backbone's probing."""
    other = replace(on_gpu)
    list(train_point(other, Point(cut=space.cuts[9], learning_rate=1e-3), seed=0))
    memory = memory_of_store(other.features)
    assert memory.rows
    asked, real = [], FeatureStore.give_back_device

    def give_back(store: FeatureStore) -> bool:
        asked.append(store)
        room.append(PLENTY)
        return real(store)

    monkeypatch.setattr(FeatureStore, "give_back_device", give_back)
    # It runs two images, before any pass.
    assert on_gpu.features.frozen.layouts
    room.append(0)
    tasks = {"one": on_gpu, "other": other}
    (report,) = run_job(tasks, Probing(key="one", cuts=space.cuts, upcoming={}))
    assert isinstance(report, TransferCurve)
    assert asked == [on_gpu.features, on_gpu.features, other.features]
    assert not memory.rows
    # Not the one image that it was down to.
    assert on_gpu.features.pass_size.n_images == 256


def test_a_gpu_without_room_for_one_image_is_told(on_gpu, space, room) -> None:
    room.append(0)
    with pytest.raises(torch.OutOfMemoryError):
        transfer_curve(on_gpu, space.cuts)


def test_what_was_about_to_be_kept_on_the_gpu_is_given_up_as_well(on_gpu, space) -> None:
    store, viewed = on_gpu.features, on_gpu.train_views[0]
    assert not store.give_back_device()
    position = on_gpu.position(space.cuts[9])
    asks = [features.Asks(group=viewed, n_images=len(viewed), passes={position: 100.0})]
    store.expect(asks)
    store.pass_size.halve()
    assert store.give_back_device()
    assert store.pass_size.n_images == 256
    store.expect(asks)
    assert not store.give_back_device()
    store.open(viewed, store.frozen.graph.boundary(position), position, Spent())
    assert not kept(store, viewed)
