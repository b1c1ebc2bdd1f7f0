"""The command that runs a stored study once more, from the options that it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import fields, replace

from depthsearch.options.declaring import flag_of, options_of, text_of
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions

LINE = 90


def study_command(options: StudyOptions, *, name: str, n_trials: int, is_short: bool = False) -> str:
    """Write the command line, folded for a shell.

    Every option is written out, so that a later version with other defaults runs the same study.

    Args:
        options: As stored.
        name: What to call the new study.
        n_trials: How many trials it is to have.
        is_short: Whether to leave out what this version takes by default.
    """
    options = replace(options, trials=n_trials)
    left_out = _at_default(options) if is_short else frozenset()
    words = [*_words(options, left_out), f"--trials {n_trials}", f"--name {shlex.quote(name)}"]
    lines = ["depthsearch study"]
    for word in words:
        if len(lines[-1]) + len(word) > LINE:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _at_default(options: StudyOptions) -> frozenset[str]:
    """Name the options that may be left out: the others are sure to give the same ones."""
    least = StudyOptions(backbone=options.backbone, data=options.data, trials=options.trials)
    usual = with_defaults(least)
    at_default = {name for name in _kept() if getattr(options, name) == getattr(usual, name)}
    at_default -= {"backbone", "data"}
    given = {name: getattr(options, name) for name in _kept() if name not in at_default}
    again = with_defaults(replace(least, **given))
    is_same = all(getattr(again, name) == getattr(options, name) for name in _kept())
    return frozenset(at_default if is_same else ())


def _kept() -> list[str]:
    return [name for name, option in options_of(StudyOptions).items() if option.is_kept]


def _words(options: StudyOptions, left_out: Collection[str]) -> Iterator[str]:
    unset = {field.name: field.default for field in fields(StudyOptions)}
    for name in _kept():
        value = getattr(options, name)
        if name in left_out or name == "trials" or value in (None, ()):
            continue
        if isinstance(value, bool):
            # Of an option that has no default, no is an answer as well.
            if value:
                yield flag_of(name)
            elif unset[name] is not False:
                yield flag_of(name).replace("--", "--no-", 1)
            continue
        kind = options_of(StudyOptions)[name].kind
        assert kind is not None
        text = text_of(kind, value)
        # After an equals sign a value may begin with a dash.
        yield f"{flag_of(name)}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"
