"""optuna-dashboard on the stored studies."""

from __future__ import annotations

import errno
import socket
import sys
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from bottle import HTTPError
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from depthsearch.errors import SettingsError
from depthsearch.report.dashboard.guard import LOOPBACK_NAMES, Application, guarded, is_loopback
from depthsearch.study.artifacts import Artifacts


class Server(ThreadingMixIn, WSGIServer):
    """Serves each request in a thread of its own; none of them keeps the process alive."""

    daemon_threads = True


class _Server6(Server):
    address_family = socket.AF_INET6


class QuietHandler(WSGIRequestHandler):
    """Handles requests without a log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: a line for each request would bury the address."""


class _Served(Artifacts):
    """Artifacts as they are served: of one whose file is gone the browser is warnings so."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Open an artifact."""
        try:
            return super().open_reader(artifact_id)
        except (ArtifactNotFound, ValueError) as error:
            raise HTTPError(404, "The file of this artifact is gone.") from error


def application(
    storage: RDBStorage,
    host: str,
    artifacts: Artifacts | None = None,
    *,
    password: str | None = None,
    writable: bool = False,
) -> Application:
    """Make the guarded dashboard, a WSGI application.

    Args:
        storage: Holds the studies.
        host: Address that it will listen on.
        artifacts: The studies' files; None: they have none.
        password: Asked for with every request.
        writable: Whether it may change studies.

    Raises:
        SettingsError: If others could reach it and there is no password.
    """
    if password is None and not is_loopback(host):
        raise SettingsError(
            f"--host {host} lets others in: that takes a password, in DEPTHSEARCH_DASHBOARD_PASSWORD or by "
            "--password. Or leave --host out, and reach it through ssh -L."
        )
    return guarded(
        wsgi(storage, artifact_store=None if artifacts is None else _Served(artifacts.folder)),
        writable=writable,
        password=password,
        names={*LOOPBACK_NAMES, host} if is_loopback(host) else None,
    )


def serve(
    storage: RDBStorage,
    host: str,
    port: int,
    artifacts: Artifacts | None = None,
    *,
    password: str | None = None,
    writable: bool = False,
) -> None:
    """Serve the dashboard until interrupted; for the other arguments see `application`.

    Args:
        storage: Holds the studies.
        host: Address to listen on.
        port: Port to listen on; 0: any free one.
        artifacts: The studies' files.
        password: Asked for with every request.
        writable: Whether it may change studies.

    Raises:
        SettingsError: If others could reach it without a password, or the address cannot be listened on.
    """
    guarded_one = application(storage, host, artifacts, password=password, writable=writable)
    kind = _Server6 if ":" in host else Server
    try:
        host.encode("idna")  # as the socket would, which does not say what it is that fails
        server = make_server(host, port, guarded_one, server_class=kind, handler_class=QuietHandler)
    except (OSError, UnicodeError) as error:
        raise SettingsError(_cannot_listen(error, host, port)) from error
    for line in _warnings(host, password, writable=writable):
        print(line, file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    print(f"Dashboard on http://{shown}:{server.server_port}/ (Ctrl-C stops it)", file=sys.stderr, flush=True)
    with server:
        server.serve_forever()


def _cannot_listen(error: OSError | UnicodeError, host: str, port: int) -> str:
    if isinstance(error, UnicodeError):
        return f"--host {host!r} is no name of a machine: give its address, such as 127.0.0.1."
    is_about_port = error.errno in (errno.EADDRINUSE, errno.EACCES)
    other = "--port (0: any free one)" if is_about_port else "--host, an address of this machine"
    return f"Cannot listen on {host}:{port}: {error.strerror or error}. Give another {other}."


def _warnings(host: str, password: str | None, *, writable: bool) -> list[str]:
    """List what is less safe than it could be."""
    warnings = []
    if password is not None and not is_loopback(host):
        warnings.append(
            "The password and all it protects travel unencrypted: in a network you trust, or behind TLS."
        )
    if writable:
        who = "Whoever knows the password" if password is not None else "Everybody on this machine"
        warnings.append(f"{who} can change these studies, and delete them.")
    return warnings
