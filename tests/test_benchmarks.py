"""Every benchmark runs, on a net and images too small for its figures to mean anything.

Slow as a whole: guards what published figures were measured with against changes of what it calls.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image

from benchmarks.shared.postgres_server import why_missing

ROOT = Path(__file__).parents[1]
NET = "test_resnet"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 20 images of each of two classes, for training and test."""
    folder = tmp_path_factory.mktemp("photos")
    for label in (3, 8):
        of_class = [row for row in range(len(digits.train)) if digits.train.labels[row] == label][:20]
        for row in of_class:
            pixels = digits.train.images[digits.train.rows[row]].permute(1, 2, 0).numpy()
            for split in ("train", "test"):
                place = folder / split / str(label)
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place / f"{row}.png")
    return folder


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run a benchmark in this process, which has PyTorch loaded; give what it printed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(script: str, *options: object) -> str:
        if script == "speed.workers":
            # It measures how workers share the machine with the process that starts them.
            command = [sys.executable, "-m", f"benchmarks.{script}", *map(str, options)]
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        monkeypatch.setattr(sys, "argv", [script, *map(str, options)])
        assert not import_module(f"benchmarks.{script}").main()
        return capsys.readouterr().out

    n_threads, verbosity = torch.get_num_threads(), optuna.logging.get_verbosity()
    yield run
    torch.set_num_threads(n_threads)
    optuna.logging.set_verbosity(verbosity)


def test_gpu_check_runs_every_step_without_a_gpu(tmp_path: Path) -> None:
    """Guards a published comparison, whose sides train the same, and four more programs."""
    command = [ROOT / "benchmarks" / "gpu_check.sh", "--cpu", "--logs", tmp_path]
    environment = {**os.environ, "PYTHON": sys.executable}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert "equal: 24 of 24" in ended.stdout
    assert "10 complete" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("5 of 5 steps ok")
    grid, suffix, memory = (
        (tmp_path / f"{step}.log").read_text() for step in ("2-grid24", "3-suffix-rate", "5-memory")
    )
    assert "Equal     24 of 24 trials in every score and validation loss" in grid
    assert suffix.count(f"| {NET} |") == 4
    assert memory.count(" MiB |") >= 3


def test_plain_runs_a_study(photos: Path, run) -> None:
    """Guards the other side of that comparison."""
    options = ("--data", photos, "--backbone", NET, "--weights", "random", "--image-size", 32)
    assert "a trial (n = 2 trials)" in run("speed.plain", *options, "--trials", 2, "--epochs", 1)


def test_heads_prints_a_row_for_each_way(photos: Path, run) -> None:
    options = ("--data", photos, "--backbone", NET, "--weights", "random", "--image-size", 32)
    shown = run("search.heads", *options, "--epochs", 2, "--splits", 2)
    assert [way for way in ("solved", "ridge probe", "2 epochs at 0.003") if f"| {way}" not in shown] == []


def test_head_start_prints_a_row_for_each_cut_and_learning_rate(photos: Path, run) -> None:
    options = ("--data", photos, "--backbone", NET, "--weights", "random", "--image-size", 32)
    grid = ("--depths", "0,0.9", "--learning-rates", "1e-3,1e-2", "--epochs", 1, "--splits", 2)
    shown = run("search.head_start", *options, *grid)
    assert len(re.findall(r"^\| \d.* points +\|$", shown, re.MULTILINE)) == 4


def test_demo_finds_the_same_cold_and_warm(run) -> None:
    """Guards the demo: kept features change no result."""
    study = f"--backbone {NET} --weights random --image-size 16 --subset 0.2 --trials 3 --epochs 1"
    shown = run("speed.demo", "--", *study.split(), "--precision", "float32")
    assert "the best cut and its score are the same" in shown


def test_views_prints_a_row_for_each_number_of_views(photos: Path, run) -> None:
    options = ("--data", photos, "--backbone", NET, "--weights", "random", "--image-size", 32)
    settings = ("--layer", "fc", "--epochs", 2, "--seeds", 2, "--views", 1, 2)
    shown = run("speed.views", *options, *settings)
    assert [name for name in ("1", "2", "fresh") if f"\n| {name} | " not in shown] == []


def test_first_depths_compares_on_a_table_of_its_own(run, tmp_path: Path) -> None:
    table = tmp_path / "digits.json"
    options = ("--backbone", NET, "--weights", "random", "--image-size", 16, "--epochs", 1)
    grid = ("--cuts", 3, "--learning-rates", "1e-3,1e-2", "--precision", "float32", "--out", table)
    run("search.first_depths", "table", *options, *grid)
    shown = run("search.first_depths", "compare", table, "--seeds", 1, "--trials", 7)
    assert "centred" in shown


def test_backbones_compares_one_study_with_one_each(run) -> None:
    shown = run("search.backbones", "--studies", 2, "--trials", 16, "--backbones", 2)
    assert "2 draws of 2 backbones, 16 trials in one study each" in shown
    assert all(f"| {way}" in shown for way in ("one study each", "jointly", "conditional, TPE"))


def test_aims_compares_the_fronts_that_are_found(run) -> None:
    shown = run("search.aims", "--studies", 2, "--trials", 7, "--cost", "parameters")
    assert "2 studies of 7 trials each way, score against parameters, sampler auto" in shown
    assert [name for name in ("accuracy+cost", "accuracy", "random") if f"| {name} " not in shown] == []


def test_workers_prints_a_row_for_each_number_of_workers(run) -> None:
    options = ("--workers", 1, 2, "--trials", 4, "--epoch-seconds", 0.01)
    shown = run("speed.workers", *options)
    rows = [line for line in shown.splitlines() if line.startswith(("| 1 | 4 |", "| 2 | 4 |"))]
    assert len(rows) == 2
    # Two may begin a fifth trial in the same moment.
    assert [row.split("|")[5].strip() in ("4", "5") for row in rows] == [True, True]


def test_workers_that_train_have_nothing_beside_them(run) -> None:
    """Guards that number against load that it would hide."""
    shown = run("speed.workers", "--workers", 2, "--real", "--subset", 0.2)
    assert re.search(r"^\| 2 \| 16 \| [\d.]+ \| 1\.00 \|$", shown, re.MULTILINE), shown


def test_faults_prints_a_clean_account_of_kills_and_of_databases_that_go_away(run) -> None:
    """Guards contract 6 with real kills, a few of the hundreds of the campaign."""
    storage = "sqlite" if why_missing() else "postgres"
    small = ("--rates", "1e-3", "--epochs", 2, "--images", 8, "--workers", 2, "--away", 1)
    options = ("--kills", 4, "--only", "kills", "database", "--storage", storage, "--seconds-between", 2)
    shown = run("faults.campaign", *small, *options)
    clean = r"\| 0 \| \d\d \| 0 \| 0 \| 0 \| 0 \| yes \|"
    name = {"sqlite": "SQLite", "postgres": "PostgreSQL"}[storage]
    assert re.search(rf"^\| kills, {name}, study 1 \| [1-4] \(1\) \|.*{clean}", shown, re.MULTILINE), shown
    away = {"sqlite": "SQLite locked for 1 s", "postgres": "PostgreSQL killed, back after 1 s"}[storage]
    # Started once: the study pauses.
    assert re.search(rf"^\| {away} \| 3 \(3\) \| 0 \+ 0 \| 1 {clean}", shown, re.MULTILINE), shown
