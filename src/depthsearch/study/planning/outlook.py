"""How long a study will take: its trainings counted in full fine-tunes, one of them timed.

A training at a cut that freezes the share p of the forward MACs costs 1 - p of a full fine-tune, and one pass
of the frozen layers over the images, whose features are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean

from depthsearch.models.cuts import Cut
from depthsearch.options.defaults import is_planned
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import SearchSpace
from depthsearch.study.events import CurveDrawn, EpochDone, Event, Note, TrialStarted
from depthsearch.text import duration
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.task import Task, any_of

# What is said of a study before its first trial has ended, if it takes longer.
LONG_SECONDS = 3600.0
# Of a training's epochs, where weak ones are pruned: most are stopped at a fifth to a half of them.
KEPT_EPOCHS = 0.5
# Full fine-tunes that a search takes which ends by itself, on recorded trainings: 2.6 to 3.3 where nobody
# bounds it, nearly all of a budget that is given, but of one of 10 no more than 7 to 9.
USUAL_COST, MOST_COST = 3.0, 9.0


def expected_seconds(
    options: StudyOptions,
    space: SearchSpace,
    fine_tune_seconds: Mapping[str, float],
    *,
    n_train: int,
    n_val: int,
) -> float:
    """Estimate how long the search and the confirmation of a study take, one training after the other.

    Args:
        options: With all defaults; the number of trials too.
        space: What is searched.
        fine_tune_seconds: One training of everything, by the space's names of the backbones.
        n_train: Training samples.
        n_val: Validation samples.
    """
    epochs = options.epochs or 1
    samples = epochs * (3 * n_train + n_val)
    one_pass = (min(options.views, epochs) * n_train + n_val) / samples

    def seconds(cut: Cut) -> float:
        p = cut.frozen_mac_share
        return fine_tune_seconds[cut.backbone] * (1 - p + p * one_pass)

    probes = sum(fine_tune_seconds[name] for name in space.backbones) * one_pass
    unit = next(iter(fine_tune_seconds.values()))
    if is_planned(options) and options.confirm != "all":
        cost = USUAL_COST if options.budget is None else min(options.budget, MOST_COST)
        return _bounded(probes + cost * unit, options, unit)
    ends = [seconds(cuts[at]) for cuts in map(space.cuts_of, space.backbones) for at in {0, len(cuts) - 1}]
    each = fmean(map(seconds, space.cuts))
    if options.search == "exhaustive":
        search = (options.trials or 0) * each
    else:
        kept = 1.0 if options.pruner == "none" else KEPT_EPOCHS
        search = sum(ends) + max(0, (options.trials or 0) - len(ends)) * kept * each
    n_cuts = len(space.cuts) if options.confirm == "all" else int(options.confirm or 0)
    both_ends = sum(ends) / len(space.backbones)
    confirmation = (options.seeds or 0) * (n_cuts * each + both_ends) if n_cuts else 0.0
    return _bounded(probes + search + confirmation, options, unit)


def _bounded(seconds: float, options: StudyOptions, unit: float) -> float:
    """Return how long a study takes, by its bounds at most; the unit is seconds of a full fine-tune."""
    most = math.inf if options.budget is None else options.budget * unit
    return min(seconds, most, math.inf if options.timeout is None else options.timeout)


class LongStudyNote:
    """Receives the events of a new study, and notes once how long it takes, where it takes long.

    What is timed is computed anyway. On a CPU that is the first pass over the images, before any trial; on a
    GPU, where the probes that follow this pass take most of its time, the first epoch that trains everything.
    """

    def __init__(
        self,
        options: StudyOptions,
        tasks: Mapping[str, Task],
        space: SearchSpace,
        *,
        n_workers: int,
        say: Callable[[Note], None],
    ) -> None:
        """Begin to listen.

        Args:
            options: With all defaults.
            tasks: What is trained, by the space's names of the backbones.
            space: What is searched.
            n_workers: That train at once.
            say: Takes the note.
        """
        self._options, self._tasks, self._space = options, tasks, space
        self._n_workers, self._say = n_workers, say
        self._cuts: dict[int, Cut] = {}
        self._fine_tunes: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Time what there is to time; take the first of each backbone."""
        if isinstance(event, TrialStarted):
            self._cuts[event.number] = event.point.cut
        timed = self._timed(event)
        if timed is None or timed[0] in self._fine_tunes:
            return
        backbone, seconds_each_mac = timed
        self._fine_tunes[backbone] = seconds_each_mac * full_fine_tune_macs(self._tasks[backbone])
        if len(self._fine_tunes) == len(self._tasks):
            self._note()

    def _timed(self, event: Event) -> tuple[str, float] | None:
        """Return a backbone, and the seconds that its training takes for each MAC."""
        match event:
            case CurveDrawn(backbone=backbone, curve=curve):
                is_timed = curve.macs > 0 and self._tasks[backbone].device.kind == "cpu"
                return (backbone, curve.seconds / curve.macs) if is_timed else None
            case EpochDone(number=number, result=result):
                cut = self._cuts[number]
                return (cut.backbone, result.seconds / result.macs) if cut.index == 0 else None
        return None

    def _note(self) -> None:
        data = any_of(self._tasks).data
        n_train, n_val = len(data.train), len(data.val)
        seconds = expected_seconds(self._options, self._space, self._fine_tunes, n_train=n_train, n_val=n_val)
        seconds /= self._n_workers
        if seconds >= LONG_SECONDS:
            one = duration(max(self._fine_tunes.values()))
            self._say(
                Note(
                    text=f"This study takes about {duration(seconds)} (training everything once: {one}). "
                    "Ctrl-C loses nothing, the same command goes on; --timeout 1h answers with what is known "
                    "by then."
                )
            )
