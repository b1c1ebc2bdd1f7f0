"""Make this process as poor as one on Windows, once what depthsearch is built on is loaded.

Run as a program, it then imports every module of depthsearch, and uses some of the ground floor.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

# What Windows lacks, of what Linux has.
MODULES = ("fcntl", "grp", "pwd", "resource", "termios")
OF_OS = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "fchmod", "fork", "geteuid", "getuid"),
    *("mkfifo", "register_at_fork", "sched_getaffinity", "statvfs", "uname"),
)
OF_SIGNAL = ("SIGHUP", "SIGKILL", "SIGSTOP", "SIG_BLOCK", "SIG_SETMASK", "pthread_sigmask")
OF_TIME = ("clock_gettime", "pthread_getcpuclockid")
# psutil, which knows each system, reads others.
OF_LINUX = ("/proc/self", "/proc/sys", "/proc/cpuinfo", "/sys/", "/dev/shm")
# Loaded before: what others do on other systems is theirs to know.
LOADED = (
    *(
        "filelock",
        "joblib",
        "numpy",
        "optuna",
        "optuna_dashboard",
        "PIL.Image",
        "plotly.graph_objects",
        "psutil",
    ),
    *("safetensors.torch", "scipy.stats", "sklearn.metrics", "timm"),
)


def leave_out() -> None:
    """Take away what Windows lacks; files of Linux that tell of processes are not to be read either."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL), (time, OF_TIME)):
        for name in names:
            delattr(module, name)
    sys.platform = "win32"
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(OF_LINUX):
        raise FileNotFoundError(arguments[0])


def modules() -> list[str]:
    """Name the modules of depthsearch, but the one that runs the command line; none is imported yet."""
    (folder,) = importlib.util.find_spec("depthsearch").submodule_search_locations
    paths = [path.relative_to(folder).with_suffix("") for path in sorted(Path(folder).rglob("*.py"))]
    names = [".".join(("depthsearch", *path.parts)).removesuffix(".__init__") for path in paths]
    assert "depthsearch" not in sys.modules
    return [name for name in names if name != "depthsearch.__main__"]


def use() -> None:
    """Use the ground floor."""
    from depthsearch.files import folder_written_whole, is_allowed, lock_folder, written_whole
    from depthsearch.machine import (
        free_memory_bytes,
        name_process,
        process_lives,
        processor_model,
        start_of,
        this_machine,
        usable_cores,
    )
    from depthsearch.signals import children_uninterrupted, deferred, name_of_signal, sigterm_interrupts

    assert usable_cores() >= 1
    assert free_memory_bytes() > 0
    assert process_lives(os.getpid(), start_of(os.getpid()))
    assert processor_model()
    assert this_machine() is None
    name_process("nobody")
    assert name_of_signal(99) == "signal 99"
    with sigterm_interrupts(), deferred(), children_uninterrupted():
        pass
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with written_whole(folder / "a", durable=True) as file:
            file.write(b"a")
        with folder_written_whole(folder / "b") as made:
            (made / "c").write_bytes(b"c")
        assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
        assert is_allowed(folder, os.W_OK)
        assert lock_folder(folder) is None


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    names = modules()
    leave_out()
    for name in names:
        importlib.import_module(name)
    use()
    print(len(names))
