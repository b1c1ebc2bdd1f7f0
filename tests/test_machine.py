"""How much memory is free where a job or a container may not have all of the machine's; who lives."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from depthsearch import machine
from depthsearch.machine import excess_load, free_memory_bytes, process_lives, start_of

MACHINE = 10_000_000


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], int]]:
    """Put down what the system tells of control groups; calling what is returned gives what is free."""
    whole = psutil.virtual_memory()._replace(available=MACHINE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: whole)

    def write(own: str, files: dict[str, str]) -> Callable[[], int]:
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return lambda: free_memory_bytes(tmp_path / "groups", tmp_path / "own")

    return write


def second(folder: str, limit: object, used: object, stat: str = "") -> dict[str, str]:
    names = {"memory.max": limit, "memory.current": used, "memory.stat": stat}
    return {f"{folder}{name}": f"{value}\n" for name, value in names.items()}


def first(folder: str, limit: object, used: object, stat: str = "") -> dict[str, str]:
    names = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}
    return {f"memory/{folder}{name}": f"{value}\n" for name, value in names.items()}


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        ("1000000", "200000", 800_000),
        ("1000000", "1200000", 0),
        ("max", "200000", MACHINE),
        ("", "", MACHINE),
        (MACHINE * 3, MACHINE, MACHINE),
    ],
    ids=["limit", "above it", "none", "empty", "more than there is"],
)
def test_a_containers_limit_counts(group, limit: object, used: object, free: int) -> None:
    assert group("0::/\n", second("", limit, used))() == free


def test_without_control_groups_it_is_the_machines(tmp_path: Path, group) -> None:
    assert group("", {})() == MACHINE
    assert free_memory_bytes(tmp_path / "none", tmp_path / "no file") == MACHINE


def test_a_job_may_have_its_own_limit_and_those_around_it(group) -> None:
    """As Slurm makes them, seen from outside of any container."""
    job, step = "slurmstepd.scope/job_7/", "slurmstepd.scope/job_7/step_0/"
    own = f"0::/{step}user/task_0\n"
    files = second(f"{step}user/task_0/", "max", 300_000) | second(step, 2_000_000, 300_000)
    assert group(own, files)() == 1_700_000
    # The job's other step uses some of what both may have.
    assert group(own, second(job, 2_000_000, 1_500_000))() == 500_000
    # Another job's is not asked.
    assert group(own, second("slurmstepd.scope/job_8/", 1, 1))() == 500_000


def test_the_first_version_has_a_tree_for_memory(group) -> None:
    own = "9:name=systemd:/x\n4:cpu,memory:/slurm/uid_1/job_7\n1:cpuset:/other\n0::/\n"
    unlimited = first("", 2**63 - 4096, 5_000_000)
    assert group(own, unlimited)() == MACHINE
    assert group(own, first("slurm/uid_1/job_7/", 1_000_000, 400_000) | first("other/", 1, 1))() == 600_000
    assert group(own, first("slurm/", 900_000, 400_000))() == 500_000


def test_a_container_may_see_its_own_group_as_the_outermost(group) -> None:
    """The path is then one of the system around it, which is not there."""
    assert group("4:memory:/docker/0a1b\n", first("", 1_000_000, 400_000))() == 600_000
    assert group("0::/../../elsewhere\n", second("", 1_000_000, 300_000))() == 700_000


def test_files_that_were_read_once_are_no_use_of_memory(group) -> None:
    stat = "anon 100000\ninactive_anon 5000\ninactive_file 850000\nactive_file 40000\n"
    assert group("0::/\n", second("", 1_000_000, 990_000, stat))() == 860_000
    # In the first version a group's own are told first, then those of all groups in it.
    stat = "inactive_file 7\ntotal_inactive_file 850000\n"
    assert group("4:memory:/a\n", first("a/", 1_000_000, 990_000, stat))() == 860_000
    # The numbers are not of one moment.
    assert group("4:memory:/a\n", first("a/", 1_000_000, 840_000, stat))() == 1_000_000


# --- processes ----------------------------------------------------------------------------------


def test_a_process_lives_until_it_ends_and_a_later_one_of_its_number_is_another() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = start_of(process.pid)
        assert process_lives(process.pid, started) is True
        assert process_lives(process.pid, f"{started}1") is False
    assert process_lives(process.pid, started) is False


def test_a_process_that_the_system_hides_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    started = start_of(os.getpid())
    monkeypatch.setattr(machine, "start_of", lambda _: None)
    monkeypatch.setattr(psutil, "pid_exists", lambda _: False)
    assert process_lives(os.getpid(), started) is None
    # That of nobody is.
    assert sys.platform == "win32" or process_lives(2**22 + 1, started) is False


@pytest.mark.parametrize(("load", "expected"), [(4.0, None), (4.5, 4.5)])
def test_a_load_above_the_cores_is_too_much(
    monkeypatch: pytest.MonkeyPatch, load: float, expected: float | None
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (load, 0.0, 0.0))
    assert excess_load() == expected
