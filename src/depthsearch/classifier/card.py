"""The model card: what anyone who finds a model folder needs to know of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from depthsearch.models.backbones.backbone import WeightsOrigin
from depthsearch.options.backbones import parse_name
from depthsearch.text import counted, first_few, one_line

N_SHOWN = 20


def model_card(config: Mapping[str, Any], name: str, has_onnx: bool) -> str:
    """Write the card of a model folder in Markdown, from what `modelfolder` writes beside it."""
    ours = config["depthsearch"]
    origin, samples = ours["provenance"], ours.get("samples")
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            config=config,
            name=name,
            has_onnx=has_onnx,
            ours=ours,
            source=parse_name(ours["backbone"]).source,
            classes=ours["classes"],
            head=ours["head"],
            weights=str(WeightsOrigin(**origin["weights"])),
            noun="sample" if samples else "image",
            images=origin["data"],
            setting=_trained(ours),
            recipe=origin["recipe"],
            origin=origin,
            seen=ours["preprocessing"],
            samples=samples,
            example=_example(samples),
            test=ours["test"]["figures"],
            readings=ours["test"]["readings"],
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("depthsearch.classifier"),
        # Markdown, not HTML: names from outside go through `plain`.
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    few = partial(first_few, n=N_SHOWN)
    environment.filters |= {"plain": _plain, "few": few, "numbers": _numbers, "counted": counted}
    return environment


def _plain(name: str) -> str:
    """Write a name from outside so that Markdown shows it as it is."""
    return re.sub(r"[\\`*\[\]<>|]", r"\\\g<0>", one_line(name, longest=None))


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _trained(ours: Mapping[str, Any]) -> str:
    """Write how the model was trained, or that its head was solved, which takes neither rate nor epochs."""
    if ours["provenance"].get("is_solved"):
        return "a linear head on frozen layers, solved"
    recipe = ours["provenance"]["recipe"]
    epochs = counted(recipe["epochs"], "epoch")
    return f"{_setting(ours['setting'])}, {epochs} of batches of {recipe['batch_size']}"


def _setting(setting: Mapping[str, Any]) -> str:
    """Write the settings but for the head, which has a line of its own."""
    return ", ".join(
        f"{name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
        for name, value in setting.items()
        if not name.startswith("head_")
    )


def _example(samples: Mapping[str, Sequence[str]] | None) -> str:
    """Write what a call of ``predict`` takes."""
    if not samples:
        return '"photo.jpg"'
    files = ", ".join(f'"{column}": "photo.jpg"' for column in samples["image_columns"])
    numbers = ", ".join(f'"{column}": 1.5' for column in samples["number_columns"])
    return f"depthsearch.Sample(images={{{files}}}{f', numbers={{{numbers}}}' if numbers else ''})"
