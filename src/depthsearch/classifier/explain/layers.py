"""The layers of a classifier that have a map of an image, and which of them to look at.

Notation: ``c`` channels and ``h x w`` pixels of a layer's output for one image (its *map*); ``s`` the side of
the image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import fx, nn

from depthsearch.errors import SettingsError
from depthsearch.models.candidates import find_blocks
from depthsearch.models.cuts import Cut
from depthsearch.models.numbering import layer_name, number_layers
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace

# A smaller output is no map: global pooling and what follows it.
SMALLEST_SIDE = 2
N_STAGES = 5
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MapLayer:
    """A layer whose output for one image is a map of at least 2 x 2 pixels.

    Attributes:
        name: As in the layer graph: a module path, or the path around an operation and its name.
        number: Counted from 1 as Keras prints a model.
        keras_name: Its name in ``keras.applications``, or None.
        position: Of its node in the traced graph.
        channels: ``c``.
        height: ``h``.
        width: ``w``.
        channels_last: Whether its output is ``(1, h, w, c)`` and not ``(1, c, h, w)``.
    """

    name: str
    number: int
    keras_name: str | None
    position: int
    channels: int
    height: int
    width: int
    channels_last: bool

    def __str__(self) -> str:
        """Name the layer as every output does: number, Keras name, module path."""
        return layer_name(self.number, self.keras_name, self.name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A classifier that can be looked into.

    Attributes:
        model: The classifier.
        graph: The classifier traced.
        layers: Those with a map, in execution order.
    """

    model: nn.Module
    graph: LayerGraph
    layers: tuple[MapLayer, ...]


def subject_of(model: nn.Module, *, image_size: int) -> Subject:
    """Trace a classifier and find the layers with a map.

    Args:
        model: Maps images ``(n, c, s, s)`` to logits. Left as it was.
        image_size: ``s``.

    Raises:
        TraceError: If the model cannot be followed.
    """
    graph = trace(model, image_size=image_size)
    numbers = number_layers(graph)
    nodes, shapes = graph.nodes, graph.shapes
    channels_last = _layouts(nodes, shapes)
    layers = []
    for layer in graph.layers:
        node = nodes[layer.position]
        if node not in channels_last:
            continue
        _, *sides = shapes[node]
        channels, height, width = [sides[2], *sides[:2]] if channels_last[node] else sides
        if min(height, width) >= SMALLEST_SIDE:
            layers.append(
                MapLayer(
                    name=layer.name,
                    number=numbers[layer.name].number,
                    keras_name=numbers[layer.name].keras_name,
                    position=layer.position,
                    channels=channels,
                    height=height,
                    width=width,
                    channels_last=channels_last[node],
                )
            )
    return Subject(model=model, graph=graph, layers=tuple(layers))


def _layouts(nodes: Sequence[fx.Node], shapes: dict[fx.Node, tuple[int, ...]]) -> dict[fx.Node, bool]:
    """Find for each value that is a map whether its channels stand last.

    Images are square and so are their maps: the two equal sides are height and width. Where all three are
    equal, the value is as the one that it was made of, unless it was turned.
    """
    last: dict[fx.Node, bool] = {}
    for node in nodes:
        shape = shapes.get(node, ())
        if len(shape) != 4 or (shape[1] != shape[2] and shape[2] != shape[3]):
            continue
        turned = _turned_to(node)
        if turned is not None:
            last[node] = turned == TO_CHANNELS_LAST
        elif shape[1] == shape[3]:
            last[node] = next((last[source] for source in node.all_input_nodes if source in last), False)
        else:
            last[node] = shape[1] == shape[2]
    return last


def _turned_to(node: fx.Node) -> tuple[int, ...] | None:
    if node.target not in ("permute", torch.permute):
        return None
    given = node.args[1] if len(node.args) == 2 and isinstance(node.args[1], list | tuple) else node.args[1:]
    dims = tuple(int(d) % 4 for d in given if isinstance(d, int))
    return dims if dims in (TO_CHANNELS_LAST, TO_CHANNELS_FIRST) else None


def choose_layers(subject: Subject, cut: Cut | None = None) -> tuple[MapLayer, ...]:
    """Choose the ends of the last five stages and the cut.

    A stage is what computes maps of one size. Its end is its last layer that all later ones depend on alone
    and that does not stand inside of a repeated block.

    Args:
        subject: The classifier.
        cut: Its first trainable layer is chosen as well, where that has a map.

    Raises:
        SettingsError: If no layer has a map.
    """
    if not subject.layers:
        raise SettingsError(
            f"No layer of {type(subject.model).__name__} has a map of 2 x 2 pixels or more at "
            f"{subject.graph.image_size} px. Take larger images."
        )
    ends: dict[int, MapLayer] = {}
    for layer in _trunk(subject) or subject.layers:
        ends[layer.height] = layer
    chosen = set(sorted(ends.values(), key=attrgetter("position"))[-N_STAGES:])
    if cut is not None:
        chosen |= {layer for layer in subject.layers if layer.name == cut.first_layer}
    return tuple(sorted(chosen, key=attrgetter("position")))


def _trunk(subject: Subject) -> list[MapLayer]:
    """List the layers that are alone alive behind themselves, but those inside of blocks."""
    graph = subject.graph
    boundaries, nodes = graph.boundaries(), graph.nodes
    inner: set[str] = set()
    for path in find_blocks(subject.model):
        inside = [layer for layer in graph.layers if (layer.module + ".").startswith(path + ".")]
        last = max((layer.position for layer in inside), default=-1)
        inner |= {layer.name for layer in inside if layer.position != last}
    return [
        layer
        for layer in subject.layers
        if layer.name not in inner and boundaries[layer.position + 1] == [nodes[layer.position]]
    ]


def find_layers(subject: Subject, names: Sequence[str]) -> tuple[MapLayer, ...]:
    """Find layers by number, Keras name or module path; a block stands for its last layer.

    Raises:
        SettingsError: If there is none, or it has no map.
    """
    return tuple(sorted({_find_layer(subject, name) for name in names}, key=attrgetter("position")))


def _find_layer(subject: Subject, name: str) -> MapLayer:
    exact = [layer for layer in subject.layers if name in (str(layer.number), layer.name, layer.keras_name)]
    if exact:
        # What Keras lacks carries the number of what follows.
        return max(exact, key=lambda layer: (layer.keras_name is not None, layer.position))
    within = {layer.name for layer in subject.graph.layers if (layer.module + ".").startswith(name + ".")}
    inside = [layer for layer in subject.layers if layer.name in within]
    if inside:
        return inside[-1]
    numbers = number_layers(subject.graph)
    known = {str(n.number) for n in numbers.values()} | {n.keras_name for n in numbers.values()} | {*numbers}
    kind = type(subject.model).__name__
    if name in known or within:
        raise SettingsError(
            f"Layer {name!r} of {kind} has no map of 2 x 2 pixels or more at {subject.graph.image_size} "
            f"px. The last that has one: {subject.layers[-1] if subject.layers else 'none'}."
        )
    near = [layer for layer in subject.layers if name in layer.name] or list(choose_layers(subject))
    raise SettingsError(
        f"No layer {name!r} in {kind}. Give numbers, Keras names or module paths, such as: "
        f"{', '.join(str(layer) for layer in near[:4])}. All of them: depthsearch cuts BACKBONE."
    )
