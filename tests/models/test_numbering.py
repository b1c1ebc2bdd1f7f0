import json
import os
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

os.environ.setdefault("KERAS_BACKEND", "torch")

import pytest
import timm
import torch
import torchvision
from torch import nn

from depthsearch.models.numbering import keras_architecture, number_layers
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace

ARCHITECTURES = {
    "DenseNet121": "densenet121",
    "DenseNet169": "densenet169",
    "DenseNet201": "densenet201",
    "EfficientNetB0": "efficientnet_b0",
    "InceptionV3": "inception_v3",
    "MobileNet": "mobilenetv1_100",
    "MobileNetV2": "mobilenetv2_100",
    "MobileNetV3Large": "mobilenetv3_large_100",
    "MobileNetV3Small": "mobilenetv3_small_100",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
}
# One of each kind is in the default run: of dense, mobile, residual and plain networks.
QUICK = {"DenseNet121", "MobileNet", "MobileNetV3Large", "ResNet50", "VGG16"}


def marked(names: Iterable[str]) -> list[Any]:
    return [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow], id=n) for n in names]


EACH = marked(ARCHITECTURES)
TORCHVISION = {
    "DenseNet121": "densenet121",
    "EfficientNetB0": "efficientnet_b0",
    "InceptionV3": "inception_v3",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Large": "mobilenet_v3_large",
    "MobileNetV3Small": "mobilenet_v3_small",
    "ResNet50": "resnet50",
    "VGG16": "vgg16",
}
TABLED = ("conv", "norm", "norm_act", "pool", "concat")


class KerasLayer(NamedTuple):
    name: str
    type: str
    shape: tuple[int, ...]  # of the kernel (h, w, in, out), or of a norm's scale
    sources: frozenset[str]  # names of all layers that its input is made from


@cache
def graph_of(name: str, **options: Any) -> LayerGraph:
    with torch.device("meta"):
        return trace(timm.create_model(name, **options), image_size=224)


def torchvision_graph(name: str) -> LayerGraph:
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        return trace(torchvision.models.get_model(name, weights=None, **options))


@cache
def keras_layers(architecture: str) -> list[KerasLayer]:
    keras = pytest.importorskip("keras")
    keras.backend.clear_session()
    build = getattr(keras.applications, architecture)
    with keras.device("meta"):
        model = build(weights=None, include_top=False, input_shape=(224, 224, 3))
    sources: dict[str, frozenset[str]] = {}
    for operation in model.operations:  # those without weights, such as x * y, are no layers
        tensors = [t for node in operation._inbound_nodes for t in node.input_tensors]
        makers = [t._keras_history.operation.name for t in tensors]
        sources[operation.name] = frozenset(makers).union(*(sources[m] for m in makers))
    return [KerasLayer(x.name, type(x).__name__, keras_shape(x), sources[x.name]) for x in model.layers]


def keras_shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.weights[0].shape) if layer.weights else ()


def as_keras(shape: tuple[int, ...], type_: str) -> tuple[int, ...]:
    if len(shape) < 4:
        return shape
    out, in_, height, width = shape
    return (height, width, out, in_) if type_ == "DepthwiseConv2D" else (height, width, in_, out)


def torch_sources(graph: LayerGraph) -> dict[str, set[str]]:
    """All layers, by name, that each layer's input is made from."""
    made: dict[Any, set[str]] = {}
    names = {layer.position: layer.name for layer in graph.layers}
    found = {}
    for position, node in enumerate(graph.nodes):
        before = set().union(*(made[n] for n in node.all_input_nodes))
        made[node] = before | {names[position]} if position in names else before
        if position in names:
            found[names[position]] = before
    return found


@pytest.fixture(scope="module")
def table() -> dict[str, Any]:
    text = files("depthsearch.models").joinpath("keras_layers.json").read_text(encoding="utf-8")
    architectures: dict[str, Any] = json.loads(text)["architectures"]
    return architectures


def test_table_holds_these_architectures(table):
    assert set(table) == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", EACH)
def test_table_agrees_with_the_installed_keras(table, architecture):
    printed = keras_layers(architecture)
    rows = table[architecture]["rows"]
    assert table[architecture]["n_layers"] == len(printed)
    for _, number, name, shape in rows:
        layer = printed[number - 1]
        assert (name, as_keras(tuple(shape), layer.type)) == (layer.name, layer.shape)


@pytest.mark.parametrize("architecture", EACH)
def test_table_lacks_no_keras_layer_of_its_kinds(table, architecture):
    in_keras = [
        layer.name
        for layer in keras_layers(architecture)
        if layer.type.endswith(("Conv2D", "BatchNormalization", "Pooling2D", "Concatenate"))
    ]
    assert sorted(in_keras) == sorted(name for _, _, name, _ in table[architecture]["rows"])


@pytest.mark.parametrize("architecture", EACH)
def test_timm_model_is_recognised_and_all_its_layers_of_these_kinds_are_found(table, architecture):
    graph = graph_of(ARCHITECTURES[architecture])
    numbered = number_layers(graph)
    assert keras_architecture(graph) == architecture
    assert list(numbered) == [layer.name for layer in graph.layers]
    for layer in graph.layers:
        in_keras = numbered[layer.name].number <= table[architecture]["n_layers"]
        if layer.kind in TABLED:
            assert (numbered[layer.name].keras_name is not None) == in_keras, layer.name


@pytest.mark.parametrize("architecture", EACH)
def test_each_layer_is_made_from_the_same_layers_as_its_keras_namesake(architecture):
    # Two branches may hold layers of one shape: what comes before a layer tells its role.
    graph = graph_of(ARCHITECTURES[architecture])
    names = {name: n.keras_name for name, n in number_layers(graph).items() if n.keras_name}
    # torch concatenates all of a dense block's outputs each time, Keras one more to the last: left out.
    joins = {layer.name for layer in keras_layers(architecture) if layer.type == "Concatenate"}
    compared = set(names.values()) - joins
    in_torch = torch_sources(graph)
    in_keras = {layer.name: layer.sources for layer in keras_layers(architecture)}
    for name, keras_name in names.items():
        sources = {names[s] for s in in_torch[name] if s in names}
        assert sources & compared == in_keras[keras_name] & compared, keras_name


@pytest.mark.parametrize(
    ("model", "number", "keras_name", "path"),
    [
        ("densenet121", 52, "pool2_conv", "features.transition1.conv"),
        ("densenet121", 56, "conv3_block1_1_conv", "features.denseblock2.denselayer1.conv1"),
        ("densenet121", 60, "conv3_block1_concat", "features.denseblock2.denselayer2.cat"),
        ("densenet121", 140, "pool3_conv", "features.transition2.conv"),
        ("densenet121", 144, "conv4_block1_1_conv", "features.denseblock3.denselayer1.conv1"),
        ("densenet121", 151, "conv4_block2_1_conv", "features.denseblock3.denselayer2.conv1"),
        ("densenet121", 312, "pool4_conv", "features.transition3.conv"),
        ("densenet121", 316, "conv5_block1_1_conv", "features.denseblock4.denselayer1.conv1"),
        ("densenet121", 425, "conv5_block16_concat", "features.denseblock4.cat"),
        ("mobilenetv1_100", 8, "conv_pw_1", "blocks.0.0.conv_pw"),
        ("mobilenetv1_100", 47, "conv_pw_7", "blocks.3.1.conv_pw"),
        ("mobilenetv1_100", 84, "conv_pw_13", "blocks.4.1.conv_pw"),
        ("resnet50", 14, "conv2_block1_0_conv", "layer1.0.downsample.0"),
        ("resnet50", 15, "conv2_block1_3_conv", "layer1.0.conv3"),
        ("vgg16", 16, "block5_conv1", "features.24"),
        ("vgg16", 19, "block5_pool", "features.30"),
    ],
)
def test_layer_has_the_number_that_keras_prints(model, number, keras_name, path):
    layer = number_layers(graph_of(model))[path]
    assert (layer.number, layer.keras_name) == (number, keras_name)


@pytest.mark.parametrize(
    ("model", "n_layers"),
    [
        ("densenet121", 427),
        ("mobilenetv1_100", 86),
        ("mobilenetv3_large_100", 187),
        ("resnet50", 175),
        pytest.param("efficientnet_b0", 237, marks=pytest.mark.slow),
        pytest.param("mobilenetv2_100", 154, marks=pytest.mark.slow),
        pytest.param("resnet101", 345, marks=pytest.mark.slow),
    ],
)
def test_head_counts_on_from_the_last_keras_layer(model, n_layers):
    numbered = number_layers(graph_of(model))
    assert numbered["global_pool.pool"].number == n_layers + 1
    assert max(n.number for n in numbered.values()) > n_layers + 1


def test_layer_that_keras_lacks_has_the_number_of_the_next_one():
    numbered = number_layers(graph_of("densenet121"))
    assert numbered["features.denseblock3.denselayer1.cat"].number == 142
    assert numbered["features.denseblock3.denselayer1.cat"].keras_name is None
    assert numbered["features.denseblock3.denselayer1.norm1"].number == 142


def test_sum_and_activation_behind_the_last_norm_are_the_last_keras_layers():
    numbered = number_layers(graph_of("resnet50"))
    assert [numbered[f"layer4.2.{name}"].number for name in ("bn3", "add", "act3")] == [173, 174, 175]


@pytest.mark.parametrize("architecture", marked(TORCHVISION))
def test_torchvision_model_has_the_numbers_of_the_timm_model(architecture):
    def in_keras(graph: LayerGraph) -> list[tuple[int, str]]:
        return [(n.number, n.keras_name) for n in number_layers(graph).values() if n.keras_name]

    graph = torchvision_graph(TORCHVISION[architecture])
    assert keras_architecture(graph) == architecture
    assert in_keras(graph) == in_keras(graph_of(ARCHITECTURES[architecture]))


@pytest.mark.parametrize("model", ["vgg16_bn", "resnet50d", "seresnet50", "densenet161", "convnext_atto"])
def test_model_that_keras_lacks_is_counted_in_execution_order(model):
    graph = graph_of(model)
    numbered = number_layers(graph)
    counted = [numbered[layer.name].number for layer in graph.layers if layer.kind != "identity"]
    assert keras_architecture(graph) is None
    assert all(n.keras_name is None for n in numbered.values())
    assert counted[0] == 2
    assert all(a < b for a, b in pairwise(counted))


def test_fused_norm_and_activation_count_as_two_layers():
    numbered = number_layers(graph_of("mobilenetv2_050"))
    stem = [numbered[name].number for name in ("conv_stem", "bn1")]
    block = [numbered[f"blocks.0.0.{name}"].number for name in ("conv_dw", "bn1", "aa", "se", "conv_pw")]
    assert stem + block == [2, 3, 5, 6, 8, 8, 8]


@pytest.mark.parametrize("model", ["tf_efficientnet_b0", "tf_mobilenetv3_large_100", "mobilenetv1_100h"])
def test_variant_of_the_same_structure_is_recognised(model):
    assert keras_architecture(graph_of(model)) is not None


@pytest.mark.parametrize("num_classes", [0, 7])
@pytest.mark.parametrize("architecture", ["DenseNet121", "MobileNetV3Large", "VGG16"])
def test_number_of_classes_does_not_matter(architecture, num_classes):
    graph = graph_of(ARCHITECTURES[architecture], num_classes=num_classes)
    assert keras_architecture(graph) == architecture


def test_model_without_counted_layers_has_numbers():
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.same(x)

    assert [n.number for n in number_layers(trace(Same())).values()] == [1]
