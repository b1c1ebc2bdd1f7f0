"""A candidate cut, and how it is found by one of its names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from depthsearch.errors import CutError
from depthsearch.models.numbering import Numbered, layer_name
from depthsearch.options.words import AUTO

# Of candidates: those that suit the network.
DEFAULT_KINDS = (AUTO,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A border between frozen and trainable layers.

    Attributes:
        index: Position among the listed candidates by depth; 0 freezes nothing.
        layer: Number of the first trainable layer, counted from 1 as Keras prints a model.
        name: Module path of that layer or block.
        kind: ``conv``, ``pool``, ``concat``, ``block`` or ``linear``; ``head``: the whole backbone is frozen.
        keras_name: Its name in ``keras.applications``, or None where Keras has no such model.
        aliases: Other candidates that freeze the same parameters.
        first_layer: Name of the operation that the suffix starts with.
        frozen_mac_share: Share of the backbone's forward MACs before the cut, in [0, 1].
        frozen_parameter_share: Share of the backbone's parameters before the cut, in [0, 1].
        trainable_parameters: Parameters of the backbone at or behind the cut; the head's come on top.
        boundary_bytes: Bytes of the tensors alive across the cut, per image, as computed (float32: 4 each).
        training_macs: MACs of training on one image, the head left out: frozen layers forward, the others
            forward and backward.
        trainable_tensors: Weight tensors (kernels, biases, scales) of the backbone at or behind the cut, each
            counted as one.
        backbone: Whose cut it is, where a space has those of several backbones; else empty.
        image_shape: Channels, height and width of the image that its costs are of.
    """

    index: int
    layer: int
    name: str
    kind: str
    keras_name: str | None
    aliases: tuple[str, ...]
    first_layer: str
    frozen_mac_share: float
    frozen_parameter_share: float
    trainable_parameters: int
    boundary_bytes: int
    training_macs: int = 0
    trainable_tensors: int = 0
    backbone: str = ""
    image_shape: tuple[int, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        """Name the cut as every output does: backbone if there are several, number, Keras name, path."""
        return f"{self.backbone} {self.named}" if self.backbone else self.named

    @property
    def named(self) -> str:
        """Name the cut within its backbone."""
        return layer_name(self.layer, self.keras_name, self.name)


def find_cut(cuts: Iterable[Cut], name: str | int) -> Cut:
    """Find a cut by layer number, module path, Keras name or alias.

    Raises:
        CutError: If there is none, with the names that come nearest.
    """
    cuts = list(cuts)
    wanted = str(name)
    for cut in cuts:
        if wanted in (str(cut.layer), cut.name, cut.keras_name, *cut.aliases):
            return cut
    nearest = ", ".join(map(str, cuts_near(wanted, cuts, {})))
    raise CutError(f"No cut {wanted!r}. Near: {nearest}. All of them: depthsearch cuts BACKBONE.")


def cuts_named(wanted: str, cuts: Sequence[Cut], numbers: Mapping[str, Numbered]) -> list[Cut]:
    """Find the cuts of one number, name or pattern."""
    return [
        cut
        for cut in cuts
        if any(fnmatchcase(name, wanted) for name in _names(cut, numbers)) or wanted in _numbers(cut, numbers)
    ]


def _names(cut: Cut, numbers: Mapping[str, Numbered]) -> list[str]:
    """List all names of a cut: module paths and Keras names, its aliases' too."""
    keras = [numbers[alias].keras_name for alias in cut.aliases if alias in numbers]
    return [name for name in (cut.name, *cut.aliases, cut.keras_name, *keras) if name]


def _numbers(cut: Cut, numbers: Mapping[str, Numbered]) -> list[str]:
    aliases = (numbers[alias].number for alias in cut.aliases if alias in numbers)
    return [str(number) for number in (cut.layer, *aliases)]


def cuts_near(wanted: str, cuts: Sequence[Cut], numbers: Mapping[str, Numbered]) -> list[Cut]:
    """Find three cuts with a number or name like one that there is not."""
    if wanted.isdecimal() and len(wanted) < 10:
        nearest = sorted(cuts, key=lambda cut: abs(cut.layer - int(wanted)))[:3]
        return sorted(nearest, key=lambda cut: cut.index)
    by_name = {name: cut for cut in cuts for name in _names(cut, numbers)}
    within = [name for name in by_name if wanted and wanted in name]
    like = within[:3] or difflib.get_close_matches(wanted[:80], by_name, n=3, cutoff=0.0)
    return list(dict.fromkeys(by_name[name] for name in like))
