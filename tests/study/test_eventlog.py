"""The events of a study as lines of JSON."""

import json
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from privileges import IS_ROOT, files_limited, make_pipe

from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.study import EpochDone, Stopped, TrialStarted, confirm, open_study, search
from depthsearch.study.loggers.eventlog import KEYS, check_log, forgiving, log_line, open_log


@pytest.fixture(scope="module")
def make(task, space, open_quick_storage) -> Callable[[Path], optuna.Study]:
    def make_(folder: Path) -> optuna.Study:
        return open_study(open_quick_storage(f"sqlite:///{folder}/s.db"), "s", task, space, {})

    return make_


@pytest.fixture(scope="module")
def events_of(task, space) -> Callable[..., Iterator[Any]]:
    def events(study: optuna.Study, n_trials: int = 2) -> Iterator[Any]:
        options = {"sampler": "random", "pruner": "none", "checkpoints": Path(study.user_attrs["place"])}
        return search(study, task, space, n_trials=n_trials, **options)

    return events


@pytest.fixture(scope="module")
def study(make, tmp_path_factory) -> optuna.Study:
    """A study that nobody has run."""
    return make(tmp_path_factory.mktemp("waiting"))


@pytest.fixture(scope="module")
def logged(make, events_of, task, space, tmp_path_factory) -> tuple[optuna.Study, list[Any], list[Any]]:
    """A study of two trials, confirmed; its events, and its lines."""
    folder = tmp_path_factory.mktemp("logged")
    study = make(folder)
    study.set_user_attr("place", str(folder))
    seen = []
    with open_log(folder / "log.jsonl", study) as log:
        for event in events_of(study):
            log(event)
            seen.append(event)
        for event in confirm(study, task, space, n_cuts=1, n_seeds=2, resample=True, checkpoints=folder):
            log(event)
            seen.append(event)
    return study, seen, lines_of(folder / "log.jsonl")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read lines as strict JSON."""
    return [
        json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()
    ]


# --- lines --------------------------------------------------------------------------------------


def test_there_is_a_line_for_each_event_and_one_at_either_end(logged) -> None:
    _, seen, lines = logged
    names = {
        "CurveDrawn": "curve_drawn",
        "TrialStarted": "trial_started",
        "EpochDone": "epoch_done",
        "TrialEnded": "trial_ended",
        "ConfirmationPlanned": "confirmation_planned",
    }
    told = ["opened", *(names[type(event).__name__] for event in seen), "closed"]
    assert [line["event"] for line in lines] == told
    assert {name for name in told if name in names.values()} == set(names.values())
    assert {line["study"] for line in lines} == {"s"}
    assert (lines[0]["pid"], lines[-1]["reason"]) == (os.getpid(), None)


def test_the_time_of_a_line_is_utc_and_never_goes_back(logged) -> None:
    times = [datetime.fromisoformat(line["time"]) for line in logged[2]]
    assert times == sorted(times)
    assert {time.utcoffset() for time in times} == {timedelta(0)}
    assert abs(datetime.now(UTC) - times[-1]) < timedelta(hours=1)


def test_the_keys_of_a_line_have_one_order(logged) -> None:
    for line in logged[2]:
        known = [key for key in line if key in KEYS]
        assert known == sorted(known, key=KEYS.index)
        assert list(line)[: len(known)] == known


def test_the_line_of_an_epoch_says_at_which_cut_it_came_to_what_and_at_what_cost(logged) -> None:
    study, seen, lines = logged
    event = next(event for event in seen if isinstance(event, EpochDone) and event.number == 1)
    cut = next(e for e in seen if isinstance(e, TrialStarted) and e.number == 1).point.cut
    line = next(line for line in lines if line["event"] == "epoch_done" and line["trial"] == 1)
    assert (line["backbone"], line["layer"], line["cut"]) == ("test_resnet", cut.layer, cut.name)
    assert (line["epoch"], line["origin"]) == (1, "baseline")
    assert line["score"] == study.trials[1].intermediate_values[1]
    for name in (
        "val_loss",
        "train_loss",
        "seconds",
        "images_per_second",
        "macs",
        "kept_bytes",
        "read_bytes",
    ):
        assert line[name] == getattr(event.result, name)
    assert "again" not in line


def test_the_line_of_a_trial_adds_up_its_epochs(logged) -> None:
    study, _, lines = logged
    ended = [line for line in lines if line["event"] == "trial_ended"]
    assert [line["trial"] for line in ended][:2] == [0, 1]
    for line in ended:
        trial = study.trials[line["trial"]]
        assert (line["state"], line["score"], line["reason"]) == ("complete", trial.value, None)
        assert line["learning_rate"] == trial.params["learning_rate"]
        assert line["seconds"] == pytest.approx(trial.user_attrs["seconds"], abs=1e-3)
        for name in ("macs", "kept_bytes", "read_bytes"):
            assert line[name] == trial.user_attrs[name]


def test_the_confirmation_names_its_cuts(logged) -> None:
    (line,) = (line for line in logged[2] if line["event"] == "confirmation_planned")
    again = [each for each in logged[2] if each.get("origin") == "confirm" and each["event"] == "trial_ended"]
    assert {(each["layer"], each["cut"]) for each in line["cuts"]} == {
        (each["layer"], each["cut"]) for each in again
    }
    assert {each["backbone"] for each in line["cuts"]} == {"test_resnet"}
    assert line["n_trainings"] == len(again)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLost:
    """An event that the log does not know."""

    number: int
    worker: str
    because: tuple[float, Path]


def test_an_event_that_nobody_foresaw_is_logged_by_its_name_and_fields(logged, study, tmp_path) -> None:
    started = next(event for event in logged[1] if isinstance(event, TrialStarted))
    with open_log(tmp_path / "log.jsonl", study) as log:
        log(started)
        log(WorkerLost(number=started.number, worker="gpu 1", because=(math.nan, Path("/dev/null"))))
        log(WorkerLost(number=7, worker="gpu 2", because=(0.5, Path("x"))))
    _, _, line, other, _ = lines_of(tmp_path / "log.jsonl")
    assert (line["event"], line["trial"], line["worker"]) == ("worker_lost", started.number, "gpu 1")
    assert line["because"] == [None, "/dev/null"]
    assert line["cut"] == started.point.cut.name
    assert list(other) == ["time", "event", "study", "trial", "worker", "because"]


def test_what_is_not_finite_is_null_and_control_characters_are_escaped() -> None:
    given = {"score": math.nan, "seconds": -math.inf, "reason": 'a\nb\x1b[31m\x00\u2028"é\udc80', "n": True}
    line = log_line("x", given, study="s")
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line, parse_constant=pytest.fail)
    assert (found["score"], found["seconds"], found["reason"]) == (None, None, given["reason"])
    assert found["n"] is True


def test_an_event_cannot_pass_for_another() -> None:
    line = json.loads(log_line("x", {"time": "never", "event": "y", "study": "t"}, study="s"))
    assert (line["event"], line["study"], line["time"] == "never") == ("x", "s", False)


def test_a_password_is_not_written() -> None:
    url = "postgresql://me:secret@host/db"
    line = log_line("x", {"reason": f"lost {url}", "cuts": [{"url": url}], "b": "x@y"}, study="s")
    assert "secret" not in line
    assert json.loads(line)["reason"] == "lost postgresql://me:***@host/db"
    several = "postgresql://h/d is away: connection to postgresql://me:secret@h2/x failed"
    assert "secret" not in log_line("x", {"reason": several}, study="s")


@pytest.mark.parametrize("text", ["run:b@1", "Trial 3 stopped: cannot read img@2x.png", "a: b @ c"])
def test_other_text_is_written_as_it_is(text: str) -> None:
    found = json.loads(log_line("x", {"reason": text}, study=text))
    assert (found["study"], found["reason"]) == (text, text)


# --- going on -----------------------------------------------------------------------------------


def test_a_trial_that_goes_on_marks_the_epochs_that_were_told_before(make, events_of, tmp_path) -> None:
    study, path = make(tmp_path), tmp_path / "log.jsonl"
    study.set_user_attr("place", str(tmp_path))
    with open_log(path, study) as log, closing(events_of(study, 2)) as events:
        for event in events:
            log(event)
            if isinstance(event, EpochDone) and event.number == 1:
                break
    with open_log(path, study) as log:
        for event in events_of(study, 2):
            log(event)
    lines = [line for line in lines_of(path) if line.get("trial") == 1]
    assert [(line["event"], line.get("epoch"), line.get("again", False)) for line in lines] == [
        ("trial_started", None, False),
        ("epoch_done", 1, False),
        ("trial_started", None, False),
        ("epoch_done", 1, True),
        ("epoch_done", 2, False),
        ("trial_ended", None, False),
    ]
    assert [line["adopted"] for line in lines if "adopted" in line] == [False, True]
    assert lines[-1]["read_bytes"] == study.trials[1].user_attrs["read_bytes"]
    assert [line["event"] for line in lines_of(path)].count("opened") == 2


def test_what_ends_a_process_is_told(study, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt), open_log(tmp_path / "log.jsonl", study):
        raise KeyboardInterrupt
    assert lines_of(tmp_path / "log.jsonl")[-1]["reason"] == "KeyboardInterrupt"


def test_several_may_append_to_one_file(study, tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "before"}\n')
    # Longer than any buffer.
    stops = [Stopped(after=name * 20_000) for name in "ab"]

    def append(stop: Stopped) -> None:
        with open_log(path, study) as log:
            for _ in range(50):
                log(stop)

    threads = [threading.Thread(target=append, args=(stop,)) for stop in stops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = lines_of(path)
    assert lines[0] == {"event": "before"}
    assert sorted(line["after"] for line in lines if "after" in line) == [
        stop.after for stop in stops for _ in range(50)
    ]


def test_a_full_disk_is_warned_of_once_and_tears_no_later_line(study, tmp_path, caplog) -> None:
    path = tmp_path / "log.jsonl"
    with open_log(path, study) as log:
        with files_limited(path.stat().st_size + 20):
            log(Stopped(after="torn"))
            log(Stopped(after="lost"))
        log(Stopped(after="epoch"))
    _, torn, *rest = path.read_text().splitlines()
    assert len(torn) == 20
    assert [json.loads(line).get("after") for line in rest] == ["epoch", None]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"--log-file {path} lacks some events: only a part of a line could be written"
    )


def test_a_line_that_was_torn_by_an_earlier_process_stays_a_line_of_its_own(study, tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "before"}\n{"ev')
    with open_log(path, study):
        pass
    texts = path.read_text().splitlines()
    assert texts[1] == '{"ev'
    assert [json.loads(text)["event"] for text in texts[2:]] == ["opened", "closed"]


def test_a_study_goes_on_when_the_reader_of_its_lines_has_gone(make, events_of, tmp_path, caplog) -> None:
    study, pipe = make(tmp_path), tmp_path / "pipe"
    study.set_user_attr("place", str(tmp_path))
    make_pipe(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with open_log(pipe, study) as log:
        assert json.loads(os.read(reader, 10_000))["event"] == "opened"
        os.close(reader)
        for event in events_of(study, 1):
            log(event)
    assert study.trials[0].state == TrialState.COMPLETE
    ours = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ours == [f"--log-file {pipe} lacks some events: Broken pipe"]


# --- warnings -----------------------------------------------------------------------------------


def test_warnings_of_our_logger_are_lines_while_the_log_is_open(study, tmp_path) -> None:
    logger = logging.getLogger("depthsearch.features.tiers.tiers")
    handlers = list(logging.getLogger("depthsearch").handlers)
    with open_log(tmp_path / "log.jsonl", study):
        logger.info("unheard")
        logger.warning("Features are no longer kept on disk: %s", "full")
        logging.getLogger("others").warning("unheard")
    logger.warning("unheard")
    _, line, _ = lines_of(tmp_path / "log.jsonl")
    assert list(line.items())[1:] == [
        ("event", "log"),
        ("study", "s"),
        ("level", "warning"),
        ("logger", "depthsearch.features.tiers.tiers"),
        ("message", "Features are no longer kept on disk: full"),
    ]
    assert logging.getLogger("depthsearch").handlers == handlers


def test_a_warning_stays_on_the_terminal_and_nothing_below_it_comes_there(
    study, tmp_path, capsys, monkeypatch
) -> None:
    logger = logging.getLogger("depthsearch.features")
    with monkeypatch.context() as patched:
        # As without pytest, which handles all that is logged.
        patched.setattr(logging.getLogger(), "handlers", [])
        with open_log(tmp_path / "log.jsonl", study):
            logger.info("quiet")
            logger.warning("once")
    assert capsys.readouterr().err == "once\n"
    assert lines_of(tmp_path / "log.jsonl")[1]["message"] == "once"


def test_what_fails_once_is_warned_of_and_no_longer_called(caplog) -> None:
    told: list[Any] = []

    def sink(event: Any) -> None:
        told.append(event)
        if len(told) == 2:
            raise ConnectionError("http://me:secret@host is away\nmore")

    attempt = forgiving("MLflow")
    for n in range(4):
        attempt(sink, n)
    attempt(told.clear)
    assert told == [0, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "The study goes on without MLflow, which failed: http://me:***@host is away"
    ]


# --- the command line ---------------------------------------------------------------------------


PLACES = [
    ("no/folder/log.jsonl", "No such file or directory"),
    (".", "Is a directory"),
    ("/dev/full", "No space left on device"),
]


@pytest.mark.parametrize(("place", "said"), PLACES)
def test_a_file_that_cannot_be_written_to_is_refused_before_anything_is_loaded(
    tmp_path, monkeypatch, capsys, place: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--backbone", "nonesuch", "--log-file", place]) == 2
    assert capsys.readouterr().err == (
        f"depthsearch study: --log-file {place} cannot be written to: {said}. "
        "Give a file in a folder that exists, or leave --log-file out.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
def test_a_file_of_others_is_refused(tmp_path) -> None:
    (tmp_path / "log.jsonl").touch(mode=0o444)
    with pytest.raises(SettingsError, match=r"log\.jsonl cannot be written to: Permission denied\. Give"):
        check_log(tmp_path / "log.jsonl")


def test_a_disk_that_is_full_by_then_is_refused_too(study, tmp_path) -> None:
    with (
        files_limited(0),
        pytest.raises(SettingsError, match=r"cannot be written to: File too large\."),
        open_log(tmp_path / "log.jsonl", study),
    ):
        pass


FILE = """
backbone = "test_resnet"
data = "{pictures}"
weights = "random"
image-size = 16
epochs = 1
head-width = 0
pruner = "none"
trials = 2
confirm = 0
device = "cpu"
precision = "float32"
log-file = "log.jsonl"
storage = "sqlite:///{folder}/s.db"
"""


@pytest.mark.slow
def test_a_study_file_names_its_log_beside_itself_and_the_terminal_is_as_ever(
    pictures, tmp_path, capsys, open_quick_storage
) -> None:
    """Guards --log-file of a study file, as a command."""
    text = FILE.format(pictures=pictures, folder=tmp_path)
    (tmp_path / "noughts.toml").write_text(text)
    assert main(["study", str(tmp_path / "noughts.toml"), "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["study"] == "noughts"
    assert "{" not in told.err
    lines = lines_of(tmp_path / "log.jsonl")
    assert [line["event"] for line in lines].count("trial_ended") == 2
    assert {line["study"] for line in lines} == {"noughts"}
    study = optuna.load_study(study_name="noughts", storage=open_quick_storage(f"sqlite:///{tmp_path}/s.db"))
    assert "log_file" not in study.user_attrs["provenance"]["options"]
    # Without the option there is no file.
    (tmp_path / "noughts.toml").write_text(text.replace("log-file", "# log-file"))
    (tmp_path / "log.jsonl").unlink()
    assert main(["study", str(tmp_path / "noughts.toml"), "--trials", "3"]) == 0
    assert not (tmp_path / "log.jsonl").exists()
