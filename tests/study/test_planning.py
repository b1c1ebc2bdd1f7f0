"""A study file for images and a machine, and how long a study takes."""

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthsearch.cli import main
from depthsearch.data import Survey
from depthsearch.data.samples import Columns
from depthsearch.errors import WeightsError
from depthsearch.models.backbones import hub, suggesting
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.study import CurveDrawn, EpochDone, Note, TrialStarted, run
from depthsearch.study.planning import Setting, making, outlook as looking_ahead, study_file
from depthsearch.study.planning.choosing import choose_size, settings_for, settings_to_save_time
from depthsearch.study.planning.outlook import LongStudyNote, expected_seconds
from depthsearch.study.preparing.places import cache_folder
from depthsearch.training.costs import full_fine_tune_macs

OWN = "test_resnet"


def init(*argv: object) -> int:
    return main(["init", *map(str, argv), "--device=cpu"])


def seen(n_train: int = 720, shorter: int = 480, **changes: object) -> Survey:
    usual = Survey(
        name="photos",
        layout="",
        classes={"elm": n_train, "oak": n_train},
        splits={"train": n_train, "val": n_train // 3, "test": n_train // 3},
        own_splits=("train",),
        columns=Columns(),
        shorter_sides=(shorter, shorter),
        unreadable=(),
    )
    return replace(usual, **changes)


def values_for(survey: Survey) -> dict[str, object]:
    settings = settings_for(survey, own_size=224, size=None, n_cuts=50)
    return {each.key: each.value for each in settings if each.is_set}


# --- the study file -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(pictures: Path, tmp_path_factory) -> Path:
    """The study file of the noughts and ones, beside them, with the backbone of the tests."""
    folder = tmp_path_factory.mktemp("init")
    shutil.copytree(pictures, folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert init("pictures", "--backbone", OWN, "--weights", "random") == 0
    return folder / "pictures.toml"


def test_every_value_has_its_reason_above_it(written: Path) -> None:
    lines = written.read_text(encoding="utf-8").splitlines()
    keys = [place for place, line in enumerate(lines) if "=" in line and not line.startswith("# ")]
    assert len(keys) >= 8
    assert all(lines[place - 1].startswith("# ") for place in keys)


def test_it_runs_as_it_is(written: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = StudyOptions.from_file(written)
    assert (options.backbone, options.weights, options.name) == ((OWN,), "random", "pictures")
    assert Path(str(options.data)) == written.parent / "pictures"
    result = run(replace(options, trials=2, epochs=1, confirm=0, seeds=None, storage="sqlite:///s.db"))
    assert result.summary.n_finished == 2


def test_it_says_what_it_measured_and_leaves_no_image_behind(
    pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(cache_folder().rglob("*"))
    assert init(pictures, "--backbone", OWN, "--weights=random", "--out=my study.toml") == 0
    assert sorted(cache_folder().rglob("*")) == before
    told = capsys.readouterr()
    assert told.out.startswith("Trains everything at ")
    assert "the study takes about " in told.out
    assert "Next: depthsearch study 'my study.toml'" in told.out
    assert "pictures0: 28 images of 2 classes, 14 of each, shorter side 16 px; 16 to train" in told.err


def test_a_busy_machine_and_a_long_study_are_said(
    pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(making, "excess_load", lambda: 7.25)
    monkeypatch.setattr(making, "expected_seconds", lambda *_, **__: 36_000.0)
    assert init(pictures, "--backbone", OWN, "--weights=random", "--out=s.toml") == 0
    told = capsys.readouterr().out
    assert "the study takes about 10.0 h; less once this machine has no other work.\n" in told
    assert told.endswith("For an answer sooner, take the # from timeout in that file.\n")
    planned, measured = Path("s.toml").read_text(encoding="utf-8").splitlines()[1:3]
    assert planned.endswith("; busy with other work (load 7.2).")
    assert measured.endswith("; less once this machine has no other work.")


def test_samples_of_a_table_are_planned_for_too(pictures: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = sorted(pictures.rglob("*.png"))
    rows = [f"{path},{path},{place},{path.parent.name}" for place, path in enumerate(paths)]
    Path("pairs.csv").write_text("\n".join(["front,side,age,label", *rows]), encoding="utf-8")
    options = ("--image-columns=front,side", "--number-columns=age", "--backbone", OWN, "--weights=random")
    assert init("pairs.csv", *options) == 0
    planned = StudyOptions.from_file(Path("pairs.toml"))
    assert (planned.image_columns, planned.number_columns) == (("front", "side"), ("age",))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["gone"], "No folder "),
        (["takn.toml"], "Near: taken.toml."),
        (["holes.csv"], "--skip-unreadable leaves missing files out."),
        (["PICTURES", "--out=taken.toml"], "taken.toml is there already, and is kept. Give another --out"),
        (["PICTURES", "--out=gone/x.toml"], "No folder gone for x.toml. Make it, or give another --out."),
        (["PICTURES", "--weights=random"], "--weights random needs the --backbone that they are of"),
        (["PICTURES", "--backbone=resnt18"], "has no model 'resnt18'. Near: resnet18"),
        (["PICTURES", "--image-columns=a,b"], "--image-columns names columns of a table"),
        (["PICTURES/one"], "in no class folder: 00.png"),
    ],
)
def test_what_cannot_be_planned_is_one_line_and_writes_nothing(
    pictures: Path, tmp_path: Path, monkeypatch, capsys, argv: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"taken.toml": "mine", "holes.csv": "image,label\ngone.png,one\n"}
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    assert init(*(word.replace("PICTURES", str(pictures)) for word in argv)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("depthsearch init: ")
    assert expected in line
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("digits", "digits"),
        ("./digits", "./digits"),
        ("torchvision:CIFAR10", "torchvision:CIFAR10"),
        ("/sets/photos", "/sets/photos"),
        ('my "photos"\x7f', '../my "photos"\x7f'),
    ],
)
def test_images_are_named_as_the_file_has_to_name_them(
    tmp_path: Path, monkeypatch, source: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path() if "digits" in source else Path("below")
    planned = SimpleNamespace(
        settings=[Setting(key="data", value=source, reason="there")],
        machine="cpu",
        is_busy=False,
        measured=SimpleNamespace(images_per_second={"": 9.0}, decode_seconds=0.0),
        survey=seen(),
        seconds=60.0,
    )
    text = study_file(planned, folder / "s.toml")
    assert tomllib.loads(text)["data"] == expected


# --- the values ---------------------------------------------------------------------------------


def test_the_fewer_images_the_more_epochs_of_smaller_batches() -> None:
    few, some, many = (values_for(seen(n)) for n in (60, 5000, 100_000))
    assert [each["epochs"] for each in (few, some, many)] == [20, 10, 5]
    assert [each["batch-size"] for each in (few, some, many)] == [8, 64, 64]


def test_uneven_classes_count_alike() -> None:
    even, uneven = values_for(seen()), values_for(seen(classes={"elm": 10, "oak": 300}))
    assert "metric" not in even
    assert (uneven["metric"], uneven["balance"]) == ("balanced_accuracy", "weights")


def test_splits_that_are_there_are_not_drawn() -> None:
    assert {"val-share", "test-share"} <= values_for(seen()).keys()
    assert not {"val-share", "test-share"} & values_for(seen(own_splits=("train", "val", "test"))).keys()


def test_unreadable_images_are_left_out() -> None:
    assert values_for(seen(unreadable=("a.png",)))["skip-unreadable"] is True


def test_small_images_are_enlarged_less_where_there_is_no_gpu() -> None:
    assert choose_size(seen(shorter=100), 224, "cpu") == 112
    assert choose_size(seen(shorter=200), 224, "cpu") is None
    assert choose_size(seen(shorter=100), 224, "cuda") is None


def test_what_saves_time_is_offered_for_long_studies_alone() -> None:
    assert list(settings_to_save_time(seen(), 3600)) == []
    offered = {each.key: each for each in settings_to_save_time(seen(40_000), 36_000)}
    assert offered["subset"].value == 0.1
    assert not any(each.is_set for each in offered.values())


# --- the backbone -------------------------------------------------------------------------------


def test_a_backbone_is_suggested_whose_weights_can_be_had(monkeypatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(suggesting, "at_hand", lambda name: name in there)
    monkeypatch.setattr(hub, "answers", lambda ask: False)
    with pytest.raises(
        WeightsError, match=r"^No pretrained weights on this machine, and no model hub answers"
    ):
        suggesting.suggest("cpu")
    there |= {"densenet121", "resnet34"}
    assert suggesting.suggest("cpu")[0] == "resnet34"
    monkeypatch.setattr(hub, "answers", lambda ask: True)
    assert [suggesting.suggest(device)[0] for device in ("cpu", "cuda")] == ["resnet18", "resnet50"]


# --- how long it takes --------------------------------------------------------------------------


def expected(space, **options: object) -> float:
    given = with_defaults(StudyOptions(backbone="x", data="photos", **options))
    return expected_seconds(given, space, {"": 100.0}, n_train=600, n_val=200)


def test_a_search_of_every_cut_costs_what_their_trainings_cost(space) -> None:
    one_pass = 800 / (10 * 2000)
    shares = [1 - cut.frozen_mac_share * (1 - one_pass) for cut in space.cuts]
    found = expected(space, search="exhaustive", trials=len(space.cuts), confirm=0)
    assert found == pytest.approx(100 * (sum(shares) + one_pass))


def test_what_limits_a_study_limits_its_time(space) -> None:
    usual = {"sampler": "tpe", "confirm": 3}
    whole = expected(space, **usual)
    without = expected(space, **{**usual, "confirm": 0})
    assert expected(space, **usual, trials=60) > whole > without
    assert without > expected(space, sampler="tpe", confirm=0, trials=10)
    assert expected(space, **usual, pruner="none") > whole
    assert (expected(space, **usual, budget=2), expected(space, **usual, timeout=90)) == (200, 90)


def test_a_search_that_ends_by_itself_costs_a_few_full_fine_tunes(space) -> None:
    assert 200 < expected(space) < 1000
    assert expected(space, trials=60) == expected(space)
    assert (expected(space, budget=2), expected(space, timeout=90)) == (200, 90)


def notes_of(events: list[object], task, space, options: StudyOptions) -> list[str]:
    notes: list[Note] = []
    note = LongStudyNote(options, {"": task}, space, n_workers=1, say=notes.append)
    for event in events:
        note(event)
    return [each.text for each in notes]


@pytest.fixture
def long_options() -> StudyOptions:
    return with_defaults(StudyOptions(backbone="x", data="photos"))


def test_a_study_of_hours_says_so_once_before_its_first_trial(task, space, long_options) -> None:
    curve = SimpleNamespace(macs=1, seconds=3600.0 / full_fine_tune_macs(task))
    drawn = CurveDrawn(backbone="", curve=curve)
    (text,) = notes_of([drawn, drawn], task, space, long_options)
    assert text.startswith("This study takes about ")
    assert "(training everything once: 60 min)" in text
    quick = CurveDrawn(backbone="", curve=SimpleNamespace(macs=1, seconds=10.0 / full_fine_tune_macs(task)))
    assert notes_of([quick], task, space, long_options) == []


def test_on_a_gpu_the_first_epoch_that_trains_everything_is_timed(task, space, long_options) -> None:
    on_gpu = replace(task, device=replace(task.device, kind="cuda"))
    seconds = 3600.0 / full_fine_tune_macs(task)
    drawn = CurveDrawn(backbone="", curve=SimpleNamespace(macs=1, seconds=100 * seconds))

    def trained(cut, number: int) -> list[object]:
        started = TrialStarted(
            number=number, point=SimpleNamespace(cut=cut), origin="baseline", adopted=False, worker=None
        )
        return [started, EpochDone(number=number, result=SimpleNamespace(macs=1, seconds=seconds))]

    head, everything = trained(space.cuts[-1], 0), trained(space.cuts[0], 1)
    assert notes_of([drawn, *head], on_gpu, space, long_options) == []
    (text,) = notes_of([drawn, *head, *everything], on_gpu, space, long_options)
    assert "(training everything once: 60 min)" in text


def test_a_study_notes_it_at_its_start_and_not_when_it_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(looking_ahead, "LONG_SECONDS", 0.0)
    options = StudyOptions(
        backbone=OWN,
        data=pictures,
        weights="random",
        image_size=16,
        device="cpu",
        trials=1,
        epochs=1,
        head_width=0,
        confirm=0,
        storage=f"sqlite:///{tmp_path}/s.db",
    )

    def texts(options: StudyOptions) -> list[str]:
        events: list[object] = []
        run(options, events=events.append)
        started = next(place for place, event in enumerate(events) if isinstance(event, TrialStarted))
        return [each.text for each in events[:started] if isinstance(each, Note)]

    assert sum(text.startswith("This study takes about") for text in texts(options)) == 1
    assert not any(text.startswith("This study takes") for text in texts(replace(options, trials=2)))
