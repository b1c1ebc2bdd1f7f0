"""Other systems: what they lack, nothing asks for, as far as that can be seen on this one."""

import subprocess
import sys
from pathlib import Path

import elsewhere
import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it is about what Linux has")
def test_every_module_is_imported_without_what_only_some_systems_have() -> None:
    """Guards Windows and macOS, on which nothing is run: each module, imported anew."""
    program = [sys.executable, str(Path(elsewhere.__file__))]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 200


def test_what_windows_lacks_is_missed_where_it_is_used() -> None:
    """Or the test above would find nothing."""
    use = "import elsewhere; elsewhere.leave_out(); import os, signal; {}"
    for line in ("import fcntl", "os.sched_getaffinity(0)", "signal.SIGKILL", "open('/proc/self/cgroup')"):
        ended = subprocess.run(
            [sys.executable, "-c", use.format(line)],
            cwd=Path(elsewhere.__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Error" in ended.stderr, line
