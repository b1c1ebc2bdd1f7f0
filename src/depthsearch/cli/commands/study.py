"""``depthsearch study``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager

import optuna
from rich.console import Console

from depthsearch.cli.console import Notices, console_for, say
from depthsearch.cli.keeping import keep_report
from depthsearch.cli.live_view import View
from depthsearch.cli.places import storage_option
from depthsearch.errors import SettingsError
from depthsearch.options.defaults import is_planned
from depthsearch.options.study import StudyOptions
from depthsearch.report.dashboard.refreshing import refreshed
from depthsearch.report.text import as_json, render
from depthsearch.results.summary import summarize
from depthsearch.study.conducting import StudyResult, run
from depthsearch.study.events import Event, TrialEnded
from depthsearch.study.loggers.eventlog import Sink
from depthsearch.text import without_password


def study(options: StudyOptions) -> bool:
    """Search for the best cut and print it.

    Returns:
        Whether it was asked to stop: then only the JSON is printed, as far as it is known.

    Raises:
        DepthsearchError: If the study cannot be run, or no trial of it is complete.
    """
    console = console_for(stderr=True)

    @contextmanager
    def shown(stored: optuna.Study, options: StudyOptions) -> Iterator[Sink]:
        n_trials = None if is_planned(options) else options.trials or 0
        view = View(console, summarize(stored), n_trials=n_trials, epochs=options.epochs or 0)
        with view, refreshed(stored) as refresh:

            def show(event: Event) -> None:
                view.update(event)
                if isinstance(event, TrialEnded):
                    refresh()

            yield show

    with closing(Notices(console)) as notices:
        result = run(options, events=notices, watchers=[shown])
    _print(result, console)
    return result.is_stopped


def _print(result: StudyResult, console: Console) -> None:
    """Print the result; of a study that was stopped only the JSON."""
    options, summary = result.options, result.summary
    if result.is_stopped:
        if options.json:
            print(json.dumps({**as_json(summary), "stopped": True}))
        return
    keep_report(result.study, console, options.storage)
    results = console_for(stderr=options.json)
    results.print(render(summary))
    name, url = result.study.study_name, without_password(options.storage)
    say(results, f"Study     {name} in {url}")
    if summary.best is not None:
        for at, command in enumerate(_next_commands(name, url)):
            say(results, f"{'' if at else 'Next':<9} {command}")
    if options.json:
        print(json.dumps(as_json(summary)))
    if summary.best is None:
        see = f"depthsearch report --name {shlex.quote(name)}{storage_option(url)}"
        raise SettingsError(f"No trial of {name} is complete. See why: {see}")


def _next_commands(name: str, url: str) -> list[str]:
    """Write what to do with an answer: read its page, train it, look at it in a browser."""
    named = f"--name {shlex.quote(name)}" if name.startswith("-") else shlex.quote(name)
    commands = (f"report {named} --out DIR", f"fit {named}", "dashboard")
    return [f"depthsearch {command}{storage_option(url)}" for command in commands]
