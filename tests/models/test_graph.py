"""Layers of a traced model: their order, kinds, costs and owners, and what tracing leaves behind."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from depthsearch.errors import TraceError
from depthsearch.models.tracing.graph import Layer, LayerGraph
from depthsearch.models.tracing.trace import trace


class Kinds(nn.Module):
    """One operation of each kind that is told by more than the class of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.fused = timm.layers.BatchNormAct2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 16, 1, groups=2)
        self.se = timm.layers.SqueezeExcite(16)
        self.register_buffer("blur", torch.ones(16, 1, 2, 2) / 4)
        self.kernel = nn.Parameter(torch.randn(16, 16, 1, 1))
        self.fc = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.depthwise(self.fused(self.norm(self.plain(x)))))
        x = F.avg_pool2d(torch.cat([self.se(x)], 1), 2)
        x = F.conv2d(x, self.blur, stride=2, groups=16)
        x = torch.cat([x, F.conv2d(x, self.kernel)], 1)
        x = x / x.mean(1, keepdim=True).abs().amax()
        return self.fc(x.mean((2, 3)))


def kinds_of(graph: LayerGraph) -> list[tuple[str, str]]:
    return [(layer.name, layer.kind) for layer in graph.layers]


def by_name(graph: LayerGraph) -> dict[str, Layer]:
    return {layer.name: layer for layer in graph.layers}


@pytest.fixture
def kinds() -> LayerGraph:
    return trace(Kinds(), image_size=8)


def test_layers_stand_in_execution_order_with_their_kinds(kinds):
    assert kinds_of(kinds) == [
        ("plain", "conv"),
        ("norm", "norm"),
        ("fused", "norm_act"),
        ("depthwise", "conv"),
        ("grouped", "conv"),
        ("se.mean", "pool"),
        ("se.fc1", "conv"),
        ("se.bn", "identity"),
        ("se.act", "other"),
        ("se.fc2", "conv"),
        ("se.gate.sigmoid", "other"),
        ("se.mul", "other"),
        ("cat", "identity"),
        ("avg_pool2d", "pool"),
        ("conv2d", "pool"),
        ("conv2d_1", "conv"),
        ("cat_1", "concat"),
        ("mean", "other"),
        ("abs", "other"),
        ("amax", "other"),
        ("truediv", "other"),
        ("mean_1", "pool"),
        ("fc", "other"),
    ]
    positions = [layer.position for layer in kinds.layers]
    assert positions == sorted(set(positions))


def test_execution_order_is_not_that_of_construction():
    class Swapped(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](self[1](x)).mean((2, 3))

    graph = trace(Swapped(nn.Conv2d(4, 2, 1), nn.Conv2d(3, 4, 1)), image_size=8)
    assert [layer.name for layer in graph.layers] == ["1", "0", "mean"]


@pytest.mark.parametrize(
    ("dims", "kind"),
    [
        ((2, 3), "pool"),
        ([-2, -1], "pool"),
        ((1, 2), "pool"),
        (1, "other"),
        ((1,), "other"),
        ((0, 1), "other"),
    ],
)
def test_mean_is_a_pooling_over_height_and_width_only(dims, kind):
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dims)

    assert kinds_of(trace(Mean(), image_size=8)) == [("mean", kind)]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "convnext_atto", "seresnet18", "dm_nfnet_f0"])
def test_every_parameter_and_buffer_is_owned_once(name):
    with torch.device("meta"):
        model = timm.create_model(name)
        graph = trace(model, image_size=64)
    owned = [tensor for layer in graph.layers for tensor in layer.tensors]
    assert sorted(owned) == sorted(model.state_dict())
    n_parameters = sum(p.numel() for p in model.parameters())
    assert sum(layer.parameters for layer in graph.layers) == n_parameters


def test_tensor_used_twice_belongs_to_its_first_use():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))
            self.conv = nn.Conv2d(3, 3, 1)
            self.tied = nn.Conv2d(3, 3, 1)
            self.tied.weight = self.conv.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(self.conv(x * self.scale))
            return self.tied(x + self.scale).mean((2, 3))

    owned = {layer.name: layer.tensors for layer in trace(Twice(), image_size=8).layers if layer.tensors}
    assert owned == {"mul": ("scale",), "conv": ("conv.weight", "conv.bias"), "tied": ("tied.bias",)}


def test_macs_are_those_counted_by_hand(kinds):
    macs = {name: layer.macs for name, layer in by_name(kinds).items() if layer.macs}
    assert macs == {
        "plain": 8 * 8 * 8 * 3 * 9,
        "depthwise": 8 * 8 * 8 * 9,
        "grouped": 8 * 8 * 16 * 4,
        "se.fc1": 16 * 8,
        "se.fc2": 8 * 16,
        "conv2d": 2 * 2 * 16 * 4,
        "conv2d_1": 2 * 2 * 16 * 16,
        "fc": 32 * 5,
    }


@pytest.mark.parametrize(
    ("name", "giga_macs"),
    [("resnet50", 4.09), ("densenet121", 2.83), ("vgg16", 15.47), ("mobilenetv2_100", 0.30)],
)
def test_macs_are_the_published_ones(name, giga_macs):
    with torch.device("meta"):
        graph = trace(timm.create_model(name))
    assert sum(layer.macs for layer in graph.layers) / 1e9 == pytest.approx(giga_macs, abs=0.01)


def test_macs_follow_the_image_size():
    with torch.device("meta"):
        model = timm.create_model("vgg11")
        small, large = trace(model, image_size=112), trace(model, image_size=224)
    assert by_name(large)["features.0"].macs == 4 * by_name(small)["features.0"].macs
    assert (small.image_size, large.image_size) == (112, 224)


def test_image_size_is_that_of_the_timm_configuration():
    with torch.device("meta"):
        assert trace(timm.create_model("inception_v3")).image_size == 299
        assert trace(nn.Sequential(nn.Conv2d(3, 4, 1))).image_size == 224


class NeedsEvenSum(nn.Module):
    """Branches on a tensor's values, which torch.fx cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)
        self.b = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(x))
        return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))


class Around(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.inner = inner
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.inner(self.stem(x)))


def test_module_that_cannot_be_entered_is_kept_whole():
    graph = trace(Around(nn.Sequential(NeedsEvenSum())), image_size=8)
    assert list(graph.opaque) == ["inner.0"]
    layer = by_name(graph)["inner.0"]
    assert layer.tensors == ("inner.0.a.weight", "inner.0.a.bias", "inner.0.b.weight", "inner.0.b.bias")
    assert layer.macs == 8 * 8 * (3 * 4 + 4 * 4)
    assert layer.kind == "other"


def test_model_that_can_be_entered_has_no_opaque_module():
    assert trace(nn.Sequential(nn.Conv2d(3, 3, 1), Kinds()), image_size=8).opaque == {}


def test_model_that_branches_on_values_itself_is_an_error():
    message = r"NeedsEvenSum cannot be traced: its own forward\(\) stops torch.fx \(it branches on a tensor\)"
    with pytest.raises(TraceError, match=message):
        trace(NeedsEvenSum(), image_size=8)


def test_wrong_image_size_is_an_error_of_one_line():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2 * 8 * 8, 5))
    message = r"^Sequential does not run on one image of 3 x 16 x 16: .*mat1 .* Give another image size\.$"
    with pytest.raises(TraceError, match=message) as caught:
        trace(model, image_size=16)
    assert "\n" not in str(caught.value)


def test_model_that_returns_no_logits_is_an_error():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"boxes": self.conv(x), "scores": x}

    with pytest.raises(TraceError, match=r"^Named returns dict, in which there are no logits: .*\. Wrap it "):
        trace(Named(), image_size=8)


class FailsWhenRun(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(-1, 7)


@pytest.mark.parametrize(
    ("inner", "message"),
    [(Kinds(), None), (FailsWhenRun(), "does not run on one image"), (NeedsEvenSum(), "cannot be traced")],
)
def test_model_is_left_as_it_was(inner, message):
    model = inner if message == "cannot be traced" else nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), inner)
    model.train()
    next(m for m in model.modules() if not any(m.children())).eval()
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    before = copy.deepcopy(model)
    if message:
        with pytest.raises(TraceError, match=message):
            trace(model, image_size=8)
    else:
        trace(model, image_size=8)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in before.parameters()]
    state = before.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_functional_dropout_follows_the_mode():
    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.dropout(self.conv(x), 0.5, self.training)

    model = Drops()
    traced = trace(model, image_size=8).traced
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(traced.eval()(images), model.eval()(images))
    assert (traced.train()(images) == 0).float().mean() > 0.3


def test_literal_training_flag_stays():
    class Standardised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True)
            return F.conv2d(x, weight.reshape_as(self.weight))

    model = Standardised().eval()
    traced = trace(model, image_size=8).traced
    images = torch.randn(2, 3, 8, 8)
    for mode in (True, False):
        assert torch.equal(traced.train(mode)(images), model(images))


def test_boundary_holds_the_tensors_alive_across_a_position():
    model = timm.create_model("resnet18")
    graph = trace(model, image_size=64)
    layer = by_name(graph)["layer2.0.conv2"]
    boundary = graph.boundary(layer.position)
    assert [str(node) for node in boundary] == ["layer1_1_act2", "layer2_0_aa"]
    assert [graph.bytes_per_image[node] for node in boundary] == [64 * 16 * 16 * 4, 128 * 8 * 8 * 4]


def test_a_lack_of_memory_is_no_wrong_image_size():
    class Hungry(nn.Module):
        def __init__(self, error):
            super().__init__()
            self.conv, self.error = nn.Conv2d(3, 4, 1), error

        def forward(self, x):
            raise self.error

    for error in (MemoryError("128 TiB"), torch.OutOfMemoryError("128 TiB")):
        with pytest.raises(type(error), match="128 TiB"):
            trace(nn.Sequential(nn.Conv2d(3, 3, 1), Around(Hungry(error))), image_size=8)
