"""Candidate cuts: which there are, in which order, under which names, and what they freeze."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
import torchvision
from torch import nn

from depthsearch import freeze_before
from depthsearch.errors import CutError
from depthsearch.models import candidates as module
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import DEFAULT_KINDS, Cut, find_cut
from depthsearch.models.tracing.graph import LayerGraph
from depthsearch.models.tracing.trace import trace
from depthsearch.options.words import KINDS

MODELS = [
    "densenet121",
    "resnet50",
    "resnetblur50",
    "vgg16",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "convnext_atto",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("seresnet50", "inception_v3", "dm_nfnet_f0")),
]


@cache
def build(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@cache
def graph_of(name: str) -> LayerGraph:
    with torch.device("meta"):
        return trace(build(name))


@cache
def cuts_of(name: str, kinds: tuple[str, ...] = ("conv", "pool", "concat")) -> list[Cut]:
    return module.cuts_of(graph_of(name), build(name), kinds)


def picked(name: str, layers: list[str | int], kinds: tuple[str, ...] = DEFAULT_KINDS) -> list[Cut]:
    return module.cuts_of(graph_of(name), build(name), kinds, layers=layers)


def aliases_of(cuts: list[Cut]) -> dict[str, tuple[str, ...]]:
    return {cut.name: cut.aliases for cut in cuts}


def torchvision_cuts(name: str, **options: object) -> list[Cut]:
    with torch.device("meta"):
        return list_cuts(torchvision.models.get_model(name, weights=None), **options)


@pytest.mark.parametrize(
    "name", [144, "144", "conv4_block1_1_conv", "features.denseblock3.denselayer1.conv1"]
)
def test_cut_is_found_by_number_keras_name_and_path(name):
    cut = find_cut(cuts_of("densenet121"), name)
    assert (cut.layer, cut.keras_name) == (144, "conv4_block1_1_conv")
    assert cut.name == cut.first_layer == "features.denseblock3.denselayer1.conv1"
    assert str(cut) == "layer 144 (conv4_block1_1_conv, features.denseblock3.denselayer1.conv1)"


def test_densenet121_freezes_most_of_its_work_before_layer_144():
    cut = find_cut(cuts_of("densenet121"), 144)
    assert cut.frozen_mac_share == pytest.approx(0.733, abs=0.001)
    assert cut.frozen_parameter_share == pytest.approx(0.206, abs=0.001)


def test_cut_is_found_by_an_alias():
    assert find_cut(cuts_of("resnet50"), "maxpool").name == "layer1.0.conv1"


def test_unknown_name_is_an_error_with_the_names_that_come_nearest():
    message = (
        r"^No cut 'layer4\.2'\. Near: layer 166 \(conv5_block3_1_conv, layer4\.2\.conv1\), "
        r".*layer4\.2\.conv3\)\. All of them: depthsearch cuts BACKBONE\.$"
    )
    with pytest.raises(CutError, match=message):
        find_cut(cuts_of("resnet50"), "layer4.2")
    with pytest.raises(CutError, match=r"^No cut 'layer9'\. Near: layer \d+ \(.*layer.*\)\. All"):
        find_cut(cuts_of("resnet50"), "layer9")


def test_unknown_number_is_an_error_with_the_numbers_that_come_nearest():
    with pytest.raises(CutError, match=r"^No cut '145'\. Near: layer 144 .*, layer 147 .*, layer 148 "):
        find_cut(cuts_of("densenet121"), 145)


# Keras' Conv2D layers of MobileNet; its depthwise convolutions are another class.
MOBILENET_CONV2D = [2, 8, 15, 21, 28, 34, 41, 47, 53, 59, 65, 71, 78, 84]


@pytest.mark.parametrize(
    ("name", "layers", "found"),
    [
        ("densenet121", [52, 56, 140, 144, 151, 312, 316], [52, 56, 140, 144, 151, 312, 316]),
        ("densenet121", ["pool[23]_conv", "conv4_block1_1_conv"], [52, 140, 144]),
        ("densenet121", ["features.transition*.conv"], [52, 140, 312]),
        ("densenet121", [144, "features.transition3.conv", "144"], [144, 312]),
        ("mobilenetv1_100", MOBILENET_CONV2D, MOBILENET_CONV2D),
        ("mobilenetv1_100", ["conv_pw_*"], MOBILENET_CONV2D[1:]),
        ("vgg16", ["block5_conv1"], [16]),
    ],
)
def test_layers_pick_candidates_by_number_name_and_pattern_and_both_ends_stay(name, layers, found):
    cuts = picked(name, layers)
    every = cuts_of(name)
    first, last = every[0], every[-1]
    assert [cut.layer for cut in cuts] == [first.layer, *(n for n in found if n != first.layer), last.layer]
    assert [cut.index for cut in cuts] == list(range(len(cuts)))
    by_name = {cut.name: cut for cut in every}
    assert [replace(cut, index=by_name[cut.name].index) for cut in cuts] == [by_name[c.name] for c in cuts]


@pytest.mark.parametrize("alias", [7, "maxpool", "pool1_pool"])
def test_a_layer_that_was_merged_into_another_picks_that_cut(alias):
    """Keras' layer 7 of ResNet50, the pooling, freezes what the convolution behind it freezes."""
    _, cut, _ = picked("resnet50", [alias])
    assert (cut.layer, cut.name, cut.aliases) == (8, "layer1.0.conv1", ("maxpool",))


@pytest.mark.parametrize(
    ("layer", "kinds", "message"),
    [
        (999, DEFAULT_KINDS, r"^No layer '999' in DenseNet\. Near: layer 424 \(.*, layer 431 "),
        (145, DEFAULT_KINDS, r"^Layer '145' \(features\.denseblock3\.denselayer1\.norm2\) is none of conv, "
         r"pool, concat, block: no cut starts there\. Near: layer 144 \(conv4_block1_1_conv, .*, layer 147 "),
        ("conv4_block1_1_cov", DEFAULT_KINDS, r"^No layer 'conv4_block1_1_cov' in .* Near: layer 144 "),
        ("conv_pw_*", DEFAULT_KINDS, r"^No layer 'conv_pw_\*' in DenseNet\. Near: "),
        ("features.denseblock3.denselayer1", DEFAULT_KINDS, r"^Layer 'features\.denseblock3\.denselayer1' is "
         r"none of conv, pool, concat: --kinds conv,pool,concat,block has it\.$"),
        (148, ("conv",), r"^Layer '148' is none of conv: --kinds conv,concat has it\.$"),
        ("pool3_pool", ("concat",), r"^Layer 'pool3_pool' is none of concat: --kinds concat,pool has it\.$"),
    ],
)  # fmt: skip
def test_a_layer_that_is_no_candidate_says_why(layer, kinds, message):
    with pytest.raises(CutError, match=message):
        picked("densenet121", [layer], kinds)


@pytest.mark.parametrize("name", MODELS)
def test_cuts_are_ordered_by_depth(name):
    for kinds in (("conv", "pool", "concat"), KINDS):
        cuts = cuts_of(name, kinds)
        assert [cut.index for cut in cuts] == list(range(len(cuts)))
        for before, after in pairwise(cuts):
            assert before.frozen_mac_share <= after.frozen_mac_share
            assert before.frozen_parameter_share < after.frozen_parameter_share
            assert before.trainable_parameters > after.trainable_parameters


@pytest.mark.parametrize("name", MODELS)
def test_first_cut_freezes_nothing_and_the_last_the_whole_backbone(name):
    cuts = cuts_of(name)
    first, last = cuts[0], cuts[-1]
    classifier = build(name).get_classifier()
    n_parameters = sum(p.numel() for p in build(name).parameters())
    n_classifier = sum(p.numel() for p in classifier.parameters())
    assert (first.frozen_mac_share, first.frozen_parameter_share) == (0, 0)
    assert first.trainable_parameters == n_parameters - n_classifier
    assert (last.kind, last.trainable_parameters) == ("head", 0)
    assert (last.frozen_mac_share, last.frozen_parameter_share) == (1, 1)
    assert [cut.kind for cut in cuts].count("head") == 1
    assert build(name).get_submodule(last.name) is classifier


def test_first_layer_is_a_cut_even_where_its_kind_is_no_candidate():
    assert cuts_of("resnet50", ("block",))[0].name == "conv1"
    assert cuts_of("densenet121", ("concat",))[0].trainable_parameters == 6_953_856


def test_pooling_and_the_convolution_behind_it_are_one_cut():
    assert aliases_of(cuts_of("resnet50"))["layer1.0.conv1"] == ("maxpool",)
    vgg16 = aliases_of(cuts_of("vgg16"))
    pools = {name: aliases for name, aliases in vgg16.items() if aliases}
    assert pools == {
        "features.5": ("features.4",),
        "features.10": ("features.9",),
        "features.17": ("features.16",),
        "features.24": ("features.23",),
        "head.fc": ("head.global_pool.pool",),
    }


def test_batch_norm_between_pooling_and_convolution_makes_two_cuts():
    names = [cut.name for cut in cuts_of("densenet121")]
    place = names.index("features.transition2.pool")
    assert names[place + 1] == "features.denseblock3.denselayer1.conv1"


def test_fixed_blur_makes_no_cut_of_its_own():
    cuts = {cut.name: cut for cut in cuts_of("resnetblur50")}
    assert "layer2.0.aa.conv2d" in cuts["layer2.0.conv3"].aliases
    assert "layer2.0.aa.conv2d" not in cuts


def test_statistics_without_parameters_make_a_cut_of_their_own():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4, affine=False),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    assert aliases_of(list_cuts(model, image_size=8)) == {"0": (), "1": (), "4": ("3",), "6": ()}


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v3_large", "alexnet"])
def test_linear_layers_of_a_classifier_container_are_no_candidates(name):
    cuts = torchvision_cuts(name)
    assert (cuts[-1].name, cuts[-1].kind) == ("classifier", "head")
    assert not any(n.startswith("classifier") for cut in cuts[:-1] for n in (cut.name, *cut.aliases))


def test_classifier_that_is_a_convolution_is_found_or_named_by_the_caller():
    cuts = torchvision_cuts("squeezenet1_1", head="classifier")
    assert (cuts[-1].name, cuts[-2].name) == ("classifier", "features.12.expand3x3")
    found = torchvision_cuts("squeezenet1_1")
    assert (found[-1].name, found[-2].name) == ("classifier.1", "features.12.expand3x3")


def test_classifier_that_timm_names_may_be_a_convolution():
    cuts = cuts_of("dpn68")
    assert isinstance(build("dpn68").classifier, nn.Conv2d)
    assert (cuts[-1].name, cuts[-1].kind) == ("classifier", "head")
    assert "classifier" not in [cut.name for cut in cuts[:-1]]


def test_head_that_is_no_module_is_an_error():
    with pytest.raises(
        CutError, match=r"No module 'top' runs in SqueezeNet\. Its last layers: classifier\.2, "
    ):
        torchvision_cuts("squeezenet1_1", head="top")


@pytest.mark.parametrize("kind", ["conv", "pool", "concat"])
def test_only_the_kinds_asked_for_are_candidates(kind):
    cuts = cuts_of("densenet121", (kind,))
    n_cuts = {"conv": 120, "pool": 5, "concat": 58}
    assert {cut.kind for cut in cuts[1:-1]} == {kind}
    names = {n for cut in cuts[1:-1] for n in (cut.name, *cut.aliases)} | set(cuts[-1].aliases)
    assert len(names | {cuts[0].name}) == n_cuts[kind] + (kind != "conv")


@pytest.mark.parametrize(
    ("name", "n_blocks", "first", "last"),
    [
        ("resnet50", 16, "layer1.0", "layer4.2"),
        ("densenet121", 58, "features.denseblock1.denselayer1", "features.denseblock4.denselayer16"),
        ("efficientnet_b0", 16, "blocks.0.0", "blocks.6.0"),
        ("convnext_atto", 12, "stages.0.blocks.0", "stages.3.blocks.1"),
        pytest.param("dm_nfnet_f0", 12, "stages.0.0", "stages.3.2", marks=pytest.mark.slow),
    ],
)
def test_blocks_are_the_repeated_units(name, n_blocks, first, last):
    stem, *blocks, head = cuts_of(name, ("block",))
    assert (len(blocks), blocks[0].name, blocks[-1].name) == (n_blocks, first, last)
    assert {cut.kind for cut in blocks} == {"block"}
    assert (stem.frozen_parameter_share, head.kind) == (0, "head")


def test_block_lends_its_name_to_the_cut_at_its_start():
    cuts = cuts_of("resnet50", KINDS)
    assert find_cut(cuts, "layer3.2").name == "layer3.2.conv1"
    assert find_cut(cuts, "layer3.2").aliases == ("layer3.2",)


@pytest.mark.parametrize(
    ("name", "boundary_bytes"),
    [
        # The transition's convolution gives 256 channels of 28 x 28 pixels, its pooling 14 x 14.
        ("features.transition2.pool", 256 * 28 * 28 * 4),
        ("features.denseblock3.denselayer1", 256 * 14 * 14 * 4),
        # The first convolution of a dense layer reads its norm's output; the block goes on with its input.
        ("features.denseblock3.denselayer1.conv1", 2 * 256 * 14 * 14 * 4),
        ("features.denseblock3.denselayer1.conv2", (256 + 128) * 14 * 14 * 4),
        ("features.denseblock3.denselayer2.cat", (256 + 32) * 14 * 14 * 4),
        ("classifier", 1024 * 4),
    ],
)
def test_boundary_has_the_bytes_counted_by_hand(name, boundary_bytes):
    kinds = ("block",) if name.endswith("denselayer1") else ("conv", "pool", "concat")
    assert find_cut(cuts_of("densenet121", kinds), name).boundary_bytes == boundary_bytes


def test_image_size_scales_bytes_and_macs_and_not_numbers():
    with torch.device("meta"):
        large = list_cuts(build("densenet121"), image_size=448)
    usual = cuts_of("densenet121")
    scaled = {"boundary_bytes": 0, "frozen_mac_share": 0, "training_macs": 0}
    assert [replace(cut, **scaled) for cut in large] == [replace(cut, **scaled) for cut in usual]
    assert [cut.training_macs for cut in large] == [4 * cut.training_macs for cut in usual]
    assert [cut.boundary_bytes for cut in large[:-1]] == [4 * cut.boundary_bytes for cut in usual[:-1]]
    assert large[-1].boundary_bytes == usual[-1].boundary_bytes


@pytest.mark.parametrize("name", ["densenet121", "vgg16", "mobilenetv3_small_050"])
def test_number_of_classes_does_not_matter(name):
    with torch.device("meta"):
        assert list_cuts(timm.create_model(name, num_classes=7)) == cuts_of(name)


def test_backbone_without_classifier_has_the_same_cuts():
    with torch.device("meta"):
        cuts = list_cuts(timm.create_model("resnet18", num_classes=0))
    assert [cut.name for cut in cuts] == [cut.name for cut in cuts_of("resnet18")]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ("conv", "layer"),
            r"^No candidate kind 'layer': give some of conv, pool, concat, block, linear, or auto\.$",
        ),
        ((), r"^No candidate kind \(none given\): give some of "),
    ],
)
def test_unknown_kind_is_an_error(kinds, message):
    with pytest.raises(CutError, match=message):
        list_cuts(build("resnet18"), kinds)


def test_model_without_a_layer_of_the_kind_is_an_error():
    with pytest.raises(CutError, match=r"^VGG has no block or concat layer to cut at; it has: conv, pool\.$"):
        cuts_of("vgg16", ("block", "concat"))


def test_a_backbone_that_is_kept_whole_has_both_ends_and_the_reason_is_told():
    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.b(self.a(x)).mean((2, 3)) if x.sum() >= 0 else x

    model = nn.Sequential(Body(), nn.Linear(4, 2))
    assert [(cut.name, cut.kind) for cut in list_cuts(model, image_size=8)] == [("0", "block"), ("1", "head")]
    with pytest.raises(CutError, match=r"has no conv layer .* '0' is kept whole: it branches on a tensor\.$"):
        list_cuts(model, ("conv",), image_size=8)


def test_model_that_is_only_a_classifier_is_an_error():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    with pytest.raises(CutError, match=r"^Sequential has no layer with parameters before its classifier '1'"):
        list_cuts(model, image_size=8)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_what_learns_at_a_cut_is_what_torch_counts(name: str) -> None:
    model = timm.create_model(name)
    head = model.pretrained_cfg["classifier"] + "."
    cuts = list_cuts(model)
    for cut in (*cuts[::6], cuts[-1]):
        with freeze_before(model, cut):
            learns = [p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(head)]
        assert (len(learns), sum(p.numel() for p in learns)) == (
            cut.trainable_tensors,
            cut.trainable_parameters,
        )
