"""How many images a pass over the frozen layers computes at once.

On a CPU it is always the same number: nothing that is kept there may depend on how much memory was free. A
GPU rounds by the batch anyway and has less memory: there it is as many as fit, and fewer after an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import fx

from depthsearch.devices import Device, is_out_of_memory, release_memory
from depthsearch.models.tracing.graph import LayerGraph

MOST_IMAGES = {"cpu": 64, "cuda": 256, "mps": 64}
# Of a GPU's free memory, for the values that are alive at once. The rest is for what convolutions and copies
# take beside them, and for other workers of this GPU, who may pass over their images at the same time.
FREE_SHARE = 1 / 8

Made = TypeVar("Made")

log = logging.getLogger(__name__)


class PassSize:
    """The number of images at once: chosen when it is first asked for, so that most passes have the same."""

    def __init__(self, graph: LayerGraph, device: Device) -> None:
        """Choose nothing yet."""
        self._graph = graph
        self._device = device
        self._n_images: int | None = None

    @property
    def n_images(self) -> int:
        """Images at once; on a GPU a power of two."""
        if self._n_images is None:
            self._n_images = self._fitting()
            log.debug("%d images at once in a pass over the frozen layers", self._n_images)
        return self._n_images

    def halve(self) -> bool:
        """Halve the number from now on; return whether that was possible."""
        if self._device.kind == "cpu" or self.n_images == 1:
            return False
        self._n_images = self.n_images // 2
        log.debug("too little memory: %d images at once from now on", self._n_images)
        return True

    def fit(self, work: Callable[[], Made]) -> Made:
        """Run a pass over the images; after too little memory on a GPU, again with half as many at once."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error) or not self.halve():
                    raise
            release_memory()

    def batches(self, n_images: int) -> Sequence[torch.Tensor]:
        """Divide a set into batches of almost one size: a small one would be rounded in another way."""
        batches: Sequence[torch.Tensor] = torch.arange(n_images).tensor_split(-(-n_images // self.n_images))
        return batches

    def choose_again(self) -> None:
        """Forget the choice, as other memory is free now."""
        self._n_images = None

    def _fitting(self) -> int:
        most = MOST_IMAGES[self._device.kind]
        if self._device.kind != "cuda":
            return most
        n_fit = int(FREE_SHARE * _free_bytes() / live_bytes(self._graph))
        return min(most, 1 << max(0, n_fit.bit_length() - 1))


def _free_bytes() -> int:
    """Count the memory of the current GPU that can be had: what nobody has, and what PyTorch holds unused."""
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return int(torch.cuda.mem_get_info()[0] + unused)


def live_bytes(graph: LayerGraph) -> int:
    """Count the bytes of all values of one image that are alive at once, at the most, in float32.

    The image itself stays to the end, as whoever runs the pass holds it.
    """
    sizes = graph.bytes_per_image
    last_use: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        last_use.update(dict.fromkeys(node.all_input_nodes, node))
    ends: dict[fx.Node, int] = {}
    for source, user in last_use.items():
        if source.op != "placeholder":
            ends[user] = ends.get(user, 0) + sizes.get(source, 0)
    alive = most = 0
    for node in graph.nodes:
        alive += sizes.get(node, 0)
        most = max(most, alive)
        alive -= ends.get(node, 0)
    return most
