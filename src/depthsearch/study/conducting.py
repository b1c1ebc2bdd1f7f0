"""A whole study from its options: prepared, opened, searched, confirmed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial

import optuna
import torch

from depthsearch.devices import quick_releases
from depthsearch.errors import SettingsError
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.options.defaults import is_planned, with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.results.front import cost_name
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Summary, summarize
from depthsearch.search.firsts import count_exhaustive
from depthsearch.search.planning.moves import Race
from depthsearch.search.sampling import FEW_TRIALS, make_pruner, resolve
from depthsearch.search.space import SearchSpace
from depthsearch.signals import Drain, sigterm_drains
from depthsearch.study.choosing.limits import Limits
from depthsearch.study.control import mark, note_bounds, request_stop
from depthsearch.study.coordinator import confirm, search
from depthsearch.study.events import Event, Note, Notice, Say, Stopped, TrialStarted, Waiting
from depthsearch.study.lease import Lease, lease
from depthsearch.study.loggers.eventlog import Sink
from depthsearch.study.loggers.watching import check_watchers, watching
from depthsearch.study.opening import open_study
from depthsearch.study.planning.outlook import LongStudyNote
from depthsearch.study.preparing.executors import check_executor, started_executor
from depthsearch.study.preparing.images import check_images
from depthsearch.study.preparing.places import cache_folder, is_stored
from depthsearch.study.preparing.tasks import load_backbones, load_tasks, provenance_of
from depthsearch.study.settings import default_name
from depthsearch.study.storage.opening import check_storage, open_storage
from depthsearch.text import counted
from depthsearch.training.task import Task, any_of
from depthsearch.workers.jobs import Executor

logger = logging.getLogger(__name__)

# Of a budget and of the time; the rest is for a confirmation that comes at the end, where there is one.
SEARCHED = 0.6
# Opened once a study is, with the study and its options; it gives what takes the events.
Watcher = Callable[[optuna.Study, StudyOptions], AbstractContextManager[Sink]]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StudyResult:
    """What a study has come to.

    Attributes:
        study: Optuna's, to go on with.
        stored: As it is stored now.
        summary: Of it, with the answer.
        options: What it was run with, all defaults filled in.
        is_stopped: Whether somebody has asked for a stop before its end.
    """

    study: optuna.Study
    stored: StoredStudy
    summary: Summary
    options: StudyOptions
    is_stopped: bool

    def __repr__(self) -> str:
        """Name the study and its answer: all of it would fill pages."""
        answer, metric = self.summary.answer, self.summary.metric
        said = "no answer yet" if answer is None else f"train from {answer.cut}"
        score = "" if answer is None or answer.score is None else f", {metric} {answer.score:.4f}"
        return f"StudyResult({self.stored.name}: {said}{score})"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """All that a study needs before it is opened; ``cost`` is the second aim, where there is one."""

    name: str
    options: StudyOptions
    tasks: Mapping[str, Task]
    space: SearchSpace
    marked: Sequence[Cut]
    cost: str | None
    say: Say


def run(
    options: StudyOptions,
    *,
    events: Callable[[Event | Notice], None] | None = None,
    watchers: Sequence[Watcher] = (),
) -> StudyResult:
    """Search for the best cut as ``depthsearch study`` does, or go on with a study that is stored.

    KeyboardInterrupt ends it and leaves running trials for the next call to go on with. In the main thread
    the first SIGTERM lets the epochs that run end, then does the same.

    Args:
        options: What to search and how. ``json`` says nothing here.
        events: Is called with all that happens: what is loaded, then each trial and epoch. Default: only
            warnings are logged.
        watchers: What else takes the events, while the study's lease is held.

    Raises:
        DepthsearchError: If the study cannot be run.
        KeyboardInterrupt: After a SIGTERM.
    """
    tell = events or _log
    prepared = _prepare(with_defaults(options), tell)
    options, tasks, space = prepared.options, prepared.tasks, prepared.space
    start = partial(started_executor, options, tasks, space, tell)
    with ExitStack() as until_stored:
        # A new study is stored once there is somebody to run it. One that is there may be run by others, whom
        # workers are not to disturb: they wait for its lease.
        executor = None if is_stored(options.storage, prepared.name) else until_stored.enter_context(start())
        study = _open(prepared)
        # One lease for search and confirmation: who asks for a stop in between is heard. Without it nothing
        # is changed, neither here nor where its events go.
        with (
            quick_releases(),
            lease(study) as held,
            watching(options, study) as log,
            until_stored.pop_all() as until_ended,
        ):
            note_bounds(study, options)
            if prepared.marked:
                mark(study, prepared.marked)
            executor = executor or until_ended.enter_context(start())
            sinks: list[Sink] = [tell, log]
            if not any(trial.state.is_finished() for trial in study.get_trials(deepcopy=False)):
                # A study that goes on says what is left; of a new one that takes long it is noted.
                sinks.append(LongStudyNote(options, tasks, space, n_workers=executor.n_workers, say=tell))
            _announce(prepared, study)
            for watcher in watchers:
                sinks.append(until_ended.enter_context(watcher(study, options)))
            is_stopped = _conduct(prepared, study, sinks, held, executor)
    stored = StoredStudy.read(study)
    return StudyResult(
        study=study, stored=stored, summary=summarize(stored), options=options, is_stopped=is_stopped
    )


def _log(event: Event | Notice) -> None:
    if isinstance(event, Note) and event.level != "info":
        logger.warning(event.text)


def _prepare(options: StudyOptions, say: Say) -> _Prepared:
    """Load what a study needs; all that can be known to be wrong before is refused before."""
    cost = _cost_aim(options)
    device = check_executor(options)
    check_storage(options.storage)
    images = check_images(options)
    check_watchers(options)
    if options.data is None:
        say(Note(text="No --data: a demo on scikit-learn's digits (1,797 images of 8 x 8 px)."))
    backbones, space = load_backbones(options, say)
    options = replace(options, trials=_n_trials(options, space))
    marked = [find_cut(space.cuts, layer) for layer in options.mark or ()]
    tasks = load_tasks(options, say, backbones, space, device, images=images)
    return _Prepared(
        name=options.name or default_name(options, any_of(tasks).data.name),
        options=options,
        marked=marked,
        tasks=tasks,
        space=space,
        cost=cost,
        say=say,
    )


def _cost_aim(options: StudyOptions) -> str | None:
    """Return the cost that is the second aim; None: there is none.

    Raises:
        SettingsError: If the pruner cannot judge with two aims.
    """
    if options.aim == "accuracy":
        return None
    cost = options.cost or "macs"
    _, pruner = _resolved(options, cost)
    make_pruner(pruner, options.epochs or 0, cost)
    return cost


def _resolved(options: StudyOptions, cost: str | None) -> tuple[str, str]:
    """Return the names of sampler and pruner; what goes on after every candidate is Optuna's by default."""
    sampler, pruner, n_trials = options.sampler, options.pruner, options.trials or 0
    if not is_planned(options) and (sampler, pruner) == ("auto", "auto"):
        sampler = "tpe" if n_trials < FEW_TRIALS else "gp"
    return resolve(sampler, pruner, n_trials, cost)


def _n_trials(options: StudyOptions, space: SearchSpace) -> int:
    """Return the trials wanted: of an exhaustive search all candidates, unless more are asked for.

    Raises:
        SettingsError: If fewer are.
    """
    needed = count_exhaustive(space, options.learning_rates or ()) if options.search == "exhaustive" else 0
    if options.trials is not None and options.trials < needed:
        raise SettingsError(
            f"--trials {options.trials} are fewer than the {needed} of --search exhaustive. "
            "Leave --trials out, or pick fewer candidates with --layers."
        )
    return options.trials or needed


def _open(prepared: _Prepared) -> optuna.Study:
    """Create the study, or open the stored one."""
    options, tasks = prepared.options, prepared.tasks
    return open_study(
        open_storage(options.storage),
        prepared.name,
        tasks,
        prepared.space,
        provenance_of(options, any_of(tasks)),
        exhaustive=options.search == "exhaustive",
        learning_rates=options.learning_rates or (),
        is_planned=is_planned(options),
    )


def _announce(prepared: _Prepared, study: optuna.Study) -> None:
    """Report where a study stands and how it is searched."""
    options, cost = prepared.options, prepared.cost
    sampler, pruner = _resolved(options, cost)
    how = f"sampler {sampler}, pruner {pruner}"
    if options.search == "exhaustive":
        n_first = count_exhaustive(prepared.space, options.learning_rates or ())
        how = f"exhaustive search{f', then {how}' if options.trials != n_first else ''}"
    before = summarize(study)
    at_most = "at most " if is_planned(options) else ""
    done = f"{before.n_finished} of {at_most}{counted(options.trials or 0, 'trial')} done"
    aims = "" if cost is None else f"; score against {cost_name(cost, before.noun)}"
    prepared.say(
        Note(
            text=f"Study {study.study_name}: {done}; "
            f"{counted(options.epochs or 0, 'epoch')} each; {how}{aims}."
        )
    )


def _conduct(
    prepared: _Prepared, study: optuna.Study, sinks: Sequence[Sink], held: Lease, executor: Executor
) -> bool:
    """Run the missing trials and the confirmation; return whether a stop was asked for."""
    began = time.monotonic()
    options, tasks, space = prepared.options, prepared.tasks, prepared.space
    sampler, pruner = _resolved(options, prepared.cost)
    checkpoints = cache_folder("checkpoints")
    race = _race(options, any_of(tasks))
    ends_with_confirmation = bool(options.confirm) and race is None
    searched = SEARCHED if ends_with_confirmation else 1.0
    with sigterm_drains("SIGTERM: epochs that run are ended first; a second one ends at once.") as drain:
        searching = search(
            study,
            tasks,
            space,
            n_trials=options.trials or 0,
            sampler=sampler,
            pruner=pruner,
            checkpoints=checkpoints,
            cost=prepared.cost,
            tolerance=options.tolerance,
            race=race,
            limits=_limits(options, began, searched),
            then_confirm=ends_with_confirmation,
            executor=executor,
            held=held,
        )
        if _follow(searching, study, sinks, drain):
            return True
        if not ends_with_confirmation or summarize(study).best is None:
            return False
        confirming = confirm(
            study,
            tasks,
            space,
            n_cuts=len(space.cuts) if options.confirm == "all" else int(options.confirm or 0),
            n_seeds=options.seeds or 0,
            resample=_resamples(options, any_of(tasks)),
            limits=_limits(options, began),
            checkpoints=checkpoints,
            executor=executor,
            held=held,
        )
        return _follow(confirming, study, sinks, drain)


def _race(options: StudyOptions, task: Task) -> Race | None:
    """Return how the search trains settings again; None: not at all, or only once it has ended."""
    if not is_planned(options) or options.confirm in (0, "all"):
        return None
    return Race(
        n_seeds=options.seeds or 0,
        n_cuts=None if options.confirm == "auto" else int(options.confirm or 0),
        resample=_resamples(options, task),
    )


def _resamples(options: StudyOptions, task: Task) -> bool:
    """Return whether each further training divides training and validation images anew."""
    if options.resample is not None:
        return options.resample
    labels = torch.cat([task.data.train.labels, task.data.val.labels])
    return task.data.val_is_drawn and int(labels.bincount().min()) > 1


def _limits(options: StudyOptions, began: float, share: float = 1.0) -> Limits:
    """Return what a part of a study may take: a share of its budget, and of its time since it began."""
    return Limits(
        budget=math.inf if options.budget is None else share * options.budget,
        until=math.inf if options.timeout is None else began + share * options.timeout,
    )


def _follow(
    events: Generator[Event, None, None], study: optuna.Study, sinks: Sequence[Sink], drain: Drain
) -> bool:
    """Pass on what happens; return whether a stop was asked for from outside.

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
                request_stop(study)
                is_asked = True
    if drain.is_asked:
        raise KeyboardInterrupt("SIGTERM")
    return is_stopped
