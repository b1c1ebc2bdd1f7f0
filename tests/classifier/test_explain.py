"""Feature maps and Grad-CAM at layers across depth, and what is drawn and kept of them."""

import copy
import json
import re
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import pytest
import safetensors.torch
import stored_studies
import timm
import torch
from captum.attr import LayerGradCam
from insides import actions_of
from optuna.artifacts import get_all_artifact_meta
from optuna_dashboard import wsgi
from PIL import Image
from torch import nn

from depthsearch.classifier.explain.gallery import INDEX, draw_gallery, pick_photos, read_photos
from depthsearch.classifier.explain.layers import Subject, choose_layers, find_layers, subject_of
from depthsearch.classifier.explain.maps import Comparison, Photo, compare, explain, look, pretrained_classes
from depthsearch.classifier.explain.picture import CELL, INFERNO, VIRIDIS, draw, shown_channels
from depthsearch.cli import main
from depthsearch.errors import CutError, DataError, SettingsError
from depthsearch.models.backbones import Backbone, WeightsOrigin, load_backbone, state_digest
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.models.freezing import freeze_before
from depthsearch.models.heads import with_head
from depthsearch.models.pixels import Normalisation
from depthsearch.study.artifacts import Artifacts, artifact_folder, keep_artifact
from depthsearch.study.storage.optuna_private import list_artifacts, study_id_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::UserWarning:torch")

SIZE = 64
CLASSES = ("nought", "one", "two")
# A backbone of each way to build one: dense and residual blocks, no blocks, inverted residuals, squeeze and
# excitation, channels last, several branches, several resolutions.
FAST = (
    "densenet121",
    "test_resnet",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv1_100",
    "vgg11_bn",
    "convnext_atto",
    "mambaout_femto",
    "regnety_002",
    "dla34",
    "repvgg_a0",
    "starnet_s050",
)
SLOW = (
    "resnet50",
    "resnet101",
    "vgg16",
    "mobilenetv3_large_100",
    "inception_v3",
    "inception_next_atto",
    "xception41",
    "hrnet_w18_small",
    "res2net50_14w_8s",
    "resnest14d",
    "skresnet18",
    "edgenext_xx_small",
    "efficientvit_b0",
    "mobilevit_xxs",
    "poolformer_s12",
    "nf_resnet26",
    "selecsls42",
    "cspnext_tiny",
    "ghostnet_050",
    "fasternet_t0",
)
OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.02}, "vgg16": {"mlp_ratio": 0.02}}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **OPTIONS.get(name, {})).eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """An image with something in it: a bright disc on the left of noise."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = ((rows - 32) ** 2 + (columns - 18) ** 2 < 150).float()
    return 2 * disc + 0.3 * torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


# --- every backbone ------------------------------------------------------------------------------


def assert_can_be_explained(name: str, image: torch.Tensor, size: int = SIZE) -> None:
    """Look at the layers chosen of a model, from both ends of the depth."""
    model = build(name)
    subject = subject_of(model, image_size=size)
    layers = choose_layers(subject, list_cuts(model, image_size=size)[3])
    assert len({(layer.height, layer.name) for layer in layers}) == len(layers) >= 3
    assert [layer.position for layer in layers] == sorted(layer.position for layer in layers)
    assert layers[-1].height == min(layer.height for layer in subject.layers)
    insight = look(subject, image, layers, also=[3])
    assert set(insight.heats) == {3, insight.predicted}
    for layer in layers:
        assert insight.maps[layer.name].shape == (layer.channels, layer.height, layer.width)
        for heats in insight.heats.values():
            heat = heats[layer.name]
            assert heat.shape == (layer.height, layer.width)
            assert torch.isfinite(heat).all()
            assert heat.min() >= 0
            assert heat.max() in (0, 1)
    assert any(heat.max() == 1 for heat in insight.heats[insight.predicted].values())
    assert insight.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("name", FAST)
def test_a_backbone_can_be_explained(name, image):
    assert_can_be_explained(name, image)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_larger_backbone_can_be_explained(name, image):
    """Guards the maps of networks whose stages are named and shaped otherwise than the tiny one's."""
    size = 96 if name.startswith("inception_v") else SIZE
    grown = nn.functional.interpolate(image[None], size=(size, size))[0]
    assert_can_be_explained(name, grown, size)


# --- Grad-CAM ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """A small residual network in which nothing changes a value in place, as captum's hooks need it."""
    model = build("test_resnet")
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


@pytest.fixture(scope="module")
def subject(resnet) -> Subject:
    return subject_of(resnet, image_size=SIZE)


@pytest.mark.parametrize("target", [0, 7])
def test_grad_cam_is_that_of_captum(resnet, subject, image, target):
    modules = dict(resnet.named_modules())
    layers = [layer for layer in subject.layers if layer.name in modules][::3]
    assert len(layers) > 10
    heats = look(subject, image, layers, also=[target]).heats[target]
    for layer in layers:
        cam = LayerGradCam(resnet, modules[layer.name])
        theirs = cam.attribute(image[None], target, relu_attributions=True)[0, 0].detach()
        theirs = theirs / (theirs.max() if theirs.max() > 0 else 1)
        torch.testing.assert_close(heats[layer.name], theirs, rtol=1e-4, atol=1e-5)


class Several(nn.Module):
    """A convolution used twice, a concatenation, a sum, a change in place, and maps with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.mix = nn.Linear(12, 12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.twice(self.relu(self.twice(x)))
        x = torch.cat([x, x + y], 1)
        x = self.mix(x.permute(0, 2, 3, 1)).tanh()
        return self.fc(x.mean((1, 2)))


@pytest.fixture(scope="module")
def several() -> Subject:
    torch.manual_seed(1)
    return subject_of(Several().eval(), image_size=12)


def test_operations_that_are_no_modules_have_maps_too(several):
    shapes = {layer.name: (layer.channels, layer.channels_last) for layer in several.layers}
    assert shapes == {
        "stem": (6, False),
        "twice": (6, False),
        "relu": (6, False),
        "twice_1": (6, False),
        "add": (6, False),
        "cat": (12, False),
        "permute": (12, True),
        "mix": (12, True),
        "tanh": (12, True),
    }


def test_grad_cam_is_the_weighted_sum_of_the_maps_by_definition(several):
    x = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(2))
    insight = look(several, x, several.layers, also=[2])
    model = several.model
    once = model.twice(model.stem(x[None]))
    y = once.relu().detach().requires_grad_()
    stem = model.stem(x[None]).detach()
    second = model.twice(y)
    mixed = model.mix(torch.cat([stem, stem + second], 1).permute(0, 2, 3, 1)).tanh()
    logit = model.fc(mixed.mean((1, 2)))[0, 2]
    for name, value in (("relu", y), ("twice_1", second), ("tanh", mixed)):
        gradient = torch.autograd.grad(logit, value, retain_graph=True)[0][0]
        value = value[0]
        if name == "tanh":
            value, gradient = value.permute(2, 0, 1), gradient.permute(2, 0, 1)
        heat = (gradient.mean((1, 2))[:, None, None] * value).sum(0).relu().detach()
        torch.testing.assert_close(insight.heats[2][name], heat / heat.max())
        torch.testing.assert_close(insight.maps[name], value.detach())
    # What is changed in place afterwards is kept as it was computed.
    torch.testing.assert_close(insight.maps["twice"], once[0].detach())
    assert (insight.maps["twice"] < 0).any()


def test_a_square_of_channels_last_is_told_by_what_it_was_made_of():
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 1)
            self.fc = nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc(self.conv(x).permute(0, 2, 3, 1))
            return x.permute(0, 3, 1, 2).relu().mean((2, 3))

    layers = subject_of(Turned().eval(), image_size=12).layers
    assert {layer.name: layer.channels_last for layer in layers} == {
        "conv": False,
        "permute": True,
        "fc": True,
        "permute_1": False,
        "relu": False,
    }


def test_a_class_that_nothing_speaks_for_has_an_empty_heat_map(image):
    class Against(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x).abs().mean((2, 3))
            return torch.cat([x, -x.sum(1, keepdim=True)], 1)

    found = subject_of(Against().eval(), image_size=SIZE)
    insight = look(found, image, found.layers, also=[2])
    assert (insight.heats[2]["abs"] == 0).all()
    assert insight.heats[insight.predicted]["abs"].max() == 1


def test_looking_leaves_the_model_as_it_was(image):
    model = build("test_resnet").train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    found = subject_of(model, image_size=SIZE)
    assert look(found, image, found.layers).heats
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# --- which layers --------------------------------------------------------------------------------


def test_the_ends_of_the_stages_and_the_cut_are_chosen():
    model = build("densenet121")
    found = subject_of(model, image_size=SIZE)
    cut = find_cut(list_cuts(model, image_size=SIZE), 144)
    chosen = [(layer.number, layer.name, layer.height) for layer in choose_layers(found, cut)]
    assert chosen == [
        (4, "features.norm0", 32),
        (52, "features.transition1.conv", 16),
        (140, "features.transition2.conv", 8),
        (144, "features.denseblock3.denselayer1.conv1", 4),
        (312, "features.transition3.conv", 4),
        (426, "features.norm5", 2),
    ]


def test_a_stage_ends_behind_its_last_block_not_inside_the_next():
    found = subject_of(build("resnet18"), image_size=SIZE)
    assert [(layer.name, layer.height) for layer in choose_layers(found)] == [
        ("act1", 32),
        ("layer1.1.act2", 16),
        ("layer2.1.act2", 8),
        ("layer3.1.act2", 4),
        ("layer4.1.act2", 2),
    ]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("144", "features.denseblock3.denselayer1.conv1"),
        ("conv4_block1_1_conv", "features.denseblock3.denselayer1.conv1"),
        ("features.denseblock3.denselayer1.conv1", "features.denseblock3.denselayer1.conv1"),
        ("features.transition2", "features.transition2.pool"),
        ("148", "features.denseblock3.denselayer2.cat"),
    ],
)
def test_a_layer_is_found_by_number_keras_name_or_path(densenet, wanted, name):
    assert [layer.name for layer in find_layers(densenet, [wanted])] == [name]


@pytest.fixture(scope="module")
def densenet() -> Subject:
    return subject_of(build("densenet121"), image_size=SIZE)


def test_layers_come_by_depth_and_once(densenet):
    found = find_layers(densenet, ["312", "pool2_conv", "52"])
    assert [layer.number for layer in found] == [52, 312]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("denseblock9", r"^No layer 'denseblock9' in DenseNet\. Give numbers, Keras names or module paths"),
        ("100000", r"^No layer '100000' in DenseNet\. .* All of them: depthsearch cuts BACKBONE\.$"),
        ("classifier", r"^Layer 'classifier' of DenseNet has no map .* last that has one: layer 42\d"),
    ],
)
def test_a_layer_that_is_not_there_is_an_error_of_one_line(densenet, wanted, message):
    with pytest.raises(SettingsError, match=message) as caught:
        find_layers(densenet, [wanted])
    assert "\n" not in str(caught.value)


# --- before and after ----------------------------------------------------------------------------


def photo(true: int | None = None, *, size: int = SIZE, name: str = "a/photo.jpg") -> Photo:
    pixels = torch.randint(
        0, 255, (3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    return Photo(name=name, pixels=pixels, true=true)


def fine_tuned(backbone: Backbone, cut: Cut, n_classes: int = 3) -> nn.Module:
    """Take a few steps on noise from a cut on."""
    model = with_head(backbone.model, backbone.classifier, n_classes)
    freeze_before(model, cut)
    model.train()
    size = backbone.preprocessing.image_size
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(4))
    for _ in range(2):
        loss = nn.functional.cross_entropy(model(images), torch.arange(8) % n_classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def small() -> Backbone:
    return load_backbone("test_resnet", "random", image_size=SIZE)


@pytest.fixture(scope="module")
def cut(small) -> Cut:
    cuts = list_cuts(small.model, image_size=SIZE)
    return cuts[len(cuts) // 2]


@pytest.fixture(scope="module")
def comparison(small, cut) -> Comparison:
    return compare(
        fine_tuned(small, cut),
        small.model,
        classes=CLASSES,
        before_classes=(),
        preprocessing=small.preprocessing,
        cut=cut,
    )


def test_frozen_layers_have_the_same_maps_before_and_after_and_trained_ones_others(comparison):
    explanation = explain(comparison, photo())
    frozen = [comparison.is_frozen(layer) for layer in comparison.layers]
    assert {True, False} == set(frozen)
    assert [explanation.unchanged(layer) for layer in comparison.layers] == frozen


def test_other_pretrained_weights_are_told_in_the_picture(comparison, small, cut):
    other = load_backbone("test_resnet", "random", image_size=SIZE, seed=1)
    mixed = replace(comparison, before=subject_of(other.model, image_size=SIZE))
    same, different = (explain(c, photo()) for c in (comparison, mixed))
    assert not any(different.unchanged(layer) for layer in mixed.layers)
    note = [np.asarray(draw(c, e).crop((0, -30 + draw(c, e).height, 900, draw(c, e).height)))
            for c, e in ((comparison, same), (mixed, different))]  # fmt: skip
    assert not np.array_equal(*note)


def test_right_and_wrong_are_told_by_the_true_class(comparison):
    predicted = explain(comparison, photo()).after.predicted
    assert explain(comparison, photo()).right is None
    assert explain(comparison, photo(predicted)).right is True
    assert explain(comparison, photo((predicted + 1) % 3)).right is False


def n_rows(picture: Image.Image) -> int:
    """Count the rows of squares by the height that they take beyond the head."""
    return round((picture.height - CELL - 130) / (CELL + 8))


def test_a_wrong_prediction_has_a_row_for_the_true_class(comparison):
    predicted = explain(comparison, photo()).after.predicted
    counts = []
    for true in (None, predicted, (predicted + 1) % 3):
        explanation = explain(comparison, photo(true))
        assert set(explanation.after.heats) == {predicted} | ({true} - {None})
        counts.append(n_rows(draw(comparison, explanation)))
    assert counts == [4, 4, 5]


def test_before_has_no_grad_cam_without_its_own_classifier_and_no_rows_where_it_is_missing(comparison):
    rows = []
    for c in (comparison, replace(comparison, before_classes=None), replace(comparison, before=None)):
        rows.append(n_rows(draw(c, explain(c, photo()))))
    assert rows == [4, 3, 2]


def test_a_picture_is_the_same_each_time(comparison):
    first, second = (draw(comparison, explain(comparison, photo(1))) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_a_name_in_other_letters_is_drawn(comparison):
    named = replace(comparison, classes=("caf\u00e9", "\u732b", "\u043a\u043e\u0442"))
    plain, other = (draw(c, explain(c, photo(1))) for c in (comparison, named))
    assert plain.size == other.size
    assert plain.tobytes() != other.tobytes()


def test_the_channels_shown_are_those_that_vary_most(comparison):
    explanation = explain(comparison, photo())
    layer = comparison.layers[1]
    spread = explanation.after.maps[layer.name].flatten(1).std(1)
    shown = shown_channels(explanation, layer)
    assert len(set(shown)) == 4
    assert spread[shown].min() >= spread.sort(descending=True).values[4]


@pytest.mark.parametrize("colours", [VIRIDIS, INFERNO])
def test_the_colours_grow_lighter_evenly(colours):
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = 116 * np.cbrt(luminance) - 16
    steps = np.diff(lightness[luminance > 0.009])
    assert steps.min() > 0
    assert steps.max() < 2 * steps.mean()


def test_the_classes_of_imagenet_have_names_and_those_of_other_weights_none(small):
    lite = load_backbone("tf_efficientnet_lite0")
    assert pretrained_classes(lite)[281].startswith("tabby")
    assert len(pretrained_classes(lite)) == 1000
    assert pretrained_classes(small) is None
    assert (
        pretrained_classes(replace(small, weights=WeightsOrigin(kind="pretrained", where="timm/x")))
        is not None
    )


def test_the_cut_of_another_model_is_refused(small, cut):
    wrong = replace(cut, first_layer="nonesuch")
    with pytest.raises(CutError, match="this cut is another model's"):
        compare(
            small.model,
            None,
            classes=CLASSES,
            before_classes=None,
            preprocessing=small.preprocessing,
            cut=wrong,
        )


# --- photos and files ----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Photos of two classes, two of them of one name."""
    paths = [tmp_path / "one" / "a.png", tmp_path / "two" / "a.png", tmp_path / "elsewhere" / "b.png"]
    for place, path in enumerate(paths):
        path.parent.mkdir()
        noise = np.random.default_rng(place).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    return paths


def test_the_true_class_is_the_folder_around_a_photo_or_what_is_said(files, small):
    photos = read_photos(files, small.preprocessing, CLASSES)
    assert [p.true for p in photos] == [1, 2, None]
    assert photos[0].pixels.shape == (3, SIZE, SIZE)
    photos = read_photos(files, small.preprocessing, CLASSES, label="nought")
    assert [p.true for p in photos] == [0, 0, 0]


def test_a_bad_photo_or_label_is_an_error_of_one_line(files, small, tmp_path):
    (tmp_path / "no.jpg").write_text("no image")
    photos = read_photos([tmp_path / "no.jpg", *files], small.preprocessing, CLASSES, skip_unreadable=True)
    assert [p.name for p in photos] == [str(path) for path in files]
    for bad, message in (
        (tmp_path / "no.jpg", "Cannot read the image .*no.jpg: it is not in an image format"),
        (tmp_path / "absent.jpg", "Cannot read the image .*absent.jpg: No such file"),
        (tmp_path, r"is a folder\. Give image files, such as"),
    ):
        with pytest.raises(DataError, match=message):
            read_photos([bad], small.preprocessing, CLASSES)
    with pytest.raises(SettingsError, match=r"^--label 'three' is none of the classes: nought, one, two\.$"):
        read_photos(files, small.preprocessing, CLASSES, label="three")


def test_a_gallery_is_a_picture_each_and_an_index(files, comparison, small, tmp_path):
    out = tmp_path / "out"
    photos = read_photos(files, small.preprocessing, CLASSES)
    pictures = list(draw_gallery(comparison, [*photos, photos[0]], out))
    names = ["one-a.png", "two-a.png", "elsewhere-b.png", "one-a-2.png"]
    assert [picture.path.name for picture in pictures] == names
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, INDEX])
    assert all(picture.path.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    index = json.loads((out / INDEX).read_text())
    assert index == [picture.about for picture in pictures]
    first = index[0]
    assert first["image"] == str(files[0])
    assert first["true"] == "one"
    assert first["right"] is (first["predicted"] == "one")
    assert index[2]["right"] is None
    assert [layer["frozen"] for layer in first["layers"]] == [layer["unchanged"] for layer in first["layers"]]


def test_a_folder_that_cannot_be_written_to_is_an_error_of_one_line(comparison, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"^Cannot write to .*file: .*Give another folder with --out\.$"):
        list(draw_gallery(comparison, [photo()], tmp_path / "file"))


class Knows(nn.Module):
    """Tells digits by a table, all but some."""

    def __init__(self, known: dict[bytes, int], wrong: Sequence[int]) -> None:
        super().__init__()
        self.known, self.wrong = known, wrong
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = [self.known[image.numpy().tobytes()] for image in x]
        labels = torch.tensor([p % 3 if p not in self.wrong else (p + 1) % 3 for p in places])
        sure = torch.tensor([2.0 + p for p in places])
        return nn.functional.one_hot(labels, 3) * sure[:, None]


@pytest.mark.parametrize(
    ("wrong", "n_photos", "expected"),
    [
        ([2, 5, 9], 4, {"wrong": [9, 5], "n_right": 2}),
        ([7], 4, {"wrong": [7], "n_right": 3}),
        ([], 4, {"wrong": [], "n_right": 4}),
        (range(11), 4, {"wrong": [10, 9, 8], "n_right": 1}),
        (range(12), 4, {"wrong": [11, 10, 9, 8], "n_right": 0}),
    ],
)
def test_half_of_the_photos_picked_are_wrong_ones_if_there_are(digits, small, wrong, n_photos, expected):
    val = replace(digits.val, rows=digits.val.rows[:12], labels=torch.arange(12) % 3)
    data = replace(digits, val=val)
    inputs = Normalisation(small.preprocessing)(val.gather(torch.arange(12)))
    model = Knows({image.numpy().tobytes(): i for i, image in enumerate(inputs)}, list(wrong))
    photos = pick_photos(model, data, "val", small.preprocessing, n_photos)
    places = [int(re.fullmatch(r"digits val (\d+)", p.name)[1]) for p in photos]
    n_wrong = len(expected["wrong"])
    assert places[:n_wrong] == expected["wrong"]
    assert len(set(places)) == n_photos == n_wrong + expected["n_right"]
    assert not set(places[n_wrong:]) & set(wrong)
    assert [p.true for p in photos] == [place % 3 for place in places]


# --- artifacts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("sqlite:///studies.db", "studies-artifacts"),
        ("sqlite:////tmp/x/studies.db", "/tmp/x/studies-artifacts"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://user:secret@host/db", None),
    ],
)
def test_artifacts_lie_beside_the_database(url, folder):
    assert artifact_folder(url) == (None if folder is None else Path(folder))


def test_a_file_is_kept_once_as_long_as_it_is_the_same(tmp_path, open_quick_storage):
    study = optuna.create_study(storage=open_quick_storage(f"sqlite:///{tmp_path}/s.db"))
    store = Artifacts(tmp_path / "s-artifacts")
    assert not store.folder.exists()
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = keep_artifact(study, store, path)
    assert keep_artifact(study, store, path) == first
    path.write_bytes(b"two")
    second = keep_artifact(study, store, path)
    assert second != first
    (store.folder / second).unlink()
    assert keep_artifact(study, store, path) not in (first, second)
    assert {meta.filename for meta in get_all_artifact_meta(study)} == {"a.png"}


def served(application, path: str, method: str = "GET") -> tuple[str, bytes]:
    """Ask a web application for a page: status and content."""
    said = []
    environment = {"REQUEST_METHOD": method, "PATH_INFO": path}
    setup_testing_defaults(environment)
    answer = application(environment, lambda status, _, __=None: said.append(status))
    with closing(answer) if hasattr(answer, "close") else nullcontext():
        return said[0], b"".join(answer)


def test_the_dashboard_shows_an_artifact_and_may_delete_it(tmp_path, open_quick_storage):
    storage = open_quick_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage)
    store = Artifacts(tmp_path / "s-artifacts")
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    application = wsgi(storage, artifact_store=store)
    kept = keep_artifact(study, store, path)
    assert served(application, f"/artifacts/{study_id_of(study)}/{kept}") == ("200 OK", b"one")
    status, _ = served(application, f"/api/artifacts/{study_id_of(study)}/{kept}", "DELETE")
    assert status.startswith("204")
    again = keep_artifact(study, store, path)
    assert again != kept
    assert served(application, f"/artifacts/{study_id_of(study)}/{again}") == ("200 OK", b"one")


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path, small, cut, comparison, monkeypatch) -> Path:
    """A folder with the fine-tuned model, as depthsearch fit writes it."""
    model = comparison.after.model
    described = {
        "format": 1,
        "classes": CLASSES,
        "backbone": small.name,
        "classifier": small.classifier,
        "built_from": {},
        "head": {"kind": "pool", "width": 0, "depth": 1},
        "preprocessing": asdict(small.preprocessing),
        "precision": "float32",
        "digest": state_digest(model),
        "cut": {name: getattr(cut, name) for name in ("index", "layer", "name", "kind", "keras_name")},
        "provenance": {"weights": asdict(small.weights), "weights_digest": small.digest},
    }
    folder = tmp_path / "noughts-model"
    folder.mkdir()
    config = {"architecture": "test_resnet", "depthsearch": described}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_model_is_explained_on_image_files(model_folder, files, capsys):
    assert main(["explain", str(model_folder), *map(str, files), "--device", "cpu", "--json"]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert result["folder"] == "noughts-model-explain"
    assert [picture["true"] for picture in result["pictures"]] == ["one", "two", None]
    assert all((Path(result["folder"]) / picture["file"]).is_file() for picture in result["pictures"])
    layers = result["pictures"][0]["layers"]
    assert [layer["unchanged"] for layer in layers] == [layer["frozen"] for layer in layers]
    # Random weights came without a classifier of their own.
    assert all(picture["pretrained"] is None for picture in result["pictures"])
    assert "Traceback" not in told.err


def test_the_layers_asked_for_are_shown(model_folder, files, capsys):
    argv = ["explain", str(model_folder), str(files[0]), "--layers", "2,layer2", "--out", "here", "--json"]
    assert main(argv) == 0
    layers = json.loads(capsys.readouterr().out)["pictures"][0]["layers"]
    assert [layer["layer"] for layer in layers][:1] == [2]
    assert len(layers) == 2


def test_a_model_whose_weights_are_gone_is_explained_without_before(model_folder, files, capsys):
    config = json.loads((model_folder / "config.json").read_text())
    config["depthsearch"]["provenance"]["weights_digest"] = "another"
    (model_folder / "config.json").write_text(json.dumps(config))
    assert main(["explain", str(model_folder), str(files[0]), "--json"]) == 0
    told = capsys.readouterr()
    assert "The pictures have no row for before fine-tuning. It started from other weights" in told.err
    assert json.loads(told.out)["pictures"][0]["layers"][0]["unchanged"] is None


def store_study(url: str, name: str, open_storage, **attributes: object) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=open_storage(url))
    for key, value in stored_studies.attributes(**attributes).items():
        study.set_user_attr(key, value)
    return study


def test_pictures_of_a_study_become_its_artifacts_once(
    model_folder, files, tmp_path, open_quick_storage, capsys
):
    url = f"sqlite:///{tmp_path}/s.db"
    study = store_study(
        url, "noughts", open_quick_storage, fit=stored_studies.fitted(folder=str(model_folder))
    )
    for _ in range(2):
        assert main(["explain", "noughts", *map(str, files[:2]), "--storage", url]) == 0
    noted = study.user_attrs["explained"]
    assert [(n["image"], n["true"]) for n in noted] == [(str(files[0]), "one"), (str(files[1]), "two")]
    kept = {meta.artifact_id: meta.filename for meta in get_all_artifact_meta(study)}
    assert sorted(kept.values()) == ["one-a.png", "report.html", "two-a.png"]
    assert {n["artifact_id"] for n in noted} == {key for key, name in kept.items() if name != "report.html"}
    for n in noted:
        kept = tmp_path / "s-artifacts" / n["artifact_id"]
        assert kept.read_bytes() == (tmp_path / "noughts-explain" / n["file"]).read_bytes()


def test_a_folder_of_a_studys_name_does_not_hide_the_study(
    model_folder, files, tmp_path, open_quick_storage, capsys
):
    url = f"sqlite:///{tmp_path}/s.db"
    store_study(url, "photos", open_quick_storage, fit=stored_studies.fitted(folder=str(model_folder)))
    (tmp_path / "photos").mkdir()
    assert main(["explain", "photos", str(files[0]), "--storage", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == "photos-explain"


BAD = [
    (["nonesuch"], "No model folder and no study 'nonesuch'; sqlite:///"),
    (["unfitted"], "Study 'unfitted' has no fitted model. Run depthsearch fit first"),
    (["moved"], "The model of study 'moved' is not in"),
    (["EMPTY"], "holds no config.json: it is no model, and there is no study '"),
    (["EMPTY", "--storage", "sqlite:///absent.db"], "it is no model, and there is no study '"),
    (["MODEL"], "Which images? Give files: depthsearch explain"),
    (["MODEL", "absent.jpg"], "Cannot read the image absent.jpg"),
    (["MODEL", "IMAGE", "--backbone", "net.py:make"], "not net.py:make. Leave --backbone out."),
    (["MODEL", "IMAGE", "--layers", "layer9"], "No layer 'layer9' in"),
    (["MODEL", "IMAGE", "--layers", ","], "--layers: ',' is no list, such as"),
    (["MODEL", "IMAGE", "--label", "three"], "--label 'three' is none of the classes"),
    (["MODEL", "IMAGE", "--skip-unreadable=yes"], "--skip-unreadable: ignored explicit argument 'yes'"),
    (["MODEL", "IMAGE", "--n", "0"], "--n: '0' is no whole number from 1 on"),
    (["MODEL", "IMAGE", "--split", "train"], "--split: invalid choice: 'train'"),
    (["MODEL", "IMAGE", "--n", "4"], "--n picks images of the study, and files are given: leave one of the"),
    (["MODEL", "IMAGE", "--split", "val"], "--split picks images of the study, and files are given: leave"),
    (["moved", "--label", "one"], "--label is of images given as files: give some, or leave it out."),
    (["moved", "--skip-unreadable"], "--skip-unreadable is of images given as files: give some, or leave"),
    (["MODEL", "IMAGE", "--out", "IMAGE"], "Cannot write to"),
    (["MODEL", "IMAGE", "--weights", "absent.pt"], "No weights file 'absent.pt'"),
    (["MODEL", "IMAGE", "--device", "tpu"], "--device: invalid choice: 'tpu'"),
    (["MODEL", "IMAGE", "--json=yes"], "--json: ignored explicit argument 'yes'"),
    (["nonesuch", "--storage", "sqlite:///absent.db"], "No file 'absent.db' with studies"),
    (["MODEL", "IMAGE", "--artifacts", "IMAGE"], "a.png is a file. Give a folder for the studies' artifacts"),
]


def test_every_option_has_a_bad_value_in_these_tests():
    options = {action.option_strings[0] for action in actions_of("explain") if action.option_strings}
    tested = {word.partition("=")[0] for given, _ in BAD for word in given if word.startswith("--")}
    assert tested == options


@pytest.fixture(scope="module")
def studies(tmp_path_factory, open_quick_storage) -> str:
    """A database with a study that was never fitted and one whose model is gone."""
    folder = tmp_path_factory.mktemp("studies")
    url = f"sqlite:///{folder}/s.db"
    store_study(url, "unfitted", open_quick_storage)
    store_study(url, "moved", open_quick_storage, fit=stored_studies.fitted(folder=str(folder / "gone")))
    return url


@pytest.mark.parametrize(("given", "expected"), BAD)
def test_a_bad_value_is_one_line_and_status_2(
    model_folder, files, tmp_path, studies, capsys, given, expected
):
    words = {"MODEL": str(model_folder), "IMAGE": str(files[0]), "EMPTY": str(files[0].parent)}
    try:
        status = main(["explain", "--storage", studies, *(words.get(word, word) for word in given)])
    except SystemExit as exit_:
        status = exit_.code
    assert status == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("depthsearch explain: ")
    assert expected in line
    assert not list(tmp_path.glob("*-explain"))


@pytest.mark.slow
def test_a_fitted_study_is_explained_on_images_of_its_own(tmp_path, monkeypatch, capsys):
    """The whole way: study, fit, explain."""
    monkeypatch.chdir(tmp_path)
    options = "--backbone test_resnet --weights random --image-size 32 --device cpu --precision float32"
    counts = "--trials 2 --epochs 1 --pruner none --confirm 0 --head-width 0 --name digits"
    assert main(["study", "--data", "digits", *options.split(), *counts.split()]) == 0
    assert main(["fit", "--name", "digits"]) == 0
    capsys.readouterr()
    assert main(["explain", "digits", "--n", "2", "--json"]) == 0
    pictures = json.loads(capsys.readouterr().out)["pictures"]
    assert len(pictures) == 2
    assert all(picture["true"] is not None for picture in pictures)
    study = optuna.load_study(study_name="digits", storage="sqlite:///depthsearch.db")
    kept = {filename: artifact_id for artifact_id, filename in list_artifacts(study).items()}
    beside = {"report.html", "model-card.md", "confusions.png"}
    assert len(kept.keys() - beside) == 2
    # The report shows them, small, in the page itself.
    assert main(["report", "digits", "--out", "report"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 2
    written = (tmp_path / "report" / "report.md").read_text()
    assert all(f"called {picture['predicted']}" in written for picture in pictures)
    for name in ("what-it-sees-1.jpg", "what-it-sees-2.jpg"):
        assert f"(charts/{name})" in written
        assert (tmp_path / "report" / "charts" / name).read_bytes().startswith(b"\xff\xd8")
    # One that is gone is left out.
    (tmp_path / "depthsearch-artifacts" / kept[next(iter(kept.keys() - beside))]).unlink()
    assert main(["report", "digits", "--out", "report"]) == 0
    assert (tmp_path / "report" / "report.html").read_text().count("<img ") == 1
