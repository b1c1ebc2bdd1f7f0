"""Backbones of Hugging Face's transformers: image classifiers of its hub, or in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthsearch.devices import is_out_of_memory
from depthsearch.errors import SettingsError, WeightsError
from depthsearch.files import is_folder
from depthsearch.models.backbones import hub
from depthsearch.models.backbones.backbone import Network, Preprocessing, Request, WeightsOrigin
from depthsearch.models.backbones.description import USUAL_MEAN, USUAL_STD, describe, fold_to_grey, grey
from depthsearch.models.backbones.requirements import require_transformers
from depthsearch.models.backbones.weightsfile import load_file
from depthsearch.text import counted, first_line

# Pillow's filters by their numbers, as processors store them.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
BYTE = 1 / 255
# What a configuration says beside the model: who has written it.
VERSION = "transformers_version"
# Below it ConvNeXt's processor cuts a part out, from it on it takes the whole image.
WHOLE_FROM = 384
TENSORS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def network(request: Request, weights: str) -> Network:
    """Build a model of the hub or of a folder and load its weights.

    Raises:
        SettingsError: If there is no such model, or not with so many channels.
        WeightsError: If its weights are not to be had, or do not fit.
    """
    require_transformers()
    name, called = request.name, f"hf:{request.name}"
    with _quiet():
        config = _load_config(name)
        processor = _processor(name)
        notes: tuple[str, ...] = ()
        seen = _seen(called, config, processor, request.image_size)
        if weights == "auto":
            model = _pretrained(name)
            origin = WeightsOrigin(kind="pretrained", where=f"transformers {name}")
        else:
            model = _built(config, request.seed)
            origin = WeightsOrigin(kind="random", seed=request.seed)
        model = _described(model, called, seen)
        if weights not in ("auto", "random"):
            origin, notes = load_file(called, model, weights)
        if request.in_chans == 1:
            model = _folded(model, called, config, seen)
    return Network(
        model=model,
        weights=origin,
        library=f"transformers {_version()}",
        built_from={"config": {n: v for n, v in config.to_diff_dict().items() if n != VERSION}},
        assumes=processor is None,
        notes=notes,
    )


def create(request: Request, built_from: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a model with random weights.

    Args:
        request: Names it.
        built_from: Its configuration, as `network` once returned it; None: it is looked up.

    Raises:
        SettingsError: If there is no such model, or not with so many channels.
    """
    require_transformers()
    called = f"hf:{request.name}"
    with _quiet():
        if built_from is None:
            config, processor = _load_config(request.name), _processor(request.name)
        else:
            config, processor = _config_of(called, built_from["config"]), None
        seen = _seen(called, config, processor, request.image_size)
        model = _described(_built(config, request.seed), called, seen)
        return _folded(model, called, config, seen) if request.in_chans == 1 else model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing of weights and files by itself."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _options(name: str, *filenames: str) -> dict[str, Any]:
    """Return how transformers is to look for a model: where it is at hand, the hub is not asked."""
    if is_folder(Path(name)) or hub.in_cache(name, *filenames):
        return {"local_files_only": True, "trust_remote_code": False}
    if not hub.answers(lambda: hub.ask_hub(name)):
        raise WeightsError(
            f"No model hf:{name}: no such folder, not in the local cache, and not from the hub within "
            f"{hub.HUB_TIMEOUT_SECONDS:.0f} s. Check the name, go online once, or give hf:FOLDER, as "
            "model.save_pretrained(FOLDER) writes it."
        )
    return {"trust_remote_code": False}


def _load_config(name: str) -> Any:
    from transformers import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, **_options(name, "config.json"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"hf:{name} has no configuration that transformers reads: {first_line(error).rstrip('.')}. "
            f"{hub.if_unwritable(error)}Give hf:NAME of an image classifier, or a folder that "
            "model.save_pretrained has written."
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise SettingsError(
            f"hf:{name} is a {config.model_type}, of which transformers {_version()} has no image "
            "classifier. Take another backbone."
        )
    return config


def _version() -> str:
    import transformers

    return str(transformers.__version__)


def _config_of(called: str, values: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"This transformers cannot build {called} from its configuration: {first_line(error)}. Install "
            "the version that it was trained with."
        ) from error


def _built(config: Any, seed: int) -> Any:
    """Build a model with random weights."""
    from transformers import AutoModelForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForImageClassification.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )


def _pretrained(name: str) -> Any:
    """Load a model with its weights; a classifier that is missing is replaced anyway."""
    from transformers import AutoModelForImageClassification

    options = _options(name, *TENSORS)
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:  # transformers, the hub and their libraries may raise anything
        if is_out_of_memory(error):
            raise
        raise WeightsError(
            f"The weights of hf:{name} cannot be loaded: {first_line(error).rstrip('.')}. "
            f"{hub.if_unwritable(error)}Give --weights FILE, or say --weights random."
        ) from error
    base = model.base_model_prefix
    missing = sorted(key for key in info["missing_keys"] if key.startswith(f"{base}."))
    if missing:
        raise WeightsError(
            f"The weights of hf:{name} lack {counted(len(missing), 'tensor')} of its backbone "
            f"({', '.join(missing[:5])}). Give --weights FILE, or another backbone."
        )
    return model


def _described(model: nn.Module, called: str, seen: Preprocessing) -> nn.Module:
    describe(model, called, seen)
    return model.eval()


def _folded(model: nn.Module, called: str, config: Any, seen: Preprocessing) -> nn.Module:
    """Make the model for grey images, which counts their channels itself."""
    fold_to_grey(model, called)
    for module in model.modules():
        if vars(module).get("num_channels") == 3:
            vars(module)["num_channels"] = 1
    describe(model, called, grey(seen))
    return model


def _processor(name: str) -> Any:
    """Load what prepares images for a model; None where it does not say."""
    from transformers import AutoImageProcessor

    options = _options(name, "preprocessor_config.json", "config.json")
    try:
        return AutoImageProcessor.from_pretrained(name, **options)
    except (OSError, ValueError, ImportError):
        return None


def _seen(called: str, config: Any, processor: Any, image_size: int | None) -> Preprocessing:
    """Read what images a model takes from its processor, else from its configuration."""
    if processor is not None:
        return seen_by_processor(called, processor)
    size = getattr(config, "image_size", None) or image_size
    if isinstance(size, list | tuple):
        size = size[0]
    if size is None:
        raise SettingsError(f"{called} does not say which images it takes. Give --image-size PX.")
    return Preprocessing(
        image_size=int(size), mean=USUAL_MEAN, std=USUAL_STD, interpolation="bilinear", crop_share=1.0
    )


def seen_by_processor(called: str, processor: Any) -> Preprocessing:
    """Read what a processor does, as far as it can be done here.

    Raises:
        SettingsError: If it does more.
    """
    if getattr(processor, "do_flip_channel_order", False):
        raise SettingsError(
            f"{called} takes blue first, and images here have red first. Take another backbone."
        )
    factor = getattr(processor, "rescale_factor", None) or BYTE
    if abs(factor - BYTE) > 1e-6 * BYTE or getattr(processor, "rescale_offset", False):
        raise SettingsError(
            f"{called} scales pixels by {factor:g}, and here it is 1/255. Take another backbone."
        )
    size, share = _side_and_share(called, processor)
    normalises = getattr(processor, "do_normalize", True)
    resample = getattr(processor, "resample", None)
    seen = Preprocessing(
        image_size=size,
        mean=_each(processor.image_mean) if normalises else (0.0, 0.0, 0.0),
        std=_each(processor.image_std) if normalises else (1.0, 1.0, 1.0),
        interpolation="bilinear" if resample is None else _filter(resample),
        crop_share=share,
    )
    return seen if len(seen.mean) == 3 else replace(seen, mean=seen.mean * 3, std=seen.std * 3)


def _each(values: Any) -> tuple[float, ...]:
    return tuple(values) if isinstance(values, list | tuple) else (float(values),) * 3


def _filter(resample: Any) -> str:
    name = getattr(resample, "value", None)
    return name if isinstance(name, str) else FILTERS[int(resample)]


def _side_and_share(called: str, processor: Any) -> tuple[int, float]:
    """Read the side of the images, and the share of the shorter one that it is."""
    size = dict(processor.size or {})
    side = size.get("shortest_edge") or size.get("height")
    if not side or size.get("width", side) != side:
        raise SettingsError(
            f"{called} takes images of {size}, and here all are square. Take another backbone."
        )
    cut = getattr(processor, "crop_pct", None)
    if cut and "shortest_edge" in size:
        return int(side), float(cut) if side < WHOLE_FROM else 1.0
    if getattr(processor, "do_center_crop", False) and processor.crop_size:
        cropped = int(dict(processor.crop_size).get("height") or side)
        return cropped, min(1.0, cropped / side)
    return int(side), 1.0
