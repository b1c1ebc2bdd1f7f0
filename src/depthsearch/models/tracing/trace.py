"""Trace a model: follow its code, run it once on one image, and list its layers."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from depthsearch.errors import TraceError
from depthsearch.models.tracing.following import Followed, follow, refuse_wrapped
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.inputs import ExampleInputs, candidate_images, has_lazy_layers, input_name
from depthsearch.models.tracing.layers import first_effects, list_layers, own_unused, pixel_nodes
from depthsearch.models.tracing.measuring import Run, does_not_run, measure
from depthsearch.models.tracing.restoring import evaluating, unchanged
from depthsearch.models.tracing.tracer import Given
from depthsearch.text import first_line


def trace(
    model: nn.Module,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    likely: tuple[int, ...] = (),
) -> LayerGraph:
    """Trace a model and run it once on one image.

    A module that cannot be entered is kept whole, see ``LayerGraph.opaque``.

    Args:
        model: Maps images ``(n, c, h, w)`` to logits; other parameters of its forward keep their defaults.
            It may return the logits as they are, under the name ``logits``, or first in a tuple. Left as it
            was.
        image_size: Height and width in pixels; default: what the model declares, else 224.
        channels: Of the images; default: what the model declares or its first convolution takes.
        example_inputs: A batch of images instead of a size: a tensor ``(n, c, h, w)``, alone in a tuple, or
            by the name of the parameter that takes it.
        likely: Channels, height and width to try first where none are given.

    Raises:
        TraceError: If the model cannot be followed or not be run, naming what stopped it.
    """
    refuse_wrapped(model)
    images = list(
        candidate_images(
            model, image_size=image_size, channels=channels, example_inputs=example_inputs, likely=likely
        )
    )
    if has_lazy_layers(model):
        if image_size is None and example_inputs is None and not likely:
            raise TraceError(
                f"{type(model).__name__} has lazy layers, whose sizes depend on the image: give image_size."
            )
        model = _made(model, images)
    given = Given(dtype=images[0].dtype, name=input_name(model, example_inputs))
    followed = follow(model, given)
    with unchanged(model), evaluating(model), evaluating(followed.traced), torch.no_grad():
        run = measure(model, followed.traced, images)
        return _describe(model, followed, run, given.name)


def _made(model: nn.Module, images: Iterable[torch.Tensor]) -> nn.Module:
    """Copy a model with lazy layers and make these for an image."""
    try:
        model = copy.deepcopy(model)
    except (ValueError, RuntimeError) as error:
        raise TraceError(
            f"{type(model).__name__} has lazy layers and cannot be copied: call it once on a batch of images "
            f"of your size first ({first_line(error).rstrip('.')})."
        ) from error
    image = next(iter(images))
    with evaluating(model), torch.no_grad():
        try:
            model(image)
        except Exception as error:  # the model's own code may raise anything
            raise does_not_run(model, image, error, hint="Give another image size.") from error
    return model


def _describe(model: nn.Module, followed: Followed, run: Run, name: str | None) -> LayerGraph:
    """List the layers of a model that was followed and run."""
    nodes = list(followed.traced.graph.nodes)
    pixels = pixel_nodes(nodes)
    carried = {n: n in pixels and n not in run.partial and run.shapes.get(n, ())[:1] == (1,) for n in nodes}
    own_unused(model, nodes, run)
    first_uses = dict(sorted(((n, min(at)) for n, at in run.watch.all.items()), key=lambda use: use[1]))
    return LayerGraph(
        traced=followed.traced,
        layers=tuple(list_layers(model, nodes, pixels, first_uses, run)),
        from_pixels=frozenset(pixels),
        carried=carried,
        constants=run.constants,
        shapes=run.shapes,
        bytes_per_image={n: run.bytes[n] for n in nodes if carried[n]},
        changed=frozenset(run.changed),
        first_uses=first_uses,
        first_effects=first_effects(nodes, pixels, run),
        mode_reads=tuple((path, run.order[node]) for path, node in followed.mode_reads),
        forks=followed.forks,
        opaque=followed.whole,
        image_shape=run.image_shape,
        input_name=name,
    )
