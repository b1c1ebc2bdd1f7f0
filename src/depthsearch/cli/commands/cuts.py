"""``depthsearch cuts``."""

from __future__ import annotations

import json
from dataclasses import asdict

from depthsearch.cli.console import console_for, say
from depthsearch.models.backbones.loading import check_size, make_model
from depthsearch.models.candidates import cuts_of
from depthsearch.models.flattening import flattened
from depthsearch.models.tracing.inputs import input_size
from depthsearch.models.tracing.trace import trace
from depthsearch.options.commands import CutsOptions
from depthsearch.report.tables import Column, FittingTable
from depthsearch.study.preparing.tasks import whole_modules

__all__ = ["cuts"]

CUT_COLUMNS = (
    Column(heading="index", is_right=True, rank=5),
    Column(heading="layer", is_right=True),
    Column(heading="first trainable"),
    Column(heading="kind", rank=1),
    Column(heading="Keras", rank=2),
    Column(heading="also", rank=7, wraps=True),
    Column(heading="frozen MACs", is_right=True, rank=3),
    Column(heading="trainable", is_right=True, rank=4),
    Column(heading="tensors", is_right=True, rank=8),
    Column(heading="boundary", is_right=True, rank=6),
)


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
    table = FittingTable(
        title=f"{options.backbone}: {len(candidates)} candidate cuts",
        columns=CUT_COLUMNS,
        rows=[
            (
                str(cut.index),
                str(cut.layer),
                cut.name,
                cut.kind,
                cut.keras_name or "",
                ", ".join(cut.aliases),
                f"{cut.frozen_mac_share:.4f}",
                f"{cut.trainable_parameters:,}",
                str(cut.trainable_tensors),
                f"{cut.boundary_bytes / 1024:,.0f} KiB",
            )
            for cut in candidates
        ],
    )
    console = console_for()
    console.print(table)
    if text := whole_modules(graph):
        say(console, text, style="yellow")
