"""What tests look at behind a private name, in one place, each with why nothing public says it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthsearch.cli.parser import make_parser

if TYPE_CHECKING:
    from depthsearch.features import FeatureStore


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command: argparse tells them to nobody, and every option is to be tried."""
    choices: dict[str, argparse.ArgumentParser] = make_parser()._subparsers._group_actions[0].choices
    return choices


def actions_of(command: str) -> list[argparse.Action]:
    """The options of a command, as its parser has them."""
    return [action for action in parsers()[command]._actions if action.dest != "help"]


def files_of_store(store: FeatureStore) -> Any:
    """The tier of files of a feature store: tests damage, remove and lock what lies in its folder."""
    return store._files[-1]


def folder_of_store(store: FeatureStore) -> Path:
    """The folder of a feature store's files."""
    folder: Path = files_of_store(store).folder
    return folder


def memory_of_store(store: FeatureStore) -> Any:
    """The memory of a feature store: from outside, what is kept there and what is computed are the same."""
    return store._memories[0]
