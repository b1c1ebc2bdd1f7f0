"""Options of which one would be ignored: what is asked for and not done misleads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from depthsearch.errors import SettingsError

__all__ = ["of_explain", "of_run", "of_search", "refuse"]


def refuse(contradictions: Iterator[str]) -> None:
    """Refuse options of which one would be ignored.

    Raises:
        SettingsError: Naming them, and which to leave out.
    """
    contradiction = next(contradictions, None)
    if contradiction:
        raise SettingsError(contradiction)


def of_explain(arguments: argparse.Namespace) -> Iterator[str]:
    """Say which options of ``explain`` are of no use beside others."""
    for name in ("n", "split"):
        if arguments.images and getattr(arguments, name) is not None:
            yield f"--{name} picks images of the study, and files are given: leave one of the two out."
    for name in ("label", "skip_unreadable"):
        if not arguments.images and getattr(arguments, name):
            yield f"--{name.replace('_', '-')} is of images given as files: give some, or leave it out."


def of_search(arguments: argparse.Namespace) -> Iterator[str]:
    """Say which options of what is searched, and how, are of no use beside others."""
    exhaustive = arguments.search == "exhaustive"
    for name in arguments.also:
        if getattr(arguments, name) is not None:
            yield f"--{name.replace('_', '-')} fixes what --also {name} searches: give one of the two."
    if arguments.momentum is not None and arguments.optimizer != "sgd" and "optimizer" not in arguments.also:
        yield "--momentum is of sgd: say --optimizer sgd too."
    if arguments.augment is not None and arguments.views == 1:
        yield "--augment is what views do, and --views 1 has the plain images only: say --views 8 too."
    if arguments.head_depth is not None and arguments.head_width is None:
        yield "--head-depth counts hidden layers, and --head-width 0 allows none: leave one out."
    if arguments.learning_rates and arguments.learning_rate:
        yield "--learning-rate and --learning-rates: give a range to search, or a list to try."
    if arguments.learning_rates and not exhaustive:
        yield (
            "--learning-rates are tried by --search exhaustive. Say that too, or give a range to search "
            "with --learning-rate LOW:HIGH."
        )
    for name in ("also", "head-depth", "sampler", "pruner"):
        is_usual = getattr(arguments, name.replace("-", "_")) in ((), None, "auto", "none")
        if exhaustive and arguments.trials is None and not is_usual:
            yield (
                f"--search exhaustive trains each candidate, its head linear: --{name} would do nothing. "
                "Leave it out, or let the search go on with more --trials than candidates."
            )


def of_run(arguments: argparse.Namespace) -> Iterator[str]:
    """Say which options of who trains, and of the confirmation, are of no use beside others."""
    if arguments.ray_address is not None and arguments.executor != "ray":
        yield "--ray-address is of --executor ray: say that too, or leave it out."
    if arguments.executor == "ray" and arguments.device == "mps":
        yield "--device mps is of this machine, and --executor ray computes on cpu and cuda: leave one out."
    for name in ("seeds", "resample"):
        if arguments.confirm == 0 and getattr(arguments, name):
            yield f"--{name} is of the confirmation, and --confirm 0 leaves that out: give one of the two."
