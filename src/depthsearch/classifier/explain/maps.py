"""What single layers of a classifier see in an image: feature maps and Grad-CAM across depth.

Both are read off the traced graph, so that any of its operations can be looked at: also sums and
concatenations, which are no modules, and modules that run several times, which hooks cannot tell apart.

Notation: see `layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import fx, nn

from depthsearch.classifier.explain.layers import MapLayer, Subject, choose_layers, find_layers, subject_of
from depthsearch.models.backbones.backbone import Backbone, Preprocessing
from depthsearch.models.cuts import Cut
from depthsearch.models.pixels import Normalisation
from depthsearch.models.split import position_of
from depthsearch.models.tracing.nodes import Watching
from depthsearch.models.tracing.restoring import evaluating


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
        """Return whether a layer was frozen in fine-tuning; None where the cut is not known."""
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
        """Return whether a layer's maps are the same to the bit before and after fine-tuning."""
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
    layers: Sequence[str] = (),
) -> Comparison:
    """Set a fine-tuned classifier beside the pretrained one.

    Args:
        after: Fine-tuned, mapping images ``(n, c, s, s)`` to logits; left as it was, like ``before``.
        before: Pretrained, with its own classifier; None if it is not at hand.
        classes: Of ``after``.
        before_classes: See `Comparison`.
        preprocessing: What both expect; its ``image_size`` is ``s``.
        cut: First layer that was trained, or None.
        layers: Layers to look at, see `find_layers`; none: see `choose_layers`.

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
        layers=find_layers(subject, layers) if layers else choose_layers(subject, cut),
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
    kept: dict[fx.Node, torch.Tensor] = {}

    def keep(node: fx.Node, value: Any) -> Any:
        """Keep a value as it is computed; the run goes on with a copy, which may be changed in place."""
        if node not in watched:
            return value
        kept[node] = value
        return value.clone()

    with evaluating(subject.graph.traced), torch.enable_grad():
        # The image takes a gradient, so that every value does, also where all parameters are frozen; as
        # a copy it may be changed in place.
        run = Watching(subject.graph.traced, keep)
        logits = run.run(image.detach().clone().unsqueeze(0).requires_grad_().clone())[0]
        values = [kept[node] for node in watched]
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
