"""A Python file of the user's own, imported under a name that says what it holds.

Classes of such a file pickle by the name of its module, so the text travels with a backbone: a worker process
imports it before it unpickles the model, and needs no file.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from depthsearch.errors import SettingsError
from depthsearch.files import read_regular
from depthsearch.hashing import digest_of

# A file of code that somebody has written.
MOST_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class UserCode:
    """The text of a Python file.

    Attributes:
        path: Full path, for messages and for what lies beside it.
        text: What it holds.
    """

    path: str
    text: str

    @property
    def digest(self) -> str:
        """Hash of the text."""
        return digest_of(self.text)

    @property
    def module_name(self) -> str:
        """What it is imported as: another text, or place, is another module."""
        return f"depthsearch_backbone_{self.digest}_{digest_of(self.path, n_bytes=4)}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Import it wherever it is unpickled."""
        return _imported, (self.path, self.text)


def _imported(path: str, text: str) -> UserCode:
    code = UserCode(path, text)
    import_code(code)
    return code


def read_code(path: Path) -> UserCode:
    """Read a Python file.

    Raises:
        SettingsError: If it cannot be read.
    """
    try:
        text = read_regular(path, most_bytes=MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise SettingsError(
            f"Backbone: cannot read {str(path)!r}: {reason}. Give FILE.py:FUNCTION; FILE.py counts from the "
            "folder that you are in."
        ) from error
    return UserCode(str(path.absolute()), text)


def import_code(code: UserCode) -> ModuleType:
    """Run a file as a module, once in a process; modules beside it can be imported by it.

    Raises:
        SettingsError: If it does not run, naming the line.
    """
    if code.module_name in sys.modules:
        return sys.modules[code.module_name]
    module = ModuleType(code.module_name)
    module.__file__ = code.path
    beside = str(Path(code.path).parent)
    if beside not in sys.path:
        # Last, so that nothing installed is hidden by a file of the same name.
        sys.path.append(beside)
    sys.modules[code.module_name] = module
    try:
        # What it prints is not to stand between a command's own lines, which may be JSON.
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(code.text, code.path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        del sys.modules[code.module_name]
        raise SettingsError(f"Backbone: {where_it_failed(error, code.path)}. Mend that file.") from error
    return module


def where_it_failed(error: BaseException, path: str) -> str:
    """Name file, line and error of what somebody's own code has raised."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    line = lines[-1] if lines else None
    if isinstance(error, SyntaxError) and error.filename == path:
        line = error.lineno
    reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    where = path if line is None else f"{path}, line {line}"
    return f"{where}: {type(error).__name__}{f': {reason}' if reason else ''}"
