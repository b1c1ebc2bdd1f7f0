"""From `depthsearch cuts` to `depthsearch predict` with backbones of other sources than timm."""

import json
import re
import shlex
from pathlib import Path

import optuna
import pytest
import torch
from bad_input import OPTIONS, refusal, status_of
from PIL import Image
from small_backbones import NET, TINY, put_weights

import depthsearch
from depthsearch.cli import console
from depthsearch.cli.parser import make_parser
from depthsearch.errors import ModelError

SMALL = {**OPTIONS, "trials": "2", "subset": "0.1"}
del SMALL["backbone"], SMALL["weights"], SMALL["image-size"]


def study(backbone: str, **options: str) -> list[str]:
    """Give the command of a study that takes a second."""
    given = {**SMALL, "backbone": backbone, **{name.replace("_", "-"): v for name, v in options.items()}}
    return ["study", *(f"--{name}={value}" for name, value in given.items())]


def run(*argv: str) -> None:
    assert status_of(list(argv)) == 0, shlex.join(argv)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file that makes a small network, and an image."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    Image.new("RGB", (40, 40), (90, 20, 200)).save("x.png")
    return tmp_path


def test_a_function_goes_from_its_cuts_to_its_predictions(here: Path, capsys) -> None:
    run("cuts", "net.py:make", "--image-size=32", "--json")
    assert [cut["name"] for cut in json.loads(capsys.readouterr().out)][-1] == "out"
    run(*study("net.py:make", image_size="32"))
    # Under its other spelling it goes on, here with a third trial.
    run(*study("./net.py:make", image_size="32", trials="3"))
    run("fit", "net-make-digits", "--storage=sqlite:///studies.db")
    told = capsys.readouterr().out
    assert 'depthsearch.load("net-make-digits-model", backbone="net.py:make"); timm cannot load it' in told
    model = "net-make-digits-model"
    complaint = refusal(["predict", model, "x.png"], capsys)
    assert "made by net.py:make, which is not run unasked. Give --backbone net.py:make" in complaint
    run("predict", model, "x.png", "--backbone=net.py:make", "--json")
    predicted = json.loads(capsys.readouterr().out)
    loaded = depthsearch.load(model, backbone="net.py:make", device="cpu")
    assert loaded.predict(["x.png"])[0].probabilities == predicted["probabilities"]
    with pytest.raises(ModelError, match=r"is made by net\.py:make, not resnet18\. Give FILE\.py:FUNCTION"):
        depthsearch.load(model, backbone="resnet18")
    assert "--backbone net.py:make" in (here / model / "README.md").read_text()
    Path("net.py").write_text(NET + "\n# changed\n", encoding="utf-8")
    assert "is not what it was when" in refusal(["predict", model, "x.png", "--backbone=net.py:make"], capsys)


@pytest.mark.slow
def test_names_stay_whole_in_the_tables_of_a_narrow_terminal(here: Path, monkeypatch, capsys) -> None:
    """Guards the tables of a real study and a deep network against names that are cut."""
    run(*study("test_resnet", weights="random", image_size="16", confirm="1", seeds="2"))
    for width in (80, 120):
        monkeypatch.setattr(console, "PLAIN_WIDTH", width)
        capsys.readouterr()
        run("cuts", "densenet121")
        shown = capsys.readouterr().out
        assert "features.denseblock4.denselayer16.conv2 " in shown
        assert max(map(len, shown.splitlines())) <= width
        run("report", "test_resnet-digits", "--storage=sqlite:///studies.db")
        shown = capsys.readouterr().out
        tables = [line for line in shown.splitlines() if line.startswith(("│", "┃"))]
        assert max(map(len, tables)) <= width
        assert any("first trainable " in line for line in tables)
        assert any(" fc " in line for line in tables)


def test_a_changed_file_is_another_study(here: Path, capsys) -> None:
    run(*study("net.py:make", image_size="32"))
    Path("net.py").write_text(NET + "\n# changed\n", encoding="utf-8")
    complaint = refusal(study("net.py:make", image_size="32"), capsys)
    assert "Study 'net-make-digits' is stored with other settings: --backbone net.py:make [" in complaint
    complaint = refusal(["fit", "--storage=sqlite:///studies.db"], capsys)
    assert "The network net.py:make of study 'net-make-digits' has changed. Restore it" in complaint


@pytest.mark.slow
def test_workers_of_their_own_process_train_a_function(here: Path) -> None:
    """Guards a user's own network in worker processes, which have to run its file first."""
    run(*study("net.py:make", image_size="32", workers="2"))
    assert len(_complete("net-make-digits")) == 2


def _complete(name: str) -> list[optuna.trial.FrozenTrial]:
    stored = optuna.load_study(study_name=name, storage="sqlite:///studies.db")
    return stored.get_trials(states=[optuna.trial.TrialState.COMPLETE])


def test_a_study_file_names_a_function_beside_it(here: Path) -> None:
    (here / "deeper").mkdir()
    (here / "net.py").rename(here / "deeper" / "net.py")
    torch.save({"model": torch.load(_saved(here), weights_only=True)}, here / "deeper" / "w.pt")
    text = 'backbone = "net.py:make"\nweights = "net.py:make=w.pt"\nimage-size = 32\n'
    (here / "deeper" / "beside.toml").write_text(text)
    given = [f"--{name}={value}" for name, value in SMALL.items()]
    run("study", "deeper/beside.toml", *given)
    stored = optuna.load_study(study_name="beside", storage="sqlite:///studies.db")
    assert stored.user_attrs["backbones"][""]["name"] == "deeper/net.py:make"
    assert stored.user_attrs["backbones"][""]["weights"].startswith("file w.pt (")


def _saved(folder: Path) -> Path:
    from depthsearch.models.backbones import make_model

    path = folder / "state.pt"
    torch.save(make_model(f"{folder}/deeper/net.py:make", image_size=32).state_dict(), path)
    return path


@pytest.mark.slow
def test_the_answer_of_one_backbone_is_trained_though_layers_of_another_were_picked(
    here: Path, capsys
) -> None:
    """Guards fit of a study of several backbones with picked layers."""
    names = "net.py:make,test_resnet"
    # The picked layers are of one of the two; whichever has the answer, the other's are none of its own.
    for layers in ("net.py:make:body.1.*", "test_resnet:layer2*"):
        name = "picked-" + layers[:3]
        run(
            *study(names, weights="test_resnet=random", image_size="32", layers=layers, name=name, trials="4")
        )
        run("fit", name, "--storage=sqlite:///studies.db")


@pytest.mark.slow
def test_an_own_name_is_refused_where_the_network_is_a_librarys(here: Path, capsys) -> None:
    """Guards predict against running a file that the model is not of."""
    run(*study("test_resnet", weights="random", image_size="32"))
    run("fit", "test_resnet-digits", "--storage=sqlite:///studies.db")
    capsys.readouterr()
    complaint = refusal(["predict", "test_resnet-digits-model", "x.png", "--backbone=net.py:make"], capsys)
    assert "is test_resnet, not net.py:make. Leave --backbone out." in complaint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_three_sources_in_one_study_and_a_model_of_each(here: Path, torch_home, tiny_resnet, capsys) -> None:
    """Guards timm, torchvision and a file side by side, from the search to the model."""
    put_weights(torch_home, "shufflenet_v2_x0_5")
    own, theirs = "net.py:make", f"hf:{tiny_resnet}"
    names = [TINY, own, theirs]
    layers = f"{TINY}:conv1*,{theirs}:resnet.encoder.*"
    command = study(",".join(names), layers=layers, image_size="32", name="three", mean="0.5", std="0.25")
    run(*command, "--trials=6")
    run(*command, "--trials=8")
    trials = _complete("three")
    assert len(trials) == 8
    assert {trial.params["backbone"] for trial in trials} == set(names)
    assert all(f"cut_{trial.params['backbone']}" in trial.params for trial in trials)
    run("report", "three", "--storage=sqlite:///studies.db", "--out=page")
    run("status", "--storage=sqlite:///studies.db")
    run("fit", "three", "--storage=sqlite:///studies.db", "--out=of-three")
    for name, plain in ((TINY, "torchvision-shufflenet_v2_x0_5"), (theirs, "hf-tiny")):
        run(*study(name, image_size="32", channels="1"))
        run("fit", f"{plain}-digits", "--storage=sqlite:///studies.db", "--onnx")
        assert depthsearch.load(f"{plain}-digits-model", device="cpu").predict(["x.png"])
        run("explain", f"{plain}-digits", "--storage=sqlite:///studies.db", "--n=1")


@pytest.mark.slow
@pytest.mark.parametrize("which", ["transformer", "named logits"])
def test_what_returns_more_than_logits_is_trained_and_taken_away(here: Path, tiny_vit, which: str) -> None:
    """Guards networks with further outputs from the search to the model."""
    named = "class Named(Net):\n    def forward(self, x): return {'logits': super().forward(x)}"
    Path("net.py").write_text(f"{NET}\n{named}\ndef make(): return Named()", encoding="utf-8")
    backbone = f"hf:{tiny_vit}" if which == "transformer" else "net.py:make"
    own = [] if which == "transformer" else [f"--backbone={backbone}"]
    run(*study(backbone, image_size="32", name="more", trials="4"))
    run("fit", "more", "--storage=sqlite:///studies.db", "--onnx")
    run("predict", "more-model", "x.png", *own)
    if which == "named logits":
        run("explain", "more", "--storage=sqlite:///studies.db", "--n=1")


# --- where things lie ---------------------------------------------------------------------------


def test_a_cache_folder_that_cannot_be_written_names_its_variable(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "x.png"))
    complaint = refusal(study("test_resnet", weights="random", image_size="32"), capsys)
    assert (
        "x.png/depthsearch/images cannot be written to: Not a directory. Set XDG_CACHE_HOME to a" in complaint
    )
    assert not (here / "studies.db").exists()


def test_kept_features_that_cannot_be_written_name_the_option_too(here: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here / "cache"))
    (here / "cache" / "depthsearch").mkdir(parents=True)
    (here / "cache" / "depthsearch" / "features").write_text("in the way")
    command = study("test_resnet", weights="random", image_size="32")
    complaint = refusal(command, capsys)
    assert "Set XDG_CACHE_HOME to a writable folder, or give --keep-disk 0." in complaint
    run(*command, "--keep-disk=0")


def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for argv in (["cuts", "test_resnet"], ["status"], ["study", "--backbone=test_resnet"]):
        complaint = refusal(argv, capsys)
        assert "The current folder is gone (No such file or directory). cd to another, and run" in complaint
    monkeypatch.chdir(tmp_path)


# --- the documentation --------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "backbones.md"


def test_every_command_of_the_page_is_one(monkeypatch) -> None:
    commands = re.findall(r"^\$ depthsearch (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) > 6
    for command in commands:
        arguments = make_parser().parse_args(shlex.split(command))
        assert arguments.command in ("cuts", "study", "predict")


def test_the_function_of_the_page_is_a_backbone(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    Path("net.py").write_text(code, encoding="utf-8")
    run("cuts", "net.py:make", "--image-size=64", "--json")
    names = [cut["name"] for cut in json.loads(capsys.readouterr().out)]
    assert names == ["first", "second", "classifier"]


WHOLE = """
from torch import nn


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.b(self.a(x)) if x.shape[-1] > 1 else x


def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Branches(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 3))
"""


def test_what_is_kept_whole_is_told_with_its_reason_by_cuts_and_once_by_a_study(here: Path, capsys) -> None:
    Path("whole.py").write_text(WHOLE, encoding="utf-8")
    run("cuts", "whole.py:make", "--image-size=16")
    told = " ".join(capsys.readouterr().out.split())
    assert "1 module has no cuts inside: 1 (it branches on a tensor)" in told
    run(*study("whole.py:make", image_size="16"))
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("1 module has no cuts inside: 1 (it branches on a tensor)") == 1


def test_a_network_that_would_train_otherwise_leaves_nothing_behind(here: Path, capsys) -> None:
    Path("noise.py").write_text(
        "import torch\nfrom torch import nn\n\n\n"
        "class Noise(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)\n\n"
        "    def forward(self, x):\n"
        "        x = self.a(x)\n"
        "        x = x + torch.randn_like(x) if self.training else x\n"
        "        return self.fc(self.b(x).mean((2, 3)))\n\n\n"
        "def make():\n    return Noise()\n",
        encoding="utf-8",
    )
    complaint = refusal(study("noise.py:make", image_size="16"), capsys)
    assert "Noise trains otherwise than what tracing wrote down: gradients differ" in complaint
    assert not Path("studies.db").exists()
