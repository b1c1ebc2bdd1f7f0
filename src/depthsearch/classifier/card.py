"""The model card: what anyone who finds a model folder needs to know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from depthsearch.models.backbones import WeightsOrigin
from depthsearch.options.backbones import parse_name
from depthsearch.text import one_line

__all__ = ["model_card"]


def model_card(config: Mapping[str, Any], name: str, has_onnx: bool) -> str:
    """Write the card of a model folder in Markdown.

    Args:
        config: What `modelfolder` writes beside it.
        name: Of the folder.
        has_onnx: Whether the folder holds an ONNX file.
    """
    ours = config["depthsearch"]
    origin, seen = ours["provenance"], ours["preprocessing"]
    images = origin["data"]
    samples = ours.get("samples")
    noun = "sample" if samples else "image"
    return "\n".join(
        [
            "---",
            f"library_name: {'timm' if parse_name(ours['backbone']).source == 'timm' else 'depthsearch'}",
            "tags: [image-classification, depthsearch]",
            "---",
            f"# {name}",
            "",
            f"{config['architecture']} fine-tuned by depthsearch {ours['version']} for "
            f"{config['num_classes']} classes: {_listed([*map(_text, ours['classes'])])}.",
            "",
            f"- **Trained** from {ours['cut']['shown']}; everything before it is frozen and as pretrained. "
            f"Head: {_head(ours['head'])}.",
            f"- **Weights** it started from: {_text(str(WeightsOrigin(**origin['weights'])))}.",
            f"- **{noun.capitalize()}s**: {_text(images['name'])}, {images['n_learned']} to learn from "
            f"(training and validation), {images['n_test']} for the test; "
            f"fingerprint {images['fingerprint']}.",
            f"- **Setting**: {_setting(ours['setting'])}, {origin['recipe']['epochs']} epochs of batches of "
            f"{origin['recipe']['batch_size']}{_balance(origin['recipe'])}, "
            f"seed {origin['seed']}, {ours['precision']} (study "
            f"{_text(origin['study'])}, trial {origin['trial']}).",
            f"- **Input**: {'RGB' if len(seen['mean']) == 3 else 'grey'}, "
            f"shorter side to {_shorter_side(seen)} px ({seen['interpolation']}), centre "
            f"{seen['image_size']} x {seen['image_size']} px, mean {_numbers(seen['mean'])}, "
            f"std {_numbers(seen['std'])}.",
            *_values(seen),
            *_sample(samples),
            "",
            *_test(ours["test"], noun),
            "",
            *_usage(ours, name, len(seen["mean"]) if has_onnx else 0, samples),
            "",
        ]
    )


def _text(name: str) -> str:
    """Write a name from outside so that Markdown shows it as it is."""
    return re.sub(r"[\\`*\[\]<>|]", r"\\\g<0>", one_line(name, longest=None))


def _sample(samples: Mapping[str, Sequence[str]] | None) -> list[str]:
    """Write what a sample is made of, where it is more than an image."""
    if not samples:
        return []
    line = f"- **A sample**: images in the columns {', '.join(map(_text, samples['image_columns']))}"
    if samples["number_columns"]:
        line += f"; numbers in {', '.join(map(_text, samples['number_columns']))}, as they were in training"
    return [f"{line}."]


def _listed(classes: list[str], n_shown: int = 20) -> str:
    more = f" and {len(classes) - n_shown} more" if len(classes) > n_shown else ""
    return ", ".join(classes[:n_shown]) + more


def _head(head: Mapping[str, Any]) -> str:
    layers = f"{head['depth']} hidden layer(s) of {head['width']}" if head["width"] else "linear"
    return f"{layers}, on the flattened feature map" if head["kind"] == "flatten" else layers


def _setting(setting: Mapping[str, Any]) -> str:
    """Write the other settings; the head has a line of its own."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in setting.items()
        if not name.startswith("head_")
    )


def _balance(recipe: Mapping[str, Any]) -> str:
    balance = recipe.get("balance", "none")
    return "" if balance == "none" else f", uneven classes balanced by {balance}"


def _shorter_side(seen: Mapping[str, Any]) -> int:
    return int(seen["image_size"] / seen["crop_share"])


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _test(test: Mapping[str, Any], noun: str) -> list[str]:
    figures, readings = test["figures"], test["readings"]
    low, high = figures["interval"]
    lines = [
        "## Test",
        "",
        f"Accuracy {figures['accuracy']:.4f} on {figures['n']} {noun}s (95 % interval {low:.4f} to "
        f"{high:.4f}, Wilson); negative log likelihood {figures['negative_log_likelihood']:.4f}; expected "
        f"calibration error {figures['calibration_error']:.4f} (15 bins).",
    ]
    if len(readings) > 1:
        lines += [
            "",
            f"**The test {noun}s were read {len(readings)} times** (first {readings[0]['when']}), each time "
            "for a model of the same study: the figures are no longer unbiased.",
        ]
    rows = [
        f"| {_text(c['name'])} | {c['precision']:.4f} | {c['recall']:.4f} | {c['n']} |"
        for c in figures["classes"]
    ]
    return [*lines, "", f"| class | precision | recall | {noun}s |", "|---|---|---|---|", *rows]


def _values(seen: Mapping[str, Any]) -> list[str]:
    """Write which numbers are black and white in images of more than 8 bits, where there were some."""
    ranges = [f"{r['numbers']} {r['format']} {r['low']:g} to {r['high']:g}" for r in seen.get("ranges", ())]
    if not ranges:
        return []
    return [
        f"- **Values** of images of more than 8 bits, from black to white: {_text('; '.join(ranges))}. "
        "timm's transform and `model.onnx` do not know them: give those 8-bit images."
    ]


def _usage(
    ours: Mapping[str, Any], name: str, onnx_channels: int, samples: Mapping[str, Sequence[str]] | None
) -> list[str]:
    with_timm = [
        "import timm",
        f'model = timm.create_model("local-dir:{name}", pretrained=True).eval()',
        "transform = timm.data.create_transform(",
        "    **timm.data.resolve_model_data_config(model), is_training=False",
        ")",
    ]
    timm_loads = ours["timm_loads"]
    is_own = parse_name(ours["backbone"]).source == "file"
    network, option = (
        (f', backbone="{ours["backbone"]}"', f" --backbone {ours['backbone']}") if is_own else ("", "")
    )
    lines = ["## Use", "", "```python"]
    if timm_loads:
        lines += [*with_timm, ""]
    given, table = '"photo.jpg"', "photo.jpg"
    if samples:
        files = ", ".join(f'"{column}": "photo.jpg"' for column in samples["image_columns"])
        numbers = ", ".join(f'"{column}": 1.5' for column in samples["number_columns"])
        also = f", numbers={{{numbers}}}" if numbers else ""
        given, table = f"depthsearch.Sample(images={{{files}}}{also})", "samples.csv"
    lines += [
        "import depthsearch",
        f'depthsearch.load("{name}"{network}).predict([{given}])',
        "```",
        "",
        f"On the command line: `depthsearch predict {name} {table}{option}`.",
    ]
    if not timm_loads:
        lines += ["", "It is not one of timm's models as it stands, so `timm.create_model` cannot load it."]
    if onnx_channels:
        lines += [
            "",
            f"`model.onnx` takes `pixels`, float32 `(n, {onnx_channels}, height, width)` in [0, 255], "
            "resized and cut as above, and gives `probabilities` `(n, classes)`; the classes stand in its "
            "metadata.",
        ]
    return lines
