"""How long the README's demo takes: without a store, with one, and a second time on the same images.

    python -m benchmarks.speed.demo

Runs `depthsearch study --backbone densenet121` in a cache of its own: *plain* keeps nothing and decodes
the images (--keep-memory 0 --keep-disk 0), *cold* fills its store, *warm* is a second study that finds it
filled. All three end in the same best cut and score; that is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.shared.machine import machine_facts, print_facts
from depthsearch import choose_device
from depthsearch.devices import use_all_cores

SIDES = {"plain": ["--keep-memory", "0", "--keep-disk", "0"], "cold": [], "warm": []}


def study(name: str, folder: Path, options: list[str]) -> tuple[float, dict[str, Any]]:
    """Run a study; give its seconds from start to end and its result."""
    command = [sys.executable, "-m", "depthsearch", "study", "--name", name, "--json", *options]
    command += ["--storage", f"sqlite:///{folder / name}.db"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    started = time.perf_counter()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return seconds, json.loads(ended.stdout.splitlines()[-1])


def main() -> None:
    """Run the three and print a table."""
    parser = argparse.ArgumentParser(description="Seconds of a study without a store, with one, and again.")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--without-plain", action="store_true", help="skip the slow side")
    parser.add_argument("options", nargs="*", default=[], help="of depthsearch study, behind --")
    arguments = parser.parse_args()
    options = arguments.options or ["--backbone", "densenet121"]
    use_all_cores()
    print_facts(machine_facts(choose_device()))
    print(f"depthsearch study {' '.join(options)}")
    print("| round | side | seconds | in trials and probes | full fine-tunes | best score |")
    print("|---|---|---|---|---|---|", flush=True)
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            bests = set()
            for name, own in SIDES.items():
                if name == "plain" and arguments.without_plain:
                    continue
                seconds, found = study(name, Path(folder), [*options, *own])
                bests.add((found["best"]["score"], found["best"]["cut"]["index"]))
                cost = found["cost"]
                costs = f"{cost['seconds']:.1f} | {cost['full_fine_tunes']:.2f}"
                score = f"{found['best']['score']:.4f}"
                print(f"| {number + 1} | {name} | {seconds:.1f} | {costs} | {score} |", flush=True)
            same = "the same" if len(bests) == 1 else f"NOT the same: {bests}"
            print(f"the best cut and its score are {same}", flush=True)


if __name__ == "__main__":
    main()
