"""optuna-dashboard on the stored studies."""

from __future__ import annotations

import sys
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from optuna.storages import RDBStorage
from optuna_dashboard import wsgi

from depthsearch.artifacts import Artifacts
from depthsearch.errors import SettingsError

__all__ = ["serve"]

LOOPBACK = ("127.0.0.1", "localhost")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a line for each request would bury the address."""


def serve(storage: RDBStorage, host: str, port: int, artifacts: Artifacts | None = None) -> None:
    """Serve the dashboard until interrupted.

    Args:
        storage: Holds the studies.
        host: Address to listen on. The dashboard has no password and can delete studies.
        port: Port to listen on; 0: any free one.
        artifacts: The studies' pictures; None: they have none.

    Raises:
        SettingsError: If the address cannot be listened on.
    """
    application = wsgi(storage, artifact_store=artifacts)
    try:
        server = make_server(host, port, application, server_class=_Server, handler_class=_QuietHandler)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}. Give another --port, such as 0."
        ) from error
    if host not in LOOPBACK:
        print(f"Anyone who reaches {host} can change and delete these studies.", file=sys.stderr)
    print(f"Dashboard on http://{host}:{server.server_port}/ (Ctrl-C stops it)", file=sys.stderr, flush=True)
    with server:
        server.serve_forever()
