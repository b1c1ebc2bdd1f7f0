"""Networks as people write them, each odd in its own way: right, or refused in one line."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depthsearch import Cut, find_cut, freeze_before, list_cuts, split_at
from depthsearch.errors import CutError, TraceError


def unit(width: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, out, 3, stride, 1), nn.BatchNorm2d(out), nn.ReLU())


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.fc = unit(3, 8, 2), unit(8, 8), unit(8, 8, 2), nn.Linear(8, 5)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def head(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.c(self.b(self.between(self.a(x)))))


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def cut_of(model: nn.Module, name: str) -> Cut:
    return find_cut(list_cuts(model, image_size=16), name)


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def entering(model: nn.Module, path: str) -> list[torch.Tensor]:
    """Run a model twice in training mode; give what a module of it gets."""
    given: list[torch.Tensor] = []
    handle = model.get_submodule(path).register_forward_pre_hook(lambda _, args: given.append(args[0]))
    model.train()
    with torch.no_grad():
        model(images())
        model(images())
    handle.remove()
    return given


@pytest.mark.parametrize("what", ["noise", "dropout", "mixup"])
def test_a_branch_on_the_mode_just_before_the_cut_is_held(what):
    class Branches(Base):
        def between(self, x):
            if self.training:
                changes = {"noise": torch.randn_like(x), "dropout": F.dropout(x), "mixup": x.flip(0)}
                x = x + changes[what]
            return x

    model = Branches()
    freeze_before(model, cut_of(model, "b.0"))
    assert torch.equal(*entering(model, "b.0"))
    assert model.c.training


@pytest.mark.parametrize("freeze", [freeze_before, split_at])
@pytest.mark.parametrize("what", ["counts", "python", "torch", "seldom"])
def test_what_changes_from_call_to_call_is_refused(what, freeze):
    class Restless(Base):
        calls = 0

        def between(self, x):
            self.calls += 1
            if what == "counts":
                return x * (1 + 0.1 * type(self)._count())
            if what == "python":
                return x * random.random()
            return x * torch.rand(()) if what == "torch" else self.seldom(x)

        @classmethod
        def _count(cls) -> int:
            cls.calls += 1
            return cls.calls

    class Seldom(nn.Module):
        def forward(self, x):
            return x.flip(3) if torch.rand(1) < 1e-6 else x

    model = Restless()
    model.seldom = Seldom()
    with pytest.raises(CutError, match=r"^Restless cannot be frozen behind .* in eval mode"):
        freeze(model, cut_of(model, "b.0"))
    assert learning(model) == {name for name, _ in model.named_parameters()}


def test_parameters_in_one_piece_of_memory_are_told_apart():
    class HeadFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem, self.mid = nn.Linear(8, 5), nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

        def forward(self, x):
            # A linear layer works on a view of its weight.
            return self.head(self.mid(self.stem(x).mean((2, 3))))

    model = HeadFirst()
    vector = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    nn.utils.vector_to_parameters(vector, model.parameters())
    freeze_before(model, list_cuts(model, image_size=16)[-1])
    assert learning(model) == {"head.weight", "head.bias"}


def test_a_train_of_the_models_own_is_kept_in_a_split():
    class NormsHeld(Base):
        def train(self, mode=True):
            super().train(mode)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
            return self

    model = NormsHeld()
    split = split_at(model, cut_of(model, "b.0"))
    split.suffix.train()
    modes = {name: m.training for name, m in split.suffix.graph.named_modules() if name.startswith("b.")}
    assert modes == {"b.0": True, "b.1": False, "b.2": True}


def test_a_model_that_is_frozen_can_be_split_at_another_cut():
    model = Base()
    cuts = list_cuts(model, image_size=16)
    frozen = freeze_before(model, cuts[2])
    suffix = split_at(model, cuts[1]).suffix.train()
    assert suffix.graph.get_submodule("b.1").training
    frozen.undo()
    assert split_at(model, cuts[1]).suffix.graph.get_submodule("b.0").weight.requires_grad


def test_what_took_no_gradient_before_takes_none_in_a_split():
    class Fixed(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter("index", nn.Parameter(torch.arange(8), requires_grad=False))

        def between(self, x):
            return x[:, self.index]

    model = Fixed()
    model.b.requires_grad_(False)
    cut = cut_of(model, "a.0")
    suffix = split_at(model, cut).suffix
    names = {n.removeprefix("graph.") for n, p in suffix.named_parameters() if p.requires_grad}
    freeze_before(model, cut)
    assert names == learning(model) == {n for n, _ in model.named_parameters() if n[0] in "acf"}


class Keyword(Base):
    def forward(self, scale=None, *, pixels=None):
        return super().forward(pixels if scale is None else scale * 0)


class KeywordOnly(Base):
    def forward(self, *, pixels):
        return super().forward(pixels)


@pytest.mark.parametrize("make", [Keyword, KeywordOnly])
def test_images_are_given_under_the_name_that_example_inputs_have(make):
    torch.manual_seed(0)
    model = make().eval()
    given = {"pixels": images()}
    split = split_at(model, list_cuts(model, example_inputs=given)[1], example_inputs=given)
    with torch.no_grad():
        assert torch.equal(split.suffix.eval()(split.prefix(images())), model(pixels=images()))


def test_a_single_keyword_is_found_without_being_told():
    assert [cut.name for cut in list_cuts(KeywordOnly(), image_size=16)] == ["a.0", "b.0", "c.0", "fc"]


class Temperature(Base):
    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))

    def head(self, x):
        return super().head(x) / self.temperature


class NormedLogits(Base):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(5)

    def head(self, x):
        return self.last(super().head(x))


class DeadHead(Base):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(8, 5)

    def head(self, x):
        return super().head(x), self.other(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (Temperature, {"fc.weight", "fc.bias", "temperature"}),
        (NormedLogits, {"fc.weight", "fc.bias", "last.weight", "last.bias"}),
        (DeadHead, {"fc.weight", "fc.bias", "other.weight", "other.bias"}),
    ],
)
def test_what_stands_around_the_head_learns_with_it(make, head):
    model = make()
    cuts = list_cuts(model, image_size=16)
    freeze_before(model, cuts[-1])
    assert (cuts[-1].name, learning(model)) == ("fc", head)


def test_listing_leaves_buffers_as_they_are_whatever_forward_does():
    class Counts(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n_calls", torch.zeros(()))

        def between(self, x):
            self.n_calls += 1
            return x

    model = Counts()
    nn.utils.parametrizations.spectral_norm(model.a[0])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    list_cuts(model, image_size=16)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_a_setting_that_changes_what_a_network_does_is_checked_anew():
    class Forced(nn.Module):
        force = False

        def forward(self, x):
            return x + torch.randn_like(x) if self.training or self.force else x

    class WithForced(Base):
        def __init__(self) -> None:
            super().__init__()
            self.noise = Forced()

        def between(self, x):
            return self.noise(x)

    model = WithForced()
    freeze_before(model, cut_of(model, "b.0")).undo()
    model.noise.force = True
    with pytest.raises(CutError, match=r"behind 'noise': it draws random numbers in eval mode too"):
        freeze_before(model, cut_of(model, "b.0"))


def test_stacks_of_as_many_as_there_are_images_are_no_batches():
    class Keys(Base):
        def __init__(self) -> None:
            super().__init__()
            self.kv = nn.Linear(8, 16)

        def between(self, x):
            n, c, h, w = x.shape
            k, v = self.kv(x.flatten(2).transpose(1, 2)).reshape(n, h * w, 2, c).permute(2, 0, 1, 3)
            return (k * v).transpose(1, 2).reshape(n, c, h, w)

    model = Keys()
    freeze_before(model, cut_of(model, "c.0"))
    assert learning(model) == {n for n, _ in model.named_parameters() if n[0] in "cf"}
    split_at(Keys(), cut_of(Keys(), "c.0"))


def test_lazy_layers_that_cannot_be_copied_are_refused_and_nothing_is_left_behind():
    class LazyNorm(Base):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d())

    model = LazyNorm()
    with pytest.raises(TraceError, match=r"^LazyNorm has lazy layers and cannot be copied: call it once on"):
        list_cuts(model, image_size=16)
    assert not model._forward_pre_hooks
    model(images())
    assert [cut.name for cut in list_cuts(model, image_size=16)] == ["a.0", "b.0", "c.0", "fc"]


def test_a_multilayer_perceptron_has_its_linear_layers_as_cuts():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 5))
    assert [cut.name for cut in list_cuts(model, image_size=16)] == ["1", "3", "4"]


def test_misuse_is_one_line():
    model = Base()
    for freeze in (freeze_before, split_at):
        with pytest.raises(CutError, match=r"^'b\.0' is no cut: give one of list_cuts\(model\), such as"):
            freeze(model, "b.0")
    for size in (-3, 32.0, (32, 48)):
        with pytest.raises(TraceError, match=r"^image_size .*: give a whole number of at least 1\.$"):
            list_cuts(model, image_size=size)
    model.graph = nn.Linear(2, 2)
    with pytest.raises(TraceError, match=r"^Base has a 'graph', a name that torch\.fx keeps for itself"):
        list_cuts(model, image_size=16)


def test_a_failing_network_prints_nothing_beside_its_error(capfd):
    class Batch(Base):
        def forward(self, batch):
            return super().forward(batch["image"])

    with pytest.raises(TraceError, match=r"^Batch "):
        list_cuts(Batch(), image_size=16)
    assert "Traceback" not in capfd.readouterr().err
