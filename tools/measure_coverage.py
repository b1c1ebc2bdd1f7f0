"""Measure for how many of timm's convolutional models the cuts can be listed and one of them split.

    python tools/measure_coverage.py --json coverage.json

A model counts as convolutional if at least a third of its weighted layers (``nn.Conv*`` and ``nn.Linear``)
are convolutions: that keeps ConvNeXt, whose blocks hold one convolution and two linear layers, and hybrids
such as MobileViT, and leaves out transformers and MLPs with a convolutional stem. A model works if it is
traced, has candidate cuts, is split at the middle one, and both parts run on one image one after the other.

Models are built on the meta device: shapes without weights. What fails there is tried again on the CPU, up to
60 million parameters.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import timm
import torch
from timm.models import model_entrypoint
from torch import nn
from torch.nn.modules.conv import _ConvNd

from depthsearch.cuts import cuts_of
from depthsearch.errors import DepthsearchError
from depthsearch.graph import input_size, trace
from depthsearch.split import split_at

LEAST_CONVOLUTION_SHARE = 1 / 3
MOST_CPU_PARAMETERS = 60_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one model.

    Attributes:
        model: Its name in timm.
        family: The timm module that defines it.
        device: Where it was built in the end.
        n_cuts: How many candidates it has.
        opaque: Modules with layers inside that tracing kept whole.
        failed_step: ``build``, ``trace``, ``list cuts``, ``split`` or ``run``; None where it works.
        reason: First line of the error, or None.
        foreseen: Whether that error is one of ours, for the user to read, and not a traceback.
        seconds: What it took.
    """

    model: str
    family: str
    device: str
    n_cuts: int
    opaque: tuple[str, ...]
    failed_step: str | None
    reason: str | None
    foreseen: bool
    seconds: float


def convolution_share(model: nn.Module) -> float:
    """Share of the weighted layers that are convolutions, in [0, 1]."""
    weighted = [m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear)]
    return sum(isinstance(m, _ConvNd) for m in weighted) / max(len(weighted), 1)


def attempt(name: str, device: str) -> Outcome | None:
    """Take one model through every step, up to the first that fails; None if it is not convolutional."""
    started = time.perf_counter()
    step, n_cuts = "build", 0
    opaque: tuple[str, ...] = ()
    error: Exception | None = None
    try:
        with torch.device(device), torch.no_grad():
            model = timm.create_model(name).eval()
            if convolution_share(model) < LEAST_CONVOLUTION_SHARE:
                return None
            step = "trace"
            graph = trace(model)
            opaque = graph.opaque
            step = "list cuts"
            cuts = cuts_of(graph, model)
            n_cuts = len(cuts)
            step = "split"
            split = split_at(model, cuts[n_cuts // 2])
            step = "run"
            split.suffix.eval()(split.prefix(torch.zeros(1, *input_size(model))))
    except Exception as caught:  # noqa: BLE001 - whatever stops a model is the result
        error = caught
    return Outcome(
        model=name,
        family=family_of(name),
        device=device,
        n_cuts=n_cuts,
        opaque=opaque,
        failed_step=step if error else None,
        reason=first_line(error) if error else None,
        foreseen=isinstance(error, DepthsearchError),
        seconds=time.perf_counter() - started,
    )


def family_of(name: str) -> str:
    """Name the timm module that defines a model, such as ``resnet``."""
    return str(model_entrypoint(name).__module__).rpartition(".")[2]


def first_line(error: Exception) -> str:
    """Give an error's type and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else '-'}"


def measure(names: Sequence[str]) -> Iterator[Outcome]:
    """Measure the convolutional ones of these models, on the CPU where the meta device does not do."""
    for place, name in enumerate(names, start=1):
        print(f"{place} of {len(names)}: {name}", file=sys.stderr)
        outcome = attempt(name, "meta")
        if outcome and outcome.failed_step and n_parameters(name) <= MOST_CPU_PARAMETERS:
            outcome = attempt(name, "cpu")
        if outcome:
            yield outcome


def n_parameters(name: str) -> int:
    """Count a model's parameters without making them; one that needs their values to be built is small."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # noqa: BLE001 - it is the CPU's turn to say what is wrong
        return 0


def sampled(names: Sequence[str], every: int) -> list[str]:
    """Take every so many models of each family, its first always."""
    seen: Counter[str] = Counter()
    taken = []
    for name in names:
        if seen[family_of(name)] % every == 0:
            taken.append(name)
        seen[family_of(name)] += 1
    return taken


def report(outcomes: Sequence[Outcome]) -> None:
    """Print the share that works, what fails family by family, and what was kept whole."""
    failed = [o for o in outcomes if o.failed_step]
    n_models, n_work = len(outcomes), len(outcomes) - len(failed)
    sizes = Counter(o.family for o in outcomes)
    print(
        f"{n_models} convolutional models of {len(sizes)} families; {n_work} work ({n_work / n_models:.1%})"
    )
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in failed:
        kind = "" if outcome.foreseen else " (unforeseen)"
        reasons[outcome.family, f"{outcome.failed_step}{kind}: {outcome.reason}"].append(outcome.model)
    for (family, reason), models in sorted(reasons.items()):
        print(f"  {family}: {len(models)} of {sizes[family]} ({', '.join(models[:3])}): {reason}")
    opaque = Counter(o.family for o in outcomes if o.opaque and not o.failed_step)
    print(f"{opaque.total()} of those that work have modules kept whole:")
    for family, n_opaque in opaque.most_common():
        example = next(o for o in outcomes if o.family == family and o.opaque)
        print(f"  {family}: {n_opaque} of {sizes[family]} ({example.model}: {', '.join(example.opaque[:3])})")
    on_cpu = [o.model for o in outcomes if o.device == "cpu" and not o.failed_step]
    print(f"{len(on_cpu)} were measured on the CPU: {', '.join(on_cpu) or '-'}")


def main() -> None:
    """Measure every model whose name fits, and print and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--filter", default="*", help="timm's wildcard over model names (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth model of a family")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every outcome there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    names = sampled(timm.list_models(options.filter, pretrained=False), options.every)
    outcomes = list(measure(names))
    if not outcomes:
        parser.error(f"no convolutional model of timm has a name like {options.filter!r}")
    report(outcomes)
    print(f"{len(names)} models looked at in {time.perf_counter() - started:.0f} s; "
          f"timm {timm.__version__}, torch {torch.__version__}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
