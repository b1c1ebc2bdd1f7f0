"""The script for Slurm, run with stand-ins for the commands of Slurm, Ray and depthsearch."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "cluster" / "slurm.sh"
COMMANDS = {
    "depthsearch": 'echo "$@" >"$HOME/study"; exit "$STATUS"',
    "scontrol": 'echo "$@" >"$HOME/scontrol"',
    "python": "echo token",
    "hostname": "echo first",
    "ray": "exit 0",
    "srun": "exit 0",
}


pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a job of two nodes, and those of the stand-ins."""
    folder = tmp_path / "depthsearch" / "bin"
    folder.mkdir(parents=True)
    (folder / "activate").touch()
    for name, does in COMMANDS.items():
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "1", "USER": "me"}
    return {"HOME": str(tmp_path), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", **job}


def asked_of_slurm(folder: Path) -> str:
    told = folder / "scontrol"
    return told.read_text() if told.exists() else ""


@pytest.mark.parametrize(
    ("status", "asked"), [(0, ""), (1, ""), (2, ""), (130, "requeue 7\n"), (75, "requeue 7\n")]
)
def test_a_job_queues_itself_again_where_the_same_command_goes_on(
    tmp_path, environment, status: int, asked: str
) -> None:
    ended = subprocess.run(
        ["bash", SCRIPT],
        env={**environment, "STATUS": str(status)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (status, "")
    assert "--executor ray --ray-address first:20007 --workers 8" in (tmp_path / "study").read_text()
    assert asked_of_slurm(tmp_path) == asked


def test_a_job_whose_time_is_nearly_up_waits_for_the_end_of_its_study(tmp_path, environment) -> None:
    study = tmp_path / "depthsearch" / "bin" / "depthsearch"
    # Its epoch takes a while.
    does = 'trap "sleep 0.5; exit 130" TERM; touch "$HOME/study"; while true; do sleep 0.1; done'
    study.write_text(f"#!/bin/bash\n{does}\n")
    with subprocess.Popen(["bash", SCRIPT], env=environment) as job:
        deadline = time.monotonic() + 30
        while not (tmp_path / "study").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        job.terminate()
        assert job.wait(30) == 130
    assert asked_of_slurm(tmp_path) == "requeue 7\n"
