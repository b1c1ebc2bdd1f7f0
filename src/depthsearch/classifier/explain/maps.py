"""What single layers of a classifier see in an image: feature maps and Grad-CAM across depth.

Both are read off the traced graph, so that any of its operations can be looked at: also sums and
concatenations, which are no modules, and modules that run several times, which hooks cannot tell apart.

Notation: ``c`` channels and ``h x w`` pixels of a layer's output for one image (its *map*); ``s`` the side of
the image in pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import fx, nn

from depthsearch.errors import SettingsError
from depthsearch.models.backbones import Backbone, Preprocessing
from depthsearch.models.cuts import Cut, find_blocks
from depthsearch.models.numbering import number_layers
from depthsearch.models.pixels import Normalisation
from depthsearch.models.split import position_of
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.restoring import evaluating
from depthsearch.models.tracing.trace import trace

__all__ = [
    "Comparison",
    "Explanation",
    "Insight",
    "MapLayer",
    "Photo",
    "Subject",
    "choose_layers",
    "compare",
    "explain",
    "find_layers",
    "look",
    "pretrained_classes",
    "subject_of",
]

# A smaller output is no map: global pooling and what follows it.
SMALLEST_SIDE = 2
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
        names = [self.keras_name, self.name] if self.keras_name else [self.name]
        return f"layer {self.number} ({', '.join(names)})"


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Insight:
    """What a classifier makes of one image.

    Attributes:
        probabilities: ``(num_classes,)``, summing to 1.
        maps: By name of the layer: its output ``(c, h, w)``.
        heats: By class, then by name of the layer: Grad-CAM ``(h, w)`` in [0, 1], all zero where nothing in
            the layer speaks for the class. The predicted class is among them.
    """

    probabilities: torch.Tensor
    maps: dict[str, torch.Tensor]
    heats: dict[int, dict[str, torch.Tensor]]

    @property
    def predicted(self) -> int:
        """The class of the greatest probability."""
        return int(self.probabilities.argmax())

    @property
    def probability(self) -> float:
        """Of the predicted class, in [0, 1]."""
        return float(self.probabilities.max())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Photo:
    """An image to explain.

    Attributes:
        name: What to call it: its path, or its place in a data set.
        pixels: ``(c, s, s)``, uint8, as the classifier's preprocessing cuts it.
        true: Its class, or None where that is not known.
    """

    name: str
    pixels: torch.Tensor
    true: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """A fine-tuned classifier beside the pretrained one that it was made from.

    Attributes:
        after: Fine-tuned.
        classes: Its classes.
        before: Pretrained, or None where that one is not at hand.
        before_classes: Names of the classes that the pretrained one tells apart; empty if they have no names;
            None if its classifier did not come with its weights, so that its predictions say nothing.
        preprocessing: What both expect.
        cut: First trainable layer, or None where that is not known.
        cut_position: Its place in the graph of ``after``.
        layers: What to look at, in execution order.
    """

    after: Subject
    classes: tuple[str, ...]
    before: Subject | None
    before_classes: tuple[str, ...] | None
    preprocessing: Preprocessing
    cut: Cut | None
    cut_position: int | None
    layers: tuple[MapLayer, ...]

    def is_frozen(self, layer: MapLayer) -> bool | None:
        """Whether a layer was frozen in fine-tuning; None where the cut is not known."""
        return None if self.cut_position is None else layer.position < self.cut_position


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """What both models make of one image.

    Attributes:
        photo: The image.
        after: What the fine-tuned model makes of it.
        before: What the pretrained one does; None where there is none.
    """

    photo: Photo
    after: Insight
    before: Insight | None

    @property
    def right(self) -> bool | None:
        """Whether the prediction is the true class; None where that is not known."""
        return None if self.photo.true is None else self.after.predicted == self.photo.true

    def unchanged(self, layer: MapLayer) -> bool:
        """Whether a layer's maps are the same to the bit before and after fine-tuning."""
        if self.before is None or layer.name not in self.before.maps:
            return False
        return torch.equal(self.before.maps[layer.name], self.after.maps[layer.name])


def compare(
    after: nn.Module,
    before: nn.Module | None,
    *,
    classes: Sequence[str],
    before_classes: Sequence[str] | None,
    preprocessing: Preprocessing,
    cut: Cut | None,
    wanted: Sequence[str] = (),
) -> Comparison:
    """Set a fine-tuned classifier beside the pretrained one.

    Args:
        after: Fine-tuned, mapping images ``(n, c, s, s)`` to logits; left as it was, like ``before``.
        before: Pretrained, with its own classifier; None if it is not at hand.
        classes: Of ``after``.
        before_classes: See `Comparison`.
        preprocessing: What both expect; its ``image_size`` is ``s``.
        cut: First layer that was trained, or None.
        wanted: Layers to look at, see `find_layers`; none: see `choose_layers`.

    Raises:
        TraceError: If a model cannot be followed.
        SettingsError: If there is no such layer.
        CutError: If the cut is another model's.
    """
    size = preprocessing.image_size
    subject = subject_of(after, image_size=size)
    return Comparison(
        after=subject,
        classes=tuple(classes),
        before=None if before is None else subject_of(before, image_size=size),
        before_classes=None if before_classes is None else tuple(before_classes),
        preprocessing=preprocessing,
        cut=cut,
        cut_position=None if cut is None else position_of(subject.graph, after, cut),
        layers=find_layers(subject, wanted) if wanted else choose_layers(subject, cut),
    )


def pretrained_classes(backbone: Backbone) -> tuple[str, ...] | None:
    """Name the classes that a pretrained backbone's own classifier tells apart.

    Returns:
        ImageNet's names where it has as many classes as one of ImageNet's sets; empty where the names are not
        known; None where the classifier did not come with the weights.
    """
    if not backbone.weights.has_classifier:
        return None
    subset = infer_imagenet_subset(backbone.model)
    return () if subset is None else tuple(ImageNetInfo(subset).label_descriptions())


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


class _Watching(fx.Interpreter):
    """Runs a traced model and keeps some nodes' values as they are computed, whatever changes them later."""

    def __init__(self, traced: fx.GraphModule, watched: Collection[fx.Node]) -> None:
        super().__init__(traced)
        self.watched = watched
        self.values: dict[fx.Node, torch.Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n not in self.watched:
            return result
        self.values[n] = result
        return result.clone()


def _layouts(nodes: Sequence[fx.Node], shapes: dict[fx.Node, tuple[int, ...]]) -> dict[fx.Node, bool]:
    """Say of each value that is a map whether its channels stand last.

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


def choose_layers(subject: Subject, cut: Cut | None = None, *, n_stages: int = 5) -> tuple[MapLayer, ...]:
    """Choose the ends of the last stages and the cut.

    A stage is what computes maps of one size. Its end is its last layer that all later ones depend on alone
    and that does not stand inside of a repeated block.

    Args:
        subject: The classifier.
        cut: Its first trainable layer is chosen as well, where that has a map.
        n_stages: How many stages, counted from the last.

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
    chosen = set(sorted(ends.values(), key=_position)[-n_stages:])
    if cut is not None:
        chosen |= {layer for layer in subject.layers if layer.name == cut.first_layer}
    return tuple(sorted(chosen, key=_position))


def _position(layer: MapLayer) -> int:
    return layer.position


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


def find_layers(subject: Subject, wanted: Sequence[str]) -> tuple[MapLayer, ...]:
    """Find layers by number, Keras name or module path; a block stands for its last layer.

    Raises:
        SettingsError: If there is none, or it has no map.
    """
    return tuple(sorted({_find_layer(subject, name) for name in wanted}, key=_position))


def _find_layer(subject: Subject, wanted: str) -> MapLayer:
    exact = [layer for layer in subject.layers if wanted in (str(layer.number), layer.name, layer.keras_name)]
    if exact:
        # What Keras lacks carries the number of what follows.
        return max(exact, key=lambda layer: (layer.keras_name is not None, layer.position))
    within = {layer.name for layer in subject.graph.layers if (layer.module + ".").startswith(wanted + ".")}
    inside = [layer for layer in subject.layers if layer.name in within]
    if inside:
        return inside[-1]
    numbers = number_layers(subject.graph)
    known = {str(n.number) for n in numbers.values()} | {n.keras_name for n in numbers.values()} | {*numbers}
    kind = type(subject.model).__name__
    if wanted in known or within:
        raise SettingsError(
            f"Layer {wanted!r} of {kind} has no map of 2 x 2 pixels or more at {subject.graph.image_size} "
            f"px. The last that has one: {subject.layers[-1] if subject.layers else 'none'}."
        )
    near = [layer for layer in subject.layers if wanted in layer.name] or list(choose_layers(subject))
    raise SettingsError(
        f"No layer {wanted!r} in {kind}. Give numbers, Keras names or module paths, such as: "
        f"{', '.join(str(layer) for layer in near[:4])}. See `depthsearch cuts`."
    )


def look(
    subject: Subject, image: torch.Tensor, layers: Sequence[MapLayer], *, also: Sequence[int] = ()
) -> Insight:
    """Run one image and see what the layers make of it.

    Args:
        subject: The classifier. Left as it was.
        image: ``(c, s, s)``, normalised, on the classifier's device.
        layers: Of this classifier.
        also: Classes to give Grad-CAM for besides the predicted one.
    """
    nodes = subject.graph.nodes
    watched = [nodes[layer.position] for layer in layers]
    run = _Watching(subject.graph.traced, watched)
    with evaluating(subject.graph.traced), torch.enable_grad():
        # The image takes a gradient, so that every value does, also where all parameters are frozen; as
        # a copy it may be changed in place.
        logits = run.run(image.detach().clone().unsqueeze(0).requires_grad_().clone())[0]
        values = [run.values[node] for node in watched]
        heats = {}
        for target in dict.fromkeys((int(logits.argmax()), *also)):
            gradients = torch.autograd.grad(logits[target], values, retain_graph=True, allow_unused=True)
            heats[target] = {
                layer.name: _grad_cam(
                    _channels_first(value.detach(), layer), _channels_first(gradient, layer)
                )
                for layer, value, gradient in zip(layers, values, gradients, strict=True)
            }
    return Insight(
        probabilities=logits.detach().softmax(0).cpu(),
        maps={
            layer.name: _channels_first(value.detach(), layer).cpu()
            for layer, value in zip(layers, values, strict=True)
        },
        heats=heats,
    )


def _channels_first(value: torch.Tensor | None, layer: MapLayer) -> torch.Tensor:
    """Bring a layer's value or gradient for one image to ``(c, h, w)``; one that is None is zero."""
    if value is None:
        return torch.zeros(layer.channels, layer.height, layer.width)
    return value[0].permute(2, 0, 1) if layer.channels_last else value[0]


def _grad_cam(value: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Weight a map ``(c, h, w)`` by how much each channel speaks for a class; scale to [0, 1].

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """
    weights = gradient.to(value.device).mean((1, 2), keepdim=True)
    heat = (weights * value).sum(0).relu()
    greatest = heat.max()
    return (heat / greatest if greatest > 0 else heat).cpu()


def explain(comparison: Comparison, photo: Photo) -> Explanation:
    """See what the fine-tuned and the pretrained model make of an image.

    Grad-CAM is given for the predicted class and for the true one where that is known.
    """
    device = next(comparison.after.model.parameters()).device
    image = Normalisation(comparison.preprocessing).to(device)(photo.pixels.to(device))
    before = None
    if comparison.before is not None:
        names = {layer.name for layer in comparison.layers}
        layers = [layer for layer in comparison.before.layers if layer.name in names]
        before = look(comparison.before, image, layers)
    return Explanation(
        photo=photo,
        after=look(
            comparison.after, image, comparison.layers, also=() if photo.true is None else (photo.true,)
        ),
        before=before,
    )
