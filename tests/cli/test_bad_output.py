"""Output that nobody reads, that cannot be written, or that its encoding or width does not fit."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import status_of

from depthsearch.cli.console import PLAIN_WIDTH, console_for, say
from depthsearch.cli.output import UNREAD, run_writing

COMMANDS = tuple(
    command.split()
    for command in (
        "cuts test_resnet", "cuts test_resnet --json", "cache", "cache --json", "--version", "--help",
        "study --help", "explain --help",
    )
)  # fmt: skip
ODD = "caf\u00e9 \u00b1 \u2500 \u05e9\u05dc\u05d5\u05dd \U0001f600 \udce9 \x1b[2J"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_no_encoding_is_too_small_for_the_output(monkeypatch, argv: list[str], encoding: str) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", written)
    assert status_of(argv) == 0
    written.flush()
    assert written.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_written_as_an_escape(monkeypatch, encoding: str) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", written)

    def run() -> int:
        say(console_for(), ODD)
        print(ODD.replace("\x1b", ""))
        return 0

    assert run_writing(run) == 0
    shown = written.buffer.getvalue().decode(encoding)
    assert r"\x1b[2J" in shown
    assert r"\xe9" in shown
    assert ("caf\u00e9" in shown) is (encoding != "ascii")


@pytest.mark.parametrize("width", [1, 2, 5, 20, 40, 79, 1000])
@pytest.mark.parametrize("argv", COMMANDS[:1] + COMMANDS[2:3], ids=" ".join)
def test_no_terminal_is_too_narrow(monkeypatch, argv: list[str], width: int) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    assert status_of(argv) == 0


@pytest.mark.parametrize("columns", ["", "x", "0", "-5", "9" * 20, "\u0663"])
def test_an_odd_number_of_columns_is_no_matter(monkeypatch, capsys, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert status_of(["cuts", "test_resnet"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= PLAIN_WIDTH


def unread() -> io.TextIOWrapper:
    """Open a pipe whose reader is gone."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    return os.fdopen(write_end, "w")


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_output_that_nobody_reads_ends_the_command_without_a_word(
    monkeypatch, capsys, argv: list[str]
) -> None:
    with unread() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert status_of(argv) == UNREAD
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_full_disk_is_one_line(monkeypatch, capsys, argv: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert status_of(argv) == 2
    assert capsys.readouterr().err == "depthsearch: cannot write the output: No space left on device.\n"


def test_progress_that_a_full_disk_does_not_take_stops_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    code = (
        "import sys; from depthsearch.cli.output import run_writing\n"
        "def run():\n"
        "    for n in range(3000):\n"
        "        print('progress', n, file=sys.stderr)\n"
        "    sys.stderr.flush()\n"
        "    print('the result')\n"
        "    return 7\n"
        "sys.exit(run_writing(run))\n"
    )
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (7, "the result\n")


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_output_that_was_closed_is_no_matter(monkeypatch, argv: list[str]) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert status_of(argv) == 0


@pytest.mark.parametrize("number", [28, 32, 5])
def test_an_error_of_something_else_than_the_output_stays_one(number: int) -> None:
    def run() -> int:
        raise OSError(number, "of a file")

    with pytest.raises(OSError, match="of a file"):
        run_writing(run)


@pytest.mark.parametrize("shell", ["{0} study --help | head -1", "{0} --version | true"])
def test_a_shell_sees_no_traceback(shell: str) -> None:
    command = shell.format(f"{sys.executable} -m depthsearch")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.stderr == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("redirection", "status"), [("", 0), (">/dev/full", 2), (">&- 2>/dev/full", 0), ("| head -1", 0)]
)
def test_a_whole_command_in_a_poor_locale_sees_no_traceback(redirection: str, status: int) -> None:
    """Guards all that a command prints where the terminal knows only ASCII; a process for each."""
    command = f"{sys.executable} -m depthsearch cuts test_resnet {redirection}"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == status
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
