"""What to keep: the boundaries that save most work for each byte, as far as the bytes go.

For a cut *c*, work(c) is the number of MACs before it. A pass over the images for *c* that starts at a kept
boundary *q* before it saves work(q) MACs an image, and reads the bytes of q. Those are charged as MACs too:
as many as the device computes in the time in which it reads them. So a start at *q* is worth

    worth(q) = work(q) - macs_per_byte * bytes(q)

and a pass for *c* has the worth of the best kept start at or before *c*, or 0 from the images. With asks(c),
the number of passes that the study may still ask for at each cut, a set of kept boundaries gains the sum of
asks(c) times that. The sum is monotone and submodular in the set, so it is maximised greedily, gain for each
byte, and the result compared with what grows from the best single boundary: within a constant factor of the
best. Neighbouring boundaries share tensors (the layers of a dense block): a byte is counted once. What gains
less than it costs to write, which is charged as reading is, is not kept, whatever the budget.

Source: S. Khuller, A. Moss, J. Naor, "The budgeted maximum coverage problem", Information Processing Letters
70 (1999); J. Leskovec et al., "Cost-effective outbreak detection in networks", KDD 2007, section 3.

Notation: ``p`` positions where the graph can be entered, ``t`` tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Group = TypeVar("Group")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Starts:
    """The places where a pass may start, by depth.

    Attributes:
        positions: ``(p,)``, places in the graph, ascending.
        work: ``(p,)``, MACs before each, of one image.
        needs: ``(p, t)``, bool: which tensors a start needs.
        tensor_bytes: ``(t,)``, size of each tensor for one image.
    """

    positions: NDArray[np.int64]
    work: NDArray[np.float64]
    needs: NDArray[np.bool_]
    tensor_bytes: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asks(Generic[Group]):
    """What may still be asked of the images of one set in one view.

    Attributes:
        group: Stands for that set and view.
        n_images: Images in the set.
        passes: Position of a cut to the number of passes expected there.
    """

    group: Group
    n_images: int
    passes: Mapping[int, float]


def choose(
    starts: Starts,
    asks: Sequence[Asks[Group]],
    *,
    budget_bytes: int,
    macs_per_byte: float,
    given: Mapping[Group, Collection[int]] | None = None,
) -> dict[Group, set[int]]:
    """Choose the tensors to keep within a budget.

    Args:
        starts: Where passes may start.
        asks: What is expected of each set and view.
        budget_bytes: For all of them together.
        macs_per_byte: MACs computed in the time in which one byte is read.
        given: Tensors of each set and view that are kept already, in a faster memory.

    Returns:
        For each set and view the tensors to keep besides, as columns of ``starts.needs``.
    """

    def begin() -> list[_Choice]:
        return [_Choice(starts, each, macs_per_byte, (given or {}).get(each.group, ())) for each in asks]

    choices = begin()
    # Greedy alone can fill the budget with small things that one large one is worth more than.
    largest = max(((c.best_alone(budget_bytes), i) for i, c in enumerate(choices)), default=((0.0, -1), 0))
    was_short = _fill(choices, float(budget_bytes))
    (alone, start), owner = largest
    if was_short and alone > 0:
        others = begin()
        _fill(others, budget_bytes - others[owner].take(start))
        choices = max(choices, others, key=lambda each: sum(choice.gained for choice in each))
    return {each.group: set(choice.taken) for each, choice in zip(asks, choices, strict=True)}


def _fill(choices: Sequence[_Choice], budget_bytes: float) -> bool:
    """Choose the start that gains most for each byte, while one fits; return whether any did not fit."""
    was_short = False
    while True:
        bests = [choice.best(budget_bytes) for choice in choices]
        was_short |= any(choice.has_more(budget_bytes) for choice in choices)
        density, start, owner = max(((*best, i) for i, best in enumerate(bests)), default=(0.0, -1, 0))
        if density <= 0:
            return was_short
        budget_bytes -= choices[owner].take(start)


class _Choice:
    """What is kept of one set in one view, as it grows.

    Attributes:
        taken: Tensors chosen, as columns of ``starts.needs``.
        gained: MACs gained by them, what they cost to write taken off.
    """

    def __init__(
        self, starts: Starts, asks: Asks[Group], macs_per_byte: float, given: Collection[int]
    ) -> None:
        cuts = np.array(sorted(asks.passes), dtype=np.int64)
        self._starts = starts = _without_dominated(starts, cuts)
        self._weights = np.array([asks.passes[int(cut)] for cut in cuts], dtype=np.float64)
        self._n_images = asks.n_images
        self._macs_per_byte = macs_per_byte
        self._worth = starts.work - macs_per_byte * (starts.needs @ starts.tensor_bytes)
        self._serves = starts.positions[:, None] <= cuts[None, :]
        self._kept = np.zeros(len(starts.tensor_bytes), dtype=bool)
        self._kept[list(given)] = True
        self._reached = np.zeros(len(cuts))
        self.taken: list[int] = []
        self.gained = 0.0
        self._update()

    def best(self, budget_bytes: float) -> tuple[float, int]:
        """Find the start that fits and gains most for each byte: that gain (0 for none), and the start."""
        return _largest(np.where(self._sizes <= budget_bytes, self._densities, 0.0))

    def best_alone(self, budget_bytes: float) -> tuple[float, int]:
        """Find the start that gains most of those that fit."""
        fits = (self._sizes <= budget_bytes) & (self._densities > 0)
        return _largest(np.where(fits, self._net_gains(), 0.0))

    def has_more(self, budget_bytes: float) -> bool:
        """Return whether a start would gain something, but does not fit."""
        return bool(((self._densities > 0) & (self._sizes > budget_bytes)).any())

    def take(self, start: int) -> float:
        """Keep what a start needs; return the bytes that it adds."""
        self.gained += float(self._net_gains()[start])
        size = float(self._sizes[start])
        self.taken += np.flatnonzero(self._starts.needs[start] & ~self._kept).tolist()
        self._kept |= self._starts.needs[start]
        self._update()
        return size

    def _net_gains(self) -> NDArray[np.float64]:
        gains: NDArray[np.float64] = self._gains * self._n_images - self._macs_per_byte * self._sizes
        return gains

    def _update(self) -> None:
        at_hand = (self._starts.needs <= self._kept).all(axis=1)
        served = np.where(self._serves[at_hand], self._worth[at_hand, None], 0.0)
        self._reached = np.maximum(self._reached, served.max(axis=0, initial=0.0))
        rises = np.where(self._serves, np.maximum(self._worth[:, None] - self._reached, 0.0), 0.0)
        self._gains = rises @ self._weights
        added = (self._starts.needs & ~self._kept) @ self._starts.tensor_bytes
        self._sizes = added * self._n_images
        densities = np.divide(self._gains, added, out=np.zeros_like(self._gains), where=added > 0)
        # What gains less than it costs to write is not kept.
        self._densities = np.where(densities > self._macs_per_byte, densities, 0.0)


def _largest(gains: NDArray[np.float64]) -> tuple[float, int]:
    """Find the largest gain and its place; 0 and -1 of none."""
    return (float(gains.max()), int(gains.argmax())) if len(gains) else (0.0, -1)


def _without_dominated(starts: Starts, cuts: NDArray[np.int64]) -> Starts:
    """Leave out starts for which a later one serves the same cuts with no more bytes."""
    served = np.searchsorted(cuts, starts.positions)
    sizes = starts.needs @ starts.tensor_bytes
    keep: list[int] = []
    for i in reversed(range(len(starts.positions))):
        later = keep[-1] if keep else None
        if served[i] < len(cuts) and (later is None or served[later] != served[i] or sizes[i] < sizes[later]):
            keep.append(i)
    rows = keep[::-1]
    return Starts(
        positions=starts.positions[rows],
        work=starts.work[rows],
        needs=starts.needs[rows],
        tensor_bytes=starts.tensor_bytes,
    )
