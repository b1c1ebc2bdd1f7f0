"""A frozen model in what others do with models: copies, files, wrappers, compilers, changed layers."""

import copy
import io
import itertools
import pickle

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from depthsearch import find_cut, freeze_before, list_cuts, split_at
from depthsearch.errors import CutError

SIZE = 32
FIRST = "layer3.0.conv1"
FROZEN = ("conv1.", "bn1.", "layer1.", "layer2.")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", pretrained=False, num_classes=4)


def cut_of(model: nn.Module, name: str = FIRST):
    return find_cut(list_cuts(model, image_size=SIZE), name)


def frozen_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copy the weights and statistics that lie before the cut, whatever wraps the model."""
    return {
        name: tensor.detach().clone()
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
        if name.removeprefix("module.").removeprefix("_orig_mod.").startswith(FROZEN)
    }


def step(model: nn.Module, *, seed: int = 0) -> None:
    """Train everything that takes gradients for one step."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(8, 3, SIZE, SIZE, generator=generator)
    labels = torch.randint(4, (8,), generator=generator)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    optimizer.zero_grad()
    F.cross_entropy(model.train()(images), labels).backward()
    optimizer.step()


def assert_trains_only_behind_the_cut(model: nn.Module) -> None:
    """Two steps leave what is frozen as it was, to the bit, and move all weights behind it."""
    before, weights = frozen_tensors(model), {n: p.detach().clone() for n, p in model.named_parameters()}
    assert len(before) > 30
    for seed in range(2):
        step(model, seed=seed)
    after = frozen_tensors(model)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    still = {n for n, p in model.named_parameters() if torch.equal(p, weights[n])}
    assert still == {n for n in before if n in weights}
    assert all(p.grad is None for n, p in model.named_parameters() if n in still)


def switches(model: nn.Module) -> dict[str, bool]:
    """What freezing changes: which tensors take gradients, which modules are in training mode."""
    modes = {f"{path} mode": module.training for path, module in model.named_modules()}
    return modes | {name: p.requires_grad for name, p in model.named_parameters()}


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_of_a_frozen_model_is_frozen_by_itself(model, copied) -> None:
    frozen = freeze_before(model, cut_of(model))
    other = copied(model)
    frozen.undo()
    assert all(p.requires_grad for p in model.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_trains_only_behind_the_cut(other)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_frozen_models_state_dict_fits_a_model_that_is_not(model) -> None:
    other = copy.deepcopy(model)
    freeze_before(model, cut_of(model))
    assert list(model.state_dict()) == list(other.state_dict())
    step(model)
    other.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(2, 3, SIZE, SIZE)
    assert torch.equal(other.eval()(images), model.eval()(images))


def test_norms_converted_to_synchronised_ones_stay_frozen(model) -> None:
    cut = cut_of(model, "fc")
    freeze_before(model, cut)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    norms = [m for m in model.train().modules() if isinstance(m, nn.SyncBatchNorm)]
    assert len(norms) == 15
    assert not any(norm.training for norm in norms)
    before = {n: t.clone() for n, t in model.state_dict().items() if not n.startswith("fc.")}
    # Statistics of a batch would be refused on a CPU.
    step(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_only_frozen_norms_are_held_after_they_are_converted(model) -> None:
    freeze_before(model, cut_of(model))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    modes = {n: m.training for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    assert modes == {name: not f"{name}.".startswith(FROZEN) for name in modes}


def test_a_norm_that_was_exchanged_and_switched_by_itself_is_held_when_the_model_runs(model) -> None:
    freeze_before(model, cut_of(model))
    model.bn1 = nn.BatchNorm2d(model.bn1.num_features).train()
    before = model.bn1.running_mean.clone()
    model(torch.randn(4, 3, SIZE, SIZE))
    assert torch.equal(model.bn1.running_mean, before)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "second"])
@pytest.mark.parametrize("names", [(FIRST, "layer4.0.conv1"), ("layer4.0.conv1", FIRST), (FIRST, FIRST)])
def test_a_model_frozen_twice_can_be_undone_in_any_order(model, names, order) -> None:
    model.train()
    model.bn1.eval()
    model.layer1.requires_grad_(False)
    states = [switches(model)]
    cuts = [cut_of(model, name) for name in names]
    for cut in cuts:
        with freeze_before(model, cut):
            states.append(switches(model))
    both = [freeze_before(model, cut) for cut in cuts]
    both[order[0]].undo()
    model.train()
    kept = {name: on for name, on in switches(model).items() if name != "bn1 mode"}
    expected = {name: on for name, on in states[1 + order[1]].items() if name != "bn1 mode"}
    assert kept == expected
    both[order[1]].undo()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == {
        n: on for n, on in states[0].items() if not n.endswith(" mode")
    }
    assert all(module.training for module in model.train().modules())
    assert not model._forward_pre_hooks
    assert all("train" not in vars(module) for module in model.modules())


def test_undoing_twice_is_undoing_once(model) -> None:
    before = switches(model)
    frozen = freeze_before(model, cut_of(model))
    frozen.undo()
    model.layer1.requires_grad_(False)
    frozen.undo()
    assert not model.layer1[0].conv1.weight.requires_grad
    assert switches(model.requires_grad_(True)) == before


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_frozen_model_trains_only_behind_the_cut_and_compiles_once(model) -> None:
    """Guards frozen layers under torch.compile, which sees modes and hooks otherwise."""
    from torch._dynamo.testing import CompileCounterWithBackend

    freeze_before(model, cut_of(model))
    plain = copy.deepcopy(model)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(model, backend=counter)
    step(compiled)
    n_frames = counter.frame_count
    assert n_frames > 0
    assert_trains_only_behind_the_cut(compiled)
    assert counter.frame_count == n_frames
    for seed in (0, 0, 1):
        step(plain, seed=seed)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_a_frozen_model_compiled_in_place_trains_only_behind_the_cut(model) -> None:
    """Guards the same for a model that is compiled in place."""
    freeze_before(model, cut_of(model))
    model.compile(backend="eager")
    assert_trains_only_behind_the_cut(model)


def test_a_frozen_model_in_data_parallel_trains_only_behind_the_cut(model) -> None:
    freeze_before(model, cut_of(model))
    assert_trains_only_behind_the_cut(nn.DataParallel(model))


@pytest.fixture
def _one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_process")
def test_a_frozen_model_in_distributed_data_parallel_trains_only_behind_the_cut(model) -> None:
    freeze_before(model, cut_of(model))
    assert_trains_only_behind_the_cut(nn.parallel.DistributedDataParallel(model))


class Centred(nn.Module):
    """Takes the mean from each kernel."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


def parametrized(model: nn.Module) -> None:
    """Give a frozen and a trained layer weights that are computed from others."""
    for path in ("layer1.0.conv1", "layer4.0.conv1"):
        parametrize.register_parametrization(model.get_submodule(path), "weight", Centred())


def pruned(model: nn.Module) -> None:
    """Take half of the weights of a frozen and a trained layer away."""
    for path in ("layer1.0.conv1", "layer4.0.conv1"):
        prune.l1_unstructured(model.get_submodule(path), "weight", 0.5)


@pytest.mark.parametrize("change", [parametrized, pruned])
def test_a_model_of_changed_layers_is_frozen_as_any_other(model, change) -> None:
    change(model)
    before = switches(model.train())
    frozen = freeze_before(model, cut_of(model))
    assert_trains_only_behind_the_cut(model)
    frozen.undo()
    assert switches(model) == before


@pytest.mark.parametrize("change", [parametrized, pruned])
def test_layers_that_change_after_freezing_can_be_undone(model, change) -> None:
    frozen = freeze_before(model, cut_of(model))
    change(model)
    frozen.undo()
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.train().modules())


@pytest.mark.parametrize("change", [parametrized, pruned])
def test_layers_that_change_after_freezing_stay_frozen(model, change) -> None:
    freeze_before(model, cut_of(model))
    change(model)
    assert_trains_only_behind_the_cut(model)


class Functional(nn.Module):
    """Normalises and drops by functions, in a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.batch_norm(self.conv1(x), self.mean, self.variance, self.scale, self.shift, self.training)
        x = self.conv2(F.dropout(x.relu(), 0.5, self.training))
        return self.fc(x.relu().mean((2, 3)))


def test_functions_before_the_cut_leave_statistics_still_and_features_fixed() -> None:
    model = Functional()
    freeze_before(model, cut_of(model, "conv2"))
    before = model.mean.clone(), model.variance.clone(), model.scale.clone()
    features = []
    model.conv2.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].clone()))
    for _ in range(2):
        step(model)
    assert torch.equal(features[0], features[1])
    assert all(map(torch.equal, before, (model.mean, model.variance, model.scale)))
    assert model.scale.grad is None
    assert model.conv2.weight.grad is not None


def test_functions_behind_the_cut_go_on_in_training() -> None:
    model = Functional()
    freeze_before(model, cut_of(model, "conv1"))
    before = model.mean.clone()
    step(model)
    assert model.training
    assert not torch.equal(before, model.mean)


class Restless(Functional):
    """Asks for no mode: what it does in training it does always."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        if self.what == "dropout":
            x = F.dropout(x, 0.5)
        elif self.what == "noise":
            x = x + torch.randn_like(x)
        elif self.what == "statistics":
            x = F.batch_norm(x, self.mean, self.variance, training=True)
        else:
            x = self.norm(x)
        return self.fc(self.conv2(x).relu().mean((2, 3)))


@pytest.mark.parametrize("freeze", [freeze_before, split_at])
@pytest.mark.parametrize("what", ["dropout", "noise", "statistics", "batch"])
def test_what_no_mode_makes_a_fixed_function_of_an_image_cannot_be_frozen(what: str, freeze) -> None:
    model = Restless(what)
    with pytest.raises(CutError, match=r"^Restless cannot be frozen behind '.*': it .*\. Let it follow "):
        freeze(model, cut_of(model, "conv2"))
