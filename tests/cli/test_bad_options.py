"""Every option of every command, found by asking the parser, with values that it cannot take."""

import argparse
from pathlib import Path

import pytest
from bad_input import STEADY, contents, refusal
from hypothesis import given, strategies as st
from insides import actions_of, parsers

from depthsearch.errors import SettingsError
from depthsearch.options.file import read_study_file
from depthsearch.options.study import StudyOptions

PARSERS = parsers()
# How each command is called so that nothing comes of it, whatever the option under test makes of its value.
REFUSED = {
    # Refused before anything is loaded, as --momentum is of another optimizer.
    "study": ["study", "--backbone=nonesuch", "--momentum=0"],
    "init": ["init", "nonesuch"],
    "cuts": ["cuts", "nonesuch"],
    "report": ["report"],
    "status": ["status"],
    "stop": ["stop"],
    "enqueue": ["enqueue", "--layer=1"],
    "fit": ["fit"],
    "predict": ["predict", "nonesuch", "x.png"],
    "explain": ["explain", "nonesuch", "x.png"],
    "dashboard": ["dashboard"],
    "cache": ["cache", "--nonesuch"],
}
# Names and places, which may be any text but what cannot be shown or found.
FREE = {
    "study": "file data classes_map weights backbone image_columns number_columns layers mark name storage "
    "log_file tensorboard mlflow ray_address",
    "init": "data out backbone weights image_columns number_columns",
    "cuts": "backbone layers",
    "report": "study name storage out artifacts",
    "status": "study name storage",
    "stop": "study name storage",
    "enqueue": "study name storage layer backbone",
    "fit": "study name storage out artifacts",
    "predict": "folder images backbone",
    "explain": "model images layers label out weights storage artifacts backbone",
    "dashboard": "storage artifacts host password",
    "cache": "",
}
NONSENSE = (
    "", "x", "--", "nan", "-inf", "1e400", "9" * 5000, "1_0", "\u0663", "\x1b[2J\n", "\0", "\udcff",
    "~nonesuch/x", "a" * 300, "\u202e1",
)  # fmt: skip
# Places that are written to from the start, where somebody has asked for it.
OPENED = ("log_file", "tensorboard")
HUGE = str(10**30)


def argv_of(command: str, action: argparse.Action, value: str) -> list[str]:
    """Give an option a value in a command that is refused in any case."""
    argv = REFUSED[command]
    if action.option_strings:
        # Last, so that it wins; the backbone keeps a study from being run.
        return [*argv, f"{action.option_strings[0]}={value}"]
    positional = [each.dest for each in actions_of(command) if not each.option_strings]
    place = positional.index(action.dest)
    others = argv[1:] if command in ("predict", "explain", "cuts", "init") else []
    return [command, *others[:place], "--", value, *others[place + 1 :]]


CASES = [(command, action.dest) for command in PARSERS for action in actions_of(command)]


def test_every_command_is_tried() -> None:
    assert set(REFUSED) == set(FREE) == set(PARSERS)


@pytest.mark.parametrize(("command", "dest"), CASES)
def test_no_value_of_an_option_is_a_traceback_or_more_than_a_line(
    tmp_path, monkeypatch, capsys, command: str, dest: str
) -> None:
    monkeypatch.chdir(tmp_path)
    action = next(each for each in actions_of(command) if each.dest == dest)
    for value in (*NONSENSE, HUGE, "-1"):
        told = refusal(argv_of(command, action, value), capsys)
        if dest in FREE[command].split():
            continue
        if value in NONSENSE:
            name = action.option_strings[0] if action.option_strings else action.metavar
            assert name in told or f"--no-{name.lstrip('-')}" in told, (value, told)
    if dest not in OPENED:
        assert contents(tmp_path) == {}


PLACES = [(c, d) for c, d in CASES if d in FREE[c].split()]


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize(("command", "dest"), PLACES)
def test_an_empty_name_is_not_taken_for_a_default(
    tmp_path, monkeypatch, capsys, command, dest, value
) -> None:
    monkeypatch.chdir(tmp_path)
    action = next(each for each in actions_of(command) if each.dest == dest)
    told = refusal(argv_of(command, action, value), capsys)
    assert "is empty: give a " in told or "is no list, such as" in told or dest == "password"
    assert contents(tmp_path) == {}


WHOLE = [
    ("study", "image_size"), ("study", "epochs"), ("study", "batch_size"), ("study", "head_depth"),
    ("study", "views"), ("study", "trials"), ("study", "confirm"), ("study", "seeds"), ("study", "seed"),
    ("study", "head_width"), ("study", "workers"), ("study", "keep_memory"), ("study", "keep_disk"),
    ("cuts", "image_size"),
    ("enqueue", "head_width"), ("fit", "seed"), ("fit", "keep_memory"), ("predict", "batch_size"),
    ("explain", "n"), ("dashboard", "port"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "dest"), WHOLE)
def test_a_number_that_fits_no_machine_is_refused_at_once(capsys, command: str, dest: str) -> None:
    action = next(each for each in actions_of(command) if each.dest == dest)
    told = refusal(argv_of(command, action, HUGE), capsys)
    assert action.option_strings[0] in told
    assert HUGE in told


@STEADY
@given(st.text(st.characters(codec=None), max_size=30))
def test_no_text_given_as_any_number_is_a_traceback(text: str) -> None:
    for command in ("study", "enqueue", "stop"):
        for action in actions_of(command):
            if callable(action.type) and action.dest not in FREE[command].split():
                try:
                    action.type(text)
                except (argparse.ArgumentTypeError, ValueError) as error:
                    str(error)


BACKBONES = {
    "densenet12": "densenet121",
    "densnet121": "densenet121",
    "resnt50": "resnet50",
    "RESNET51": "resnet51q",
    "efficentnet_b0": "efficientnet_b0",
    "mobilenet_v3_large_100": "mobilenetv3_large_100",
    "vgg_16": "vgg16",
}


def test_of_many_names_that_hold_a_word_the_plainest_are_named(capsys) -> None:
    assert "Near: resnet18, resnet26, resnet34, resnet50." in refusal(["cuts", "resnet"], capsys)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_name_of_a_backbone_that_is_almost_right_is_answered_with_the_right_one(capsys, name: str) -> None:
    told = refusal(["cuts", name], capsys)
    assert f"has no model {name!r}. Near: " in told
    assert BACKBONES[name] in told


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet50", "local-dir:/tmp", "*", "[a-", "torchvision/resnet50", "0"]
)
def test_what_is_no_name_of_a_backbone_is_refused(capsys, name: str) -> None:
    assert f"has no model {name!r}" in refusal(["cuts", name], capsys)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["vit_tiny_patch16_224", "--layers=blocks.3.nonesuch"], "No layer 'blocks.3.nonesuch'"),
        (["vit_tiny_patch16_224", "--kinds=pool"], "VisionTransformer has no pool layer to cut at; it has:"),
        (["vit_tiny_patch16_224", "--image-size=100"], "vit_tiny_patch16_224 takes images of 224 px (Input"),
        (["resnet50.nonesuch"], "timm cannot build 'resnet50.nonesuch': Invalid pretrained tag"),
        (["test_resnet", "--layers=*nonesuch*"], "No layer '*nonesuch*' in ResNet. Near: layer "),
        (["test_resnet", "--layers=["], "No layer '[' in ResNet."),
        (["test_resnet", "--layers=-3"], "No layer '-3' in ResNet."),
        (["test_resnet", "--layers=0"], "No layer '0' in ResNet."),
        (["test_resnet", "--layers=" + "9" * 5000], "No layer '9999"),
        (["test_resnet", "--layers=\u0663"], "No layer '\u0663' in ResNet."),
        (["test_resnet", "--layers=\u00b2"], "No layer '\u00b2' in ResNet."),
        (["test_resnet", "--layers=conv1.0,\x1b[2J"], r"No layer '\x1b[2J' in ResNet."),
        (["test_resnet", "--image-size=5000"], "'5000' is too large: give at most 4096"),
    ],
)  # fmt: skip
def test_layers_and_sizes_that_a_backbone_lacks_are_one_line(
    capsys, options: list[str], expected: str
) -> None:
    assert expected in refusal(["cuts", *options], capsys)


# --- study files --------------------------------------------------------------------------------

KEYS = [action.dest for action in actions_of("study") if action.dest not in ("file",)]
BAD_VALUES = {
    "table": "{a = 1}",
    "date": "1979-05-27",
    "time": "07:32:00",
    "nested": "[[1]]",
    "tables in a list": "[{a = 1}]",
    "flags in a list": "[true, false]",
    "escapes": '"\\u001b[2J\\n"',
    "NUL": '"\\u0000"',
    "huge": str(10**30),
    "infinite": "-inf",
    "no number": "nan",
}


@pytest.mark.parametrize("key", KEYS)
def test_no_value_in_a_study_file_is_a_traceback_or_more_than_a_line(
    tmp_path, monkeypatch, capsys, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, value in BAD_VALUES.items():
        others = {"backbone": '"nonesuch"', "momentum": "0", key: value}
        Path("s.toml").write_text("\n".join(f"{k} = {v}" for k, v in others.items()), encoding="utf-8")
        told = refusal(["study", "s.toml"], capsys)
        if kind in ("table", "date", "time", "nested", "tables in a list", "flags in a list"):
            assert "s.toml" in told
            assert key in told
    if key not in OPENED:
        assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "No --backbone, neither here nor in a study file"),
    "spaces": (b"\n \n# nothing\n", "No --backbone, neither here nor in a study file"),
    "not UTF-8": (b'backbone = "\xff"\n', "is no TOML file: byte 12 is not UTF-8"),
    "UTF-16": ('backbone = "x"\n'.encode("utf-16"), "is no TOML file: byte 0 is not UTF-8"),
    "NUL bytes": (bytes(100), "is no TOML file"),
    "JSON": (b'{"backbone": "x"}', "is no TOML file"),
    "YAML": (b"backbone: x\n", "is no TOML file"),
    "an INI file": (b"[run]\nbackbone = x\n", "is no TOML file"),
    "an open text": (b'backbone = "x\n', "is no TOML file"),
    "an open list": (b"layers = [1, 2\n", "is no TOML file"),
    "nested too deeply": (b"layers = " + b"[" * 60_000, "nested too deeply"),
    "huge": (b"# " + b"x" * 2**21, "has more than 1 MiB"),
    "a key twice": (b"epochs = 1\nepochs = 2\n", "Cannot overwrite a value"),
    "a key of escapes": (b'"\\u001b[2J\\n" = 1\n', r"no option '\x1b[2J\n'"),
    "a table of escapes": (b'["\\u001b[2J"]\nx = 1\n', r"no table [\x1b[2J]"),
    "an empty key": (b'"" = 1\n', "no option ''"),
    "lists of tables": (b"[[run]]\nepochs = 1\n", "no option 'run'"),
    "an option of another command": (b"wait = 1\n", "no option 'wait'"),
    "data that are gone": (b'backbone = "test_resnet"\nweights = "random"\ndata = "gone"\n', "No folder"),
    "data of nobody": (b'backbone = "test_resnet"\nweights = "random"\ndata = "~gone/x"\n', "No folder"),
    "empty data": (b'backbone = "test_resnet"\ndata = ""\n', "data: it is empty"),
    "weights that are gone": (b'backbone = "test_resnet"\nweights = "gone.pt"\n', "No weights file"),
    "a map that is gone": (
        b'backbone = "test_resnet"\nweights = "random"\nclasses-map = "gone"\n',
        "gone for --classes-map",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_study_file_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, capsys, name: str) -> None:
    content, expected = FILES[name]
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_bytes(content)
    before = contents(tmp_path)
    assert expected in refusal(["study", "s.toml"], capsys)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
        (lambda path: path.symlink_to("/dev/zero"), "has more than 1 MiB"),
    ],
)
def test_what_is_no_study_file_is_one_line(tmp_path, monkeypatch, capsys, make, expected: str) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "s.toml")
    assert expected in refusal(["study", "s.toml"], capsys)


def test_a_study_file_may_begin_with_a_byte_order_mark(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_bytes(b'\xef\xbb\xbfbackbone = "nonesuch"\r\n')
    assert "has no model 'nonesuch'" in refusal(["study", "s.toml"], capsys)


@STEADY
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="replace")))
def test_no_bytes_of_a_study_file_are_a_traceback(tmp_path_factory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "s.toml"
    path.write_bytes(content)
    try:
        read_study_file(path, StudyOptions)
    except SettingsError as error:
        refused = str(error)
    else:
        return
    assert str(path) in refused
