"""The coordinator: it alone owns an Optuna study, asks, tells and prunes; workers only train.

The suggestion of trial *n* is seeded from (seed, n), so that a resumed study neither repeats itself nor
differs from one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.pruners import NopPruner
from optuna.study import StudyDirection
from optuna.trial import Trial

from depthsearch.options.words import SHARES, TOLERANCE
from depthsearch.results.stored import StoredStudy, Wanted
from depthsearch.search.aims import store_aim
from depthsearch.search.beliefs.learning import ScoreError
from depthsearch.search.planning.moves import Race
from depthsearch.search.planning.planner import Planner
from depthsearch.search.planning.problem import Problem
from depthsearch.search.sampling import GAIN, PAUSE, make_pruner
from depthsearch.search.space import SearchSpace
from depthsearch.signals import deferred
from depthsearch.study.choosing.chooser import Chooser, begin
from depthsearch.study.choosing.confirmation import (
    FINISHED,
    count_searched,
    drop,
    drop_others,
    enqueue_confirmation,
    plan_confirmation,
    waiting_to_confirm,
)
from depthsearch.study.choosing.limits import Limits
from depthsearch.study.choosing.lost import enqueue_lost
from depthsearch.study.control import note_wanted
from depthsearch.study.events import ConfirmationPlanned, Event, SearchEnded, Stopped
from depthsearch.study.lease import Lease, lease
from depthsearch.study.running import Run
from depthsearch.training.costs import head_size_of
from depthsearch.training.task import Task, any_of, tasks_of
from depthsearch.workers.here import InProcess
from depthsearch.workers.jobs import Executor


def search(
    study: optuna.Study,
    task: Task | Mapping[str, Task],
    space: SearchSpace,
    *,
    n_trials: int,
    sampler: str,
    pruner: str,
    checkpoints: Path,
    cost: str | None = None,
    tolerance: float = TOLERANCE,
    race: Race | None = None,
    limits: Limits | None = None,
    then_confirm: bool = False,
    executor: Executor | None = None,
    held: Lease | None = None,
) -> Generator[Event, None, None]:
    """Run trials until the study has as many as wanted, and yield what happens.

    An interrupt, or closing the generator, leaves running trials for the next call to go on with. What
    `control` asks for is done, also from another process; after a stop the last event is a `Stopped`.

    Args:
        study: From `open_study`.
        task: What to train, as given to `open_study`.
        space: What to search.
        n_trials: Finished trials to have in all, with `GAIN` at most; guesses count, but not if exhaustive.
        sampler: Resolved name, see `sampling.resolve`.
        pruner: Resolved name.
        checkpoints: Folder for the checkpoints of running trials.
        cost: The second aim, one of `words.COSTS`; None: the score alone. A study may go on with another.
        tolerance: What the answer may lose against the best, in points; likewise.
        race: How `GAIN` may train settings again to be surer of the answer; None: it may not.
        limits: What the study may have taken once the search ends, earlier calls included.
        then_confirm: Whether `confirm` is to follow, for `status` to say that the study is not complete yet.
        executor: Has the workers; default: this process, one trial after the other. It is left open.
        held: The study's lease, where it is held already, for `confirm` as well.

    Raises:
        StudyError: If another coordinator runs it, the database is gone for long, or workers cannot work.
    """
    tasks = tasks_of(task)
    recipe = any_of(tasks).recipe
    study.pruner = make_pruner(pruner, recipe.epochs, cost)
    executor, limits = executor or InProcess(tasks), limits or Limits()
    with lease(study) if held is None else nullcontext(held) as lease_:
        is_planned = sampler == GAIN
        wanted = Wanted(trials=n_trials, confirm=then_confirm, workers=executor.n_workers, at_most=is_planned)
        with deferred():
            store_aim(study, cost, tolerance)
            note_wanted(study, wanted)
            enqueue_lost(study)
        planner = _planner(study, tasks, space, cost, race) if is_planned else None
        stored = StoredStudy.read(study)
        chooser = Chooser(
            study, n_trials, limits, sampler, planner, recipe.seed, stored.is_exhaustive, pruner == PAUSE
        )
        where = study, tasks, space, executor, checkpoints, lease_, limits
        yield from _search(Run(*where, chooser=chooser, to_probe=_unprobed(stored, space)), chooser, wanted)
    yield from _stopped(lease_)


def _unprobed(stored: StoredStudy, space: SearchSpace) -> list[str]:
    """List the backbones without a stored curve; one with a single cut has nothing to probe."""
    return [name for name in space.backbones if name not in stored.curves and len(space.cuts_of(name)) > 1]


def _search(run: Run, chooser: Chooser, wanted: Wanted) -> Iterator[Event]:
    """Run trials until there are as many as wanted, nothing more may be begun, or a stop is asked for."""
    study = run.study
    yield from run(chooser.next_trial)
    # The next call goes on with what is left, paused trials included.
    if run.asked:
        return
    if chooser.limits.is_time_up():
        yield SearchEnded(reason="its time is over; the same command goes on")
        return
    if chooser.planner is not None:
        yield SearchEnded(reason=chooser.why_it_ends())
    yield from run.end_paused("going on was not worth its cost")
    if chooser.planner or chooser.limits.is_reached(study):
        # It has ended by itself: nothing is left to be done for whoever asks where it stands.
        for waiting in waiting_to_confirm(study):
            drop(study, waiting)
        n_ended = count_searched(study.get_trials(deepcopy=False, states=FINISHED))
        note_wanted(study, replace(wanted, trials=n_ended, at_most=False))


def _planner(
    study: optuna.Study, tasks: Mapping[str, Task], space: SearchSpace, cost: str | None, race: Race | None
) -> Planner:
    """Make what chooses by gain per cost."""
    task = any_of(tasks)

    def head_macs(backbone: str, width: int, depth: int) -> float:
        return head_size_of(tasks[backbone], width=width, depth=depth).macs / task.images_each

    problem = Problem(
        space,
        epochs=task.recipe.epochs,
        late_passes=task.recipe.late_passes,
        head_macs=head_macs,
        maximize=study.direction == StudyDirection.MAXIMIZE,
        error=ScoreError(n_val=len(task.data.val), is_share=task.recipe.metric in SHARES),
        front=cost,
    )
    return Planner(problem, race)


def _stopped(held: Lease) -> Iterator[Event]:
    """Yield a last event if a stop was asked for: read once the lease is back, so that none is missed."""
    if after := held.asked():
        yield Stopped(after=after)


def confirm(
    study: optuna.Study,
    task: Task | Mapping[str, Task],
    space: SearchSpace,
    *,
    n_cuts: int,
    n_seeds: int,
    resample: bool = False,
    limits: Limits | None = None,
    checkpoints: Path,
    executor: Executor | None = None,
    held: Lease | None = None,
) -> Generator[Event, None, None]:
    """Train the most promising cuts and both ends again with several seeds, and yield what happens.

    Each is a trial of the study with the user attributes ``origin`` ("confirm"), ``confirms`` (the number of
    the trial whose setting it repeats) and ``seed``. None is pruned. What is planned is stored first, so that
    another call goes on with it; after more trials of the search it is planned anew, and what has been
    trained already is not trained again. `evidence.weigh` says what comes out.

    Args:
        study: With complete trials.
        task: What to train, as given to `open_study`.
        space: What was searched.
        n_cuts: How many cuts, see `evidence.promising`.
        n_seeds: Trainings of each; a seed has its own first weights of the head, order and dropout, the same
            for each cut.
        resample: Whether each seed also divides the training and validation images anew.
        limits: As in `search`. What is planned and not begun then is dropped; a later call plans it again.
        checkpoints: Folder for the checkpoints of running trials.
        executor: Has the workers, as in `search`.
        held: As in `search`.

    Raises:
        StudyError: As `search`.
    """
    study.pruner = NopPruner()
    tasks, limits = tasks_of(task), limits or Limits()
    executor = executor or InProcess(tasks)
    with lease(study) if held is None else nullcontext(held) as lease_:
        run = Run(study, tasks, space, executor, checkpoints, lease_, limits)
        yield from _confirm(run, limits, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
    yield from _stopped(lease_)


def _confirm(run: Run, limits: Limits, *, n_cuts: int, n_seeds: int, resample: bool) -> Iterator[Event]:
    """Plan the trainings and run them until all are there or a stop is asked for."""
    study = run.study
    # What the search has left; the plan is made of finished trials.
    yield from run()
    if run.asked:
        return
    with deferred():
        plan = plan_confirmation(study, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
        drop_others(study, plan)
        enqueue_confirmation(study, plan, run.space)
        waiting = waiting_to_confirm(study)
    cuts = {t.number: t.cut for t in StoredStudy.read(study).trials}
    yield ConfirmationPlanned(
        cuts=tuple(cuts[number] for number in plan.trials), n_seeds=n_seeds, n_trainings=len(waiting)
    )

    def next_trial() -> Trial | None:
        if not waiting or limits.is_reached(study):
            return None
        with deferred():
            return begin(study, waiting.pop(0))

    yield from run(next_trial)
    if not run.asked and limits.is_reached(study):
        with deferred():
            for left in waiting_to_confirm(study):
                drop(study, left)
