"""How many workers a cluster has room for, and what each takes of a node: CPUs and GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from depthsearch.errors import SettingsError

# The resources of a node, by Ray's names: ``CPU``, ``GPU`` and others.
Resources = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """Places for workers, all of the same size.

    Attributes:
        n_workers: How many are wanted; there may be room for fewer.
        num_cpus: Of each.
        num_gpus: Of each; workers with less than one share it.
    """

    n_workers: int
    num_cpus: float
    num_gpus: float

    def on(self, node: Resources) -> int:
        """Count the workers that a node has room for."""
        rooms = [
            int(node.get(name, 0.0) / each + 1e-6)
            for name, each in (("CPU", self.num_cpus), ("GPU", self.num_gpus))
            if each
        ]
        return min(self.n_workers, *rooms) if rooms else self.n_workers

    def __str__(self) -> str:
        """Write what a worker takes."""
        gpus = f"{self.num_gpus:g} GPU and " if self.num_gpus else ""
        return f"{gpus}{self.num_cpus:g} CPU{'' if self.num_cpus == 1 else 's'}"


def plan_slots(
    nodes: Sequence[Resources],
    *,
    on_gpus: bool,
    n_workers: int | None = None,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
) -> Slots:
    """Divide nodes among workers.

    Args:
        nodes: What each has in total.
        on_gpus: Whether to compute on GPUs.
        n_workers: How many; default: as many as the nodes have room for.
        num_cpus: Of each; default: on GPUs the node's, shared among its GPUs. On CPUs all of the smallest
            node's, or as many as let ``n_workers`` work.
        num_gpus: Of each; default: 1 on GPUs. More workers than GPUs wait for more nodes.

    Raises:
        SettingsError: If there is no room for any and no number is given.
    """
    num_gpus = (1.0 if num_gpus is None else num_gpus) if on_gpus else 0.0
    fit = [node for node in nodes if node.get("GPU", 0.0) >= num_gpus and node.get("CPU", 0.0) >= 1]
    if num_cpus is None and num_gpus:
        shares = [node["CPU"] // max(1, int(node["GPU"] / num_gpus + 1e-6)) for node in fit]
        num_cpus = max(1.0, min(shares, default=1.0))
    elif num_cpus is None:
        num_cpus = _cpus_each([int(node["CPU"]) for node in fit], n_workers or 1)
    most = Slots(n_workers=2**31, num_cpus=num_cpus, num_gpus=num_gpus)
    n_there = sum(most.on(node) for node in nodes)
    if not (n_workers or n_there):
        raise SettingsError(
            f"The cluster has no node with {most} for a worker. "
            "Give --workers N to wait for nodes, or another --device."
        )
    return Slots(n_workers=n_workers or n_there, num_cpus=num_cpus, num_gpus=num_gpus)


def _cpus_each(cpus: Sequence[int], n_workers: int) -> float:
    """Find the most CPUs that so many workers can have each, the same on every node."""
    for each in range(min(cpus, default=1), 1, -1):
        if sum(n // each for n in cpus) >= n_workers:
            return float(each)
    return 1.0
