"""Run the demo and `depthsearch fit`; put their output and pictures into the README and the guide.

    python tools/refresh_readme.py            # minutes: the demo as it is, in a folder and a cache of its own
    python tools/refresh_readme.py --check    # seconds: markers are there, commands parse, code runs

What stands between ``<!-- demo:NAME -->`` and ``<!-- demo:end -->`` is written here. It needs the
extra `images`, and a Chrome or Chromium. The pictures of other studies are those of `draw_studies.py`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GUIDE = ROOT / "docs" / "guide" / "first-study.md"
MODEL = ROOT / "docs" / "guide" / "model.md"
MARKED = {README: ("time", "short"), GUIDE: ("long",), MODEL: ("fit",)}
PICTURES = ROOT / "docs" / "pictures"
FIGURES = ("score_by_depth", "transfer_curve", "learning_curves", "learning_rate_by_depth")
DEPTHSEARCH = (sys.executable, "-m", "depthsearch")
DEMO = ("study", "--backbone", "densenet121")
MOST_LINES = 150
# Lines that the README shows, by how they begin, with those below that are indented as far as these.
SHOWN = (
    "Data ",
    "Backbone ",
    "Study ",
    "frozen features",
    "trial 1 complete",
    "search ended",
    "Best ",
    "Baselines ",
    "Evidence ",
    "Cost ",
)
CONTINUED = " " * 10
# Rows of a table that the guide shows.
N_ROWS = 3


def main() -> None:
    """Refresh the files, or check them."""
    parser = argparse.ArgumentParser(description="Refresh what README and guide show of the demo.")
    parser.add_argument("--check", action="store_true", help="run no demo, change nothing")
    if parser.parse_args().check:
        check()
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, seconds = output_of(folder, *DEMO)
        draw_figures(folder)
        take_pictures(folder)
        fitted, _ = output_of(folder, "fit")
    parts = {
        "time": f"{seconds:.0f} s on {machine()}",
        "short": _as_text(short(lines)),
        "long": _as_text(long(lines)),
        "fit": _as_text(with_short_tables(fitted)),
    }
    for path, names in MARKED.items():
        text = path.read_text(encoding="utf-8")
        for name in names:
            text = replaced(text, name, parts[name])
        path.write_text(text, encoding="utf-8")


def output_of(folder: Path, *arguments: str) -> tuple[list[str], float]:
    """Run depthsearch as on a fresh machine without a model hub; return its output and its seconds.

    Its progress goes to the standard error where nobody watches; unbuffered, both keep their order.
    """
    own = {"XDG_CACHE_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment = os.environ | own
    started = time.perf_counter()
    done = subprocess.run(
        [*DEPTHSEARCH, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    return [line.rstrip() for line in done.stdout.splitlines()], time.perf_counter() - started


def draw_figures(folder: Path) -> None:
    """Draw the figures of the page on figures that one study of one backbone and one aim has."""
    import optuna

    from depthsearch import visualization

    storage = f"sqlite:///{folder}/depthsearch.db"
    study = optuna.load_study(study_name=None, storage=storage)
    for name in FIGURES:
        figure = getattr(visualization, f"plot_{name}")(study)
        figure.write_image(PICTURES / f"demo-{name.replace('_', '-')}.svg", width=720, height=460)


def take_pictures(folder: Path) -> None:
    """Take pictures of the report's page and of the dashboard, where there is a Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("No Chromium: the pictures of report and dashboard stay as they are.", file=sys.stderr)
        return

    def take(address: str, name: str, height: int) -> None:
        looks = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        size = [f"--window-size=1000,{height}", "--virtual-time-budget=15000"]
        subprocess.run(
            [chromium, *looks, *size, f"--screenshot={PICTURES / name}", address],
            check=True,
            stderr=subprocess.DEVNULL,
        )

    subprocess.run(
        [*DEPTHSEARCH, "report", "--out", "report"], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    take(f"file://{folder}/report/report.html", "report.png", 1150)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*DEPTHSEARCH, "dashboard", "--port", str(port)], cwd=folder, stderr=subprocess.PIPE, text=True
    )
    with server:
        try:
            assert server.stderr is not None
            server.stderr.readline()  # it listens once it says so
            take(f"http://127.0.0.1:{port}/dashboard/studies/1/note", "dashboard.png", 950)
        finally:
            server.terminate()


def machine() -> str:
    """Name what the demo ran on."""
    from depthsearch.devices import choose_device, processor_name
    from depthsearch.machine import usable_cores

    return f"{usable_cores()} cores, {processor_name(choose_device('cpu'))}"


def short(lines: Sequence[str]) -> list[str]:
    """Choose about a dozen lines: what is searched, one trial, the answer and its cost."""
    kept, is_shown = [], False
    for line in lines:
        # The last lines name the study once more, and what to do with it.
        is_shown = (line.startswith(SHOWN) and not line.startswith("Study     ")) or (
            is_shown and line.startswith(CONTINUED)
        )
        if is_shown:
            kept.append(line)
        if line.startswith("trial 1 complete"):
            kept.append("  ...")
    return kept


def long(lines: Sequence[str]) -> list[str]:
    """Leave trials out: all but the first two."""
    kept, n_trials = [], 0
    for line in lines:
        n_trials += bool(re.match(r"trial \d+ \(", line))
        if n_trials <= 2 or not line.startswith(("trial", "  epoch")):
            kept.append(line)
        elif kept[-1] != "  ...":
            kept.append("  ...")
    return kept


def with_short_tables(lines: Sequence[str]) -> list[str]:
    """Leave rows of tables out: all but the first three of each."""
    kept, n_rows = [], 0
    for line in lines:
        n_rows = n_rows + 1 if line.startswith("│") else 0
        if n_rows <= N_ROWS:
            kept.append(line)
        elif kept[-1] != "  ...":
            kept.append("  ...")
    return kept


def _as_text(lines: Sequence[str]) -> str:
    return f"\n```text\n{chr(10).join(lines)}\n```\n"


def replaced(text: str, name: str, part: str) -> str:
    """Put a part between its markers."""
    pattern = re.compile(rf"(<!-- demo:{name} -->).*?(<!-- demo:end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"Not one <!-- demo:{name} --> with its <!-- demo:end -->.")
    return pattern.sub(lambda match: match[1] + part + match[2], text)


def commands(text: str) -> list[list[str]]:
    """List the arguments of depthsearch in the consoles of a page; three dots stand for a study's options."""
    consoles = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    said = re.findall(r"(?:^\$|&&) depthsearch (.*)$", consoles, re.MULTILINE)
    return [shlex.split(each.replace(" ... ", " --backbone resnet18 "), comments=True) for each in said]


def python_blocks(text: str) -> list[str]:
    """List the Python code of a page."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def check() -> None:
    """Raise unless the markers are there, the README is short, its commands parse and its code runs."""
    for path, names in MARKED.items():
        text = path.read_text(encoding="utf-8")
        for name in names:
            replaced(text, name, "")
        _check_commands(commands(text))
    text = README.read_text(encoding="utf-8")
    n_lines = len(text.splitlines())
    if n_lines > MOST_LINES:
        raise SystemExit(f"README.md has {n_lines} lines, more than {MOST_LINES}.")
    for block in python_blocks(text):
        _run(block)


def _check_commands(each: Iterable[list[str]]) -> None:
    from depthsearch.cli.parser import make_parser

    for arguments in each:
        make_parser().parse_args(arguments)


def _run(block: str) -> None:
    """Run an objective of the README for three trials, on random weights: the hub is not asked."""
    import optuna

    def my_training(model: object, learning_rate: float, head_width: int) -> float:
        return learning_rate

    names: dict[str, object] = {"my_training": my_training}
    exec(compile(block.replace("pretrained=True", "pretrained=False"), str(README), "exec"), names)
    study = optuna.create_study()
    study.optimize(names["objective"], n_trials=3)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
