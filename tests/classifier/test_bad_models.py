"""Model folders that are damaged or of something else, and images that a model cannot read."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_input import contents, refusal, status_of, studied
from privileges import make_pipe
from safetensors.torch import load_file, save_file

import depthsearch
from depthsearch.errors import DepthsearchError
from depthsearch.files import folder_named

Make = Callable[[Path], object]
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> Path:
    """Holds a model that depthsearch fit wrote, and the study that it is of."""
    folder = tmp_path_factory.mktemp("fitted")
    url = studied(folder, "studies.db")
    assert status_of(["fit", "ab", url, f"--out={folder}/model", "--device=cpu"]) == 0
    return folder


def with_config(change: Callable[[dict], object]) -> Make:
    def make(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        change(config)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return make


def ours(*keys: str, to: object) -> Make:
    def change(config: dict) -> None:
        place = config["depthsearch"]
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return with_config(change)


def without(*keys: str) -> Make:
    def change(config: dict) -> None:
        place = config["depthsearch"]
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return with_config(change)


def written(file: str, content: bytes) -> Make:
    return lambda folder: (folder / file).write_bytes(content)


def weights(change: Callable[[State], State]) -> Make:
    def make(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return make


def pipe(name: str) -> Make:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        make_pipe(folder / name)

    return make


AGAIN = "Write the model again with depthsearch fit"
DAMAGED: dict[str, tuple[Make, str]] = {
    "no description": (lambda folder: (folder / "config.json").unlink(), "config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), AGAIN),
    "an empty description": (written("config.json", b""), AGAIN),
    "a description of other bytes": (written("config.json", b"\xff\xfe\0"), AGAIN),
    "a description that is a list": (written("config.json", b"[]"), "was not written by depthsearch"),
    "a description of timm's": (written("config.json", b'{"architecture": "x"}'), "was not written by"),
    "a description nested too deeply": (written("config.json", b"[" * 100_000), AGAIN),
    "a description of huge numbers": (written("config.json", b'{"a": ' + b"9" * 5000 + b"}"), AGAIN),
    "a description that is a pipe": (pipe("config.json"), "config.json"),
    "weights that are a pipe": (pipe("model.safetensors"), AGAIN),
    "empty weights": (written("model.safetensors", b""), AGAIN),
    "weights of other bytes": (written("model.safetensors", b"x" * 500), AGAIN),
    "weights with a header of 2 ** 63": (written("model.safetensors", struct.pack("<Q", 2**63)), AGAIN),
    "weights of NaN": (weights(lambda tensors: {k: t * float("nan") for k, t in tensors.items()}), AGAIN),
    "other weights": (weights(lambda tensors: {k: t + 1 for k, t in tensors.items()}), "does not hold the"),
    "fewer weights": (weights(lambda tensors: dict([*tensors.items()][:-1])), AGAIN),
    "weights of another shape": (weights(lambda given: {k: t[None] for k, t in given.items()}), AGAIN),
    "a class twice": (ours("classes", to=["a", "a"]), AGAIN),
    "classes in a text": (ours("classes", to="ab"), AGAIN),
    "a backbone of nobody": (ours("backbone", to="nonesuch"), "has no model 'nonesuch'"),
    "another backbone": (ours("backbone", to="test_vit"), AGAIN),
    "another head": (ours("head", "width", to=64), AGAIN),
    "a wide head": (ours("head", "width", to=10**9), AGAIN),
    "a deep head": (ours("head", "depth", to=10**6), AGAIN),
    "a huge image": (ours("preprocessing", "image_size", to=10**6), AGAIN),
    "no image": (ours("preprocessing", "image_size", to=0), AGAIN),
    "a deviation of 0": (ours("preprocessing", "std", to=[0, 0, 0]), AGAIN),
    "two channels": (ours("preprocessing", "mean", to=[0.5, 0.5]), AGAIN),
    "a mean of text": (ours("preprocessing", "mean", to=["a", "b", "c"]), AGAIN),
    "an unknown filter": (ours("preprocessing", "interpolation", to="magic"), AGAIN),
    "an unknown key": (ours("preprocessing", "more", to=1), AGAIN),
    "another format": (ours("format", to=99), "has format 99, this depthsearch"),
    "no columns": (ours("samples", to={}), AGAIN),
    "other columns": (ours("samples", to={"image_columns": [], "number_columns": []}), AGAIN),
    **{
        f"no {key}": (without(key), AGAIN)
        for key in ("backbone", "classifier", "classes", "head", "preprocessing", "digest", "precision")
    },
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_model_is_one_line(fitted, tmp_path, name: str) -> None:
    make, expected = DAMAGED[name]
    shutil.copytree(fitted / "model", tmp_path / "model")
    make(tmp_path / "model")
    refused_model(tmp_path / "model", expected)


WRONG = ("x", -1, 10**30, 1.5, True, [], {}, [1], "\x1b[2J", 1e400)
KEYS = ("backbone", "classifier", "classes", "head", "head width", "head depth", "preprocessing",
        "preprocessing image_size", "preprocessing std", "precision", "digest")  # fmt: skip


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("keys", KEYS)
def test_a_value_of_another_kind_in_a_description_is_one_line(fitted, tmp_path, keys: str, value) -> None:
    shutil.copytree(fitted / "model", tmp_path / "model")
    ours(*keys.split(), to=value)(tmp_path / "model")
    refused_model(tmp_path / "model", ".")


def refused_model(folder: Path, expected: str) -> None:
    with pytest.raises(DepthsearchError, match=expected) as caught:
        depthsearch.load(folder, device="cpu")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("nonesuch", "No model folder 'nonesuch'"),
        ("a" * 300, "(File name too long)"),
        ("set", "is no model folder: it has no config.json"),
        ("studies.db", "No model folder 'studies.db' (it is a file)"),
        ("/dev/null", "(it is a pipe or device)"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_what_is_no_model_is_one_line(
    fitted, tmp_path, monkeypatch, capsys, command, given_, expected
) -> None:
    monkeypatch.chdir(fitted)
    before = contents(fitted)
    told = refusal([command, given_, "set/a/0.png"], capsys)
    if command == "predict":
        assert expected in told
    assert contents(fitted) == before


def test_the_name_of_a_study_leads_to_its_model(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    folder = f"{folder_named('my pets')}-model"
    (tmp_path / folder).mkdir()
    assert f"Give '{folder}', which" in refusal(["predict", "my pets", "x.png"], capsys)


IMAGES = {
    "nonesuch.png": "No such file or directory",
    "studies.db": "not in an image format",
    "a" * 300: "File name too long",
    "/dev/zero": "pipe or device",
    "\x1b[2J\n": r"\x1b[2J\n",
    "model/config.json": "not in an image format",
}


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_an_image_that_a_model_cannot_read_is_one_line(fitted, monkeypatch, capsys, command, image) -> None:
    monkeypatch.chdir(fitted)
    before = contents(fitted)
    assert IMAGES[image] in refusal([command, "model", image, "--device=cpu"], capsys)
    assert contents(fitted) == before
