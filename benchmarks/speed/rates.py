"""How many MACs a device computes in the time in which it reads a byte of kept features.

    python -m benchmarks.speed.rates --backbone resnet50 densenet121 --image-size 128

Runs each backbone forward, and gathers random batches of rows of a few sizes from memory and from a mapped
file (which the system mostly has in its cache). The rule of what is kept charges reading at such rates: see
`MACS_PER_BYTE` in `depthsearch/features/store.py`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import choose_device, load_backbone
from depthsearch.devices import Device, use_all_cores
from depthsearch.features import FrozenBackbone
from depthsearch.features.parts import Layout
from depthsearch.features.tiers.rowfile import MappedRows, RowWriter, content_of
from depthsearch.models.tracing.trace import trace

N_ROWS, BATCH, ROUNDS = 2048, 64, 7


def seconds(work: Callable[[], object], device: Device) -> float:
    """Median time of some work, after one run of it."""
    times = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        if device.kind == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return median(times[1:])


def forward_rate(name: str, image_size: int, device: Device) -> float:
    """MACs a second of a backbone, forward."""
    backbone = load_backbone(name, "random", image_size=image_size)
    graph = trace(backbone.model, image_size=image_size)
    frozen = FrozenBackbone(graph, backbone.preprocessing, device)
    end = len(graph.nodes) - 1
    part = frozen.part((), graph.boundary(end), end)
    images = frozen.normalise(torch.zeros(BATCH, 3, image_size, image_size, device=device.torch_device))

    def work() -> None:
        with torch.no_grad(), device.autocast():
            part.module(images)

    return part.macs * BATCH / seconds(work, device)


def gather_rates(row_bytes: int, device: Device, folder: Path) -> tuple[float, float]:
    """Bytes a second of batches at random places, from memory and from a mapped file, to the device."""
    rows = torch.zeros(N_ROWS, row_bytes // 4)
    layout = Layout.of(rows)
    writer = RowWriter(folder / f"{row_bytes}.features")
    writer.write(rows)
    writer.end(content_of("rows", layout, N_ROWS), {})
    mapped = MappedRows(folder / f"{row_bytes}.features", layout, N_ROWS)
    batches = torch.randperm(N_ROWS).split(BATCH)
    n_bytes = N_ROWS * row_bytes
    from_memory = seconds(lambda: [device.move(rows.index_select(0, batch)) for batch in batches], device)
    from_disk = seconds(lambda: [device.move(mapped[batch]) for batch in batches], device)
    return n_bytes / from_memory, n_bytes / from_disk


def main() -> None:
    """Print the rates and their ratios."""
    parser = argparse.ArgumentParser(description="MACs computed while a byte is read.")
    parser.add_argument("--backbone", nargs="+", default=["resnet50", "densenet121"])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    use_all_cores()
    device = choose_device(arguments.device, arguments.precision)
    print_facts(machine_facts(device))
    forward = {name: forward_rate(name, arguments.image_size, device) for name in arguments.backbone}
    for name, rate in forward.items():
        print(f"{name}, {arguments.image_size} px, batches of {BATCH}: {rate / 1e9:.1f} G MACs/s")
    fastest = max(forward.values())
    print("| bytes a row | memory, GB/s | file, GB/s | MACs a byte, memory | MACs a byte, file |")
    print("|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row_bytes in (2**12, 2**15, 2**18):
            memory, disk = gather_rates(row_bytes, device, Path(folder))
            print(f"| {row_bytes} | {memory / 1e9:.1f} | {disk / 1e9:.1f} | {fastest / memory:.0f} | "
                  f"{fastest / disk:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
