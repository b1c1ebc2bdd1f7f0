"""What the tests of bad input share: a command run here, and what has to be so when it is refused."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

from depthsearch.cli import main

# The same examples every time, and nothing left in the tree. Loading PyTorch may take any one of them long.
STEADY = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NOTICES = ("Device ", "Data ", "Backbone ", "No --data", "Others on this machine ", "Left out: ", "Study ")
# What a terminal would obey, or what would part one line into two.
OBEYED = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u2028\u2029\u202a\u202b\u202d\u202e\u2066\u2067",
}
OPTIONS = {
    "backbone": "test_resnet",
    "weights": "random",
    "image-size": "16",
    "device": "cpu",
    "precision": "float32",
    "trials": "1",
    "epochs": "1",
    "confirm": "0",
    "pruner": "none",
    "head-width": "0",
    "storage": "sqlite:///studies.db",
}
# The command of a study that takes a second; a later option of the same name wins.
STUDY = ["study", *(f"--{name}={value}" for name, value in OPTIONS.items())]


def status_of(argv: list[str]) -> int:
    """Run a command here; give its exit status, also where the parser exits by itself."""
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def studied(folder: Path, database: str) -> str:
    """Make images of two classes in ``folder/set`` and a study ``ab`` of them; return its --storage."""
    noise = np.random.default_rng(0).integers(0, 255, (12, 12, 12, 3), dtype=np.uint8)
    for place, pixels in enumerate(noise):
        path = folder / "set" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    storage = f"--storage=sqlite:///{folder}/{database}"
    assert status_of([*STUDY, f"--data={folder}/set", "--name=ab", storage]) == 0
    return storage


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that has to refuse what it is given; give the one line that says why."""
    capsys.readouterr()
    status = status_of(argv)
    told = capsys.readouterr()
    assert status == 2, (status, told)
    return the_line(told.err)


def the_line(text: str) -> str:
    """Find the one line on stderr that says what is wrong; before it only what was loaded may be told."""
    assert "Traceback" not in text, text
    assert text.endswith("\n"), text
    *before, line = text[:-1].split("\n")
    assert all(earlier.startswith(NOTICES) for earlier in before), text
    assert line.startswith("depthsearch"), text
    assert not OBEYED & set(line), ascii(line)
    assert 20 < len(line) < 1400, line
    return line


def contents(folder: Path) -> dict[str, str]:
    """Take down what every file of a folder says, so that what has changed can be told afterwards."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(said_by(path)).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def said_by(path: Path) -> bytes:
    """Read a file; of a database what it holds, as its log may be written back at any time."""
    if path.suffix == ".db":
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database:
            return "\n".join(database.iterdump()).encode(errors="replace")
    return path.read_bytes()
