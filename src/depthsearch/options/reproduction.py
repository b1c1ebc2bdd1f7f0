"""The command that runs a stored study once more, from the options that it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from depthsearch.options.declaring import flag_of, options_of, text_of
from depthsearch.options.study import StudyOptions

__all__ = ["study_command"]

LINE = 90


def study_command(options: StudyOptions, *, name: str, n_trials: int) -> str:
    """Write the command line, folded for a shell.

    Every option is written out, so that a later version with other defaults runs the same study.

    Args:
        options: As stored.
        name: What to call the new study.
        n_trials: How many trials it is to have.
    """
    words = [*_words(options), f"--trials {n_trials}", f"--name {shlex.quote(name)}"]
    lines = ["depthsearch study"]
    for word in words:
        if len(lines[-1]) + len(word) > LINE:
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _words(options: StudyOptions) -> Iterator[str]:
    for name, option in options_of(type(options)).items():
        value = getattr(options, name)
        if not option.is_kept or name == "trials" or value in (None, ()) or value is False:
            continue
        if value is True:
            yield flag_of(name)
            continue
        assert option.kind is not None
        text = text_of(option.kind, value)
        # After an equals sign a value may begin with a dash.
        yield f"{flag_of(name)}{'=' if text.startswith('-') else ' '}{shlex.quote(text)}"
