"""Study files: the options of a study in TOML."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import optuna
import pytest

from depthsearch.cli import main
from depthsearch.cli.parser import make_parser, options_from
from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions


def write(folder: Path, text: str, name: str = "noughts.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def status_of(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


@pytest.fixture
def merged(monkeypatch, tmp_path):
    """Give what `depthsearch study` is run with, for a file's text and a command line."""
    given: list[StudyOptions] = []
    monkeypatch.setattr("depthsearch.cli.commands.study.study", given.append)
    # There are no such images.
    monkeypatch.setattr("depthsearch.cli.checks.CHECKS", {})

    def merge(text: str, *options: str) -> StudyOptions:
        assert main(["study", str(write(tmp_path, text)), *options]) == 0
        return given[-1]

    return merge


EVERY_OPTION = """
backbone = "densenet121"
name = "hand-written"
seed = 7

[train]
data = "photos"
classes-map = "coarse.json"
image-columns = ["front", "side"]
number-columns = ["age"]
weights = "w/d.safetensors"
image-size = 96
mean = [0.4, 0.5, 0.6]
std = 0.25
interpolation = "bicubic"
crop-share = 0.9
balance = "weights"
channels = 1
val_share = 0.25
test-share = 0.0
subset = 0.5
skip-unreadable = true
epochs = 4
late-passes = 12
batch-size = 32
metric = "macro_f1"
schedule = "constant"
views = 3
augment = ["flip", "rotation=10"]
head = "flatten"
label-smoothing = 0.1
optimizer = "sgd"
momentum = 0.8
weight-decay = 0.05
head-depth = 2

[search]
kinds = ["conv", "pool"]
search = "exhaustive"
layers = [52, "conv4_*", "features.denseblock4.*"]
learning-rate = [1e-4, 1e-3]
head-width = "512:128"
also = ["dropout"]
sampler = "gp"
pruner = "none"
aim = "accuracy+cost"
cost = "parameters"

[run]
trials = 12
workers = 2
hung-after = 60
budget = 4.5
timeout = 1800.0
executor = "ray"
ray-address = "head:6379"
device = "cpu"
precision = "float32"
compile = false
keep-memory = "1GiB"
keep-disk = 0
confirm = 1
seeds = 2
resample = true
tolerance = 1.5
mark = [52, "features.norm5"]
storage = "sqlite:///s.db"
log-file = "log.jsonl"
tensorboard = "runs"
mlflow = "sqlite:///mlflow.db"
json = true
"""


def test_a_file_says_what_the_command_line_says(merged, tmp_path, monkeypatch) -> None:
    line = (
        "--backbone densenet121 --name hand-written --seed 7 --image-size 96 --val-share 0.25 --test-share 0 "
        "--mean 0.4,0.5,0.6 --std 0.25 --interpolation bicubic --crop-share 0.9 "
        "--subset 0.5 "
        "--skip-unreadable --epochs 4 --late-passes 12 --batch-size 32 --metric macro_f1 "
        "--schedule constant --views 3 "
        "--label-smoothing 0.1 --kinds conv,pool --learning-rate 1e-4:1e-3 --head-width 512:128 "
        "--channels 1 --balance weights --optimizer sgd --momentum 0.8 --weight-decay 0.05 --head-depth 2 "
        "--search exhaustive --layers 52,conv4_*,features.denseblock4.* "
        "--augment flip,rotation=10 --head flatten --image-columns front,side --number-columns age "
        "--also dropout --sampler gp --pruner none --aim accuracy+cost --cost parameters "
        "--workers 2 --hung-after 60 --executor ray --ray-address head:6379 "
        "--trials 12 --budget 4.5 --timeout 1800.0 --device cpu --precision float32 "
        "--keep-memory 1GiB --keep-disk 0 --confirm 1 --seeds 2 --resample --tolerance 1.5 "
        "--mark 52,features.norm5 --storage sqlite:///s.db --mlflow sqlite:///mlflow.db --json"
    )
    files = {"data": "photos", "weights": "w/d.safetensors", "classes-map": "coarse.json"}
    files |= {"log-file": "log.jsonl", "tensorboard": "runs"}
    paths = [word for name, file in files.items() for word in (f"--{name}", str(tmp_path / file))]
    from_file = merged(EVERY_OPTION)
    given = vars(make_parser().parse_args(["study", *line.split(), *paths]))
    assert replace(from_file, file=None) == options_from(given.pop("command"), given)
    # Whoever adds an option finds it in a file too.
    same = {each.name for each in fields(StudyOptions) if getattr(from_file, each.name) == each.default}
    assert same <= {"compile"} | NOT_TOGETHER


# Options that contradict one of the above.
NOT_TOGETHER = {"learning_rates", "dropout"}


def test_a_file_may_be_flat(merged) -> None:
    tables = merged('backbone = "x"\n[train]\nepochs = 4\n[search]\nkinds = "conv"\n')
    assert merged('backbone = "x"\nepochs = 4\nkinds = ["conv"]\n') == tables


def test_learning_rates_are_a_list(merged) -> None:
    arguments = merged(
        'backbone = "x"\nsearch = "exhaustive"\nlearning-rates = [1e-3, 1e-4]\nconfirm = "all"'
    )
    assert (arguments.learning_rates, arguments.learning_rate) == ((1e-4, 1e-3), None)
    assert (arguments.trials, arguments.confirm) == (None, "all")


@pytest.mark.parametrize("text", ['"1e-5:1e-2"', "[1e-5, 1e-2]", "[0.00001, 0.01]"])
def test_a_range_is_written_as_on_the_command_line_or_as_an_array(merged, text: str) -> None:
    assert merged(f'backbone = "x"\nlearning-rate = {text}').learning_rate == (1e-5, 1e-2)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(merged) -> None:
    text = 'backbone = "x"\ndata = "d"\nepochs = 4\nresample = true\nname = "file"\nseeds = 5\n'
    arguments = merged(text, "--epochs", "6", "--no-resample", "--name", "line", "--data", "digits")
    assert (arguments.epochs, arguments.resample, arguments.name) == (6, False, "line")
    assert (arguments.data, arguments.seeds, arguments.batch_size) == ("digits", 5, 64)


def test_what_a_file_says_of_a_confirmation_is_no_hindrance_to_leaving_it_out(merged) -> None:
    arguments = merged('backbone = "densenet121"\nseeds = 5\nresample = true', "--confirm", "0")
    assert (arguments.confirm, arguments.resample) == (0, None)
    assert arguments.seeds != 5


def test_the_backbone_comes_from_either(merged, tmp_path, capsys) -> None:
    assert merged("epochs = 2", "--backbone", "x").backbone == ("x",)
    assert status_of(["study", str(write(tmp_path, "epochs = 2"))]) == 2
    assert capsys.readouterr().err == (
        "depthsearch study: No --backbone, neither here nor in a study file. For a demo: depthsearch study "
        "--backbone densenet121. For your own images: depthsearch init DIR writes a study file with a "
        "backbone for this machine.\n"
    )


def test_the_stem_of_a_file_is_the_default_name(merged) -> None:
    assert merged('backbone = "x"').name == "noughts"


def test_paths_are_relative_to_the_file(merged, tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    arguments = merged('backbone = "x"\ndata = "photos"\nweights = "../w.pt"')
    assert arguments.data == str(tmp_path / "photos")
    assert Path(os.path.normpath(arguments.weights)) == tmp_path.parent / "w.pt"
    each = merged('backbone = ["x", "y"]\nweights = ["y=../w.pt", "x=random"]')
    assert each.weights == f"y={tmp_path / '../w.pt'},x=random"
    absolute = merged('backbone = "x"\ndata = "/photos"\nweights = "random"')
    assert (absolute.data, absolute.weights) == ("/photos", "random")
    assert merged('backbone = "x"\ndata = "digits"\nweights = "auto"').data == "digits"
    assert merged('backbone = "x"\ndata = "torchvision:CIFAR10"').data == "torchvision:CIFAR10"
    # On the command line a path is what it is everywhere.
    assert merged('backbone = "x"\ndata = "photos"', "--data", "photos").data == "photos"


# A file's text, and what the complaint says after the file's name.
BAD = [
    ('backbone = "x', " is no TOML file: "),
    ("epochs 5\n", " is no TOML file: Expected '=' after a key in a key/value pair (at line 1, column 8)."),
    ("epochs = 5\nepochs = 6\n", " is no TOML file: Cannot overwrite a value (at line 2, column 11)."),
    ("epoch = 5\n", ": no option 'epoch'. The nearest is 'epochs'. A key is a long option of "),
    ("[search]\nlearnig-rate = 1\n", ": no option 'learnig-rate'. The nearest is 'learning_rate'. "),
    ("zzz = 5\n", ": no option 'zzz'. A key is a long option of depthsearch study."),
    ("help = true\n", ": no option 'help'. "),
    ('file = "x"\n', ": no option 'file'. "),
    ("[network]\nepochs = 5\n", ": no table [network]. Give options at the top or under [train], [search], "),
    ("[train.more]\nepochs = 5\n", ": no option 'more'. "),
    ("val-share = 0.1\nval_share = 0.2\n", ": 'val_share' is given twice. Keep one of them."),
    ("epochs = 5\n[train]\nepochs = 6\n", ": 'epochs' is given twice."),
    ("epochs = 0\n", ", epochs: '0' is no whole number from 1 on"),
    ("epochs = 1.5\n", ", epochs: '1.5' is no whole number from 1 on"),
    ('epochs = "many"\n', ", epochs: 'many' is no whole number"),
    ("epochs = [1, 2]\n", ", epochs: '1,2' is no whole number"),
    ("epochs = true\n", ", epochs: True is none of its values; give a value, not true or false."),
    ("resample = 1\n", ", resample: 1 is none of its values; give true or false."),
    ("learning-rate = [1e-2, 1e-3]\n", ", learning-rate: '0.01:0.001' is no LOW"),
    ("learning_rate = nan\n", ", learning_rate: 'nan' is no LOW:HIGH"),
    ('metric = "auc"\n', ", metric: invalid choice: 'auc'"),
    ('kinds = ["conv", "norm"]\n', ", kinds: 'norm' is none of conv, pool"),
    ('number-columns = ""\n', ", number-columns: it is empty: give a value, or"),
    ("kinds = []\n", ", kinds: '' is none of conv"),
    ("seed = 2024-01-01\n", ", seed: 2024-01-01 is none of its values; give a number, a text or a list."),
    ("kinds = [[1], 2]\n", ", kinds: [[1], 2] is none of its values"),
    ("kinds = [true]\n", ", kinds: [True] is none of its values"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_file_is_one_line_that_names_file_and_key(tmp_path, capsys, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    assert status_of(["study", str(path), "--backbone", "x"]) == 2
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert told.out == ""
    assert line.startswith(f"depthsearch study: {path}{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("confirm = 0\nseeds = 3", "--seeds is for the confirmation, and --confirm 0 leaves that out: "),
        (
            "confirm = 0\nresample = true",
            "--resample is for the confirmation, and --confirm 0 leaves that out: ",
        ),
        (
            "hung-after = 60\nworkers = 1",
            "--hung-after is for several workers, and this process alone would ",
        ),
    ],
)
def test_an_option_that_would_be_ignored_is_refused_in_a_file_too(
    tmp_path, capsys, text: str, expected: str
) -> None:
    path = write(tmp_path, f'backbone = "resnet18"\ndevice = "cpu"\n{text}\n')
    assert status_of(["study", str(path), "--storage", f"sqlite:///{tmp_path}/s.db"]) == 2
    assert capsys.readouterr().err.startswith(f"depthsearch study: {expected}")


def test_what_is_no_file_says_how_a_backbone_is_given(tmp_path, capsys) -> None:
    assert status_of(["study", "densenet121"]) == 2
    assert capsys.readouterr().err == (
        "depthsearch study: No study file 'densenet121': No such file or directory. "
        "A backbone is given as --backbone densenet121.\n"
    )
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    assert status_of(["study", str(tmp_path / "bytes.toml")]) == 2
    assert "bytes.toml is no TOML file: byte 8 is not UTF-8." in capsys.readouterr().err


SMALL = """
backbone = "test_resnet"
[train]
data = "pictures"
weights = "random"
image-size = 16
epochs = 1
[search]
head-width = 0
pruner = "none"
[run]
trials = 2
confirm = 0
device = "cpu"
precision = "float32"
"""


@pytest.mark.slow
def test_a_study_keeps_its_merged_options_and_the_name_of_its_file(pictures, tmp_path, capsys) -> None:
    """Guards what is stored of a study file, which fit and reports read."""
    (tmp_path / "pictures").symlink_to(pictures)
    path, url = write(tmp_path, SMALL), f"sqlite:///{tmp_path}/s.db"
    assert main(["study", str(path), "--trials", "3", "--storage", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["complete"] == 3
    kept = optuna.load_study(study_name="noughts", storage=url).user_attrs["provenance"]
    assert kept["study file"] == "noughts.toml"
    options = kept["options"]
    assert (options["trials"], options["epochs"], options["head_width"]) == (3, 1, 0)
    command = study_command(StudyOptions.from_json(options), name="noughts", n_trials=3)
    assert "noughts.toml" not in command
    assert main([*command.replace("\\\n", "").split()[1:], "--storage", url]) == 0
    assert "Study noughts: 3 of 3 trials done" in capsys.readouterr().err
    assert main(["report", "--storage", url, "--out", str(tmp_path / "report")]) == 0
    assert "noughts.toml" in (tmp_path / "report" / "report.md").read_text()
