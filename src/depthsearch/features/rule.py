"""What to keep: the boundaries that save most work for each byte, as far as the bytes go.

For a cut *c*, work(c) is the number of MACs before it. A pass over the images for *c* that starts at a kept
boundary *q* before it saves work(q) MACs an image, and reads the bytes of q. Those are charged as MACs too:
as many as the device computes in the time in which it reads them. So a start at *q* is worth

    worth(q) = work(q) - macs_per_byte * bytes(q)

and a pass for *c* has the worth of the best kept start at or before *c*, or 0 from the images. With asks(c),
the number of passes that the study may still ask for at each cut, a set of kept boundaries gains the sum of
asks(c) times that. The sum is monotone and submodular in the set, so it is maximised greedily, gain for each
byte, which is within a constant factor of the best. Neighbouring boundaries share tensors (the layers of a
dense block): a byte is counted once. What gains less than it costs to write, which is charged as reading is,
is not kept, whatever the budget.

Source: S. Khuller, A. Moss, J. Naor, "The budgeted maximum coverage problem", Information Processing Letters
70 (1999); J. Leskovec et al., "Cost-effective outbreak detection in networks", KDD 2007, section 3.

Notation: ``p`` positions where the graph can be entered, ``t`` tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Asks", "Starts", "choose"]

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


@dataclass(frozen=True, slots=True)
class _Pick:
    """One start, chosen after those before it: the tensors that it adds."""

    gain_per_byte: float
    tensors: NDArray[np.int64]
    bytes_per_image: float


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
    given = given or {}
    found: dict[Hashable, list[_Pick]] = {}
    picks = []
    for asked in asks:
        already = frozenset(given.get(asked.group, ()))
        # Views of one set are mostly asked alike.
        same = (already, tuple(sorted(asked.passes.items())))
        if same not in found:
            found[same] = list(_picks(starts, asked.passes, macs_per_byte, already))
        picks += [(pick, asked) for pick in found[same]]
    picks.sort(key=lambda p: -p[0].gain_per_byte)
    kept: dict[Group, set[int]] = {asked.group: set() for asked in asks}
    left = float(budget_bytes)
    for pick, asked in picks:
        size = pick.bytes_per_image * asked.n_images
        if size <= left:
            kept[asked.group].update(pick.tensors.tolist())
            left -= size
    return kept


def _picks(
    starts: Starts, passes: Mapping[int, float], macs_per_byte: float, given: Collection[int]
) -> Iterator[_Pick]:
    """Yield starts in greedy order until none gains what it costs to write."""
    cuts = np.array(sorted(passes), dtype=np.int64)
    weights = np.array([passes[int(cut)] for cut in cuts], dtype=np.float64)
    starts = _without_dominated(starts, cuts)
    worth = starts.work - macs_per_byte * (starts.needs @ starts.tensor_bytes)
    serves = starts.positions[:, None] <= cuts[None, :]
    kept = np.zeros(len(starts.tensor_bytes), dtype=bool)
    kept[list(given)] = True
    reached = np.zeros(len(cuts))
    ceiling = np.inf
    while len(starts.positions):
        at_hand = (starts.needs <= kept).all(axis=1)
        reached = np.maximum(
            reached, np.where(serves[at_hand], worth[at_hand, None], 0.0).max(axis=0, initial=0)
        )
        gains = (np.where(serves, np.maximum(worth[:, None] - reached, 0.0), 0.0) * weights).sum(axis=1)
        added = (starts.needs & ~kept) @ starts.tensor_bytes
        densities = np.divide(gains, added, out=np.zeros_like(gains), where=added > 0)
        best = int(np.argmax(densities))
        if densities[best] <= macs_per_byte:
            return
        # Shared tensors can make a later pick denser than the one it builds on; it still comes after it.
        ceiling = min(ceiling, float(densities[best]))
        yield _Pick(ceiling, np.flatnonzero(starts.needs[best] & ~kept), float(added[best]))
        kept |= starts.needs[best]


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
