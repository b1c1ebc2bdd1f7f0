"""Layer numbers: those of ``keras.applications`` where Keras has the architecture.

A model is recognised by the shapes of its convolutions and norms in execution order, never by its name or its
module paths, so timm's and torchvision's variants get the same numbers. The table it is compared with
(``keras_layers.json``) comes from Keras itself; ``tools/make_keras_layers.py`` writes it.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from depthsearch.models.tracing.graph import Layer, LayerGraph

# Layers that Keras' include_top=False leaves out, such as MobileNetV3's conv_head.
HEADS: tuple[tuple[str, ...], ...] = ((), ("conv",), ("conv", "norm"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """What a layer is called in Keras.

    Attributes:
        number: Layer number, counted from 1, the input being layer 1. A layer that Keras lacks, such as an
            identity, has the number of the next one that is counted.
        keras_name: Name of the Keras layer with the same role, such as ``conv4_block1_1_conv``.
    """

    number: int
    keras_name: str | None


@dataclass(frozen=True, slots=True)
class _Row:
    """A Keras layer: its kind, its number and name in Keras, its weight's shape in torch."""

    kind: str
    number: int
    name: str
    weight_shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Architecture:
    """A Keras model: how many layers it prints, and those of the table in torch's execution order."""

    name: str
    n_layers: int
    rows: tuple[_Row, ...]


def layer_name(number: int, keras_name: str | None, path: str) -> str:
    """Name a layer as every output does: number, Keras name where there is one, module path."""
    return f"layer {number} ({f'{keras_name}, ' if keras_name else ''}{path})"


def keras_architecture(graph: LayerGraph) -> str | None:
    """Name the model of ``keras.applications`` with this structure, such as ``DenseNet121``, if any."""
    architecture = _recognise(graph.layers)
    return architecture.name if architecture else None


def number_layers(graph: LayerGraph) -> dict[str, Numbered]:
    """Number every layer of a model.

    A model that Keras has gets Keras' numbers; what stands behind Keras' last layer counts on from there. Any
    other is counted in execution order in the same way: the input is layer 1, and each operation is one more,
    a norm with a fused activation two.

    Returns:
        Number and Keras name by ``Layer.name``. Keras runs the branches of a block in another order than
        torch, so numbers need not rise within a block.
    """
    layers = graph.layers
    architecture = _recognise(layers)
    if architecture is None:
        numbers = list(_count(layers, n_done=1))
        names: list[str | None] = [None] * len(layers)
    else:
        rows = _matches(layers, architecture.rows)
        numbers = _keras_numbers(layers, rows, architecture.n_layers)
        names = [row.name if row else None for row in rows]
    return {
        layer.name: Numbered(number=number, keras_name=name)
        for layer, number, name in zip(layers, _filled(numbers), names, strict=True)
    }


def _recognise(layers: Sequence[Layer]) -> _Architecture | None:
    weights = [(_kind(layer), layer.weight_shape) for layer in layers if _is_weighted(_kind(layer))]
    if weights and weights[0][1][1:2] == (1,):
        # Grey images: but for the channels of its first kernel it is the same model.
        weights[0] = weights[0][0], (weights[0][1][0], 3, *weights[0][1][2:])
    for architecture in _architectures():
        known = [(row.kind, row.weight_shape) for row in architecture.rows if _is_weighted(row.kind)]
        head = tuple(kind for kind, _ in weights[len(known) :])
        if weights[: len(known)] == known and head in HEADS:
            return architecture
    return None


@functools.cache
def _architectures() -> tuple[_Architecture, ...]:
    text = importlib.resources.files(__package__).joinpath("keras_layers.json").read_text(encoding="utf-8")
    return tuple(
        _Architecture(
            name=name,
            n_layers=table["n_layers"],
            rows=tuple(
                _Row(kind, number, keras_name, tuple(shape))
                for kind, number, keras_name, shape in table["rows"]
            ),
        )
        for name, table in json.loads(text)["architectures"].items()
    )


def _kind(layer: Layer) -> str:
    return "norm" if layer.kind == "norm_act" else layer.kind


def _is_weighted(kind: str) -> bool:
    return kind in ("conv", "norm")


def _matches(layers: Sequence[Layer], rows: Sequence[_Row]) -> list[_Row | None]:
    """Return for each layer the row that stands in its place, or None."""
    by_place = dict(zip(_places(row.kind for row in rows), rows, strict=True))
    return [by_place.get(place) for place in _places(map(_kind, layers))]


def _places(kinds: Iterable[str]) -> Iterator[tuple[int, str, int]]:
    """Yield each layer's place: the weighted layers before it, its kind, and those of that kind since."""
    n_weighted = 0
    since: Counter[str] = Counter()
    for kind in kinds:
        yield n_weighted, kind, since[kind]
        since[kind] += 1
        if _is_weighted(kind):
            n_weighted += 1
            since.clear()


def _keras_numbers(layers: Sequence[Layer], rows: Sequence[_Row | None], n_layers: int) -> list[int | None]:
    """Return each layer's number from its row, and count on behind the last row."""
    end, last = [(i, row) for i, row in enumerate(rows) if row][-1]
    numbers = [row.number if row else None for row in rows[: end + 1]]
    n_done = last.number + _width(layers[end]) - 1
    return [*numbers, *_count(layers[end + 1 :], n_done=n_done, n_layers=n_layers)]


def _count(layers: Sequence[Layer], *, n_done: int, n_layers: int = 0) -> Iterator[int | None]:
    """Count layers on from ``n_done``, except identities.

    Keras ends with an activation, often behind a sum, so those still count towards its ``n_layers``; the
    first layer of another kind, such as the global pooling, opens the head and has a number above them.
    """
    for layer in layers:
        if layer.kind == "identity":
            yield None
            continue
        if layer.kind != "other":
            n_done = max(n_done, n_layers)
        yield n_done + 1
        n_done += _width(layer)


def _width(layer: Layer) -> int:
    """Count the layers that Keras prints for one: it keeps a norm and its activation apart."""
    return 2 if layer.kind == "norm_act" else 1


def _filled(numbers: Sequence[int | None]) -> list[int]:
    """Fill each gap with the number of the next layer that has one; at the end, with the last number."""
    following = next((n for n in reversed(numbers) if n is not None), 1)
    filled = []
    for number in reversed(numbers):
        following = following if number is None else number
        filled.append(following)
    return filled[::-1]
