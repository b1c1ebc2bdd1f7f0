"""Measure for how many of timm's models cuts are listed, a split runs and is right, and freezing freezes all.

    python tools/measure_coverage.py --json coverage.json

Every model of timm's goes through these steps, up to the first that fails:

- ``trace``: torch.fx follows it, and it runs on one image.
- ``list``: it has candidate cuts, besides its two ends.
- ``split``: at the middle one it is split, and both parts run one after the other.
- ``freeze``: frozen there in place and put into training mode, nothing used before the cut learns, all
  that is used behind it does, and what enters the first trainable layer depends on nothing that learns.
- ``verify``: what was traced gives the model's outputs in eval mode and its gradients in training mode, and
  what lies before the head is a fixed function of one image in eval mode.

Models are built on the meta device, shapes without weights, but for ``verify``, which needs numbers: it is
done up to ``--verify-parameters``. What fails on the meta device is tried again on the CPU up to that size.
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
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from depthsearch.errors import DepthsearchError
from depthsearch.models.candidates import cuts_of
from depthsearch.models.cuts import Cut
from depthsearch.models.fixed import check_fixed
from depthsearch.models.freezing import freeze_before
from depthsearch.models.headplace import find_head
from depthsearch.models.split import check_traced, split_traced
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.inputs import input_size, logits_of
from depthsearch.models.tracing.trace import trace

LEAST_CONVOLUTION_SHARE = 1 / 3
# The default of some is a model without a head, which has nothing to learn at the last cut.
NUM_CLASSES = 10
STEPS = ("build", "trace", "list", "split", "freeze", "verify")
# At these sizes a model that takes any is verified, in pixels: it is a matter of code, not of size.
SMALL_SIZES = (64, 96, 128, 160)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one model.

    Attributes:
        model: Its name in timm.
        family: The timm module that defines it.
        is_convolutional: Whether at least a third of its weighted layers are convolutions.
        n_cuts: How many candidates it has.
        opaque: How many modules with layers inside tracing kept whole, and why, by reason.
        verified: Whether it was small enough for ``verify``.
        failed_step: One of ``STEPS``; None where it works.
        reason: First line of the error, or None.
        foreseen: Whether that error is one of ours, for the user to read, and not a traceback.
        seconds: What it took.
    """

    model: str
    family: str
    is_convolutional: bool
    n_cuts: int
    opaque: dict[str, int]
    verified: bool
    failed_step: str | None
    reason: str | None
    foreseen: bool
    seconds: float


class _Uses(TorchFunctionMode):
    """Notes every tensor that PyTorch is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Note the arguments, and call the function."""
        leaves = tree_leaves((args, kwargs or {}))
        self.seen |= {id(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)}
        return func(*args, **(kwargs or {}))


def convolution_share(model: nn.Module) -> float:
    """Compute the share of the weighted layers that are convolutions, in [0, 1]."""
    weighted = [m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear)]
    return sum(isinstance(m, _ConvNd) for m in weighted) / max(len(weighted), 1)


def assert_frozen(model: nn.Module, cut: Cut) -> None:
    """Freeze before a cut; compare with what running the model says is used before it."""
    modules = dict(model.named_modules())
    path = next((name for name in (cut.name, cut.first_layer) if modules.get(name)), None)
    freeze_before(model, cut)
    images = torch.zeros(2, *cut.image_shape, device=next(model.parameters()).device)
    uses, before, entering = _Uses(), set[int](), list[object]()

    def look(module: nn.Module, args: object, kwargs: object) -> None:
        if not before:
            before.update(uses.seen)
            entering.append((args, kwargs))

    if path is not None:
        modules[path].register_forward_pre_hook(look, with_kwargs=True)
    with uses:
        logits = logits_of(model.train()(images))
    if any(t.requires_grad for t in tree_leaves(entering) if isinstance(t, torch.Tensor)):
        raise AssertionError("what enters the first trainable layer depends on a parameter that learns")
    if not before:
        return  # the cut is at a function, which no hook sees
    learning = {name for name, p in model.named_parameters() if p.requires_grad and id(p) in before}
    if learning:
        raise AssertionError(f"used before the cut, and learns: {sorted(learning)[:3]}")
    logits.sum().backward()
    late = (name for name, p in model.named_parameters() if id(p) in uses.seen - before and p.grad is None)
    if still := sorted(late)[:3]:
        raise AssertionError(f"used behind the cut, and does not learn: {still}")


def verify(name: str) -> None:
    """Compare what was traced with the model, both with weights, at a small size where it takes one."""
    model = timm.create_model(name, num_classes=NUM_CLASSES).eval()
    graph = _small_trace(model)
    check_traced(graph, model)
    check_fixed(graph, model, find_head(graph, model)[0])


def _small_trace(model: nn.Module) -> LayerGraph:
    for size in SMALL_SIZES if input_size(model)[1] > min(SMALL_SIZES) else ():
        try:
            with torch.no_grad():
                model.train()(torch.zeros(2, input_size(model)[0], size, size))
                model.eval()(torch.zeros(1, input_size(model)[0], size, size))
        except Exception:  # noqa: BLE001 (models raise anything at a size that they do not take)
            continue
        return trace(model, image_size=size)
    return trace(model)


def attempt(name: str, device: str, *, most_parameters: int) -> Outcome:
    """Run one model through every step, up to the first that fails."""
    started = time.perf_counter()
    step, n_cuts, is_convolutional, verified = "build", 0, False, False
    opaque: dict[str, int] = {}
    error: Exception | None = None
    try:
        with torch.device(device):
            model = timm.create_model(name, num_classes=NUM_CLASSES).eval()
            is_convolutional = convolution_share(model) >= LEAST_CONVOLUTION_SHARE
            step = "trace"
            graph = trace(model)
            opaque = dict(Counter(graph.opaque.values()))
            step = "list"
            cuts = cuts_of(graph, model)
            n_cuts = len(cuts)
            step = "split"
            split = split_traced(graph, model, cuts[n_cuts // 2])
            with torch.no_grad():
                split.suffix.eval()(split.prefix(torch.zeros(1, *graph.image_shape)))
            step = "freeze"
            assert_frozen(model, cuts[n_cuts // 2])
        step = "verify"
        verified = sum(p.numel() for p in model.parameters()) <= most_parameters
        del model, split, graph
        if verified:
            verify(name)
    except Exception as caught:  # noqa: BLE001 (whatever stops a model is the result)
        error = caught
    return Outcome(
        model=name,
        family=family_of(name),
        is_convolutional=is_convolutional,
        n_cuts=n_cuts,
        opaque=opaque,
        verified=verified,
        failed_step=step if error else None,
        reason=first_line(error) if error else None,
        foreseen=isinstance(error, DepthsearchError),
        seconds=time.perf_counter() - started,
    )


def family_of(name: str) -> str:
    """Return the timm module that defines a model, such as ``resnet``."""
    return str(model_entrypoint(name).__module__).rpartition(".")[2]


def first_line(error: Exception) -> str:
    """Write an error's type and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else '-'}"


def measure(names: Sequence[str], *, most_parameters: int) -> Iterator[Outcome]:
    """Measure models, on the CPU where the meta device does not do."""
    for place, name in enumerate(names, start=1):
        outcome = attempt(name, "meta", most_parameters=most_parameters)
        if outcome.failed_step not in (None, "verify") and n_parameters(name) <= most_parameters:
            outcome = attempt(name, "cpu", most_parameters=most_parameters)
        print(f"{place} of {len(names)}: {name}: {outcome.failed_step or 'works'} "
              f"{outcome.reason or ''} {outcome.seconds:.1f} s", file=sys.stderr, flush=True)  # fmt: skip
        yield outcome


def n_parameters(name: str) -> int:
    """Count a model's parameters without making them; one that needs their values to be built is small."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name).parameters())
    except Exception:  # noqa: BLE001 (models raise anything; the CPU is tried next)
        return 0


def sampled(names: Sequence[str], every: int) -> list[str]:
    """Pick every so many models of each family, its first always."""
    seen: Counter[str] = Counter()
    taken = []
    for name in names:
        if seen[family_of(name)] % every == 0:
            taken.append(name)
        seen[family_of(name)] += 1
    return taken


def report(outcomes: Sequence[Outcome]) -> None:
    """Print the share that works, what fails family by family, and what was kept whole."""
    for what, some in (
        ("models", outcomes),
        ("convolutional models", [o for o in outcomes if o.is_convolutional]),
        ("other models", [o for o in outcomes if not o.is_convolutional]),
    ):
        if not some:
            continue
        n_work = sum(o.failed_step is None for o in some)
        n_verified = sum(o.verified and o.failed_step is None for o in some)
        print(
            f"{len(some)} {what} of {len({o.family for o in some})} families; {n_work} work "
            f"({n_work / len(some):.1%}), {n_verified} of them verified with weights"
        )
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.failed_step:
            kind = "" if outcome.foreseen else " (unforeseen)"
            reasons[outcome.family, f"{outcome.failed_step}{kind}: {outcome.reason}"].append(outcome.model)
    sizes = Counter(o.family for o in outcomes)
    for (family, reason), models in sorted(reasons.items()):
        print(f"  {family}: {len(models)} of {sizes[family]} ({', '.join(models[:3])}): {reason}")
    whole = [o for o in outcomes if o.opaque and not o.failed_step]
    print(f"{len(whole)} of those that work have modules kept whole:")
    for family, n_models in Counter(o.family for o in whole).most_common():
        example = next(o for o in whole if o.family == family)
        reasons_text = ", ".join(f"{n} x {reason}" for reason, n in example.opaque.items())
        print(f"  {family}: {n_models} of {sizes[family]} ({example.model}: {reasons_text})")


def main() -> None:
    """Measure every model whose name fits, and print and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--filter", default="*", help="timm's wildcard over model names (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every Nth model of a family")
    parser.add_argument(
        "--verify-parameters",
        type=int,
        default=30_000_000,
        metavar="N",
        help="verify models of at most so many parameters (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every outcome there")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    names = sampled(timm.list_models(options.filter, pretrained=False), options.every)
    outcomes = []
    for outcome in measure(names, most_parameters=options.verify_parameters):
        outcomes.append(outcome)
        if options.json:
            options.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1) + "\n")
    if not outcomes:
        parser.error(f"no model of timm has a name like {options.filter!r}")
    report(outcomes)
    print(f"{len(names)} models looked at in {time.perf_counter() - started:.0f} s; "
          f"timm {timm.__version__}, torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
