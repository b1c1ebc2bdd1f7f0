"""Folders of images that are empty, odd, endless or hostile in their names."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input import OBEYED, STEADY, STUDY, contents, refusal, status_of
from hypothesis import given, strategies as st
from image_folders import fill
from privileges import make_pipe, modes_obeyed

from depthsearch.cli.console import console_for, say, say_list
from depthsearch.data import Source, load_data
from depthsearch.errors import DataError
from depthsearch.text import one_line, printable

TWO = {"a": 5, "b": 5}
# Refused before anything is decoded or stored.
Make = Callable[[Path], object]


def with_two(more: Make) -> Make:
    def make(root: Path) -> None:
        fill(root, TWO)
        more(root)

    return make


def filled(counts: dict[str, int]) -> Make:
    return lambda root: fill(root, counts)


def linked(name: str, to: str) -> Make:
    return with_two(lambda root: (root / name).symlink_to(to))


def not_utf8(root: Path) -> None:
    folder = os.fsencode(root) + b"/caf\xe9"
    fill(root, {"c": 5})
    (root / "c").rename(os.fsdecode(folder))


# --- refused ------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Make, str]] = {
    "empty": (lambda root: None, "No images in"),
    "only hidden": (filled({".git/a": 3, "__MACOSX/b": 3}), "No images in"),
    "no images": (lambda root: [(root / n).mkdir() for n in "ab"], "No images in"),
    "one class": (filled({"a": 5}), "has one class only, 'a'. Give two or more class folders"),
    "one class beside a Mac's": (filled({"a": 5, "__MACOSX": 5}), "has one class only, 'a'"),
    "an empty class": (filled({"a": 5, "b": 5, "c": 0}), "holds no image. Add images or remove"),
    "one image in all": (filled({"a": 1, "b": 0}), "b holds no image"),
    "one image each": (
        filled({"a": 1, "b": 1}),
        "has 1 image, too few to be in each of train, test and val at this --test-share and --val-share.",
    ),
    "two images each": (filled({"a": 2, "b": 2}), "has 2 images, too few to be in each of train, "),
    "one rare class": (filled({"a": 40, "b": 2}), "Class 'b' of"),
    "loose images": (filled({".": 3, "a": 5, "b": 5}), "3 image(s) directly in"),
    "train without classes": (filled({"train": 5}), "5 image(s) directly in"),
    "an empty val": (filled({"train/a": 5, "train/b": 5, "val": 0}), "only one of them has a, b"),
    "val lacks one": (filled({"train/a": 5, "train/b": 5, "val/a": 2}), "only one of them has b"),
    "val has one more": (
        filled({"train/a": 5, "train/b": 5, "val/a": 2, "val/b": 2, "val/c": 2}),
        "train and val disagree on the classes, only one of them has c",
    ),
    "test has other cases": (
        filled({"train/Cat": 5, "train/dog": 5, "test/cat": 2, "test/dog": 2}),
        "only one of them has Cat, cat",
    ),
    "val of another Unicode form": (
        filled({"train/caf\u00e9": 5, "train/b": 5, "val/cafe\u0301": 2, "val/b": 2}),
        r"only one of them has 'caf\xe9', 'cafe\u0301'",
    ),
    "two Unicode forms": (
        filled({"caf\u00e9": 5, "cafe\u0301": 5}),
        r"'cafe\u0301' and 'caf\xe9' of",
    ),
    "two names of one split": (
        filled({f"{split}/{name}": 5 for split in ("Train", "train") for name in "ab"}),
        "has both Train and train, two names for one split",
    ),
    "val alone": (filled({"val/a": 5, "val/b": 5}), "has val but no train folder"),
    "not UTF-8": (with_two(not_utf8), r"Class 'caf\xe9' of"),
    "a link to its parent": (linked("a/up", ".."), "a/up leads back to a folder around it"),
    "a link to itself as a folder": (linked("a/here", "."), "a/here leads back to a folder around it"),
    "two loops": (
        with_two(lambda root: [(root / "a" / name).symlink_to(".") for name in "xy"]),
        "leads back to a folder around it, by a link and without end. Remove the link",
    ),
    "a root that loops": (linked("again", "."), "leads back to a folder around it"),
    "a class that loops": (linked("c", "c"), "c is a link to nowhere. Bring back what it led to"),
    "a class that is gone": (linked("c", "/nonesuch/c"), "c is a link to nowhere"),
    "an image that is gone": (linked("a/x.jpg", "nowhere"), "a/x.jpg: No such file or directory"),
    "an image that loops": (linked("a/x.jpg", "x.jpg"), "Too many levels of symbolic links"),
    "a loose image that loops": (linked("x.jpg", "x.jpg"), "1 image(s) directly in"),
    "a folder called like an image": (with_two(lambda root: (root / "x.jpg").mkdir()), "x.jpg holds no"),
    "a pipe called like an image": (with_two(lambda root: make_pipe(root / "a" / "x.jpg")), "pipe or device"),
    "images that are all empty": (
        with_two(lambda root: [path.write_bytes(b"") for path in root.rglob("*.png")]),
        "not in an image format that Pillow knows",
    ),
    "metadata that are a folder": (with_two(lambda root: (root / "metadata.csv").mkdir()), "holds no image"),
    "metadata that are empty": (with_two(lambda root: (root / "metadata.csv").touch()), "is empty"),
    "metadata of other bytes": (
        with_two(lambda root: (root / "metadata.csv").write_bytes(b"\xff\xfe\0")),
        "metadata.csv is not in UTF-8",
    ),
    "two metadata": (
        with_two(lambda root: [(root / f"metadata.{end}").touch() for end in ("csv", "jsonl")]),
        "has both metadata.csv and metadata.jsonl. Keep one",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_used_is_one_line_and_nothing_is_made(
    tmp_path, monkeypatch, capsys, name: str
) -> None:
    make, expected = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    before = contents(tmp_path)
    assert expected in refusal([*STUDY, "--data", "set"], capsys)
    assert contents(tmp_path) == before


NOWHERE = {
    "missing": ("nonesuch", "Give a folder of images, DIR/<class>/<image>, a table"),
    "too long": ("a" * 300, "(File name too long)"),
    "too long by its parts": ("/".join(["a" * 200] * 30), "(File name too long)"),
    "home of nobody": ("~nonesuch/x", "No folder"),
    "in a file": ("file/x", "(Not a directory)"),
    "loops": ("loop", "(Too many levels of symbolic links)"),
    "a file": ("file", "file is a file. Give the folder that holds"),
    "a device": ("/dev/null", "(it is a pipe or device)"),
    "empty": ("", "it is empty: give a value, or leave it out"),
    "spaces": ("   ", "it is empty"),
    "NUL": ("a\0b", "none holds a NUL character"),
    "escapes": ("\x1b[2J\n", r"\x1b[2J\n"),
    "a table that is missing": ("x.csv", "Give a table with the columns image, label"),
    "a table that is too long": ("a" * 300 + ".csv", "(File name too long)"),
    "a table of nobody": ("~nonesuch/x.csv", "Give a table with the columns image, label"),
    "an unknown set": ("torchvision:", "torchvision has no data set for classification called ''"),
    "an unknown scheme": ("https://example.org/x.zip", "No folder"),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_data_that_are_nowhere_are_one_line(tmp_path, monkeypatch, capsys, name: str) -> None:
    given_, expected = NOWHERE[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    assert expected in refusal([*STUDY, f"--data={given_}"], capsys)
    assert contents(tmp_path) == before


def test_a_folder_without_permission_is_named(tmp_path) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    fill(root, TWO)
    (root / "a").chmod(0)
    locked = tmp_path / "locked"
    (locked / "set").mkdir(parents=True)
    locked.chmod(0)
    with modes_obeyed():
        with pytest.raises(DataError, match=r"Cannot look into .*/a: Permission denied\. Check that it may"):
            load_data(root, image_size=8, cache=cache)
        with pytest.raises(DataError, match=r"No folder .*locked/set \(Permission denied\)"):
            load_data(locked / "set", image_size=8, cache=cache)


def test_a_folder_that_vanishes_while_it_is_read_is_named(tmp_path, monkeypatch) -> None:
    fill(tmp_path / "set", TWO)
    scandir = os.scandir

    def vanishing(folder):
        if Path(folder).name == "b":
            raise FileNotFoundError(2, "No such file or directory", str(folder))
        return scandir(folder)

    monkeypatch.setattr("depthsearch.data.sources.scanning.os.scandir", vanishing)
    with pytest.raises(DataError, match=r"Cannot look into .*/b: No such file or directory"):
        load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")


def test_images_that_vanish_after_they_were_listed_leave_no_store(tmp_path, monkeypatch) -> None:
    fill(tmp_path / "set", TWO)
    from depthsearch.data.sources import scanning as module

    def removed(path, geometry, ranges):
        path.unlink(missing_ok=True)
        return decode(path, geometry, ranges)

    decode = module.decode_file
    monkeypatch.setattr(module, "decode_file", removed)
    with pytest.raises(DataError, match=r"set/a/00\.png: No such file or directory"):
        load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.*")) == []


# --- used ---------------------------------------------------------------------------------------

NAMES = {
    "right to left": "\u05e9\u05dc\u05d5\u05dd",
    "turned": "\u202egpj.exe",
    "emoji": "\U0001f600",
    "family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "markup": "[bold red]x[/bold red]",
    "bad markup": "[/nonesuch]",
    "emoji code": ":smile:",
    "line break": "a\nb",
    "carriage return": "a\rb",
    "colours": "\x1b[31mred\x1b[0m",
    "cleared screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;owned\x07",
    "bell": "\x07",
    "C1": "\x9b2J",
    "line separator": "a\u2028b",
    "quotes": "a'b\"c`d",
    "shell": "$(id);|&>x",
    "dash": "-rf",
    "spaces": "  a  ",
    "dots": "a..b.",
    "percent": "%s{0}{x}",
    "html": "<script>alert(1)</script>",
    "table": "a|b",
    "long": "x" * 250,
    "NaN": "nan",
    "null": "null",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_any_name_is_used_and_cannot_repaint_the_terminal(tmp_path, capsys, name: str) -> None:
    odd = NAMES[name].replace("/", "\u2215")
    fill(tmp_path / "set", {odd: 8, "plain": 8})
    (tmp_path / "set" / odd / f"{odd[:60]}.png").write_bytes(b"")
    data = load_data(Source(tmp_path / "set", skip_unreadable=True), image_size=8, cache=tmp_path / "cache")
    assert set(data.classes) == {odd, "plain"}
    with pytest.raises(DataError, match="not in an image format") as caught:
        load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    told = one_line(str(caught.value))
    assert not OBEYED & set(told)
    say_list(console_for(), "left out", data.skipped)
    say(console_for(), odd)
    console_for().print(table_of(odd))
    shown = capsys.readouterr().out
    assert not (OBEYED - {"\n"}) & set(shown), ascii(shown)
    assert printable(odd).split("\n")[0].strip()[:20] in shown


def table_of(name: str):
    from rich.table import Table

    table = Table(title=name)
    table.add_column(name, overflow="fold")
    table.add_row(name)
    return table


def test_a_folder_of_an_odd_name_gives_a_study_a_plain_one(tmp_path) -> None:
    root = tmp_path / "a\x1b[2J\nb"
    fill(root, TWO)
    data = load_data(root, image_size=8, cache=tmp_path / "cache")
    assert data.name == r"a\x1b[2J\nb"
    assert data.source == str(root)


def test_a_file_whose_name_is_not_utf8_is_used(tmp_path) -> None:
    fill(tmp_path / "set", TWO)
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/set/a/caf\xe9.png")
    (tmp_path / "set" / "a" / "00.png").rename(odd)
    data = load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert len(data.paths) == 10
    assert printable(next(path for path in data.paths if "caf" in path)) == r"a/caf\xe9.png"


def test_names_that_differ_in_case_are_two_classes_and_that_is_told(tmp_path) -> None:
    fill(tmp_path / "set", {"Cat": 4, "cat": 4})
    data = load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert data.classes == ("Cat", "cat")
    assert data.notes == ("Classes 'Cat' and 'cat' differ only in case: are they one?",)


def test_what_systems_leave_in_folders_is_passed_over(tmp_path) -> None:
    root = tmp_path / "set"
    fill(root, {"a": 4, "b": 4, "__MACOSX/a": 3, ".hidden": 3, "a/.thumbs": 2, "a/@eaDir": 0})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "a/._00.png", "a/notes.txt"):
        (root / name).write_bytes(b"x")
    data = load_data(root, image_size=8, cache=tmp_path / "cache")
    assert len(data.paths) == 8
    assert data.classes == ("a", "b")


def test_folders_nested_deeper_than_python_calls_itself_are_read(tmp_path) -> None:
    fill(tmp_path / "set", TWO)
    deep = top = tmp_path / "set" / "a"
    for _ in range(1200):
        deep /= "d"
        deep.mkdir()
    try:
        assert len(load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache").paths) == 10
    finally:
        # Pytest's own removal calls itself for each folder.
        while deep != top:
            deep.rmdir()
            deep = deep.parent


def test_links_to_folders_and_images_outside_are_followed(tmp_path) -> None:
    fill(tmp_path / "set", {"a": 4})
    fill(tmp_path / "out", {"b": 4, "c": 1})
    (tmp_path / "set" / "b").symlink_to(tmp_path / "out" / "b")
    (tmp_path / "set" / "a" / "x.png").symlink_to(tmp_path / "out" / "c" / "00.png")
    data = load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert len(data.paths) == 9


def test_two_links_to_one_folder_are_two_classes(tmp_path) -> None:
    fill(tmp_path / "set", TWO)
    (tmp_path / "set" / "c").symlink_to("a")
    data = load_data(tmp_path / "set", image_size=8, cache=tmp_path / "cache")
    assert data.classes == ("a", "b", "c")
    assert data.duplicates


# --- what is shown ------------------------------------------------------------------------------


@STEADY
@given(st.text(st.characters(codec=None), max_size=60))
def test_no_text_can_command_a_terminal(text: str) -> None:
    shown = one_line(text)
    assert not OBEYED & set(shown)
    shown.encode()
    assert one_line(shown) == shown


@STEADY
@given(st.text(st.characters(categories=("L", "M", "N", "P", "S")), max_size=60))
def test_letters_of_every_script_are_shown_as_they_are(text: str) -> None:
    assert one_line(text) == text
    assert one_line(unicodedata.normalize("NFD", text)) == unicodedata.normalize("NFD", text)


def test_a_long_line_keeps_its_begin_and_its_end() -> None:
    line = one_line("what is wrong " + "x" * 10**6 + " what to do")
    assert len(line) < 1400
    assert line.startswith("what is wrong x")
    assert line.endswith("x what to do")


def test_a_study_of_hostile_names_runs_and_is_shown_to_its_end(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "s\x1b[2Jt"
    fill(root, {"\x1b[31m[bold]\n": 6, "[/x]\u202e:smile:": 6})
    assert status_of([*STUDY, f"--data={root}", "--name=odd"]) == 0
    assert status_of(["fit", "odd", "--storage=sqlite:///studies.db", "--out=model", "--device=cpu"]) == 0
    assert status_of(["predict", "model", str(root), "--device=cpu"]) == 0
    assert status_of(["status", "--storage=sqlite:///studies.db"]) == 0
    assert status_of(["report", "--storage=sqlite:///studies.db", "--out=report"]) == 0
    told = capsys.readouterr()
    assert not (OBEYED - {"\n"}) & set(told.out + told.err)
    assert r"\x1b[31m[bold]" in told.out
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert not (OBEYED - {"\n"}) & set(card)
    assert "<script" not in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
