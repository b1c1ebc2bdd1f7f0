"""Grey images: backbones with one input channel, from the files to the model that is taken away."""

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import depthsearch
from depthsearch.cli import main
from depthsearch.data import load_data
from depthsearch.devices import choose_device
from depthsearch.errors import DataError, SettingsError
from depthsearch.features import Budget
from depthsearch.models.backbones import Backbone, load_backbone
from depthsearch.models.candidates import list_cuts
from depthsearch.models.split import split_at
from depthsearch.search.space import Point
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

NAME = "test_resnet"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of a backbone for colours, as a file."""
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    torch.manual_seed(5)
    safetensors.torch.save_file(timm.create_model(NAME, pretrained=False).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def grey(weights: Path) -> Backbone:
    return load_backbone(NAME, str(weights), image_size=16, in_chans=1)


def test_the_kernels_are_folded_as_timm_folds_them(weights: Path, grey: Backbone) -> None:
    overlay = {"file": str(weights)}
    theirs = timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1)
    ours = grey.model.state_dict()
    assert theirs.state_dict().keys() == ours.keys()
    before_the_classifier = [name for name in ours if not name.startswith("fc.")]
    assert all(torch.equal(theirs.state_dict()[name], ours[name]) for name in before_the_classifier)


def test_a_grey_image_is_seen_as_the_same_picture_in_colours(weights: Path, grey: Backbone) -> None:
    colours = load_backbone(NAME, str(weights), image_size=16)
    image = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        same = colours.model.forward_features(image.expand(-1, 3, -1, -1))
        torch.testing.assert_close(grey.model.forward_features(image), same, rtol=1e-4, atol=1e-5)


def test_mean_and_deviation_are_the_means_of_the_colours(weights: Path, grey: Backbone) -> None:
    colours = load_backbone(NAME, str(weights), image_size=16).preprocessing
    assert grey.preprocessing.mean == (fmean(colours.mean),)
    assert grey.preprocessing.std == (fmean(colours.std),)


def test_a_backbone_for_grey_images_keeps_keras_numbers() -> None:
    backbone = load_backbone("densenet121", "random", image_size=32, in_chans=1)
    by_layer = {cut.layer: cut.keras_name for cut in list_cuts(backbone.model, image_size=32)}
    assert by_layer[144] == "conv4_block1_1_conv"
    assert by_layer[3] == "conv1_conv"


def test_another_number_of_channels_is_refused(digits) -> None:
    with pytest.raises(SettingsError, match=r"^--channels 2: give 3 for colours or 1 for grey\.$"):
        load_backbone(NAME, "random", in_chans=2)
    with pytest.raises(DataError, match=r"^2 channels: give 3 for colours or 1 for grey\.$"):
        load_data("digits", image_size=16, channels=2)


def test_a_backbone_that_cannot_be_folded_is_refused(weights: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    model = timm.create_model(NAME, pretrained=False)
    model.pretrained_cfg = {**model.pretrained_cfg, "first_conv": None}
    monkeypatch.setattr(timm, "create_model", lambda *_, **options: model if not options.get("in_chans") else
                        timm.models.create_model(NAME, in_chans=1))  # fmt: skip
    with pytest.raises(
        SettingsError, match=rf"weights of {NAME} cannot be folded to one channel\. Leave --ch"
    ):
        load_backbone(NAME, str(weights), in_chans=1)


def test_images_are_kept_with_one_channel(pictures, tmp_path: Path) -> None:
    path = tmp_path / "photo" / "a" / "0.png"
    for name in ("a", "b"):
        (tmp_path / "photo" / name).mkdir(parents=True)
        for place in range(6):
            noise = np.random.default_rng(place).integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "photo" / name / f"{place}.png")
    how = {"image_size": 20, "cache": tmp_path / "cache", "interpolation": "bilinear"}
    data = load_data(tmp_path / "photo", channels=1, **how)
    assert data.train.images.shape == (12, 1, 20, 20)
    expected = np.asarray(Image.open(path).convert("L"))
    assert np.array_equal(data.train.images[0, 0].numpy(), expected)
    colours = load_data(tmp_path / "photo", **how)
    assert colours.train.images.shape == (12, 3, 20, 20)
    assert colours.fingerprint == data.fingerprint
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 2


# --- exactness ----------------------------------------------------------------------------------


def test_prefix_and_suffix_are_the_model_at_every_cut(grey: Backbone) -> None:
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = grey.model(image)
        for cut in list_cuts(grey.model, image_size=16):
            split = split_at(grey.model, cut, image_size=16)
            assert torch.equal(split.suffix.eval()(split.prefix(image)), whole), cut


@pytest.mark.parametrize("views", [1, 2])
def test_training_on_kept_features_ends_in_the_same_weights(grey: Backbone, tmp_path, views: int) -> None:
    data = load_data("digits", image_size=16, channels=1)
    train, val = (
        replace(images, rows=images.rows[::40], labels=images.labels[::40])
        for images in (data.train, data.val)
    )
    recipe = Recipe(epochs=2, batch_size=16, views=views)
    cut = list_cuts(grey.model, image_size=16, layers=["layer3.0.conv1"])[1]
    ends = []
    for budget in (None, Budget(device_bytes=0, memory_bytes=2**26, disk_bytes=2**26, folder=tmp_path)):
        task = Task(
            backbone=grey,
            data=replace(data, train=train, val=val),
            recipe=recipe,
            device=choose_device("cpu", "float32"),
            budget=budget,
        )
        training = train_point(task, Point(cut=cut, learning_rate=1e-3), seed=0)
        while True:
            try:
                next(training)
            except StopIteration as ended:
                ends.append(ended.value.state_dict())
                break
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(pictures: Path, weights: Path, tmp_path_factory) -> Path:
    """A study of grey images and its model."""
    place = tmp_path_factory.mktemp("grey")
    options = (
        "--channels 1 --image-size 16 --device cpu --precision float32 --epochs 2 --trials 2 --confirm 0"
    )
    url = f"sqlite:///{place}/s.db"
    argv = ["study", "--backbone", NAME, "--weights", str(weights), "--data", str(pictures), *options.split()]
    assert main([*argv, "--head-width", "0", "--name", "grey", "--storage", url]) == 0
    assert main(["fit", "grey", "--storage", url, "--out", str(place / "model"), "--onnx"]) == 0
    return place


@pytest.mark.slow
def test_the_model_takes_grey_images_wherever_it_runs(place: Path, pictures: Path) -> None:
    """Guards grey images in timm, ONNX and depthsearch alike, from one folder."""
    onnxruntime = pytest.importorskip("onnxruntime")
    files = sorted(pictures.rglob("*.png"))[:6]
    said = depthsearch.load(place / "model", device="cpu").predict(files)
    found = np.array([list(prediction.probabilities.values()) for prediction in said])

    theirs = timm.create_model(f"local-dir:{place}/model", pretrained=True).eval()
    config = json.loads((place / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [1, 16, 16]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=theirs))
    inputs = torch.stack([transform(Image.open(file).convert("L")) for file in files])
    with torch.no_grad():
        np.testing.assert_allclose(theirs(inputs).softmax(1).numpy(), found, atol=1e-5)
    seen = config["depthsearch"]["preprocessing"]
    pixels = (inputs * seen["std"][0] + seen["mean"][0]) * 255
    session = onnxruntime.InferenceSession(place / "model" / "model.onnx")
    (onnx,) = session.run(["probabilities"], {"pixels": pixels.numpy()})
    np.testing.assert_allclose(onnx, found, atol=1e-4)
    card = (place / "model" / "README.md").read_text()
    assert "**Input**: grey, " in card
    assert "float32 `(n, 1, height, width)`" in card


@pytest.mark.slow
def test_grey_images_are_explained(place: Path, tmp_path: Path, capsys) -> None:
    """Guards the pictures of one channel."""
    argv = ["explain", "grey", "--storage", f"sqlite:///{place}/s.db", "--n", "1", "--out", str(tmp_path)]
    assert main(argv) == 0
    assert len(list(tmp_path.glob("*.png"))) == 1
    assert "no row for before" not in capsys.readouterr().err
