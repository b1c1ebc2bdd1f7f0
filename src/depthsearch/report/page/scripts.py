"""The scripts of a page and what it may do: run these and no other, and ask for nothing."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from plotly.offline import get_plotlyjs

TEMPLATES = files("depthsearch.report.page") / "templates"


@cache
def page_scripts() -> tuple[str, ...]:
    """Return plotly.js, and what has it draw the figures of a page."""
    return get_plotlyjs(), (TEMPLATES / "page.js").read_text(encoding="utf-8")


def page_style() -> str:
    """Return the style sheet of a page."""
    return (TEMPLATES / "page.css").read_text(encoding="utf-8")


@cache
def page_policy() -> str:
    """Return the Content-Security-Policy of a page: its own scripts, by their digests, styles and images."""
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in page_scripts()
    ]
    scripts = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:"
