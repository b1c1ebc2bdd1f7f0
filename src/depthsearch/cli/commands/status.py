"""``depthsearch status``: where stored studies stand, also while another process runs them."""

from __future__ import annotations

import json
import shlex

import optuna
from rich.table import Table

from depthsearch.cli.console import console_for, say
from depthsearch.cli.places import named_study, storage_option
from depthsearch.options.commands import StatusOptions
from depthsearch.results.stored import StoredStudy
from depthsearch.study.preparing.places import existing
from depthsearch.study.progress import Running, Status, status as status_of, status_json
from depthsearch.study.storage.opening import open_storage
from depthsearch.text import duration, without_password
from depthsearch.visualization.words import layer_of, with_error

HEADINGS = (
    *("study", "backbone", "data", "state", "trials", "answer so far", "running now"),
    *("full fine-tunes", "spent", "left"),
)
# Columns of a terminal that a row takes.
WIDE = 140


def status(options: StatusOptions) -> None:
    """Show where the stored studies stand, or one of them.

    Raises:
        SettingsError: If there is no such study.
    """
    if options.study or options.name:
        studies = [named_study(options)]
        # One that is named and cannot be read is an error; of all of them it is a line.
        StoredStudy.read(studies[0])
    else:
        storage = open_storage(existing(options.storage))
        names = optuna.get_all_study_names(storage)
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    statuses = [status_of(study) for study in studies]
    url = without_password(options.storage)
    if options.json:
        print(json.dumps({"storage": url, "studies": [status_json(each) for each in statuses]}))
        return
    console = console_for()
    if not statuses:
        say(console, f"No study in {url}. Begin one: depthsearch study --storage {shlex.quote(url)}")
        return
    for shown in [_table(statuses)] if console.width >= WIDE else map(_stacked, statuses):
        console.print(shown)
    for each in statuses:
        if each.state == "interrupted":
            for line in _how_to_go_on(each, url, is_alone=len(statuses) == 1).split("\n"):
                say(console, line)


def _table(statuses: list[Status]) -> Table:
    """Make a table with a row for each study."""
    table = Table()
    for heading in HEADINGS:
        is_number = heading in ("trials", "full fine-tunes", "spent", "left")
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for each in statuses:
        table.add_row(*_fields(each))
    return table


def _stacked(status: Status) -> Table:
    """Make a table with a line for each fact of one study, where a row is too wide."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for heading, text in zip(HEADINGS, _fields(status), strict=True):
        if text:
            table.add_row(heading, text)
    return table


def _fields(status: Status) -> tuple[str, ...]:
    """Write the fields of one study, in the order of `HEADINGS`."""
    if status.state == "foreign":
        return (
            status.study,
            "",
            "",
            "not depthsearch's, of another version, or damaged",
            *[""] * (len(HEADINGS) - 4),
        )
    is_known = status.seconds_left is not None and status.state != "complete"
    return (
        status.study,
        status.backbone or "",
        status.data or "",
        _state(status),
        _trials(status),
        _answer(status),
        "\n".join(_running(running) for running in status.running) if status.holder else "",
        f"{status.full_fine_tunes:.2f}",
        duration(status.seconds),
        duration(status.seconds_left or 0.0) if is_known else "",
    )


def _state(status: Status) -> str:
    if status.holder is None:
        return status.state
    doing = "fit, " if status.holder.doing == "fit" else ""
    return f"{status.state} ({doing}{status.holder})"


def _trials(status: Status) -> str:
    total = "" if status.trials_wanted is None else f"/{status.trials_wanted}"
    if status.trials_at_most and status.trials_wanted is not None:
        total = f" of at most {status.trials_wanted}"
    doing = "confirmed" if status.confirmed == status.confirming else "confirming"
    again = "" if status.confirming is None else f", {doing} {status.confirmed}/{status.confirming}"
    if status.trials_at_most and status.confirming is not None:
        again = f", {status.confirmed} trained again"
    n_guesses = status.guesses_waiting
    waiting = f", {n_guesses} {'guess' if n_guesses == 1 else 'guesses'} waiting" if n_guesses else ""
    return f"{status.trials_done}{total}{again}{waiting}"


def _answer(status: Status) -> str:
    answer = status.answer
    if answer is None or answer.score is None:
        return ""
    return f"{with_error(answer.score, answer.standard_error)} at {answer.cut}"


def _running(running: Running) -> str:
    where = "" if running.cut is None else f", {layer_of(running.cut)}"
    return f"trial {running.number} ({running.origin}){where}, epoch {running.epoch}/{running.epochs}"


def _how_to_go_on(status: Status, url: str, *, is_alone: bool) -> str:
    """Write how an interrupted study goes on; with its command, which may be long, if it is the only one."""
    if status.command is None:
        return f"{status.study} goes on with the command that started it."
    if not is_alone:
        see = f"depthsearch status {shlex.quote(status.study)}{storage_option(url)}"
        return f"{status.study} goes on with the command that started it; see {see}"
    folded = " \\\n   " if storage_option(url) else ""
    command = f"{status.command}{folded}{storage_option(url)}"
    return f"It goes on with the command that started it, or with\n{command}"
