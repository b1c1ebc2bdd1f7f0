"""The status of a study, read from its storage alone: who runs it, what runs, what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Literal, get_args

import optuna

from depthsearch.errors import StudyError
from depthsearch.models.cuts import Cut
from depthsearch.options.reproduction import study_command
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import Answer, Summary, cut_json, summarize
from depthsearch.results.trials import ENDED, State as TrialState, StoredTrial, UnsetTrial
from depthsearch.search.origins import Origin
from depthsearch.study.choosing.confirmation import count_searched
from depthsearch.study.control import trials_in_total
from depthsearch.study.lease import Holder, asked_of, clock_of, holder_of

State = Literal["running", "stopping", "interrupted", "complete", "empty", "foreign"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that is begun and not ended.

    Attributes:
        number: Optuna's.
        origin: Why it is there.
        cut: Where; None at its very start.
        epoch: Epochs done.
        epochs: Of a trial that is not pruned.
    """

    number: int
    origin: Origin
    cut: Cut | None
    epoch: int
    epochs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a study stands.

    Attributes:
        study: Its name.
        state: ``running``; ``stopping``: running and asked to stop; ``interrupted``: no process runs it, and
            something is left; ``complete``; ``empty``: nothing of it has begun; ``foreign``: it cannot be
            read, as it is not depthsearch's, of another format or damaged, and nothing below is known.
        holder: The process that runs it, or trains its answer; None: there is none.
        backbone: timm's name; of several all names.
        data: Name of the images.
        metric: What validation is scored with.
        trials_done: Finished trials of the search.
        trials_wanted: How many it is to have, by its latest start; None where nothing says it.
        trials_at_most: Whether that is only a bound, as the search ends by itself.
        confirmed: Finished trainings of the confirmation.
        confirming: How many it has in all; None before it is planned, and where none is wanted.
        guesses_waiting: Settings that people have enqueued and that have not begun.
        answer: So far; None before a trial is complete.
        running: Trials that have begun and not ended: one for each worker, or what was left behind.
        full_fine_tunes: Cost in trainings of everything once.
        seconds: Spent on trials and probes.
        seconds_left: Of the search, and of the confirmation once that is planned, from the mean of ended
            trials, by all workers together; None where unknown.
        command: Runs it again or goes on with it, without its storage; None where its options are not stored.
    """

    study: str
    state: State
    holder: Holder | None = None
    backbone: str | None = None
    data: str | None = None
    metric: str | None = None
    trials_done: int = 0
    trials_wanted: int | None = None
    trials_at_most: bool = False
    confirmed: int = 0
    confirming: int | None = None
    guesses_waiting: int = 0
    answer: Answer | None = None
    running: tuple[Running, ...] = ()
    full_fine_tunes: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    command: str | None = None


def status(study: optuna.Study, stored: StoredStudy | None = None, summary: Summary | None = None) -> Status:
    """Return where a study stands; only reads, while it runs or not.

    Args:
        study: Which.
        stored: As it was read, where that is at hand.
        summary: Likewise.
    """
    try:
        stored = StoredStudy.read(study) if stored is None else stored
    except StudyError:
        return Status(study=study.study_name, state="foreign")
    summary = summarize(stored) if summary is None else summary
    trials = stored.every_trial
    again = [t for t in trials if t.origin == "confirm" and not getattr(t, "is_dropped", False)]
    holder = holder_of(stored.lease, clock_of(study))
    started = any(trial.state != "waiting" for trial in trials) or summary.cost.seconds > 0
    n_done, n_wanted = _n_done(stored), _n_wanted(stored)
    return Status(
        study=stored.name,
        state=_state(stored, holder, started=started),
        holder=holder,
        backbone=summary.backbone,
        data=summary.data,
        metric=summary.metric,
        trials_done=n_done,
        trials_wanted=n_wanted,
        trials_at_most=stored.wanted.at_most,
        confirmed=sum(trial.state in ENDED for trial in again),
        confirming=len(again) or None,
        guesses_waiting=sum(t.state == "waiting" and t.origin == "guess" for t in trials),
        answer=summary.answer,
        running=_running(stored),
        full_fine_tunes=summary.cost.full_fine_tunes,
        seconds=summary.cost.seconds,
        seconds_left=_seconds_left(stored),
        command=None
        if stored.options is None
        else study_command(
            stored.options, name=stored.name, n_trials=max(1, n_wanted or n_done), is_short=True
        ),
    )


def is_something_left(stored: StoredStudy) -> bool:
    """Return whether a study is to do more: trials that have begun or are wanted, or a confirmation."""
    trials, n_done, n_wanted = stored.every_trial, _n_done(stored), _n_wanted(stored)
    is_planned = stored.plan is not None and stored.plan.after == n_done
    return (
        any(trial.state == "running" for trial in trials)
        or any(trial.state == "waiting" and trial.origin == "confirm" for trial in trials)
        or (n_wanted is not None and n_done < n_wanted)
        or (stored.wanted.confirm and not is_planned and any(t.state == "complete" for t in trials))
    )


def _n_done(stored: StoredStudy) -> int:
    """Count the finished trials of the search."""
    return count_searched(trial for trial in stored.every_trial if trial.state in ENDED)


def _n_wanted(stored: StoredStudy) -> int | None:
    """Count the trials that a study is to have in all; None where nothing says it."""
    if stored.wanted.trials is None:
        return None
    origins = (trial.origin for trial in stored.every_trial)
    return trials_in_total(stored.wanted.trials, origins, is_exhaustive=stored.is_exhaustive)


def _state(stored: StoredStudy, holder: Holder | None, *, started: bool) -> State:
    if holder is not None:
        return "running" if asked_of(stored.lease, holder.token) is None else "stopping"
    if not started:
        return "empty"
    return "interrupted" if is_something_left(stored) else "complete"


def _running(stored: StoredStudy) -> tuple[Running, ...]:
    return tuple(
        Running(
            number=trial.number,
            origin=trial.origin,
            cut=trial.cut if isinstance(trial, StoredTrial) else None,
            epoch=_epochs_of(trial),
            epochs=stored.recipe.epochs,
        )
        for trial in stored.every_trial
        if trial.state == "running"
    )


def _epochs_of(trial: StoredTrial | UnsetTrial) -> int:
    return max(trial.scores, default=0) if isinstance(trial, StoredTrial) else 0


def _seconds_left(stored: StoredStudy) -> float | None:
    """Estimate the time left: search and confirmation each at the mean of what they have ended.

    A confirmation is never pruned, so that before any of it has ended it counts as complete trials do.
    """
    if not is_something_left(stored):
        return 0.0
    if stored.wanted.at_most:
        # It ends by itself: nobody knows when.
        return None
    trials, n_wanted = stored.every_trial, _n_wanted(stored)
    searched = [trial for trial in trials if trial.origin != "confirm"]
    again = [trial for trial in trials if trial.origin == "confirm"]
    n_search = 0 if n_wanted is None else max(0, n_wanted - _n_done(stored))
    n_again = sum(trial.state not in ENDED for trial in again)
    each = _mean_seconds(searched, ("complete", "pruned"))
    each_again = _mean_seconds(again, ("complete",))
    each_again = _mean_seconds(searched, ("complete",)) if each_again is None else each_again
    if (n_search and each is None) or (n_again and each_again is None) or n_wanted is None:
        return None
    seconds_left = 0.0
    for n_left, seconds, some in ((n_search, each, searched), (n_again, each_again, again)):
        begun = sum(_epochs_of(trial) / stored.recipe.epochs for trial in some if trial.state == "running")
        # Of the last ones each has a worker, and further workers are idle.
        seconds_left += (
            max(0.0, n_left - begun) * (seconds or 0.0) / max(1, min(stored.wanted.workers, n_left))
        )
    return seconds_left


def _mean_seconds(trials: Sequence[StoredTrial | UnsetTrial], states: Sequence[TrialState]) -> float | None:
    seconds = [t.seconds for t in trials if isinstance(t, StoredTrial) and t.state in states]
    return mean(seconds) if seconds else None


def status_json(status: Status) -> dict[str, Any]:
    """Return a status as plain values."""
    values = asdict(status)
    answer, holder = status.answer, status.holder
    return {
        **values,
        "holder": None if holder is None else holder_json(holder),
        "answer": None if answer is None else {**values["answer"], "cut": cut_json(answer.cut)},
        "running": [
            {**each, "cut": None if running.cut is None else cut_json(running.cut)}
            for running, each in zip(status.running, values["running"], strict=True)
        ],
    }


def holder_json(holder: Holder) -> dict[str, Any]:
    """Return the holder of a study's lease as plain values."""
    return {"pid": holder.pid, "host": holder.host, "doing": holder.doing}
