"""Contract 4: kept features are those that would be computed, whatever happens to where they are kept."""

import copy
import itertools
import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from insides import files_of_store, folder_of_store, memory_of_store
from privileges import IS_ROOT, files_limited
from timm.models.densenet import DenseNet
from torch import fx, nn

from depthsearch.devices import choose_device
from depthsearch.features import (
    Asks,
    Boundaries,
    Budget,
    FeatureStore,
    FrozenBackbone,
    Spent,
    ViewedImages,
    budget,
    choose_budget,
)
from depthsearch.features.digests import value_digests
from depthsearch.features.parts import Layout
from depthsearch.features.tiers.rowfile import MappedRows, RowWriter, content_of, describe, is_whole
from depthsearch.models.backbones import make_model
from depthsearch.models.heads import with_head
from depthsearch.models.split import split_traced
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace

CPU = choose_device("cpu", "float32")
PLENTY = 2**40
# Two batches of the 64 images that a store runs at once.
N_IMAGES = 128
BATCH = 64
# Cuts of the backbone by depth, and the one tensor that is kept at each.
SHALLOW, DEEP, LAST = "layer2.0.conv1", "layer3.0.conv1", "fc"
SHALLOW_BYTES, DEEP_BYTES, LAST_BYTES = 2048 * N_IMAGES, 768 * N_IMAGES, 384 * N_IMAGES
# Inside a residual block: two tensors.
BETWEEN = "layer2.0.conv2"

Tensors = tuple[torch.Tensor, ...]


@pytest.fixture(scope="module")
def graph(backbone) -> LayerGraph:
    return trace(backbone.model, image_size=16)


@pytest.fixture(scope="module")
def frozen(backbone, graph) -> FrozenBackbone:
    return FrozenBackbone(graph, backbone.preprocessing, CPU)


@pytest.fixture(scope="module")
def images(few_digits):
    return few_digits(n_train=N_IMAGES).train


@pytest.fixture(scope="module")
def viewed(images) -> ViewedImages:
    return ViewedImages(images)


@pytest.fixture(scope="module")
def expected(frozen, viewed) -> dict[str, Tensors]:
    """The boundaries without a store."""
    bare = FeatureStore(frozen, None)
    return {cut: trial(bare, viewed, cut)[0] for cut in (SHALLOW, BETWEEN, DEEP, LAST)}


@pytest.fixture
def open_store(frozen, tmp_path: Path) -> Callable[..., FeatureStore]:
    """Open a store, each time a new one, over the same folder."""

    def open_(*, memory: int = 0, disk: int = PLENTY, folder: Path | None = None) -> FeatureStore:
        folder = folder or tmp_path / "kept"
        return FeatureStore(
            frozen, Budget(memory_bytes=memory, device_bytes=0, disk_bytes=disk, folder=folder), name="net"
        )

    return open_


@pytest.fixture
def open_bare(tmp_path: Path) -> Callable[[FrozenBackbone], FeatureStore]:
    """Open a store of another backbone, in memory alone."""

    def open_(frozen: FrozenBackbone) -> FeatureStore:
        plenty = Budget(memory_bytes=PLENTY, device_bytes=0, disk_bytes=0, folder=tmp_path)
        return FeatureStore(frozen, plenty)

    return open_


def position_of(frozen: FrozenBackbone, layer: str) -> int:
    return next(found.position for found in frozen.graph.layers if found.name == layer)


def macs_before(frozen: FrozenBackbone, layer: str) -> int:
    """MACs of the prefix for all images."""
    return frozen.macs_before(position_of(frozen, layer)) * N_IMAGES


def expect(store: FeatureStore, viewed: ViewedImages, *cuts: str) -> None:
    """Plan for many passes at some cuts."""
    passes = {position_of(store.frozen, cut): 50.0 for cut in cuts}
    store.expect([Asks(group=viewed, n_images=len(viewed), passes=passes)])


def read(source: Boundaries) -> Tensors:
    """Read all images in batches and join what comes."""
    batches = [source.batch(index) for index in torch.arange(len(source.labels)).split(BATCH)]
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def trial(store: FeatureStore, viewed: ViewedImages, cut: str, *others: str) -> tuple[Tensors, Spent]:
    """Go through the images once at a cut, expecting to come again, to it and to others."""
    expect(store, viewed, cut, *others)
    source = Boundaries(store, [viewed], position_of(store.frozen, cut))
    source.prepare(1)
    return read(source), source.spent


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.features"))


def partial_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.partial"))


def left_in(folder: Path) -> list[Path]:
    """What a folder holds but its locks."""
    return sorted(path for path in folder.iterdir() if path.name != "locks")


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files_of(folder))


def names_in_memory(store: FeatureStore, viewed: ViewedImages) -> set[str]:
    memory = memory_of_store(store)
    return {node.name for node, item in store.items(viewed).items() if item.key in memory.rows}


def names_on_disk(store: FeatureStore, viewed: ViewedImages) -> set[str]:
    names = {path.stem for path in files_of(folder_of_store(store))}
    return {node.name for node, item in store.items(viewed).items() if item.key in names}


# --- digests ------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two convolutions and what can be set about them."""

    def __init__(
        self,
        *,
        seed: int = 0,
        stride: int = 1,
        padding_mode: str = "zeros",
        eps: float = 1e-5,
        act: type[nn.Module] = nn.ReLU,
        times: float = 2.0,
        join: Callable[..., torch.Tensor] = torch.add,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 4, 3, stride=stride, padding=1, padding_mode=padding_mode)
        self.norm = nn.BatchNorm2d(4, eps=eps)
        self.act = act()
        self.shift = nn.Parameter(torch.rand(4, 1, 1))
        self.conv2 = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 10)
        self.times, self.join = times, join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.conv1(x))) * self.times
        x = self.conv2(self.join(x, self.shift))
        return self.fc(x.mean((2, 3)))


def digests_of(model: nn.Module) -> dict[str, str]:
    graph = trace(model, image_size=8)
    return {node.name: digest for node, digest in value_digests(graph).items() if graph.carried[node]}


def before_the_head(model: nn.Module) -> list[str]:
    """Digests in the order of execution, without names."""
    return list(digests_of(model).values())[:-2]


def test_equal_models_built_separately_have_equal_digests() -> None:
    assert digests_of(Net()) == digests_of(Net())


def test_every_value_has_a_digest_of_its_own() -> None:
    found = digests_of(Net())
    # The output is the last layer's value under another name.
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("head", [{"num_classes": 3}, {"num_classes": 10, "width": 8, "dropout": 0.1}])
def test_another_head_changes_no_digest_before_it(head: dict[str, float]) -> None:
    plain, other = (list(digests_of(model).values()) for model in (Net(), with_head(Net(), "fc", **head)))
    # The last two are the head's and the output's.
    assert plain[:-2] == other[: len(plain) - 2]
    assert plain[-1] not in other


def test_names_of_modules_do_not_matter() -> None:
    wrapped = nn.Sequential(OrderedDict(body=Net()))
    renamed = Net()
    renamed.stem, renamed.conv1 = renamed.conv1, None
    renamed.conv1 = renamed.stem
    assert before_the_head(wrapped) == before_the_head(renamed) == before_the_head(Net())


STATE = [name for name in Net().state_dict() if not name.endswith("num_batches_tracked")]


@pytest.mark.parametrize("name", STATE)
def test_a_changed_weight_changes_the_digests_from_there_on(name: str) -> None:
    """In one bit of one number, and no digest before it."""
    model = Net()
    tensor = model.state_dict()[name].view(-1)
    tensor[-1] = torch.nextafter(tensor[-1], torch.tensor(torch.inf))
    first = {"norm": "norm", "shift": "add"}.get(name.split(".")[0], name.split(".")[0])
    plain, changed = digests_of(Net()), digests_of(model)
    names = list(plain)
    at = names.index(first)
    assert all(plain[n] == changed[n] for n in names[:at])
    assert all(plain[n] != changed[n] for n in names[at:])


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": 1},
        {"stride": 2},
        {"padding_mode": "reflect"},
        {"eps": 1e-3},
        {"act": nn.SiLU},
        {"times": 2.5},
        {"join": torch.sub},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_another_setting_or_operation_changes_the_digest(setting: dict[str, object]) -> None:
    assert digests_of(Net())["mean"] != digests_of(Net(**setting))["mean"]


def test_what_evaluation_does_not_read_does_not_matter() -> None:
    model = Net().train().requires_grad_(False)
    model.norm.num_batches_tracked += 7
    assert digests_of(model) == digests_of(Net())


class Changing(nn.Module):
    """Reads a value that was changed in place, by an operation whose result nobody uses."""

    def __init__(self, times: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.times = times
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x.mul_(self.times)
        return self.fc(x.mean((2, 3)))


def test_what_changes_a_value_in_place_counts_for_those_that_read_it_later() -> None:
    two, three = digests_of(Changing(2.0)), digests_of(Changing(3.0))
    assert two["conv"] == three["conv"]
    assert two["mean"] != three["mean"]
    assert two == digests_of(Changing(2.0))


HELD = ("number", "tensor", "numbers", "function")


class Scale(nn.Module):
    """What cannot be entered (it asks for its mode): all that it holds has to be told by its attributes."""

    def __init__(self, **held: object) -> None:
        super().__init__()
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (held,) = (value for name, value in vars(self).items() if name in HELD)
        times = held["times"] if isinstance(held, dict) else held
        if self.training:
            return x
        return times(x) if callable(times) else x * times


@pytest.mark.parametrize(
    "held",
    [
        pytest.param(lambda times: {"number": times}, id="number"),
        pytest.param(lambda times: {"tensor": torch.tensor(times)}, id="tensor"),
        pytest.param(lambda times: {"numbers": {"times": times}}, id="dict"),
        pytest.param(lambda times: {"function": partial(torch.mul, other=times)}, id="partial"),
        pytest.param(lambda times: {"function": lambda x: x * times}, id="closure"),
    ],
)
def test_what_a_whole_module_holds_determines_its_value(held: Callable[[float], dict[str, object]]) -> None:
    def net(times: float) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), Scale(**held(times)), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    image = torch.ones(1, 3, 8, 8)
    assert not torch.equal(net(2.0).eval()(image), net(3.0).eval()(image))
    assert digests_of(net(2.0)) == digests_of(net(2.0))
    assert digests_of(net(2.0)) != digests_of(net(3.0))


def test_digests_are_of_the_weights_that_are_computed_with(backbone) -> None:
    """The frozen backbone is a copy: what becomes of the model it was made of does not matter."""
    model = copy.deepcopy(backbone.model)
    graph = trace(model, image_size=16)
    before = value_digests(graph)
    frozen = FrozenBackbone(graph, backbone.preprocessing, CPU)
    with torch.no_grad():
        model.conv1[0].weight.add_(1)
    assert {n.name: d for n, d in frozen.digests.items()} == {n.name: d for n, d in before.items()}


# --- layouts ------------------------------------------------------------------------------------


def strided(shape: tuple[int, ...], order: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor whose dimensions lie in memory in an order, from the slowest to the fastest."""
    lengths = [shape[d] for d in order]
    values = torch.arange(torch.Size(shape).numel()).to(dtype).view(lengths)
    return values.permute(sorted(range(len(order)), key=order.__getitem__))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((3, 4, 5, 2), (0, 1, 2, 3)),
        ((3, 4, 5, 2), (0, 2, 3, 1)),
        ((3, 4, 5, 2), (0, 3, 1, 2)),
        ((3, 4, 5, 2), (2, 0, 3, 1)),
        ((3, 4, 5, 2), (1, 2, 3, 0)),
        ((3, 5, 4), (0, 1, 2)),
        ((3, 5, 4), (1, 0, 2)),
        ((3, 7), (0, 1)),
        ((3, 7), (1, 0)),
        ((3,), (0,)),
        ((3, 4, 1, 1), (0, 1, 2, 3)),
        ((3, 4, 1, 1), (0, 2, 3, 1)),
        ((3, 4, 5, 1), (0, 2, 3, 1)),
        ((3, 1, 5, 2), (0, 1, 2, 3)),
        pytest.param((3, 1, 5, 2), (0, 2, 3, 1)),
        ((1, 4, 5, 2), (0, 2, 3, 1)),
    ],
)
def test_rows_become_the_value_again_strides_included(shape, order, dtype: torch.dtype) -> None:
    value = strided(shape, order, dtype)
    layout = Layout.of(value)
    kept = torch.empty(len(value), *layout.shape, dtype=dtype)
    kept.copy_(layout.to_rows(value))
    assert layout.row_bytes * len(value) == kept.nbytes
    back = layout.from_rows(kept[torch.arange(len(value))])
    assert back.dtype == dtype
    assert torch.equal(back, value)
    assert back.stride() == value.stride()


def test_a_layout_found_on_two_images_fits_any_number() -> None:
    value = strided((7, 4, 5, 2), (0, 2, 3, 1), torch.float32)
    layout = Layout.of(value[:2])
    index = torch.tensor([5, 0, 5, 6])
    assert torch.equal(layout.from_rows(layout.to_rows(value)[index]), value[index])


def test_a_value_of_one_channel_is_gone_on_with_as_if_computed(open_bare, backbone, viewed) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Conv2d(32, 1, 3, padding=1),
        nn.Conv2d(1, 16, 1),
        nn.Conv2d(16, 4, 3, stride=3),
        nn.Flatten(),
        nn.Linear(100, 2),
    )
    frozen = frozen_of(net, backbone)
    store = open_bare(frozen)
    trial(store, viewed, "2")
    assert names_in_memory(store, viewed) == {"_1"}
    found, spent = trial(store, viewed, "3", "2")
    assert spent.read_bytes > 0
    assert_same(found, trial(FeatureStore(frozen, None), viewed, "3")[0])


# --- parts --------------------------------------------------------------------------------------


def frozen_of(model: nn.Module, backbone, *, image_size: int = 16) -> FrozenBackbone:
    return FrozenBackbone(trace(model, image_size=image_size), backbone.preprocessing, CPU)


def run_part(frozen: FrozenBackbone, wanted: list[fx.Node], values: dict[fx.Node, torch.Tensor]) -> Tensors:
    """Compute nodes from the values of others."""
    position = 1 + max(frozen.position(node) for node in wanted)
    part = frozen.part(values.keys() - {frozen.image}, wanted, position)
    with torch.no_grad():
        return tuple(value.clone() for value in part.module(*(values[node].clone() for node in part.inputs)))


def few_pixels(frozen: FrozenBackbone, viewed: ViewedImages) -> torch.Tensor:
    return frozen.normalise(viewed.pixels(torch.arange(0, N_IMAGES, 8), CPU))


@pytest.mark.parametrize("index", range(16))
def test_a_part_from_the_image_is_the_prefix(frozen, backbone, space, viewed, index: int) -> None:
    cut = space.cuts[index]
    split = split_traced(frozen.graph, backbone.model, cut)
    pixels = few_pixels(frozen, viewed)
    with torch.no_grad():
        wanted = CPU.place(split.prefix)(pixels)
    position = position_of(frozen, cut.first_layer)
    boundary = frozen.graph.boundary(position)
    assert_same(run_part(frozen, boundary, {frozen.image: pixels}), wanted)
    assert frozen.part((), boundary, position).macs == split.prefix_macs


def test_every_cut_is_compared(space) -> None:
    assert len(space.cuts) == 16


def test_a_part_from_kept_values_is_the_prefix(frozen, space, viewed) -> None:
    """From the boundary of every other cut to every deeper one's, and at the MACs between them."""
    pixels = few_pixels(frozen, viewed)
    positions = [position_of(frozen, cut.first_layer) for cut in space.cuts[::2]]
    boundaries = [frozen.graph.boundary(position) for position in positions]
    values = [dict(zip(b, run_part(frozen, b, {frozen.image: pixels}), strict=True)) for b in boundaries]
    for start, end in itertools.combinations(range(len(positions)), 2):
        found = run_part(frozen, boundaries[end], values[start])
        assert_same(found, tuple(values[end].values()))
        between = frozen.macs_before(positions[end]) - frozen.macs_before(positions[start])
        assert frozen.part(boundaries[start], boundaries[end], positions[end]).macs == between


def test_what_is_known_is_handed_through(frozen) -> None:
    position = position_of(frozen, BETWEEN)
    boundary = frozen.graph.boundary(position)
    part = frozen.part(boundary, boundary, position)
    assert part.inputs == tuple(boundary)
    assert (part.computed, part.macs) == (frozenset(), 0)


def test_the_boundary_of_the_first_layer_is_the_image(frozen) -> None:
    part = frozen.part((), frozen.graph.boundary(1), 1)
    assert (part.inputs, part.computed, part.macs) == ((frozen.image,), frozenset(), 0)


def tiny_densenet() -> nn.Module:
    return DenseNet(growth_rate=8, block_config=(2, 3, 2), num_classes=5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_model("test_resnet"),
        tiny_densenet,
        lambda: make_model("mobilenetv3_small_050"),
        lambda: make_model("test_vit"),
        lambda: Changing(2.0),
    ],
    ids=["test_resnet", "densenet", "mobilenetv3_small_050", "test_vit", "changed in place"],
)
def test_all_boundaries_at_once_are_those_asked_for_one_by_one(make: Callable[[], nn.Module]) -> None:
    model = make()
    size = None if "VisionTransformer" in type(model).__name__ else 32
    graph = trace(model, image_size=size)
    positions = range(len(graph.nodes))
    assert graph.boundaries() == [graph.boundary(position) for position in positions]


class Early(nn.Module):
    """An activation in place whose input is read again behind the convolution that follows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.act = nn.LeakyReLU(0.2, inplace=True)
        self.conv1 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(64, 8, 3, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.act(x)
        x = self.conv2(self.conv1(y) + x)
        return self.fc(self.last(torch.cat([x, y], 1)).mean((2, 3)))


@pytest.mark.parametrize("layer", ["mean", "fc"])
def test_a_change_in_place_by_an_unused_operation_is_not_left_out(backbone, viewed, layer: str) -> None:
    model = Changing(2.0).eval()
    frozen = frozen_of(model, backbone)
    (found,), _ = trial(FeatureStore(frozen, None), viewed, layer)
    conv = CPU.place(copy.deepcopy(model.conv))
    with torch.no_grad():
        pixels = (frozen.normalise(viewed.pixels(i, CPU)) for i in torch.arange(N_IMAGES).split(BATCH))
        changed = [conv(part) * 2 for part in pixels]
    wanted = changed if layer == "mean" else [part.mean((2, 3)) for part in changed]
    assert torch.equal(found, torch.cat(wanted))


def test_a_value_changed_in_place_is_not_taken_as_first_computed(open_bare, backbone, viewed) -> None:
    """A deep cut keeps the activation's output; a shallower one needs the stem's too, as that has left it."""
    frozen = frozen_of(Early().eval(), backbone)
    store = open_bare(frozen)
    plain = trial(FeatureStore(frozen, None), viewed, "conv1")[0]
    trial(store, viewed, "conv2")
    assert names_in_memory(store, viewed) == {"act", "add"}
    assert_same(trial(store, viewed, "conv1", "conv2")[0], plain)


def test_values_changed_in_place_later_are_never_kept(backbone) -> None:
    frozen = frozen_of(Early().eval(), backbone)
    assert frozen.graph.changed
    assert frozen.layouts.keys().isdisjoint(frozen.graph.changed)


# --- the store ----------------------------------------------------------------------------------

tiers = pytest.mark.parametrize(
    ("memory", "disk"),
    [(PLENTY, 0), (0, PLENTY), (PLENTY, PLENTY), (0, 0)],
    ids=["memory", "disk", "memory and disk", "nothing"],
)
places = pytest.mark.parametrize("tier", ["memory", "disk"])


def one_tier(tier: str, n_bytes: int) -> dict[str, int]:
    return {"memory": 0, "disk": 0, tier: n_bytes}


@tiers
@pytest.mark.parametrize("cut", [SHALLOW, BETWEEN, DEEP, LAST])
def test_boundaries_are_the_same_from_everywhere(
    open_store, viewed, expected, memory: int, disk: int, cut: str
) -> None:
    """Filled, read again, read by another store."""
    store = open_store(memory=memory, disk=disk)
    for opened in (store, store, open_store(memory=memory, disk=disk), open_store(memory=0, disk=disk)):
        found, spent = trial(opened, viewed, cut)
        assert_same(found, expected[cut])
        assert (spent.read_bytes > 0) == bool(opened._keeps)


@places
def test_strides_of_what_is_read_are_those_computed(open_store, viewed, frozen, tier: str) -> None:
    store, bare = open_store(**one_tier(tier, PLENTY)), FeatureStore(frozen, None)
    strides = []
    for opened in (bare, store, store):
        expect(opened, viewed, BETWEEN)
        source = Boundaries(opened, [viewed], position_of(frozen, BETWEEN))
        source.prepare(1)
        strides.append([tensor.stride() for tensor in source.batch(torch.arange(BATCH))])
    assert strides[0] == strides[1] == strides[2]


@places
def test_the_second_trial_at_a_cut_spends_nothing_on_the_prefix(open_store, viewed, frozen, tier) -> None:
    store = open_store(**one_tier(tier, PLENTY))
    spent = [trial(store, viewed, DEEP)[1] for _ in range(2)]
    assert [s.macs for s in spent] == [macs_before(frozen, DEEP), 0]
    assert [s.kept_bytes for s in spent] == [DEEP_BYTES, 0]
    assert [s.read_bytes for s in spent] == [DEEP_BYTES, DEEP_BYTES]


def test_the_second_epoch_spends_nothing_on_the_prefix(open_store, viewed, frozen) -> None:
    store = open_store(memory=PLENTY)
    expect(store, viewed, DEEP)
    source = Boundaries(store, [viewed], position_of(frozen, DEEP))
    for epoch in (1, 2):
        source.prepare(epoch)
        read(source)
    assert source.spent.macs == macs_before(frozen, DEEP)


def test_without_a_budget_each_pass_computes_the_whole_prefix(frozen, viewed) -> None:
    store = FeatureStore(frozen, None)
    assert [trial(store, viewed, DEEP)[1].macs for _ in range(2)] == [macs_before(frozen, DEEP)] * 2


@places
def test_a_deeper_cut_starts_from_what_a_shallower_one_has_kept(open_store, viewed, frozen, expected, tier):
    store = open_store(**one_tier(tier, PLENTY))
    trial(store, viewed, SHALLOW, DEEP)
    found, spent = trial(store, viewed, LAST, SHALLOW, DEEP)
    assert spent.macs == macs_before(frozen, LAST) - macs_before(frozen, SHALLOW)
    assert_same(found, expected[LAST])


@places
def test_a_shallower_cut_is_not_served_by_a_deeper_one(open_store, viewed, frozen, expected, tier) -> None:
    store = open_store(**one_tier(tier, PLENTY))
    trial(store, viewed, DEEP)
    found, spent = trial(store, viewed, SHALLOW, DEEP)
    assert spent.macs == macs_before(frozen, SHALLOW)
    assert_same(found, expected[SHALLOW])


def test_one_pass_fills_the_boundaries_of_all_cuts_before(open_store, viewed, frozen) -> None:
    store = open_store(memory=PLENTY)
    _, spent = trial(store, viewed, LAST, SHALLOW, DEEP)
    assert spent.macs == macs_before(frozen, LAST)
    assert {trial(store, viewed, cut, LAST)[1].macs for cut in (SHALLOW, DEEP)} == {0}


def test_another_studys_files_are_read_and_no_tensor_is_written_twice(open_store, viewed) -> None:
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    written = path.stat().st_ino
    _, spent = trial(open_store(memory=PLENTY), viewed, DEEP)
    assert (spent.macs, spent.kept_bytes) == (0, 0)
    assert path.stat().st_ino == written


def test_what_is_read_into_memory_needs_no_file_any_more(open_store, viewed, expected) -> None:
    trial(open_store(), viewed, DEEP)
    store = open_store(memory=PLENTY)
    trial(store, viewed, DEEP)
    assert names_in_memory(store, viewed) == {"layer2_0_act2"}
    shutil.rmtree(folder_of_store(store))
    assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])


def test_each_view_is_kept_by_itself(open_store, images, frozen) -> None:
    store = open_store(memory=PLENTY)
    views = [ViewedImages(images, number) for number in range(2)]
    position = position_of(frozen, DEEP)
    store.expect([Asks(group=v, n_images=N_IMAGES, passes={position: 50.0}) for v in views])
    source = Boundaries(store, views, position)
    shown = []
    for epoch in (1, 2, 3, 4):
        source.prepare(epoch)
        shown.append(read(source)[0])
    assert source.spent.macs == 2 * macs_before(frozen, DEEP)
    assert torch.equal(shown[0], shown[2])
    assert torch.equal(shown[1], shown[3])
    assert not torch.equal(shown[0], shown[1])


@pytest.mark.parametrize("size", [64, 32, 10, 3])
def test_kept_values_are_those_recomputed_in_batches_of_any_size(
    open_store, frozen, viewed, size: int
) -> None:
    position = position_of(frozen, LAST)
    kept, recomputed = (
        Boundaries(opened, [viewed], position)
        for opened in (open_store(memory=PLENTY), FeatureStore(frozen, None))
    )
    expect(kept._store, viewed, LAST)
    index = torch.arange(5, 5 + size)
    for source in (kept, recomputed):
        source.prepare(1)
    assert_same(kept.batch(index), recomputed.batch(index))


# --- budgets ------------------------------------------------------------------------------------

ALL_BYTES = SHALLOW_BYTES + DEEP_BYTES + LAST_BYTES
BUDGETS = [ALL_BYTES * i // 19 + i for i in range(20)]


def wander(
    store: FeatureStore, viewed: ViewedImages, expected: dict[str, Tensors], n_bytes: int
) -> Iterator[None]:
    """Trials at all cuts, in an order and with plans that change."""
    cuts = [SHALLOW, DEEP, LAST, BETWEEN]
    for i, cut in enumerate(random.Random(n_bytes).sample(cuts, len(cuts))):
        assert_same(trial(store, viewed, cut, *cuts[: i % 3])[0], expected[cut])
        yield


@pytest.mark.parametrize("n_bytes", BUDGETS)
def test_memory_never_holds_more_than_its_budget(open_store, viewed, expected, n_bytes: int) -> None:
    store = open_store(memory=n_bytes, disk=0)
    memory = memory_of_store(store)
    for _ in wander(store, viewed, expected, n_bytes):
        assert sum(kept.rows.nbytes for kept in memory.rows.values()) <= n_bytes
        assert memory.promised == {}


@pytest.mark.parametrize("n_bytes", BUDGETS[::2])
def test_the_folder_never_holds_more_than_its_budget(open_store, viewed, expected, n_bytes: int) -> None:
    store = open_store(disk=n_bytes)
    for _ in wander(store, viewed, expected, n_bytes):
        assert folder_bytes(folder_of_store(store)) <= n_bytes
        assert partial_files(folder_of_store(store)) == []


def test_a_files_description_counts_too(open_store, viewed) -> None:
    store = open_store(disk=DEEP_BYTES)
    trial(store, viewed, DEEP)
    assert folder_bytes(folder_of_store(store)) <= DEEP_BYTES


def test_files_of_other_studies_count_too(open_store, viewed, images) -> None:
    other = ViewedImages(images, 1)
    trial(open_store(), other, SHALLOW)
    (path,) = files_of(folder_of_store(open_store()))
    os.utime(path, (1e9, 1e9))
    store = open_store(disk=SHALLOW_BYTES + 1000)
    trial(store, viewed, DEEP)
    assert folder_bytes(folder_of_store(store)) <= SHALLOW_BYTES + 1000
    assert names_on_disk(store, viewed) == {"layer2_0_act2"}
    assert names_on_disk(store, other) == set()


def test_a_file_that_another_store_has_just_used_stays(open_store, viewed, images, expected) -> None:
    """Its plan may be another; one's own files go at any time."""
    other, limit = ViewedImages(images, 1), SHALLOW_BYTES + 1000
    trial(open_store(), other, SHALLOW)
    store = open_store(disk=limit)
    assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])
    assert names_on_disk(store, other) == {"layer1_0_act2"}
    assert names_on_disk(store, viewed) == set()
    trial(store, other, SHALLOW)
    trial(store, viewed, DEEP)
    assert names_on_disk(store, other) == set()
    assert names_on_disk(store, viewed) == {"layer2_0_act2"}


def test_a_file_removed_by_another_store_is_read_until_the_next_trial(
    open_store, viewed, expected, frozen
) -> None:
    """Then it is let go of, as it takes up room for as long as it is mapped, and computed anew."""
    store = open_store()
    trial(store, viewed, DEEP)
    source = Boundaries(store, [viewed], position_of(frozen, DEEP))
    (path,) = files_of(folder_of_store(store))
    path.unlink()
    source.prepare(1)
    assert_same(read(source), expected[DEEP])
    assert source.spent.macs == 0
    del source
    found, spent = trial(store, viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert spent.macs == macs_before(frozen, DEEP)
    mapped = [held.path for held in psutil.Process().memory_maps(grouped=False) if str(path) in held.path]
    assert mapped == [str(path)]


def test_the_file_longest_unused_goes_first(open_store, viewed, images) -> None:
    others = [ViewedImages(images, number) for number in (1, 2, 3)]
    for other in others:
        trial(open_store(), other, DEEP)
    for age, other in enumerate((others[1], others[2], others[0])):
        files = files_of_store(open_store())
        paths = (files.path_of(item.key) for item in open_store().items(other).values())
        (path,) = filter(Path.exists, paths)
        os.utime(path, (1e9 - age, 1e9 - age))
    store = open_store(disk=3 * DEEP_BYTES + 3000)
    trial(store, viewed, DEEP)
    assert [bool(names_on_disk(store, other)) for other in others] == [False, True, True]


def test_reading_a_file_makes_it_the_last_used(open_store, viewed) -> None:
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    os.utime(path, (1e9, 1e9))
    trial(open_store(), viewed, DEEP)
    assert path.stat().st_mtime > 1e9


@places
def test_what_is_not_in_the_plan_goes_when_its_place_is_needed(open_store, viewed, expected, tier) -> None:
    store = open_store(**one_tier(tier, SHALLOW_BYTES + 1000))
    names = names_in_memory if tier == "memory" else names_on_disk
    trial(store, viewed, SHALLOW)
    assert names(store, viewed) == {"layer1_0_act2"}
    trial(store, viewed, DEEP)
    assert names(store, viewed) == {"layer2_0_act2"}
    assert_same(trial(store, viewed, SHALLOW)[0], expected[SHALLOW])


@places
def test_what_is_not_in_the_plan_stays_while_there_is_room(open_store, viewed, tier: str) -> None:
    store = open_store(**one_tier(tier, PLENTY))
    names = names_in_memory if tier == "memory" else names_on_disk
    trial(store, viewed, SHALLOW)
    trial(store, viewed, DEEP)
    assert names(store, viewed) == {"layer1_0_act2", "layer2_0_act2"}


def test_a_file_that_goes_is_not_held_open(open_store, viewed) -> None:
    """Mapped pages of a removed file still take up the disk."""
    store = open_store(disk=SHALLOW_BYTES + 1000)
    trial(store, viewed, SHALLOW)
    (gone,) = files_of(folder_of_store(store))
    trial(store, viewed, DEEP)
    assert not gone.exists()
    assert not any(str(gone) in held.path for held in psutil.Process().memory_maps(grouped=False))


def test_decisions_are_logged(open_store, viewed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "depthsearch.features")
    store = open_store(memory=SHALLOW_BYTES, disk=SHALLOW_BYTES + DEEP_BYTES + 1000)
    trial(store, viewed, SHALLOW)
    # A file's time has the grain of the system's clock, in which both may be written.
    (shallow,) = files_of(folder_of_store(store))
    trial(store, viewed, DEEP)
    os.utime(shallow, (1e9, 1e9))
    trial(store, viewed, LAST)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    keys = {node.name: item.key for node, item in store.items(viewed).items()}
    said = caplog.text
    kept = f"({{}}, view 0 of {N_IMAGES} images), {{}} bytes"
    assert f"memory: keeps {keys['layer1_0_act2']} {kept.format('layer1_0_act2', SHALLOW_BYTES)}" in said
    assert f"disk: keeps {keys['layer2_0_act2']} {kept.format('layer2_0_act2', DEEP_BYTES)}" in said
    assert f"memory: {keys['layer1_0_act2']} goes, {SHALLOW_BYTES} bytes" in said
    assert f"disk: {keys['layer1_0_act2']} goes," in said


def test_want_of_room_and_damage_are_logged(
    open_store, viewed, images, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG, "depthsearch.features")
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    path.write_bytes(b"")
    free = shutil.disk_usage(path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    trial(open_store(), viewed, DEEP)
    assert f"disk: {path} is damaged or foreign, and removed" in caplog.text
    assert f"disk: no room for {path.stem}" in caplog.text


# --- keys ---------------------------------------------------------------------------------------


def key_of(frozen: FrozenBackbone, viewed: ViewedImages, *, name: str = "", folder: Path = Path()) -> str:
    """The key of the tensor kept at the deep cut."""
    store = FeatureStore(
        frozen, Budget(memory_bytes=1, device_bytes=0, disk_bytes=0, folder=folder), name=name
    )
    return next(item.key for node, item in store.items(viewed).items() if node.name == "layer2_0_act2")


def changed_weight(backbone, layer: str) -> nn.Module:
    model = copy.deepcopy(backbone.model)
    parameter = next(model.get_submodule(layer).parameters())
    with torch.no_grad():  # whichever memory layout a test before has left it in
        parameter[(0,) * parameter.dim()] += 1e-3
    return model


def test_a_key_says_the_same_in_every_process(frozen, viewed, backbone) -> None:
    again = frozen_of(copy.deepcopy(backbone.model), backbone)
    assert key_of(frozen, viewed) == key_of(again, viewed)


def test_a_weight_of_the_prefix_gives_another_key(frozen, viewed, backbone) -> None:
    other = frozen_of(changed_weight(backbone, "layer2.0.conv2"), backbone)
    assert key_of(other, viewed) != key_of(frozen, viewed)


def test_weights_of_the_suffix_and_the_head_do_not_matter(frozen, viewed, backbone) -> None:
    for model in (changed_weight(backbone, "layer3.0.conv1"), with_head(backbone.model, "fc", 3, width=8)):
        assert key_of(frozen_of(model, backbone), viewed) == key_of(frozen, viewed)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": (0.4, 0.5, 0.5)},
        {"std": (0.4, 0.5, 0.5)},
        {"image_size": 17},
        {"interpolation": "nearest"},
        {"crop_share": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_preprocessing_gives_another_key(graph, frozen, viewed, backbone, change) -> None:
    other = FrozenBackbone(graph, replace(backbone.preprocessing, **change), CPU)
    assert key_of(other, viewed) != key_of(frozen, viewed)


def test_another_precision_or_memory_order_gives_another_key(graph, frozen, viewed, backbone) -> None:
    devices = [CPU, replace(CPU, bf16=True), replace(CPU, channels_last=False)]
    keys = {key_of(FrozenBackbone(graph, backbone.preprocessing, device), viewed) for device in devices}
    assert len(keys) == len(devices)


def other_image(images):
    digests = list(images.digests)
    digests[images.rows[5]] = "another"
    return replace(images, digests=tuple(digests))


@pytest.mark.parametrize(
    "change",
    [
        lambda images: ViewedImages(other_image(images)),
        lambda images: ViewedImages(replace(images, rows=images.rows.flip(0))),
        lambda images: ViewedImages(replace(images, rows=images.rows[1:], labels=images.labels[1:])),
        lambda images: ViewedImages(images, 1),
    ],
    ids=["an image", "their order", "their number", "the view"],
)
def test_other_pixels_give_another_key(frozen, viewed, images, change) -> None:
    assert key_of(frozen, change(images)) != key_of(frozen, viewed)


def test_the_seed_of_the_views_gives_another_key_but_not_to_the_plain_image(frozen, images) -> None:
    plain, one = ([key_of(frozen, ViewedImages(images, v, seed=s)) for s in (0, 1)] for v in (0, 1))
    assert plain[0] == plain[1]
    assert one[0] != one[1]


def test_labels_do_not_matter(frozen, viewed, images) -> None:
    other = ViewedImages(replace(images, labels=images.labels.flip(0)))
    assert key_of(frozen, other) == key_of(frozen, viewed)


def test_images_of_other_sets_in_the_same_store_do_not_matter(frozen, viewed, images) -> None:
    shifted = replace(
        images, images=images.images.roll(1, 0), rows=images.rows + 1, digests=(None, *images.digests)
    )
    assert key_of(frozen, ViewedImages(shifted)) == key_of(frozen, viewed)


def test_names_of_the_backbone_and_of_the_folder_do_not_matter(frozen, viewed, tmp_path: Path) -> None:
    assert key_of(frozen, viewed, name="other", folder=tmp_path / "other") == key_of(frozen, viewed)


# --- files --------------------------------------------------------------------------------------


def small_file(path: Path) -> dict[str, object]:
    """Write four rows of two numbers; give what the file has to hold."""
    rows = torch.arange(8.0).view(4, 2)
    layout = Layout.of(rows)
    writer = RowWriter(path)
    writer.write(rows[:3])
    writer.write(rows[3:])
    content = content_of("key", layout, 4)
    writer.end(content, {"backbone": "net"})
    return content


def test_a_file_describes_itself(tmp_path: Path) -> None:
    path = tmp_path / "key.features"
    content = small_file(path)
    assert is_whole(path, content)
    described = describe(path)
    assert described["backbone"] == "net"
    assert described["n_bytes"] == 32
    assert json.loads(json.dumps(content)).items() <= described.items()


def test_no_flipped_bit_goes_unnoticed_but_in_words_for_people(tmp_path: Path) -> None:
    path = tmp_path / "key.features"
    content = small_file(path)
    whole = path.read_bytes()
    words = range(whole.index(b'"backbone"'), whole.index(b'"key"'))
    assert len(words) > 10
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        if place not in words:
            assert not is_whole(path, content), f"bit {place % 8} of byte {place}"


def test_no_file_cut_short_or_grown_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "key.features"
    content = small_file(path)
    whole = path.read_bytes()
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        assert not is_whole(path, content), n_bytes
    for grown in (whole + b"\0", b"\0" + whole, whole + whole):
        path.write_bytes(grown)
        assert not is_whole(path, content)


def test_a_file_without_all_its_rows_is_not_ended(tmp_path: Path) -> None:
    rows = torch.arange(8.0).view(4, 2)
    writer = RowWriter(tmp_path / "key.features")
    writer.write(rows[:3])
    with pytest.raises(OSError, match=r"^24 bytes were written, not 32$") as caught:
        writer.end(content_of("key", Layout.of(rows), 4), {})
    writer.abandon(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_fewer_images_is_not_whole(tmp_path: Path) -> None:
    rows = torch.arange(8.0).view(4, 2)
    writer = RowWriter(tmp_path / "key.features")
    writer.write(rows)
    writer.end(content_of("key", Layout.of(rows), 4), {})
    assert is_whole(tmp_path / "key.features", content_of("key", Layout.of(rows), 4))
    assert not is_whole(tmp_path / "key.features", content_of("key", Layout.of(rows), 5))


# --- faults -------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


def swap_for_a_folder(path: Path, other: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "something").touch()


DAMAGES = {
    "half a file": lambda path, other: os.truncate(path, path.stat().st_size // 2),
    "a file without its last byte": lambda path, other: os.truncate(path, path.stat().st_size - 1),
    "rows alone": lambda path, other: os.truncate(path, DEEP_BYTES),
    "a flipped bit in the first row": lambda path, other: flip(path, 3),
    "a flipped bit in the last row": lambda path, other: flip(path, DEEP_BYTES - 1),
    "a flipped bit in the description": lambda path, other: flip(
        path, path.read_bytes().index(b'"key": "') + 9
    ),
    "a flipped bit in the length of the description": lambda path, other: flip(path, -15),
    "an empty file": lambda path, other: path.write_bytes(b""),
    "random bytes": lambda path, other: path.write_bytes(random.Random(0).randbytes(path.stat().st_size)),
    "random bytes before a valid footer": lambda path, other: path.write_bytes(
        random.Random(0).randbytes(path.stat().st_size - 16) + path.read_bytes()[-16:]
    ),
    "another tensor's file": lambda path, other: shutil.copyfile(other, path),
    "a link to nowhere": lambda path, other: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_computed_anew(open_store, viewed, expected, frozen, damage) -> None:
    trial(open_store(), viewed, SHALLOW)
    (other,) = files_of(folder_of_store(open_store()))
    other = other.rename(other.with_suffix(".moved"))
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(other.parent)
    whole = path.read_bytes()
    damage(path, other)
    found, spent = trial(open_store(), viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert spent.macs == macs_before(frozen, DEEP)
    assert path.read_bytes() == whole
    assert partial_files(path.parent) == []


def test_a_damaged_file_is_not_read_into_memory(open_store, viewed, expected) -> None:
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    flip(path, 3)
    store = open_store(memory=PLENTY)
    for _ in range(2):
        assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])


@pytest.mark.parametrize("memory", [0, PLENTY], ids=["mapped", "read into memory"])
def test_a_folder_under_a_files_name_is_left_alone(open_store, viewed, expected, memory: int) -> None:
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    swap_for_a_folder(path, path)
    store = open_store(memory=memory)
    for cut in (DEEP, SHALLOW, DEEP):
        assert_same(trial(store, viewed, cut)[0], expected[cut])
    assert [child.name for child in path.iterdir()] == ["something"]
    assert partial_files(path.parent) == []


def test_a_folder_under_another_tensors_name_does_not_matter(open_store, viewed, frozen, expected) -> None:
    store = open_store()
    for item in store.items(viewed).values():
        if item.node.name == "layer1_0_act2":
            files_of_store(store).path_of(item.key).mkdir(parents=True)
    trial(store, viewed, DEEP)
    found, spent = trial(store, viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert spent.macs == 0


@pytest.mark.skipif(IS_ROOT, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_computed_anew(open_store, viewed, expected) -> None:
    trial(open_store(), viewed, DEEP)
    (path,) = files_of(folder_of_store(open_store()))
    path.chmod(0)
    assert_same(trial(open_store(), viewed, DEEP)[0], expected[DEEP])


def test_a_file_of_another_user_is_read(open_store, viewed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time of use cannot be set then; on a disk that is mounted for reading alone neither."""
    trial(open_store(), viewed, DEEP)

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)
    _, spent = trial(open_store(), viewed, DEEP)
    assert spent.macs == 0


def test_a_folder_deleted_between_two_epochs(open_store, viewed, frozen, expected) -> None:
    store = open_store()
    expect(store, viewed, DEEP)
    source = Boundaries(store, [viewed], position_of(frozen, DEEP))
    source.prepare(1)
    assert_same(read(source), expected[DEEP])
    shutil.rmtree(folder_of_store(store))
    assert_same(read(source), expected[DEEP])
    source.prepare(2)
    assert_same(read(source), expected[DEEP])


def test_a_folder_deleted_between_two_trials(open_store, viewed, frozen, expected) -> None:
    store = open_store()
    trial(store, viewed, DEEP)
    shutil.rmtree(folder_of_store(store))
    for cut in (SHALLOW, DEEP, LAST):
        assert_same(trial(store, viewed, cut)[0], expected[cut])
    assert names_on_disk(store, viewed) >= {"layer1_0_act2"}
    assert trial(open_store(), viewed, SHALLOW)[1].macs == 0


def test_a_folder_deleted_while_it_is_filled(open_store, images, expected) -> None:
    store = open_store()
    viewed = Surprising(images, 2, lambda: shutil.rmtree(folder_of_store(store)))
    assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])
    assert_same(trial(store, viewed, SHALLOW)[0], expected[SHALLOW])


@pytest.mark.parametrize("memory", [0, PLENTY])
@pytest.mark.parametrize("below", [".", "folder"])
def test_a_file_in_the_place_of_the_folder(open_store, viewed, expected, tmp_path, memory, below) -> None:
    (tmp_path / "kept").write_text("not a folder")
    store = open_store(memory=memory, folder=tmp_path / "kept" / below)
    for cut in (DEEP, SHALLOW, DEEP):
        assert_same(trial(store, viewed, cut)[0], expected[cut])
    assert (tmp_path / "kept").read_text() == "not a folder"


# --- a full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, PLENTY], ids=["disk", "memory and disk"])
@pytest.mark.parametrize("n_bytes", [0, 1, DEEP_BYTES // 2, DEEP_BYTES, DEEP_BYTES + 50])
def test_a_disk_that_is_full_after_some_bytes(
    open_store, viewed, expected, frozen, caplog: pytest.LogCaptureFixture, memory: int, n_bytes: int
) -> None:
    store = open_store(memory=memory)
    with files_limited(n_bytes):
        found, _ = trial(store, viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert left_in(folder_of_store(store)) == []
    (warned,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert warned.message.startswith("Features are no longer kept on disk: [Errno 27] File too large")
    # In memory it is kept all the same.
    _, again = trial(store, viewed, DEEP)
    assert again.macs == (0 if memory else macs_before(frozen, DEEP))


def test_what_a_full_disk_did_not_keep_counts_as_not_kept(open_store, viewed) -> None:
    with files_limited(1000):
        _, spent = trial(open_store(), viewed, DEEP)
    assert (spent.kept_bytes, spent.read_bytes) == (0, 0)


def test_a_disk_with_little_space_left_is_not_written_to(
    open_store, viewed, expected, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=DEEP_BYTES - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    store = open_store()
    for _ in range(2):
        assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])
    assert left_in(folder_of_store(store)) == []


def test_files_written_before_the_disk_was_full_are_still_read(open_store, viewed, expected) -> None:
    store = open_store()
    trial(store, viewed, DEEP)
    with files_limited(1000):
        trial(store, viewed, SHALLOW, DEEP)
    found, spent = trial(store, viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert spent.macs == 0


# --- interruptions and other processes ----------------------------------------------------------


class Surprising(ViewedImages):
    """Images that do something the n-th time they are asked for."""

    def __init__(self, images, at: int, surprise: Callable[[], object]) -> None:
        super().__init__(images)
        self.left, self.surprise = at, surprise

    def pixels(self, index: torch.Tensor, device) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            self.surprise()
        return super().pixels(index, device)


def raiser(error: BaseException) -> Callable[[], None]:
    def raise_() -> None:
        raise error

    return raise_


@pytest.mark.parametrize("at", [1, 2])
@tiers
def test_a_fill_that_is_interrupted_leaves_nothing(
    open_store, images, expected, frozen, memory: int, disk: int, at: int
) -> None:
    store = open_store(memory=memory, disk=disk)
    viewed = Surprising(images, at, raiser(KeyboardInterrupt("enough")))
    with pytest.raises(KeyboardInterrupt, match="enough"):
        trial(store, viewed, DEEP)
    resident = memory_of_store(store)
    assert (resident.rows, resident.promised) == ({}, {})
    assert not folder_of_store(store).exists() or not left_in(folder_of_store(store))
    found, spent = trial(store, viewed, DEEP)
    assert_same(found, expected[DEEP])
    assert spent.macs == macs_before(frozen, DEEP)
    _, again = trial(store, viewed, DEEP)
    assert again.macs == (0 if memory or disk else spent.macs)


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError("none left")])
def test_a_fill_that_fails_leaves_nothing_and_says_why(open_store, images, error: Exception) -> None:
    store = open_store(memory=PLENTY)
    with pytest.raises(type(error), match=error.args[-1]):
        trial(store, Surprising(images, 2, raiser(error)), DEEP)
    assert left_in(folder_of_store(store)) == []
    assert memory_of_store(store).promised == {}


def test_a_tensor_for_which_there_is_no_memory_is_not_kept(open_store, viewed) -> None:
    """Budgets are of what was free at the start; others, and training itself, may have taken it since."""
    store = open_store(memory=2**62, disk=0)
    expect(store, viewed, DEEP)
    memory = memory_of_store(store)
    item = next(item for item in store.items(viewed).values() if item.key in memory.wanted)
    beyond = replace(item, layout=replace(item.layout, shape=(2**50,)))
    assert memory.allocate(beyond) is None
    assert memory.promised == {}


def test_reading_in_that_is_interrupted_leaves_no_promise(open_store, viewed, monkeypatch) -> None:
    trial(open_store(), viewed, DEEP)
    store = open_store(memory=PLENTY)
    interrupt = raiser(KeyboardInterrupt("enough"))
    monkeypatch.setattr(MappedRows, "__getitem__", lambda *_: interrupt())
    with pytest.raises(KeyboardInterrupt, match="enough"):
        trial(store, viewed, DEEP)
    assert memory_of_store(store).promised == {}


def test_a_store_that_fills_while_another_does_finds_one_whole_file(
    open_store, images, viewed, expected
) -> None:
    """The second begins and ends in the middle of the first."""
    second = open_store()
    found = []
    interrupting = Surprising(images, 2, lambda: found.append(trial(second, viewed, DEEP)[0]))
    first = open_store()
    assert_same(trial(first, interrupting, DEEP)[0], expected[DEEP])
    assert_same(found[0], expected[DEEP])
    (path,) = files_of(folder_of_store(first))
    assert left_in(path.parent) == [path]
    assert trial(open_store(), viewed, DEEP)[1].macs == 0


@pytest.mark.parametrize("memory", [0, PLENTY], ids=["disk", "memory and disk"])
def test_a_file_that_another_store_ends_while_this_one_makes_ready_to_fill_is_not_spoilt(
    open_store, viewed, expected, monkeypatch: pytest.MonkeyPatch, memory: int
) -> None:
    """It was not there when the store looked what is missing, and is when it looks where to start."""
    store, other = open_store(memory=memory), open_store()
    begin = files_of_store(store).begin

    def begin_late(item: object) -> object:
        trial(other, viewed, DEEP)
        return begin(item)

    monkeypatch.setattr(files_of_store(store), "begin", begin_late)
    assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])
    monkeypatch.undo()
    assert_same(trial(store, viewed, DEEP)[0], expected[DEEP])
    (path,) = files_of(folder_of_store(store))
    assert describe(path)["n_bytes"] == DEEP_BYTES


CHILD = """
import sys
from dataclasses import replace
from pathlib import Path

import torch

from depthsearch.models.backbones import load_backbone
from depthsearch.data import ImageSet
from depthsearch.devices import choose_device
from depthsearch.features import (
    Asks,
    Boundaries,
    Budget,
    FeatureStore,
    FrozenBackbone,
    ViewedImages,
)
from depthsearch.models.tracing.trace import trace

given = torch.load(sys.argv[1], weights_only=True)
images = ImageSet(**given["images"])
backbone = load_backbone("test_resnet", "random", image_size=16)
device = choose_device("cpu", "float32")
frozen = FrozenBackbone(trace(backbone.model, image_size=16), backbone.preprocessing, device)
folder = Path(given["folder"])
store = FeatureStore(frozen, Budget(memory_bytes=0, device_bytes=0, disk_bytes=2**40, folder=folder))
position = given["position"]
views = [ViewedImages(images, number) for number in range(given["n_views"])]
store.expect([Asks(group=viewed, n_images=len(viewed), passes={position: 50.0}) for viewed in views])
source = Boundaries(store, views, position)
print("ready", flush=True)
sys.stdin.readline()
found = []
for epoch in range(len(views)):
    source.prepare(epoch)
    found.append(source.batch(torch.arange(len(images)))[0])
torch.save(found, sys.argv[2])
"""


@pytest.mark.slow
def test_processes_that_fill_at_once_agree(open_store, images, frozen, tmp_path: Path) -> None:
    """Afterwards there is one whole file for each view and nothing else, and both have read it."""
    n_views, position = 6, position_of(frozen, DEEP)
    store = open_store()
    stored = {field: getattr(images, field) for field in ("images", "rows", "labels", "digests")}
    stored["images"] = stored["images"].clone()
    torch.save(
        {"images": stored, "folder": str(folder_of_store(store)), "position": position, "n_views": n_views},
        tmp_path / "given",
    )
    views = [ViewedImages(images, number) for number in range(n_views)]
    store.expect([Asks(group=v, n_images=N_IMAGES, passes={position: 50.0}) for v in views])
    source = Boundaries(store, views, position)
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path / "given", tmp_path / "found"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "ready\n"
        child.stdin.write("go\n")
        child.stdin.flush()
        ours = []
        for epoch in range(n_views):
            source.prepare(epoch)
            ours.append(source.batch(torch.arange(N_IMAGES)))
        child.communicate(timeout=120)
    assert child.returncode == 0
    theirs = torch.load(tmp_path / "found", weights_only=True)
    for (our,), their in zip(ours, theirs, strict=True):
        assert torch.equal(our, their)
    assert len(files_of(folder_of_store(store))) == len(left_in(folder_of_store(store))) == n_views
    assert {describe(path)["n_bytes"] for path in files_of(folder_of_store(store))} == {DEEP_BYTES}
    reader = open_store()
    for number, (our,) in enumerate(ours):
        found, spent = trial(reader, ViewedImages(images, number), DEEP)
        assert spent.macs == 0
        assert torch.equal(found[0], our)


# --- how much may be kept -----------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [0, 1, 10**15])
def test_numbers_given_are_taken_as_given(tmp_path: Path, n_bytes: int) -> None:
    chosen = choose_budget(CPU, tmp_path, memory_bytes=n_bytes, disk_bytes=n_bytes)
    assert chosen == Budget(memory_bytes=n_bytes, device_bytes=0, disk_bytes=n_bytes, folder=tmp_path)


def test_defaults_are_some_of_what_is_free(tmp_path: Path) -> None:
    chosen = choose_budget(CPU, tmp_path)
    assert 0 < chosen.memory_bytes < psutil.virtual_memory().available
    assert 0 < chosen.disk_bytes < shutil.disk_usage(tmp_path).free
    assert chosen.disk_bytes <= 8 * 2**30
    assert chosen.device_bytes == 0


def test_a_number_given_for_one_leaves_the_other_to_choose(tmp_path: Path) -> None:
    plain = choose_budget(CPU, tmp_path, memory_bytes=5)
    assert (plain.memory_bytes, plain.disk_bytes > 0) == (5, True)
    plain = choose_budget(CPU, tmp_path, disk_bytes=5)
    assert (plain.memory_bytes > 0, plain.disk_bytes) == (True, 5)


@pytest.mark.parametrize("folder", ["not/yet/there", "file/below"])
def test_a_folder_that_is_not_there_yet_is_judged_by_where_it_will_be(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").touch()
    assert choose_budget(CPU, tmp_path / folder).disk_bytes > 0
    assert not (tmp_path / folder).exists()


def test_a_relative_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert choose_budget(CPU, Path("not/yet")).disk_bytes > 0


def test_a_quarter_of_the_memory_that_is_free_is_for_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "free_memory_bytes", lambda: 1000)
    assert choose_budget(CPU, tmp_path).memory_bytes == 250
    assert choose_budget(CPU, tmp_path, memory_bytes=700).memory_bytes == 700
