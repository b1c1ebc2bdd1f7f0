"""The user's own backbones: a function in a Python file that returns a model."""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError
from depthsearch.models.backbones.backbone import Network, Preprocessing, Request, WeightsOrigin
from depthsearch.models.backbones.description import USUAL_MEAN, USUAL_STD, describe, fold_to_grey, grey
from depthsearch.models.backbones.usercode import UserCode, import_code, read_code, where_it_failed
from depthsearch.models.backbones.weightsfile import load_file
from depthsearch.models.tracing.inputs import configuration

# Logits of the classifier that is replaced, where a function has to be told how many.
NUM_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class _Function:
    """A function in the user's own file, ``FILE.py:function``, with its parameters by name."""

    name: str
    code: UserCode
    call: Callable[..., Any]
    takes: Mapping[str, inspect.Parameter]


def network(request: Request, weights: str) -> Network:
    """Call a function that builds a model; load weights if some are asked for.

    Raises:
        SettingsError: If the function fails, or what it returns cannot be used.
        WeightsError: If the weights in a file do not fit.
    """
    name = f"{request.name}:{request.entry}"
    if weights == "random":
        raise SettingsError(
            f"--weights random: {name} gives its model the weights that it has. Leave --weights out, or give "
            "a file."
        )
    made = _find(request.name, request.entry)
    model, assumes, notes = _described(made, request)
    origin = WeightsOrigin(kind="function", where=f"{name} ({made.code.digest[:8]})")
    if weights != "auto":
        origin, more_notes = load_file(name, model, weights)
        notes = (*notes, *more_notes)
    return Network(
        model=model,
        weights=origin,
        built_from={"digest": made.code.digest},
        code=made.code,
        assumes=assumes,
        notes=notes,
    )


def create(request: Request, built_from: Mapping[str, Any] | None = None) -> nn.Module:
    """Call a function that builds a model.

    Args:
        request: Names it.
        built_from: The file's digest, as `network` once returned it, where it has to be the same again.

    Raises:
        SettingsError: If the function fails, what it returns cannot be used, or the file is another.
    """
    made = _find(request.name, request.entry)
    if built_from is not None and built_from.get("digest") != made.code.digest:
        raise SettingsError(
            f"{request.name} is not what it was when the model was trained. Bring that file back: its digest "
            f"begins with {str(built_from.get('digest'))[:8]}."
        )
    return _described(made, request)[0]


def _find(path: str, function: str) -> _Function:
    """Run a file and find a function in it."""
    name = f"{path}:{function}"
    code = read_code(Path(path))
    module = import_code(code)
    call = vars(module).get(function)
    if not callable(call):
        there = _functions(module)
        hint = f"It has: {', '.join(there)}." if there else "It has none. Give one that returns a model."
        raise SettingsError(f"Backbone {name}: {path} has no function {function!r}. {hint}")
    return _Function(name, code, call, _parameters(call))


def _parameters(call: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(call).parameters
    except (TypeError, ValueError):
        return {}


def _functions(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and value.__module__ == module.__name__
    ]


def _described(made: _Function, request: Request) -> tuple[nn.Module, bool, tuple[str, ...]]:
    """Describe what a function returns; return also whether its images are guessed, and notes."""
    size = request.image_size or _default_size(made)
    model, notes = _call(made, request.in_chans, size, request.seed)
    config = configuration(model)
    size = size or _declared_size(model, config)
    if size is None:
        raise SettingsError(
            f"{made.name} does not say which images its model takes. Give --image-size PX, or let the model "
            "have an attribute image_size."
        )
    seen = Preprocessing(
        image_size=size,
        mean=tuple(config.get("mean") or USUAL_MEAN),
        std=tuple(config.get("std") or USUAL_STD),
        interpolation=config.get("interpolation") or "bilinear",
        crop_share=config.get("crop_pct") or 1.0,
    )
    if request.in_chans == 1:
        if "in_chans" not in made.takes:
            fold_to_grey(model, made.name)
        seen = grey(seen)
    describe(model, made.name, seen)
    return model, not config.get("mean"), notes


def _call(
    made: _Function, in_chans: int, image_size: int | None, seed: int
) -> tuple[nn.Module, tuple[str, ...]]:
    """Call a function with what it declares, and take a copy of the model that it returns."""
    given = _arguments(made, in_chans, image_size)
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(sys.stderr):
            torch.manual_seed(seed)
            model = made.call(**given)
        if not isinstance(model, nn.Module):
            raise SettingsError(f"{made.name} returns a {type(model).__name__}, not a torch.nn.Module.")
        # Somebody may return the same model each time, and it is changed here.
        model = copy.deepcopy(model).cpu()
    except SettingsError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        if is_out_of_memory(error):
            raise
        raise SettingsError(f"{made.name} fails: {where_it_failed(error, made.code.path)}.") from error
    if {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}:
        return model.float(), (f"Backbone {made.name} is taken in float32, not as it is returned.",)
    return model, ()


def _arguments(made: _Function, in_chans: int, image_size: int | None) -> dict[str, Any]:
    """Choose what a function is called with; refuse one that needs what nobody knows."""
    takes = made.takes
    given: dict[str, Any] = {}
    if "in_chans" in takes:
        given["in_chans"] = in_chans
    if "num_classes" in takes and takes["num_classes"].default is inspect.Parameter.empty:
        given["num_classes"] = NUM_CLASSES
    if "image_size" in takes:
        if image_size is None:
            raise SettingsError(f"{made.name} wants to know the image_size: give --image-size PX.")
        given["image_size"] = image_size
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [n for n, p in takes.items() if p.default is p.empty and n not in given and p.kind not in kinds]
    if needed:
        raise SettingsError(
            f"{made.name} needs {', '.join(needed)}: what it may ask for is num_classes, in_chans and "
            "image_size. Give the others defaults."
        )
    return given


def _default_size(made: _Function) -> int | None:
    default = made.takes["image_size"].default if "image_size" in made.takes else None
    return default if isinstance(default, int) else None


def _declared_size(model: nn.Module, config: Mapping[str, Any]) -> int | None:
    """Read which images a model says it takes: by timm's configuration, or an attribute of its own."""
    if config.get("input_size"):
        return int(config["input_size"][-1])
    for owner in (model, getattr(model, "config", None)):
        size = getattr(owner, "image_size", None)
        if isinstance(size, list | tuple) and size:
            size = size[-1]
        if isinstance(size, int):
            return size
    return None
