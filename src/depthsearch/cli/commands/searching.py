"""``depthsearch study``, and the candidates it searches."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial

import optuna
from rich.console import Console

from depthsearch.cli.commands.console import console_for, say
from depthsearch.cli.commands.keeping import keep_report
from depthsearch.cli.commands.loading import load_backbones, load_tasks, provenance_of, say_kept_whole
from depthsearch.cli.commands.places import cache_folder, is_stored
from depthsearch.cli.commands.watching import check_watchers, watching
from depthsearch.cli.commands.workers import check_executor, workers
from depthsearch.cli.live_view import View
from depthsearch.data import check_source
from depthsearch.errors import SettingsError
from depthsearch.models.backbones import check_size, make_model
from depthsearch.models.cuts import Cut, cuts_of, find_cut
from depthsearch.models.flattening import flattened
from depthsearch.models.tracing.graph import trace
from depthsearch.models.tracing.inputs import input_size
from depthsearch.options.backbones import plain_name
from depthsearch.report.dashboard import refreshed
from depthsearch.report.tables import Column, FittingTable
from depthsearch.report.text import as_json, render
from depthsearch.results.front import cost_name
from depthsearch.results.stored import mark
from depthsearch.results.summary import summarize
from depthsearch.search.sampling import make_pruner, resolve
from depthsearch.search.space import SearchSpace
from depthsearch.signals import Drain, sigterm_drains
from depthsearch.study import (
    Event,
    Stopped,
    TrialEnded,
    TrialStarted,
    Waiting,
    confirm,
    count_exhaustive,
    open_storage,
    open_study,
    request_stop,
    search,
    without_password,
)
from depthsearch.study.lease import Lease, lease
from depthsearch.study.loggers.eventlog import Sink
from depthsearch.study.storage import check_storage
from depthsearch.training.objective import Task
from depthsearch.workers import Executor

__all__ = ["cuts", "study"]

CUT_COLUMNS = (
    Column(heading="index", is_right=True, rank=5),
    Column(heading="layer", is_right=True),
    Column(heading="first trainable"),
    Column(heading="kind", rank=1),
    Column(heading="Keras", rank=2),
    Column(heading="also", rank=7, wraps=True),
    Column(heading="frozen MACs", is_right=True, rank=3),
    Column(heading="trainable", is_right=True, rank=4),
    Column(heading="tensors", is_right=True, rank=8),
    Column(heading="boundary", is_right=True, rank=6),
)


def study(arguments: argparse.Namespace) -> bool:
    """Search for the best cut and print it.

    Returns:
        Whether it was asked to stop: then only the JSON is printed, so far as it is known.

    Raises:
        DepthsearchError: If the study cannot be run, or no trial of it is complete.
    """
    console = console_for(stderr=True)
    cost = _cost_aim(arguments)
    tasks, space, marked = _load(arguments, console)
    task = next(iter(tasks.values()))
    name = arguments.name or f"{'-'.join(map(plain_name, arguments.backbone))}-{task.data.name}"
    start = partial(workers, arguments, tasks, space, console)
    with ExitStack() as until_stored:
        # A new study is stored once there is somebody to run it. One that is there may be run by others, whom
        # workers are not to disturb: they wait for its lease.
        executor = None if is_stored(arguments.storage, name) else until_stored.enter_context(start())
        stored = open_study(
            open_storage(arguments.storage),
            name,
            tasks,
            space,
            provenance_of(arguments, task),
            exhaustive=arguments.search == "exhaustive",
            learning_rates=arguments.learning_rates or (),
        )
        # One lease for search and confirmation: who asks for a stop in between is heard. Without it nothing
        # is changed, neither here nor where its events go.
        with (
            lease(stored) as held,
            watching(arguments, stored) as tell,
            until_stored.pop_all() as until_ended,
        ):
            if marked:
                mark(stored, marked)
            executor = executor or until_ended.enter_context(start())
            is_stopped = _search(arguments, console, stored, tasks, space, cost, tell, held, executor)
    _show(arguments, stored, console, is_stopped=is_stopped)
    return is_stopped


def _load(
    arguments: argparse.Namespace, console: Console
) -> tuple[Mapping[str, Task], SearchSpace, list[Cut]]:
    """Load what a study needs; all that can be known to be wrong before is refused before.

    Returns:
        What is trained, what is searched, and the candidates to be pointed out.
    """
    device = check_executor(arguments)
    check_storage(arguments.storage)
    check_source(arguments.data or "digits")
    check_watchers(arguments)
    if arguments.data is None:
        say(console, "No --data: a demo on scikit-learn's digits (1,797 images of 8 x 8 px).")
    backbones, space = load_backbones(arguments, console)
    arguments.trials = _n_trials(arguments, space)
    marked = [find_cut(space.cuts, layer) for layer in arguments.mark or ()]
    return load_tasks(arguments, console, backbones, space, device), space, marked


def _show(arguments: argparse.Namespace, stored: optuna.Study, console: Console, *, is_stopped: bool) -> None:
    """Print the result; of a study that was stopped only the JSON.

    Raises:
        SettingsError: If no trial is complete.
    """
    summary = summarize(stored)
    if is_stopped:
        if arguments.json:
            print(json.dumps({**as_json(summary), "stopped": True}))
        return
    keep_report(arguments, stored, console)
    results = console_for(stderr=arguments.json)
    results.print(render(summary))
    name, storage_url = stored.study_name, without_password(arguments.storage)
    option = f" --storage {shlex.quote(storage_url)}"
    say(results, f"Study     {name} in {storage_url}; watch it: depthsearch dashboard{option}")
    if arguments.json:
        print(json.dumps(as_json(summary)))
    if summary.best is None:
        raise SettingsError(
            f"No trial of {name} is complete. See why: depthsearch report --name {shlex.quote(name)}{option}"
        )


def _n_trials(arguments: argparse.Namespace, space: SearchSpace) -> int:
    """Give the trials wanted: of an exhaustive search all candidates, unless more are asked for.

    Raises:
        SettingsError: If fewer are.
    """
    if arguments.search != "exhaustive":
        return int(arguments.trials)
    needed = count_exhaustive(space, arguments.learning_rates or ())
    if arguments.trials is not None and arguments.trials < needed:
        raise SettingsError(
            f"--trials {arguments.trials} are fewer than the {needed} of --search exhaustive. "
            "Leave --trials out, or pick fewer candidates with --layers."
        )
    return int(arguments.trials or needed)


def _cost_aim(arguments: argparse.Namespace) -> str | None:
    """Say which cost is the second aim; None: there is none."""
    if arguments.aim == "accuracy":
        if arguments.cost is not None:
            raise SettingsError(
                f"--cost {arguments.cost} is a second aim: add --aim accuracy+cost, or leave --cost out."
            )
        return None
    cost = str(arguments.cost or "macs")
    # Refuses a pruner that cannot judge with two aims before anything is loaded.
    _, pruner = resolve(arguments.sampler, arguments.pruner, arguments.trials, cost)
    make_pruner(pruner, arguments.epochs, cost)
    return cost


def _search(
    arguments: argparse.Namespace,
    console: Console,
    stored: optuna.Study,
    tasks: Mapping[str, Task],
    space: SearchSpace,
    cost: str | None,
    tell: Sink,
    held: Lease,
    executor: Executor,
) -> bool:
    """Run the missing trials, show and tell what happens; say whether a stop was asked for."""
    sampler, pruner = resolve(arguments.sampler, arguments.pruner, arguments.trials, cost)
    n_first = count_exhaustive(space, arguments.learning_rates or ())
    how = f"sampler {sampler}, pruner {pruner}"
    if arguments.search == "exhaustive":
        how = f"exhaustive search{f', then {how}' if arguments.trials > n_first else ''}"
    before = summarize(stored)
    checkpoints = cache_folder("checkpoints")
    view = View(console, before, n_trials=arguments.trials, epochs=arguments.epochs)
    say(
        console,
        f"Study {stored.study_name}: {before.n_finished} of {arguments.trials} trials done; "
        f"{arguments.epochs} {'epoch' if arguments.epochs == 1 else 'epochs'} each; {how}"
        f"{'' if cost is None else f'; score against {cost_name(cost, before.noun)}'}.",
    )
    with (
        view,
        refreshed(stored) as freshen,
        sigterm_drains("SIGTERM: epochs that run are ended first; a second one ends at once.") as drain,
    ):

        def show(event: Event) -> None:
            if isinstance(event, TrialEnded):
                freshen()

        def is_ended(events: Generator[Event, None, None]) -> bool:
            return not _follow(events, stored, (view.update, tell, show), drain)

        searched = is_ended(
            search(
                stored,
                tasks,
                space,
                n_trials=arguments.trials,
                sampler=sampler,
                pruner=pruner,
                checkpoints=checkpoints,
                cost=cost,
                then_confirm=bool(arguments.confirm),
                executor=executor,
                held=held,
            )
        )
        if not searched:
            return True
        if not arguments.confirm or summarize(stored).best is None:
            return False
        return not is_ended(
            confirm(
                stored,
                tasks,
                space,
                n_cuts=len(space.cuts) if arguments.confirm == "all" else arguments.confirm,
                n_seeds=arguments.seeds,
                resample=arguments.resample,
                checkpoints=checkpoints,
                executor=executor,
                held=held,
            )
        )


def _follow(
    events: Generator[Event, None, None],
    stored: optuna.Study,
    sinks: Sequence[Sink],
    drain: Drain,
) -> bool:
    """Tell everybody what happens; say whether a stop was asked for from outside.

    Raises:
        KeyboardInterrupt: After a SIGTERM, once every worker has ended its epoch.
    """
    is_stopped = is_asked = False
    with closing(events):
        for event in events:
            if not isinstance(event, Waiting):
                for sink in sinks:
                    sink(event)
            is_stopped = isinstance(event, Stopped)
            # Until then there is nothing that could be ended in order: the frozen features are probed.
            drain.is_on |= isinstance(event, TrialStarted)
            if drain.is_asked and not is_asked and not is_stopped:
                request_stop(stored)
                is_asked = True
    if drain.is_asked:
        raise KeyboardInterrupt("SIGTERM")
    return is_stopped


def cuts(arguments: argparse.Namespace) -> None:
    """List a backbone's candidate cuts."""
    model = make_model(arguments.backbone, in_chans=arguments.channels, image_size=arguments.image_size)
    check_size(arguments.backbone, model, arguments.image_size)
    if arguments.head == "flatten":
        model = flattened(model, image_size=arguments.image_size or input_size(model)[-1])
    graph = trace(model, image_size=arguments.image_size)
    found = cuts_of(graph, model, arguments.kinds, layers=arguments.layers)
    if arguments.json:
        print(json.dumps([asdict(cut) for cut in found]))
        return
    table = FittingTable(
        title=f"{arguments.backbone}: {len(found)} candidate cuts",
        columns=CUT_COLUMNS,
        rows=[
            (
                str(cut.index),
                str(cut.layer),
                cut.name,
                cut.kind,
                cut.keras_name or "",
                ", ".join(cut.aliases),
                f"{cut.frozen_mac_share:.4f}",
                f"{cut.trainable_parameters:,}",
                str(cut.trainable_tensors),
                f"{cut.boundary_bytes / 1024:,.0f} KiB",
            )
            for cut in found
        ],
    )
    console = console_for()
    console.print(table)
    say_kept_whole(console, graph)
