"""Who may do what with a dashboard: it has neither a login nor a read-only mode of its own.

A browser sends a page's requests wherever that page asks for, so that what listens on loopback is within
reach of every site that is open beside it: by a name that its owner lets point to 127.0.0.1 (hence the check
of Host), or by a form that is sent here (hence that of Origin).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
from collections.abc import Callable, Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from depthsearch.report.page.scripts import page_policy

Environment = dict[str, Any]
Application = Callable[[Environment, Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
READING = ("GET", "HEAD")
# An artifact is shown and no more: its origin is its own, so that it reaches neither cookies nor storage nor
# answers of this address; no form, no network, and no scripts but those of our own report.
SANDBOX = "sandbox allow-scripts; media-src 'self'"
# What a browser may show by itself; all else it has to save.
SHOWN = ("image/", "audio/", "video/", "text/html", "text/plain", "text/csv", "application/json")


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from its own machine only."""
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guarded(
    application: Application,
    *,
    writable: bool = False,
    password: str | None = None,
    names: Collection[str] | None = None,
) -> Application:
    """Stand before a dashboard and let through what it is meant for.

    Args:
        application: The dashboard, a WSGI application.
        writable: Whether what changes studies is let through, from its own pages; else all it gets is read.
        password: Asked for with every request, with any user's name; None: nobody is asked.
        names: Hosts that it may be called by; None: any. Behind a password no other is needed: a browser
            tells the password only to the address that it was given for.
    """

    def guard(environment: Environment, start: Callable[..., Any]) -> Iterable[bytes]:
        refused = _refused(environment, writable=writable, password=password, names=names)
        if refused is not None:
            status, reason = refused
            return _answer(start, status, reason, is_json=_is_api(environment))
        # It takes for granted that this is there.
        environment.setdefault("HTTP_ACCEPT_ENCODING", "identity")
        is_artifact = environment.get("PATH_INFO", "").startswith("/artifacts/")

        def started(status: str, headers: Headers, *more: Any) -> Any:
            return start(status, _safe(headers, is_artifact=is_artifact), *more)

        return application(environment, started)

    return guard


def _refused(
    environment: Environment, *, writable: bool, password: str | None, names: Collection[str] | None
) -> tuple[str, str] | None:
    """Return the status and the reason of a refusal; None: there is none."""
    if not _is_text(environment.get("PATH_INFO", "")):
        # The dashboard would leave those bytes out, and answer for another path than the one seen here.
        return "400 Bad Request", "The path of this address is no UTF-8."
    host = environment.get("HTTP_HOST", "")
    if names is not None and _name_of(host) not in names:
        return "403 Forbidden", (
            f"This dashboard answers to {' and '.join(sorted(names))} only. Ask for it by one of these."
        )
    if password is not None and not _knows(environment.get("HTTP_AUTHORIZATION", ""), password):
        return "401 Unauthorized", "This dashboard asks for its password, with any user name."
    if environment["REQUEST_METHOD"] in READING:
        return None
    if not writable:
        return "403 Forbidden", (
            "This dashboard is read-only. What changes studies takes depthsearch dashboard --writable."
        )
    if not host or _netloc(environment.get("HTTP_ORIGIN", "")) != host.lower():
        return "403 Forbidden", "Only pages of this dashboard itself may change anything."
    return None


def _is_text(path: str) -> bool:
    """Return whether a path, of whose bytes WSGI makes a character each, is text."""
    try:
        path.encode("latin-1").decode()
    except UnicodeError:
        return False
    return True


def _name_of(host: str) -> str:
    """Return a host without its port, and without the brackets of an IPv6 address."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _knows(authorization: str, password: str) -> bool:
    """Return whether a request brings the password; how long that takes tells nothing of it."""
    kind, _, credentials = authorization.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        _, _, told = base64.b64decode(credentials.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(told, password.encode())


def _is_api(environment: Environment) -> bool:
    return str(environment.get("PATH_INFO", "")).startswith("/api/")


def _answer(start: Callable[..., Any], status: str, reason: str, *, is_json: bool) -> Iterable[bytes]:
    """Refuse: the pages show the reason that they find in JSON, a person reads plain text."""
    body = json.dumps({"reason": reason}) if is_json else f"{reason}\n"
    headers = [("Content-Type", "application/json" if is_json else "text/plain; charset=utf-8")]
    if status.startswith("401"):
        headers.append(("WWW-Authenticate", 'Basic realm="depthsearch", charset="UTF-8"'))
    content = body.encode()
    start(status, _safe([*headers, ("Content-Length", str(len(content)))], is_artifact=False))
    return [content]


def _safe(headers: Headers, *, is_artifact: bool) -> Headers:
    """Let no other site read or frame an answer, and no artifact do anything."""
    kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
    kept += [
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
    ]
    if is_artifact:
        kind = next((value for name, value in kept if name.lower() == "content-type"), "")
        kept.append(("Content-Security-Policy", f"{SANDBOX}; {page_policy()}"))
        if not kind.lower().startswith(SHOWN):
            kept.append(("Content-Disposition", "attachment"))
    return kept
