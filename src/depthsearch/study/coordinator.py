"""The coordinator: it alone owns an Optuna study, asks, tells and prunes.

The Optuna study is the only state. A trial found RUNNING at the start is an orphan of a stopped process and
is adopted under its own number, from its checkpoint if there is one. The suggestion of trial *n* is seeded
from (seed, n), so that a resumed study neither repeats itself nor differs from one that was never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from depthsearch.aims import store_aim
from depthsearch.cuts import Cut
from depthsearch.devices import is_out_of_memory, release_memory
from depthsearch.errors import DivergedError, StudyError
from depthsearch.interrupts import deferred
from depthsearch.lease import Lease, lease
from depthsearch.objective import (
    Task,
    note_cost,
    tasks_of,
    train_point,
    transfer_curve,
)
from depthsearch.sampling import make_pruner, make_sampler
from depthsearch.space import BACKBONE, Point, SearchSpace, cut_parameter
from depthsearch.stored import curve_key
from depthsearch.study.confirmation import (
    CONFIRMATION,
    FINISHED,
    count_searched,
    drop_others,
    enqueue_confirmation,
    plan_confirmation,
    waiting_to_confirm,
)
from depthsearch.study.control import GUESS, TO_THE_END, note_wanted, trials_in_total
from depthsearch.study.events import (
    ConfirmationPlanned,
    CurveDrawn,
    EpochDone,
    Event,
    Stopped,
    TrialEnded,
    TrialStarted,
)
from depthsearch.study.opening import any_of
from depthsearch.training import EpochResult, seed_from
from depthsearch.trials import read_trials

# Trials of these origins run to their last epoch: the report compares with them, or all are to be compared.
NEVER_STOPPED = ("baseline", "exhaustive")


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
) -> Generator[Event, None, None]:
    """Run trials until the study has as many as wanted, and yield what happens.

    An interrupt (KeyboardInterrupt) leaves the running trial for the next call to go on with. Close the
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
        cost: The second aim, one of `aims.COSTS`; None: the score alone. It is kept in the study, which may
            go on with another: each trial stores both costs.
        then_confirm: Whether `confirm` is to follow, for `status` to say that the study is not complete yet.

    Raises:
        StudyError: If another coordinator runs this study.
    """
    tasks = tasks_of(task)
    recipe = any_of(tasks).recipe
    study.pruner = make_pruner(pruner, recipe.epochs, cost)
    with lease(study) as held:
        with deferred():
            store_aim(study, cost)
            note_wanted(study, n_trials=n_trials, then_confirm=then_confirm)
        run = _Runner(study, tasks, space, checkpoints, held, n_trials=n_trials)
        yield from _search(run, sampler, cost)
    yield from _stopped(held)


def _search(run: _Runner, sampler: str, cost: str | None) -> Iterator[Event]:
    """Run the missing trials until they are there or a stop is asked for."""
    study, space, held = run.study, run.space, run.held
    seed = any_of(run.tasks).recipe.seed
    for backbone in space.backbones:
        if curve_key(backbone) not in study.user_attrs and len(space.cuts_of(backbone)) > 1:
            yield _draw_curve(study, run.tasks[backbone], space, backbone, n_trials=run.n_trials)
            if held.renew():
                return
    for orphan in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.sampler = make_sampler(sampler, seed_from(seed, orphan.number), cost)
        yield from run(Trial(study, orphan._trial_id), adopted=True)
        if held.renew():
            return
    while True:
        trials = study.get_trials(deepcopy=False)
        if count_searched(t for t in trials if t.state in FINISHED) >= trials_in_total(study, run.n_trials):
            return
        with deferred():
            study.sampler = make_sampler(sampler, seed_from(seed, len(trials)), cost)
            trial = _next_trial(study)
        yield from run(trial)
        if held.renew():
            return


def _next_trial(study: optuna.Study) -> Trial:
    """Begin the first guess that waits; else whatever else waits, or what the sampler suggests."""
    for waiting in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        if waiting.user_attrs.get("origin") == GUESS:
            return _begin(study, waiting)
    return study.ask()


def _begin(study: optuna.Study, waiting: FrozenTrial) -> Trial:
    """Begin this one of the trials that wait: `study.ask` would begin the first."""
    study._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
    return Trial(study, waiting._trial_id)


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

    Raises:
        StudyError: If another coordinator runs this study.
    """
    study.pruner = NopPruner()
    with lease(study) as held:
        run = _Runner(study, tasks_of(task), space, checkpoints, held)
        yield from _confirm(run, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
    yield from _stopped(held)


def _confirm(run: _Runner, *, n_cuts: int, n_seeds: int, resample: bool) -> Iterator[Event]:
    """Plan the trainings and run them until all are there or a stop is asked for."""
    study = run.study
    for orphan in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        yield from run(Trial(study, orphan._trial_id), adopted=True)
        if run.held.renew():
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
    for each in waiting:
        with deferred():
            trial = _begin(study, each)
        yield from run(trial)
        if run.held.renew():
            return


def _draw_curve(
    study: optuna.Study, task: Task, space: SearchSpace, backbone: str, *, n_trials: int
) -> CurveDrawn:
    cuts = space.cuts_of(backbone)
    upcoming = upcoming_trials(study.get_trials(deepcopy=False), space, n_trials=n_trials)
    curve = transfer_curve(task, cuts, upcoming={cut: upcoming[cut] for cut in cuts})
    with deferred():
        study.set_user_attr(curve_key(backbone), asdict(curve))
    return CurveDrawn(backbone=backbone, curve=curve)


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs the trials of a study whose lease is held."""

    study: optuna.Study
    tasks: Mapping[str, Task]
    space: SearchSpace
    checkpoints: Path
    held: Lease
    # Of the search, in total: what is worth keeping depends on what is still to come.
    n_trials: int = 0

    @property
    def folder(self) -> Path:
        return self.checkpoints / str(self.study.user_attrs["checkpoint_id"])

    def _task(self, trial: Trial, point: Point) -> tuple[Task, int]:
        """Give what a trial trains, and its seed: its own, or one that all cuts share for confirmation."""
        task = self.tasks[point.cut.backbone]
        base = task.recipe.seed
        if trial.user_attrs.get("origin") != "confirm":
            return task, seed_from(base, trial.number)
        seed = seed_from(base, trial.user_attrs["seed"], CONFIRMATION)
        return task.resampled(seed) if trial.user_attrs["resample"] else task, seed

    def _upcoming(self, backbone: str) -> dict[Cut, float]:
        trials = self.study.get_trials(deepcopy=False)
        expected = upcoming_trials(trials, self.space, n_trials=self.n_trials)
        return {cut: n for cut, n in expected.items() if cut.backbone == backbone}

    def __call__(self, trial: Trial, *, adopted: bool = False) -> Iterator[Event]:
        """Train one trial to its end and tell it, unless a stop is asked for."""
        study = self.study
        with deferred():
            point = self.space.suggest(trial)
            note_cost(trial, self.tasks[point.cut.backbone], point)
        task, seed = self._task(trial, point)
        origin = str(trial.user_attrs.get("origin", "sampler"))
        is_kept = origin in NEVER_STOPPED or trial.user_attrs.get(TO_THE_END, False)
        checkpoint = self.folder / f"trial-{trial.number}.pt"
        yield TrialStarted(number=trial.number, point=point, origin=origin, adopted=adopted)
        state, reason = TrialState.COMPLETE, None
        results: list[EpochResult] = []
        reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        last_reported = max(reported, default=0)
        upcoming = self._upcoming(point.cut.backbone)
        training = train_point(task, point, seed=seed, checkpoint=checkpoint, upcoming=upcoming)
        try:
            for result in training:
                results.append(result)
                with deferred():
                    asked = self.held.renew()
                    if result.epoch not in reported:
                        trial.report(result.score, step=result.epoch)
                yield EpochDone(number=trial.number, result=result)
                # Optuna judges the last epoch reported; one that is only told again was judged before.
                judge = last_reported <= result.epoch < task.recipe.epochs and origin != "confirm"
                if _is_weak(trial, result.epoch, judge=judge, is_kept=is_kept):
                    state, reason = TrialState.PRUNED, f"pruned after epoch {result.epoch}"
                    break
                if asked == "epoch" and result.epoch < task.recipe.epochs:
                    # Left as an interrupt leaves it: RUNNING, with its checkpoint.
                    return
        except DivergedError as error:
            state, reason = TrialState.PRUNED, f"diverged: {error}"
            trial.set_user_attr("diverged", True)
        except StudyError:
            raise
        except (StorageInternalError, OSError) as error:
            # A database that is locked or a disk that is full says nothing of the trial.
            raise StudyError(
                f"Trial {trial.number} stopped: {_first_line(error)}. "
                "Mend that and run the same command again."
            ) from error
        except Exception as error:
            if not is_out_of_memory(error):
                _tell(study, trial, TrialState.FAIL, results, f"{type(error).__name__}: {error}", checkpoint)
                raise
            size = task.recipe.batch_size
            reason = f"out of memory on {task.device.kind} at batch size {size}: {_first_line(error)}"
            state = TrialState.FAIL
        finally:
            training.close()
        release_memory()
        _tell(study, trial, state, results, reason, checkpoint)
        score = results[-1].score if results else None
        yield TrialEnded(number=trial.number, point=point, state=state, score=score, reason=reason)


def upcoming_trials(trials: Sequence[FrozenTrial], space: SearchSpace, *, n_trials: int) -> dict[Cut, float]:
    """Expect how many more trials will come at each cut.

    Those enqueued are known. Of the others each cut gets an even share, and more where trials have been: a
    sampler comes back to where it was. (The mean of a Dirichlet distribution, one trial spread evenly for
    each that was.)
    """
    waiting = [t.system_attrs.get("fixed_params", {}) for t in trials if t.state == TrialState.WAITING]
    known = Counter(_cut_in(space, params) for params in waiting)
    been = Counter(_cut_in(space, t.params) for t in trials if t.params)
    n_been = been.total() - been[None]
    others = max(0, n_trials - count_searched(trials))
    total = 2 * n_been or 1
    even = (n_been or 1) / len(space.cuts)
    return {cut: known[cut] + others * (been[cut] + even) / total for cut in space.cuts}


def _cut_in(space: SearchSpace, params: Mapping[str, Any]) -> Cut | None:
    """Find the cut that parameters name, if they do."""
    backbone = params.get(BACKBONE, space.backbones[0])
    index = params.get(cut_parameter(backbone))
    return None if index is None else space.cuts_of(backbone)[index]


def _is_weak(trial: Trial, epoch: int, *, judge: bool, is_kept: bool) -> bool:
    """Ask the pruner once, and keep its verdict: it answers otherwise the second time.

    Baselines and their like are judged too, as halving compares only with trials that were, but never
    stopped.
    """
    with deferred():
        weak = trial.user_attrs.get("prune_at") == epoch or (judge and trial.should_prune() and not is_kept)
        if weak:
            trial.set_user_attr("prune_at", epoch)
    return bool(weak)


def _tell(
    study: optuna.Study,
    trial: Trial,
    state: TrialState,
    results: list[EpochResult],
    reason: str | None,
    checkpoint: Path,
) -> None:
    with deferred():
        trial.set_user_attr("results", [asdict(result) for result in results])
        for name in ("macs", "plain_macs", "kept_bytes", "read_bytes"):
            trial.set_user_attr(name, sum(getattr(result, name) for result in results))
        trial.set_user_attr("seconds", round(sum(result.seconds for result in results), 3))
        if reason is not None:
            trial.set_user_attr("reason", reason)
        value = results[-1].score if state == TrialState.COMPLETE else None
        study.tell(trial, value, state=state)
        checkpoint.unlink(missing_ok=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
