"""``depthsearch stop``."""

from __future__ import annotations

import json

from depthsearch.cli.console import console_for, say
from depthsearch.cli.places import named_study
from depthsearch.errors import StudyError
from depthsearch.options.commands import StopOptions
from depthsearch.study.control import request_stop, wait_until_free
from depthsearch.study.progress import holder_json


def stop(options: StopOptions) -> None:
    """Request that the process that runs a study stops, and wait for it if that is asked for.

    Raises:
        SettingsError: If there is no such study.
        StudyError: If no process runs it, or it has not stopped in time.
    """
    study = named_study(options)
    console = console_for(stderr=options.json)
    holder = request_stop(study, after=options.after)
    say(console, f"Asked {holder} to stop study {study.study_name} after this {options.after}.")
    has_stopped = None
    if options.wait is not None:
        has_stopped = wait_until_free(study, holder, options.wait)
    if has_stopped:
        say(console, f"Study {study.study_name} has stopped. To go on, run the command that started it.")
    if options.json:
        asked = {"study": study.study_name, "after": options.after, "holder": holder_json(holder)}
        print(json.dumps({**asked, "stopped": has_stopped}))
    if has_stopped is False:
        raise StudyError(
            f"{holder} still runs study {study.study_name!r} after {options.wait:g} s, and stops when its "
            f"{options.after} ends. See how far it is: depthsearch status."
        )
