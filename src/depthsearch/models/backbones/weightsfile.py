"""Weights in a file: read without running code that it holds, refused where nobody can compute with them.

All but those of the classifier are loaded into a model.

A state dict by itself, or one of several under names such as ``state_dict`` or ``state_dict_ema``, as
training programs save them; ``FILE:NAME`` says which. What stands before every key, such as ``module.``, is
taken off where the rest then fits.
"""

from __future__ import annotations

import hashlib
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from timm.models import clean_state_dict
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import WeightsError
from depthsearch.files import is_file, why_no_file
from depthsearch.models.backbones.backbone import WeightsOrigin
from depthsearch.models.backbones.description import classifier_of
from depthsearch.text import a_few, counted

State = Mapping[str, torch.Tensor]

# PyTorch does not compress, and somebody who does so saves a few per cent.
MOST_INFLATED, FREE_BYTES = 10, 2**24
SAVE = "Save model.state_dict() with safetensors.torch.save_file."
# What training programs call the weights that they train, the first of these that is there; averages of them,
# such as state_dict_ema, are taken where there is nothing else, or where they are asked for.
USUAL = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedState:
    """The weights in a file.

    Attributes:
        tensors: By name, as saved, but for ``module.`` and ``_orig_mod.`` before each.
        entry: Where they stand in the file; empty: the file is nothing else.
        others: Where others stand there.
    """

    tensors: dict[str, torch.Tensor]
    entry: str = ""
    others: tuple[str, ...] = ()


def load_file(name: str, model: nn.Module, given: str) -> tuple[WeightsOrigin, tuple[str, ...]]:
    """Load everything but the classifier, which may have another size or be missing.

    What is given is ``FILE``, or ``FILE:NAME`` for one of several state dicts in it.

    Returns:
        Where the weights come from, and what the user should know of them, a line each.

    Raises:
        WeightsError: If the file cannot be used, or does not fit.
    """
    path, entry = _locate(given)
    saved = read_state(path, entry)
    classifier = classifier_of(model)
    expected = _without(model.state_dict(), classifier)
    tensors, begin = _fitting(expected, saved.tensors, classifier, path)
    problems = _differences(expected, _without(tensors, classifier))
    if problems:
        taken_off = f" without the {begin!r} before its keys" if begin else ""
        raise WeightsError(
            f"{path} does not fit {name}{taken_off}: {'; '.join(problems)}. Give weights of {name}."
        )
    # The model's own state dict says of which version its parts are.
    whole = model.state_dict()
    whole.update(_without(tensors, classifier))
    model.load_state_dict(whole)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=4)).hexdigest()
    entry = f":{saved.entry}" if saved.entry and (saved.others or saved.entry == entry) else ""
    notes = _notes(f"{path}{entry}", saved, begin, tensors, model.get_submodule(classifier), classifier)
    return WeightsOrigin(kind="file", where=f"{path.name}{entry} ({digest})"), tuple(notes)


def _notes(
    place: str, saved: SavedState, begin: str, tensors: State, old: nn.Module, classifier: str
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
        beside = f"; left out beside them: {counted(n_beside, 'tensor')}" if n_beside else ""
        yield f"Weights: the {begin!r} before the keys of {place} is taken off{beside}."
    theirs, ours = tensors.get(f"{classifier}.weight"), getattr(old, "weight", None)
    if theirs is None:
        yield f"Weights: {place} comes without a classifier ({classifier}); a new one is trained anyway."
    elif isinstance(ours, torch.Tensor) and theirs.shape != ours.shape:
        yield (
            f"Weights: the classifier of {place} tells {len(theirs)} classes; it is left out, as a new one "
            "is trained anyway."
        )


def _locate(given: str) -> tuple[Path, str]:
    """Split ``FILE:NAME``; the name is empty where none is given, or the whole is a file's name."""
    path, colon, entry = given.rpartition(":")
    if colon and path and re.fullmatch(r"[\w.]+", entry) and not is_file(Path(given)):
        return Path(path), entry
    return Path(given), ""


def read_state(path: Path, entry: str = "") -> SavedState:
    """Read a state dict.

    Args:
        path: Of the file.
        entry: Which of several, by its name in the file or by what stands before its keys; empty: the usual.

    Raises:
        WeightsError: If there is no such file, or no state dict in it that loads without running code.
    """
    if not is_file(path):
        raise WeightsError(
            f"No weights file {str(path)!r}{why_no_file(path)}. Give auto, random, or a safetensors or "
            "state-dict file."
        )
    _refuse_bomb(path)
    content = _read(path)
    if content == {} or _is_state(content):
        return _part(path, content, entry)
    if not isinstance(content, dict):
        raise WeightsError(_neither(path))
    names = [name for name, each in content.items() if _is_state(each)]
    if not names:
        raise WeightsError(f"{path} holds no state dict of tensors. Save model.state_dict() and give that.")
    chosen = entry or next((name for name in USUAL if name in names), names[0] if len(names) == 1 else "")
    if chosen not in names:
        contains = f"no {entry!r}, but" if entry else "several state dicts:"
        raise WeightsError(f"{path} holds {contains} {', '.join(names)}. Give {path}:{names[0]}, or another.")
    others = tuple(name for name in names if name != chosen)
    return SavedState(tensors=_cleaned(content[chosen]), entry=chosen, others=others)


def _part(path: Path, state: State, entry: str) -> SavedState:
    """Select the tensors whose keys begin with a name; all, if none is given."""
    cleaned = _cleaned(state)
    if not entry:
        return SavedState(tensors=cleaned)
    begin = f"{entry}."
    part = {key.removeprefix(begin): tensor for key, tensor in cleaned.items() if key.startswith(begin)}
    if not part:
        raise WeightsError(
            f"{path} holds one state dict, with no keys that begin with {begin!r}. Give {path}."
        )
    return SavedState(tensors=part, entry=entry)


def _cleaned(state: State) -> dict[str, torch.Tensor]:
    """Remove the prefixes of parallel or compiled training; else return the state dict as it is."""
    cleaned: dict[str, torch.Tensor] = clean_state_dict(dict(state))
    # As it is it may say of which version the modules are that it was saved from.
    return state if isinstance(state, dict) and cleaned.keys() == state.keys() else cleaned


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whether it can be read is what counts, not how it was written
            return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError as error:
        raise WeightsError(f"Cannot read {path}: {error.strerror}. Check that it may be read.") from error
    except Exception as error:  # on a damaged file torch and safetensors raise nearly anything
        if is_out_of_memory(error):
            raise WeightsError(
                f"The memory does not suffice to read {path} ({path.stat().st_size / 2**20:,.0f} MiB). "
                "Free some, and run the same command again."
            ) from error
        raise WeightsError(_neither(path)) from error


def _neither(path: Path) -> str:
    return f"{path} is neither a safetensors file nor a state dict that loads without running code. {SAVE}"


def _is_state(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(key, str) and isinstance(t, torch.Tensor) for key, t in content.items())
    )


def _refuse_bomb(path: Path) -> None:
    """Refuse a small file that would fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            n_bytes = sum(entry.file_size for entry in archive.infolist())
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
        return  # no archive that can be listed: what PyTorch makes of it is its to say
    if n_bytes > FREE_BYTES + MOST_INFLATED * path.stat().st_size:
        raise WeightsError(
            f"{path} would grow to {n_bytes / 2**30:.1f} GiB in memory, far more than weights of its size "
            f"do. {SAVE}"
        )


def _fitting(expected: State, given: State, classifier: str, path: Path) -> tuple[State, str]:
    """Remove a prefix that all keys of a model's tensors have in a file, if there is one.

    Returns:
        The tensors by the model's names, and what was taken off, empty if nothing. Where they do not fit, the
        best of what is there. Those of the classifier need not fit.

    Raises:
        WeightsError: If the tensors of several such models are in the file.
    """
    if not _missing(expected, given):
        return given, ""
    states = {begin: _behind(given, begin) for begin in _beginnings(expected, given)}
    whole = [
        begin for begin, state in states.items() if not _differences(expected, _without(state, classifier))
    ]
    if len(whole) > 1:
        names = [begin.rstrip(".") for begin in whole]
        raise WeightsError(
            f"{path} holds these weights {len(whole)} times, under {', '.join(names)}. "
            f"Give {path}:{names[0]}, or another."
        )
    best = (
        whole[0]
        if whole
        else min(states, key=lambda begin: len(_missing(expected, states[begin])), default="")
    )
    return (states[best], best) if best else (given, "")


def _without(state: State, module: str) -> State:
    """Leave out the tensors of a module."""
    return {key: tensor for key, tensor in state.items() if not key.startswith(f"{module}.")}


def _beginnings(expected: State, given: State) -> list[str]:
    """List what stands before most names of the model's in the keys of a file."""
    counts: Counter[str] = Counter()
    for key in given:
        places = (dot.end() for dot in re.finditer(r"\.", key))
        counts.update(key[:place] for place in places if key[place:] in expected)
    return sorted(begin for begin, n in counts.items() if 2 * n > len(expected))


def _behind(given: State, begin: str) -> State:
    return {key.removeprefix(begin): tensor for key, tensor in given.items() if key.startswith(begin)}


def _missing(expected: State, given: State) -> set[str]:
    return {key for key in expected.keys() - given.keys() if not key.endswith("num_batches_tracked")}


def _differences(expected: State, given: State) -> list[str]:
    """List how a state dict differs from what a model takes; what counts batches may be missing."""
    both = expected.keys() & given.keys()
    fitting = {k for k in both if expected[k].shape == given[k].shape}
    unlike = {k for k in fitting if not _is_like(given[k], expected[k])}
    return [
        *_listed("missing", _missing(expected, given)),
        *_listed("unexpected", given.keys() - expected.keys()),
        *_listed("of another shape", both - fitting),
        *_listed("without floating-point numbers", unlike),
        *_listed("with NaN or infinite values", {k for k in fitting - unlike if not _is_finite(given[k])}),
    ]


def _is_like(given: torch.Tensor, expected: torch.Tensor) -> bool:
    """Return whether a tensor's values can fill another; integers are refused where floats are expected."""
    if given.layout is not torch.strided or given.device.type != "cpu" or given.is_complex():
        return False
    return given.is_floating_point() or not expected.is_floating_point()


def _is_finite(given: torch.Tensor) -> bool:
    # In the precision that it is computed in: what 64 bits hold may be infinite in 32.
    return not given.is_floating_point() or bool(given.float().isfinite().all())


def _listed(what: str, keys: set[str]) -> Iterator[str]:
    if keys:
        yield f"{counted(len(keys), 'key')} {what} ({a_few(keys)})"
