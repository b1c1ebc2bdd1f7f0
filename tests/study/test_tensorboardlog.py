"""The trials of a study as runs of TensorBoard."""

import importlib.util
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.files import folder_named
from depthsearch.study import EpochDone, open_study, search
from depthsearch.study.loggers.tensorboardlog import tensorboard_log

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="needs tensorboard")


@pytest.fixture
def study(task, space, open_quick_storage, tmp_path):
    return open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "a/b c", task, space, {})


@pytest.fixture
def events(study, task, space, tmp_path):
    """Run trials of the study."""

    def run(n_trials=1):
        options = {"sampler": "random", "pruner": "none", "checkpoints": tmp_path}
        return search(study, task, space, n_trials=n_trials, **options)

    return run


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Read steps and values by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run)).Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def texts(run: Path) -> dict[str, str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run)).Reload()
    names = found.Tags()["tensors"]
    return {name: found.Tensors(name)[-1].tensor_proto.string_val[0].decode() for name in names}


def test_a_trial_is_a_run_with_its_figures_by_epoch_and_its_setting(study, events, tmp_path) -> None:
    results: dict[int, Any] = {}
    with tensorboard_log(tmp_path / "new" / "runs", study) as tell:
        for event in events():
            tell(event)
            if isinstance(event, EpochDone):
                results[event.result.epoch] = event.result
    (run,) = (tmp_path / "new" / "runs" / folder_named("a/b c")).iterdir()
    assert run.name == "trial-0000"
    assert scalars(run) == {
        name: [(epoch, pytest.approx(getattr(each, name))) for epoch, each in results.items()]
        for name in ("score", "val_loss", "train_loss", "seconds")
    }
    found = texts(run)
    assert found["end/text_summary"] == "complete"
    lines = found["setting/text_summary"].splitlines()
    assert {"- cut: fc", "- origin: baseline", "- backbone: test_resnet"} <= set(lines)
    assert f"- learning_rate: {study.trials[0].params['learning_rate']}" in lines


def test_a_trial_that_goes_on_has_one_curve(study, events, tmp_path) -> None:
    with tensorboard_log(tmp_path / "runs", study) as tell, closing(events(2)) as first:
        for event in first:
            tell(event)
            if isinstance(event, EpochDone) and event.number == 1:
                break
    with tensorboard_log(tmp_path / "runs", study) as tell:
        for event in events(2):
            tell(event)
    run = tmp_path / "runs" / folder_named("a/b c") / "trial-0001"
    assert len(list(run.iterdir())) == 2
    reported = study.trials[1].intermediate_values
    assert scalars(run)["score"] == [(epoch, pytest.approx(reported[epoch])) for epoch in (1, 2)]


def test_a_study_goes_on_where_its_runs_cannot_be_written(study, events, tmp_path, caplog) -> None:
    runs = tmp_path / "runs"
    with tensorboard_log(runs, study) as tell:
        shutil.rmtree(runs)
        runs.write_text("a file")
        for event in events():
            tell(event)
    assert study.trials[0].value is not None
    (record,) = (record for record in caplog.records if record.name == "depthsearch.study.loggers.eventlog")
    assert record.getMessage().startswith(f"The study goes on without --tensorboard {runs}, which failed: ")


def test_a_file_is_no_folder_for_runs(tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert main(["study", "--backbone", "nonesuch", "--tensorboard", f"{tmp_path}/file"]) == 2
    assert capsys.readouterr().err == (
        f"depthsearch study: --tensorboard {tmp_path}/file cannot be written to: File exists. "
        "Give a folder.\n"
    )


def test_a_missing_tensorboard_is_said_before_anything_is_loaded(
    study, tmp_path, monkeypatch, capsys
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "depthsearch.study.loggers.eventlog.find_spec",
        lambda name: None if name == "tensorboard" else found(name),
    )
    assert main(["study", "--backbone", "nonesuch", "--tensorboard", f"{tmp_path}/runs"]) == 2
    assert capsys.readouterr().err == (
        'depthsearch study: --tensorboard needs tensorboard: pip install "depthsearch[tensorboard]", '
        "or leave --tensorboard out.\n"
    )
    with (
        pytest.raises(SettingsError, match=r"^--tensorboard needs tensorboard: "),
        tensorboard_log(tmp_path / "runs", study),
    ):
        pass
    assert not (tmp_path / "runs").exists()
