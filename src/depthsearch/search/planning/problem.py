"""What a planner chooses among: settings, what each costs, and what trials say of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from depthsearch.options.attributes import TrialKey
from depthsearch.search.beliefs.learning import Learned, Lesson, ScoreError, learn, split_of
from depthsearch.search.extrapolation import course_of
from depthsearch.search.planning.moves import cost_of_training
from depthsearch.search.space import SearchSpace, cut_parameter


class Problem:
    """The settings of a study: where they lie, what they cost, and what their trials say.

    Attributes:
        space: What is searched.
        maximize: Whether more is better.
        epochs: Of a training.
        unit: Full fine-tunes of the first backbone that one of the dearest costs.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        epochs: int,
        late_passes: int = 1,
        head_macs: Callable[[str, int, int], float] | None = None,
        maximize: bool = True,
        error: ScoreError | None = None,
        front: str | None = None,
    ) -> None:
        """Describe a study.

        Args:
            space: What is searched.
            epochs: Of a training.
            late_passes: See `moves.passes_each`.
            head_macs: Of a backbone's new head for one image, by the backbone's name, width and depth; None:
                nothing.
            maximize: Whether more is better.
            error: Of a score; None: of a share of a hundred images.
            front: One of `words.COSTS`: a setting is to be better only than what costs at most as much of it;
                None: than all others.
        """
        self.space, self.maximize, self.epochs = space, maximize, epochs
        self._late_passes = late_passes
        self._head_macs = functools.cache(head_macs or (lambda *_: 0.0))
        self._error = error or ScoreError(n_val=100, is_share=True)
        self._front = front
        # Hundreds of settings are weighed for each move, and few of them differ in what they cost.
        self._cost = functools.cache(self._cost_at)
        # Costs are weighed in full fine-tunes of the dearest backbone, whichever comes first. The study
        # counts those of the first.
        wholes = [space.cuts_of(name)[0].training_macs for name in space.backbones]
        self._whole_macs, self.unit = max(wholes), max(wholes) / (wholes[0] or 1) or 1.0

    @property
    def seeks_front(self) -> bool:
        """Whether settings are compared only with what costs no more."""
        return self._front is not None

    # --- settings -----------------------------------------------------------------------------------

    def is_set(self, trial: FrozenTrial) -> bool:
        """Return whether a trial has its whole setting: not while it waits, nor if it was killed choosing."""
        return self.space.is_whole(trial.params)

    def backbone(self, params: Mapping[str, Any]) -> int:
        """Return which of the backbones a setting is of, counted from 0."""
        return self.space.backbones.index(self.space.backbone_of(params))

    def alike(self, params: Mapping[str, Any], place: tuple[float, ...]) -> tuple[tuple[Any, ...], float]:
        """Return what settings that come out alike have in common, and the place of the learning rate."""
        cut, rate, *others = place
        return (self.backbone(params), cut, *(round(value, 2) for value in others)), rate

    def tried(self, trials: Sequence[FrozenTrial]) -> dict[tuple[Any, ...], list[float]]:
        """Collect the learning rates that were tried, or are, by what else settings have in common."""
        tried: dict[tuple[Any, ...], list[float]] = {}
        for trial in trials:
            if self.is_set(trial):
                key, rate = self.alike(trial.params, self.space.place(trial.params))
                tried.setdefault(key, []).append(rate)
        return tried

    # --- costs --------------------------------------------------------------------------------------

    def cost(self, params: Mapping[str, Any], done: int = 0) -> float:
        """Estimate what a setting costs from an epoch on, in full fine-tunes of the dearest backbone."""
        backbone = self.space.backbone_of(params)
        head = params.get("head_width", 0), self._head_depth(params)
        if self.space.is_solved(params):
            done = 0
        return self._cost(backbone, params[cut_parameter(backbone)], *head, done)

    def _cost_at(self, backbone: str, index: int, head_width: int, head_depth: int, done: int) -> float:
        return cost_of_training(
            self.space.cuts_of(backbone)[index],
            self.epochs,
            late_passes=self._late_passes,
            head_macs=self._head_macs(backbone, head_width, head_depth),
            done=done,
            whole_macs=self._whole_macs,
        )

    def front_cost(self, params: Mapping[str, Any]) -> float:
        """Return what a setting costs along the front: a training's MACs of an image, or what it learns."""
        width = params.get("head_width", 0)
        head_macs = self._head_macs(self.space.backbone_of(params), width, self._head_depth(params))
        if self._front == "parameters":
            # Each weight of a head is used once.
            return self.space.cut_of(params).trainable_parameters + head_macs
        return self.space.cut_of(params).training_macs + 3 * head_macs

    def _head_depth(self, params: Mapping[str, Any]) -> int:
        depth: int = params.get("head_depth", self.space.fixed.get("head_depth", 1))
        return depth

    # --- what trials say ----------------------------------------------------------------------------

    def lesson_of(self, trial: FrozenTrial) -> Lesson:
        """Return what a trial has to say."""
        attributes = trial.user_attrs
        return Lesson(
            place=self.space.place(trial.params),
            backbone=self.backbone(trial.params),
            split=split_of(attributes.get(TrialKey.SEED), resampled=bool(attributes.get(TrialKey.RESAMPLE))),
            course=course_of(trial),
        )

    def learn(self, lessons: Sequence[Lesson]) -> Learned | None:
        """Learn from what trials have to say."""
        return learn(lessons, epochs=self.epochs, maximize=self.maximize, error=self._error)
