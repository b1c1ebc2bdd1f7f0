"""The head that takes the classifier's place."""

import pytest
import timm
import torch
from torch import nn

from depthsearch.errors import SettingsError
from depthsearch.models.backbones import make_model
from depthsearch.models.heads import HeadSize, head_macs, head_size, make_head, with_head


def test_width_zero_is_a_plain_linear_layer() -> None:
    head = make_head(12, 5)
    assert type(head) is nn.Linear
    assert head.weight.shape == (5, 12)


def test_a_linear_head_keeps_the_names_that_timm_gives() -> None:
    model = with_head(make_model("test_resnet"), "fc", 5)
    timms = timm.create_model("test_resnet", pretrained=False, num_classes=5)
    ours = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert ours == {name: tensor.shape for name, tensor in timms.state_dict().items()}


@pytest.mark.parametrize(
    ("depth", "dropout", "expected"),
    [
        (1, 0.0, ["Linear", "LayerNorm", "ReLU", "Linear"]),
        (1, 0.5, ["Linear", "LayerNorm", "ReLU", "Dropout", "Linear"]),
        (2, 0.0, ["Linear", "LayerNorm", "ReLU", "Linear", "LayerNorm", "ReLU", "Linear"]),
        (2, 0.5, ["Linear", "LayerNorm", "ReLU", "Dropout"] * 2 + ["Linear"]),
    ],
)
def test_each_hidden_layer_is_normalised_and_activated(
    depth: int, dropout: float, expected: list[str]
) -> None:
    head = make_head(12, 5, width=8, depth=depth, dropout=dropout)
    assert [type(module).__name__ for module in head] == expected
    assert all(module.p == dropout for module in head if isinstance(module, nn.Dropout))
    assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [
        (12, 8),
        *[(8, 8)] * (depth - 1),
        (8, 5),
    ]
    assert head(torch.randn(3, 12)).shape == (3, 5)


def test_a_linear_head_may_have_dropout() -> None:
    head = make_head(12, 5, dropout=0.3)
    assert [type(module).__name__ for module in head] == ["Dropout", "Linear"]


def test_a_head_without_pooled_input_pools() -> None:
    head = make_head(12, 5, pooled=False)
    maps = torch.randn(3, 12, 4, 4)
    expected = head.classifier(maps.mean((2, 3)))
    torch.testing.assert_close(head(maps), expected)


def test_with_head_leaves_the_model_unchanged() -> None:
    model = make_model("test_resnet")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    new = with_head(model, "fc", 5, width=8)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.add_(1)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(("name", "classifier"), [("test_resnet", "fc"), ("test_convnext", "head.fc")])
def test_a_copy_that_shares_the_backbone_has_a_head_of_its_own(name: str, classifier: str) -> None:
    model = make_model(name).eval()
    old, images = model.get_submodule(classifier), torch.randn(2, 3, 64, 64)
    expected = with_head(model, classifier, 5, width=8, seed=3).eval()
    shared = with_head(model, classifier, 5, width=8, seed=3, shares=True).eval()
    assert torch.equal(shared(images), expected(images))
    assert list(shared.state_dict()) == list(expected.state_dict())
    assert model.get_submodule(classifier) is old
    own = {id(parameter) for parameter in shared.get_submodule(classifier).parameters()}
    others = {id(parameter) for parameter in shared.parameters()} - own
    assert others == {id(p) for p in model.parameters()} - {id(p) for p in old.parameters()}


def test_a_head_starts_from_its_seed_alone() -> None:
    model = make_model("test_resnet")
    torch.manual_seed(1)
    first = with_head(model, "fc", 5, width=8, seed=3).fc
    torch.manual_seed(2)
    again = with_head(model, "fc", 5, width=8, seed=3).fc
    other = with_head(model, "fc", 5, width=8, seed=4).fc
    assert torch.equal(first.hidden1.weight, again.hidden1.weight)
    assert not torch.equal(first.hidden1.weight, other.hidden1.weight)


def test_making_a_head_leaves_the_random_numbers_of_others_alone() -> None:
    model = make_model("test_resnet")
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    with_head(model, "fc", 5, seed=3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("width", [0, 8])
def test_the_convolution_that_classifies_in_some_models_is_replaced(width: int) -> None:
    model = make_model("resnetv2_18")
    path = model.pretrained_cfg["classifier"]
    assert isinstance(model.get_submodule(path), nn.Conv2d)
    assert with_head(model, path, 5, width=width).eval()(torch.randn(2, 3, 32, 32)).shape == (2, 5)


def test_a_convolution_as_classifier_is_replaced_by_a_pooling_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 10, 1)).eval()
    new = with_head(model, "2", 5)
    assert isinstance(new[2].pool, nn.AdaptiveAvgPool2d)
    assert new(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_a_classifier_inside_a_module_is_found_by_its_path() -> None:
    model = make_model("test_convnext")
    path = model.pretrained_cfg["classifier"]
    assert "." in path
    assert with_head(model, path, 5).get_submodule(path).out_features == 5


def test_a_classifier_of_unknown_input_width_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(SettingsError, match=r"The classifier '1' of Sequential is a ReLU, neither linear"):
        with_head(model, "1", 5)


@pytest.mark.parametrize(
    ("name", "width", "depth"), [("test_resnet", 0, 1), ("test_resnet", 8, 2), ("resnetv2_18", 8, 1)]
)
def test_the_size_of_a_head_is_that_of_the_one_that_is_made(name: str, width: int, depth: int) -> None:
    model = make_model(name)
    path = model.pretrained_cfg["classifier"]
    made = with_head(model, path, 5, width=width, depth=depth, dropout=0.1).get_submodule(path)
    state = torch.get_rng_state()
    size = head_size(model, path, 5, width=width, depth=depth)
    weights = [p.numel() for p in made.parameters()]
    assert size == HeadSize(macs=head_macs(made), tensors=len(weights), parameters=sum(weights))
    assert torch.equal(torch.get_rng_state(), state), "nothing random was drawn"
