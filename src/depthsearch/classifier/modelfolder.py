"""A trained model as a folder: what timm's ``local-dir:`` loads, and all that depthsearch knows of it.

model.safetensors   weights; nothing in the folder is ever unpickled
config.json         timm's description of the model, and ours under "depthsearch"
README.md           the model card
model.onnx          where it was asked for
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import nn

from depthsearch import __version__
from depthsearch.classifier.card import model_card
from depthsearch.classifier.checking import CARD, CONFIG, FORMAT, ONNX, WEIGHTS, read_config
from depthsearch.classifier.model import Classifier
from depthsearch.data.decode import Geometry
from depthsearch.data.ranges import ValueRange
from depthsearch.data.samples import Columns, is_number
from depthsearch.devices import Device, choose_device
from depthsearch.errors import DataError, ModelError
from depthsearch.files import folder_written_whole, is_file, why_no_file
from depthsearch.models.backbones.backbone import Preprocessing, state_digest
from depthsearch.models.backbones.loading import make_model
from depthsearch.models.backbones.requirements import FROM_SCRATCH
from depthsearch.models.flattening import flattened
from depthsearch.models.heads import with_head
from depthsearch.options.backbones import parse_name

# Far more than any model has: a damaged description is not to fill the memory.
MOST_SIDE, MOST_WIDTH, MOST_DEPTH = 2**14, 2**20, 1000
# What reading a damaged description may raise.
DAMAGED = (
    LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError, DataError
)  # fmt: skip
# What is said of the head, by the attribute that has it.
HEAD_KEYS = {"kind": "head", "width": "head_width", "depth": "head_depth"}
# What timm's description of the backbone says of the new model too.
KEPT = ("tag", "fixed_input_size", "first_conv", "classifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that is kept of a model beside its weights.

    Attributes:
        backbone: Its name, as ``--backbone`` takes it.
        built_from: See `backbones.Backbone.built_from`.
        classifier: Module path of the head.
        classes: Names of the classes, in the order of the logits.
        head_width: See `heads.make_head`.
        head_depth: See `heads.make_head`.
        head: ``pool`` or ``flatten``, see `backbones.load_backbone`.
        samples: Columns of a sample's images and numbers, see `data.Columns.as_json`; None: one image.
        cut: Names of the first trainable layer.
        setting: What else was searched, by name.
        preprocessing: How images become the model's input.
        precision: In which it was trained and tested: ``bf16`` or ``float32``.
        provenance: Where weights and images come from, the study and how it was trained.
        test: Figures on the test images, and every reading of them.
    """

    backbone: str
    classifier: str
    classes: tuple[str, ...]
    head_width: int
    head_depth: int
    cut: Mapping[str, Any]
    setting: Mapping[str, Any]
    preprocessing: Preprocessing
    precision: str
    provenance: Mapping[str, Any]
    test: Mapping[str, Any]
    head: str = "pool"
    samples: Mapping[str, Sequence[str]] | None = None
    built_from: Mapping[str, Any] = field(default_factory=dict)


def save(
    folder: Path, model: nn.Module, description: Description, *, onnx: bytes | None = None
) -> dict[str, Any]:
    """Write a model folder, whole or not at all; an earlier one is replaced.

    Args:
        folder: Where; see `checking.check_place`.
        model: Backbone with its head, see `heads.without_dropout`.
        description: What else to keep.
        onnx: The model as an ONNX file.

    Returns:
        What ``config.json`` says.

    Raises:
        ModelError: If it cannot be written.
    """
    # A copy each: tensors that share memory cannot be written, and may be on a GPU or in another layout.
    tensors = {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()
    }
    config = _config(model, description)
    try:
        with folder_written_whole(folder.resolve()) as partial:
            (partial / WEIGHTS).write_bytes(safetensors.torch.save(tensors, {"format": "pt"}))
            (partial / CONFIG).write_text(
                json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            (partial / CARD).write_text(model_card(config, folder.name, onnx is not None), encoding="utf-8")
            if onnx is not None:
                (partial / ONNX).write_bytes(onnx)
    except OSError as error:
        raise ModelError(
            f"Cannot write the model to {folder}: {error.strerror}. Make room there or give another --out."
        ) from error
    return config


def load(
    folder: Path | str, *, device: str = "auto", precision: str | None = None, backbone: str | None = None
) -> Classifier:
    """Load a model that ``depthsearch fit`` wrote. Nothing is unpickled, and no code of the folder is run.

    Args:
        folder: The model folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        precision: ``auto``, ``bf16`` or ``float32``; default: what the model was trained and tested in.
        backbone: ``FILE.py:function`` of a model whose network is somebody's own. The folder names it, but
            only who loads it can say that it is to be run.

    Raises:
        ModelError: If there is no such folder, or what it holds is damaged, incomplete or not ours.
        SettingsError: If this timm lacks the backbone, or the device cannot be had.
    """
    folder = Path(folder)
    config = read_config(folder)
    ours = config["depthsearch"]
    try:
        _check_sizes(ours)
        classes = tuple(str(name) for name in ours["classes"])
        network = _network(folder, ours, backbone)
        if ours["head"]["kind"] == "flatten":
            network = flattened(network, image_size=ours["preprocessing"]["image_size"])
        columns = _columns(ours.get("samples"))
        model = with_head(
            network,
            ours["classifier"],
            len(classes),
            width=ours["head"]["width"],
            depth=ours["head"]["depth"],
            images_each=columns.images_each,
            n_numbers=len(columns.numbers),
        )
        preprocessing = _preprocessing(ours["preprocessing"])
        chosen = _device(device, precision, ours["precision"])
        digest = ours["digest"]
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder / CONFIG} is incomplete or damaged ({type(error).__name__}: {reason}). "
            "Write the model again with depthsearch fit."
        ) from error
    _load_weights(folder / WEIGHTS, model, digest)
    return Classifier(
        model=model,
        classes=classes,
        preprocessing=preprocessing,
        device=chosen,
        config=config,
        columns=columns,
    )


def _network(folder: Path, ours: Mapping[str, Any], backbone: str | None) -> nn.Module:
    """Build the network of a model folder, with random weights."""
    name, seen = ours["backbone"], ours["preprocessing"]
    is_own = parse_name(name).source == "file"
    if is_own and backbone is None:
        raise ModelError(
            f"The network of {folder} is made by {name}, which is not run unasked. Give --backbone {name}, "
            f'in Python depthsearch.load(..., backbone="{name}").'
        )
    if not is_own and backbone not in (None, name):
        raise ModelError(f"The network of {folder} is {name}, not {backbone}. Leave --backbone out.")
    if is_own and parse_name(str(backbone)).source != "file":
        raise ModelError(f"The network of {folder} is made by {name}, not {backbone}. Give FILE.py:FUNCTION.")
    return make_model(
        backbone or name, ours["built_from"], in_chans=len(seen["mean"]), image_size=seen["image_size"]
    )


def _timm_loads(model: nn.Module, name: str, architecture: str, num_classes: int, channels: int) -> bool:
    """Return whether timm builds a model with the same tensors by itself, as it does with a linear head.

    Without this package timm does not know the architectures that it has registered.
    """
    if architecture in FROM_SCRATCH or parse_name(name).source != "timm":
        return False
    options: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
    with torch.random.fork_rng(devices=[]):
        theirs: nn.Module = timm.create_model(
            architecture,
            pretrained=False,
            num_classes=num_classes,
            **options,
        )
    return _shapes(theirs) == _shapes(model)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _config(model: nn.Module, description: Description) -> dict[str, Any]:
    before: Mapping[str, Any] = vars(model)["pretrained_cfg"]
    seen = description.preprocessing
    input_size = [len(seen.mean), seen.image_size, seen.image_size]
    same_size = list(before.get("input_size", ())) == input_size
    ours = asdict(description)
    return {
        "architecture": before["architecture"],
        "num_classes": len(description.classes),
        "num_features": getattr(model, "num_features", None),
        "label_names": list(description.classes),
        "pretrained_cfg": {
            **{name: before[name] for name in KEPT if name in before},
            "custom_load": False,
            "input_size": input_size,
            "pool_size": before.get("pool_size") if same_size else None,
            "interpolation": seen.interpolation,
            "crop_pct": seen.crop_share,
            "crop_mode": "center",
            "mean": list(seen.mean),
            "std": list(seen.std),
            "num_classes": len(description.classes),
        },
        "depthsearch": {
            "format": FORMAT,
            "version": __version__,
            "timm_loads": _timm_loads(
                model, description.backbone, before["architecture"], len(description.classes), len(seen.mean)
            ),
            "digest": state_digest(model),
            "head": {name: ours.pop(key) for name, key in HEAD_KEYS.items()},
            **{name: value for name, value in ours.items() if name != "samples" or value is not None},
            "versions": {"torch": str(torch.__version__), "timm": timm.__version__},
        },
    }


def _check_sizes(ours: Mapping[str, Any]) -> None:
    """Refuse what no model of ours has, before memory is taken for it."""
    seen, head, classes = ours["preprocessing"], ours["head"], ours["classes"]
    if not isinstance(classes, list) or not classes or len({str(name) for name in classes}) < len(classes):
        raise ValueError("classes are no list of different names")
    for name, value, most in (
        ("image_size", seen["image_size"], MOST_SIDE),
        ("head width", head["width"], MOST_WIDTH),
        ("head depth", head["depth"], MOST_DEPTH),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}, not a whole number up to {most}")
    Geometry(
        image_size=seen["image_size"], crop_share=seen["crop_share"], interpolation=seen["interpolation"]
    )
    if ours["precision"] not in ("bf16", "float32"):
        raise ValueError(f"precision is {ours['precision']!r}, neither bf16 nor float32")
    if len(seen["mean"]) not in (1, 3) or len(seen["std"]) != len(seen["mean"]):
        raise ValueError("mean and std are not of one or three channels")
    if not all(map(is_number, (*seen["mean"], *seen["std"]))) or not all(std > 0 for std in seen["std"]):
        raise ValueError("mean and std are no numbers, std above 0")


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    ranges = tuple(ValueRange(**each) for each in values["ranges"])
    return Preprocessing(
        **{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"]), "ranges": ranges}
    )


def _columns(samples: Mapping[str, Sequence[str]] | None) -> Columns:
    """Read what a sample is made of; folders of models of single images say nothing of it."""
    if samples is None:
        return Columns()
    return Columns(images=tuple(samples["image_columns"]), numbers=tuple(samples["number_columns"]))


def _device(kind: str, precision: str | None, trained_in: str) -> Device:
    if precision is not None:
        return choose_device(kind, precision)
    device = choose_device(kind, "float32")
    return replace(device, bf16=trained_in == "bf16" and device.kind != "mps")


def _load_weights(path: Path, model: nn.Module, digest: str) -> None:
    again = "Write the model again with depthsearch fit, or copy the folder again."
    if not is_file(path):
        raise ModelError(f"{path} cannot be loaded{why_no_file(path) or ' (No such file)'}. {again}")
    try:
        tensors = safetensors.torch.load_file(path)
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path} cannot be loaded ({reason}). {again}") from error
    if state_digest(model) != digest:
        raise ModelError(f"{path} does not hold the weights that its {CONFIG} tells of. {again}")
