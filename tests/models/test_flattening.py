"""A head straight behind the last feature map: Flatten, Dense, as people do in Keras."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import timm
import torch
from timm.models.vgg import VGG
from torch import nn

from depthsearch import SearchSpace, find_cut, freeze_before, list_cuts, load, split_at
from depthsearch.cli import main
from depthsearch.errors import SettingsError
from depthsearch.features import Budget
from depthsearch.models.backbones import load_backbone, make_model
from depthsearch.models.flattening import FLAT_HEAD, MapClassifier, flattened
from depthsearch.models.heads import head_macs, head_size, make_head, with_head
from depthsearch.models.split import suffix_of
from depthsearch.models.tracing.trace import trace
from depthsearch.search.space import Point
from depthsearch.training.costs import full_fine_tune_macs, suffix_macs
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.task import Task

# Residual, depthwise, convolutions behind the pooling (MobileNetV3), a norm behind it (ConvNeXt), ours.
NAMES = ("test_resnet", "test_efficientnet", "mobilenetv3_small_050", "test_convnext", "cnn")
LARGER = ("test_efficientnet", "mobilenetv3_small_050", "test_convnext")
SIZE = 64


def small_vgg() -> VGG:
    """Make a VGG with narrow layers, its fully connected ones included."""
    torch.manual_seed(0)
    model = VGG([4, "M", 8, 8, "M"], num_classes=10, mlp_ratio=0.01).eval()
    model.pretrained_cfg = {"input_size": (3, 16, 16), "classifier": "head.fc"}
    return model


@pytest.fixture(scope="module")
def flat(task) -> Task:
    """The residual network on digits, its head behind the feature map of 32 pixels."""
    data = task.data
    return replace(
        task, backbone=load_backbone("test_resnet", "random", image_size=16, head="flatten"), data=data
    )


# --- where the head comes -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_head_comes_behind_what_forward_features_gives(name: str) -> None:
    model = make_model(name)
    flat = flattened(model, image_size=SIZE)
    new = with_head(flat, FLAT_HEAD, 5, width=8, dropout=0.3).eval()
    assert [type(m).__name__ for m in new.flat_head] == ["Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        maps = model.forward_features(images)
        assert maps.ndim == 4
        assert torch.equal(new(images), new.flat_head(maps))
    assert new.flat_head.hidden1.in_features == maps[0].numel()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LARGER else ()) for name in NAMES]
)
def test_at_every_cut_prefix_and_suffix_are_the_model_to_the_bit(name: str) -> None:
    backbone = load_backbone(name, "random", image_size=SIZE, head="flatten")
    model = with_head(backbone.model, backbone.classifier, 5, width=8).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    cuts = list_cuts(backbone.model, image_size=SIZE)
    assert cuts[-1].name == FLAT_HEAD
    with torch.no_grad():
        expected = model(images)
        for cut in cuts if len(cuts) < 20 else cuts[::4] + cuts[-1:]:
            split = split_at(model, cut, image_size=SIZE)
            split.suffix.eval()
            assert torch.equal(split.suffix(split.prefix(images)), expected), cut


def test_of_vgg_it_comes_behind_the_last_pooling() -> None:
    model = small_vgg()
    flat = flattened(model, image_size=16)
    assert [name for name, _ in flat.named_parameters() if not name.startswith(FLAT_HEAD)] == [
        name for name, _ in model.named_parameters() if name.startswith("features.")
    ]
    assert flat.get_submodule(FLAT_HEAD).in_features == 8 * 4 * 4
    cuts = list_cuts(flat)
    assert cuts[-1].aliases == ("features.7",)
    new = with_head(flat, FLAT_HEAD, 5, width=8).eval()
    images = torch.randn(2, 3, 16, 16)
    for cut in cuts:
        split = split_at(new, cut)
        split.suffix.eval()
        with torch.no_grad():
            assert torch.equal(split.suffix(split.prefix(images)), new.flat_head(model.features(images))), cut
    assert isinstance(model.pre_logits.fc1, nn.Conv2d)


def test_vgg16_at_150_pixels_is_kerass_model() -> None:
    with torch.device("meta"):
        model = timm.create_model("vgg16")
    flat = flattened(model, image_size=150)
    new = with_head(flat, FLAT_HEAD, 1, width=256)
    assert sum(p.numel() for p in new.parameters()) == 14_714_688 + (8192 * 256 + 256) + (256 + 1)
    assert len(list(new.parameters())) == 30
    cuts = list_cuts(flat, image_size=150)
    assert next(cut for cut in cuts if cut.name == "features.24").keras_name == "block5_conv1"


def test_the_weight_tensors_of_vgg16_are_those_that_keras_and_torch_count() -> None:
    """With a head of two dense layers 30 before freezing; 10 from block5_conv1 on, 4 with the base frozen."""
    with torch.device("meta"):
        model = timm.create_model("vgg16")
    flat = flattened(model, image_size=150)
    size = head_size(flat, FLAT_HEAD, 1, width=256)
    new = with_head(flat, FLAT_HEAD, 1, width=256).to("meta")
    cuts = list_cuts(flat, image_size=150)
    counted = {}
    for cut in (cuts[0], find_cut(cuts, "block5_conv1"), cuts[-1]):
        with freeze_before(new, cut):
            learns = [p for p in new.parameters() if p.requires_grad]
        counted[cut.name] = len(learns)
        assert len(learns) == cut.trainable_tensors + size.tensors
        assert sum(p.numel() for p in learns) == cut.trainable_parameters + size.parameters
    assert counted == {"features.0": 30, "features.24": 10, FLAT_HEAD: 4}


def test_with_a_pooling_head_vgg_keeps_its_fully_connected_layers() -> None:
    last = list_cuts(small_vgg(), image_size=16)[-1]
    names = {layer.name for layer in trace(small_vgg(), image_size=16).layers}
    assert "pre_logits" in names
    assert (last.name, last.kind) == ("head.fc", "head")


def test_the_model_is_left_as_it_was() -> None:
    model = make_model("test_resnet").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flat = flattened(model, image_size=32)
    assert flat.training
    assert model.training
    with torch.no_grad():
        for parameter in flat.parameters():
            parameter.add_(1)
    assert type(model) is not type(flat)
    assert model.pretrained_cfg["classifier"] == "fc"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_it_says_which_images_fit_its_head() -> None:
    flat = flattened(make_model("test_resnet"), image_size=48)
    new = with_head(flat, FLAT_HEAD, 5)
    assert trace(new).image_size == 48
    assert [cut.name for cut in list_cuts(new)] == [cut.name for cut in list_cuts(new, image_size=48)]
    with freeze_before(new, list_cuts(new)[3]):
        assert not new.conv1[0].weight.requires_grad


def test_what_stands_for_the_head_is_small() -> None:
    flat = flattened(make_model("test_resnet"), image_size=64)
    standing = flat.get_submodule(FLAT_HEAD)
    assert isinstance(standing, MapClassifier)
    assert standing.weight.numel() == standing.in_features == flat.num_features * 2 * 2


@pytest.mark.parametrize("channels", [1, 3])
def test_the_weights_have_one_digest_whichever_head_comes(channels: int) -> None:
    both = [
        load_backbone("test_resnet", "random", image_size=32, in_chans=channels, head=head)
        for head in ("pool", "flatten")
    ]
    assert both[0].digest == both[1].digest
    assert [backbone.classifier for backbone in both] == ["fc", FLAT_HEAD]


def test_a_model_without_a_last_feature_map_is_refused() -> None:
    expected = r"needs a last feature map, and VisionTransformer gives a tensor \(1, \d+, 64\)\. Take a CNN"
    with pytest.raises(SettingsError, match=expected):
        load_backbone("test_vit", "random", head="flatten")
    with pytest.raises(
        SettingsError, match=r"finds no last feature map in PlainCnn at 8 px: .* Give another"
    ):
        load_backbone("cnn", image_size=8, head="flatten")
    with pytest.raises(SettingsError, match=r"--head 'dense': give one of pool, flatten\."):
        load_backbone("cnn", head="dense")


# --- the head -----------------------------------------------------------------------------------


def test_the_hidden_layers_of_a_flat_head_are_plain_ones() -> None:
    head = make_head(72, 5, width=8, depth=2, flat=True)
    names = ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert [type(module).__name__ for module in head] == names
    assert head_macs(head) == 72 * 8 + 8 * 8 + 8 * 5
    assert head(torch.randn(3, 8, 3, 3)).shape == (3, 5)


# --- training -----------------------------------------------------------------------------------


def test_what_a_flat_head_costs_is_counted(flat) -> None:
    point = Point(cut=list_cuts(flat.backbone.model, image_size=16)[0], learning_rate=1e-3, head_width=16)
    suffix = suffix_of(flat.graph, model_for(flat, point, 0), point.cut)
    position = flat.position(point.cut)
    of_backbone = sum(layer.macs for layer in flat.graph.layers if layer.module != FLAT_HEAD)
    in_features = flat.backbone.model.get_submodule(FLAT_HEAD).in_features
    assert suffix_macs(flat, suffix, position) == of_backbone + in_features * 16 + 16 * 10
    assert full_fine_tune_macs(flat) == 2 * (of_backbone + in_features * 10) * (3 * 64 + 40)


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_kept_features_change_nothing(flat, tmp_path, place: float) -> None:
    cuts = list_cuts(flat.backbone.model, image_size=16)
    point = Point(cut=cuts[round(place * (len(cuts) - 1))], learning_rate=1e-3, head_width=16, dropout=0.2)
    budget = Budget(memory_bytes=2**28, device_bytes=0, disk_bytes=0, folder=tmp_path)

    def trained(task: Task) -> dict[str, torch.Tensor]:
        training = train_point(task, point, seed=1, upcoming=dict.fromkeys(cuts, 3.0))
        while True:
            try:
                next(training)
            except StopIteration as ended:
                return ended.value.graph.state_dict()

    kept, plain = trained(replace(flat, budget=budget)), trained(flat)
    assert f"{FLAT_HEAD}.hidden1.weight" in kept
    assert all(torch.equal(kept[name], plain[name]) for name in plain)


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def last_line(tmp_path, monkeypatch, capsys) -> Callable[..., Any]:
    """Run a command in an empty folder; give the JSON in its last line."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> Any:
        status = main(words)
        told = capsys.readouterr()
        assert status == 0, told.err
        return json.loads(told.out.splitlines()[-1])

    return run


STUDY = (
    "study --backbone test_resnet --weights random --image-size 64 --batch-size 8 --epochs 1 --head flatten "
    "--head-width 16:16 --also head_depth,dropout --trials 3 --confirm 0 --device cpu --precision float32 "
    "--json"
)


@pytest.mark.slow
def test_from_the_search_to_the_model_and_its_explanation(pictures, last_line, capsys) -> None:
    """Guards --head flatten on its whole way."""
    answer = last_line(*STUDY.split(), "--data", str(pictures))["answer"]
    settings = optuna.load_study(study_name=None, storage="sqlite:///depthsearch.db").user_attrs["settings"]
    assert settings["head"] == "flatten"
    onnx = ("--onnx",) if _has_onnx() else ()
    fitted = last_line("fit", "--json", "--out", "model", *onnx)
    assert fitted["timm_loads"] is False
    config = json.loads(Path("model/config.json").read_text(encoding="utf-8"))["depthsearch"]
    assert config["head"]["kind"] == "flatten"
    assert "on the flattened feature map" in Path("model/README.md").read_text(encoding="utf-8")
    assert_learns(answer)
    image = next(pictures.rglob("*.png"))
    (found,) = load("model", device="cpu").predict([image])
    predict = f"depthsearch.load('model', device='cpu').predict([{str(image)!r}])"
    code = f"import depthsearch; print({predict}[0].probability)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert float(ended.stdout) == found.probability, ended.stderr
    (name,) = optuna.get_all_study_names("sqlite:///depthsearch.db")
    assert len(last_line("explain", name, str(image), "--json")["pictures"]) == 1
    with_pool = [word if word != "flatten" else "pool" for word in STUDY.split()]
    assert main([*with_pool, "--data", str(pictures)]) == 2
    assert "--head flatten (here pool)" in capsys.readouterr().err


def assert_learns(answer: dict[str, Any]) -> None:
    """Hold what is said to learn against torch's own count in the model that was made of it."""
    model = load("model", device="cpu").model.requires_grad_()
    every = list(model.parameters())
    freeze_before(model, find_cut(list_cuts(model, image_size=SIZE), answer["cut"]["name"]))
    learns = [p for p in every if p.requires_grad]
    assert answer["trainable"] == {
        "tensors": len(learns),
        "parameters": sum(p.numel() for p in learns),
        "all_tensors": len(every),
        "all_parameters": sum(p.numel() for p in every),
    }


@pytest.mark.slow
@pytest.mark.parametrize("head", ["pool", "flatten"])
def test_the_report_counts_what_learns(pictures, last_line, capsys, head: str) -> None:
    """Guards the counts of a flat head, which is most of the parameters."""
    words = [word if word != "flatten" else head for word in STUDY.split()]
    answer = last_line(*words, "--data", str(pictures))["answer"]
    last_line("fit", "--json", "--out", "model")
    assert_learns(answer)
    learns = answer["trainable"]
    assert main(["report", "--out", "out"]) == 0
    told = capsys.readouterr().out
    assert f"Trainable {learns['tensors']} of {learns['all_tensors']} weight tensors, " in told
    numbers = f"{learns['tensors']} of {learns['all_tensors']} ({learns['parameters']:,} of "
    assert f"Trainable tensors: {numbers}" in Path("out/report.md").read_text(encoding="utf-8")


def _has_onnx() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))


def test_a_space_of_a_flattened_backbone_ends_at_its_head(flat) -> None:
    found = SearchSpace.for_model(flat.backbone.model, image_size=16)
    assert (found.cuts[-1].name, found.cuts[-1].kind) == (FLAT_HEAD, "head")
