"""A headless Chromium, asked by its DevTools protocol what a page has become."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from privileges import IS_ROOT

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium (Debian's package chromium)")
QUIET = (
    "--headless --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-extensions --disable-dev-shm-usage --no-proxy-server --disable-quic "
    "--window-size=1400,1000 --force-device-scale-factor=1 --remote-debugging-port=0 --remote-allow-origins=*"
)
PATIENCE_SECONDS = 60.0


class Tab:
    """A page that is looked at."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._n = 0
        # Errors of the page and of its scripts, dialogs that it has opened, answers that were none.
        self.complaints: list[str] = []
        self.dialogs: list[str] = []

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and give its result; what the page does meanwhile is noted."""
        self._n += 1
        self._socket.send(json.dumps({"id": self._n, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._n:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._note(message.get("method"), message.get("params", {}))

    def _note(self, event: str, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif event == "Page.javascriptDialogOpening":
            self.dialogs.append(told["message"])
            self._n += 1
            closing = {"id": self._n, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            self._socket.send(json.dumps(closing))

    def open(self, url: str) -> None:
        """Go to an address."""
        self.ask("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Give what an expression of the page's own world is."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true, and give it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            # A page that has only begun has no body yet.
            if found := self.value(f"document.body && ({expression})"):
                return found
            time.sleep(0.1)
        text = self.value("document.body.innerText")
        raise AssertionError(f"never true: {expression}; {self.complaints}; the page has: {text[:2000]}")

    def picture(self, path: Path, *, height: int = 1000, width: int = 1400) -> None:
        """Write what it looks like."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=False)  # fmt: skip
        time.sleep(1.0)
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Start a browser with a profile of its own in a folder, and end it."""
    import websocket

    # As root, as in a container, it takes leave of its sandbox or does not start.
    command = [str(PROGRAM), *QUIET.split(), *(["--no-sandbox"] if IS_ROOT else [])]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = _port(folder / "DevToolsActivePort", process)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            (page,) = [each for each in json.load(answer) if each["type"] == "page"]
        socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=60)
        try:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.ask(f"{domain}.enable")
            yield tab
        finally:
            socket.close()
    finally:
        process.terminate()
        process.wait(timeout=30)


def _port(path: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if path.is_file() and (lines := path.read_text(encoding="utf-8").splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError(f"{PROGRAM} has not started")
