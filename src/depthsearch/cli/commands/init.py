"""``depthsearch init``."""

from __future__ import annotations

import shlex
from contextlib import closing

from depthsearch.cli.console import Notices, console_for, say
from depthsearch.cli.places import study_file
from depthsearch.options.commands import InitOptions
from depthsearch.study.planning.making import pace, plan
from depthsearch.study.planning.writing import write_study_file


def init(options: InitOptions) -> None:
    """Write a study file that suits images and this machine.

    Raises:
        DepthsearchError: If images or weights cannot be had or used, or the file is there already.
    """
    console = console_for(stderr=True)
    path = study_file(options)
    with closing(Notices(console)) as notices:
        planned = plan(options, notices)
    write_study_file(planned, path)
    results = console_for()
    measured = pace(planned)
    say(results, f"{measured[0].upper()}{measured[1:]}.")
    say(
        results,
        f"Wrote {path}, with the reason for each value. Next: depthsearch study {shlex.quote(str(path))}",
    )
    shorter = [each.key for each in planned.settings if each.key in ("timeout", "subset")]
    if shorter:
        say(results, f"For an answer sooner, take the # from {' or '.join(shorter)} in that file.")
