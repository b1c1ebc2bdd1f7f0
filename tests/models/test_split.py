"""Contracts 1 and 2: both parts together are the model; the frozen one is a fixed function of an image."""

import copy
import pickle
from collections.abc import Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from depthsearch.errors import CutError, TraceError
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.models.freezing import freeze_before
from depthsearch.models.split import joined_state, split_at
from depthsearch.options.words import KINDS


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(8, 4, 1)
        self.expand = nn.Conv2d(4, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.se = SqueezeExcite()
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pointwise(self.se(F.silu(self.norm(self.depthwise(x)))))
        y *= self.scale
        y += x
        return y


class Dense(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return self.conv(self.act(self.norm(torch.cat(parts, 1))))


class SmallNet(nn.Module):
    """Holds what makes a split hard: several tensors alive, a layer run twice, a parameter used twice."""

    pretrained_cfg = {"input_size": (1, 8, 8), "classifier": "fc"}  # noqa: RUF012 - as timm has it

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block1 = Residual()
        self.block2 = Residual()
        self.dense1 = Dense(8)
        self.dense2 = Dense(12)
        self.twice = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.shift = nn.Parameter(torch.linspace(-1, 1, 16))
        self.norm2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.2)
        self.last = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu_(self.norm(self.stem(x)))
        x = F.avg_pool2d(self.block2(self.block1(x)), 2)
        height, width = x.shape[2:]
        parts = [x]
        parts.append(self.dense1(parts))
        parts.append(self.dense2(parts))
        x = torch.cat(parts, 1)
        shift = self.shift.view(1, -1, 1, 1)
        x = x + self.twice(F.gelu(self.twice(x) + shift))
        x = self.drop(self.norm2(x - shift))
        x = F.silu(self.last(x)).flatten(2)
        return self.fc(x.sum(-1) / (height * width))


CUTS = [
    "stem",
    "block1.depthwise",
    "block1.se.reduce",
    "block1.se.expand",
    "block1.pointwise",
    "block2.depthwise",
    "block2.se.reduce",
    "block2.se.expand",
    "block2.pointwise",
    "avg_pool2d",
    "dense1.conv",
    "dense2.cat",
    "dense2.conv",
    "twice",
    "twice_1",
    "last",
    "fc",
]
at_every_cut = pytest.mark.parametrize("name", CUTS)
at_some_cuts = pytest.mark.parametrize("name", ["stem", "block1.pointwise", "dense2.cat", "twice_1", "fc"])


@pytest.fixture
def model() -> nn.Module:
    """A small net with statistics that are not those it starts with."""
    torch.manual_seed(0)
    model = SmallNet()
    with torch.no_grad():
        for _ in range(3):
            model(digits()[:64])
    return model.eval()


@cache
def digits() -> torch.Tensor:
    return torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16


@cache
def cuts() -> list[Cut]:
    return list_cuts(SmallNet(), KINDS)


def cut_of(name: str) -> Cut:
    return find_cut(cuts(), name)


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(model.state_dict())


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def switches(model: nn.Module) -> list[tuple[str, bool]]:
    modes = [(name, module.training) for name, module in model.named_modules()]
    return modes + [(name, p.requires_grad) for name, p in model.named_parameters()]


def train(model: nn.Module, inputs: Iterator[object], n_steps: int = 3) -> None:
    """Fit random labels with SGD."""
    torch.manual_seed(1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    for _, batch in zip(range(n_steps), inputs, strict=False):
        loss = F.cross_entropy(model(batch), torch.randint(10, (32,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def batches() -> Iterator[torch.Tensor]:
    yield from digits().split(32)


def test_small_net_has_these_cuts(model):
    assert [cut.name for cut in list_cuts(model, KINDS)] == CUTS
    assert list_cuts(model, KINDS) == cuts()


@at_every_cut
def test_suffix_of_prefix_is_the_model(model, name):
    images = digits()[:8]
    split = split_at(model, cut_of(name))
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(images)), model(images))


@at_every_cut
def test_suffix_leaves_the_boundary_as_it_is(model, name):
    split = split_at(model, cut_of(name))
    boundary = split.prefix(digits()[:8])
    kept = [tensor.clone() for tensor in boundary]
    split.suffix(boundary)
    assert all(map(torch.equal, boundary, kept))


@at_every_cut
def test_boundary_has_the_bytes_that_the_cut_says(model, name):
    cut = cut_of(name)
    split = split_at(model, cut)
    n_bytes = sum(t.numel() * t.element_size() for t in split.prefix(digits()[:1]))
    assert n_bytes == cut.boundary_bytes == split.boundary_bytes


@at_every_cut
def test_suffix_trains_what_the_cut_says_and_the_head(model, name):
    cut = cut_of(name)
    split = split_at(model, cut)
    n_head = sum(p.numel() for p in model.fc.parameters())
    trainable = sum(p.numel() for p in split.suffix.parameters() if p.requires_grad)
    assert trainable == cut.trainable_parameters + n_head
    assert not any(p.requires_grad for p in split.prefix.parameters())


def test_macs_of_both_parts_are_those_of_the_model(model):
    splits = [split_at(model, cut) for cut in cuts()]
    assert len({split.prefix_macs + split.suffix_macs for split in splits}) == 1
    assert splits[0].prefix_macs == 0
    assert splits[-1].suffix_macs == 16 * 10


@at_every_cut
def test_training_changes_the_suffix_and_nothing_of_the_prefix(model, name):
    split = split_at(model, cut_of(name))
    before_prefix = state_of(split.prefix)
    before = {n: p.detach().clone() for n, p in split.suffix.named_parameters() if p.requires_grad}
    split.prefix.train()
    train(split.suffix, map(split.prefix, batches()))
    after = dict(split.suffix.named_parameters())
    assert same(state_of(split.prefix), before_prefix)
    assert [n for n, old in before.items() if after[n].grad is None or torch.equal(after[n], old)] == []


@at_some_cuts
def test_prefix_stays_in_eval_mode(model, name):
    split = split_at(model, cut_of(name))
    nn.Sequential(split.prefix, split.suffix).train()
    split.prefix.train()
    assert not any(module.training for module in split.prefix.modules())


def test_prefix_of_one_image_does_not_depend_on_the_others(model):
    split = split_at(model, cut_of("twice_1"))
    split.prefix.train()
    one = split.prefix(digits()[:8])
    other = split.prefix(torch.cat([digits()[:1], digits()[100:107]]))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(one, other, strict=True))


def test_layer_run_on_both_sides_is_frozen_in_the_suffix(model):
    suffix = split_at(model, cut_of("twice_1")).suffix.train()
    assert not suffix.graph.twice.weight.requires_grad
    assert not suffix.graph.twice.training
    assert suffix.graph.norm2.training


def test_parameter_used_on_both_sides_is_frozen_in_the_suffix(model):
    split = split_at(model, cut_of("twice_1"))
    assert not split.suffix.graph.shift.requires_grad


def test_weight_that_two_layers_share_is_frozen_in_the_suffix():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)
            self.b = nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.b(self.a(x)).mean((2, 3)))

    model = Tied()
    cut = find_cut(list_cuts(model, image_size=8), "b")
    split = split_at(model, cut, image_size=8)
    trainable = [n for n, p in split.suffix.named_parameters() if p.requires_grad]
    assert trainable == ["graph.b.bias", "graph.fc.weight", "graph.fc.bias"]
    assert cut.trainable_parameters == 3


@at_some_cuts
def test_joined_state_is_the_models_own_before_training(model, name):
    split = split_at(model, cut_of(name))
    assert same(joined_state(model, split), model.state_dict())


@at_every_cut
def test_joined_state_after_training_is_that_of_both_parts(model, name):
    split = split_at(model, cut_of(name))
    train(split.suffix, map(split.prefix, batches()))
    trained = SmallNet().eval()
    trained.load_state_dict(joined_state(model, split))
    with torch.no_grad():
        expected = split.suffix.eval()(split.prefix(digits()[:8]))
        assert torch.equal(trained(digits()[:8]), expected)
        assert not torch.equal(model(digits()[:8]), expected)


def test_joined_state_keeps_what_the_traced_model_never_uses(model):
    model.auxiliary = nn.Linear(2, 2)
    split = split_at(model, cut_of("dense1.conv"))
    assert torch.equal(joined_state(model, split)["auxiliary.weight"], model.auxiliary.weight)


@at_some_cuts
def test_split_leaves_the_model_as_it_was(model, name):
    model.block1.train()
    model.stem.requires_grad_(False)
    before, switched = state_of(model), switches(model)
    split = split_at(model, cut_of(name))
    train(split.suffix, map(split.prefix, batches()))
    assert same(model.state_dict(), before)
    assert switches(model) == switched


def test_model_is_as_it_was_after_an_error(model):
    model.block1.train()
    before, switched = state_of(model), switches(model)
    cut = cut_of("twice")
    with pytest.raises(
        TraceError, match=r"SmallNet does not run on one image of 1 x 1 x 1: .* another image"
    ):
        split_at(model, cut, image_size=1)
    assert same(model.state_dict(), before)
    assert switches(model) == switched


def test_cut_of_another_model_is_refused(model):
    other = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 2))
    cut = list_cuts(other, image_size=8)[1]
    for refuse in (split_at, freeze_before):
        with pytest.raises(CutError, match=r"SmallNet has no layer '1': .* Take one of list_cuts\(model\)"):
            refuse(model, cut)
    assert all(p.requires_grad for p in model.parameters())


@at_every_cut
def test_freezing_in_place_trains_the_same_weights_as_the_split(model, name):
    cut = cut_of(name)
    split = split_at(model, cut)
    train(split.suffix, map(split.prefix, batches()))
    expected = joined_state(model, split)
    freeze_before(model, cut)
    train(model.train(), batches())
    assert same(model.state_dict(), expected)


@at_every_cut
def test_freezing_in_place_freezes_what_the_split_freezes(model, name):
    cut = cut_of(name)
    keys = list(model.state_dict())
    freeze_before(model, cut)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    suffix = split_at(model, cut).suffix.graph
    split_off = {n for n, p in suffix.named_parameters() if p.requires_grad}
    assert trainable == split_off
    assert list(model.state_dict()) == keys


def modes(model: nn.Module) -> dict[str, bool]:
    watched = ("stem", "norm", "block1", "block1.norm", "block2", "block2.norm", "block2.se", "norm2", "")
    return {name: model.get_submodule(name).training for name in watched}


def test_frozen_modules_stay_in_eval_mode_and_the_others_follow(model):
    freeze_before(model, cut_of("block2.pointwise"))
    frozen = dict.fromkeys(modes(model), False)
    model.train()
    model.block1.train()
    model.block1.norm.train()
    # block2 goes on behind the cut, so its own mode follows.
    assert modes(model) == {**frozen, "block2": True, "norm2": True, "": True}
    model.eval()
    assert modes(model) == frozen


def test_undo_gives_everything_back(model):
    model.train()
    model.block2.eval()
    model.norm.requires_grad_(False)
    before = switches(model)
    frozen = freeze_before(model, cut_of("twice"))
    assert switches(model) != before
    frozen.undo()
    assert switches(model) == before
    model.train()
    assert all(module.training for module in model.modules())


def test_frozen_model_is_given_back_after_an_exception(model):
    model.train()
    before = switches(model)
    frozen = freeze_before(model, cut_of("twice"))
    assert not model.stem.weight.requires_grad
    with pytest.raises(RuntimeError, match="out of memory"), frozen:
        raise RuntimeError("out of memory")
    assert switches(model) == before


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_frozen_model_can_be_copied(model, copied):
    freeze_before(model, cut_of("block2.pointwise"))
    other = copied(model).train()
    assert modes(other) == modes(model.train())
    assert not other.norm.training
    assert same(other.state_dict(), model.state_dict())
    other.norm.running_mean.zero_()
    assert model.norm.running_mean.any()
