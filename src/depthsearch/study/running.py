"""The running trials of a study: assigned to workers, reported, judged, ended.

The Optuna study is the only state. A trial that is RUNNING and that nobody works on is an orphan, left by a
process that was stopped or by a lost answer of the database: it is adopted under its own number, from its
checkpoint if there is one. A trial whose worker is lost goes on elsewhere in the same way, a few times.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import Trial, TrialState

from depthsearch.errors import StudyError
from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import StudyKey, TrialKey, curve_key
from depthsearch.search.origins import Origin, origin_of
from depthsearch.search.planning.moves import is_paused
from depthsearch.search.space import Point, SearchSpace, cut_attributes
from depthsearch.seeds import seed_from
from depthsearch.signals import deferred
from depthsearch.study.choosing.chooser import Chooser
from depthsearch.study.choosing.confirmation import CONFIRMATION
from depthsearch.study.choosing.limits import Limits
from depthsearch.study.choosing.lost import MOST_LOST, NEVER_STOPPED
from depthsearch.study.choosing.upcoming import upcoming_trials
from depthsearch.study.events import (
    CurveDrawn,
    EpochDone,
    Event,
    TrialEnded,
    TrialLost,
    TrialPaused,
    TrialStarted,
    Waiting,
)
from depthsearch.study.lease import Lease
from depthsearch.study.storage.attributes import set_trial_attrs
from depthsearch.study.storage.optuna_private import trial_id_of
from depthsearch.text import counted, first_line
from depthsearch.training.costs import cost_attributes
from depthsearch.training.outcomes import EpochResult, TransferCurve
from depthsearch.training.task import Task
from depthsearch.workers.jobs import Ended, Executor, Failed, Lost, Probing, Report, Training

# How long to wait for reports before checking whether the study is asked to stop.
POLL_SECONDS = 1.0

NextTrial = Callable[[], Trial | None]


@dataclass(slots=True, kw_only=True)
class _RunningTrial:
    """A trial that a worker has, or that waits for one."""

    trial: Trial
    point: Point
    origin: Origin
    # Epochs that the study had when the trial began or went on, and the results of those since.
    reported: frozenset[int]
    results: list[EpochResult] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether it may not be pruned."""
        return self.origin in NEVER_STOPPED or bool(self.trial.user_attrs.get(TrialKey.TO_THE_END, False))


class Run:
    """Keeps workers busy with the trials of a study whose lease is held."""

    def __init__(
        self,
        study: optuna.Study,
        tasks: Mapping[str, Task],
        space: SearchSpace,
        executor: Executor,
        checkpoints: Path,
        lease: Lease,
        limits: Limits,
        *,
        chooser: Chooser | None = None,
        to_probe: Sequence[str] = (),
    ) -> None:
        """Prepare to run trials; a search has a chooser, and backbones that are probed before."""
        self.study = study
        self.tasks = tasks
        self.space = space
        self.asked: str | None = None
        self._executor = executor
        self._folder = checkpoints / str(study.user_attrs[StudyKey.CHECKPOINT_ID])
        self._lease = lease
        self._chooser = chooser
        self._limits = limits
        self._under_way: dict[int, _RunningTrial] = {}
        self._to_go_on: list[_RunningTrial] = []
        self._to_probe = list(to_probe)
        # What ran out of memory beside others runs when nothing else does, one at a time.
        self._later_alone: list[_RunningTrial | str] = []
        self._alone: int | str | None = None
        # Backbones that are being probed, and how often their workers were lost.
        self._probed: set[str] = set()
        self._lost_probing: Counter[str] = Counter()

    def __call__(self, next_trial: NextTrial = lambda: None) -> Iterator[Event]:
        """Run orphans, then further trials, until nothing is left or a stop is asked for.

        Args:
            next_trial: Begins another trial of the study, or returns None: there is none for now.

        Raises:
            StudyError: If the lease is lost, the database is gone for long, or workers cannot work.
        """
        try:
            while True:
                self.asked = self._lease.renew()
                if self.asked:
                    self._withdraw()
                else:
                    yield from self._fill(next_trial)
                if not self._under_way and not self._probed:
                    return
                reports = self._executor.wait(POLL_SECONDS)
                for key, report in reports:
                    yield from self._take(key, report)
                if not reports:
                    yield Waiting()
        except StorageInternalError as error:
            # A locked database or a full disk is no fault of any trial.
            raise StudyError(
                f"Study {self.study.study_name!r} stopped: {first_line(error)}. "
                "Mend that and run the same command again."
            ) from error
        finally:
            self._executor.drop()
            # What was running is RUNNING in the study: the next call adopts it.
            for each in (self._under_way, self._probed, self._to_go_on, self._later_alone):
                each.clear()

    def _withdraw(self) -> None:
        """Withdraw what no worker has begun: a stop is asked for, and none may come for long."""
        for number in [number for number in self._under_way if self._executor.withdraw(number)]:
            del self._under_way[number]
        self._probed -= {name for name in self._probed if self._executor.withdraw(name)}

    def _fill(self, next_trial: NextTrial) -> Iterator[Event]:
        """Assign something to every free worker; last, one by one, what ran out of memory before."""
        while len(self._under_way) + len(self._probed) < self._executor.n_workers:
            if self._limits.is_time_up() or self._alone in self._under_way or self._alone in self._probed:
                return
            if self._to_probe:
                self._begin_probing(self._to_probe.pop(0))
            elif self._to_go_on:
                yield from self._begin(self._to_go_on.pop(0), goes_on=True)
            elif (orphan := self._orphan()) is not None:
                yield from self._adopt(orphan)
            elif (trial := next_trial()) is not None:
                running = self._prepared(trial)
                yield from self._begin(running, goes_on=bool(running.reported))
            elif self._later_alone and not self._under_way and not self._probed:
                yield from self._begin_alone(self._later_alone.pop(0))
            else:
                return

    def _begin_alone(self, waiting: _RunningTrial | str) -> Iterator[Event]:
        if isinstance(waiting, str):
            self._alone = waiting
            self._begin_probing(waiting)
        else:
            self._alone = waiting.trial.number
            yield from self._begin(waiting, goes_on=True)

    def _orphan(self) -> Trial | None:
        """Find a trial that is RUNNING and that no worker has."""
        waiting = (each.trial.number for each in self._later_alone if isinstance(each, _RunningTrial))
        ours = {*self._under_way, *waiting}
        for stored in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if stored.number not in ours and not is_paused(stored):
                if self._chooser is not None:
                    self.study.sampler = self._chooser.sampler_of(stored.number)
                return Trial(self.study, trial_id_of(self.study, stored.number))
        return None

    def _adopt(self, orphan: Trial) -> Iterator[Event]:
        """Go on with an orphan, or end it if it was to end when it was interrupted."""
        running = self._prepared(orphan)
        reasons = orphan.user_attrs.get(TrialKey.LOST, [])
        if len(reasons) > MOST_LOST:
            number = orphan.number
            self._under_way[number] = running
            yield TrialStarted(
                number=number, point=running.point, origin=running.origin, adopted=True, worker=None
            )
            yield from self._end(running, TrialState.FAIL, _lost_often(reasons))
        else:
            yield from self._begin(running, goes_on=True)

    def _prepared(self, trial: Trial) -> _RunningTrial:
        """Suggest what a trial lacks of its setting, and store its cost."""
        with deferred():
            point = self.space.choose(trial)
            cost = cost_attributes(self.tasks[point.cut.backbone], point)
            set_trial_attrs(trial, {**cut_attributes(point.cut), **cost})
        return _RunningTrial(
            trial=trial,
            point=point,
            origin=origin_of(trial),
            reported=frozenset(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values),
        )

    def _begin(self, running: _RunningTrial, *, goes_on: bool) -> Iterator[Event]:
        trial, point = running.trial, running.point
        seed, split_seed = self._seeds(running)
        self._under_way[trial.number] = running
        worker = self._executor.start(
            Training(
                key=trial.number,
                point=point,
                seed=seed,
                split_seed=split_seed,
                checkpoint=self._checkpoint(trial),
                upcoming=self._upcoming(point.cut.backbone, but=trial.number),
                is_alone=self._alone == trial.number,
            )
        )
        yield TrialStarted(
            number=trial.number, point=point, origin=running.origin, adopted=goes_on, worker=worker
        )

    def _seeds(self, running: _RunningTrial) -> tuple[int, int | None]:
        """Return a trial's seed, which all cuts share in a confirmation, and the seed of its split."""
        base, attributes = self.tasks[running.point.cut.backbone].recipe.seed, running.trial.user_attrs
        if running.origin != "confirm":
            return seed_from(base, running.trial.number), None
        seed = seed_from(base, attributes[TrialKey.SEED], CONFIRMATION)
        return seed, seed if attributes[TrialKey.RESAMPLE] else None

    def _upcoming(self, backbone: str, *, but: int | None = None) -> dict[Cut, float]:
        """Estimate how many trials come at each cut of a backbone, those of other workers included."""
        trials = self.study.get_trials(deepcopy=False)
        expected = upcoming_trials(
            trials, self.space, n_trials=0 if self._chooser is None else self._chooser.n_trials
        )
        for number, other in self._under_way.items():
            if number != but:
                expected[other.point.cut] += 1
        return {cut: n for cut, n in expected.items() if cut.backbone == backbone}

    def _begin_probing(self, backbone: str) -> None:
        self._probed.add(backbone)
        self._executor.start(
            Probing(
                key=backbone,
                cuts=tuple(self.space.cuts_of(backbone)),
                upcoming=self._upcoming(backbone),
                is_alone=self._alone == backbone,
            )
        )

    def _take(self, key: int | str, report: Report) -> Iterator[Event]:
        """Handle a worker's report."""
        if isinstance(key, str):
            yield from self._take_probing(key, report)
            return
        running = self._under_way[key]
        match report:
            case EpochResult():
                yield from self._take_epoch(running, report)
            case Ended():
                yield from self._end(running, TrialState.COMPLETE)
            case Lost():
                yield from self._lose(running, report.reason)
            case Failed():
                yield from self._fail(running, report)

    def _take_epoch(self, running: _RunningTrial, result: EpochResult) -> Iterator[Event]:
        number, epochs = running.trial.number, self.tasks[running.point.cut.backbone].recipe.epochs
        running.results.append(result)
        with deferred():
            if result.epoch not in running.reported:
                running.trial.report(result.score, step=result.epoch)
        yield EpochDone(number=number, result=result, is_again=result.epoch in running.reported)
        self.asked = self._lease.renew()
        # Optuna judges the last epoch reported; one that is reported again was judged before.
        is_new = max(running.reported, default=0) <= result.epoch < epochs
        if _is_weak(running, result.epoch, judge=is_new and running.origin != "confirm"):
            self._executor.answer(number, go_on=False)
            yield from self._end(running, TrialState.PRUNED, f"pruned after epoch {result.epoch}")
        elif self._is_to_wait(running, result.epoch):
            yield from self._pause(running)
        elif (self.asked == "epoch" or self._limits.is_time_up()) and result.epoch < epochs:
            # As after an interrupt, it stays RUNNING, with its checkpoint.
            self._executor.answer(number, go_on=False)
            del self._under_way[number]
        else:
            self._executor.answer(number, go_on=True)

    def _is_to_wait(self, running: _RunningTrial, epoch: int) -> bool:
        """Return whether a trial is to wait, as something else promises more."""
        is_last = epoch >= self.tasks[running.point.cut.backbone].recipe.epochs
        resumed_after = running.trial.user_attrs.get(TrialKey.RESUMED, 0)
        if is_last or epoch < max(running.reported, default=0) or epoch <= resumed_after:
            return False
        if self._chooser is None or running.is_kept or running.origin == "confirm":
            return False
        return self._chooser.should_pause(running.trial.number)

    def _pause(self, running: _RunningTrial) -> Iterator[Event]:
        """Leave a trial with its checkpoint; for Optuna, which has no such state, it is RUNNING."""
        number, last = running.trial.number, running.results[-1]
        with deferred():
            set_trial_attrs(running.trial, {**_spent(running), TrialKey.PAUSED: last.epoch})
        self._executor.answer(number, go_on=False)
        del self._under_way[number]
        yield TrialPaused(number=number, point=running.point, epoch=last.epoch, score=last.score)

    def _lose(self, running: _RunningTrial, reason: str) -> Iterator[Event]:
        """Put a trial that has lost its worker back in line; fail it if that has happened too often."""
        with deferred():
            reasons = [*running.trial.user_attrs.get(TrialKey.LOST, []), reason]
            running.trial.set_user_attr(TrialKey.LOST, reasons)
        if len(reasons) > MOST_LOST:
            yield from self._end(running, TrialState.FAIL, _lost_often(reasons))
            return
        self._set_aside(running)
        self._to_go_on.append(running)
        yield TrialLost(number=running.trial.number, reason=reason, n_lost=len(reasons))

    def _set_aside(self, running: _RunningTrial) -> None:
        """Detach a trial from its worker; it is to go on from its checkpoint."""
        del self._under_way[running.trial.number]
        running.reported |= {result.epoch for result in running.results}
        running.results = []

    def _fail(self, running: _RunningTrial, failed: Failed) -> Iterator[Event]:
        number = running.trial.number
        if failed.kind in ("system", "device"):
            raise StudyError(
                f"Trial {number} stopped: {failed.reason}. Mend that and run the same command again."
            ) from failed.error
        if failed.kind == "diverged":
            running.trial.set_user_attr(TrialKey.DIVERGED, True)
            yield from self._end(running, TrialState.PRUNED, failed.reason)
        elif failed.kind == "memory" and self._may_do_alone(number):
            self._set_aside(running)
            self._later_alone.append(running)
            n_lost = len(running.trial.user_attrs.get(TrialKey.LOST, []))
            yield TrialLost(number=number, reason=f"{failed.reason}; later, alone", n_lost=n_lost)
        elif failed.kind == "memory":
            yield from self._end(running, TrialState.FAIL, failed.reason)
        else:
            self._tell(running.trial, TrialState.FAIL, failed.reason, _spent(running))
            raise failed.error

    def _may_do_alone(self, key: int | str) -> bool:
        """Return whether what ran out of memory beside others may have enough alone."""
        return self._executor.shares_memory and self._alone != key

    def _take_probing(self, backbone: str, report: Report) -> Iterator[Event]:
        if isinstance(report, TransferCurve):
            with deferred():
                self.study.set_user_attr(curve_key(backbone), asdict(report))
            self._probed.remove(backbone)
            yield CurveDrawn(backbone=backbone, curve=report)
        elif isinstance(report, Lost) and self._lost_probing[backbone] < MOST_LOST:
            self._lost_probing[backbone] += 1
            self._probed.remove(backbone)
            self._to_probe.append(backbone)
        elif isinstance(report, Failed) and report.kind == "memory" and self._may_do_alone(backbone):
            self._probed.remove(backbone)
            self._later_alone.append(backbone)
        elif isinstance(report, Failed) and report.kind == "bug":
            raise report.error
        else:
            assert isinstance(report, Failed | Lost)
            raise StudyError(
                f"The frozen features could not be probed: {report.reason}. "
                "Mend that and run the same command again."
            )

    def _end(self, running: _RunningTrial, state: TrialState, reason: str | None = None) -> Iterator[Event]:
        number, score = running.trial.number, running.results[-1].score if running.results else None
        self._tell(running.trial, state, reason, _spent(running), score)
        del self._under_way[number]
        yield TrialEnded(number=number, point=running.point, state=state, score=score, reason=reason)

    def end_paused(self, reason: str) -> Iterator[Event]:
        """End the trials that wait, as nobody will take them up again: PRUNED, with what they have."""
        for stored in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if is_paused(stored):
                running = self._prepared(Trial(self.study, trial_id_of(self.study, stored.number)))
                epoch, score = max(stored.intermediate_values.items())
                why, state = f"pruned after epoch {epoch}: {reason}", TrialState.PRUNED
                self._tell(running.trial, state, why, {})
                yield TrialEnded(
                    number=stored.number, point=running.point, state=state, score=score, reason=why
                )

    def _tell(
        self,
        trial: Trial,
        state: TrialState,
        reason: str | None,
        spent: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        with deferred():
            set_trial_attrs(trial, {**spent, **({} if reason is None else {TrialKey.REASON: reason})})
            self.study.tell(trial, score if state == TrialState.COMPLETE else None, state=state)
            # The trial has ended: a checkpoint that cannot be removed does no harm.
            with contextlib.suppress(OSError):
                self._checkpoint(trial).unlink(missing_ok=True)

    def _checkpoint(self, trial: Trial) -> Path:
        return self._folder / f"trial-{trial.number}.pt"


def _spent(running: _RunningTrial) -> dict[str, Any]:
    """Return what a trial's user attributes say of its training: each epoch, and sums over them."""
    sums = (TrialKey.MACS, TrialKey.PLAIN_MACS, TrialKey.KEPT_BYTES, TrialKey.READ_BYTES)
    return {
        TrialKey.RESULTS: [asdict(result) for result in running.results],
        **{key: sum(getattr(result, key) for result in running.results) for key in sums},
        TrialKey.SECONDS: round(sum(result.seconds for result in running.results), 3),
    }


def _lost_often(reasons: Sequence[str]) -> str:
    return f"lost its worker {counted(len(reasons), 'time')}: {reasons[-1]}"


def _is_weak(running: _RunningTrial, epoch: int, *, judge: bool) -> bool:
    """Return whether a trial is to be pruned; the verdict is stored, as a pruner's second one may differ.

    Trials that are never pruned are judged too: halving compares only with trials that were.
    """
    trial = running.trial
    with deferred():
        weak = trial.user_attrs.get(TrialKey.PRUNE_AT) == epoch or (
            judge and trial.should_prune() and not running.is_kept
        )
        if weak:
            trial.set_user_attr(TrialKey.PRUNE_AT, epoch)
    return bool(weak)
