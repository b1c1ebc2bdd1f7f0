"""The coordinator: it alone owns an Optuna study, asks, tells and prunes; workers only train.

The suggestion of trial *n* is seeded from (seed, n), so that a resumed study neither repeats itself nor
differs from one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from depthsearch.results.stored import curve_key
from depthsearch.results.trials import read_trials
from depthsearch.search.aims import store_aim
from depthsearch.search.sampling import make_pruner, make_sampler
from depthsearch.search.space import SearchSpace
from depthsearch.seeds import seed_from
from depthsearch.signals import deferred
from depthsearch.study.confirmation import (
    FINISHED,
    count_searched,
    drop,
    drop_others,
    enqueue_confirmation,
    plan_confirmation,
    waiting_to_confirm,
)
from depthsearch.study.control import GUESS, note_wanted, trials_in_total
from depthsearch.study.events import ConfirmationPlanned, Event, Stopped
from depthsearch.study.lease import Lease, lease
from depthsearch.study.lost import enqueue_lost, replaced
from depthsearch.study.opening import any_of
from depthsearch.study.running import Run
from depthsearch.study.storage.optuna_private import storage_of, trial_id_of
from depthsearch.training.objective import Task, tasks_of
from depthsearch.workers import Executor, InProcess


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
    then_confirm: bool = False,
    executor: Executor | None = None,
    held: Lease | None = None,
) -> Generator[Event, None, None]:
    """Run trials until the study has as many as wanted, and yield what happens.

    An interrupt (KeyboardInterrupt) leaves running trials for the next call to go on with. Close the
    generator to stop likewise. What `control.request_stop` asks for is done too, also from another process;
    the last event is a `Stopped` then. What `control.enqueue` adds is tried next.

    Args:
        study: From `open_study`.
        task: What to train, as given to `open_study`.
        space: What to search.
        n_trials: How many finished trials the study is to have in total. Guesses are among them, but for an
            exhaustive search, where they come on top: every candidate is to be tried.
        sampler: Resolved name, see `sampling.resolve`.
        pruner: Resolved name.
        checkpoints: Folder for the checkpoints of running trials.
        cost: The second aim, one of `words.COSTS`; None: the score alone. It is kept in the study, which may
            go on with another: each trial stores both costs.
        then_confirm: Whether `confirm` is to follow, for `status` to say that the study is not complete yet.
        executor: Has the workers; default: this process, one trial after the other. It is left open.
        held: The study's lease, where it is held already, for `confirm` as well.

    Raises:
        StudyError: If another coordinator runs this study, the database is gone for long, or workers cannot
            work.
    """
    tasks = tasks_of(task)
    recipe = any_of(tasks).recipe
    study.pruner = make_pruner(pruner, recipe.epochs, cost)
    executor = executor or InProcess(tasks)

    def sampler_of(number: int) -> BaseSampler:
        return make_sampler(sampler, seed_from(recipe.seed, number), cost)

    with _held(study, held) as lease_:
        with deferred():
            store_aim(study, cost)
            note_wanted(study, n_trials=n_trials, then_confirm=then_confirm, n_workers=executor.n_workers)
            enqueue_lost(study)
        run = Run(study, tasks, space, executor, checkpoints, lease_, n_trials=n_trials, sampler=sampler_of)
        run.probe(_unprobed(study, space))

        def next_trial() -> Trial | None:
            trials = study.get_trials(deepcopy=False)
            begun = (t for t in trials if t.state in (*FINISHED, TrialState.RUNNING))
            again = replaced(trials)
            if count_searched(t for t in begun if t.number not in again) >= trials_in_total(study, n_trials):
                return None
            with deferred():
                # Of a confirmation that was left for more of the search: what it planned, nobody knows now.
                for waiting in waiting_to_confirm(study):
                    drop(study, waiting)
                study.sampler = sampler_of(len(trials))
                return _next_trial(study)

        yield from run(next_trial)
    yield from _stopped(lease_)


@contextmanager
def _held(study: optuna.Study, held: Lease | None) -> Iterator[Lease]:
    """Hold a study's lease, if it is not held yet."""
    if held is not None:
        yield held
        return
    with lease(study) as taken:
        yield taken


def _unprobed(study: optuna.Study, space: SearchSpace) -> list[str]:
    """List the backbones whose frozen features have not been probed; one with a single cut has none."""
    attributes = study.user_attrs
    return [b for b in space.backbones if curve_key(b) not in attributes and len(space.cuts_of(b)) > 1]


def _next_trial(study: optuna.Study) -> Trial:
    """Begin the first guess that waits; else whatever else waits, or what the sampler suggests."""
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if waiting.user_attrs.get("origin") == GUESS:
            return _begin(study, waiting)
    return study.ask()


def _begin(study: optuna.Study, waiting: FrozenTrial) -> Trial:
    """Begin this one of the trials that wait: `study.ask` would begin the first."""
    trial_id = trial_id_of(study, waiting.number)
    storage_of(study).set_trial_state_values(trial_id, state=TrialState.RUNNING)
    return Trial(study, trial_id)


def _stopped(held: Lease) -> Iterator[Event]:
    """Say so if a stop was asked for; read after the lease is given back, so that no request is missed."""
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
        checkpoints: Folder for the checkpoints of running trials.
        executor: Has the workers, as in `search`.
        held: As in `search`.

    Raises:
        StudyError: As `search`.
    """
    study.pruner = NopPruner()
    tasks = tasks_of(task)
    with _held(study, held) as lease_:
        run = Run(study, tasks, space, executor or InProcess(tasks), checkpoints, lease_)
        yield from _confirm(run, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
    yield from _stopped(lease_)


def _confirm(run: Run, *, n_cuts: int, n_seeds: int, resample: bool) -> Iterator[Event]:
    """Plan the trainings and run them until all are there or a stop is asked for."""
    study = run.study
    # What the search has left; the plan is made of finished trials.
    yield from run()
    if run.asked:
        return
    with deferred():
        plan = plan_confirmation(study, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
        drop_others(study, plan)
        enqueue_confirmation(study, plan)
        waiting = waiting_to_confirm(study)
    cuts = {t.number: t.cut for t in read_trials(study)}
    yield ConfirmationPlanned(
        cuts=tuple(cuts[number] for number in plan["trials"]), n_seeds=n_seeds, n_trainings=len(waiting)
    )

    def next_trial() -> Trial | None:
        if not waiting:
            return None
        with deferred():
            return _begin(study, waiting.pop(0))

    yield from run(next_trial)
