"""``depthsearch cache``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from rich.table import Table

from depthsearch.cli.console import console_for, say
from depthsearch.errors import SettingsError
from depthsearch.features.tiers.locks import remove_locks
from depthsearch.features.tiers.rowfile import kept_files
from depthsearch.options.commands import CacheOptions
from depthsearch.study.preparing.places import cache_folder
from depthsearch.text import counted


def cache(options: CacheOptions) -> None:
    """Show what is kept on disk, or clear it.

    Raises:
        SettingsError: If some files may not be read or removed; all others are shown or removed before.
    """
    kinds = ("features", "images") if options.clear in (None, "all") else (options.clear,)
    refused = [error for kind in kinds if (error := _refusal(_look_into, cache_folder(kind)))]
    kept = [file for kind in kinds for file in _kept(kind)]
    if options.clear:
        errors = [_refusal(Path.unlink, Path(file["path"])) for file in kept]
        refused += [error for error in errors if error]
        kept = [file for file, error in zip(kept, errors, strict=True) if not error]
        if "features" in kinds:
            remove_locks(cache_folder("features"))
    _show(options, kept)
    if refused:
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        done = "removed" if options.clear else "read"
        raise SettingsError(
            f"Not all could be {done}: {refused[0].filename}: {refused[0].strerror}{more}. "
            "Run this as the user who owns the files."
        )


def _look_into(folder: Path) -> None:
    # Globbing would find nothing, without an error, where the folder may not be read.
    next(folder.iterdir(), None)


def _refusal(do: Callable[[Path], object], path: Path) -> OSError | None:
    """Call a function with a path; return the error if it is refused; a missing path is fine."""
    try:
        do(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _show(options: CacheOptions, kept: Sequence[Mapping[str, Any]]) -> None:
    n_bytes = sum(file["bytes"] for file in kept)
    if options.json:
        done = "cleared" if options.clear else "kept"
        print(json.dumps({"folder": str(cache_folder()), "bytes": n_bytes, done: kept}))
        return
    console = console_for()
    if not options.clear and kept:
        table = Table()
        for heading, right in (("kind", 0), ("of", 0), ("images", 1), ("view", 1), ("files", 1), ("size", 1)):
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for (kind, of, n_images, view), files in groupby(kept, key=_kept_as):
            sizes = [file["bytes"] for file in files]
            table.add_row(kind, of, n_images, view, str(len(sizes)), decimal(sum(sizes)))
        console.print(table)
    done = "Cleared" if options.clear else "Kept"
    say(console, f"{done} {decimal(n_bytes)} in {counted(len(kept), 'file')} of {cache_folder()}.")


def _kept(kind: str) -> list[dict[str, Any]]:
    """Describe the kept files of a kind, unfinished ones included."""
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
