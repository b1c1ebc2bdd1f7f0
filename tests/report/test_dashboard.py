"""The dashboard: who may do what with it, and what a browser makes of it."""

import base64
import io
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any
from wsgiref.simple_server import make_server
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from chromium import Tab, browser, needs_chromium
from optuna_dashboard import get_note
from stored_studies import FINISHED, NASTY, trial
from test_page import nasty

from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.report.dashboard.refreshing import refresh
from depthsearch.report.dashboard.serving import QuietHandler, Server, application, serve
from depthsearch.report.page.composing import compose
from depthsearch.results import StoredStudy
from depthsearch.results.summary import summarize
from depthsearch.study.artifacts import Artifacts, keep_latest
from depthsearch.study.storage.optuna_private import database_of, storage_of, study_id_of

PASSWORD = "Grüße:an alle"
SCRIPT = "<!doctype html><title>before</title><script>document.title='after';alert(1)</script><p>text</p>"


@pytest.fixture(scope="module")
def place(tmp_path_factory, open_quick_storage) -> tuple[optuna.Study, Artifacts]:
    """Give a study whose every name is hostile, with its report and a page with a script as artifacts."""
    folder = tmp_path_factory.mktemp("dashboard")
    source = nasty()
    storage = open_quick_storage(f"sqlite:///{folder}/s.db")
    study = optuna.create_study(storage=storage, study_name=NASTY, direction="maximize")
    for key, value in source.user_attrs.items():
        study.set_user_attr(key, value)
    study.add_trials(source.get_trials())
    store = Artifacts(folder / "s-artifacts")
    refresh(study)
    keep_latest(
        study, store, "report.html", compose(summarize(study), StoredStudy.read(study)).html().encode()
    )
    keep_latest(study, store, "script.html", SCRIPT.encode())
    keep_latest(study, store, "script.js", b"alert(1)")
    return study, store


def asked(
    app: Any, path: str, method: str = "GET", body: dict[str, Any] | None = None, **headers: str
) -> tuple[str, Message, bytes]:
    """Send a request to a WSGI application; give status, headers and content."""
    environment: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": "127.0.0.1:80"}
    environment |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    if body is not None:
        content = json.dumps(body).encode()
        environment |= {"wsgi.input": io.BytesIO(content), "CONTENT_LENGTH": str(len(content)),
                        "CONTENT_TYPE": "application/json"}  # fmt: skip
    setup_testing_defaults(environment)
    said: list[Any] = []
    answer = app(environment, lambda status, headers, _=None: said.extend((status, headers)))
    content = b"".join(answer)
    if hasattr(answer, "close"):
        answer.close()
    message = Message()
    for name, value in said[1]:
        message[name] = value
    return said[0], message, content


def artifact(study: optuna.Study, name: str) -> str:
    """Give the path of an artifact."""
    attributes = storage_of(study).get_study_system_attrs(study_id_of(study))
    known = [json.loads(text) for key, text in attributes.items() if key.startswith("artifacts:")]
    (found,) = (each["artifact_id"] for each in known if each and each["filename"] == name)
    return f"/artifacts/{study_id_of(study)}/{found}"


# --- who may do what ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/api/trials/1/tell"),
        ("POST", "/api/artifacts/1"),
        ("OPTIONS", "/api/studies"),
        ("TRACE", "/api/studies"),
    ],
)
def test_a_dashboard_is_read_only(place, method: str, path: str) -> None:
    study, store = place
    app = application(storage_of(study), "127.0.0.1", store)
    status, _, content = asked(app, path, method, {"body": "x", "version": 9}, origin="http://127.0.0.1:80")
    assert status == "403 Forbidden"
    reason = "This dashboard is read-only. What changes studies takes depthsearch dashboard --writable."
    assert json.loads(content) == {"reason": reason}
    assert asked(app, f"/api/studies/{study_id_of(study)}")[0] == "200 OK"


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:81", "http://[",
                                    "http://127.0.0.1:80.evil.example"])  # fmt: skip
def test_only_its_own_pages_may_write(place, origin: str) -> None:
    study, store = place
    app = application(storage_of(study), "127.0.0.1", store, writable=True)
    path = f"/api/studies/{study_id_of(study)}/note"
    note = {"body": "x", "version": 2}
    status, _, content = asked(app, path, "PUT", note, origin=origin)
    assert status == "403 Forbidden"
    assert json.loads(content) == {"reason": "Only pages of this dashboard itself may change anything."}
    assert asked(app, path, "PUT", note)[0] == "403 Forbidden"


def test_what_a_person_writes_into_the_note_is_kept_by_the_running_study(
    tmp_path, open_quick_storage
) -> None:
    source = nasty()
    storage = open_quick_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for key, value in source.user_attrs.items():
        study.set_user_attr(key, value)
    study.add_trials(FINISHED)
    app = application(storage, "localhost", writable=True)
    refresh(study)
    path = f"/api/studies/{study_id_of(study)}"
    seen = json.loads(asked(app, path)[2])["note"]
    # While a person edits it trials end.
    study.add_trials([trial(3, 0.95)])
    refresh(study)
    edited = {"body": f"{seen['body']}\n\nmine", "version": seen["version"] + 1}
    assert asked(app, f"{path}/note", "PUT", edited, origin="http://127.0.0.1:80")[0] == "204 No Content"
    assert "0.9500" not in get_note(study)
    refresh(study)
    assert "0.9500" in get_note(study)
    assert get_note(study).endswith("\n\nmine")


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("127.0.0.1:1", True),
        ("[::1]:8080", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("[", False),
        ("", False),
    ],
)
def test_on_loopback_no_other_name_leads_to_it(place, host: str, is_known: bool) -> None:
    study, _ = place
    app = application(storage_of(study), "127.0.0.1")
    status, _, content = asked(app, "/api/studies", host=host)
    assert status == ("200 OK" if is_known else "403 Forbidden")
    if not is_known:
        assert b"answers to 127.0.0.1 and ::1 and localhost only" in content


def told(password: str, user: str = "somebody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "is_let_in"),
    [
        (told(PASSWORD), True),
        (told(PASSWORD, user=""), True),
        (told(PASSWORD).replace("Basic", "basic"), True),
        (told(PASSWORD[:-1]), False),
        (told(PASSWORD + " "), False),
        (told(""), False),
        (told("", user=PASSWORD), False),
        ("", False),
        ("Basic", False),
        ("Basic %%%", False),
        ("Basic " + "\xff", False),
        ("Bearer " + told(PASSWORD)[6:], False),
    ],
)
def test_a_password_is_asked_for_with_every_request(place, authorization: str, is_let_in: bool) -> None:
    study, store = place
    app = application(storage_of(study), "0.0.0.0", store, password=PASSWORD)
    for path in ("/api/studies", "/dashboard", "/static/bundle.js", artifact(study, "report.html")):
        status, headers, content = asked(app, path, authorization=authorization, host="somewhere:8080")
        assert (status == "200 OK") == is_let_in
        if not is_let_in:
            assert status == "401 Unauthorized"
            assert headers["WWW-Authenticate"] == 'Basic realm="depthsearch", charset="UTF-8"'
            assert NASTY.encode() not in content


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])
def test_others_are_let_in_with_a_password_only(place, host: str) -> None:
    study, _ = place
    with pytest.raises(
        SettingsError, match=r"lets others in: that takes a password, in DEPTHSEARCH_DASHBOARD"
    ):
        application(storage_of(study), host)
    application(storage_of(study), host, password="x")
    application(storage_of(study), "127.1.2.3")


def test_no_artifact_can_run_a_script_of_its_own_or_be_read_by_another_site(place) -> None:
    study, store = place
    app = application(storage_of(study), "127.0.0.1", store)
    for name in ("report.html", "script.html", "script.js"):
        status, headers, _ = asked(app, artifact(study, name))
        assert status == "200 OK"
        policy = dict(
            part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";")
        )
        assert (policy["sandbox"], policy["default-src"]) == ("allow-scripts", "'none'")
        assert [each[:8] for each in policy["script-src"].split()] == ["'sha256-"] * 2
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Content-Disposition"] == ("attachment" if name.endswith(".js") else None)
    _, headers, _ = asked(app, "/dashboard")
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("before", ["/\x80artifacts/", "/artifacts\xff/", "/art\xc3ifacts/"])
def test_no_bytes_in_an_address_make_an_artifact_a_page(place, before: str) -> None:
    study, store = place
    path = artifact(study, "script.html").replace("/artifacts/", before)
    status, _, content = asked(application(storage_of(study), "127.0.0.1", store), path)
    assert status == "400 Bad Request"
    assert SCRIPT.encode() not in content


def test_artifacts_lead_to_no_other_file_and_one_that_is_gone_is_not_found(place, capfd) -> None:
    study, store = place
    app = application(storage_of(study), "127.0.0.1", store)
    known = artifact(study, "script.html")
    inside = known.rpartition("/")[0]
    for path in ("../s.db", "..%2fs.db", "%2e%2e/s.db", f"{known}/../../s.db", "/etc/passwd", "a" * 36):
        status, _, content = asked(app, f"{inside}/{path}")
        assert status == "404 Not Found"
        assert b"SQLite format" not in content
    lost = keep_latest(study, store, "lost.txt", b"gone")
    (store.folder / lost).unlink()
    assert asked(app, f"{inside}/{lost}")[0] == "404 Not Found"
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_client_that_takes_nothing_packed_is_answered(place) -> None:
    study, _ = place
    status, headers, content = asked(application(storage_of(study), "localhost"), "/static/bundle.js")
    assert status == "200 OK"
    assert headers["Content-Encoding"] is None
    assert len(content) > 1_000_000


def test_a_latest_artifact_takes_the_place_of_the_one_before(place) -> None:
    study, store = place
    first = keep_latest(study, store, "card.md", b"1")
    assert keep_latest(study, store, "card.md", b"1") == first
    second = keep_latest(study, store, "card.md", b"2")
    assert artifact(study, "card.md").endswith(second)
    assert not (store.folder / first).exists()


# --- on the command line ------------------------------------------------------------------------


def test_an_empty_password_in_the_environment_is_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("DEPTHSEARCH_DASHBOARD_PASSWORD", "")
    assert main(["dashboard", "--storage", f"sqlite:///{tmp_path}/s.db"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "DEPTHSEARCH_DASHBOARD_PASSWORD is empty: give a password, or leave it out." in line


def test_a_password_that_is_no_text_is_refused(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("DEPTHSEARCH_DASHBOARD_PASSWORD", "p\udce4ss")
    assert main(["dashboard", "--storage", f"sqlite:///{tmp_path}/s.db"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "DEPTHSEARCH_DASHBOARD_PASSWORD is no UTF-8: give a password that is." in line


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("a..b", "--host 'a..b' is no name of a machine: give its address"),
        ("0.0.0.0:8080", "Give another --host, an address of this machine."),
        ("192.0.2.1", "Give another --host, an address of this machine."),
    ],
)
def test_a_host_that_cannot_be_listened_on_is_named(place, host: str, told: str) -> None:
    study, _ = place
    with pytest.raises(SettingsError) as caught:
        serve(storage_of(study), host, 0, password="x")
    assert told in str(caught.value)


def test_a_password_is_not_asked_for_where_nobody_can_answer(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert main(["dashboard", "--storage", f"sqlite:///{tmp_path}/s.db", "--password"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no terminal: set DEPTHSEARCH_DASHBOARD_PASSWORD." in line


def test_a_password_on_the_command_line_is_said_to_be_seen_by_others(tmp_path, capsys) -> None:
    assert main(["dashboard", "--storage", f"sqlite:///{tmp_path}/s.db", "--password", "s3cret-word"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Others on this machine see --password among the processes; DEPTHSEARCH_")
    assert "s3cret-word" not in said


@pytest.mark.slow
def test_a_password_opens_the_dashboard_and_is_never_printed(place, monkeypatch) -> None:
    """Guards the password on its way through the command, its log and its pages."""
    study, _ = place
    url = str(database_of(study).url)
    monkeypatch.setenv("DEPTHSEARCH_DASHBOARD_PASSWORD", "s3cret-word")
    options = ["--storage", url, "--host", "0.0.0.0", "--port", "0", "--writable"]
    process = subprocess.Popen([sys.executable, "-m", "depthsearch", "dashboard", *options],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        lines = [process.stderr.readline() for _ in range(3)]
        assert "unencrypted" in lines[0]
        assert lines[1] == "Whoever knows the password can change these studies, and delete them.\n"
        address = f"http://127.0.0.1:{lines[2].rpartition(':')[2].split('/')[0]}/api/studies"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for credentials, status in (("s3cret-word", 200), ("wrong", 401), (None, 401)):
            headers = {"Authorization": told(credentials)} if credentials else {}
            try:
                with opener.open(urllib.request.Request(address, headers=headers), timeout=30) as answer:
                    found = answer.status
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status
    finally:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert "s3cret-word" not in "".join((*lines, out, err))


# --- in a browser -------------------------------------------------------------------------------


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application in a thread; give its address."""
    server = make_server("127.0.0.1", 0, app, server_class=Server, handler_class=QuietHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Tab]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


TABLE = (
    "[...document.querySelectorAll('table tr')].map(row => [...row.cells].map(cell => cell.innerText.trim()))"
)
POINTS = "document.querySelectorAll('[id=\"user-defined-plot:{}\"] .point').length"


# What a name that is taken for markup would have made.
MADE = "document.querySelectorAll('[onerror], img[src=\"x\"]').length"


def looked_at(tab: Tab, address: str, study_id: int, attribute: str = "cut_layer") -> list[list[str]]:
    """Open every page of a study and see that it is there; give the rows of the note's tables.

    ``attribute`` is one that its trials have.
    """
    tab.complaints.clear()
    page = f"{address}/dashboard/studies/{study_id}"
    tab.open(page)
    for plot in ("depth", "learning", "transfer"):
        assert tab.until(POINTS.format(plot)) >= 3
    tab.until("document.body.innerText.includes('report.html')")
    for name, expected in (
        ("analytics", "Hyperparameter Relationships"),
        ("smartSelection", "Parallel Coordinate"),
        ("trials", attribute),
    ):
        assert tab.value(MADE) == 0
        tab.open(f"{page}/{name}")
        tab.until(f"document.body.innerText.includes({expected!r})")
    assert tab.value(MADE) == 0
    tab.open(f"{page}/note")
    tab.until("document.querySelectorAll('table tr').length > 3")
    assert tab.value(MADE) == 0
    assert tab.complaints == []
    return tab.value(TABLE)


@pytest.mark.slow
@needs_chromium
def test_a_browser_shows_hostile_names_as_text(place, tab: Tab) -> None:
    """Guards against script in names; only a browser would run it."""
    study, store = place
    with served(application(storage_of(study), "127.0.0.1", store)) as address:
        rows = looked_at(tab, address, study_id_of(study), attribute="plain_macs")
        assert rows[1][:3] == ["20", NASTY, NASTY]
        tab.open(f"{address}{artifact(study, 'report.html')}")
        tab.until("document.body.innerText.includes('onerror=alert(1)')")
        assert tab.until("document.querySelectorAll('.chart .point').length") > 10
        assert tab.value(MADE) == 0
        assert tab.complaints == []
        # A script in it has an origin of its own.
        assert tab.value("self.origin") == "null"
        reached = "fetch('/api/studies').then(() => 'answered', () => 'refused')"
        assert tab.value(reached) == "refused"
        for secret in (
            "document.cookie",
            "localStorage.length",
            "opener.document",
            "parent.frames[0].document",
        ):
            assert tab.value(
                f"(() => {{ try {{ return {secret} }} catch (error) {{ return error.name }} }})()"
            ) in ("SecurityError", "TypeError")
        tab.open(f"{address}{artifact(study, 'script.html')}")
        tab.until("document.body.innerText.includes('text')")
        assert tab.value("document.title") == "before"
    assert tab.dialogs == []


@pytest.mark.slow
@needs_chromium
def test_a_browser_follows_a_study_while_it_runs_and_shows_all_of_it_afterwards(
    tmp_path, open_quick_storage, tab: Tab, capsys, monkeypatch
) -> None:
    """Guards the plots in the browser that draws them, while they change."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite:///{tmp_path}/s.db"
    options = (
        "--backbone test_resnet --weights random --image-size 32 --device cpu --precision float32 --name tiny"
    )
    counts = "--trials 5 --epochs 20 --subset 0.2 --pruner none --head-width 16:16 --confirm 1 --seeds 2"
    command = ["study", *options.split(), *counts.split(), "--storage", url]
    process = subprocess.Popen(
        [sys.executable, "-m", "depthsearch", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if "trial 0" in line:
                break
        study = optuna.load_study(study_name="tiny", storage=open_quick_storage(url))
        app = application(storage_of(study), "127.0.0.1", Artifacts(tmp_path / "s-artifacts"))
        with served(app) as address:
            tab.complaints.clear()
            tab.open(f"{address}/dashboard/studies/{study_id_of(study)}/note")
            tab.until("document.body.innerText.includes('Running: process')")
            running = tab.value("document.body.innerText")
            # The page asks anew by itself.
            tab.until(f"!document.body.innerText.includes({_progress(running)!r})")
            assert process.poll() is None
            assert process.wait(timeout=300) == 0
            assert main(["fit", "tiny", "--storage", url, "--out", str(tmp_path / "model")]) == 0
            rows = looked_at(tab, address, study_id_of(study))
            assert rows[0][:3] == ["layer", "Keras name", "module path"]
            assert "mean of 2 trainings" in rows[1]
            assert "Complete: 5 of 5 trials done" in tab.value("document.body.innerText")
            tab.open(f"{address}/dashboard/studies/{study_id_of(study)}")
            for name in ("report.html", "confusions.png", "model-card.md"):
                tab.until(f"document.body.innerText.includes({name!r})")
            confusions = artifact(study, "confusions.png")
            width = f"document.querySelector('img[src=\"{confusions}\"]')?.naturalWidth"
            assert tab.until(width) > 300
            assert tab.complaints == []
    finally:
        process.kill()
        process.communicate()


def _progress(text: str) -> str:
    """Take from a page how far the study is."""
    return next(line for line in text.splitlines() if line.startswith("Running:"))
