"""The command that runs a stored study once more, from the options that it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["study_command"]

# Two numbers that are one value.
RANGES = ("learning_rate", "head_width")
LINE = 90


def study_command(options: Mapping[str, Any], *, name: str, n_trials: int) -> str:
    """Write the command line, folded for a shell.

    Every option is written out, so that a later version with other defaults does the same.

    Args:
        options: As stored: argparse's names and values, tuples as lists.
        name: What to call the new study.
        n_trials: How many trials it is to have.
    """
    # The confirmation's are refused where there is none.
    others = ("trials", "name", *(("seeds", "resample") if options.get("confirm") == 0 else ()))
    words = [*_flags({name: value for name, value in options.items() if name not in others})]
    words += [f"--trials {n_trials}", f"--name {shlex.quote(name)}"]
    lines = ["depthsearch study"]
    for word in words:
        if len(lines[-1]) + len(word) > LINE:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _flags(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if name == "head_width" and value is None:
            yield f"{flag} 0"
        elif value is True:
            yield flag
        elif value is not None and value is not False and value not in ((), []):
            text = _text(name, value)
            # After an equals sign a value may begin with a dash.
            yield f"{flag}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"


def _text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return (":" if name in RANGES else ",").join(str(part) for part in value)
    return str(value)
