"""The check of a machine with a GPU: a step that fails is a row, and the others run."""

import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Step, check

# Starts a process of its own, which would outlive it.
SLEEPS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"


def step(name: str, script: str, *, limit_seconds: float = 60) -> Step:
    return Step(
        name=name,
        command=("-c", script),
        limit_seconds=limit_seconds,
        figures=lambda printed: f"{float(printed):.1f} images/s",
    )


def test_steps_that_fail_are_rows_and_do_not_stop_the_others(tmp_path: Path, capsys) -> None:
    listed = [
        step("raises", "raise SystemExit('no memory')"),
        step("hangs", SLEEPS, limit_seconds=0.5),
        step("babbles", "print('nothing')"),
        step("works", "print(3.14159)"),
    ]
    assert not check(listed, tmp_path)
    heading, line, raises, hangs, babbles, works, end = capsys.readouterr().out.splitlines()
    assert raises.startswith("| raises | FAILED | ")
    assert f"ended with 1: no memory (see {tmp_path / '1-raises.log'})" in raises
    assert "more than 0.5 s: nothing printed" in hangs
    assert "could not convert string to float" in babbles
    assert works.startswith("| works | ok | ")
    assert "3.1 images/s" in works
    assert end.startswith("1 of 4 steps ok")
    assert len({row.count("|") for row in (heading, line, raises, hangs, babbles, works)}) == 1


def test_where_all_steps_are_well_the_check_is(tmp_path: Path) -> None:
    assert check([step("works", "print(1)")], tmp_path)


def test_the_limits_of_all_steps_add_up_to_less_than_eight_minutes(tmp_path: Path) -> None:
    listed = gpu_check.steps(gpu_check.GPU, tmp_path, tmp_path)
    assert sum(each.limit_seconds for each in listed) < 480


def test_what_the_tests_say_is_read() -> None:
    assert gpu_check.tests_of("....\n6 passed, 1 warning in 20.03s\n") == "6 passed, 1 warning"
    assert gpu_check.tests_of("6/254 tests collected (248 deselected) in 9.9s") == "6 tests, not run"
    with pytest.raises(ValueError, match="nothing to read"):
        gpu_check.tests_of("no tests ran in 0.01s")


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check"])
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main()
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "No GPU here: nothing was checked. --cpu runs every step with tiny sizes.\n"
