"""``depthsearch status``, ``stop`` and ``enqueue``: studies while they run, also in another process."""

from __future__ import annotations

import argparse
import json
import shlex

import optuna
from rich.table import Table

from depthsearch.cli.commands.console import console_for, say
from depthsearch.cli.commands.places import existing, named_study
from depthsearch.errors import StudyError
from depthsearch.report.text import duration
from depthsearch.results.stored import read_space
from depthsearch.results.summary import cut_json
from depthsearch.search.space import BACKBONE, cut_parameter
from depthsearch.study import enqueue as enqueue_guess
from depthsearch.study import open_storage, request_stop, wait_until_free, without_password
from depthsearch.study.progress import Running, Status, holder_json, status_json
from depthsearch.study.progress import status as status_of
from depthsearch.study.storage.optuna_private import fixed_params
from depthsearch.visualization.words import setting_of, with_error

__all__ = ["enqueue", "status", "stop"]

HEADINGS = (
    *("study", "backbone", "data", "state", "trials", "answer so far", "running now"),
    *("full fine-tunes", "spent", "left"),
)
# Columns that these take in a row.
WIDE = 140


def status(arguments: argparse.Namespace) -> None:
    """Show where the stored studies stand, or one of them.

    Raises:
        SettingsError: If there is no such study.
    """
    if arguments.study or arguments.name:
        studies = [named_study(arguments)]
    else:
        storage = open_storage(existing(arguments.storage))
        names = optuna.get_all_study_names(storage)
        studies = [optuna.load_study(study_name=name, storage=storage) for name in names]
    found = [status_of(study) for study in studies]
    url = without_password(arguments.storage)
    if arguments.json:
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


def stop(arguments: argparse.Namespace) -> None:
    """Ask the process that runs a study to stop, and wait for it if that is wanted.

    Raises:
        SettingsError: If there is no such study.
        StudyError: If nobody runs it, or it has not stopped in time.
    """
    study = named_study(arguments)
    console = console_for(stderr=arguments.json)
    holder = request_stop(study, after=arguments.after)
    say(console, f"Asked {holder} to stop study {study.study_name} after this {arguments.after}.")
    has_stopped = None
    if arguments.wait is not None:
        has_stopped = wait_until_free(study, holder, arguments.wait)
    if has_stopped:
        say(console, f"Study {study.study_name} has stopped. To go on, run the command that started it.")
    if arguments.json:
        asked = {"study": study.study_name, "after": arguments.after, "holder": holder_json(holder)}
        print(json.dumps({**asked, "stopped": has_stopped}))
    if has_stopped is False:
        raise StudyError(
            f"{holder} still runs study {study.study_name!r} after {arguments.wait:g} s, and stops when its "
            f"{arguments.after} ends. See how far it is: depthsearch status."
        )


def enqueue(arguments: argparse.Namespace) -> None:
    """Have a study try a setting next.

    Raises:
        DepthsearchError: If there is no such study, or it cannot try this setting.
    """
    study = named_study(arguments)
    number = enqueue_guess(
        study,
        arguments.layer,
        learning_rate=arguments.learning_rate,
        head_width=arguments.head_width,
        backbone=arguments.backbone,
        to_the_end=arguments.to_the_end,
    )
    console = console_for(stderr=arguments.json)
    params = fixed_params(study.get_trials(deepcopy=False)[number])
    cut = read_space(study).point(params).cut
    setting = {
        name: value for name, value in params.items() if name not in (BACKBONE, cut_parameter(cut.backbone))
    }
    when, told = _when(status_of(study))
    say(console, f"Enqueued as trial {number}: {cut}, {setting_of(setting)}.")
    say(console, told)
    if arguments.json:
        trial = {"study": study.study_name, "trial": number, "cut": cut_json(cut), "setting": setting}
        print(json.dumps({**trial, "to_the_end": arguments.to_the_end, "when": when}))


def _when(found: Status) -> tuple[str, str]:
    """Say what tries the guesses that wait, in a word or two and in a sentence."""
    is_confirming = any(running.origin == "confirm" for running in found.running)
    n_begun = found.trials_done + sum(running.origin != "confirm" for running in found.running)
    needed = n_begun + found.guesses_waiting
    if found.trials_wanted is not None and needed > found.trials_wanted:
        return "more trials", (
            f"None of the study's {found.trials_wanted} trials is left for it: the command that started it "
            f"tries this one with --trials {needed}."
        )
    searches = found.holder is not None and found.holder.doing == "study" and found.state == "running"
    if searches and not is_confirming:
        return "next", f"It is tried next, by {found.holder}."
    return "next start", "It is tried first by the next start of the study."
