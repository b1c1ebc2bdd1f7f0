"""The declared options: what they refuse, and that all that is made of them says the same."""

import json
import runpy
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

import depthsearch
from depthsearch import StudyOptions
from depthsearch.errors import SettingsError
from depthsearch.options.commands import COMMANDS
from depthsearch.options.declaring import text_of
from depthsearch.options.defaults import with_defaults

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 1.5}, r"^epochs: '1.5' is no whole number from 1 on$"),
        ({"epochs": "many"}, r"^epochs: 'many' is no whole number from 1 on$"),
        ({"epochs": True}, r"^epochs: True is none of its values; give a value, not true or false\.$"),
        ({"epochs": {1}}, r"^epochs: \{1\} is none of its values; give a number, a text or a list\.$"),
        ({"seed": None}, r"^seed: None is none of its values"),
        ({"resample": 1}, r"^resample: 1 is none of its values; give true or false\.$"),
        ({"metric": "auc"}, r"^metric: invalid choice: 'auc' \(choose from accuracy, "),
        ({"kinds": ("conv", "norm")}, r"^kinds: 'norm' is none of conv, pool"),
        ({"learning_rate": (1e-2, 1e-3)}, r"^learning_rate: '0.01:0.001' is no LOW:HIGH"),
        ({"backbone": ()}, r"^backbone: '' is no list, such as densenet121,resnet50$"),
        ({"augment": "flip,sepia"}, r"^augment: 'sepia' is none of crop, flip"),
        ({"confirm": 0, "seeds": 2}, r"^--seeds is for the confirmation, and --confirm 0 leaves that out"),
        ({"momentum": 0.9}, r"^--momentum needs --optimizer sgd: add that, or leave --momentum out\.$"),
        ({"cost": "macs"}, r"^--cost macs is a second aim: add --aim accuracy\+cost"),
    ],
)
def test_options_from_python_are_checked_as_on_the_command_line(given, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        StudyOptions(**{"backbone": "x", **given})
    assert "\n" not in str(caught.value)


def test_a_value_may_be_what_a_file_has_in_its_place() -> None:
    options = StudyOptions(
        backbone="resnet50, densenet121",
        data=Path("photos"),
        learning_rate=1e-3,
        keep_memory="1KiB",
        head_width=0,
        layers=[52, "conv4_*"],
    )
    assert options.backbone == ("resnet50", "densenet121")
    assert (options.data, options.learning_rate, options.keep_memory) == ("photos", (1e-3, 1e-3), 1024)
    assert (options.head_width, options.layers) == (0, ("52", "conv4_*"))
    assert StudyOptions(backbone="x", search="adaptive", also=[]).also == ()


def test_what_is_stored_is_read_back_and_nothing_of_this_machine_is_stored() -> None:
    options = with_defaults(
        StudyOptions(backbone=("a", "b"), also=("dropout",), storage="sqlite:///x.db", workers=3, json=True)
    )
    stored = json.loads(json.dumps(options.as_json()))
    again = StudyOptions.from_json(stored)
    assert again == replace(options, storage=StudyOptions(backbone="a").storage, workers=None, json=False)
    assert not {"storage", "workers", "json", "file", "name", "executor", "keep_disk"} & stored.keys()
    with pytest.raises(SettingsError, match=r"^No options of a study: nonesuch\.$"):
        StudyOptions.from_json({**stored, "nonesuch": 1})


def test_options_with_defaults_stay_valid_and_the_same() -> None:
    for given in ({}, {"search": "exhaustive"}, {"confirm": 0}, {"data": "photos"}):
        options = with_defaults(StudyOptions(backbone="x", **given))
        assert with_defaults(options) == options
    assert with_defaults(StudyOptions(backbone="x", confirm=0)).seeds is None


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_can_be_written_and_read(command: str) -> None:
    for each in fields(COMMANDS[command][0]):
        kind = each.metadata["option"].kind
        if kind is not None and each.default not in (MISSING, None, ()):
            assert kind.read(text_of(kind, each.default)) == each.default


def test_the_reference_page_is_current() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "write_reference.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "python tools/write_reference.py"


@pytest.mark.parametrize("command", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_no_heavy_library(command: list[str]) -> None:
    code = (
        "import sys, depthsearch.cli as cli\n"
        f"try:\n    cli.main({command})\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'optuna', 'sqlalchemy', 'numpy', 'sklearn', 'rich', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_study_is_run_from_python_as_by_its_command(pictures: Path, tmp_path: Path, caplog) -> None:
    options = StudyOptions(
        backbone="test_resnet",
        data=pictures,
        weights="random",
        image_size=16,
        device="cpu",
        precision="float32",
        trials=2,
        epochs=1,
        head_width=0,
        confirm=0,
        storage=f"sqlite:///{tmp_path}/s.db",
        log_file=tmp_path / "log.jsonl",
    )
    events: list[object] = []
    result = depthsearch.study.run(options, events=events.append)
    names = [type(event).__name__ for event in events]
    assert names.count("TrialEnded") == 2
    assert names.index("Note") < names.index("CurveDrawn") < names.index("TrialStarted")
    assert (result.is_stopped, result.summary.n_finished, result.options.epochs) == (False, 2, 1)
    answer = result.summary.answer
    assert (
        repr(result)
        == f"StudyResult({result.study.study_name}: train from {answer.cut}, accuracy {answer.score:.4f})"
    )
    stored = result.study.user_attrs["provenance"]["options"]
    assert StudyOptions.from_json(stored).data == str(pictures.resolve())
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in (lines[0], lines[-1])] == ["opened", "closed"]
    assert depthsearch.study.run(options).summary == result.summary
