"""The command line, run as a user runs it."""

import gc
import json
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from functools import partial
from importlib.metadata import version
from io import StringIO
from pathlib import Path

import optuna
import platformdirs
import pytest
import timm
import torch
from image_folders import fill
from insides import actions_of
from optuna_dashboard import get_note
from privileges import modes_obeyed
from rich.console import Console
from stored_studies import FINISHED as FINISHED_TRIALS, stored

import depthsearch
from depthsearch.cli import main
from depthsearch.cli.live_view import View
from depthsearch.cli.parser import make_parser
from depthsearch.cli.places import storage_option
from depthsearch.errors import SettingsError
from depthsearch.models.cuts import Cut
from depthsearch.options.commands import COMMANDS
from depthsearch.options.defaults import (
    DEMO_BUDGET,
    DEMO_EPOCHS,
    DEMO_TRIALS,
    EPOCHS,
    MOST_TRIALS,
    TRIALS,
    with_defaults,
)
from depthsearch.options.values import SIZE
from depthsearch.results.summary import summarize
from depthsearch.search.space import Point
from depthsearch.study import FINISHED, EpochDone, conducting
from depthsearch.study.events import TrialEnded, TrialStarted
from depthsearch.study.lease import lease
from depthsearch.study.preparing import executors
from depthsearch.study.storage.outage import Away
from depthsearch.study.storage.patient import StorageError
from depthsearch.training.outcomes import EpochResult

NOTICES = ("Device ", "Data ", "Backbone ", "No --data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the database of the study that the tests of this module share."""
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def arguments(pictures: Path, folder: Path) -> list[str]:
    """Give the command of the study that the tests of this module share."""
    return study_arguments(pictures, f"sqlite:///{folder}/studies.db")


def study_arguments(pictures: Path, url: str, *, epochs: int = 1) -> list[str]:
    options = "--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32"
    counts = f"--trials 3 --epochs {epochs} --pruner none --head-width 16:16 --confirm 0 --name noughts"
    return ["study", "--data", str(pictures), *options.split(), *counts.split(), "--storage", url]


@pytest.fixture(scope="module")
def finished(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run that study to its end."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main([*arguments, "--json"])
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


def status_of(argv: list[str]) -> int:
    """Run a command here; give its exit status, also where the parser exits by itself."""
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def complaint(captured: str) -> str:
    """Give the one line that says what is wrong; before it only what was loaded may be told."""
    *before, line = captured.splitlines()
    assert all(earlier.startswith(NOTICES) for earlier in before), captured
    assert line.startswith("depthsearch"), captured
    return line


def n_finished_in(storage: optuna.storages.RDBStorage) -> int:
    """Count the finished trials of the study that most tests make."""
    return len(optuna.load_study(study_name="noughts", storage=storage).get_trials(states=FINISHED))


# --- study and report ---------------------------------------------------------------------------


@pytest.mark.parametrize("collects", [True, False])
def test_a_command_leaves_garbage_collection_as_it_found_it(collects, monkeypatch, capsys) -> None:
    within = []
    monkeypatch.setattr("depthsearch.cli.commands.cuts.cuts", lambda options: within.append(gc.isenabled()))
    (gc.enable if collects else gc.disable)()
    try:
        assert main(["cuts", "resnet18"]) == 0
        assert (within, gc.isenabled()) == ([collects], collects)
    finally:
        gc.enable()


def test_the_result_is_the_last_line_of_stdout_and_all_else_goes_to_stderr(finished) -> None:
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    result = json.loads(line)
    assert result["study"] == "noughts"
    assert result["backbone"] == "test_resnet"
    assert result["weights"] == "random (seed 0)"
    assert result["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert result["best"]["cut"].keys() == {"index", "layer", "name", "kind", "keras_name"}
    assert result["cost"]["full_fine_tunes"] > 0
    for told in (
        "Data pictures",
        "Backbone test_resnet",
        "0 of 3 trials done",
        "trial 2 (anchor)",
        "; 3 of 3 done",
        "Best cut",
    ):
        assert told in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "Warning" not in finished.stderr


@pytest.mark.parametrize(
    ("n_trials", "told"), [(None, "trial 0 complete, score 0.5000\n"), (1, "; 1 of 1 done\n")]
)
def test_a_trial_that_is_solved_has_no_epochs_and_progress_is_in_words(n_trials, told: str) -> None:
    summary = summarize(stored(*FINISHED_TRIALS))
    output = StringIO()
    point = Point(cut=summary.cuts[-1], learning_rate=1e-3)
    spent = dict.fromkeys(("prefix_macs", "forward_macs", "backward_macs", "plain_macs"), 0)
    losses = {"train_loss": 1.0, "val_loss": 1.0, "score": 0.5, "seconds": 1.0, "images_per_second": 1.0}
    result = EpochResult(epoch=4, kept_bytes=0, read_bytes=0, **losses, **spent)
    view = View(Console(file=output, width=160), replace(summary, trials=()), n_trials=n_trials, epochs=4)
    view.update(TrialStarted(number=0, point=point, origin="baseline", adopted=False))
    view.update(EpochDone(number=0, result=result))
    state = optuna.trial.TrialState.COMPLETE
    view.update(TrialEnded(number=0, point=point, state=state, score=0.5, reason=None))
    assert ", linear head, solved\n  solved: score 0.5000, validation loss" in output.getvalue()
    assert output.getvalue().endswith(told)
    assert "epoch" not in output.getvalue()


def test_a_study_that_has_its_trials_is_only_shown(finished, arguments, capsys) -> None:
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "Study noughts: 3 of 3 trials done" in told.err
    assert "trial 3" not in told.err
    assert "Best cut" in told.out
    # What to do next, each with the storage that it needs.
    storage = f" --storage {arguments[-1]}"
    study, *following = told.out.splitlines()[-4:]
    assert study == f"Study     noughts in {arguments[-1]}"
    assert [line[:10].strip() for line in following] == ["Next", "", ""]
    commands = ["report noughts --out DIR", "fit noughts", "dashboard"]
    assert [line[10:] for line in following] == [f"depthsearch {each}{storage}" for each in commands]
    for line in following:
        make_parser().parse_args(shlex.split(line[10:])[1:])


def test_the_usual_storage_needs_no_option() -> None:
    assert storage_option("sqlite:///depthsearch.db") == ""
    assert storage_option("sqlite:///a b.db") == " --storage 'sqlite:///a b.db'"


def test_the_note_of_a_study_that_has_ended_says_so_and_one_who_is_refused_changes_nothing(
    finished, arguments, tmp_path, folder, open_quick_storage, capsys
) -> None:
    assert finished.returncode == 0
    shutil.copy(folder / "studies.db", tmp_path / "studies.db")
    study = optuna.load_study(
        study_name="noughts", storage=open_quick_storage(f"sqlite:///{tmp_path}/studies.db")
    )
    note = get_note(study)
    assert "Complete: 3 of 3 trials done." in note
    assert "The study is not finished" not in note
    log = tmp_path / "log.jsonl"
    asked = [*arguments, "--storage", f"sqlite:///{tmp_path}/studies.db", "--mark", "conv1.0"]
    with lease(study):
        before = study.user_attrs
        assert status_of([*asked, "--trials", "5", "--log-file", str(log)]) == 2
        assert study.user_attrs["coordinator"]["token"] == before["coordinator"]["token"]
        assert study.user_attrs.keys() == before.keys()
        assert get_note(study) == note
    assert "is being run by process" in complaint(capsys.readouterr().err)
    assert log.read_text() == ""


def test_a_study_confirms_its_answer_once(finished, arguments, tmp_path, folder, capsys) -> None:
    copied = tmp_path / "studies.db"
    shutil.copy(folder / "studies.db", copied)
    again = [*arguments[:-1], f"sqlite:///{copied}", "--confirm", "1", "--seeds", "2", "--json"]
    assert main(again) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["answer"]["confirmed"] is True
    again_ = [each for each in result["evidence"]["settled"] if each["scores"]]
    n_settings = len(again_)
    assert [len(each["scores"]) for each in again_] == [2] * n_settings
    assert result["evidence"]["answer_trial"] == result["answer"]["trial"]
    assert result["answer"]["cut"]["layer"] in result["evidence"]["level_layers"]
    assert result["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert f"with 2 seeds each: {2 * n_settings} trainings to go" in told.err
    assert "the best cut is among layers " in told.err
    assert f"{2 * n_settings} train a setting again" in told.err
    assert main(again) == 0
    told = capsys.readouterr()
    assert ": 0 trainings to go" in told.err
    assert json.loads(told.out) == result


def test_the_report_is_what_the_study_said(finished, arguments, capsys) -> None:
    assert main(["report", "--storage", arguments[-1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(finished.stdout)


def test_the_report_shows_every_trial(finished, arguments, capsys) -> None:
    assert main(["report", "--storage", arguments[-1], "--name", "noughts"]) == 0
    shown = capsys.readouterr().out
    assert "Best cut" in shown
    assert re.findall(r"^│\s+([012]) │.* │ complete │", shown, re.MULTILINE) == ["0", "1", "2"]


def test_the_report_is_written_beside_what_is_in_its_folder(finished, arguments, tmp_path, capsys) -> None:
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    for name in ("kept.txt", "report.html"):
        (out / name).write_text("before")
    assert main(["report", "noughts", "--storage", arguments[-1], "--out", str(out)]) == 0
    assert f"Report    {out / 'report.md'} {out / 'report.html'}\n" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["kept.txt", "report.html", "report.md"]
    assert (out / "kept.txt").read_text() == "before"
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert page.startswith("<!doctype html>")
    assert "# test_resnet on pictures" in text
    (command,) = re.findall(r"```console\n(.*?)\n```", text, re.DOTALL)
    asked = make_parser().parse_args(arguments)
    again = make_parser().parse_args(shlex.split(command.replace("\\\n", ""))[1:])
    given = {key: value for key, value in vars(asked).items() if value is not None}
    differing = {key for key, value in given.items() if vars(again).get(key) != value}
    assert differing == {"name", "storage"}


def test_images_of_no_report_are_refused(finished, arguments, capsys) -> None:
    assert status_of(["report", "--storage", arguments[-1], "--images"]) == 2
    assert "--images needs --out DIR: it draws files beside report.md there." in capsys.readouterr().err


def test_a_written_report_leaves_the_json_alone_on_stdout(finished, arguments, tmp_path, capsys) -> None:
    assert main(["report", "--storage", arguments[-1], "--json", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == json.loads(finished.stdout)
    assert told.err == f"Report    {tmp_path / 'report.md'} {tmp_path / 'report.html'}\n"


def test_a_study_of_two_aims_goes_on_from_one_and_shows_its_front(
    finished, arguments, tmp_path, folder, capsys
) -> None:
    copied = tmp_path / "studies.db"
    shutil.copy(folder / "studies.db", copied)
    storage = ["--storage", f"sqlite:///{copied}"]
    aim = ["--aim", "accuracy+cost", "--cost", "parameters", "--trials", "4", "--json"]
    assert main([*arguments[:-2], *storage, *aim]) == 0
    told = capsys.readouterr()
    assert "score against trainable parameters." in told.err
    assert "Front: validation accuracy against trainable parameters" in told.err
    result = json.loads(told.out)
    assert (result["aim"], result["front"]["cost"]) == ("accuracy+cost", "parameters")
    points = result["front"]["points"]
    assert points[0]["trainable_parameters"] > 0
    assert sorted(p["trainable_parameters"] for p in points) == [p["trainable_parameters"] for p in points]
    assert sum(p["answer"] for p in points) <= 1
    assert main(["report", *storage, "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["front"] == result["front"]
    assert "## Score against cost" in (tmp_path / "report.md").read_text()


def test_halving_is_refused_with_two_aims_before_anything_is_loaded(arguments, capsys) -> None:
    assert status_of([*arguments, "--aim", "accuracy+cost", "--pruner", "halving"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "depthsearch study: --pruner halving ranks cheap trials with dear ones, which two aims must not do. "
        "Give median or none.\n"
    )


def test_two_names_of_a_study_are_one_too_many(finished, arguments, capsys) -> None:
    assert status_of(["report", "noughts", "--name", "noughts", "--storage", arguments[-1]]) == 0
    capsys.readouterr()
    assert status_of(["report", "noughts", "--name", "others", "--storage", arguments[-1]]) == 2
    assert "Two studies, 'noughts' and --name 'others': give one." in complaint(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "value", "difference"),
    [
        ("--epochs", "2", "--epochs 1 (here 2)"),
        ("--learning-rate", "1e-4:1e-3", "--learning-rate 0.0001:0.01 (here 0.0001:0.001)"),
        ("--image-size", "24", "--image-size 16 (here 24)"),
    ],
)
def test_the_same_name_with_other_settings_is_refused(
    finished, arguments, capsys, option: str, value: str, difference: str
) -> None:
    assert status_of([*arguments, option, value]) == 2
    said = complaint(capsys.readouterr().err)
    assert said.startswith("depthsearch study: Study 'noughts' is stored with other settings: ")
    assert difference in said
    assert said.endswith(". To go on with it, give what is stored; for a new study, give another --name.")


def test_a_study_in_which_nothing_completes_says_where_to_look(pictures, tmp_path, capsys) -> None:
    argv = [*study_arguments(pictures, f"sqlite:///{tmp_path}/s.db"), "--learning-rate", "1e39:1e40"]
    # A linear head alone is solved, whatever the learning rate.
    argv += ["--head-width", "16"]
    assert status_of(argv) == 2
    assert (
        "No trial of noughts is complete. See why: depthsearch report --name noughts"
        in capsys.readouterr().err
    )


def test_the_demo_is_shorter_than_a_study_of_ones_own_images(pictures, monkeypatch) -> None:
    given = []
    photos = ["--data", str(pictures)]
    monkeypatch.setattr("depthsearch.cli.commands.study.study", given.append)
    for data in ([], ["--data", "digits"], photos, [*photos, "--sampler", "gp"]):
        assert main(["study", "--backbone", "x", *data]) == 0
    counts = [(options.trials, options.epochs) for options in map(with_defaults, given)]
    demo, own, other = (DEMO_TRIALS, DEMO_EPOCHS), (MOST_TRIALS, EPOCHS), (TRIALS, EPOCHS)
    assert counts == [demo, demo, own, other]
    assert [options.budget for options in map(with_defaults, given)] == [DEMO_BUDGET, DEMO_BUDGET, None, None]
    more = [replace(given[0], trials=50), replace(given[0], budget=3.0)]
    assert [options.budget for options in map(with_defaults, more)] == [None, 3.0]
    assert DEMO_EPOCHS < EPOCHS / 3


def test_a_study_searches_the_layers_that_are_picked_and_fits_one(pictures, tmp_path, capsys) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    argv = [*study_arguments(pictures, url), "--layers", "layer[34].0.conv1"]
    assert main(argv) == 0
    assert "4 candidate cuts" in capsys.readouterr().err
    study = optuna.load_study(study_name="noughts", storage=url)
    assert {trial.params["cut"] for trial in study.get_trials(states=FINISHED)} <= set(range(4))
    assert [cut["index"] for cut in study.user_attrs["cuts"]] == list(range(4))
    assert main(["fit", "--storage", url, "--out", str(tmp_path / "model"), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert status_of(argv[:-2]) == 2
    assert "cuts 4 from conv1.0 to fc [" in complaint(capsys.readouterr().err)


def exhaustive_arguments(pictures: Path, folder: Path, *options: str) -> list[str]:
    argv = study_arguments(pictures, f"sqlite:///{folder}/s.db")
    place = argv.index("--trials")
    argv = [*argv[:place], *argv[place + 2 :], "--layers", "layer[34].0.conv1"]
    return [*argv, "--search", "exhaustive", *options]


@pytest.mark.slow
def test_an_exhaustive_study_confirms_every_candidate_and_runs_again_from_its_report(
    pictures, tmp_path, capsys
) -> None:
    """Guards the command of a report: run again it gives the same scores."""
    options = ["--learning-rates", "1e-3,1e-4", "--confirm", "all", "--seeds", "2"]
    argv = exhaustive_arguments(pictures, tmp_path, *options)
    assert main([*argv, "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert "0 of 8 trials done; 1 epoch each; exhaustive search." in told.err
    assert result["trials"] == {"complete": 8, "pruned": 0, "failed": 0}
    again_ = [each for each in result["evidence"]["settled"] if each["scores"]]
    assert [each["cut"]["index"] for each in again_] == [0, 1, 2, 3]
    assert main(["report", "--storage", argv[argv.index("--storage") + 1], "--out", str(tmp_path)]) == 0
    (command,) = re.findall(r"```console\n(.*?)\n```", (tmp_path / "report.md").read_text(), re.DOTALL)
    again = [*shlex.split(command.replace("\\\n", ""))[1:], "--storage", f"sqlite:///{tmp_path}/again.db"]
    capsys.readouterr()
    assert main([*again, "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert [each["scores"] for each in other["evidence"]["settled"]] == [
        each["scores"] for each in result["evidence"]["settled"]
    ]


def test_an_exhaustive_study_goes_on_where_there_are_more_trials(pictures, tmp_path, capsys) -> None:
    argv = exhaustive_arguments(pictures, tmp_path, "--sampler", "random", "--trials", "5")
    assert main([*argv, "--learning-rate", "1e-3"]) == 0
    told = capsys.readouterr().err
    assert "exhaustive search, then sampler random, pruner none." in told
    assert "trial 4 (sampler)" in told
    assert main(["report", "--storage", f"sqlite:///{tmp_path}/s.db", "--out", str(tmp_path)]) == 0


def test_what_is_fixed_is_trained_with_stored_and_fitted(pictures, tmp_path, capsys) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    fixed = "--optimizer sgd --momentum 0.5 --weight-decay 0 --dropout 0.25 --head-depth 2"
    argv = [*study_arguments(pictures, url), *fixed.split()]
    assert main(argv) == 0
    settings = optuna.load_study(study_name="noughts", storage=url).user_attrs["settings"]
    stored = ("optimizer", "momentum", "weight_decay", "dropout", "head_depth")
    assert [settings[key] for key in stored] == ["sgd", 0.5, 0.0, 0.25, 2]
    folder = tmp_path / "model"
    assert main(["fit", "--storage", url, "--out", str(folder)]) == 0
    ours = json.loads((folder / "config.json").read_text())["depthsearch"]
    assert {**ours["setting"], **ours["provenance"]["recipe"]}.items() >= {
        "optimizer": "sgd",
        "momentum": 0.5,
        "weight_decay": 0.0,
        "dropout": 0.25,
        "head_depth": 2,
    }.items()
    capsys.readouterr()
    assert status_of(argv[:-4]) == 2
    told = complaint(capsys.readouterr().err)
    assert "--head-depth 2 (here 1); --dropout 0.25 (here 0.0). To go on with it, " in told


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--learning-rates", "1e-3"], "--learning-rates needs --search exhaustive: add that, or"),
        (
            ["--search", "exhaustive", "--learning-rate", "1e-3", "--learning-rates", "1e-3,1e-2"],
            "--learning-rate is a range to search, --learning-rates a list to try: give one of the two.",
        ),
        (["--search", "exhaustive", "--also", "dropout"], "its head linear: --also would do nothing."),
        (["--search", "exhaustive", "--head-depth", "2"], "--head-depth would do nothing. Leave it out"),
        (
            ["--also", "dropout,weight_decay", "--weight-decay", "0"],
            "--weight-decay fixes what --also weight_decay searches: give one of the two.",
        ),
        (["--momentum", "0"], "--momentum needs --optimizer sgd: add that, or leave --momentum out."),
        (
            ["--head-width", "0", "--head-depth", "1"],
            "--head-depth counts hidden layers, and --head-width 0 allows none: leave one of the two out.",
        ),
        (
            ["--hung-after", "9", "--workers", "1"],
            "--hung-after is for several workers, and this process alone",
        ),
        (
            ["--seeds", "2"],
            "--seeds is for the confirmation, and --confirm 0 leaves that out: give one of the",
        ),
        (["--resample"], "--resample is for the confirmation, and --confirm 0 leaves that out: give one of"),
        (
            ["--executor", "ray", "--device", "mps"],
            "--executor ray computes on cpu and cuda, not on mps: leave one of the two out.",
        ),
        (["--search", "exhaustive", "--sampler", "tpe"], "--sampler would do nothing. Leave it out, or let"),
        (["--search", "exhaustive", "--pruner", "median"], "--pruner would do nothing."),
        (
            ["--search", "exhaustive", "--trials", "9"],
            "--trials 9 are fewer than the 16 of --search exhaustive. Leave --trials out, or pick fewer",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    pictures, tmp_path, capsys, options: list[str], expected: str
) -> None:
    argv = study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")
    place = argv.index("--trials")
    assert status_of([*argv[:place], *argv[place + 2 :], *options]) == 2
    assert expected in complaint(capsys.readouterr().err)
    assert not (tmp_path / "s.db").exists()


# --- what is refused leaves nothing -------------------------------------------------------------


def nothing_is_left(tmp_path: Path, told: str) -> bool:
    """Say whether there is neither a database nor an image that was decoded."""
    return not list(tmp_path.glob("s.db*")) and "Data " not in told


def test_a_mark_that_is_no_candidate_is_told_before_an_image_is_decoded(pictures, tmp_path, capsys) -> None:
    assert status_of([*study_arguments(pictures, f"sqlite:///{tmp_path}/s.db"), "--mark", "conv9"]) == 2
    told = capsys.readouterr().err
    assert "No cut 'conv9'. Near: " in complaint(told)
    assert nothing_is_left(tmp_path, told)


def test_a_device_that_cannot_be_shared_is_told_before_anything_is_loaded(
    pictures, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    argv = study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")
    assert status_of([*argv, "--device", "mps", "--workers", "2"]) == 2
    told = capsys.readouterr().err
    assert told == ("depthsearch study: --workers 2 cannot share the one mps device. Give --workers 1.\n")
    assert nothing_is_left(tmp_path, told)


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_cluster_that_is_away_is_told_before_anything_is_loaded(
    pictures, tmp_path, capsys, monkeypatch, how: str
) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    given = ["--ray-address", address] if how == "option" else []
    argv = study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")
    assert status_of([*argv, "--executor", "ray", *given]) == 2
    told = capsys.readouterr().err
    assert f"No Ray cluster at --ray-address {address}: Connection refused." in complaint(told)
    assert nothing_is_left(tmp_path, told)


def too_many(*_: object) -> None:
    raise SettingsError("4 workers on a GPU need more than there is.")


def test_more_workers_than_fit_are_told_before_a_study_is_stored(
    pictures, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(executors, "check_room", too_many)
    argv = [*study_arguments(pictures, f"sqlite:///{tmp_path}/s.db"), "--workers", "2"]
    assert status_of(argv) == 2
    assert "more than there is" in complaint(capsys.readouterr().err)
    assert not list(tmp_path.glob("s.db*"))


def test_nothing_is_measured_beside_the_trials_of_another_process(
    pictures, tmp_path, capsys, monkeypatch, open_quick_storage
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    argv = study_arguments(pictures, url)
    assert status_of(argv) == 0
    capsys.readouterr()
    monkeypatch.setattr(executors, "check_room", too_many)
    with lease(optuna.load_study(study_name="noughts", storage=open_quick_storage(url))):
        assert status_of([*argv, "--workers", "2"]) == 2
    *_, told = capsys.readouterr().err.splitlines()
    assert told.startswith("depthsearch study: Study 'noughts' is being run by process ")


# --- a database that goes away --------------------------------------------------------------------


@pytest.mark.slow
def test_a_study_whose_database_stays_away_ends_with_a_status_of_its_own(
    pictures, tmp_path, capsys, monkeypatch
) -> None:
    """Guards status 75, which schedulers repeat; the patience has to run out."""
    argv = study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")
    with monkeypatch.context() as patch, closing(sqlite3.connect(tmp_path / "s.db")) as other:
        hurried = partial(conducting.open_storage, patience_seconds=0.5, busy_seconds=0.1)
        patch.setattr(conducting, "open_storage", hurried)

        def lock(self: View, event: object) -> None:
            if isinstance(event, EpochDone) and event.number == 1:
                other.execute("BEGIN IMMEDIATE")

        patch.setattr(View, "update", lock)
        assert status_of(argv) == 75
    *_, told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"depthsearch study: Study 'noughts' stopped: .* run the same command again\.", told)


@pytest.mark.parametrize(
    ("error", "status"),
    [(StorageError("It has been away for 600 s."), 75), (SettingsError("It cannot be opened."), 2)],
)
def test_a_database_that_cannot_be_opened_is_no_outage(monkeypatch, error: Exception, status: int) -> None:
    def fail(_: object) -> None:
        raise error from Away(sqlite3.OperationalError("unable to open database file"))

    monkeypatch.setattr("depthsearch.cli.commands.status.status", fail)
    assert status_of(["status"]) == status


# --- bad values ---------------------------------------------------------------------------------


@pytest.fixture
def values(tmp_path: Path, folder: Path, pictures: Path) -> dict[str, str]:
    """Files and databases that a bad value may name, by a word for each."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "garbage.pt").write_bytes(b"no weights, and no database either; " * 200)
    (tmp_path / "table.csv").write_text("file,class\nx.png,x\n")
    return {
        "MISSING": str(tmp_path / "missing"),
        "EMPTY": str(tmp_path / "empty"),
        "GARBAGE": str(tmp_path / "garbage.pt"),
        "TABLE": str(tmp_path / "table.csv"),
        "NO_DATABASE": f"sqlite:///{tmp_path}/garbage.pt",
        "UNOPENABLE": f"sqlite:///{tmp_path}/no/folder/s.db",
        "ABSENT_DATABASE": f"sqlite:///{tmp_path}/absent.db",
        "STUDIES": f"sqlite:///{folder}/studies.db",
    }


# Command, option, value (or a word of the above), what the complaint has to say.
BAD = [
    ("study", "FILE", "MISSING", "No study file"),
    ("study", "FILE", "GARBAGE", "garbage.pt is no TOML file"),
    ("study", "--backbone", "nonesuch", "no model 'nonesuch'"),
    ("study", "--data", "MISSING", "No folder"),
    ("study", "--data", "EMPTY", "No images in"),
    ("study", "--data", "GARBAGE", "garbage.pt is a file"),
    (
        "study",
        "--data",
        "torchvision:Flowers",
        "torchvision has no data set for classification called 'Flowers'",
    ),
    (
        "study",
        "--data",
        "torchvision:VOCDetection",
        "torchvision has no data set for classification called 'VOCDetection'",
    ),
    ("study", "--data", "TABLE", "table.csv has no columns 'image'"),
    ("study", "--image-columns", "front,side", "--image-columns names columns of a table, and"),
    ("study", "--image-columns", ",", "--image-columns: ',' is no list, such as front,side"),
    ("study", "--number-columns", "age", "--number-columns names columns of a table, and"),
    ("study", "--number-columns", "age,AGE", "--number-columns names 'AGE' twice"),
    ("study", "--classes-map", "MISSING", "missing for --classes-map. Give a JSON object such as"),
    ("study", "--classes-map", "GARBAGE", "garbage.pt is no JSON: Expecting value in line 1, column 1"),
    ("study", "--weights", "MISSING", "No weights file"),
    ("study", "--weights", "GARBAGE", "neither a safetensors file nor a state dict"),
    ("study", "--image-size", "7", "--image-size: '7' is no whole number from 8 on"),
    ("study", "--channels", "2", "--channels: '2' is neither 1 nor 3"),
    ("study", "--image-size", "big", "--image-size: 'big' is no whole number"),
    ("study", "--mean", "0.5,0.5", "--mean: '0.5,0.5' is no number or three of them, such as 0.5 or 0.485,"),
    (
        "study",
        "--mean",
        "128",
        "--mean: '128' is no number or three of them, such as 0.5 or 0.485,0.456,0.406",
    ),
    (
        "study",
        "--std",
        "0",
        "--std: '0' is no number or three of them, such as 0.5 or 0.229,0.224,0.225, above",
    ),
    ("study", "--interpolation", "cubic", "--interpolation: invalid choice: 'cubic' (choose from"),
    ("study", "--crop-share", "0", "--crop-share: '0' is no number in (0, 1]"),
    (
        "study",
        "--backbone",
        "net.py",
        "--backbone: Backbone 'net.py' names no function. Give net.py:FUNCTION",
    ),
    ("study", "--val-share", "1", "--val-share: '1' is no number in [0, 1)"),
    ("study", "--val-share", "nan", "--val-share: 'nan' is no number in [0, 1)"),
    ("study", "--subset", "0", "--subset: '0' is no number in (0, 1]"),
    ("study", "--subset", "1.5", "--subset: '1.5' is no number in (0, 1]"),
    ("study", "--subset", "few", "--subset: 'few' is no number in (0, 1]"),
    ("study", "--val-share", "0", "val share 0.0 is not a share"),
    ("study", "--test-share", "-0.1", "--test-share: '-0.1' is no number in [0, 1)"),
    ("study", "--test-share", "0.9", "leave no image to train on"),
    ("study", "--skip-unreadable", "=yes", "--no-skip-unreadable: ignored explicit argument 'yes'"),
    ("study", "--epochs", "0", "--epochs: '0' is no whole number from 1 on"),
    ("study", "--epochs", "1.5", "--epochs: '1.5' is no whole number from 1 on"),
    ("study", "--late-passes", "0", "--late-passes: '0' is no whole number from 1 on"),
    ("study", "--batch-size", "1", "--batch-size: '1' is no whole number from 2 on"),
    ("study", "--metric", "auc", "--metric: invalid choice: 'auc'"),
    ("study", "--schedule", "linear", "--schedule: invalid choice: 'linear'"),
    ("study", "--optimizer", "adam", "--optimizer: invalid choice: 'adam'"),
    ("study", "--momentum", "1", "--momentum: '1' is no number in [0, 1)"),
    ("study", "--weight-decay", "-1", "--weight-decay: '-1' is no number from 0 on"),
    ("study", "--weight-decay", "nan", "--weight-decay: 'nan' is no number from 0 on"),
    ("study", "--dropout", "1", "--dropout: '1' is no number in [0, 1)"),
    ("study", "--head", "dense", "--head: invalid choice: 'dense'"),
    ("study", "--head-depth", "0", "--head-depth: '0' is no whole number from 1 on"),
    ("study", "--balance", "even", "--balance: invalid choice: 'even'"),
    ("study", "--label-smoothing", "1", "--label-smoothing: '1' is no number in [0, 1)"),
    ("study", "--kinds", "conv,norm", "--kinds: 'norm' is none of conv, pool, concat, block"),
    ("study", "--kinds", "", "--kinds: '' is none of"),
    ("study", "--kinds", "concat", "has no concat layer to cut at"),
    ("study", "--layers", ",", "--layers: ',' is no list, such as 52,144,features.norm5"),
    ("study", "--mark", ",", "--mark: ',' is no list, such as 8,47,84"),
    ("study", "--mark", "conv9", "No cut 'conv9'. Near: "),
    ("study", "--layers", "conv9", "No layer 'conv9' in ResNet. Near: layer "),
    ("study", "--layers", "bn1", "Layer 'bn1' (bn1) is none of conv, pool, concat, block: no cut starts"),
    ("study", "--learning-rate", "0:1", "--learning-rate: '0:1' is no LOW:HIGH"),
    ("study", "--learning-rate", "1:0.1", "--learning-rate: '1:0.1' is no LOW:HIGH"),
    ("study", "--learning-rate", "1e-3:inf", "--learning-rate: '1e-3:inf' is no LOW:HIGH"),
    ("study", "--learning-rate", "fast", "--learning-rate: 'fast' is no LOW:HIGH"),
    ("study", "--learning-rates", "fast", "--learning-rates: 'fast' is no list of numbers above 0, such as"),
    ("study", "--learning-rates", "1e-3,nan", "--learning-rates: '1e-3,nan' is no list of numbers"),
    ("study", "--search", "grid", "--search: invalid choice: 'grid'"),
    ("study", "--head-width", "100:30", "--head-width: '100:30' is neither a width nor MAX:STEP"),
    ("study", "--head-width", "0:0", "--head-width: '0:0' is neither a width nor MAX:STEP"),
    ("study", "--head-width", "wide", "--head-width: 'wide' is neither a width nor MAX:STEP"),
    ("study", "--also", "momentum", "--also: 'momentum' is none of head_depth, dropout"),
    ("study", "--sampler", "grid", "--sampler: invalid choice: 'grid'"),
    ("study", "--pruner", "hyperband", "--pruner: invalid choice: 'hyperband'"),
    ("study", "--aim", "cost", "--aim: invalid choice: 'cost'"),
    ("study", "--cost", "seconds", "--cost: invalid choice: 'seconds'"),
    ("study", "--cost", "macs", "--cost macs is a second aim: add --aim accuracy+cost, or leave --cost out."),
    ("study", "--trials", "0", "--trials: '0' is no whole number from 1 on"),
    ("study", "--workers", "0", "--workers: '0' is no whole number from 1 on"),
    ("study", "--budget", "0", "--budget: '0' is no number above 0, such as 4"),
    ("study", "--timeout", "soon", "--timeout: 'soon' is no time above 0, such as 90s, 30m or 2h"),
    ("study", "--hung-after", "0", "--hung-after: '0' is no number above 0, such as 300"),
    ("study", "--executor", "dask", "--executor: invalid choice: 'dask'"),
    ("study", "--ray-address", "head:6379", "--ray-address needs --executor ray"),
    ("study", "--device", "tpu", "--device: invalid choice: 'tpu'"),
    ("study", "--device", "cuda", "No cuda device here"),
    ("study", "--precision", "fp8", "--precision: invalid choice: 'fp8'"),
    ("study", "--views", "0", "--views: '0' is no whole number from 1 on"),
    ("study", "--augment", "turn=3", "--augment: 'turn' is none of crop, flip, rotation, colour, shift, sh"),
    ("study", "--augment", "crop", "--augment: crop=: give a number above 0 and below 1, or leave crop out"),
    ("study", "--augment", "zoom=nan", "--augment: zoom=nan: give a number above 0 and up to 0.9, or leave"),
    ("study", "--augment", "flip,flip", "--augment: flip is given twice in 'flip,flip': keep one"),
    ("study", "--augment", "flip", "--augment needs --views 2 or more: --views 1 has the plain images only."),
    ("study", "--compile", "=yes", "--no-compile: ignored explicit argument 'yes'"),
    ("study", "--keep-memory", "lots", "--keep-memory: 'lots' is no size, such as 0, 512MiB or 4GiB"),
    ("study", "--keep-disk", "-1", "--keep-disk: '-1' is no size"),
    ("study", "--confirm", "-1", "--confirm: '-1' is no whole number from 0 on"),
    ("study", "--tolerance", "-1", "--tolerance: '-1' is no number from 0 to 100, such as 0.5"),
    ("study", "--tolerance", "nan", "--tolerance: 'nan' is no number from 0 to 100, such as 0.5"),
    ("study", "--tolerance", "101", "--tolerance: '101' is no number from 0 to 100, such as 0.5"),
    ("study", "--confirm", "some", "--confirm: 'some' is no whole number from 0 on, nor auto or all"),
    ("study", "--seeds", "1", "--seeds: '1' is no whole number from 2 on"),
    ("study", "--resample", "=yes", "--no-resample: ignored explicit argument 'yes'"),
    ("study", "--seed", "-1", "--seed: '-1' is no whole number"),
    ("study", "--seed", "4294967296", "--seed: '4294967296' is no whole number"),
    ("study", "--storage", "studies.db", "--storage 'studies.db' is no database URL"),
    ("study", "--storage", "nonesuch://host/db", "--storage nonesuch://host/db cannot be opened"),
    ("study", "--storage", "UNOPENABLE", "cannot be opened: "),
    ("study", "--storage", "NO_DATABASE", "file is not a database"),
    ("study", "--log-file", "EMPTY", "empty cannot be written to: Is a directory. Give a file in a folder"),
    ("study", "--tensorboard", "GARBAGE", "garbage.pt cannot be written to: File exists. Give a folder."),
    ("study", "--mlflow", "nonesuch://x", "--mlflow nonesuch://x cannot be written to: "),
    ("study", "--json", "=yes", "--no-json: ignored explicit argument 'yes'"),
    ("cuts", "BACKBONE", "nonesuch", "no model 'nonesuch'"),
    ("cuts", "--kinds", "norm", "--kinds: 'norm' is none of conv"),
    ("cuts", "--layers", "layer1.0", "'layer1.0' is a module with layers inside, not one: give 'layer1."),
    ("cuts", "--head", "dense", "--head: invalid choice: 'dense'"),
    ("cuts", "--image-size", "7", "--image-size: '7' is no whole number from 8 on"),
    ("cuts", "--channels", "2", "--channels: '2' is neither 1 nor 3"),
    ("cuts", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("report", "--storage", "ABSENT_DATABASE", "absent.db' with studies. Run depthsearch study"),
    ("report", "--storage", "NO_DATABASE", "file is not a database"),
    ("report", "--artifacts", "GARBAGE", "garbage.pt is a file. Give a folder for the studies' artifacts"),
    ("report", "STUDY", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("report", "--name", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("report", "--out", "GARBAGE", "garbage.pt': "),
    ("report", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("report", "--images", "=yes", "--images: ignored explicit argument 'yes'"),
    ("status", "STUDY", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("status", "--name", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("status", "--storage", "ABSENT_DATABASE", "absent.db' with studies. Run depthsearch study"),
    ("status", "--storage", "NO_DATABASE", "file is not a database"),
    ("status", "--storage", "studies.db", "'studies.db' is no database URL"),
    ("status", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("stop", "STUDY", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("stop", "STUDY", "noughts", "Nobody runs study 'noughts': there is nothing to stop."),
    ("stop", "--storage", "ABSENT_DATABASE", "absent.db' with studies. Run depthsearch study"),
    ("stop", "--after", "minute", "--after: invalid choice: 'minute'"),
    ("stop", "--wait", "soon", "--wait: 'soon' is no number of seconds from 0 on, such as 600"),
    ("stop", "--wait", "-1", "--wait: '-1' is no number of seconds"),
    ("stop", "--wait", "nan", "--wait: 'nan' is no number of seconds"),
    ("stop", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("enqueue", "STUDY", "nonesuch", "No study 'nonesuch'; sqlite:///"),
    ("enqueue", "--storage", "ABSENT_DATABASE", "absent.db' with studies. Run depthsearch study"),
    ("enqueue", "--layer", "conv9", "No cut 'conv9'. Near: layer "),
    ("enqueue", "--layer", "fc", "Trial 0 of study 'noughts' has just this setting at layer "),
    ("enqueue", "--learning-rate", "0", "--learning-rate: '0' is no number above 0, such as 1e-3"),
    ("enqueue", "--learning-rate", "fast", "--learning-rate: 'fast' is no number above 0"),
    ("enqueue", "--learning-rate", "0.5", "learning rate 0.5 is not in study 'noughts', which has 0.0001 to"),
    ("enqueue", "--head-width", "-1", "--head-width: '-1' is no whole number from 0 on"),
    ("enqueue", "--head-width", "17", "head width 17 is not in study 'noughts', which has 0, 16. Give that"),
    ("enqueue", "--backbone", "nonesuch", "Backbone 'nonesuch' is not in study 'noughts': give test_resnet"),
    ("enqueue", "--to-the-end", "=yes", "--to-the-end: ignored explicit argument 'yes'"),
    ("enqueue", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("dashboard", "--storage", "ABSENT_DATABASE", "absent.db' with studies. Run depthsearch study"),
    ("dashboard", "--storage", "studies.db", "'studies.db' is no database URL"),
    ("dashboard", "--host", "203.0.113.7", "--host 203.0.113.7 lets others in: that takes a password"),
    ("dashboard", "--host", "0.0.0.0", "--host 0.0.0.0 lets others in: that takes a password"),
    ("dashboard", "--password", "", "--password is empty: give a password, or leave it out"),
    ("dashboard", "--port", "65536", "--port 65536 is no port: give one up to 65535"),
    ("dashboard", "--port", "-1", "--port: '-1' is no whole number from 0 on"),
    ("dashboard", "--port", "http", "--port: 'http' is no whole number"),
    ("dashboard", "--artifacts", "GARBAGE", "garbage.pt is a file. Give a folder for the studies' artifacts"),
    ("dashboard", "--writable", "=yes", "--writable: ignored explicit argument 'yes'"),
    ("cache", "--clear", "everything", "--clear: invalid choice: 'everything'"),
    ("cache", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
]


@pytest.mark.parametrize(("command", "option", "value", "expected"), BAD)
def test_a_bad_value_is_one_line_and_status_2(
    finished,
    values,
    pictures,
    tmp_path,
    capsys,
    monkeypatch,
    command: str,
    option: str,
    value: str,
    expected: str,
) -> None:
    if value == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.chdir(tmp_path)
    argv = {
        "study": study_arguments(pictures, f"sqlite:///{tmp_path}/s.db"),
        "cuts": ["cuts", "test_resnet"],
        "report": ["report", "--storage", values["STUDIES"]],
        "status": ["status", "--storage", values["STUDIES"]],
        "stop": ["stop", "--storage", values["STUDIES"]],
        "enqueue": ["enqueue", "--storage", values["STUDIES"], "--layer", "conv1.3"],
        "dashboard": ["dashboard", "--storage", values["STUDIES"]],
        "cache": ["cache"],
    }[command]
    value = values.get(value, value)
    given = [f"{option}{value}"] if value.startswith("=") else [f"{option}={value}"]
    given = [value] if option in ("STUDY", "FILE") else given
    before = sorted(tmp_path.iterdir())
    assert status_of([command, value] if option == "BACKBONE" else [*argv, *given]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert expected in complaint(told.err)
    if command == "study":
        assert not list(tmp_path.glob("s.db*"))
    else:
        assert sorted(tmp_path.iterdir()) == before


TABLED = ["study", "cuts", "report", "status", "stop", "enqueue", "dashboard", "cache"]


def options_of(command: str) -> list[str]:
    return [next(iter(a.option_strings), a.metavar) for a in actions_of(command)]


@pytest.mark.parametrize("command", TABLED)
def test_every_option_has_a_bad_value_in_these_tests(command: str) -> None:
    tested = {option for name, option, *_ in BAD if name == command}
    # The name of a study takes any text; a taken one has a test of its own.
    assert tested | {"--name"} >= set(options_of(command))


@pytest.mark.parametrize("command", TABLED)
def test_the_help_of_a_command_has_each_option(command: str, capsys) -> None:
    assert status_of([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert [option for option in options_of(command) if not re.search(rf"{option}\b", shown)] == []


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("17", 17),
        ("512MiB", 2**29),
        ("4GiB", 2**32),
        ("4G", 2**32),
        ("1.5 kB", 1500),
        ("2TB", 2e12),
    ],
)
def test_a_size_is_read_as_it_is_written(text: str, n_bytes: int) -> None:
    assert SIZE.read(text) == n_bytes


@pytest.mark.slow
def test_the_cache_is_shown_and_cleared_and_a_study_fills_it_again(
    pictures, tmp_path, capsys, monkeypatch
) -> None:
    """Guards the cache command on what a study has really left there."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path / "cache"))
    argv = study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")

    def cache(*options: str) -> dict[str, object]:
        capsys.readouterr()
        assert status_of(["cache", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    assert cache()["kept"] == []
    assert status_of(argv) == 0
    found = cache()
    kinds = {file["kind"] for file in found["kept"]}
    assert kinds == {"features", "images"}
    assert found["bytes"] == sum(Path(file["path"]).stat().st_size for file in found["kept"])
    assert status_of(["cache"]) == 0
    assert re.search(r"Kept .* in \d+ files of", capsys.readouterr().out)
    locks = tmp_path / "cache" / "features" / "locks"
    assert list(locks.iterdir())
    assert {file["kind"] for file in cache("--clear", "features")["cleared"]} == {"features"}
    assert not locks.exists()
    assert {file["kind"] for file in cache()["kept"]} == {"images"}
    assert status_of([*argv, "--name", "again"]) == 0
    assert {file["kind"] for file in cache()["kept"]} == kinds
    cache("--clear", "all")
    assert cache()["kept"] == []


def test_the_cache_holds_what_nodes_of_a_cluster_have_kept(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(tmp_path))
    for name in ("node-a", "node-b"):
        (tmp_path / "features" / name / "locks").mkdir(parents=True)
        (tmp_path / "features" / name / "kept.features").write_bytes(b"1234")
        (tmp_path / "features" / name / "locks" / "key.lock").touch()
    assert status_of(["cache", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [Path(file["path"]).parent.name for file in found["kept"]] == ["node-a", "node-b"]
    assert found["bytes"] == 8
    assert status_of(["cache", "--clear", "features"]) == 0
    assert list((tmp_path / "features").iterdir()) == []


@pytest.fixture
def full_cache(tmp_path, monkeypatch) -> Path:
    """A cache folder with two files of features and one of images, ten bytes each."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_: str(cache))
    for file in ("features/a.features", "features/b.features", "images/a.images"):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_bytes(b"0123456789")
    return cache


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (0o555, "removed: {}/features/a.features: Permission denied, and 1 more. Run this as the user who"),
        (0o300, "removed: {}/features: Permission denied. Run this as the user who owns the files."),
    ],
)
def test_what_may_not_be_removed_of_the_cache_is_told_after_all_else_is_removed(
    full_cache, capsys, mode: int, expected: str
) -> None:
    (full_cache / "features").chmod(mode)
    with modes_obeyed():
        assert status_of(["cache", "--clear", "all"]) == 2
    told = capsys.readouterr()
    assert told.out == f"Cleared 10 bytes in 1 file of {full_cache}.\n"
    assert f"depthsearch cache: Not all could be {expected.format(full_cache)}" in complaint(told.err)
    (full_cache / "features").chmod(0o755)
    assert [path.name for path in full_cache.rglob("*.*")] == ["a.features", "b.features"]


def test_the_version_names_the_libraries_that_decide_what_is_computed(capsys) -> None:
    assert status_of(["--version"]) == 0
    versions = f"torch {version('torch')}, timm {timm.__version__}, optuna {optuna.__version__}"
    assert capsys.readouterr().out.startswith(f"depthsearch {version('depthsearch')} ({versions}, Python 3.")


def test_a_command_is_needed(capsys) -> None:
    assert status_of([]) == 2
    assert complaint(capsys.readouterr().err) == (
        f"depthsearch: no command is given. Commands: {', '.join(COMMANDS)}. (see depthsearch --help)"
    )


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["stduy"], f"depthsearch: no command 'stduy'. Did you mean study? Commands: {', '.join(COMMANDS)}."),
        (["zzz"], "depthsearch: no command 'zzz'. Commands: study, "),
        (
            ["study", "--trial=5"],
            "unrecognized arguments: --trial=5. Did you mean --trials? (see depthsearch",
        ),
        (
            ["study", "--epoch", "2", "--bugdet", "3"],
            "arguments: --epoch --bugdet 3. Did you mean --epochs and --budget? (see depthsearch study",
        ),
        (["study", "--back-bone", "x"], "--back-bone. Did you mean --backbone? (see depthsearch study"),
        (["fit", "--subsets", "1"], "--subsets. Did you mean --subset? (see depthsearch fit --help)"),
        (["study", "--zzz"], "unrecognized arguments: --zzz (see depthsearch study --help)"),
        (["study"], "For your own images: depthsearch init DIR writes a study file with a backbone for this"),
        (["study", "--data", "a b"], "For your own images: depthsearch init 'a b' writes"),
        (["study", "."], "depthsearch init . writes a study file for them."),
        (
            ["study", "photo.toml"],
            "No study file 'photo.toml': No such file or directory. The nearest is 'photos.toml'.",
        ),
        (
            ["study", "none.toml"],
            "No study file 'none.toml': No such file or directory. Beside it: photos.toml.",
        ),
        (["study", "resnet50"], "A backbone is given as --backbone resnet50."),
    ],
)
def test_what_is_misspelt_or_missing_is_answered_with_what_to_type(
    tmp_path, monkeypatch, capsys, argv: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos.toml").touch()
    assert status_of(argv) == 2
    assert expected in complaint(capsys.readouterr().err)


def test_the_study_of_somebody_else_is_neither_gone_on_with_nor_reported(
    pictures, tmp_path, capsys, open_quick_storage
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    storage = open_quick_storage(url)
    foreign = optuna.create_study(study_name="noughts", storage=storage)
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for argv in (study_arguments(pictures, url), ["report", "--storage", url]):
        assert status_of(argv) == 2
        said = complaint(capsys.readouterr().err)
        assert said.startswith(f"depthsearch {argv[0]}: Study 'noughts' was not made by depthsearch.")
    assert n_finished_in(storage) == 1


def test_a_report_asks_which_study_where_there_are_several(tmp_path, capsys, open_quick_storage) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    for name in ("first", "second"):
        optuna.create_study(study_name=name, storage=open_quick_storage(url))
    assert status_of(["report", "--storage", url]) == 2
    assert f"Which study? Give --name; {url} has: first, second." in complaint(capsys.readouterr().err)


def test_a_port_that_is_taken_is_refused(finished, arguments, capsys) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert status_of(["dashboard", "--storage", arguments[-1], "--port", str(port)]) == 2
    said = (
        f"Cannot listen on 127.0.0.1:{port}: Address already in use. Give another --port (0: any free one)."
    )
    assert said in complaint(capsys.readouterr().err)


def test_the_report_of_a_study_is_its_artifact_once(finished, arguments, folder, tmp_path, capsys) -> None:
    store = folder / "studies-artifacts"
    (first,) = store.iterdir()
    assert first.read_text().startswith("<!doctype html>")
    assert status_of(["report", "--storage", arguments[-1], "--out", str(tmp_path)]) == 0
    (kept,) = store.iterdir()
    assert kept.read_bytes() == (tmp_path / "report.html").read_bytes()
    assert "Not kept" not in capsys.readouterr().err


def test_a_report_that_cannot_be_kept_is_said_and_stops_no_study(pictures, tmp_path, capsys) -> None:
    (tmp_path / "s-artifacts").write_text("in the way")
    assert status_of(study_arguments(pictures, f"sqlite:///{tmp_path}/s.db")) == 0
    assert "Not kept for the dashboard, report.html: " in " ".join(capsys.readouterr().err.split())


# --- cuts ---------------------------------------------------------------------------------------


def test_cuts_as_json_have_every_attribute_and_keras_numbers(capsys) -> None:
    assert main(["cuts", "densenet121", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {tuple(cut) for cut in found} == {tuple(field.name for field in fields(Cut))}
    assert [cut["index"] for cut in found] == list(range(len(found)))
    by_layer = {cut["layer"]: cut for cut in found}
    assert by_layer[144]["keras_name"] == "conv4_block1_1_conv"
    assert by_layer[144]["name"] == "features.denseblock3.denselayer1.conv1"


def test_cuts_are_a_table_of_every_candidate(capsys) -> None:
    assert main(["cuts", "test_resnet", "--kinds", "conv", "--image-size", "32"]) == 0
    shown = capsys.readouterr().out
    n_cuts = int(re.search(r"test_resnet: (\d+) candidate cuts", shown)[1])
    assert len(re.findall(r"^│\s+\d+ │", shown, re.MULTILINE)) == n_cuts > 10


def test_cuts_can_be_picked(capsys) -> None:
    layers = ["--layers", "conv_pw_7,84,blocks.0.*"]
    assert main(["cuts", "mobilenetv1_100", *layers, "--kinds", "conv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(cut["index"], cut["layer"]) for cut in found] == list(enumerate([2, 5, 8, 47, 84, 89]))


def test_cuts_of_a_model_for_grey_images_are_cheaper_at_its_first_layer_alone(capsys) -> None:
    found = {}
    for channels in ("1", "3"):
        assert main(["cuts", "test_resnet", "--channels", channels, "--json"]) == 0
        found[channels] = json.loads(capsys.readouterr().out)
    assert [cut["name"] for cut in found["1"]] == [cut["name"] for cut in found["3"]]
    for grey, colour in zip(found["1"][1:], found["3"][1:], strict=True):
        assert grey["trainable_parameters"] == colour["trainable_parameters"]
    kernels = timm.create_model("test_resnet").conv1[0].weight
    less = found["3"][0]["trainable_parameters"] - found["1"][0]["trainable_parameters"]
    assert less == kernels.numel() * 2 / 3
    assert found["1"][0]["training_macs"] < found["3"][0]["training_macs"]


# --- processes ----------------------------------------------------------------------------------


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to end with the test, whatever happens in it."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "depthsearch", *argv],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_keeps_what_is_finished_and_says_how_to_go_on(
    pictures, tmp_path, started, capsys, open_quick_storage, number: signal.Signals
) -> None:
    """Guards Ctrl-C in a process of its own, as a terminal sends it."""
    url = f"sqlite:///{tmp_path}/s.db"
    argv = study_arguments(pictures, url, epochs=10)
    process = start(started, argv)
    assert any("epoch 2/10" in line for line in process.stderr)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    last = rest.splitlines()[-1]
    said, _, command = last.partition(" go on with: ")
    assert said == "Stopped. What is finished is kept;"
    assert "Traceback" not in rest
    assert main(shlex.split(command)[1:]) == 0
    told = capsys.readouterr().err
    # The first is solved, in one step.
    assert "trial 1 (baseline, continued)" in told
    assert n_finished_in(open_quick_storage(url)) == 3


@pytest.mark.slow
def test_the_dashboard_is_served_on_loopback_until_interrupted(finished, arguments, started) -> None:
    """Guards the command as it is run: its address, its answer, its end."""
    process = start(started, ["dashboard", "--storage", arguments[-1], "--port", "0"])
    line = process.stderr.readline()
    address = re.fullmatch(r"Dashboard on (http://127\.0\.0\.1:\d+/) \(Ctrl-C stops it\)\n", line)
    assert address, line
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for path in ("", "dashboard", "api/studies"):
        with opener.open(address[1] + path, timeout=30) as response:
            assert response.status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


def test_the_command_that_goes_on_has_the_bounds_of_the_latest_start(pictures: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/bounds.db"
    for bounds, said in (
        (("--budget", "5", "--timeout", "30m"), ["--budget 5.0", "--timeout 1800.0"]),
        (("--budget", "9"), ["--budget 9.0"]),
        ((), []),
    ):
        assert main([*study_arguments(pictures, url), *bounds]) == 0
        command = depthsearch.status(optuna.load_study(study_name="noughts", storage=url)).command
        assert command is not None
        assert re.findall(r"--(?:budget|timeout) [\d.]+", command) == said
        assert main(["report", "--out", str(tmp_path), "--storage", url]) == 0
        assert all(bound in (tmp_path / "report.md").read_text("utf-8") for bound in said)


def test_what_reads_a_stored_study_does_not_wait_for_pytorch(finished, folder: Path, tmp_path: Path) -> None:
    """All in one process, as starting one takes longer than they do."""
    url = f"sqlite:///{shutil.copy(folder / 'studies.db', tmp_path)}"
    commands = (
        ["status"],
        ["status", "--json"],
        ["report"],
        ["report", "--json"],
        ["report", "--out", "."],
        ["enqueue", "--layer", "conv1.0", "--learning-rate", "0.001"],
        ["stop"],
    )
    code = (
        "import sys, depthsearch.cli.entry as cli\n"
        f"ended = [cli.main([*command, '--storage', {url!r}]) for command in {commands}]\n"
        "import depthsearch.cli.commands.dashboard\n"
        "heavy = {'torch', 'torchvision', 'timm'} & set(sys.modules)\n"
        "assert (ended, heavy) == ([0, 0, 0, 0, 0, 0, 2], set()), (ended, heavy)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (0, 1), ended.stderr
    assert "Nobody runs study 'noughts'" in ended.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000


WRONG_WITHOUT_PYTORCH = [
    (["study", "--backbone", "x", "--data", "none"], "No folder"),
    (["study", "--backbone", "x", "--data", "empty"], "No images in"),
    (["study", "--backbone", "x", "--data", "one"], "has one class only, 'only'"),
    (["study", "--backbone", "x", "--data", "t.csv"], "t.csv has no column"),
    (["study", "--backbone", "x", "--data", "torchvision:Flowers"], "called 'Flowers'"),
    (["study", "--backbone", "x", "--log-file", "none/events.jsonl"], "none/events.jsonl"),
    (["study", "--backbone", "x", "--name", "noughts", "--storage", "URL"], "--epochs 1 (here 3)"),
    (["study", "--backbone", "none.py:make"], "cannot read 'none.py'"),
    (["study", "--backbone", "resnt50"], "has no model 'resnt50'. Near: resnet50"),
    (["study", "--backbone", "cnn,torchvision:resnt50"], "has no image classifier 'resnt50'. Near: resnet50"),
    (["cuts", "densenet12.tv_in1k"], "has no model 'densenet12.tv_in1k'. Near: densenet121"),
    (["init", "one", "--backbone", "resnt50"], "has no model 'resnt50'. Near: resnet50"),
    (["init", "one"], "has one class only, 'only'"),
    (["init", "digits", "--out", "t.csv"], "t.csv is there already"),
    (["fit", "--storage", "URL", "--out", "one"], "one is there already and is no model folder"),
    (["fit", "--storage", "URL", "--onnx"], "--onnx needs onnx"),
    (["predict", "one", "one/only/0.png"], "one is no model folder"),
    (["predict", "none", "one/only/0.png"], "No model folder 'none'"),
]


def test_what_is_wrong_without_pytorch_does_not_wait_for_it(finished, folder: Path, tmp_path: Path) -> None:
    """All in one process, as starting one takes longer than they do."""
    fill(tmp_path / "one", {"only": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("file,class\n")
    url = f"sqlite:///{shutil.copy(folder / 'studies.db', tmp_path)}"
    commands = [[url if word == "URL" else word for word in command] for command, _ in WRONG_WITHOUT_PYTORCH]
    code = (
        "import sys, depthsearch.cli.entry as cli\n"
        "from depthsearch.classifier import checking\n"
        "checking.ONNX_PACKAGES = ('onnx_that_is_missing',)\n"
        f"ended = [cli.main(command) for command in {commands}]\n"
        "heavy = {'torch', 'torchvision', 'timm'} & set(sys.modules)\n"
        "assert (set(ended), heavy) == ({2}, set()), (ended, heavy)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    lines = ended.stderr.splitlines()
    assert (ended.returncode, len(lines)) == (0, len(commands)), ended.stderr
    for line, (_, said) in zip(lines, WRONG_WITHOUT_PYTORCH, strict=True):
        assert said in line


def test_help_does_not_wait_for_pytorch() -> None:
    code = (
        "import sys, depthsearch.cli.entry as cli\n"
        "try:\n    cli.main(['study', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'timm', 'optuna', 'numpy', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--backbone" in ended.stdout
