"""A split is checked, not believed: what tracing would lose is kept, or refused with its cause."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depthsearch import freeze_before, joined_state, list_cuts, split_at
from depthsearch.errors import CutError, TraceError
from depthsearch.models import checking
from depthsearch.models.split import check_traced
from depthsearch.models.tracing.trace import trace


class Net(nn.Module):
    """Three convolutions, two with batch norm; what makes a network hard to follow is added by others."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv3, self.norm3 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 4)

    def early(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm1(self.conv1(x)))

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.between(self.early(x))
        return self.fc(F.relu(self.norm3(self.conv3(x))).mean((2, 3)))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


sign = Sign.apply


class StraightThrough(Net):
    def between(self, x):
        return sign(self.conv2(x))


class StraightThroughModule(nn.Module):
    def forward(self, x):
        return sign(x)


class Around(Net):
    """Runs a module of its own in the middle."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def between(self, x):
        return self.inner(self.conv2(x))


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.b(self.a(x)).float()


class GradientsOff(Autocast):
    def forward(self, x):
        with torch.no_grad():
            x = self.a(x)
        return self.b(x)


class DropsPaths(Autocast):
    """Stochastic depth as people write it."""

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        if self.training:
            y = y * (torch.rand([x.shape[0], 1, 1, 1]) > 0.5)
        return x + y


class FusedAttention(nn.Module):
    """Asks for the mode to choose a number, as timm's attention does; without dropout both are the same."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.qkv, self.out, self.dropout = nn.Linear(8, 24), nn.Linear(8, 8), dropout

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        rate = self.dropout if self.training else 0.0
        y = self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=rate))
        return x + y.transpose(1, 2).reshape(x.shape)


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(4, channels, 16, 16, generator=torch.Generator().manual_seed(0))


def assert_trains_as_the_model(model: nn.Module, name: str) -> None:
    """Train one step, split and whole, with the same random numbers; compare all weights and statistics."""
    x = images()
    cut = next(cut for cut in list_cuts(model, image_size=16) if cut.name == name)
    split = split_at(model, cut)
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(x)), model.eval()(x))
    torch.manual_seed(1)
    split.suffix.train()
    step(split.suffix, split.suffix(split.prefix(x)))
    whole = copy.deepcopy(model)
    freeze_before(whole, cut)
    torch.manual_seed(1)
    step(whole, whole.train()(x))
    expected, found = whole.state_dict(), joined_state(model, split)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def step(part: nn.Module, logits: torch.Tensor) -> None:
    learning = [p for p in part.parameters() if p.requires_grad]
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    torch.optim.SGD(learning, lr=0.1).step()


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3", "fc"])
@pytest.mark.parametrize(
    "inner",
    [StraightThroughModule, Autocast, GradientsOff, DropsPaths, lambda: FusedAttention(0.5)],
    ids=["straight-through", "autocast", "no_grad", "stochastic depth", "attention with dropout"],
)
def test_what_tracing_would_lose_in_a_module_is_run_as_it_is(inner, name):
    torch.manual_seed(0)
    assert_trains_as_the_model(Around(inner()), name)


@pytest.mark.parametrize(
    ("inner", "reason"),
    [
        (Autocast, "it switches torch.autocast inside forward()"),
        (GradientsOff, "it switches gradients off inside forward()"),
        (DropsPaths, "it does something else in training"),
        (lambda: FusedAttention(0.5), "it does something else in training"),
    ],
)
def test_what_is_kept_whole_says_why(inner, reason):
    assert trace(Around(inner()), image_size=16).opaque == {"inner": reason}


def test_a_branch_on_the_mode_that_changes_nothing_keeps_its_cuts():
    graph = trace(Around(FusedAttention(0.0)), image_size=16)
    assert graph.opaque == {}
    assert "inner.qkv" in [layer.name for layer in graph.layers]


def test_a_custom_autograd_function_in_the_models_own_forward_is_refused_by_name():
    with pytest.raises(TraceError, match=r"own forward\(\) stops torch.fx \(it calls Sign, a torch.autograd"):
        list_cuts(StraightThrough(), image_size=16)


def test_autocast_in_the_models_own_forward_is_refused_by_name():
    class Model(Net):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x)

    with pytest.raises(TraceError, match=r"stops torch.fx \(it switches torch.autocast inside forward"):
        list_cuts(Model(), image_size=16)


def test_noise_in_training_in_the_models_own_forward_is_refused_with_its_cause():
    class Noisy(Net):
        def between(self, x):
            x = super().between(x)
            return x + torch.randn_like(x) if self.training else x

    model = Noisy()
    message = (
        r"^Noisy trains otherwise .*gradients differ \(.*\), as forward\(\) of Noisy does something else in"
    )
    with pytest.raises(TraceError, match=message):
        split_at(model, list_cuts(model, image_size=16)[1])


def test_functional_dropout_and_batch_norm_follow_the_mode_behind_the_cut():
    class Functional(Net):
        def between(self, x):
            x = F.dropout(super().between(x), 0.5, self.training)
            return F.batch_norm(x, None, None, training=True)

    torch.manual_seed(0)
    assert_trains_as_the_model(Functional(), "conv2")


def test_a_forward_replaced_on_the_instance_is_followed():
    torch.manual_seed(0)
    model = Net().eval()
    inner = model.forward
    model.forward = lambda x: 2 * inner(x)
    split = split_at(model, list_cuts(model, image_size=16)[1])
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(images())), model(images()))


def test_a_forward_replaced_on_a_layer_is_followed():
    torch.manual_seed(0)
    model = Net().eval()
    inner = model.conv2.forward
    model.conv2.forward = lambda x: inner(x) + 1
    split = split_at(model, list_cuts(model, image_size=16)[-1])
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(images())), model(images()))


def test_hooks_of_the_whole_model_are_run():
    torch.manual_seed(0)
    model = Net().eval()
    model.register_forward_pre_hook(lambda _, args: ((args[0] - 0.5) / 0.2,))
    model.register_forward_pre_hook(lambda _, args, kwargs: ((2 * args[0],), kwargs), with_kwargs=True)
    model.register_forward_hook(lambda _, __, output: output * 3)
    for cut in list_cuts(model, image_size=16):
        split = split_at(model, cut)
        with torch.no_grad():
            assert torch.equal(split.suffix.eval()(split.prefix(images())), model(images())), cut


def test_hooks_of_a_module_keep_it_whole_and_are_run():
    torch.manual_seed(0)
    model = Around(DropsPaths()).eval()
    model.inner.register_forward_hook(lambda _, __, output: output.clamp(max=0.1))
    assert trace(model, image_size=16).opaque == {"inner": "it has hooks"}
    assert_trains_as_the_model(model, "conv3")


def test_hooks_see_tensors_only():
    seen: list[type] = []
    model = Net()

    def look(_, args, output):
        seen.extend(type(value) for value in (*args, output) if not isinstance(value, tuple))

    model.conv2.register_forward_hook(look)
    model.register_forward_hook(look)
    everywhere = nn.modules.module.register_module_forward_hook(look)
    try:
        split_at(model, list_cuts(model, image_size=16)[1])
    finally:
        everywhere.remove()
    assert set(seen) <= {torch.Tensor}


def test_what_forward_keeps_on_the_model_is_not_there_afterwards():
    class Keeps(Net):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[torch.Tensor] = []

        def between(self, x):
            self.features = x
            self.seen.append(x)
            return super().between(x) + torch.ones(8, 1, 1)

    model = Keeps()
    attributes, state = set(vars(model)), list(model.state_dict())
    split_at(model, list_cuts(model, image_size=16)[1])
    assert (set(vars(model)), model.seen, list(model.state_dict())) == (attributes, [], state)
    copy.deepcopy(model)


def test_a_check_leaves_weights_statistics_modes_gradients_and_random_numbers_as_they_are():
    model = Net()
    model.norm3.eval()
    model.conv1.requires_grad_(False)
    model.fc.weight.grad = torch.ones(4, 16)
    state = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert check_traced(trace(model, image_size=17), model)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False, False] + [True] * 10
    assert torch.equal(model.fc.weight.grad, torch.ones(4, 16))
    assert model.fc.bias.grad is None
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == drawn[1:]


def test_networks_of_one_structure_are_checked_once():
    model = Net()
    graph = trace(model, image_size=18)
    assert check_traced(graph, model)
    assert not check_traced(graph, model)
    assert not check_traced(trace(Net(), image_size=18), Net())
    assert check_traced(trace(Net(), image_size=19), Net())
    hooked = Net()
    hooked.register_forward_hook(lambda _, __, output: output)
    assert check_traced(trace(hooked, image_size=18), hooked)


def test_an_output_that_differs_names_the_module(monkeypatch):
    model = Net().eval()
    graph = trace(model, image_size=16)
    # As if tracing had lost what the model does to its second convolution's output.
    model.conv2.register_forward_hook(lambda _, __, output: output + 1)
    graph.traced.conv2 = copy.deepcopy(graph.traced.conv2)
    graph.traced.conv2._forward_hooks.clear()
    monkeypatch.setattr(checking, "_checked", {})
    copied = nn.Module()
    copied.graph = graph.traced
    copied.forward = lambda given: graph.traced(*given)
    message = r"^Net computes something else .* differ in eval mode, first at or before its module 'conv2'\.$"
    with pytest.raises(TraceError, match=message):
        checking.check_trace(graph, model, lambda: copied)


def test_a_model_whose_output_is_random_in_eval_mode_is_refused():
    class Random(Net):
        def between(self, x):
            return super().between(x) + torch.rand(1)

    model = Random()
    torch.manual_seed(0)
    for refuse in (split_at, freeze_before):
        with pytest.raises(CutError, match=r"^Random cannot be frozen .*: the model gives two outputs for"):
            refuse(model, list_cuts(model, image_size=16)[1])


def test_code_that_asks_for_its_mode_on_both_sides_of_a_cut_is_not_frozen_in_part():
    class Both(Net):
        def early(self, x):
            return F.dropout(super().early(x), 0.5, self.training)

        def between(self, x):
            return F.dropout(super().between(x), 0.5, self.training)

    model = Both()
    cuts = {cut.name: cut for cut in list_cuts(model, image_size=16)}
    with pytest.raises(CutError, match=r"^Both itself asks for its mode .* before and behind layer .*conv2"):
        freeze_before(model, cuts["conv2"])
    assert all(p.requires_grad for p in model.parameters())
    freeze_before(model, cuts["conv3"])
    model.train()
    with torch.no_grad():
        given: list[torch.Tensor] = []
        model.conv3.register_forward_pre_hook(lambda _, args: given.append(args[0]))
        model(images())
        model(images())
    assert torch.equal(*given)
