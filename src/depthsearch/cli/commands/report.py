"""``depthsearch report``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from depthsearch.cli.console import console_for, say
from depthsearch.cli.keeping import keep_report
from depthsearch.cli.places import artifacts_of, named_study
from depthsearch.errors import SettingsError
from depthsearch.options.commands import ReportOptions
from depthsearch.report.dashboard.refreshing import refresh
from depthsearch.report.page.composing import compose, write_report
from depthsearch.report.text import as_json, render, render_trials
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import summarize
from depthsearch.study.artifacts import small_pictures


def report(options: ReportOptions) -> None:
    """Show a stored study with every trial, and write its report if that is asked for.

    Raises:
        SettingsError: If there is no such study, or the report cannot be written.
    """
    if options.images and options.out is None:
        raise SettingsError("--images needs --out DIR: it draws files beside report.md there.")
    store = artifacts_of(options.storage, options.artifacts)
    study = named_study(options)
    stored = StoredStudy.read(study)
    summary = summarize(stored)
    written: Sequence[Path] = ()
    if options.out is not None:
        page = compose(summary, stored, small_pictures(study, store) if store else {})
        written = write_report(page, Path(options.out), images=options.images)
        keep_report(study, console_for(stderr=True), options.storage, options.artifacts, report=page)
        refresh(study)
    if options.json:
        print(json.dumps(as_json(summary)))
    else:
        console = console_for()
        console.print(render(summary))
        if summary.trials:
            console.print(render_trials(summary))
    if written:
        say(console_for(stderr=options.json), f"Report    {' '.join(map(str, written))}")
