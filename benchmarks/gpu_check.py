"""Does all that needs a GPU work on this machine, and how fast is it? One table, in at most eight minutes.

    benchmarks/gpu_check.sh
    benchmarks/gpu_check.sh --cpu   # every step with tiny sizes, as far as it goes without a GPU

Five steps, each a process of its own with a time limit of its own: the tests that need a GPU; `speed.grid24`;
`speed.suffix_rate` with resnet50 and densenet121; a study of ten trials whose two workers share the GPU;
`speed.memory`. A step that fails is a row that says why, and the others run all the same. The images are
scikit-learn's digits, enlarged and written as JPEG files, and all weights are random: the arithmetic is that
of pretrained ones, scores say nothing.

Ends with 1 if a step failed, with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import choose_device

ROOT = Path(__file__).parents[1]
# A small network that builds at once.
TINY = "test_resnet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is.

    Attributes:
        device: What to compute on.
        patience: How many times its limit a step may take.
        photo_side: Height and width of the image files, in pixels.
        n_each: Training images of each class.
        image_size: Of what the networks see, in pixels.
        memory_image_size: The same for the memory that keeping takes.
        grid: Options of `speed.grid24`.
        suffix: Backbones and options of `speed.suffix_rate`.
        study: Backbone and options of the study.
        kept: Backbone of `speed.memory`.
    """

    device: str
    patience: float
    photo_side: int
    n_each: int
    image_size: int
    memory_image_size: int
    grid: tuple[str, ...]
    suffix: tuple[str, ...]
    study: tuple[str, ...]
    kept: str


GPU = Sizes(
    device="cuda",
    patience=1,
    photo_side=256,
    n_each=60,
    image_size=224,
    memory_image_size=96,
    grid=("--limit-images", "256", "--epochs", "5", "--workers", "4"),
    suffix=("--backbone", "resnet50", "densenet121", "--rounds", "3"),
    study=("--backbone", "resnet50", "--epochs", "3", "--batch-size", "32"),
    kept="resnet50",
)
CPU = Sizes(
    device="cpu",
    # Small, but the processors may have other work.
    patience=5,
    photo_side=32,
    n_each=10,
    image_size=32,
    memory_image_size=32,
    grid=("--limit-images", "8", "--epochs", "1"),
    suffix=("--backbone", TINY, "--batch-size", "8", "--rounds", "1"),
    study=("--backbone", TINY, "--epochs", "1"),
    kept=TINY,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One of the things to run.

    Attributes:
        name: In the table.
        command: Arguments for this Python.
        limit_seconds: When it is ended.
        figures: Makes of what it printed what the table shows; raises where that is not there.
    """

    name: str
    command: Sequence[str]
    limit_seconds: float
    figures: Callable[[str], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of a step.

    Attributes:
        step: Its name.
        is_ok: Whether it ran to its end and printed its figures.
        seconds: What it took.
        figures: Of the step, or why it failed.
    """

    step: str
    is_ok: bool
    seconds: float
    figures: str


def steps(sizes: Sizes, photos: Path, folder: Path) -> list[Step]:
    """List the steps; on a GPU their limits add up to less than eight minutes."""
    data = ("--data", str(photos), "--device", sizes.device)
    seen = (*data, "--image-size", str(sizes.image_size))
    studied = ("--trials", "10", "--workers", "2", "--sampler", "tpe", "--pruner", "none", "--confirm", "0")
    stored = ("--storage", f"sqlite:///{folder}/study.db", "--name", "check", "--json")
    small = (*data, "--image-size", str(sizes.memory_image_size), "--backbone", sizes.kept)
    # Collecting all tests would take a third of the time.
    marked = [str(path) for path in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.gpu" in path.read_text()]
    tests = ("-m", "pytest", "-q", "-n", "0", "-m", "gpu", *marked)
    return [
        Step(
            name="gpu tests",
            # Without a GPU they are found, no more.
            command=tests if sizes.device == "cuda" else (*tests, "--collect-only"),
            limit_seconds=90 * sizes.patience,
            figures=tests_of,
        ),
        Step(
            name="grid24",
            command=("-m", "benchmarks.speed.grid24", *seen, "--weights", "random", *sizes.grid),
            limit_seconds=130 * sizes.patience,
            figures=grid_of,
        ),
        Step(
            name="suffix rate",
            command=("-m", "benchmarks.speed.suffix_rate", *seen, "--weights", "random", *sizes.suffix),
            limit_seconds=100 * sizes.patience,
            figures=suffix_of,
        ),
        Step(
            name="study, 2 workers",
            command=(
                *("-m", "depthsearch", "study", *seen, "--weights", "random"),
                *(*sizes.study, *studied, *stored),
            ),
            limit_seconds=70 * sizes.patience,
            figures=study_of,
        ),
        Step(
            name="memory",
            command=("-m", "benchmarks.speed.memory", *small),
            limit_seconds=75 * sizes.patience,
            figures=memory_of,
        ),
    ]


def tests_of(printed: str) -> str:
    """Return how many tests passed, failed, or were found."""
    summary = printed.strip().splitlines()[-1]
    counted = re.search(r"(\d+ (?:passed|skipped).*) in ", summary)
    collected = re.search(r"(\d+)/\d+ tests collected", summary)
    return _group(counted) if collected is None else f"{_group(collected)} tests, not run"


def grid_of(printed: str) -> str:
    """Return how much faster the grid is with kept features, and how many of its trials are equal."""
    ratio = re.search(r"^total +[\d.]+ +[\d.]+ +([\d.]+) +([\d.]+)$", printed, re.MULTILINE)
    equal = re.search(r"^Equal +(\d+ of \d+) trials.*; (.*)$", printed, re.MULTILINE)
    by_macs = f"{_group(ratio)} times faster than plain, {_group(ratio, 2)} by MACs"
    return f"{by_macs}; equal: {_group(equal)}, {_group(equal, 2)}"


def suffix_of(printed: str) -> str:
    """Return for each backbone the lowest and highest share of the arithmetic's own rate."""
    shares: dict[str, list[float]] = {}
    for backbone, share in re.findall(
        r"^\| (\S+) \|.*\| ([\d.]+) \| [\d.]+ to [\d.]+ \|$", printed, re.MULTILINE
    ):
        shares.setdefault(backbone, []).append(float(share))
    if not shares:
        raise ValueError("no rates")
    ranges = (f"{name} {min(each):.2f} to {max(each):.2f}" for name, each in shares.items())
    return f"{'; '.join(ranges)} of the bare step's rate"


def study_of(printed: str) -> str:
    """Return how many trials there are, and what they took; all have to be complete."""
    study = json.loads(printed.strip().splitlines()[-1])
    counts = ", ".join(f"{n} {state}" for state, n in study["trials"].items() if n)
    if counts != "10 complete":
        raise ValueError(f"10 complete trials were wanted, there are {counts or 'none'}")
    return f"{counts}; {study['cost']['seconds']:.1f} s in trials and probes, of both workers together"


def memory_of(printed: str) -> str:
    """Return for each budget the peak over none, as a share of what was kept."""
    shares = re.findall(r"MiB \| ([\d.-]+|nothing kept) \|$", printed, re.MULTILINE)
    if not shares:
        raise ValueError("no budgets")
    return f"peak over none, as a share of what is kept: {', '.join(shares)} (goal: 1.1)"


def _group(match: re.Match[str] | None, number: int = 1) -> str:
    if match is None:
        raise ValueError("nothing to read")
    return match[number]


def run(step: Step, log: Path, environment: Mapping[str, str]) -> Row:
    """Run a step, end it with all its processes when its time is up, and read its figures."""
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(step.limit_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - started
    printed = log.read_text(encoding="utf-8", errors="replace")
    last = next((line.strip() for line in reversed(printed.splitlines()) if line.strip()), "nothing printed")
    if status != 0:
        reason = f"more than {step.limit_seconds:g} s" if status is None else f"ended with {status}"
        return Row(
            step=step.name, is_ok=False, seconds=seconds, figures=f"{reason}: {last[:100]} (see {log})"
        )
    try:
        figures = step.figures(printed)
    except (ValueError, LookupError) as error:
        return Row(step=step.name, is_ok=False, seconds=seconds, figures=f"{error} (see {log})")
    return Row(step=step.name, is_ok=True, seconds=seconds, figures=figures)


def check(listed: Sequence[Step], folder: Path) -> bool:
    """Run the steps, print a row for each, and return whether all are well.

    Args:
        listed: The steps.
        folder: For what they print and for what depthsearch caches.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    print("| step | result | seconds | figures |\n|---|---|---|---|", flush=True)
    rows = []
    for number, step in enumerate(listed, 1):
        row = run(step, folder / f"{number}-{step.name.split(',')[0].replace(' ', '-')}.log", environment)
        result = "ok" if row.is_ok else "FAILED"
        figures = row.figures.replace("|", "/")
        print(f"| {row.step} | {result} | {row.seconds:.0f} | {figures} |", flush=True)
        rows.append(row)
    total = sum(row.seconds for row in rows)
    print(f"{sum(row.is_ok for row in rows)} of {len(rows)} steps ok, {total:.0f} s in all.")
    return all(row.is_ok for row in rows)


def write_photos(folder: Path, *, side: int, n_each: int) -> None:
    """Write digits as JPEG files of ten classes, for training, and a third as many to test."""
    digits = load_digits()
    for label in range(10):
        images = digits.images[digits.target == label][: n_each + n_each // 3]
        for number, pixels in enumerate(images):
            place = folder / ("train" if number < n_each else "test") / str(label)
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray((pixels * 15).astype("uint8")).convert("RGB")
            image.resize((side, side)).save(place / f"{number}.jpg")


def main() -> None:
    """Check this machine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU")
    parser.add_argument(
        "--logs", type=Path, help="folder for what the steps print (default: a temporary one)"
    )
    given = parser.parse_args()
    if not given.cpu and not torch.cuda.is_available():
        print("No GPU here: nothing was checked. --cpu runs every step with tiny sizes.", file=sys.stderr)
        sys.exit(2)
    sizes = CPU if given.cpu else GPU
    folder = (given.logs or Path(tempfile.mkdtemp(prefix="depthsearch-gpu-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    print_facts(machine_facts(choose_device(sizes.device)))
    print("Weights are random: rates and memory are those of pretrained ones, scores say nothing.")
    with tempfile.TemporaryDirectory() as photos:
        write_photos(Path(photos), side=sizes.photo_side, n_each=sizes.n_each)
        is_ok = check(steps(sizes, Path(photos), folder), folder)
    sys.exit(0 if is_ok else 1)


if __name__ == "__main__":
    main()
