"""Backbones of other sources than timm: torchvision, Hugging Face's transformers, a function in a file."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from small_backbones import NET, TINY, put_weights
from torch import nn

from depthsearch.errors import SettingsError, WeightsError
from depthsearch.models import backbones
from depthsearch.models.backbones import hub, load_backbone, make_model, torchvision_source
from depthsearch.models.candidates import list_cuts
from depthsearch.options.backbones import BackboneName, counted_from, normal, parse_name, plain_name


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file that makes a small network."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    return tmp_path


def add(text: str, name: str = "net.py") -> None:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(f"\n{text}\n")


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "plain"),
    [
        ("resnet50.a1_in1k", ("timm", "resnet50.a1_in1k", ""), "resnet50.a1_in1k"),
        ("torchvision:resnet50", ("torchvision", "resnet50", ""), "torchvision-resnet50"),
        ("torchvision:vgg16@IMAGENET1K_V1", ("torchvision", "vgg16", "IMAGENET1K_V1"), None),
        ("hf:microsoft/resnet-18", ("hf", "microsoft/resnet-18", ""), "hf-resnet-18"),
        ("hf:models/mine/", ("hf", "models/mine/", ""), "hf-mine"),
        ("a b/net.py:make", ("file", "a b/net.py", "make"), "net-make"),
        ("C:\\nets\\net.py:make", ("file", "C:\\nets\\net.py", "make"), None),
    ],
)
def test_a_name_says_where_the_backbone_comes_from(text: str, expected: tuple[str, ...], plain) -> None:
    source, name, entry = expected
    assert parse_name(text) == BackboneName(source=source, name=name, entry=entry)
    if plain is not None:
        assert plain_name(text) == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("torchvision:", "give torchvision:NAME, such as torchvision:resnet50"),
        ("torchvision:resnet50@", "torchvision:NAME@WEIGHTS"),
        ("hf:", "give hf:NAME, such as"),
        ("net.py", r"'net\.py' names no function\. Give net\.py:FUNCTION"),
        ("net.py:", r"Give net\.py:FUNCTION"),
    ],
)
def test_half_a_name_is_refused_with_the_whole(text: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        parse_name(text)


def test_a_name_with_another_colon_is_told_what_may_have_one() -> None:
    with pytest.raises(
        SettingsError, match=r"no model 'keras:x'\. What has a colon is torchvision:NAME, hf:"
    ):
        make_model("keras:x")


def test_weights_behind_a_colon_are_told_to_stand_behind_an_at() -> None:
    with pytest.raises(SettingsError, match=r"named behind an @: torchvision:resnet50@IMAGENET1K_V2\."):
        make_model("torchvision:resnet50:IMAGENET1K_V2")


def test_the_same_file_has_one_name() -> None:
    assert normal("./nets/../net.py:make") == "net.py:make"


def test_paths_in_a_study_file_count_from_it(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert counted_from(tmp_path, "net.py:make") == f"{tmp_path}/net.py:make"
    assert counted_from(tmp_path, "hf:mine") == f"hf:{tmp_path}/mine"
    assert counted_from(tmp_path, "hf:microsoft/resnet-18") == "hf:microsoft/resnet-18"
    assert counted_from(tmp_path, "/there/net.py:make") == "/there/net.py:make"
    assert counted_from(tmp_path, "resnet18") == "resnet18"


# --- torchvision --------------------------------------------------------------------------------


def test_torchvisions_weights_come_from_its_cache_with_their_provenance(torch_home: Path) -> None:
    state = put_weights(torch_home, "shufflenet_v2_x0_5")
    loaded = load_backbone(TINY)
    assert str(loaded.weights) == "torchvision ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.model.state_dict().items())
    assert (loaded.classifier, loaded.library) == ("fc", f"torchvision {torchvision.__version__}")


def test_named_weights_of_torchvision_bring_their_own_images() -> None:
    first, second = (make_model(f"torchvision:mobilenet_v2@IMAGENET1K_V{n}") for n in (1, 2))
    assert [m.pretrained_cfg["crop_pct"] for m in (first, second)] == [
        pytest.approx(224 / 256),
        pytest.approx(224 / 232),
    ]


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b1", "swin_t", "vit_b_16", "regnet_y_400mf"])
def test_images_are_resized_as_torchvisions_transforms_say(name: str) -> None:
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    seen = torchvision_source.seen_by_transforms(transforms)
    assert int(seen.image_size / seen.crop_share) == transforms.resize_size[0]
    assert (seen.mean, seen.std) == (tuple(transforms.mean), tuple(transforms.std))
    assert seen.interpolation == transforms.interpolation.value


def test_without_torchvisions_weights_the_ways_out_are_named(torch_home: Path) -> None:
    expected = (
        r"^No pretrained weights for torchvision:shufflenet_v2_x0_5: neither in .*checkpoints nor from https:"
        r".* Go online once, put the file there, give --weights FILE, or say --weights random\.$"
    )
    with pytest.raises(WeightsError, match=expected):
        load_backbone(TINY)


def test_a_torch_cache_that_cannot_be_written_names_its_variable(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(hub, "answers", lambda ask: True)
    with pytest.raises(
        WeightsError, match=r"cannot be downloaded to .*TORCH_HOME names another folder; or give"
    ):
        load_backbone(TINY)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("torchvision:resnet5", "random", r"no image classifier 'resnet5'\. Near: resnet50"),
        ("torchvision:fcn_resnet50", "random", r"no image classifier 'fcn_resnet50'"),
        ("torchvision:resnet50@V9", "auto", r"no weights 'V9'\. Give one of IMAGENET1K_V1, IMAGENET1K_V2"),
        (
            "torchvision:resnet50@IMAGENET1K_V1",
            "random",
            r"@IMAGENET1K_V1 names weights, and --weights random",
        ),
    ],
)
def test_what_torchvision_lacks_is_refused(name: str, weights: str, expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        load_backbone(name, weights)


def test_a_file_gives_torchvisions_model_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torchvision.models.shufflenet_v2_x0_5(num_classes=7).state_dict()
    torch.save({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "w.pt")
    loaded = load_backbone(TINY, str(tmp_path / "w.pt"))
    assert torch.equal(loaded.model.state_dict()["conv5.0.weight"], state["conv5.0.weight"])
    assert str(loaded.weights).startswith("file w.pt (")
    assert any("tells 7 classes; it is left out" in note for note in loaded.notes)


def test_grey_images_see_what_grey_pictures_in_colour_would() -> None:
    colour, grey = (load_backbone(TINY, "random", in_chans=n, image_size=64) for n in (3, 1))
    torch.manual_seed(0)
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(colour.model(image.expand(-1, 3, -1, -1)), grey.model(image), atol=1e-5)
    assert len(grey.preprocessing.mean) == 1
    assert make_model(TINY, in_chans=1).state_dict().keys() == grey.model.state_dict().keys()


CLASSIFIERS = {
    "alexnet": "classifier.6",
    "convnext_tiny": "classifier.2",
    "densenet121": "classifier",
    "efficientnet_b0": "classifier.1",
    "googlenet": "fc",
    "inception_v3": "fc",
    "maxvit_t": "classifier.5",
    "mnasnet0_5": "classifier.1",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "regnet_y_400mf": "fc",
    "resnet18": "fc",
    "shufflenet_v2_x0_5": "fc",
    "squeezenet1_1": "classifier",
    "swin_t": "head",
    "vgg11": "classifier.6",
    "vit_b_16": "heads.head",
}


def test_every_family_of_torchvision_is_tried() -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    families = {name.split("_")[0].rstrip("0123456789") for name in known}
    tried = {name.split("_")[0].rstrip("0123456789") for name in CLASSIFIERS}
    # Wider or grouped ResNets are ResNets.
    assert families - tried <= {"wide", "resnext", "mnasnet0", "squeezenet1"}


@pytest.mark.slow
def test_a_transformers_old_names_in_torchvisions_file_are_read(torch_home: Path) -> None:
    """Guards the weights that torchvision has published under old names; a large network."""
    state = put_weights(torch_home, "vit_b_32")
    chosen = torchvision.models.get_model_weights("vit_b_32").DEFAULT
    old = {
        k.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): t
        for k, t in state.items()
    }
    torch.save(old, torch_home / chosen.url.rpartition("/")[2])
    loaded = load_backbone("torchvision:vit_b_32")
    key = "encoder.layers.encoder_layer_3.mlp.3.weight"
    assert torch.equal(loaded.model.state_dict()[key], state[key])


def test_weights_of_another_model_in_torchvisions_cache_are_one_line(torch_home: Path) -> None:
    chosen = torchvision.models.get_model_weights("shufflenet_v2_x0_5").DEFAULT
    torch.save({"fc.weight": torch.zeros(3)}, torch_home / chosen.url.rpartition("/")[2])
    with pytest.raises(
        WeightsError, match=r"do not fit torchvision:shufflenet_v2_x0_5: .* Remove the file from"
    ):
        load_backbone(TINY)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_classifier_of_torchvisions_families_is_found_and_its_weights_read(name, torch_home) -> None:
    """Guards each family of torchvision: they name the classifier in five ways."""
    state = put_weights(torch_home, name)
    loaded = load_backbone(f"torchvision:{name}")
    first, weight = next(iter(loaded.model.state_dict().items()))
    assert torch.equal(weight, state[first])
    assert loaded.classifier == CLASSIFIERS[name]
    assert list_cuts(loaded.model, ("conv", "pool", "concat", "block"))[-1].kind == "head"


def test_densenets_old_names_in_torchvisions_file_are_read(torch_home: Path) -> None:
    state = put_weights(torch_home, "densenet121")
    chosen = torchvision.models.get_model_weights("densenet121").DEFAULT
    parts = ("norm1", "norm2", "conv1", "conv2")
    old = {
        next((k.replace(f".{p}.", f".{p[:-1]}.{p[-1]}.") for p in parts if f".{p}." in k), k): tensor
        for k, tensor in state.items()
    }
    torch.save(old, torch_home / chosen.url.rpartition("/")[2])
    loaded = load_backbone("torchvision:densenet121")
    key = "features.denseblock2.denselayer3.conv1.weight"
    assert torch.equal(loaded.model.state_dict()[key], state[key])


def test_a_size_that_a_transformer_cannot_take_is_refused_with_its_own() -> None:
    with pytest.raises(
        SettingsError, match=r"--image-size 96: vit_tiny_\w+ takes images of 224 px \(.*\)\. Le"
    ):
        load_backbone("vit_tiny_patch16_224", "random", image_size=96)
    assert load_backbone("test_vit", "random", image_size=96).preprocessing.image_size == 96


# --- a function in a file -----------------------------------------------------------------------


def test_a_function_makes_a_backbone_with_its_own_weights(here: Path) -> None:
    loaded = load_backbone("net.py:make", image_size=32)
    assert str(loaded.weights).startswith("function net.py:make (")
    assert loaded.classifier == "out"
    assert [cut.name for cut in list_cuts(loaded.model, image_size=32)] == [
        "body.0.conv",
        "body.1.conv",
        "body.2.conv",
        "out",
    ]
    assert not loaded.model.training


def test_what_a_function_draws_at_random_is_seeded(here: Path) -> None:
    first, again, other = (load_backbone("net.py:make", image_size=32, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest


def test_what_nobody_says_of_the_images_is_told(here: Path) -> None:
    loaded = load_backbone("net.py:make", image_size=32)
    (note,) = loaded.notes
    assert "they get ImageNet's mean 0.485, 0.456, 0.406 and deviation 0.229, 0.224, 0.225" in note
    assert "Others: --mean, --std, --interpolation, --crop-share." in note
    given = load_backbone(
        "net.py:make", image_size=32, mean=(0.5,), std=(0.25,), interpolation="bicubic", crop_share=0.9
    )
    assert given.notes == ()
    seen = given.preprocessing
    assert (seen.mean, seen.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert (seen.interpolation, seen.crop_share) == ("bicubic", 0.9)


def test_means_of_another_number_of_channels_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"--mean has 3 values, and images have 1 channel\. Give one"):
        load_backbone("test_resnet", "random", in_chans=1, mean=(0.1, 0.2, 0.3))


def test_without_a_size_the_option_for_it_is_named(here: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"does not say which images its model takes\. Give --image-size PX"
    ):
        load_backbone("net.py:make")


@pytest.mark.parametrize(
    "text",
    [
        "def sized(image_size=40): return Net()",
        "def sized():\n    net = Net()\n    net.image_size = 40\n    return net",
        "def sized():\n    net = Net()\n    net.pretrained_cfg = {'input_size': (3, 40, 40)}\n    return net",
    ],
)
def test_a_model_may_say_itself_which_images_it_takes(here: Path, text: str) -> None:
    add(text)
    assert load_backbone("net.py:sized").preprocessing.image_size == 40


def test_a_function_gets_what_it_declares(here: Path) -> None:
    add("def asks(in_chans, num_classes, image_size):\n    return Net(in_chans, num_classes + image_size)")
    loaded = load_backbone("net.py:asks", image_size=32, in_chans=1)
    assert loaded.model.out.out_features == 1032
    assert loaded.model.body[0].conv.in_channels == 1
    add("def keeps(num_classes=5): return Net(num_classes=num_classes)")
    assert load_backbone("net.py:keeps", image_size=32).model.out.out_features == 5


def test_grey_images_fold_the_kernel_of_a_function_that_does_not_ask(here: Path) -> None:
    loaded = load_backbone("net.py:make", image_size=32, in_chans=1)
    assert loaded.model.body[0].conv.weight.shape == (8, 1, 3, 3)


BROKEN = {
    "raises": (
        "def f():\n    return 1 / 0",
        r"net\.py:f fails: .*net\.py, line \d+: ZeroDivisionError: division",
    ),
    "exits": ("def f():\n    raise SystemExit(3)", r"net\.py, line \d+: SystemExit: 3"),
    "returns": ("def f(): return 3", r"net\.py:f returns a int, not a torch\.nn\.Module"),
    "needs": ("def f(width): return Net()", r"net\.py:f needs width: what it may ask for is num_classes"),
    "lacks": ("", r"net\.py has no function 'f'\. It has: Block, Net, make\."),
    "syntax": ("def f(:", r"Backbone: .*net\.py, line \d+: SyntaxError: .* Mend that file"),
    "imports": ("import nonesuch", r"net\.py, line \d+: ModuleNotFoundError: No module named 'nonesuch'"),
    "no logits": (
        "class Odd(Net):\n    def forward(self, x): return 2 * super().forward(x)\ndef f(): return Odd()",
        r"has no classifier to replace: what it returns is not what one of its linear layers",
    ),
    "does not run": (
        "class Odd(Net):\n    def forward(self, x): return self.out(x)\ndef f(): return Odd()",
        r"net\.py:f does not run on one image of 3 x 32 x 32: .* Give another --image-size",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_fault_of_the_file_is_a_line_that_names_the_place(here: Path, case: str) -> None:
    text, expected = BROKEN[case]
    add(text)
    with pytest.raises(SettingsError, match=expected) as raised:
        load_backbone("net.py:f", image_size=32)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(here: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"cannot read 'gone\.py': No such file .* counts from the folder"
    ):
        make_model("gone.py:make", image_size=32)


def test_random_weights_of_a_function_are_refused(here: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"--weights random: net\.py:make gives its model the weights that"
    ):
        load_backbone("net.py:make", "random", image_size=32)


def test_modules_beside_the_file_can_be_imported(here: Path) -> None:
    Path("beside_net.py").write_text(NET, encoding="utf-8")
    Path("other.py").write_text("from beside_net import Net\ndef make(): return Net()", encoding="utf-8")
    assert load_backbone("other.py:make", image_size=32).classifier == "out"


def test_a_model_may_return_its_logits_under_that_name(here: Path) -> None:
    add("class Named(Net):\n    def forward(self, x): return {'logits': super().forward(x), 'x': x}")
    add("def named(): return Named()")
    loaded = load_backbone("net.py:named", image_size=32)
    assert loaded.classifier == "out"
    assert len(list_cuts(loaded.model, image_size=32)) == 4


def test_what_a_file_prints_does_not_stand_in_the_output(here: Path, capsys) -> None:
    add("print('imported')\ndef talks():\n    print('called')\n    return Net()")
    make_model("net.py:talks", image_size=32)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "imported\ncalled\n")


def test_the_model_that_a_function_hands_out_each_time_is_left_alone(here: Path) -> None:
    add("ONE = Net()\ndef one(): return ONE")
    loaded = load_backbone("net.py:one", image_size=32, in_chans=1)
    one = sys.modules[type(loaded.model).__module__].ONE
    assert one.body[0].conv.in_channels == 3
    assert not hasattr(one, "pretrained_cfg")


@pytest.mark.slow
def test_a_process_that_has_not_run_the_file_can_unpickle_the_backbone(here: Path) -> None:
    """Guards workers that are started anew and know nothing of the user's file."""
    loaded = load_backbone("net.py:make", image_size=32)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = loaded.model(image)
    Path("sent.pkl").write_bytes(pickle.dumps((loaded, image, expected)))
    Path("net.py").unlink()
    read = (
        "import pickle, torch\n"
        "loaded, image, expected = pickle.load(open('sent.pkl', 'rb'))\n"
        "with torch.no_grad(): assert torch.equal(loaded.model(image), expected)\n"
        "assert loaded.name == 'net.py:make'\n"
    )
    source = Path(backbones.__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", read], check=True, env={**os.environ, "PYTHONPATH": str(source)}, cwd=here
    )


def test_another_text_of_the_file_is_another_network(here: Path) -> None:
    loaded = load_backbone("net.py:make", image_size=32)
    assert make_model("net.py:make", loaded.built_from, image_size=32).state_dict().keys()
    add("# changed")
    assert load_backbone("net.py:make", image_size=32).build_digest != loaded.build_digest
    with pytest.raises(SettingsError, match=r"net\.py is not what it was when the model was trained\. Bring"):
        make_model("net.py:make", loaded.built_from, image_size=32)


# --- Hugging Face's -----------------------------------------------------------------------------


def test_a_transformer_is_cut_between_its_blocks_and_keeps_to_its_size(tiny_vit: Path) -> None:
    loaded = load_backbone(f"hf:{tiny_vit}")
    assert loaded.preprocessing.image_size == 32
    names = [cut.name for cut in list_cuts(loaded.model, image_size=32)]
    assert names[-1] == "classifier"
    assert len(names) > 3
    with pytest.raises(
        SettingsError, match=r"--image-size 64: hf:.* takes images of 32 px \(.*\)\. Leave --image"
    ):
        load_backbone(f"hf:{tiny_vit}", image_size=64)


@pytest.mark.parametrize("in_chans", [3, 1])
def test_a_folder_of_transformers_is_a_backbone(tiny_resnet: Path, in_chans: int) -> None:
    loaded = load_backbone(f"hf:{tiny_resnet}", in_chans=in_chans)
    assert str(loaded.weights) == f"transformers {tiny_resnet}"
    assert loaded.classifier == "classifier.1"
    seen = loaded.preprocessing
    assert (seen.image_size, seen.interpolation, seen.crop_share) == (32, "bicubic", 1.0)
    assert seen.mean == ((0.1, 0.2, 0.3) if in_chans == 3 else (pytest.approx(0.2),))
    cuts = list_cuts(loaded.model, image_size=32)
    assert len(cuts) > 4
    assert cuts[1].name.startswith("resnet.encoder.")


def test_it_computes_what_transformers_does_also_copied_pickled_and_rebuilt(tiny_resnet: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tiny_resnet).eval()
    ours = load_backbone(f"hf:{tiny_resnet}")
    image = torch.rand(2, 3, 32, 32)
    again = make_model(ours.name, json.loads(json.dumps(ours.built_from)), image_size=32)
    again.load_state_dict(ours.model.state_dict())
    with torch.no_grad():
        expected = theirs(image).logits
        for model in (ours.model, copy.deepcopy(ours.model), pickle.loads(pickle.dumps(ours)).model, again):
            assert torch.equal(model(image).logits, expected)


def test_without_a_processor_the_images_are_told(tiny_resnet: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((tiny_resnet / name).read_bytes())
    with pytest.raises(SettingsError, match=r"does not say which images it takes\. Give --image-size PX"):
        load_backbone(f"hf:{tmp_path}")
    loaded = load_backbone(f"hf:{tmp_path}", image_size=48)
    assert loaded.preprocessing.image_size == 48
    assert any("they get ImageNet's mean" in note for note in loaded.notes)


def test_random_weights_and_those_of_a_file_of_transformers(tiny_resnet: Path, tmp_path: Path) -> None:
    name = f"hf:{tiny_resnet}"
    first, again = (load_backbone(name, "random", seed=3) for _ in range(2))
    assert first.digest == again.digest != load_backbone(name).digest
    torch.save(first.model.state_dict(), tmp_path / "w.pt")
    assert load_backbone(name, str(tmp_path / "w.pt")).digest == first.digest


class _Seen:
    """A processor of transformers', with what the tests look at."""

    def __init__(self, **values: object) -> None:
        usual = {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "resample": 2,
            "size": {"shortest_edge": 256},
        }
        self.__dict__.update({**usual, **values})


@pytest.mark.parametrize(
    ("values", "size", "share"),
    [
        ({"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 224, 0.875),
        ({"size": {"height": 224, "width": 224}}, 224, 1.0),
        ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 0.875),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, 1.0),
    ],
)
def test_a_processor_says_which_part_of_an_image_is_seen(values, size: int, share: float) -> None:
    from depthsearch.models.backbones.transformers_source import seen_by_processor

    seen = seen_by_processor("hf:x", _Seen(**values))
    assert (seen.image_size, seen.crop_share) == (size, share)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"do_flip_channel_order": True}, "takes blue first"),
        ({"rescale_factor": 1 / 127.5}, "scales pixels by 0.00784314, and here it is 1/255"),
        ({"size": {"height": 224, "width": 300}}, "here all are square"),
    ],
)
def test_a_processor_that_does_more_is_refused(values, expected: str) -> None:
    from depthsearch.models.backbones.transformers_source import seen_by_processor

    with pytest.raises(SettingsError, match=expected):
        seen_by_processor("hf:x", _Seen(**values))


def test_without_a_network_a_name_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(hub, "answers", lambda ask: False)
    with pytest.raises(
        WeightsError, match=r"^No model hf:microsoft/resnet-18: no such folder, not in the .*go"
    ):
        load_backbone("hf:microsoft/resnet-18")


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from depthsearch.models.backbones import requirements

    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r'needs transformers: pip install "depthsearch\[transformers\]"'):
        make_model("hf:microsoft/resnet-18")


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(SettingsError, match=r"has no configuration that transformers reads"):
        load_backbone(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(SettingsError, match=r"is a bert, of which transformers .* has no image classifier"):
        load_backbone(f"hf:{tmp_path}", image_size=32)


def test_every_backbone_is_a_module_on_its_own(here: Path) -> None:
    assert isinstance(make_model("net.py:make", image_size=32), nn.Module)


def test_a_network_whose_maker_froze_all_of_it_can_learn(here: Path) -> None:
    Path("net.py").write_text(
        NET + "\n\ndef frozen():\n    return Net().requires_grad_(False)\n", encoding="utf-8"
    )
    assert all(p.requires_grad for p in load_backbone("net.py:frozen", image_size=32).model.parameters())
