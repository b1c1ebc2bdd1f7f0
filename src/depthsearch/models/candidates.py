"""The candidate cuts of a model: where the border between frozen and trainable may lie.

A cut is named by its first trainable layer; everything executed before that layer is frozen. Candidates
that freeze the same parameters and statistics are one cut, named after the last of them (the least is left to
compute), with the others as aliases.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from depthsearch.errors import CutError, TraceError
from depthsearch.models.cuts import DEFAULT_KINDS, Cut, cuts_named, cuts_near
from depthsearch.models.headplace import NO_HEAD, find_head
from depthsearch.models.numbering import Numbered, number_layers
from depthsearch.models.tracing.graph import Layer, LayerGraph
from depthsearch.models.tracing.inputs import ExampleInputs
from depthsearch.models.tracing.nodes import is_weighted, is_within
from depthsearch.models.tracing.trace import trace
from depthsearch.options.words import KINDS

CONVOLUTIONAL, BLOCKS = ("conv", "pool", "concat"), ("block",)
# Which name a cut carries when several candidates start at the same layer.
PRECEDENCE = ("head", "conv", "linear", "pool", "concat", "block")
STATISTICS = ("running_mean", "running_var")
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    position: int
    first_layer: str
    name: str
    kind: str


def list_cuts(
    model: nn.Module,
    kinds: Sequence[str] = DEFAULT_KINDS,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    example_inputs: ExampleInputs | None = None,
    head: str | None = None,
    layers: Sequence[str | int] | None = None,
) -> list[Cut]:
    """List the candidate cuts of a model by depth.

    The first freezes nothing, the last the whole backbone; the classifier's own layers are no candidates.
    Where some are picked with ``layers``, these two stay.

    Args:
        model: An image model that torch.fx can trace. Left as it was.
        kinds: Which layers are candidates: any of ``conv``, ``pool``, ``concat``, ``block`` and ``linear``
            (linear layers behind the last pooling); ``auto``: those that suit the network, see `kinds_of`.
        image_size: Height and width for which costs and sizes are given, in pixels; default: the model's own.
        channels: Of the images; default: as the model declares, or as its first convolution takes.
        example_inputs: A batch of images instead of a size; see `trace.trace`.
        head: Module path of the head, where it is not the one that timm or the last layers name.
        layers: Which candidates, and no others: layer numbers, Keras names, module paths, or patterns of
            these names such as ``features.*.conv1``; those of an alias find its cut. None: all.

    Raises:
        TraceError: If the model cannot be followed.
        CutError: If a kind is unknown, the model has no candidate, or a layer is none.
    """
    graph = trace(model, image_size=image_size, channels=channels, example_inputs=example_inputs)
    return cuts_of(graph, model, kinds, head=head, layers=layers)


def cuts_of(
    graph: LayerGraph,
    model: nn.Module,
    kinds: Sequence[str] = DEFAULT_KINDS,
    *,
    head: str | None = None,
    layers: Sequence[str | int] | None = None,
) -> list[Cut]:
    """List the candidate cuts of a model that is traced already; see `list_cuts`."""
    unknown = sorted(set(kinds) - {*KINDS, *DEFAULT_KINDS})
    if unknown or not kinds:
        named = ", ".join(map(repr, unknown)) or "(none given)"
        raise CutError(f"No candidate kind {named}: give some of {', '.join(KINDS)}, or auto.")
    end, head_name = find_head(graph, model, head)
    backbone = [layer for layer in graph.layers if layer.position < end]
    asked, kinds = kinds, kinds_of(graph, model, kinds, head=head_name)
    if not any(layer.parameters for layer in backbone):
        raise CutError(
            f"{type(model).__name__} has no layer with parameters before its classifier "
            f"'{head_name}': there is nothing to freeze. Name the classifier's module, or take another one."
        )
    candidates = list(_candidates(graph, backbone, model, kinds))
    # Of a backbone that is one module, kept whole, there are the two ends.
    if not candidates and "auto" not in asked:
        has = sorted({layer.kind for layer in backbone} & set(KINDS))
        whole = [f" '{path}' is kept whole: {reason}." for path, reason in graph.opaque.items()]
        raise CutError(
            f"{type(model).__name__} has no {' or '.join(kinds)} layer to cut at; it has: "
            f"{', '.join(has) or 'none of these'}.{'' if has else ''.join(whole[:3])}"
        )
    first = next(layer for layer in backbone if layer.parameters)
    kind = first.kind if first.kind in KINDS else "block"
    candidates.append(_Candidate(position=first.start, first_layer=first.name, name=first.name, kind=kind))
    at_end = next((layer.name for layer in graph.layers if layer.position >= end), NO_HEAD)
    candidates.append(_Candidate(position=end, first_layer=at_end, name=head_name, kind="head"))
    cuts = _describe(graph, backbone, _merge(candidates, graph, model, end))
    if layers is None:
        return cuts
    numbers = number_layers(graph)
    matching = {name: cuts_named(name, cuts, numbers) for name in map(str, layers)}
    for name, matches in matching.items():
        if not matches:
            raise CutError(_no_candidate(name, cuts, graph, model, kinds, head_name))
    kept = sorted({0, len(cuts) - 1, *(cut.index for matches in matching.values() for cut in matches)})
    return [replace(cuts[place], index=index) for index, place in enumerate(kept)]


def _no_candidate(
    wanted: str, cuts: Sequence[Cut], graph: LayerGraph, model: nn.Module, kinds: Sequence[str], head: str
) -> str:
    """Return why a layer is none of the candidates, and which ones are near it."""
    numbers = number_layers(graph)
    for kind in KINDS:
        more = (*kinds, kind)
        others = [] if kind in kinds else cuts_of(graph, model, more, head=head)
        if cuts_named(wanted, others, numbers):
            return f"Layer {wanted!r} is none of {', '.join(kinds)}: --kinds {','.join(more)} has it."
    if any(is_within(cut.name, wanted) for cut in cuts):
        return f"{wanted!r} is a module with layers inside, not one: give '{wanted}.*' for its cuts."
    near = ", ".join(map(str, cuts_near(wanted, cuts, numbers)))
    nearest = f"Near: {near}. All of them: depthsearch cuts BACKBONE."
    for name, numbered in numbers.items():
        if wanted in (str(numbered.number), name, numbered.keras_name):
            known = f"Layer {wanted!r} ({name}) is none of {', '.join(KINDS[:-1])}"
            return f"{known}: no cut starts there. {nearest}"
    return f"No layer {wanted!r} in {type(model).__name__}. {nearest}"


def kinds_of(
    graph: LayerGraph, model: nn.Module, kinds: Sequence[str] = DEFAULT_KINDS, *, head: str | None = None
) -> tuple[str, ...]:
    """Return which kinds of candidates are meant, ``auto`` replaced by those that suit the network.

    Convolutions, poolings and concatenations where convolutions do most of the work: two thirds of the
    backbone's MACs, and there are no blocks without one. Blocks where attention or MLPs do: convolutions are
    less than a third of the MACs and less than a fifth of the weighted layers. All four of them in between.
    Linear layers where there is nothing else.
    """
    if "auto" not in kinds:
        return tuple(kinds)
    end, _ = find_head(graph, model, head)
    backbone = [layer for layer in graph.layers if layer.position < end]
    convolutions = [layer for layer in backbone if layer.kind == "conv"]
    n_weighted = sum(len(layer.weight_shape) >= 2 for layer in backbone)
    work = sum(layer.macs for layer in convolutions) / max(1, sum(layer.macs for layer in backbone))
    blocks = [p for p in find_blocks(model, graph.opaque) if _block_start(backbone, p) is not None]
    plain = [p for p in blocks if not any(is_within(layer.module, p) for layer in convolutions)]
    if not convolutions and len(blocks) < 2:
        chosen: tuple[str, ...] = ("linear",)
    elif len(blocks) < 2 or (work >= 2 / 3 and not plain):
        chosen = CONVOLUTIONAL
    elif work < 1 / 3 and len(convolutions) < n_weighted / 5:
        chosen = BLOCKS
    else:
        chosen = (*CONVOLUTIONAL, *BLOCKS)
    return tuple(kind for kind in KINDS if kind in chosen or kind in kinds)


def _candidates(
    graph: LayerGraph, backbone: Sequence[Layer], model: nn.Module, kinds: Sequence[str]
) -> Iterator[_Candidate]:
    modules = dict(model.named_modules())
    last_map = max((layer.position for layer in backbone if len(layer.output_shape) > 2), default=0)
    for layer in backbone:
        is_linear = isinstance(modules.get(layer.module), nn.Linear) and layer.position > last_map
        kind = "linear" if is_linear else layer.kind
        if kind in kinds:
            yield _Candidate(position=layer.start, first_layer=layer.name, name=layer.name, kind=kind)
    if "block" in kinds:
        for path in find_blocks(model, graph.opaque):
            start = _block_start(backbone, path)
            if start is not None:
                yield _Candidate(position=start.start, first_layer=start.name, name=path, kind="block")


def _block_start(backbone: Sequence[Layer], path: str) -> Layer | None:
    """Find the layer that a block begins with; None: it does not run."""
    inside = (layer for layer in backbone if is_within(layer.module, path))
    return min(inside, key=lambda layer: layer.position, default=None)


def find_blocks(model: nn.Module, whole: Collection[str] = ()) -> list[str]:
    """Find the repeated units of a model: residual blocks, dense layers, transformer blocks.

    A unit is the innermost module with at least two weighted layers whose class stands several times under
    one parent; modules at the same place of the hierarchy (``blocks.0.0`` beside ``blocks.3.1``) are too.
    Nothing inside of a module that is kept whole is a unit.
    """
    units = {
        path: module
        for path, module in model.named_modules()
        if path
        and type(module) not in CONTAINERS
        and sum(map(is_weighted, module.modules())) >= 2
        and not any(path.startswith(around + ".") for around in whole)
    }
    siblings = Counter((path.rpartition(".")[0], type(module)) for path, module in units.items())
    classes = {kind for (_, kind), n in siblings.items() if n >= 2}
    repeated = {path for path, module in units.items() if type(module) in classes}
    places = {_place(path) for path in repeated}
    paths = [p for p in units if p in repeated or _place(p) in places]
    return [p for p in paths if not any(q.startswith(p + ".") for q in paths)]


def _place(path: str) -> str:
    return re.sub(r"\d+", "*", path)


def _merge(
    candidates: Sequence[_Candidate], graph: LayerGraph, model: nn.Module, end: int
) -> list[tuple[_Candidate, tuple[str, ...]]]:
    """Join the candidates that freeze the same tensors; drop those where no boundary can be kept."""
    parameters = {name for name, _ in model.named_parameters()}
    # A constant, such as the kernel of a blur, is the same frozen or not.
    learning = [
        name
        for name, at in graph.first_uses.items()
        if at < end and (name in parameters or name.rpartition(".")[2] in STATISTICS)
    ]

    def frozen(candidate: _Candidate) -> tuple[int, int]:
        """Count what is used before a candidate, and what the image has met before it."""
        uses = sum(graph.first_uses[name] < candidate.position for name in learning)
        return uses, sum(graph.first_effects[name] < candidate.position for name in learning)

    def depth(candidate: _Candidate) -> tuple[int, int]:
        return candidate.position, -PRECEDENCE.index(candidate.kind)

    def possible(candidate: _Candidate) -> bool:
        try:
            return bool(graph.boundary(candidate.position))
        except TraceError:
            return False

    groups: list[list[_Candidate]] = []
    counts = (-1, -1)
    for candidate in sorted(filter(possible, candidates), key=depth):
        frozen_now = frozen(candidate)
        # What only waits for the image, such as a view of a parameter, makes no candidate of its own.
        if frozen_now[0] > counts[0] and frozen_now[1] > counts[1]:
            groups.append([])
            counts = frozen_now
        groups[-1].append(candidate)
    aliases = (dict.fromkeys(c.name for c in group if c.name != group[-1].name) for group in groups)
    return [(group[-1], tuple(names)) for group, names in zip(groups, aliases, strict=True)]


def _describe(
    graph: LayerGraph, backbone: Sequence[Layer], merged: Sequence[tuple[_Candidate, tuple[str, ...]]]
) -> list[Cut]:
    numbers = number_layers(graph)
    behind = Numbered(number=max(n.number for n in numbers.values()) + 1, keras_name=None)
    macs = sum(layer.macs for layer in backbone)
    parameters = sum(layer.parameters for layer in backbone)
    cuts = []
    for index, (candidate, aliases) in enumerate(merged):
        before = [layer for layer in backbone if layer.position < candidate.position]
        frozen_parameters = sum(layer.parameters for layer in before)
        frozen_macs = sum(layer.macs for layer in before)
        numbered = numbers.get(candidate.first_layer, behind)
        cuts.append(
            Cut(
                index=index,
                layer=numbered.number,
                name=candidate.name,
                kind=candidate.kind,
                keras_name=numbered.keras_name if candidate.kind != "head" else None,
                aliases=aliases,
                first_layer=candidate.first_layer,
                frozen_mac_share=frozen_macs / macs if macs else 0.0,
                frozen_parameter_share=frozen_parameters / parameters,
                trainable_parameters=parameters - frozen_parameters,
                boundary_bytes=sum(graph.bytes_per_image[n] for n in graph.boundary(candidate.position)),
                training_macs=frozen_macs + 3 * (macs - frozen_macs),
                image_shape=graph.image_shape,
                trainable_tensors=sum(
                    layer.weight_tensors for layer in backbone if layer.position >= candidate.position
                ),
            )
        )
    return cuts
