"""Generate ``src/depthsearch/models/keras_layers.json``: layers of Keras in torch's order.

    python tools/make_keras_layers.py

Keras and timm build the same networks, name their layers differently and run some in another order: Keras
puts ResNet's shortcut convolution before the last one of its block, torch runs it after. So a layer is looked
up by its role: the rules below map each Keras convolution, batch norm, pooling and concatenation to the timm
layer with the same role. A layer without a counterpart on either side, one claimed twice, or a pair of
different shapes is an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import timm
import torch

from depthsearch.models.tracing.graph import Layer
from depthsearch.models.tracing.trace import trace

TABLE = Path(__file__).parents[1] / "src" / "depthsearch" / "models" / "keras_layers.json"
KINDS = {
    "Conv2D": "conv",
    "DepthwiseConv2D": "conv",
    "BatchNormalization": "norm",
    "MaxPooling2D": "pool",
    "AveragePooling2D": "pool",
    "GlobalAveragePooling2D": "pool",
    "Concatenate": "concat",
}

# From a pattern of Keras names to the path of the timm layer; groups of digits arrive as numbers. Of several
# paths the first that the model has is meant. "blocks[i]" is block i of timm's, counted over all its stages.
Rules = dict[str, Callable[..., str | tuple[str, ...]]]

DENSENET: Rules = {
    r"conv1_conv": lambda: "features.conv0",
    r"conv1_bn": lambda: "features.norm0",
    r"pool1": lambda: "features.pool0",
    r"conv(\d)_block(\d+)_0_bn": lambda s, b: f"features.denseblock{s - 1}.denselayer{b}.norm1",
    r"conv(\d)_block(\d+)_1_bn": lambda s, b: f"features.denseblock{s - 1}.denselayer{b}.norm2",
    r"conv(\d)_block(\d+)_(\d)_conv": lambda s, b, i: f"features.denseblock{s - 1}.denselayer{b}.conv{i}",
    # What Keras concatenates at a layer's end, torch does at the next one's start, or at the block's end.
    r"conv(\d)_block(\d+)_concat": lambda s, b: (
        f"features.denseblock{s - 1}.denselayer{b + 1}.cat",
        f"features.denseblock{s - 1}.cat",
    ),
    r"pool(\d)_bn": lambda s: f"features.transition{s - 1}.norm",
    r"pool(\d)_conv": lambda s: f"features.transition{s - 1}.conv",
    r"pool(\d)_pool": lambda s: f"features.transition{s - 1}.pool",
    r"bn": lambda: "features.norm5",
}

MOBILENET: Rules = {
    r"conv1": lambda: "conv_stem",
    r"conv1_bn": lambda: "bn1",
    r"conv_dw_(\d+)": lambda i: f"blocks[{i - 1}].conv_dw",
    r"conv_dw_(\d+)_bn": lambda i: f"blocks[{i - 1}].bn1",
    r"conv_pw_(\d+)": lambda i: f"blocks[{i - 1}].conv_pw",
    r"conv_pw_(\d+)_bn": lambda i: f"blocks[{i - 1}].bn2",
}

MOBILENET_V2: Rules = {
    r"Conv1": lambda: "conv_stem",
    r"bn_Conv1": lambda: "bn1",
    r"expanded_conv_depthwise": lambda: "blocks[0].conv_dw",
    r"expanded_conv_depthwise_BN": lambda: "blocks[0].bn1",
    r"expanded_conv_project": lambda: "blocks[0].conv_pw",
    r"expanded_conv_project_BN": lambda: "blocks[0].bn2",
    r"block_(\d+)_expand": lambda i: f"blocks[{i}].conv_pw",
    r"block_(\d+)_expand_BN": lambda i: f"blocks[{i}].bn1",
    r"block_(\d+)_depthwise": lambda i: f"blocks[{i}].conv_dw",
    r"block_(\d+)_depthwise_BN": lambda i: f"blocks[{i}].bn2",
    r"block_(\d+)_project": lambda i: f"blocks[{i}].conv_pwl",
    r"block_(\d+)_project_BN": lambda i: f"blocks[{i}].bn3",
    r"Conv_1": lambda: "conv_head",
    r"Conv_1_bn": lambda: "bn2",
}

MOBILENET_V3: Rules = {
    r"conv": lambda: "conv_stem",
    r"conv_bn": lambda: "bn1",
    r"expanded_conv_depthwise": lambda: "blocks[0].conv_dw",
    r"expanded_conv_depthwise_bn": lambda: "blocks[0].bn1",
    r"expanded_conv_squeeze_excite_avg_pool": lambda: "blocks[0].se.mean",
    r"expanded_conv_squeeze_excite_conv": lambda: "blocks[0].se.conv_reduce",
    r"expanded_conv_squeeze_excite_conv_1": lambda: "blocks[0].se.conv_expand",
    r"expanded_conv_project": lambda: "blocks[0].conv_pw",
    r"expanded_conv_project_bn": lambda: "blocks[0].bn2",
    r"expanded_conv_(\d+)_expand": lambda i: f"blocks[{i}].conv_pw",
    r"expanded_conv_(\d+)_expand_bn": lambda i: f"blocks[{i}].bn1",
    r"expanded_conv_(\d+)_depthwise": lambda i: f"blocks[{i}].conv_dw",
    r"expanded_conv_(\d+)_depthwise_bn": lambda i: f"blocks[{i}].bn2",
    r"expanded_conv_(\d+)_squeeze_excite_avg_pool": lambda i: f"blocks[{i}].se.mean",
    r"expanded_conv_(\d+)_squeeze_excite_conv": lambda i: f"blocks[{i}].se.conv_reduce",
    r"expanded_conv_(\d+)_squeeze_excite_conv_1": lambda i: f"blocks[{i}].se.conv_expand",
    r"expanded_conv_(\d+)_project": lambda i: f"blocks[{i}].conv_pwl",
    r"expanded_conv_(\d+)_project_bn": lambda i: f"blocks[{i}].bn3",
    r"conv_1": lambda: "blocks[-1].conv",
    r"conv_1_bn": lambda: "blocks[-1].bn1",
}


def _efficientnet_block(stage: int, letter: str) -> str:
    return f"blocks.{stage - 1}.{ord(letter) - ord('a')}"


EFFICIENTNET: Rules = {
    r"stem_conv": lambda: "conv_stem",
    r"stem_bn": lambda: "bn1",
    # Stage 1 does not expand, so its norms and projection are numbered one lower.
    r"block1([a-z])_bn": lambda b: f"{_efficientnet_block(1, b)}.bn1",
    r"block1([a-z])_project_conv": lambda b: f"{_efficientnet_block(1, b)}.conv_pw",
    r"block1([a-z])_project_bn": lambda b: f"{_efficientnet_block(1, b)}.bn2",
    r"block(\d)([a-z])_expand_conv": lambda s, b: f"{_efficientnet_block(s, b)}.conv_pw",
    r"block(\d)([a-z])_expand_bn": lambda s, b: f"{_efficientnet_block(s, b)}.bn1",
    r"block(\d)([a-z])_dwconv": lambda s, b: f"{_efficientnet_block(s, b)}.conv_dw",
    r"block(\d)([a-z])_bn": lambda s, b: f"{_efficientnet_block(s, b)}.bn2",
    r"block(\d)([a-z])_se_squeeze": lambda s, b: f"{_efficientnet_block(s, b)}.se.mean",
    r"block(\d)([a-z])_se_(reduce|expand)": lambda s, b, w: f"{_efficientnet_block(s, b)}.se.conv_{w}",
    r"block(\d)([a-z])_project_conv": lambda s, b: f"{_efficientnet_block(s, b)}.conv_pwl",
    r"block(\d)([a-z])_project_bn": lambda s, b: f"{_efficientnet_block(s, b)}.bn3",
    r"top_conv": lambda: "conv_head",
    r"top_bn": lambda: "bn2",
}

RESNET: Rules = {
    r"conv1_conv": lambda: "conv1",
    r"conv1_bn": lambda: "bn1",
    r"pool1_pool": lambda: "maxpool",
    r"conv(\d)_block(\d+)_0_conv": lambda s, b: f"layer{s - 1}.{b - 1}.downsample.0",
    r"conv(\d)_block(\d+)_0_bn": lambda s, b: f"layer{s - 1}.{b - 1}.downsample.1",
    r"conv(\d)_block(\d+)_(\d)_conv": lambda s, b, i: f"layer{s - 1}.{b - 1}.conv{i}",
    r"conv(\d)_block(\d+)_(\d)_bn": lambda s, b, i: f"layer{s - 1}.{b - 1}.bn{i}",
}


def _vgg(n_convs: Sequence[int]) -> Rules:
    """Make the rules for a VGG: timm counts activations too, in one sequence over all blocks."""
    starts = [sum(2 * n + 1 for n in n_convs[:block]) for block in range(len(n_convs))]
    return {
        r"block(\d)_conv(\d)": lambda b, i: f"features.{starts[b - 1] + 2 * (i - 1)}",
        r"block(\d)_pool": lambda b: f"features.{starts[b - 1] + 2 * n_convs[b - 1]}",
    }


VGG16 = _vgg((2, 2, 3, 3, 3))
VGG19 = _vgg((2, 2, 4, 4, 4))


def _inception_modules() -> Iterator[tuple[str, Sequence[str]]]:
    """Yield timm's modules with their convolutions, in the order in which Keras creates and counts them."""
    dbl = [f"branch3x3dbl_{i}" for i in (1, 2, 3)]
    sevens = [f"branch7x7_{i}" for i in (1, 2, 3)] + [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)]
    last = ["branch3x3_1", "branch3x3_2a", "branch3x3_2b"]
    last += ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a", "branch3x3dbl_3b"]
    for letter in "bcd":
        yield f"Mixed_5{letter}", ["branch1x1", "branch5x5_1", "branch5x5_2", *dbl, "branch_pool"]
    yield "Mixed_6a", ["branch3x3", *dbl]
    for letter in "bcde":
        yield f"Mixed_6{letter}", ["branch1x1", *sevens, "branch_pool"]
    yield "Mixed_7a", ["branch3x3_1", "branch3x3_2", *(f"branch7x7x3_{i}" for i in (1, 2, 3, 4))]
    for letter in "bc":
        yield f"Mixed_7{letter}", ["branch1x1", *last, "branch_pool"]


INCEPTION_STEM = ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"]
INCEPTION_CONVS = [*INCEPTION_STEM, *(f"{m}.{conv}" for m, convs in _inception_modules() for conv in convs)]
INCEPTION_MIXED = [module for module, _ in _inception_modules()]
INCEPTION_AVERAGED = [module for module, convs in _inception_modules() if "branch_pool" in convs]
INCEPTION_MAX_POOLS = ["Pool1", "Pool2", "Mixed_6a.max_pool2d", "Mixed_7a.max_pool2d"]

# Keras counts the layers that it is given no name for; the first of each class has no number.
INCEPTION: Rules = {
    r"conv2d(?:_(\d+))?": lambda i: f"{INCEPTION_CONVS[i or 0]}.conv",
    r"batch_normalization(?:_(\d+))?": lambda i: f"{INCEPTION_CONVS[i or 0]}.bn",
    r"max_pooling2d(?:_(\d+))?": lambda i: INCEPTION_MAX_POOLS[i or 0],
    r"average_pooling2d(?:_(\d+))?": lambda i: f"{INCEPTION_AVERAGED[i or 0]}.avg_pool2d",
    # The last two modules first join the two halves of a branch, twice.
    r"mixed9_(\d)": lambda i: f"{INCEPTION_MIXED[9 + i]}.cat",
    r"concatenate(?:_(\d))?": lambda i: f"{INCEPTION_MIXED[9 + (i or 0)]}.cat_1",
    r"mixed(9|10)": lambda i: f"{INCEPTION_MIXED[i]}.cat_2",
    r"mixed(\d)": lambda i: f"{INCEPTION_MIXED[i]}.cat",
}

ARCHITECTURES: dict[str, tuple[str, Rules]] = {
    "DenseNet121": ("densenet121", DENSENET),
    "DenseNet169": ("densenet169", DENSENET),
    "DenseNet201": ("densenet201", DENSENET),
    "EfficientNetB0": ("efficientnet_b0", EFFICIENTNET),
    "InceptionV3": ("inception_v3", INCEPTION),
    "MobileNet": ("mobilenetv1_100", MOBILENET),
    "MobileNetV2": ("mobilenetv2_100", MOBILENET_V2),
    "MobileNetV3Large": ("mobilenetv3_large_100", MOBILENET_V3),
    "MobileNetV3Small": ("mobilenetv3_small_100", MOBILENET_V3),
    "ResNet50": ("resnet50", RESNET),
    "ResNet101": ("resnet101", RESNET),
    "ResNet152": ("resnet152", RESNET),
    "VGG16": ("vgg16", VGG16),
    "VGG19": ("vgg19", VGG19),
}


def keras_layers(architecture: str) -> list[Any]:
    """Build a Keras model without its classifier and list its layers, as it prints them."""
    keras.backend.clear_session()  # names such as "conv2d_17" count from here
    build = getattr(keras.applications, architecture)
    with keras.device("meta"):
        return list(build(weights=None, include_top=False, input_shape=(224, 224, 3)).layers)


def timm_layers(name: str) -> dict[str, Layer]:
    """List the layers of a timm model in execution order, by path."""
    with torch.device("meta"):
        model = timm.create_model(name)
    return {layer.name: layer for layer in trace(model, image_size=224).layers}


def torch_shape(layer: Any) -> tuple[int, ...]:
    """Return the shape that a Keras layer's kernel, or its scale, has in torch."""
    kind = type(layer).__name__
    if kind == "BatchNormalization":
        return tuple(layer.moving_mean.shape)
    if kind not in ("Conv2D", "DepthwiseConv2D"):
        return ()
    height, width, inputs, outputs = layer.kernel.shape
    return (inputs, 1, height, width) if kind == "DepthwiseConv2D" else (outputs, inputs, height, width)


def counterpart(name: str, rules: Rules, layers: dict[str, Layer], blocks: Sequence[str]) -> Layer:
    """Find the timm layer that has the role of a Keras layer; the first rule that matches decides."""
    for pattern, rule in rules.items():
        if match := re.fullmatch(pattern, name):
            meant = rule(*(int(g) if g and g.isdigit() else g for g in match.groups()))
            paths = [
                re.sub(r"blocks\[(-?\d+)\]", lambda m: blocks[int(m[1])], path)
                for path in ([meant] if isinstance(meant, str) else meant)
            ]
            path = next((path for path in paths if path in layers), None)
            if path is None:
                raise LookupError(f"Keras layer {name}: the timm model has none of {paths}")
            return layers[path]
    raise LookupError(f"Keras layer {name}: no rule")


def rows(architecture: str) -> tuple[int, list[list[Any]]]:
    """Make one architecture's rows: kind, Keras number, Keras name and weight shape, in torch's order.

    Returns:
        The number of Keras layers, and the rows.

    Raises:
        LookupError: If a layer has no counterpart, or two.
        ValueError: If a layer and its counterpart differ in kind or shape.
    """
    timm_name, rules = ARCHITECTURES[architecture]
    layers = timm_layers(timm_name)
    blocks = list(dict.fromkeys(m[0] for name in layers if (m := re.match(r"blocks\.\d+\.\d+", name))))
    printed = keras_layers(architecture)
    matched: dict[str, list[Any]] = {}
    for number, layer in enumerate(printed, start=1):
        if (kind := KINDS.get(type(layer).__name__)) is None:
            continue
        other = counterpart(layer.name, rules, layers, blocks)
        shape = torch_shape(layer)
        if (kind, shape) != (other.kind.removesuffix("_act"), other.weight_shape):
            raise ValueError(f"{layer.name}: {kind} {shape}, {other.name}: {other.kind} {other.weight_shape}")
        if other.name in matched:
            raise LookupError(f"{other.name} is the counterpart of {layer.name} and {matched[other.name][2]}")
        matched[other.name] = [kind, number, layer.name, list(shape)]
    _refuse_left_over(layers, matched)
    return len(printed), [matched[name] for name in layers if name in matched]


def _refuse_left_over(layers: dict[str, Layer], matched: dict[str, list[Any]]) -> None:
    """Raise LookupError if a layer of the table's kinds has no match, up to the last that has one."""
    names = list(layers)
    backbone = names[: max(names.index(name) for name in matched)]
    kinds = {*KINDS.values(), "norm_act"}
    if left := [n for n in backbone if layers[n].kind in kinds and n not in matched]:
        raise LookupError(f"Keras has no counterpart of {', '.join(left)}")


def main() -> None:
    """Write the table: a line per layer, so that a change of Keras shows as a short diff."""
    written = []
    for architecture in ARCHITECTURES:
        n_layers, table = rows(architecture)
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table)
        written.append(f'"{architecture}":{{"n_layers":{n_layers},"rows":[\n{lines}]}}')
        print(f"{architecture}: {n_layers} layers, {len(table)} in the table")
    body = ",\n".join(written)
    TABLE.write_text(f'{{"keras":"{keras.__version__}","architectures":{{\n{body}}}}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
