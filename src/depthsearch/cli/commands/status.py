"""``depthsearch status``: studies while they run, also in another process."""

from __future__ import annotations

import json
import shlex

import optuna
from rich.table import Table

from depthsearch.cli.console import console_for, say
from depthsearch.cli.places import named_study
from depthsearch.options.commands import StatusOptions
from depthsearch.report.text import duration
from depthsearch.study import open_storage, without_password
from depthsearch.study.preparing import existing
from depthsearch.study.progress import Running, Status, status_json
from depthsearch.study.progress import status as status_of
from depthsearch.visualization.words import with_error

__all__ = ["status"]

HEADINGS = (
    *("study", "backbone", "data", "state", "trials", "answer so far", "running now"),
    *("full fine-tunes", "spent", "left"),
)
# Columns that these take in a row.
WIDE = 140


def status(options: StatusOptions) -> None:
    """Show where the stored studies stand, or one of them.

    Raises:
        SettingsError: If there is no such study.
    """
    if options.study or options.name:
        studies = [named_study(options)]
    else:
        storage = open_storage(existing(options.storage))
        names = optuna.get_all_study_names(storage)
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    found = [status_of(study) for study in studies]
    url = without_password(options.storage)
    if options.json:
        print(json.dumps({"storage": url, "studies": [status_json(each) for each in found]}))
        return
    console = console_for()
    if not found:
        say(console, f"No study in {url}. Begin one: depthsearch study --storage {shlex.quote(url)}")
        return
    for shown in [_table(found)] if console.width >= WIDE else map(_stacked, found):
        console.print(shown)
    for each in found:
        if each.state == "interrupted":
            for line in _how_to_go_on(each, url, is_alone=len(found) == 1).split("\n"):
                say(console, line)


def _table(found: list[Status]) -> Table:
    """A row for each study."""
    table = Table()
    for heading in HEADINGS:
        is_number = heading in ("trials", "full fine-tunes", "spent", "left")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for each in found:
        table.add_row(*_fields(each))
    return table


def _stacked(found: Status) -> Table:
    """A line for each fact of a study, where a row is too wide."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, told in zip(HEADINGS, _fields(found), strict=True):
        if told:
            table.add_row(heading, told)
    return table


def _fields(found: Status) -> tuple[str, ...]:
    """What the headings stand for, of one study."""
    if found.state == "foreign":
        return (found.study, "", "", "not depthsearch's, or damaged", *[""] * (len(HEADINGS) - 4))
    is_known = found.seconds_left is not None and found.state != "complete"
    return (
        found.study,
        found.backbone or "",
        found.data or "",
        _state(found),
        _trials(found),
        _answer(found),
        "\n".join(_running(running) for running in found.running) if found.holder else "",
        f"{found.full_fine_tunes:.2f}",
        duration(found.seconds),
        duration(found.seconds_left or 0.0) if is_known else "",
    )


def _state(found: Status) -> str:
    if found.holder is None:
        return found.state
    doing = "fit, " if found.holder.doing == "fit" else ""
    return f"{found.state} ({doing}{found.holder})"


def _trials(found: Status) -> str:
    wanted = "" if found.trials_wanted is None else f"/{found.trials_wanted}"
    doing = "confirmed" if found.confirmed == found.confirming else "confirming"
    again = "" if found.confirming is None else f", {doing} {found.confirmed}/{found.confirming}"
    n_guesses = found.guesses_waiting
    waiting = f", {n_guesses} {'guess' if n_guesses == 1 else 'guesses'} waiting" if n_guesses else ""
    return f"{found.trials_done}{wanted}{again}{waiting}"


def _answer(found: Status) -> str:
    answer = found.answer
    if answer is None or answer.score is None:
        return ""
    return f"{with_error(answer.score, answer.standard_error)} at {answer.cut}"


def _running(running: Running) -> str:
    where = "" if running.cut is None else f", {f'{running.cut.backbone} layer'.strip()} {running.cut.layer}"
    return f"trial {running.number} ({running.origin}){where}, epoch {running.epoch}/{running.epochs}"


def _how_to_go_on(found: Status, url: str, *, is_alone: bool) -> str:
    """Say how an interrupted study goes on; its command may be long, so only if nothing else is shown."""
    if found.command is None:
        return f"{found.study} goes on with the command that started it."
    if not is_alone:
        see = f"depthsearch status {shlex.quote(found.study)} --storage {shlex.quote(url)}"
        return f"{found.study} goes on with the command that started it; see {see}"
    command = f"{found.command} \\\n    --storage {shlex.quote(url)}"
    return f"It goes on with the command that started it, or with\n{command}"
