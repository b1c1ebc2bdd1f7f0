"""Databases that are damaged, another program's, or nowhere; studies that cannot be read."""

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pytest
from bad_input import STEADY, STUDY, contents, refusal, status_of, studied
from hypothesis import given, strategies as st
from privileges import modes_obeyed

from depthsearch.study import open_storage
from depthsearch.study.storage.databasefile import database_file

Make = Callable[[Path], object]
URL = "sqlite:///x.db"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """Holds images, and good.db with a study of them that is complete."""
    folder = tmp_path_factory.mktemp("kept")
    studied(folder, "good.db")
    # What a log may still hold goes into the file, which is copied.
    with sqlite3.connect(folder / "good.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    return folder


@pytest.fixture
def place(kept, tmp_path, monkeypatch) -> Path:
    """An empty folder that the command runs in, beside the images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").symlink_to(kept / "set")
    return tmp_path


COMMANDS = {
    "study": [*STUDY[:-1], "--data=set", "--name=ab"],
    "status": ["status", "ab"],
    "report": ["report", "ab"],
    "stop": ["stop", "ab"],
    "enqueue": ["enqueue", "ab", "--layer=2"],
    "fit": ["fit", "ab", "--device=cpu"],
    "explain": ["explain", "ab"],
    "dashboard": ["dashboard", "--port=0"],
}
READING = [command for command in COMMANDS if command != "study"]


def sql(*statements: str) -> Make:
    def make(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return make


def good(change: Make) -> Make:
    def make(path: Path) -> None:
        shutil.copyfile(path.parent / "good.db", path)
        change(path)

    return make


def shortened(n_bytes: int) -> Make:
    return good(lambda path: path.write_bytes(path.read_bytes()[:n_bytes]))


DAMAGED: dict[str, tuple[Make, str]] = {
    "text": (lambda path: path.write_text("no database\n" * 30), "file is not a database"),
    "random bytes": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(9000)), "not a database"),
    "zeros": (lambda path: path.write_bytes(bytes(9000)), "not a database"),
    "a header alone": (shortened(100), "--storage sqlite:///x.db cannot be opened"),
    "a page alone": (shortened(4096), "--storage sqlite:///x.db cannot be opened"),
    "half of it": (shortened(60_000), "malformed"),
    "another program's": (
        sql("CREATE TABLE notes (id INTEGER, text TEXT)", "INSERT INTO notes VALUES (1, 'dear diary')"),
        "it is another program's, with the tables notes: give another file. Nothing in it was changed",
    ),
    "one with studies of its own": (sql("CREATE TABLE studies (name TEXT)"), "it is another program's"),
    "one with names of escapes": (sql('CREATE TABLE "\x1b[2J" (a)'), r"with the tables \x1b[2J"),
    "many tables": (
        sql(*(f"CREATE TABLE t{n} (a)" for n in range(9))),
        "with the tables t0, t1, t2, ...: give another file",
    ),
    "no trials": (good(sql("DROP TABLE trials")), "it lacks trials: restore a copy"),
    "no versions": (good(sql("DROP TABLE version_info")), "it lacks version_info: restore a copy"),
    "a newer Optuna's": (
        good(sql("UPDATE alembic_version SET version_num = 'v99.0.0.a'")),
        "cannot be opened",
    ),
    "a folder": (lambda path: path.mkdir(), "x.db"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["study", "status", "fit"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_database_that_cannot_be_used_is_one_line_and_stays_as_it_is(
    kept, place, capsys, name: str, command: str
) -> None:
    make, expected = DAMAGED[name]
    shutil.copyfile(kept / "good.db", place / "good.db")
    make(place / "x.db")
    before = contents(place)
    told = refusal([*COMMANDS[command], f"--storage={URL}"], capsys)
    assert expected in told or "No file 'x.db' with studies" in told
    assert contents(place) == before


@pytest.mark.parametrize("command", READING)
def test_an_empty_file_is_no_database_to_those_who_read(place, capsys, command: str) -> None:
    (place / "x.db").touch()
    assert "'x.db' is empty. Run depthsearch study" in refusal(
        [*COMMANDS[command], f"--storage={URL}"], capsys
    )
    assert (place / "x.db").stat().st_size == 0


@pytest.mark.parametrize("command", READING)
@pytest.mark.parametrize("url", ["sqlite:///gone.db", "sqlite+pysqlite:///gone.db", "sqlite:///no/gone.db"])
def test_those_who_read_make_no_database(place, capsys, command: str, url: str) -> None:
    assert "gone.db' with studies" in refusal([*COMMANDS[command], f"--storage={url}"], capsys)
    assert [path.name for path in place.iterdir()] == ["set"]


@STEADY
@given(st.binary(max_size=200))
def test_no_bytes_of_a_database_are_a_traceback(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.db"
    path.write_bytes(b"SQLite format 3\0" + content)
    assert status_of(["status", f"--storage=sqlite:///{path}"]) == 2
    assert path.read_bytes() == b"SQLite format 3\0" + content


# --- addresses ----------------------------------------------------------------------------------

ADDRESSES = {
    "studies.db": "is no database URL: give sqlite:///studies.db",
    "sqlite:studies.db": "is no database URL",
    "://": "",
    "a://b": "cannot be opened",
    "redis://user:secret@host/0": "cannot be opened",
    "https://user:secret@host/x": "cannot be opened",
    "mongodb://user:secret@host/x": "cannot be opened",
    "sqlite:///set": "",
    "sqlite:////": "",
    "sqlite:///no/such/folder/x.db": "",
    "sqlite:////dev/null/x.db": "",
    "sqlite:///" + "a" * 300: "",
    "sqlite:///\x1b[2J/x": "",
    "sqlite:///loop": "",
    "postgresql://[::1/x": "",
    "postgresql://user:secret@127.0.0.1:99999/x": "",
    "postgresql://user:secret@127.0.0.1:port/x": "",
    "postgresql+nonesuch://user:secret@127.0.0.1/x": "cannot be opened",
}
SERVERS = (
    "postgresql+psycopg://user:secret@127.0.0.1:1/x",
    "postgresql+psycopg://user:sec%40ret@127.0.0.1:1/x",
    "postgresql+psycopg://user:secret@127.0.0.1:1/x?connect_timeout=2",
    "postgresql+psycopg://user:secret@nonesuch.invalid:5432/x",
    "postgresql+psycopg://user:secret@127.0.0.1:1/x?sslmode=nonesuch",
)


@pytest.mark.parametrize("command", ["study", "report", "dashboard"])
@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_of_nothing_is_one_line_without_its_password(
    place, capsys, command: str, url: str
) -> None:
    (place / "loop").symlink_to("loop")
    before = sorted(place.iterdir())
    told = refusal([*COMMANDS[command], f"--storage={url}"], capsys)
    assert ADDRESSES[url] in told
    assert "secret" not in told
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command", ["study", "status", "report"])
@pytest.mark.parametrize("url", SERVERS)
def test_a_server_that_is_not_there_is_one_line_within_seconds(place, capsys, command: str, url: str) -> None:
    pytest.importorskip("psycopg")
    began = time.monotonic()
    told = refusal([*COMMANDS[command], f"--storage={url}"], capsys)
    assert time.monotonic() - began < 15
    assert "cannot be opened" in told
    assert "secret" not in told
    assert "sec%40ret" not in told


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (URL, "it is another program's"),
        (SERVERS[0], "cannot be opened"),
        ("mysql://user:secret@127.0.0.1/x", "needs a driver"),
    ],
)
def test_a_storage_that_cannot_be_used_is_told_before_the_images_are_looked_at(
    place, capsys, url: str, expected: str
) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    sql("CREATE TABLE t (a)")(place / "x.db")
    told = refusal([*COMMANDS["study"], "--data=nonesuch", f"--storage={url}"], capsys)
    assert expected in told
    assert "nonesuch" not in told


def test_no_database_is_made_for_images_that_are_not_there(place, capsys) -> None:
    assert "nonesuch" in refusal([*COMMANDS["study"], "--data=nonesuch", f"--storage={URL}"], capsys)
    assert not (place / "x.db").exists()


def test_nobody_else_may_read_a_locked_database(kept, place, capsys) -> None:
    shutil.copyfile(kept / "good.db", place / "x.db")
    (place / "x.db").chmod(0)
    before = contents(place)
    with modes_obeyed():
        for command in ("status", "report", "study"):
            refusal([*COMMANDS[command], f"--storage={URL}"], capsys)
    assert contents(place) == before


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///x.db", "x.db"),
        ("sqlite:////tmp/x.db", "/tmp/x.db"),
        ("sqlite+pysqlite:///x.db", "x.db"),
        ("sqlite:///file:x.db?mode=ro&uri=true", "x.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("postgresql://host/x.db", None),
        ("x.db", None),
        ("", None),
    ],
)
def test_the_file_of_an_address_is_known(url: str, file: str | None) -> None:
    assert database_file(url) == (None if file is None else Path(file))


# --- studies ------------------------------------------------------------------------------------


def made_elsewhere(path: Path) -> None:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{path}"), study_name="ab")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)


def with_attribute(name: str, value: object) -> Make:
    def make(path: Path) -> None:
        study = optuna.create_study(
            storage=open_storage(f"sqlite:///{path}"), study_name="ab", direction="maximize"
        )
        study.set_user_attr(name, value)

    return make


def spoilt(name: str, value: object) -> Make:
    text = json.dumps(value)
    return good(sql(f"UPDATE study_user_attributes SET value_json = '{text}' WHERE key = '{name}'"))


def lacking(name: str) -> Make:
    return good(sql(f"DELETE FROM study_user_attributes WHERE key = '{name}'"))


UNREADABLE: dict[str, Make] = {
    "another program's": made_elsewhere,
    "with settings of its own": with_attribute("settings", {"a": 1}),
    "with settings that are text": with_attribute("settings", "x"),
    "no cuts": lacking("cuts"),
    "no data": lacking("data"),
    "no backbones": lacking("backbones"),
    "no settings": lacking("settings"),
    **{
        f"{name} are {value}": spoilt(name, value)
        for name in ("settings", "cuts", "backbones", "data", "provenance")
        for value in ([1], "x", 5, {"a": 1})
        if not (name == "provenance" and value == {"a": 1}) and not (name == "settings" and value == {"a": 1})
    },
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_study_that_cannot_be_read_is_one_line_to_those_who_would_use_it(
    kept, place, capsys, name: str
) -> None:
    shutil.copyfile(kept / "good.db", place / "good.db")
    UNREADABLE[name](place / "x.db")
    before = contents(place)
    for command in ("study", "report", "enqueue", "explain"):
        told = refusal([*COMMANDS[command], f"--storage={URL}"], capsys)
        assert "'ab'" in told
        assert contents(place) == before, command


def test_a_study_that_cannot_be_read_does_not_hide_the_others(kept, place, capsys) -> None:
    shutil.copyfile(kept / "good.db", place / "x.db")
    study = optuna.create_study(storage=open_storage(URL), study_name="other")
    study.set_user_attr("settings", {"a": 1})
    assert status_of(["status", f"--storage={URL}", "--json"]) == 0
    found = {each["study"]: each["state"] for each in json.loads(capsys.readouterr().out)["studies"]}
    assert found == {"ab": "complete", "other": "foreign"}


@pytest.mark.parametrize("name", ["gone", "AB", "a" * 512, "ab "])
@pytest.mark.parametrize("command", ["status", "report", "stop", "enqueue", "fit", "explain"])
def test_a_study_that_is_not_there_is_one_line_that_names_those_that_are(
    kept, place, capsys, command: str, name: str
) -> None:
    shutil.copyfile(kept / "good.db", place / "x.db")
    before = contents(place)
    argv = [name if word == "ab" else word for word in COMMANDS[command]]
    told = refusal([*argv, f"--storage={URL}"], capsys)
    assert "has: ab." in told
    assert contents(place) == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["fit", "ab", "--out=x.db"], "x.db is a file. Give --out a folder"),
        (["fit", "ab", "--out=set"], "is there already and is no model folder"),
        (["fit", "ab", "--out=x.db/model"], "x.db is a file"),
        (["report", "ab", "--out=x.db"], "x.db"),
        (["report", "ab", "--artifacts=x.db"], "x.db is a file. Give a folder"),
        (["report", "ab", "--out=" + "a" * 300], "File name too long"),
        (["fit", "ab", "--out=" + "a" * 300], "File name too long"),
        (["explain", "ab", "--artifacts=" + "a" * 300], "has no fitted model"),
        (["explain", "ab"], "has no fitted model. Run depthsearch fit first"),
        (["enqueue", "ab", "--layer=nonesuch"], "No cut 'nonesuch'"),
        (["enqueue", "ab", "--layer=2", "--backbone=nonesuch"], "'nonesuch' is not in study 'ab'"),
        (["stop", "ab"], "Nobody runs study 'ab'"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_do_is_one_line_and_changes_nothing(
    kept, place, capsys, options, expected
) -> None:
    shutil.copyfile(kept / "good.db", place / "x.db")
    before = contents(place)
    assert expected in refusal([*options, f"--storage={URL}"], capsys)
    assert contents(place) == before
