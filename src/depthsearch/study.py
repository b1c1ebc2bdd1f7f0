"""The coordinator: it alone owns an Optuna study, asks, tells and prunes.

The Optuna study is the only state. A trial found RUNNING at the start is an orphan of a stopped process and
is adopted under its own number, from its checkpoint if there is one. The suggestion of trial *n* is seeded
from (seed, n), so that a resumed study neither repeats itself nor differs from one that was never stopped.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.pruners import NopPruner
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from depthsearch.aims import read_cost_aim, store_aim
from depthsearch.augmentation import USUAL
from depthsearch.cuts import Cut
from depthsearch.devices import is_out_of_memory, release_memory
from depthsearch.errors import DivergedError, SettingsError, StudyError
from depthsearch.evidence import promising
from depthsearch.interrupts import deferred
from depthsearch.lease import lease
from depthsearch.objective import (
    Task,
    TransferCurve,
    full_fine_tune_macs,
    note_cost,
    tasks_of,
    train_point,
    transfer_curve,
)
from depthsearch.sampling import make_pruner, make_sampler
from depthsearch.space import BACKBONE, FIXABLE, Point, SearchSpace, cut_parameter
from depthsearch.stored import StoredBackbone, curve_key
from depthsearch.training import METRICS, EpochResult, seed_from
from depthsearch.trials import read_trials

__all__ = [
    "ConfirmationPlanned",
    "CurveDrawn",
    "EpochDone",
    "Event",
    "TrialEnded",
    "TrialStarted",
    "confirm",
    "count_exhaustive",
    "first_settings",
    "open_storage",
    "open_study",
    "search",
]

ANCHOR_DEPTHS = (0.25, 0.5, 0.75, 0.9)
# Good learning rates fall as more layers learn; anchors take theirs from between these two.
ANCHOR_LEARNING_RATES = (3e-4, 3e-3)
# Sets the seeds of confirmation apart from those of trials.
CONFIRMATION = 0x5EED
REPEATS = ("confirms", "seed", "resample")
# Trials of these origins run to their last epoch: the report compares with them, or all are to be compared.
NEVER_STOPPED = ("baseline", "exhaustive")
# What a setting was before it was stored: studies from then go on.
BEFORE: dict[str, Any] = {
    "search": "adaptive",
    "head": "pool",
    "head depth": 1,
    "dropout": 0.0,
    "weight decay": 0.01,
    "optimizer": "adamw",
    "momentum": 0.9,
    "balance": "none",
    "augment": USUAL,
}
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A trial begins, or goes on after an interruption."""

    number: int
    point: Point
    origin: str
    adopted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone:
    """A trial's epoch is reported."""

    number: int
    result: EpochResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """A trial is told: its state, its last score, and why it ended early."""

    number: int
    point: Point
    state: TrialState
    score: float | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveDrawn:
    """The frozen features of a backbone were probed over depth, before the first trial."""

    backbone: str
    curve: TransferCurve


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationPlanned:
    """Cuts will be trained again, each with several seeds; some trainings may have been done before."""

    cuts: tuple[Cut, ...]
    n_seeds: int
    n_trainings: int


Event = CurveDrawn | ConfirmationPlanned | TrialStarted | EpochDone | TrialEnded


def open_storage(url: str) -> RDBStorage:
    """Open or create the database that studies live in.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///depthsearch.db``.

    Raises:
        SettingsError: If there is no such database or it cannot be used.
    """
    shown = without_password(url)
    if "://" not in url:
        raise SettingsError(f"--storage {url!r} is no database URL: give sqlite:///{url} or another.")
    # SQLite gives up on a lock after 5 s by default; a dashboard or a backup may hold it longer.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(f"--storage {shown} cannot be opened: {reason}") from error


def without_password(url: str) -> str:
    """Hide the password of a database URL, for output."""
    return re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", url)


def open_study(
    storage: RDBStorage,
    name: str,
    task: Task | Mapping[str, Task],
    space: SearchSpace,
    provenance: Mapping[str, Any],
    *,
    exhaustive: bool = False,
    learning_rates: Sequence[float] = (),
) -> optuna.Study:
    """Create a study, or open the one of that name if it searches the same.

    Args:
        storage: Where it lives.
        name: Its name.
        task: What is trained; with several backbones one for each, by the space's names for them, alike but
            for the backbone and its images' size.
        space: What is searched.
        provenance: What else to keep with a new study: versions, where data and weights come from.
        exhaustive: Whether its first trials are every candidate, once, each trained to its last epoch; else
            they are the ends and a spread over depth.
        learning_rates: Of an exhaustive search: every candidate once at each, all within the space's range.
            None: each at the sensible one of its depth.

    Raises:
        StudyError: If the study of that name has other settings, naming each difference.
    """
    tasks = tasks_of(task)
    direction = StudyDirection[METRICS[_any(tasks).recipe.metric].upper()]
    settings = {**_settings(tasks, space), "search": _named_search(exhaustive, learning_rates)}
    names = optuna.get_all_study_names(storage)
    if name in names:
        study = optuna.load_study(study_name=name, storage=storage)
        _refuse_differences(study, name, settings, direction)
    else:
        with deferred():
            study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    with deferred():
        if "settings" not in study.user_attrs:
            _describe_study(study, tasks, space, provenance)
            study.set_user_attr("settings", settings)
        _enqueue_first(study, space, exhaustive=exhaustive, learning_rates=learning_rates)
    return study


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
) -> Generator[Event, None, None]:
    """Run trials until the study has as many as wanted, and yield what happens.

    An interrupt (KeyboardInterrupt) leaves the running trial for the next call to go on with. Close the
    generator to stop likewise.

    Args:
        study: From `open_study`.
        task: What to train, as given to `open_study`.
        space: What to search.
        n_trials: How many finished trials the study is to have in total.
        sampler: Resolved name, see `sampling.resolve`.
        pruner: Resolved name.
        checkpoints: Folder for the checkpoints of running trials.
        cost: The second aim, one of `aims.COSTS`; None: the score alone. It is kept in the study, which may
            go on with another: each trial stores both costs.

    Raises:
        StudyError: If another coordinator runs this study.
    """
    tasks = tasks_of(task)
    recipe = _any(tasks).recipe
    study.pruner = make_pruner(pruner, recipe.epochs, cost)
    with lease(study) as renew:
        with deferred():
            store_aim(study, cost)
        for backbone in space.backbones:
            if curve_key(backbone) not in study.user_attrs and len(space.cuts_of(backbone)) > 1:
                yield _draw_curve(study, tasks[backbone], space, backbone, n_trials=n_trials)
        run = _Runner(study, tasks, space, checkpoints, renew, n_trials=n_trials)
        for orphan in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.sampler = make_sampler(sampler, seed_from(recipe.seed, orphan.number), cost)
            yield from run(Trial(study, orphan._trial_id), adopted=True)
        while count_searched(study.get_trials(deepcopy=False, states=FINISHED)) < n_trials:
            with deferred():
                number = len(study.get_trials(deepcopy=False))
                study.sampler = make_sampler(sampler, seed_from(recipe.seed, number), cost)
                trial = study.ask()
            yield from run(trial)


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
    with lease(study) as renew:
        run = _Runner(study, tasks_of(task), space, checkpoints, renew)
        for orphan in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            yield from run(Trial(study, orphan._trial_id), adopted=True)
        with deferred():
            plan = _plan_confirmation(study, n_cuts=n_cuts, n_seeds=n_seeds, resample=resample)
            _drop_others(study, plan)
            _enqueue_confirmation(study, plan)
            waiting = _waiting_to_confirm(study)
        cuts = {t.number: t.cut for t in read_trials(study)}
        yield ConfirmationPlanned(
            cuts=tuple(cuts[number] for number in plan["trials"]), n_seeds=n_seeds, n_trainings=len(waiting)
        )
        for trial in waiting:
            with deferred():
                # Not study.ask: that would start whatever waits, trials of the search first.
                study._storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
            yield from run(Trial(study, trial._trial_id))


def _plan_confirmation(study: optuna.Study, *, n_cuts: int, n_seeds: int, resample: bool) -> dict[str, Any]:
    """Choose the trials to repeat; the same ones as before where the search has not gone on since."""
    finished = study.get_trials(deepcopy=False, states=FINISHED)
    chosen_by = {"after": count_searched(finished), "cuts": n_cuts, "cost": read_cost_aim(study)}
    before = study.user_attrs.get("confirmation", {})
    if all(before.get(key) == value for key, value in chosen_by.items()):
        numbers = before["trials"]
    else:
        numbers = [trial.number for trial in promising(study, n_cuts)]
    plan = {**chosen_by, "trials": numbers, "seeds": n_seeds, "resample": resample}
    study.set_user_attr("confirmation", plan)
    return plan


def _enqueue_confirmation(study: optuna.Study, plan: Mapping[str, Any]) -> None:
    """Enqueue what is planned and not there yet, seed by seed: stopped early, all have as many."""
    trials = study.get_trials(deepcopy=False)
    there = {_repeats(trial) for trial in trials if not trial.user_attrs.get("dropped")}
    for seed in range(plan["seeds"]):
        for number in plan["trials"]:
            wanted = (number, seed, plan["resample"])
            if wanted not in there:
                attributes = dict(zip(REPEATS, wanted, strict=True))
                study.enqueue_trial(trials[number].params, user_attrs={"origin": "confirm", **attributes})


def _drop_others(study: optuna.Study, plan: Mapping[str, Any]) -> None:
    """End what an earlier plan has left waiting and this one does not want: nobody shall train it."""
    for trial in _waiting_to_confirm(study):
        number, seed, resample = _repeats(trial)
        wanted = number in plan["trials"] and seed < plan["seeds"] and resample == plan["resample"]
        if not wanted:
            study._storage.set_trial_user_attr(trial._trial_id, "dropped", True)
            study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)


def _waiting_to_confirm(study: optuna.Study) -> list[FrozenTrial]:
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return [trial for trial in waiting if trial.user_attrs.get("origin") == "confirm"]


def _repeats(trial: FrozenTrial) -> tuple[Any, ...]:
    """Say which trial a trial repeats, with which seed, and whether on another division."""
    return tuple(trial.user_attrs.get(key) for key in REPEATS)


def _draw_curve(
    study: optuna.Study, task: Task, space: SearchSpace, backbone: str, *, n_trials: int
) -> CurveDrawn:
    cuts = space.cuts_of(backbone)
    upcoming = upcoming_trials(study.get_trials(deepcopy=False), space, n_trials=n_trials)
    curve = transfer_curve(task, cuts, upcoming={cut: upcoming[cut] for cut in cuts})
    with deferred():
        study.set_user_attr(curve_key(backbone), asdict(curve))
    return CurveDrawn(backbone=backbone, curve=curve)


def _any(tasks: Mapping[str, Task]) -> Task:
    """Give one of the tasks, for what is the same in all."""
    return next(iter(tasks.values()))


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs the trials of a study whose lease is held."""

    study: optuna.Study
    tasks: Mapping[str, Task]
    space: SearchSpace
    checkpoints: Path
    renew: Callable[[], None]
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
        """Train one trial to its end and tell it."""
        study = self.study
        with deferred():
            point = self.space.suggest(trial)
            note_cost(trial, self.tasks[point.cut.backbone], point)
        task, seed = self._task(trial, point)
        origin = str(trial.user_attrs.get("origin", "sampler"))
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
                    self.renew()
                    if result.epoch not in reported:
                        trial.report(result.score, step=result.epoch)
                yield EpochDone(number=trial.number, result=result)
                # Optuna judges the last epoch reported; one that is only told again was judged before.
                judge = last_reported <= result.epoch < task.recipe.epochs and origin != "confirm"
                if _is_weak(trial, result.epoch, judge=judge, is_kept=origin in NEVER_STOPPED):
                    state, reason = TrialState.PRUNED, f"pruned after epoch {result.epoch}"
                    break
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


def count_searched(trials: Iterable[FrozenTrial]) -> int:
    """Count the search's own trials, those that confirm left out."""
    return sum(trial.user_attrs.get("origin") != "confirm" for trial in trials)


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


def _settings(tasks: Mapping[str, Task], space: SearchSpace) -> dict[str, Any]:
    """All that makes two trials comparable: a study does not go on with any of it changed.

    What differs from backbone to backbone is a list.
    """
    each = [_settings_of(task, space, space.cuts_of(backbone)) for backbone, task in tasks.items()]
    merged = {key: [settings[key] for settings in each] for key in each[0]}
    return {
        key: values[0] if all(v == values[0] for v in values) else values for key, values in merged.items()
    }


def _settings_of(task: Task, space: SearchSpace, cuts: Sequence[Cut]) -> dict[str, Any]:
    recipe = asdict(task.recipe)
    for searched in ("learning_rate", "weight_decay", "optimizer"):
        recipe.pop(searched)
    preprocessing = asdict(task.backbone.preprocessing)
    ranges = asdict(space)
    ranges.pop("cuts")
    ranges.pop("fixed")
    usual = Point(cut=cuts[0], learning_rate=space.learning_rate[0])
    values = {name: getattr(usual, name) for name in FIXABLE} | dict(space.fixed)
    fixed = {name: value for name, value in values.items() if ranges[name] is None}
    return {
        "backbone": task.backbone.name,
        "weights": f"{task.backbone.weights} [{task.backbone.digest[:12]}]",
        "data": f"{task.data.name} [{task.data.fingerprint[:12]}]",
        "image size": preprocessing.pop("image_size"),
        "preprocessing": ", ".join(f"{key} {value}" for key, value in preprocessing.items()),
        "precision": task.device.precision,
        "head": task.backbone.head,
        "cuts": f"{len(cuts)} from {cuts[0].name} to {cuts[-1].name} "
        f"[{seed_from(*(ord(c) for cut in cuts for c in cut.name))}]",
        **{f"space: {key}": list(v) if isinstance(v, tuple) else v for key, v in ranges.items()},
        **{key.replace("_", " "): value for key, value in {**fixed, **recipe}.items()},
    }


def _refuse_differences(
    study: optuna.Study, name: str, settings: Mapping[str, Any], direction: StudyDirection
) -> None:
    stored = study.user_attrs.get("settings")
    if stored is None and (study.get_trials(deepcopy=False) or study.directions != [direction]):
        raise StudyError(f"Study {name!r} was not made by depthsearch. Give another --name.")
    there, here = {**BEFORE, **(stored or settings)}, {**BEFORE, **settings}
    differences = [
        f"{key} is {there.get(key)!r} there, {here.get(key)!r} here"
        for key in {**there, **here}
        if _content(there.get(key)) != _content(here.get(key))
    ]
    if differences:
        raise StudyError(f"Study {name!r} is another: {'; '.join(differences)}. Give another --name.")


def _content(value: Any) -> Any:
    """Take the fingerprint of a setting that has one: a file or folder may be renamed or cached since."""
    if isinstance(value, list):
        return [_content(part) for part in value]
    found = re.search(r"\[(\w+)\]$", value) if isinstance(value, str) else None
    return found[1] if found else value


def _describe_study(
    study: optuna.Study, tasks: Mapping[str, Task], space: SearchSpace, provenance: Mapping[str, Any]
) -> None:
    data = _any(tasks).data
    study.set_user_attr("checkpoint_id", uuid.uuid4().hex)
    study.set_user_attr("cuts", [asdict(cut) for cut in space.cuts])
    study.set_user_attr("backbones", {key: asdict(_stored(task)) for key, task in tasks.items()})
    study.set_user_attr(
        "data",
        {
            "name": data.name,
            "source": data.source,
            "fingerprint": data.fingerprint,
            "classes": list(data.classes),
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            **({} if data.columns.is_plain else {"samples": data.columns.as_json()}),
            "skipped": list(data.skipped),
            "duplicates": [list(group) for group in data.duplicates],
        },
    )
    study.set_user_attr("recipe", asdict(_any(tasks).recipe))
    study.set_user_attr("provenance", dict(provenance))


def _stored(task: Task) -> StoredBackbone:
    return StoredBackbone(
        name=task.backbone.name,
        weights=task.backbone.weights,
        digest=task.backbone.digest,
        preprocessing=asdict(task.backbone.preprocessing),
        data_fingerprint=task.data.fingerprint,
        full_fine_tune_macs=full_fine_tune_macs(task),
    )


def _enqueue_first(
    study: optuna.Study, space: SearchSpace, *, exhaustive: bool, learning_rates: Sequence[float]
) -> None:
    """Enqueue the two baselines of each backbone and a spread over depth, or every candidate, once."""
    if study.user_attrs.get("anchors"):
        return
    for params, origin in first_settings(space, exhaustive=exhaustive, learning_rates=learning_rates):
        study.enqueue_trial(params, user_attrs={"origin": origin}, skip_if_exists=True)
    study.set_user_attr("anchors", True)


def first_settings(
    space: SearchSpace, *, exhaustive: bool = False, learning_rates: Sequence[float] = ()
) -> list[tuple[dict[str, Any], str]]:
    """Choose what a study tries first, and say why: a ``baseline``, an ``anchor``, or ``exhaustive``.

    Head only and everything of each backbone come first, then a spread over depth, the backbones in turn;
    or all other candidates, from the head on.
    """
    first = [(*each, "baseline") for depth in (1, 0) for each in _at_depth(space, depth)]
    if exhaustive:
        rest = [(cut.backbone, cut.index, "exhaustive") for cut in reversed(space.cuts)]
    else:
        rest = [(*each, "anchor") for depth in ANCHOR_DEPTHS for each in _at_depth(space, depth)]
    baselines = {each[:2] for each in first}
    chosen = dict.fromkeys([*first, *(each for each in rest if each[:2] not in baselines)])
    changes: list[dict[str, Any]] = [{"learning_rate": rate} for rate in learning_rates] or [{}]
    return [({**_anchor(space, name, i), **change}, why) for name, i, why in chosen for change in changes]


def _at_depth(space: SearchSpace, depth: float) -> list[tuple[str, int]]:
    """Find the cut of each backbone at a depth in [0, 1], by backbone and index."""
    return [(name, round(depth * (len(space.cuts_of(name)) - 1))) for name in space.backbones]


def count_exhaustive(space: SearchSpace, learning_rates: Sequence[float] = ()) -> int:
    """Count the first trials of an exhaustive search."""
    return len(space.cuts) * max(1, len(learning_rates))


def _named_search(exhaustive: bool, learning_rates: Sequence[float]) -> str:
    rates = f", learning rates {', '.join(map(str, learning_rates))}" if learning_rates else ""
    return f"exhaustive{rates}" if exhaustive else "adaptive"


def _anchor(space: SearchSpace, backbone: str, index: int) -> dict[str, Any]:
    """Give the sensible setting at a depth: a linear head, a smaller learning rate the more layers learn."""
    cuts = space.cuts_of(backbone)
    low, high = ANCHOR_LEARNING_RATES
    # Where there is one cut, it says nothing of how much is learned anew: the middle.
    depth = index / (len(cuts) - 1) if len(cuts) > 1 else 0.5
    learning_rate = low * (high / low) ** depth
    point = Point(cut=cuts[index], learning_rate=learning_rate)
    params: dict[str, Any] = {}
    for name, distribution in space.distributions(backbone).items():
        named: dict[str, Any] = {BACKBONE: backbone, cut_parameter(backbone): index}
        value = named[name] if name in named else getattr(point, name)
        if isinstance(distribution, CategoricalDistribution):
            params[name] = value if value in distribution.choices else distribution.choices[0]
        elif isinstance(distribution, IntDistribution | FloatDistribution):
            params[name] = min(max(value, distribution.low), distribution.high)
    return params
