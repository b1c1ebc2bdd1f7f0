"""The status of a study, read from its storage alone: who runs it, what runs, what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any, Literal, get_args

import optuna
from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions
from depthsearch.results.evidence import Evidence
from depthsearch.results.stored import read_backbones, why_unreadable
from depthsearch.results.summary import Summary, cut_json, summarize
from depthsearch.results.trials import TrialSummary
from depthsearch.search.origins import Origin, origin_of
from depthsearch.study.confirmation import FINISHED, count_searched, waiting_to_confirm
from depthsearch.study.control import GUESS, WANTED, trials_in_total
from depthsearch.study.lease import Holder, asked_of, clock_of, holder_of

__all__ = [
    "STATES",
    "Answer",
    "Running",
    "Status",
    "holder_json",
    "is_something_left",
    "status",
    "status_json",
]

State = Literal["running", "stopping", "interrupted", "complete", "empty", "foreign"]
STATES: tuple[State, ...] = get_args(State)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a study so far.

    Attributes:
        cut: Where.
        backbone: timm's name.
        score: Of one training, or the mean of several.
        standard_error: Of the mean; None with one training.
        n_trainings: Behind the score; more than one: confirmed.
        trial: Number of the trial that had the setting first.
    """

    cut: Cut
    backbone: str
    score: float | None
    standard_error: float | None
    n_trainings: int
    trial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that is begun and not ended.

    Attributes:
        number: Optuna's.
        origin: See `trials.TrialSummary`.
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
            something is left; ``complete``; ``empty``: nothing of it has begun; ``foreign``: depthsearch did
            not make it, or it is damaged, so that nothing below is known.
        holder: The process that runs it, or trains its answer; None: there is none.
        backbone: timm's name; of several all names.
        data: Name of the images.
        metric: What validation is scored with.
        trials_done: Finished trials of the search.
        trials_wanted: How many it is to have, by its latest start; None where an old study does not say.
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
    confirmed: int = 0
    confirming: int | None = None
    guesses_waiting: int = 0
    answer: Answer | None = None
    running: tuple[Running, ...] = ()
    full_fine_tunes: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    command: str | None = None


def status(study: optuna.Study, summary: Summary | None = None) -> Status:
    """Return where a study stands; only reads, while it runs or not.

    Args:
        study: The study.
        summary: Of it, if the caller has one; else it is made.
    """
    attributes = study.user_attrs
    if "settings" not in attributes or why_unreadable(study):
        return Status(study=study.study_name, state="foreign")
    trials = study.get_trials(deepcopy=False)
    summary = summarize(study) if summary is None else summary
    wanted, _ = _wanted(study, attributes)
    again = [t for t in trials if t.user_attrs.get("origin") == "confirm" and not t.user_attrs.get("dropped")]
    done = _n_done(trials)
    holder = holder_of(attributes, clock_of(study))
    started = any(trial.state != TrialState.WAITING for trial in trials) or summary.cost.seconds > 0
    is_left = is_something_left(study)
    state = _state(attributes, holder, started=started, is_left=is_left)
    return Status(
        study=study.study_name,
        state=state,
        holder=holder,
        backbone=summary.backbone,
        data=summary.data,
        metric=summary.metric,
        trials_done=done,
        trials_wanted=wanted,
        confirmed=sum(trial.state in FINISHED for trial in again),
        confirming=len(again) or None,
        guesses_waiting=sum(
            t.state == TrialState.WAITING and t.user_attrs.get("origin") == GUESS for t in trials
        ),
        answer=_answer(study, summary),
        running=_running(attributes, trials, summary),
        full_fine_tunes=summary.cost.full_fine_tunes,
        seconds=summary.cost.seconds,
        seconds_left=_seconds_left(
            trials,
            wanted,
            epochs=attributes["recipe"]["epochs"],
            n_workers=attributes.get(WANTED, {}).get("workers", 1),
            is_left=is_left,
        ),
        command=_command(study.study_name, attributes, wanted or done),
    )


def is_something_left(study: optuna.Study) -> bool:
    """Return whether a study is to do more: trials that have begun or are wanted, or a confirmation."""
    attributes, trials = study.user_attrs, study.get_trials(deepcopy=False)
    wanted, then_confirm = _wanted(study, attributes)
    done = _n_done(trials)
    is_planned = "confirmation" in attributes and attributes["confirmation"].get("after") == done
    return (
        any(trial.state == TrialState.RUNNING for trial in trials)
        or bool(waiting_to_confirm(study))
        or (wanted is not None and done < wanted)
        or (then_confirm and not is_planned and any(t.state == TrialState.COMPLETE for t in trials))
    )


def _n_done(trials: Sequence[FrozenTrial]) -> int:
    """Count the finished trials of the search."""
    return count_searched(trial for trial in trials if trial.state in FINISHED)


def _wanted(study: optuna.Study, attributes: Mapping[str, Any]) -> tuple[int | None, bool]:
    """Return how many trials a study is to have, and whether a confirmation is to follow."""
    options = (attributes.get("provenance") or {}).get("options") or {}
    # A study that was last searched before it kept this has what it was made with.
    before = {"trials": options.get("trials"), "confirm": bool(options.get("confirm"))}
    wanted = attributes.get(WANTED, before)
    n_trials = wanted["trials"]
    return None if n_trials is None else trials_in_total(study, n_trials), wanted["confirm"]


def _state(attributes: Mapping[str, Any], holder: Holder | None, *, started: bool, is_left: bool) -> State:
    if holder is not None:
        return "running" if asked_of(attributes, holder.token) is None else "stopping"
    if not started:
        return "empty"
    return "interrupted" if is_left else "complete"


def _answer(study: optuna.Study, summary: Summary) -> Answer | None:
    chosen: TrialSummary | None = summary.chosen
    if chosen is None:
        return None
    evidence: Evidence | None = summary.evidence
    confirmed = None if evidence is None else evidence.answer
    return Answer(
        cut=chosen.cut,
        backbone=read_backbones(study)[chosen.cut.backbone].name,
        score=chosen.score if confirmed is None else confirmed.mean,
        standard_error=None if confirmed is None else confirmed.standard_error,
        n_trainings=1 if confirmed is None else len(confirmed.scores),
        trial=chosen.number,
    )


def _running(
    attributes: Mapping[str, Any], trials: Sequence[FrozenTrial], summary: Summary
) -> tuple[Running, ...]:
    cuts = {trial.number: trial.cut for trial in summary.trials}
    return tuple(
        Running(
            number=trial.number,
            origin=origin_of(trial),
            cut=cuts.get(trial.number),
            epoch=max(trial.intermediate_values, default=0),
            epochs=attributes["recipe"]["epochs"],
        )
        for trial in trials
        if trial.state == TrialState.RUNNING
    )


def _seconds_left(
    trials: Sequence[FrozenTrial], wanted: int | None, *, epochs: int, n_workers: int, is_left: bool
) -> float | None:
    """Estimate the time left: search and confirmation each at the mean of what they have ended.

    A confirmation is never pruned, so that before any of it has ended it counts as complete trials do.
    """
    if not is_left:
        return 0.0
    searched = [trial for trial in trials if trial.user_attrs.get("origin") != "confirm"]
    again = [trial for trial in trials if trial.user_attrs.get("origin") == "confirm"]
    n_done = count_searched(trial for trial in trials if trial.state in FINISHED)
    n_search = 0 if wanted is None else max(0, wanted - n_done)
    n_again = sum(not trial.state.is_finished() for trial in again)
    each = _mean_seconds(searched, (TrialState.COMPLETE, TrialState.PRUNED))
    each_again = _mean_seconds(again, (TrialState.COMPLETE,))
    each_again = _mean_seconds(searched, (TrialState.COMPLETE,)) if each_again is None else each_again
    if (n_search and each is None) or (n_again and each_again is None) or wanted is None:
        return None
    seconds_left = 0.0
    for left, seconds, some in ((n_search, each, searched), (n_again, each_again, again)):
        running = [trial for trial in some if trial.state == TrialState.RUNNING]
        begun = sum(max(trial.intermediate_values, default=0) / epochs for trial in running)
        # Of the last ones each has a worker, and further workers are idle.
        seconds_left += max(0.0, left - begun) * (seconds or 0.0) / max(1, min(n_workers, left))
    return seconds_left


def _mean_seconds(trials: Sequence[FrozenTrial], states: Sequence[TrialState]) -> float | None:
    seconds = [trial.user_attrs.get("seconds", 0.0) for trial in trials if trial.state in states]
    return mean(seconds) if seconds else None


def _command(name: str, attributes: Mapping[str, Any], n_trials: int) -> str | None:
    options = (attributes.get("provenance") or {}).get("options")
    if not options:
        return None
    return study_command(StudyOptions.from_json(options), name=name, n_trials=max(1, n_trials))


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
