"""``depthsearch cache``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from depthsearch.commands.console import console_for, say
from depthsearch.commands.places import cache_folder
from depthsearch.features import kept_files, remove_locks

__all__ = ["cache"]


def cache(arguments: argparse.Namespace) -> None:
    """Show what is kept on disk, or clear it."""
    kept = [file for kind in ("features", "images") for file in _kept(kind)]
    if arguments.clear:
        wanted = ("features", "images") if arguments.clear == "all" else (arguments.clear,)
        kept = [file for file in kept if file["kind"] in wanted]
        for file in kept:
            Path(file["path"]).unlink(missing_ok=True)
        if "features" in wanted:
            remove_locks(cache_folder("features"))
    n_bytes = sum(file["bytes"] for file in kept)
    if arguments.json:
        done = "cleared" if arguments.clear else "kept"
        print(json.dumps({"folder": str(cache_folder()), "bytes": n_bytes, done: kept}))
        return
    console = console_for()
    if not arguments.clear and kept:
        table = Table()
        for heading, right in (("kind", 0), ("of", 0), ("images", 1), ("view", 1), ("files", 1), ("size", 1)):
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for (kind, of, n_images, view), files in groupby(kept, key=_kept_as):
            sizes = [file["bytes"] for file in files]
            table.add_row(kind, of, n_images, view, str(len(sizes)), decimal(sum(sizes)))
        console.print(table)
    done = "Cleared" if arguments.clear else "Kept"
    say(console, f"{done} {decimal(n_bytes)} in {len(kept)} files of {cache_folder()}.")


def _kept(kind: str) -> list[dict[str, Any]]:
    """Describe the files that are kept of a kind, those of unfinished writing included."""
    files = kept_files(cache_folder(kind), f".{kind}")
    described = (
        {
            "kind": kind,
            "path": str(file.path),
            "bytes": file.n_bytes,
            **{key: file.description.get(key) for key in ("backbone", "layer", "view", "n_images")},
        }
        for file in files
    )
    return sorted(described, key=_kept_as)


def _kept_as(file: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(
        str(file[key] if file[key] is not None else "") for key in ("kind", "backbone", "n_images", "view")
    )
