"""Load the weights in a file into a model, all but those of its classifier."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import nn

from depthsearch.errors import WeightsError
from depthsearch.models.backbones.backbone import WeightsOrigin
from depthsearch.models.backbones.description import classifier_of
from depthsearch.models.backbones.weightsfile import (
    SavedState,
    differences,
    fitting,
    locate,
    read_state,
    without,
)

__all__ = ["load_file"]


def load_file(name: str, model: nn.Module, given: str) -> tuple[WeightsOrigin, tuple[str, ...]]:
    """Load everything but the classifier, which may have another size or be missing.

    What is given is ``FILE``, or ``FILE:NAME`` for one of several state dicts in it.

    Returns:
        Where the weights come from, and what the user should know of them, a line each.

    Raises:
        WeightsError: If the file cannot be used, or does not fit.
    """
    path, entry = locate(given)
    saved = read_state(path, entry)
    classifier = classifier_of(model)
    expected = without(model.state_dict(), classifier)
    tensors, begin = fitting(expected, saved.tensors, classifier, path)
    problems = differences(expected, without(tensors, classifier))
    if problems:
        taken_off = f" without the {begin!r} before its keys" if begin else ""
        raise WeightsError(
            f"{path} does not fit {name}{taken_off}: {'; '.join(problems)}. Give weights of {name}."
        )
    # The model's own state dict says of which version its parts are.
    whole = model.state_dict()
    whole.update(without(tensors, classifier))
    model.load_state_dict(whole)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=4)).hexdigest()
    entry = f":{saved.entry}" if saved.entry and (saved.others or saved.entry == entry) else ""
    notes = _notes(f"{path}{entry}", saved, begin, tensors, model.get_submodule(classifier), classifier)
    return WeightsOrigin(kind="file", where=f"{path.name}{entry} ({digest})"), tuple(notes)


def _notes(
    place: str,
    saved: SavedState,
    begin: str,
    tensors: Mapping[str, torch.Tensor],
    old: nn.Module,
    classifier: str,
) -> Iterator[str]:
    """Write a line on each thing that is surprising in what was taken from a file."""
    if saved.others:
        path = place.removesuffix(f":{saved.entry}")
        yield (
            f"Weights: {saved.entry} of {path}, which also holds {', '.join(saved.others)}. "
            f"Another: --weights {path}:{saved.others[0]}."
        )
    if begin:
        n_beside = len(saved.tensors) - len(tensors)
        beside = f"; {n_beside} tensors beside them are left out" if n_beside else ""
        yield f"Weights: the {begin!r} before the keys of {place} is taken off{beside}."
    theirs, ours = tensors.get(f"{classifier}.weight"), getattr(old, "weight", None)
    if theirs is None:
        yield f"Weights: {place} comes without a classifier ({classifier}); a new one is trained anyway."
    elif isinstance(ours, torch.Tensor) and theirs.shape != ours.shape:
        yield (
            f"Weights: the classifier of {place} tells {len(theirs)} classes; it is left out, as a new one "
            "is trained anyway."
        )
