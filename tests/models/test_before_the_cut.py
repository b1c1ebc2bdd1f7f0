"""What lies before the cut is frozen, all of it and nothing else, in models of all of timm and torchvision.

What is used before the first trainable layer is seen by running the model, with a mode of PyTorch that notes
the arguments of every function: no list of ours takes part. Large models are built without weights, on the
meta device, where gradients flow all the same.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torchvision.models.regnet import BlockParams

from depthsearch import Cut, freeze_before, list_cuts
from depthsearch.errors import CutError
from depthsearch.models.tracing.inputs import input_size, logits_of

# The smallest model of each of timm's modules, and an image size in pixels where it takes a smaller one:
# four kinds in the default run, all others of each kind in the slow one.
FAST = {"test_efficientnet": 64, "test_mambaout": 64, "test_resnet": 64, "test_vit": 160}
SLOW = {
    "test_byobnet": 64,
    "test_convnext": 64,
    "test_nfnet": 64,
    "test_vit_relpos": 160,
    "efficientvim_m1": 96,
    "mobilenetv3_small_050": 64,
    "starnet_s050": 64,
    "cait_xxs24_224": 224,
    "coat_tiny": 224,
    "convit_tiny": 224,
    "convmixer_768_32": 64,
    "cpubone_nano": 64,
    "crossvit_tiny_240": 240,
    "cs3darknet_focus_s": 64,
    "cspnext_tiny": 64,
    "deit_tiny_patch16_224": 224,
    "densenet121": 64,
    "dla46x_c": 64,
    "dpn48b": 64,
    "edgenext_xx_small": 64,
    "efficientformer_l1": 224,
    "efficientformerv2_s0": 224,
    "efficientvit_b0": 64,
    "efficientvit_m0": 64,
    "ese_vovnet19b_slim_dw": 64,
    "fasternet_t0": 64,
    "fastvit_t8": 64,
    "gcvit_xxtiny": 64,
    "ghostnet_050": 64,
    "gmlp_ti16_224": 224,
    "halonet_h1": 256,
    "hardcorenas_b": 64,
    "hgnetv2_b0": 64,
    "hrnet_w18_small": 64,
    "iformer_t": 64,
    "inception_next_atto": 64,
    "lcnetv2_small": 64,
    "legacy_seresnet18": 64,
    "levit_128s": 224,
    "lowformer_b0": 64,
    "mobilevit_xxs": 64,
    "pit_ti_224": 224,
    "poolformerv2_s12": 64,
    "pvt_v2_b0": 64,
    "regnetx_002": 64,
    "repghostnet_050": 64,
    "repvit_m1": 64,
    "resnest14d": 64,
    "resnetv2_18": 64,
    "rexnet_100": 64,
    "shvit_s1": 64,
    "skresnet18": 64,
    "swiftformer_xs": 224,
    "test_coatnet": 160,
    "tiny_vit_5m_224": 64,
    "visformer_tiny": 224,
    "vit_tiny_patch16_dinov3_qkvb": 256,
    "vit_tiny_r_s16_p8_224": 224,
    "xcit_nano_12_p8_224": 224,
}
WITHOUT_WEIGHTS = [
    "beit_base_patch16_224",
    "davit_tiny",
    "deepseek_vit_412m",
    "focalnet_tiny_srf",
    "gemma4_vit_167m",
    "hiera_tiny_224",
    "sam2_hiera_tiny",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "legacy_xception",
    "mobilenetv5_base",
    "mvitv2_tiny",
    "naflexvit_base_patch16_parfac_gap",
    "nasnetalarge",
    "nest_tiny",
    "nextvit_small",
    "pnasnet5large",
    "qwen3_vit_88m",
    "rdnet_tiny",
    "res2next50",
    "samvit_base_patch16_224",
    "selecsls42",
    "sequencer2d_s",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "swinv2_cr_tiny_224",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "vitamin_small_224",
    "volo_d1_224",
    "xception41p",
]
# Their blocks are alike, and their layers are built and called in the same ways if there are fewer.
TWO_BLOCKS = (
    *("beit_base_patch16_224", "cait_xxs24_224", "convit_tiny", "deepseek_vit_412m"),
    *("gemma4_vit_167m", "naflexvit_base_patch16_parfac_gap", "qwen3_vit_88m", "samvit_base_patch16_224"),
    *("tnt_s_legacy_patch16_224", "vit_tiny_patch16_dinov3_qkvb", "vitamin_small_224"),
    *("xcit_nano_12_p8_224", "deit_tiny_patch16_224"),
)
ONE_BLOCK_A_STAGE = (
    *(
        "davit_tiny",
        "efficientformer_l1",
        "efficientformerv2_s0",
        "pvt_v2_b0",
        "swin_tiny_patch4_window7_224",
    ),
    *("swinv2_cr_tiny_224", "swinv2_tiny_window8_256", "tiny_vit_5m_224", "twins_svt_small"),
)
SHORTER: dict[str, dict[str, Any]] = {
    **{name: {"depth": 2} for name in TWO_BLOCKS},
    **{name: {"depths": (1, 1, 1, 1)} for name in ONE_BLOCK_A_STAGE},
    "hiera_tiny_224": {"stages": (1, 1, 1, 1)},
    "sam2_hiera_tiny": {"stages": (1, 1, 1, 1)},
    "crossvit_tiny_240": {"depth": ((1, 1, 0),) * 3},
    "coat_tiny": {"serial_depths": (1, 1, 1, 1), "parallel_depth": 1},
    "gcvit_xxtiny": {"img_size": 64},
    # Without weights an LSTM is computed step by step.
    "sequencer2d_s": {"img_size": 28, "layers": (1, 1, 1, 1)},
}
# Of their classifiers those that are small; all of them are run without weights.
TORCHVISION_FAST = {"resnet18": 64, "squeezenet1_1": 64}
# Only wider or deeper than one of the others.
LARGER = {
    *("convnext_base", "convnext_large", "convnext_small"),
    *("densenet161", "densenet169", "densenet201"),
    *("efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5"),
    *("efficientnet_b6", "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m"),
    *("mnasnet0_75", "mnasnet1_0", "mnasnet1_3"),
    *("regnet_x_16gf", "regnet_x_1_6gf", "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_800mf"),
    *("regnet_x_8gf", "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf"),
    *("regnet_y_3_2gf", "regnet_y_800mf", "regnet_y_8gf"),
    *("resnet101", "resnet152", "resnet34"),
    *("resnext101_32x8d", "resnext101_64x4d"),
    *("shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    *("swin_b", "swin_s", "swin_v2_b", "swin_v2_s"),
    *("vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("vit_b_16", "vit_h_14", "vit_l_16", "vit_l_32"),
    "wide_resnet101_2",
}
TORCHVISION = [n for n in torchvision.models.list_models(module=torchvision.models) if n not in LARGER]

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


class Uses(TorchFunctionMode):
    """Notes every tensor that PyTorch is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen |= {
            id(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)
        }
        return func(*args, **(kwargs or {}))


def names_of(model: nn.Module, seen: set[int]) -> set[str]:
    return {name for name, p in model.named_parameters(remove_duplicate=False) if id(p) in seen}


@contextmanager
def first_call(module: nn.Module, look: Callable[[Any], None]) -> Iterator[None]:
    """Show what a module is called with, the first time."""
    calls: list[None] = []

    def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
        if not calls:
            calls.append(None)
            look((args, kwargs))

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def used_before(model: nn.Module, path: str, images: torch.Tensor) -> tuple[set[str], set[str]]:
    """Name the parameters used before a module begins, and all that are used."""
    uses, before = Uses(), set[int]()
    with torch.no_grad(), first_call(model.get_submodule(path), lambda _: before.update(uses.seen)), uses:
        model.eval()(images)
    return names_of(model, before), names_of(model, uses.seen)


def called_at(model: nn.Module, cut: Cut, images: torch.Tensor) -> str | None:
    """Name the module that a cut begins with, if it is one that is called."""
    called = set[str]()
    for path, module in model.named_modules():
        module.register_forward_pre_hook(lambda _, __, path=path: called.add(path))
    with torch.no_grad():
        model.eval()(images)
    return next((name for name in (cut.name, cut.first_layer) if name and name in called), None)


def assert_frozen_right(model: nn.Module, cut: Cut, path: str, images: torch.Tensor) -> None:
    """Freeze before a cut and train a step; compare with what is used before it."""
    before, used = used_before(model, path, images)
    freeze_before(model, cut)
    frozen = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    assert frozen == (before if cut.index else set())
    learning = [p for p in model.parameters() if p.requires_grad]
    state = copy.deepcopy(model.state_dict())
    given: list[Any] = []
    with first_call(model.get_submodule(path), given.append):
        logits = logits_of(model.train()(images))
    if cut.index:
        assert not any(t.requires_grad for t in tree_leaves(given) if isinstance(t, torch.Tensor))
    if not learning:
        return
    (logits * torch.randn_like(logits)).sum().backward()
    with_gradient = {n for n, p in model.named_parameters(remove_duplicate=False) if p.grad is not None}
    assert with_gradient >= used - frozen
    assert with_gradient.isdisjoint(frozen)
    if logits.is_meta:
        return
    for parameter in learning:
        if parameter.grad is not None:
            parameter.grad.sign_()
    torch.optim.SGD(learning, lr=0.1).step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, state[name])}
    assert moved.isdisjoint(frozen)
    statistics = {name for name in moved if name.endswith(("running_mean", "num_batches_tracked"))}
    assert {name.rpartition(".")[0] for name in statistics}.isdisjoint(f.rpartition(".")[0] for f in frozen)
    # A gradient may happen to be nought, as behind a ReLU that lets nothing through.
    still = used - frozen - moved
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert not any(parameters[name].grad.any() for name in still)


def assert_all_frozen_right(make: Callable[[], nn.Module], size: int | None, n_cuts: int = 2) -> None:
    """Look at the cut in the middle, where most may go wrong, or also at the last one."""
    torch.manual_seed(0)
    model = make().eval()
    channels, height, width = input_size(model)
    meta = next(model.parameters()).is_meta
    images = torch.randn(2, channels, size or height, size or width, device="meta" if meta else "cpu")
    cuts = list_cuts(model, image_size=size)
    for cut in (cuts[len(cuts) // 2], cuts[-1])[:n_cuts]:
        path = called_at(copy.deepcopy(model), cut, images)
        if path is not None:
            assert_frozen_right(copy.deepcopy(model), cut, path, images)


@pytest.mark.parametrize("name", FAST)
def test_what_is_used_before_the_cut_is_frozen_and_nothing_else(name):
    assert_all_frozen_right(lambda: timm.create_model(name, num_classes=5), FAST[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_what_is_used_before_the_cut_is_frozen_in_larger_models(name):
    """Guards parameters that several layers use, in networks that have them."""
    options = SHORTER.get(name, {})
    assert_all_frozen_right(lambda: timm.create_model(name, num_classes=5, **options), SLOW[name], n_cuts=1)


@pytest.mark.slow
def test_a_model_whose_attention_mixes_images_is_refused():
    """Guards against features that depend on the rest of the batch."""
    model = timm.create_model("csatv2", num_classes=5)
    with pytest.raises(CutError, match=r"it depends on the other images of a batch in eval mode too"):
        freeze_before(model, list_cuts(model, image_size=96)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_what_is_used_before_the_cut_is_frozen_in_large_models(name):
    """Guards the same in networks of hundreds of layers."""
    options = SHORTER.get(name, {})
    with torch.device("meta"):
        assert_all_frozen_right(lambda: timm.create_model(name, num_classes=5, **options), None, n_cuts=1)


@pytest.mark.parametrize("name", TORCHVISION_FAST)
def test_what_is_used_before_the_cut_is_frozen_in_torchvisions_classifiers(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    assert_all_frozen_right(
        lambda: torchvision.models.get_model(name, num_classes=5, **options), TORCHVISION_FAST[name]
    )


@pytest.fixture
def regnets_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let RegNets be built without weights: their widths are computed with tensors, which need values."""
    widths = BlockParams.from_init_params

    def computed(*args: Any, **kwargs: Any) -> BlockParams:
        with torch.device("cpu"):
            return widths(*args, **kwargs)

    monkeypatch.setattr(BlockParams, "from_init_params", computed)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_what_is_used_before_the_cut_is_frozen_in_every_kind_of_torchvisions_classifiers(
    name, regnets_on_meta
):
    """Guards the same for torchvision's families."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else None
    with torch.device("meta"):
        assert_all_frozen_right(lambda: torchvision.models.get_model(name, **options), size, n_cuts=1)


# The head of each, by what its parameters' names begin with.
HEADS = {
    "deit_tiny_distilled_patch16_224": ("head.", "head_dist."),
    "levit_128s": ("head.", "head_dist."),
    "efficientformer_l1": ("head.", "head_dist."),
    "swiftformer_xs": ("head.", "head_dist."),
    "volo_d1_224": ("head.", "aux_head."),
    "caformer_s18": ("head.fc.",),
    "convformer_s18": ("head.fc.",),
    "vgg11": ("head.fc.",),
    "resnet18": ("fc.",),
    "torchvision:vgg11": ("classifier.",),
    "torchvision:maxvit_t": ("classifier.",),
    "torchvision:squeezenet1_1": ("classifier.1.",),
    "torchvision:googlenet": ("fc.",),
    "torchvision:vit_b_16": ("heads.",),
    "torchvision:swin_v2_t": ("head.",),
}


# In the default run: linear classifiers, one that is a convolution, one of several layers, two at once.
QUICK = (
    "vgg11",
    "resnet18",
    "torchvision:squeezenet1_1",
    "torchvision:vit_b_16",
    "deit_tiny_distilled_patch16_224",
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in HEADS]
)
def test_at_the_last_cut_all_that_is_the_head_learns_and_nothing_else(name):
    family, _, rest = name.rpartition(":")
    options = {"init_weights": False} if rest == "googlenet" else {}
    with torch.device("meta"):
        model = (torchvision.models.get_model if family else timm.create_model)(rest, **options).eval()
        freeze_before(model, list_cuts(model)[-1])
        images = torch.zeros(1, *input_size(model))
        uses = Uses()
        with torch.no_grad(), uses:
            model(images)
    learning = {n for n, p in model.named_parameters() if p.requires_grad} & names_of(model, uses.seen)
    assert learning == {n for n, _ in model.named_parameters() if n.startswith(HEADS[name])}
