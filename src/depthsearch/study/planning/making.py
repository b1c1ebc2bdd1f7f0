"""A plan for a first study: images and machine looked at, values chosen, their time measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from depthsearch.data.splits import Division
from depthsearch.data.surveying import Survey, survey
from depthsearch.devices import Device, choose_device, processor_name
from depthsearch.errors import SettingsError
from depthsearch.machine import excess_load, free_memory_bytes, usable_cores
from depthsearch.models.backbones.backbone import Backbone
from depthsearch.models.backbones.suggesting import suggest
from depthsearch.options.backbones import counted_from
from depthsearch.options.commands import InitOptions
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.options.weights import with_full_paths
from depthsearch.search.space import SearchSpace
from depthsearch.study.events import Note, Say
from depthsearch.study.planning.choosing import (
    SHARE,
    Setting,
    choose_size,
    settings_for,
    settings_to_save_time,
    spread,
)
from depthsearch.study.planning.measuring import Measured, measure
from depthsearch.study.planning.outlook import expected_seconds
from depthsearch.study.preparing.images import source_of
from depthsearch.study.preparing.tasks import load_backbones
from depthsearch.text import counted, duration


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A first study that suits images and a machine.

    Attributes:
        settings: Its options, each with a reason.
        survey: Of the images.
        machine: What it was planned for, in a line.
        is_busy: Whether others computed on it, so that all was measured slower than it is.
        measured: What a few batches took.
        seconds: That the study takes, images decoded first; not the training of the answer behind it.
    """

    settings: Sequence[Setting]
    survey: Survey
    machine: str
    is_busy: bool
    measured: Measured
    seconds: float


def plan(options: InitOptions, say: Say) -> Plan:
    """Look at images and this machine, choose a study's options, and measure how long it takes.

    Nothing is stored: what is decoded for that is removed again. Weights are downloaded where need be.

    Args:
        options: Which images, and what is decided already.
        say: Receives notes on what is done.

    Raises:
        DepthsearchError: If images or weights cannot be had or used.
    """
    device = choose_device(options.device)
    seen = survey(source_of(options), Division(val_share=SHARE, test_share=SHARE))
    say(Note(text=described(seen)))
    load = excess_load()
    machine = _machine(device, load)
    say(Note(text=f"Machine: {machine}."))
    given, reason = options.backbone, "as given"
    if given is None:
        name, reason = suggest(device.kind)
        given = (name,)
    base = StudyOptions(
        backbone=given,
        data=options.data,
        weights=options.weights,
        device=options.device,
        image_columns=options.image_columns,
        number_columns=options.number_columns,
        skip_unreadable=options.skip_unreadable,
    )
    backbones, space, settings = _chosen(base, seen, device, say)
    taken = {each.key.replace("-", "_"): each.value for each in settings if each.is_set}
    chosen = with_defaults(replace(base, **taken))
    say(Note(text=f"Measuring {', '.join(given)} on a few batches ..."))
    measured = measure(chosen, seen, backbones, space, device)
    seconds = measured.decode_seconds + expected_seconds(
        chosen,
        space,
        measured.fine_tune_seconds,
        n_train=seen.splits["train"],
        n_val=seen.splits["val"],
    )
    weights = "; ".join(f"weights of {each.name}: {each.weights}" for each in backbones.values())
    return Plan(
        settings=[
            Setting(key="backbone", value=_from_anywhere(given), reason=f"{reason}; {weights}"),
            *_given(options, seen),
            *settings,
            *settings_to_save_time(seen, seconds),
        ],
        survey=seen,
        machine=machine,
        is_busy=load is not None,
        measured=measured,
        seconds=seconds,
    )


def _chosen(
    base: StudyOptions, seen: Survey, device: Device, say: Say
) -> tuple[Mapping[str, Backbone], SearchSpace, list[Setting]]:
    """Load the backbones, and choose what suits them and the images."""
    backbones, space = load_backbones(with_defaults(base), say)
    own_size = max(each.preprocessing.image_size for each in backbones.values())
    size = choose_size(seen, own_size, device.kind) if len(backbones) == 1 else None
    if size is not None:
        try:
            backbones, space = load_backbones(with_defaults(replace(base, image_size=size)), say)
        except SettingsError:
            # It takes images of its own size alone.
            size = None
    return backbones, space, settings_for(seen, own_size=own_size, size=size, n_cuts=len(space.cuts))


def _from_anywhere(backbones: Sequence[str]) -> list[str]:
    """Write backbones with full paths where they are files or folders."""
    return [counted_from(Path.cwd(), each) for each in backbones]


def _given(options: InitOptions, seen: Survey) -> list[Setting]:
    """Return the settings that are the user's own."""
    settings = [Setting(key="data", value=str(options.data), reason=described(seen))]
    if options.weights != "auto":
        weights = with_full_paths(options.weights, options.backbone or ())
        settings.append(Setting(key="weights", value=weights, reason="as given"))
    if options.skip_unreadable and not seen.unreadable:
        settings.append(Setting(key="skip-unreadable", value=True, reason="as given", table="train"))
    if options.device != "auto":
        settings.append(Setting(key="device", value=options.device, reason="as given", table="run"))
    for key, columns in (("image-columns", seen.columns.images), ("number-columns", seen.columns.numbers)):
        if columns not in ((), ("image",)):
            settings.append(Setting(key=key, value=list(columns), reason="as given", table="train"))
    return settings


def described(seen: Survey) -> str:
    """Describe images in a line."""
    counts = sorted(seen.classes.values())
    size = f", shorter side {spread(seen.shorter_sides)} px" if seen.shorter_sides else ""
    n_train, n_val, n_test = seen.splits.values()
    return (
        f"{seen.name}: {seen.n_samples:,} {seen.columns.noun}s of {len(counts)} classes, "
        f"{spread(counts)} of each{size}; {n_train:,} to train, {n_val:,} to validate, {n_test:,} to test."
    )


def _machine(device: Device, load: float | None) -> str:
    n_cores = usable_cores()
    cores = counted(n_cores, "core")
    free = f"{free_memory_bytes() / 2**30:.0f} GiB of memory free"
    busy = "" if load is None else f"; busy with other work (load {load:.1f})"
    return f"{device.kind}, {device.precision}, {processor_name(device)}, {cores}, {free}{busy}"


def pace(planned: Plan) -> str:
    """Describe in a line what was measured, and how long the study takes."""
    rates = planned.measured.images_per_second
    each = ", ".join(
        f"{f'{name} ' if name else ''}{rate:,.1f} {planned.survey.columns.noun}s a second"
        for name, rate in rates.items()
    )
    decoding = planned.measured.decode_seconds
    before = f", of it {duration(decoding)} to decode the images, once" if decoding >= 60 else ""
    alone = "; less once this machine has no other work" if planned.is_busy else ""
    return f"trains everything at {each}; the study takes about {duration(planned.seconds)}{before}{alone}"
