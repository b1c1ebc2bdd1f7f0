"""Sizes, channels, inputs, outputs and heads of other people's models are found, or what is right is said."""

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.models import PretrainedCfg
from torch import nn

from depthsearch import SearchSpace, freeze_before, list_cuts, split_at
from depthsearch.errors import TraceError
from depthsearch.models.tracing.inputs import input_size
from depthsearch.models.tracing.trace import trace


class Net(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.fc = nn.Linear(16, 4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv2(F.relu(self.norm1(self.conv1(x))))).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


def fixed_size() -> nn.Sequential:
    """The usual first CNN, for images of 32 px only."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
        *(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
        *(nn.Flatten(), nn.Linear(16 * 36, 64), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 2)),
    )


def learning(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 32},
        {"example_inputs": torch.rand(5, 3, 32, 32)},
        {"example_inputs": (torch.rand(1, 3, 32, 32),)},
        {"example_inputs": {"input": torch.rand(2, 3, 32, 32)}},
    ],
)
def test_every_entry_takes_the_same_inputs(options):
    model = fixed_size()
    cuts = list_cuts(model, **options)
    assert [cut.name for cut in cuts] == ["0", "2", "4", "6", "12"]
    assert {cut.image_shape for cut in cuts} == {(3, 32, 32)}
    assert SearchSpace.for_model(model, **options).cuts == tuple(cuts)
    split = split_at(model, cuts[2], **options)
    assert split.suffix(split.prefix(torch.rand(2, 3, 32, 32))).shape == (2, 2)
    with freeze_before(model, cuts[-1], **options):
        assert learning(model) == ["12.weight", "12.bias"]


def test_a_cut_brings_the_size_that_it_was_listed_for():
    model = fixed_size()
    cuts = list_cuts(model, image_size=32)
    assert split_at(model, cuts[1]).boundary_bytes == cuts[1].boundary_bytes
    freeze_before(model, cuts[-1])
    assert learning(model) == ["12.weight", "12.bias"]


def test_images_of_other_sides_are_taken():
    cuts = list_cuts(Net(), example_inputs=torch.rand(1, 3, 24, 40))
    assert cuts[1].boundary_bytes == 8 * 24 * 40 * 4


@pytest.mark.parametrize(
    "given", [torch.rand(3, 32, 32), torch.rand(0, 3, 8, 8), [], "x", (torch.rand(1, 3, 8, 8), torch.rand(1))]
)
def test_example_inputs_that_are_no_images_are_refused(given):
    with pytest.raises(TraceError, match=r"^example_inputs .*: give one batch of images \(n, c, h, w\)"):
        list_cuts(Net(), example_inputs=given)


def test_example_inputs_beside_a_size_are_refused():
    with pytest.raises(TraceError, match=r"leave out image_size and channels\.$"):
        list_cuts(Net(), example_inputs=torch.rand(1, 3, 8, 8), image_size=8)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Net(), (3, 224, 224)),
        (lambda: Net(channels=1), (1, 224, 224)),
        (lambda: Net(channels=12), (12, 224, 224)),
        (lambda: timm.create_model("test_resnet"), (3, 160, 160)),
        (lambda: timm.create_model("test_resnet", in_chans=1), (1, 160, 160)),
        (lambda: timm.create_model("test_vit", img_size=64), (3, 64, 64)),
        (lambda: torchvision.models.VisionTransformer(48, 16, 1, 2, 32, 64), (3, 48, 48)),
    ],
)
def test_what_a_model_declares_is_found_without_being_told(make, shape):
    model = make()
    assert {cut.image_shape for cut in list_cuts(model)} == {shape}


def test_a_configuration_of_hugging_face_is_read():
    model = Net(channels=1)
    model.config = SimpleNamespace(image_size=20, num_channels=1)
    assert input_size(model) == (1, 20, 20)
    model.config = SimpleNamespace(vision_config=SimpleNamespace(image_size=[20, 30]), num_channels=1)
    assert input_size(model) == (1, 20, 30)


def test_a_configuration_may_be_timms_own_object() -> None:
    model = Net()
    model.pretrained_cfg = PretrainedCfg(input_size=(3, 40, 40), classifier="fc")
    assert input_size(model) == (3, 40, 40)
    cut = list_cuts(model)[-1]
    assert (cut.name, cut.image_shape) == ("fc", (3, 40, 40))


def test_another_image_size_is_asked_for_only_where_that_is_the_matter():
    message = (
        r"^Sequential does not run on one image of 3 x 224 x 224: .*\. It takes 3 x 32 x 32\. Give another "
    )
    with pytest.raises(TraceError, match=message + r"image size\.$"):
        list_cuts(fixed_size())
    with pytest.raises(TraceError, match=r"It takes 3 x 32 x 32\. Give images of as many channels\.$"):
        list_cuts(Net(), channels=1)

    class NeedsMore(Net):
        def forward(self, x, mask=None):
            return super().forward(x) * mask.sum()

    with pytest.raises(TraceError, match=r"^NeedsMore cannot be traced: its own forward\(\) stops torch"):
        list_cuts(NeedsMore())


def test_other_parameters_keep_their_defaults():
    class Optional(Net):
        def forward(self, pixels, mask=None, *others, labels=None, scale=2.0, **options):
            if mask is not None:
                pixels = pixels * mask
            return super().forward(pixels) * scale

    torch.manual_seed(0)
    model, images = Optional().eval(), torch.rand(2, 3, 16, 16)
    split = split_at(model, list_cuts(model, image_size=16)[1])
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(images)), model(images))


@dataclass
class Output:
    loss: torch.Tensor | None
    logits: torch.Tensor


Named = namedtuple("Named", ["logits", "aux"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits, x: {"loss": None, "logits": logits},
        lambda logits, x: Output(loss=None, logits=logits),
        lambda logits, x: Named(logits, x),
        lambda logits, x: (logits, x),
        lambda logits, x: [logits],
    ],
    ids=["dict", "dataclass", "namedtuple", "tuple", "list"],
)
def test_logits_are_found_in_what_a_model_returns(wrap):
    class Wrapped(Net):
        def forward(self, x):
            return wrap(super().forward(x), x)

    torch.manual_seed(0)
    model, images = Wrapped().eval(), torch.rand(2, 3, 16, 16)
    cuts = list_cuts(model, image_size=16)
    assert [cut.name for cut in cuts] == ["conv1", "conv2", "fc"]
    split = split_at(model, cuts[1])
    with torch.no_grad():
        expected = model.fc(model.features(images))
        assert torch.equal(split.suffix.eval()(split.prefix(images)), expected)
    with freeze_before(model, cuts[-1]):
        assert learning(model) == ["fc.weight", "fc.bias"]


class OutputNamed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.output = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.output(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3), keepdim=True)).flatten(1)


class TwoHeads(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc2 = nn.Linear(16, 4)

    def forward(self, x):
        features = self.features(x)
        return (self.fc(features) + self.fc2(features)) / 2


class DeepHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(16, 8), nn.LayerNorm(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))


class Inside(nn.Module):
    """A model in another, as in other people's loops."""

    def __init__(self) -> None:
        super().__init__()
        self.net = DeepHead()

    def forward(self, x):
        return self.net(x)


class EarlyExit(Net):
    """Adds logits of early features: what makes these is no head, as more is learned behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(8, 4)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        early = self.early(x.mean((2, 3)))
        return early + self.fc(F.relu(self.conv2(x)).mean((2, 3)))


class Cosine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16))

    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight))


class CosineHead(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = Cosine()


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (OutputNamed, ["output.weight", "output.bias"]),
        (TwoHeads, ["fc.weight", "fc.bias", "fc2.weight", "fc2.bias"]),
        (DeepHead, [f"fc.{i}.{kind}" for i in (0, 1, 4) for kind in ("weight", "bias")]),
        (Inside, [f"net.fc.{i}.{kind}" for i in (0, 1, 4) for kind in ("weight", "bias")]),
        (EarlyExit, ["fc.weight", "fc.bias"]),
        (CosineHead, ["fc.weight"]),
    ],
)
def test_at_the_last_cut_the_head_learns_and_nothing_else(make, head):
    model = make()
    cuts = list_cuts(model, image_size=16)
    freeze_before(model, cuts[-1])
    assert learning(model) == head
    split = split_at(make(), cuts[-1])
    assert [n.removeprefix("graph.") for n, p in split.suffix.named_parameters() if p.requires_grad] == head


def test_a_head_that_the_caller_names_is_taken():
    model = DeepHead()
    cuts = list_cuts(model, ("conv", "linear"), image_size=16, head="fc.4")
    assert [cut.name for cut in cuts] == ["conv1", "conv2", "fc.0", "fc.4"]
    freeze_before(model, cuts[-1], head="fc.4")
    assert learning(model) == ["fc.4.weight", "fc.4.bias"]


def test_a_backbone_without_a_head_ends_in_its_output():
    model = Net()
    model.fc = nn.Identity()
    cuts = list_cuts(model, image_size=16)
    assert [cut.name for cut in cuts] == ["conv1", "conv2", "output"]
    assert split_at(model, cuts[-1]).suffix_macs == 0


def test_dense_layers_behind_the_last_pooling_are_cuts_where_they_are_asked_for():
    assert [cut.name for cut in list_cuts(fixed_size(), ("linear",), image_size=32)] == ["0", "9", "12"]
    cuts = list_cuts(fixed_size(), ("auto", "linear"), image_size=32)
    assert [(cut.name, cut.kind) for cut in cuts[-3:]] == [("6", "pool"), ("9", "linear"), ("12", "head")]
    # Attention's linear layers are none: they stand before the pooling.
    kinds = {cut.kind for cut in list_cuts(timm.create_model("test_vit"), ("block", "linear"))}
    assert kinds == {"conv", "block", "head"}


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("test_resnet", {"conv", "head"}),
        ("densenet121", {"conv", "pool", "concat", "head"}),
        ("vit_tiny_patch16_224", {"conv", "block", "head"}),
        ("swin_tiny_patch4_window7_224", {"conv", "block", "head"}),
        ("mixer_s32_224", {"conv", "block", "head"}),
        ("convnext_atto", {"conv", "pool", "head"}),
    ],
)
def test_candidates_are_of_the_kind_that_carries_the_network(name, kinds):
    with torch.device("meta"):
        assert {cut.kind for cut in list_cuts(timm.create_model(name))} == kinds


def test_every_block_of_a_transformer_is_a_candidate():
    with torch.device("meta"):
        cuts = list_cuts(timm.create_model("vit_tiny_patch16_224"))
    assert [c.name for c in cuts] == ["patch_embed.proj", *(f"blocks.{i}" for i in range(12)), "head"]


class Lazy(Net):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(4)

    def features(self, x):
        return F.relu(self.conv2(F.relu(self.norm1(self.conv1(x))))).flatten(1)


def test_lazy_layers_are_listed_and_frozen_for_the_size_asked_for_and_stay_lazy():
    model = Lazy()
    cuts = list_cuts(model, image_size=16)
    assert [cut.name for cut in cuts] == ["conv1", "conv2", "fc"]
    freeze_before(model, cuts[-1])
    assert learning(model) == ["fc.weight", "fc.bias"]
    assert isinstance(model.fc.weight, nn.UninitializedParameter)
    with pytest.raises(TraceError, match=r"^Lazy has lazy layers, whose sizes depend on the image: give"):
        list_cuts(model)
    with pytest.raises(TraceError, match=r"^Lazy has lazy layers that have no weights yet: call it once"):
        split_at(model, cuts[1])
    model(torch.rand(2, 3, 16, 16))
    assert split_at(model, cuts[1]).suffix_macs > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (nn.DataParallel, r"^DataParallel is a wrapper around the model: give model\.module"),
        (torch.compile, r"^OptimizedModule is a compiled model: give model\._orig_mod"),
        (torch.jit.script, r"^RecursiveScriptModule is a scripted model, .*: give the one it was made of"),
        (
            lambda m: torch.export.export(m.eval(), (torch.rand(2, 3, 8, 8),)),
            r"^ExportedProgram is an exported ",
        ),
        (
            lambda m: torch.export.export(m.eval(), (torch.rand(2, 3, 8, 8),)).module(),
            r"is an exported model",
        ),
        (lambda m: m.forward, r"^method is no model: give a torch\.nn\.Module"),
    ],
)
def test_a_wrapped_model_is_refused_with_what_to_give_instead(wrap, message):
    with pytest.raises(TraceError, match=message):
        list_cuts(wrap(Net()), image_size=8)


def test_a_model_that_is_traced_in_half_precision_is_so():
    graph = trace(Net().to(torch.bfloat16), image_size=16)
    assert graph.bytes_per_image[graph.nodes[0]] == 3 * 16 * 16 * 2
