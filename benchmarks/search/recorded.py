"""One study's view of a recorded table: trainings are looked up, and what they would cost is counted.

A study sees one training of each setting in its search, on one split; each seed of a confirmation is another
one, on a split of its own, the same for all settings. Which of the table's seeds that is, is drawn anew for
each study, with replacement, and of the validation images of a split a study sees as many as there are, drawn
likewise (a bootstrap): so studies of one table differ as if each had photos of its own, and what is true is
what the whole table says. A training that a study repeats with the same seed comes out the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.search.tables import Table
from depthsearch import SearchSpace
from depthsearch.data import DataSet, ImageSet
from depthsearch.devices import choose_device
from depthsearch.errors import DivergedError
from depthsearch.models.backbones import load_backbone
from depthsearch.seeds import seed_from
from depthsearch.training import EpochResult, ProbePoint, Recipe, Task, TransferCurve
from depthsearch.workers import Ended, Failed, InProcess, Job, Probing, Report, Training

Answer = TypeVar("Answer")

# Sets the draws of a study apart from all other random numbers.
DRAWS = 0xD7A3


class BudgetSpent(Exception):
    """The next epoch would cost more than a study may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The training of every setting that a seed of a study sees.

    Attributes:
        seed: Of the table.
        images: ``(v,)``, places among the validation images of its split, some several times.
    """

    seed: int
    images: NDArray[np.int64]


class Recorded:
    """A table as one study sees it, and what the study has spent."""

    def __init__(self, table: Table, seed: int, *, n_val: int | None = None) -> None:
        """Begin a study.

        Args:
            table: Whose trainings are looked up; all of them are there.
            seed: Of the study.
            n_val: Validation images that it sees; None: as many as the table has. What they cost stays.
        """
        self.table = table
        self.seed = seed
        self.n_val = min(n_val or table.about.n_val, table.about.n_val)
        self.macs = 0
        self._kept = {0}
        self._draws: dict[int, Draw] = {}
        self._again: dict[tuple[int, int | None], int] = {}
        # Epochs that a trial has paid for: where it is taken up again, it goes on from its checkpoint.
        self._paid: Counter[int] = Counter()
        self._limits: list[float] = []
        self._reached: Callable[[float], None] = lambda limit: None

    @property
    def cost(self) -> float:
        """What was spent, in full fine-tunes."""
        return self.macs / self.table.full_fine_tune_macs

    @property
    def space(self) -> SearchSpace:
        """What can be searched: the cuts of the table, and learning rates between its ends; a linear head."""
        rates = self.table.about.learning_rates
        return SearchSpace(cuts=self.table.cuts, learning_rate=(rates[0], rates[-1]), head_width=0)

    @property
    def task(self) -> Task:
        """What a coordinator wants to know of backbone, images and recipe; there are no pixels in it."""
        task = task_of(self.table, self.n_val)
        return task.with_recipe(replace(task.recipe, seed=self.seed))

    def executor(self) -> InProcess:
        """One worker that looks up what it is to train."""
        return InProcess({"": self.task}, run=self.run)

    def nearest_rate(self, learning_rate: float) -> int:
        """Find the recorded learning rate that is nearest by ratio."""
        ratios = [abs(math.log(rate / learning_rate)) for rate in self.table.about.learning_rates]
        return ratios.index(min(ratios))

    def draw(self, again: int) -> Draw:
        """Return what a seed of the study sees: 0 is the search's, those from 1 on the confirmation's."""
        if again not in self._draws:
            rng = np.random.default_rng(seed_from(self.seed, again, DRAWS))
            about = self.table.about
            seed = int(rng.integers(about.seeds))
            self._draws[again] = Draw(seed=seed, images=rng.integers(about.n_val, size=self.n_val))
        return self._draws[again]

    def run(self, tasks: Mapping[str, Task], job: Job) -> Generator[Report, None, None]:
        """Do a job of the product's coordinator, as `workers.run_job` does."""
        if isinstance(job, Probing):
            yield self.probe()
            return
        rate = self.nearest_rate(job.point.learning_rate)
        try:
            for result in self.train(
                job.point.cut.index, rate, again=self._which(job), n_paid=self._paid[job.key]
            ):
                self._paid[job.key] = max(self._paid[job.key], result.epoch)
                yield result
            yield Ended()
        except DivergedError as error:
            yield Failed(kind="diverged", reason=f"diverged: {error}", error=error)

    def _which(self, job: Training) -> int:
        """Number the seeds of a study in the order in which they come; those of the search are all one."""
        if job.split_seed is None and job.seed == seed_from(self.seed, job.key):
            return 0
        return self._again.setdefault((job.seed, job.split_seed), len(self._again) + 1)

    def train(self, cut: int, rate: int, *, again: int = 0, n_paid: int = 0) -> Iterator[EpochResult]:
        """Look a training up, epoch by epoch, and pay for it.

        Args:
            cut: Its index.
            rate: Index of the learning rate.
            again: Which of the study's seeds.
            n_paid: Epochs that were paid for before.

        Raises:
            BudgetSpent: If an epoch would cost more than is left.
            DivergedError: If the training did.
        """
        table, draw = self.table, self.draw(again)
        about, at = table.about, (draw.seed, cut, rate)
        if not table.done[at]:
            raise ValueError(f"the table lacks the training of cut {cut}, rate {rate}, seed {draw.seed}")
        is_solved = cut == len(table.cuts) - 1
        for epoch in (about.epochs,) if is_solved else range(1, about.epochs + 1):
            prefix = self._prefix_macs(cut)
            # One that diverges in an epoch has paid for it.
            if epoch > n_paid:
                self._pay(prefix + table.learning_macs(cut))
            self._kept.add(cut)
            here = *at, epoch - 1
            if math.isnan(table.score[here]):
                raise DivergedError(f"no finite loss in epoch {epoch}")
            right = table.outcomes(*at, epoch)[draw.images]
            log_probability = table.log_probabilities(*at, epoch)[draw.images]
            n_both = about.n_train + about.n_val
            backward = 2 * about.suffix_macs[cut] * about.n_train
            seconds = float(table.seconds[here])
            yield EpochResult(
                epoch=epoch,
                train_loss=float(table.train_loss[here]),
                val_loss=-float(log_probability.mean()),
                score=float(right.mean()),
                seconds=seconds,
                images_per_second=about.n_train / max(seconds, 1e-6),
                prefix_macs=prefix,
                forward_macs=table.learning_macs(cut) - backward,
                backward_macs=backward,
                plain_macs=about.prefix_macs[cut] * n_both + table.learning_macs(cut),
                kept_bytes=0,
                read_bytes=0,
            )

    def probe(self) -> TransferCurve:
        """Look the linear probes up, and pay for the one pass; all that it computes is kept for trainings."""
        table, last = self.table, len(self.table.cuts) - 1
        macs = self._prefix_macs(last)
        self._pay(macs)
        self._kept.update(range(last + 1))
        scores = table.probe[self.draw(0).seed]
        points = tuple(
            ProbePoint(
                cut=cut.index,
                layer=cut.layer,
                name=cut.name,
                n_features=table.about.n_features[cut.index],
                score=float(scores[cut.index]),
                n_val=self.n_val,
            )
            for cut in table.cuts[1:]
        )
        return TransferCurve(points=points, macs=macs, seconds=0.0, kept_bytes=0)

    def _prefix_macs(self, cut: int) -> int:
        """MACs of computing what a cut trains on, from the deepest cut in front of it that is kept."""
        deepest = max(kept for kept in self._kept if kept <= cut)
        return self.table.frozen_macs(cut) - self.table.frozen_macs(deepest)

    def _pay(self, macs: int) -> None:
        after = (self.macs + macs) / self.table.full_fine_tune_macs
        # Rounding is not to decide.
        while self._limits and after > self._limits[0] * (1 + 1e-9):
            self._reached(self._limits.pop(0))
            if not self._limits:
                raise BudgetSpent
        self.macs += macs

    @contextmanager
    def limited(
        self, budgets: Sequence[float], answer: Callable[[], Answer]
    ) -> Iterator[dict[float, Answer]]:
        """Run a study inside, ask for its answer at each budget before more is spent, end it at the last.

        Yields:
            What is filled in meanwhile: the answer at each budget; where less is spent, the last one.
        """
        answers: dict[float, Answer] = {}

        def reached(limit: float) -> None:
            answers[limit] = answer()

        self._limits, self._reached = sorted(budgets), reached
        try:
            yield answers
        except BudgetSpent:
            return
        answers.update({limit: answer() for limit in self._limits})


@lru_cache(maxsize=8)
def task_of(table: Table, n_val: int | None = None) -> Task:
    """Make a task that says of backbone, images and recipe what the recorded one said; it cannot be trained.

    The backbone is that one with random weights, as only its layers are asked for.
    """
    about = table.about
    backbone = load_backbone(about.backbone, "random", image_size=about.image_size)
    seen = backbone.preprocessing
    labels, is_train = torch.from_numpy(table.labels), torch.ones(len(table.labels), dtype=torch.bool)
    is_train[torch.from_numpy(table.validation[0])] = False
    pixels = torch.zeros((1, len(seen.mean), about.image_size, about.image_size), dtype=torch.uint8)
    train, val, test = (
        ImageSet(
            images=pixels,
            rows=torch.zeros(len(part), dtype=torch.int64),
            labels=part,
            digests=(about.fingerprint,),
        )
        for part in (labels[is_train], labels[~is_train][:n_val], labels[:0])
    )
    data = DataSet(
        name=about.data,
        source=about.data,
        classes=about.classes,
        train=train,
        val=val,
        test=test,
        fingerprint=about.fingerprint,
        skipped=(),
        duplicates=(),
        paths=("",),
        layout="",
        notes=(),
        image_size=about.image_size,
        crop_share=seen.crop_share,
        interpolation=seen.interpolation,
    )
    recipe = Recipe(epochs=about.epochs, batch_size=about.batch_size)
    return Task(backbone=backbone, data=data, recipe=recipe, device=choose_device("cpu", "float32"))
