"""``depthsearch dashboard``."""

from __future__ import annotations

import getpass
import os
import sys

from depthsearch.cli.console import console_for, say
from depthsearch.cli.places import artifacts_of
from depthsearch.errors import SettingsError
from depthsearch.options.commands import DashboardOptions
from depthsearch.report.dashboard.serving import serve
from depthsearch.study.preparing.places import existing
from depthsearch.study.storage.opening import open_storage

# Unlike a command line, the environment is not visible to other users.
PASSWORD_VARIABLE = "DEPTHSEARCH_DASHBOARD_PASSWORD"


def dashboard(options: DashboardOptions) -> None:
    """Serve optuna-dashboard on the stored studies until interrupted.

    Raises:
        SettingsError: If there are none, or the dashboard cannot be served as asked.
    """
    if options.port > 65535:
        raise SettingsError(f"--port {options.port} is no port: give one up to 65535.")
    password = _password(options.password)
    # A person waits for each page.
    storage = open_storage(existing(options.storage), patience_seconds=10)
    serve(
        storage,
        options.host,
        options.port,
        artifacts_of(options.storage, options.artifacts),
        password=password,
        writable=options.writable,
    )


def _password(given: str | bool | None) -> str | None:
    """Return the password from the command line, a prompt or the environment; None: there is none."""
    source = "--password"
    if given is True:
        if not sys.stdin.isatty():
            raise SettingsError(f"--password asks for it, and there is no terminal: set {PASSWORD_VARIABLE}.")
        given = getpass.getpass("Password for the dashboard: ")
    elif given:
        hint = f"Others on this machine see --password among the processes; {PASSWORD_VARIABLE} is not seen."
        say(console_for(stderr=True), hint, style="yellow")
    elif given is None and PASSWORD_VARIABLE in os.environ:
        source, given = PASSWORD_VARIABLE, os.environ[PASSWORD_VARIABLE]
    if given == "":
        raise SettingsError(f"{source} is empty: give a password, or leave it out.")
    try:
        str(given).encode()
    except UnicodeEncodeError:
        raise SettingsError(f"{source} is no UTF-8: give a password that is.") from None
    return None if given is None else str(given)
