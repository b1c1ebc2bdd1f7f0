"""Contract 1 on timm's families: both parts together are the model, bitwise, wherever it is cut.

The default run splits a quick network of each kind at five cuts; ``-m slow`` splits these at every cut, and
others, whose blocks repeat, at eight.
"""

from itertools import pairwise

import pytest
import timm
import torch
from torch import nn

from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut
from depthsearch.models.split import split_traced
from depthsearch.models.tracing.trace import trace
from depthsearch.options.words import KINDS

# One quick network of each way to be built, and an image size at which it runs, in pixels.
KINDS_OF_NETWORK = {
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_nfnet": 64,
    "test_resnet": 64,
    "cs3darknet_s": 64,
    "densenet121": 64,
    "dla34": 64,
    "efficientvit_b0": 64,
    "ghostnet_050": 64,
    "inception_next_atto": 64,
    "mobilevit_xxs": 64,
    "vgg11_bn": 64,
}
# Those that are split in every run of the tests; all are at every cut in the slow ones.
QUICK = ("test_convnext", "test_efficientnet", "test_nfnet", "test_resnet", "densenet121")
# One more of each of timm's modules whose networks are put together otherwise.
OTHERS = {
    "convnext_atto": 64,
    "cspnext_tiny": 64,
    "darknet17": 64,
    "edgenext_xx_small": 64,
    "ese_vovnet19b_slim_dw": 64,
    "fasternet_t0": 64,
    "gernet_s": 64,
    "hgnet_tiny": 64,
    "legacy_seresnet18": 64,
    "mambaout_femto": 64,
    "mixnet_s": 64,
    "mobilenetv1_100": 64,
    "mobilenetv3_small_050": 64,
    "mobilenetv4_conv_small_050": 64,
    "poolformer_s12": 64,
    "regnetx_002": 64,
    "repghostnet_050": 64,
    "repvgg_a0": 64,
    "resnest14d": 64,
    "resnet18": 64,
    "resnetblur18": 64,
    "resnetv2_18": 64,
    "rexnet_100": 64,
    "selecsls42": 64,
    "skresnet18": 64,
    "starnet_s050": 64,
    "tf_efficientnet_lite0": 64,
    "mobileone_s0": 64,
    "convformer_s18": 64,
    "convmixer_768_32": 64,
    "dla60_res2net": 64,
    "dpn48b": 64,
    "eca_nfnet_l0": 64,
    "fastvit_t8": 64,
    "ghostnetv2_100": 64,
    "hrnet_w18_small": 64,
    "inception_resnet_v2": 96,
    "inception_v4": 96,
    "lcnetv2_small": 64,
    "legacy_xception": 64,
    "mobilevitv2_050": 64,
    "nasnetalarge": 96,
    "pnasnet5large": 96,
    "rdnet_tiny": 64,
    "regnetz_005": 64,
    "repvit_m0_9": 64,
    "res2net50_14w_8s": 64,
    "shvit_s1": 64,
    "tresnet_m": 64,
    "xception41": 64,
}
# Not the 100 million weights behind VGG's convolutions, nor 58 times the same dense layer.
OPTIONS = {"vgg11_bn": {"mlp_ratio": 0.02}, "densenet121": {"block_config": (3, 4, 6, 4)}}
# torch.fx and timm themselves warn; what they warn of is no matter of splitting.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::UserWarning:torch")


def build(name: str) -> nn.Module:
    """Make a model with random weights, none of them zero: a layer scale of zero would hide a wrong block."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **OPTIONS.get(name, {})).eval()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def spread(cuts: list[Cut], n_cuts: int) -> list[Cut]:
    """Take the first, the last, and others evenly between them."""
    places = [round(i * (len(cuts) - 1) / (n_cuts - 1)) for i in range(n_cuts)]
    return [cuts[place] for place in dict.fromkeys(places)]


def assert_splits_at(model: nn.Module, cuts: list[Cut], image_size: int) -> None:
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(images)
        assert expected.std() > 0
        graph = trace(model, image_size=image_size)
        for cut in cuts:
            split = split_traced(graph, model, cut)
            split.suffix.eval()
            boundary = split.prefix(images)
            # The suffix gets copies, as from a store, and may not change them.
            kept = [tensor.clone() for tensor in boundary]
            assert torch.equal(split.suffix(kept), expected), cut
            assert all(map(torch.equal, kept, boundary)), cut


def cuts_of(model: nn.Module, image_size: int) -> list[Cut]:
    cuts = list_cuts(model, KINDS, image_size=image_size)
    assert all(a.trainable_parameters > b.trainable_parameters for a, b in pairwise(cuts))
    return cuts


@pytest.mark.parametrize("name", QUICK)
def test_model_is_split_into_what_it_computes(name):
    model = build(name)
    assert_splits_at(model, spread(cuts_of(model, KINDS_OF_NETWORK[name]), 5), KINDS_OF_NETWORK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS_OF_NETWORK)
def test_model_is_split_at_every_cut(name):
    """Guards contract 1, suffix(prefix(x)) == model(x) to the bit, at every cut and not at five."""
    model = build(name)
    assert_splits_at(model, cuts_of(model, KINDS_OF_NETWORK[name]), KINDS_OF_NETWORK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_model_is_split_into_what_it_computes(name):
    """Guards the same for families with an odd graph."""
    model = build(name)
    assert_splits_at(model, spread(list_cuts(model, KINDS, image_size=OTHERS[name]), 8), OTHERS[name])
