"""The script for Slurm, run with stand-ins for the commands of Slurm, Ray and depthsearch."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "scaling" / "cluster" / "slurm.sh"
COMMANDS = {
    "depthsearch": 'echo "$@" >"$HOME/study"; exit "$STATUS"',
    "scontrol": 'echo "$@" >"$HOME/scontrol"',
    "python": "echo token",
    "hostname": "echo first.example.org",
    "ray": "exit 0",
    "srun": 'echo "$@" >>"$HOME/srun"',
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
    job = {
        "SLURMD_NODENAME": "first",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "USER": "me",
    }
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
    study = (tmp_path / "study").read_text()
    assert "--executor ray --ray-address first.example.org:20007 --workers 8" in study
    assert asked_of_slurm(tmp_path) == asked


def test_a_node_has_its_name_in_slurm_where_slurm_is_told(tmp_path, environment) -> None:
    """On the network it may have another."""
    study = tmp_path / "depthsearch" / "bin" / "depthsearch"
    study.write_text('#!/bin/bash\nuntil (($(wc -l <"$HOME/srun") == 2)); do sleep 0.1; done\n')
    subprocess.run(["bash", SCRIPT], env=environment, check=True, timeout=60)
    others, head = sorted((tmp_path / "srun").read_text().splitlines(), key=lambda line: "--head" in line)
    assert "--nodelist=first " in head
    assert "--exclude=first " in others
    assert "--address=first.example.org:20007 " in others


def test_a_job_may_be_queued_again_also_where_a_site_does_not_by_itself() -> None:
    assert "#SBATCH --requeue\n" in SCRIPT.read_text().partition("set -euo")[0]


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
