"""``depthsearch cuts``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from depthsearch.cli.console import console_for, say
from depthsearch.models.backbones.loading import check_size, make_model
from depthsearch.models.candidates import cuts_of
from depthsearch.models.cuts import Cut
from depthsearch.models.flattening import flattened
from depthsearch.models.tracing.inputs import input_size
from depthsearch.models.tracing.trace import trace
from depthsearch.options.commands import CutsOptions
from depthsearch.report.tables import Column, FittingTable
from depthsearch.study.preparing.tasks import whole_modules
from depthsearch.text import counted

COLUMNS: Mapping[Column, Callable[[Cut], str]] = {
    Column(heading="index", is_right=True, rank=5): lambda cut: str(cut.index),
    Column(heading="layer", is_right=True): lambda cut: str(cut.layer),
    Column(heading="first trainable"): lambda cut: cut.name,
    Column(heading="kind", rank=1): lambda cut: cut.kind,
    Column(heading="Keras", rank=2): lambda cut: cut.keras_name or "",
    Column(heading="also", rank=7, wraps=True): lambda cut: ", ".join(cut.aliases),
    Column(heading="frozen MACs", is_right=True, rank=3): lambda cut: f"{cut.frozen_mac_share:.4f}",
    Column(heading="trainable", is_right=True, rank=4): lambda cut: f"{cut.trainable_parameters:,}",
    Column(heading="tensors", is_right=True, rank=8): lambda cut: str(cut.trainable_tensors),
    Column(heading="boundary", is_right=True, rank=6): lambda cut: f"{cut.boundary_bytes / 1024:,.0f} KiB",
}


def cuts(options: CutsOptions) -> None:
    """List a backbone's candidate cuts."""
    model = make_model(options.backbone, in_chans=options.channels, image_size=options.image_size)
    check_size(options.backbone, model, options.image_size)
    if options.head == "flatten":
        model = flattened(model, image_size=options.image_size or input_size(model)[-1])
    graph = trace(model, image_size=options.image_size)
    candidates = cuts_of(graph, model, options.kinds, layers=options.layers)
    if options.json:
        print(json.dumps([asdict(cut) for cut in candidates]))
        return
    console = console_for()
    title = f"{options.backbone}: {counted(len(candidates), 'candidate cut')}"
    console.print(FittingTable.of(candidates, COLUMNS, title))
    if text := whole_modules(graph):
        say(console, text, style="yellow")
