"""Contract 3: training on kept features ends in the weights of training with the prefix run at each step.

The oracle runs the prefix of `split_at` on every batch and knows nothing of stores. The default run compares
every cut of a small net, ``-m slow`` cuts over the depth of four of timm's, ``-m gpu`` one of them on CUDA.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from insides import files_of_store, memory_of_store
from torch import nn

from depthsearch.data import DataSet, ImageSet, load_data
from depthsearch.data.views import View
from depthsearch.devices import choose_device
from depthsearch.features import Budget, Spent, store
from depthsearch.features.tiers import rowfile
from depthsearch.models.backbones import Backbone, Preprocessing, load_backbone, state_digest
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.models.split import Split, split_at, suffix_of
from depthsearch.options.words import KINDS
from depthsearch.search.space import Point
from depthsearch.training import objective
from depthsearch.training.loop import train
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

# Largest difference of a weight or a running statistic. Measured on a CPU with bf16 in hardware
# (AVX-512): none, as in float32.
BF16_TOLERANCE = 0.0
# On a GPU: distance of the two ends over the length of the way, and relative difference of the losses. Not
# measured there: noise of 1e-7 to 1e-5 on the boundary, on a CPU, makes at most 0.14 and 0.002 (a ReLU that
# flips counts, whatever the noise); images in another order make 0.06 to 1.4 and 0.06 to 0.28.
GPU_TOLERANCE = 0.3
GPU_LOSS_TOLERANCE = 0.01
PLENTY = 2**40
# Of the trials; the task has another, which draws the views.
SEED = 11

# torch.fx and timm themselves warn; what they warn of is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::UserWarning:torch")


@pytest.fixture(autouse=True)
def _two_threads():
    """Work is divided among threads, as it is for a user; most tests have one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- the oracle ---------------------------------------------------------------------------------


class Recomputed:
    """The boundary of each batch, computed when it is asked for."""

    def __init__(self, task: Task, split: Split, images: ImageSet, n_views: int = 1) -> None:
        self.labels, self.macs_per_sample, self.spent = images.labels, split.prefix_macs, Spent()
        self.device, self.prefix = task.device, task.device.place(split.prefix)
        self.images = images
        self.views = [View(v, seed=task.recipe.seed, n_images=len(images)) for v in range(n_views)]
        mean, std = (
            torch.tensor(numbers, device=self.device.torch_device).view(3, 1, 1)
            for numbers in (task.backbone.preprocessing.mean, task.backbone.preprocessing.std)
        )
        self.scale, self.shift = 1 / (255 * std), mean / std

    def prepare(self, epoch: int) -> None:
        self.view = self.views[epoch % len(self.views)]

    @torch.no_grad()
    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.spent.macs += self.macs_per_sample * len(index)
        pixels = self.view(self.images.gather(index).to(self.device.torch_device), index)
        with self.device.autocast():
            return self.prefix(self.device.layout(pixels.float() * self.scale - self.shift))


State = dict[str, torch.Tensor]
End = tuple[State, list[EpochResult]]


def train_recomputed(task: Task, point: Point) -> End:
    model = model_for(task, point, SEED)
    split = split_at(model, point.cut, image_size=task.backbone.preprocessing.image_size)
    recipe = replace(
        task.recipe,
        seed=SEED,
        learning_rate=point.learning_rate,
        weight_decay=point.weight_decay,
        optimizer=point.optimizer,
    )
    sources = (
        Recomputed(task, split, task.data.train, task.recipe.views),
        Recomputed(task, split, task.data.val),
    )
    results = list(train(split.suffix, *sources, recipe, task.device, suffix_macs=split.suffix_macs))
    return split.suffix.state_dict(), results


@pytest.fixture
def train_kept(monkeypatch: pytest.MonkeyPatch) -> Callable[..., End]:
    """Train a point as a study does, on the task's store, and give the suffix that it ends in."""
    suffixes = []

    def remember(*given):
        suffixes.append(suffix_of(*given))
        return suffixes[-1]

    def train_(task: Task, point: Point, upcoming: Iterable[Cut] = ()) -> End:
        results = list(train_point(task, point, seed=SEED, upcoming=dict.fromkeys(upcoming, 1.0)))
        return suffixes[-1].state_dict(), results

    monkeypatch.setattr(objective, "suffix_of", remember)
    return train_


def measured(results: list[EpochResult]) -> list[tuple[float, ...]]:
    """What an epoch says of the training, and nothing of its cost but that without a store."""
    return [(r.epoch, r.train_loss, r.val_loss, r.score, r.plain_macs) for r in results]


def assert_same_end(kept: End, recomputed: End, cut: Cut) -> None:
    different = [name for name in recomputed[0] if not torch.equal(kept[0][name], recomputed[0][name])]
    assert kept[0].keys() == recomputed[0].keys()
    assert different == [], f"{cut}: {len(different)} of {len(kept[0])} tensors differ"
    assert measured(kept[1]) == measured(recomputed[1]), cut
    # Where both agree because nothing was trained, nothing is shown.
    assert all(tensor.isfinite().all() for tensor in kept[0].values())


def assert_near_end(kept: End, recomputed: End, cut: Cut, tolerance: float) -> None:
    for name, tensor in recomputed[0].items():
        assert (kept[0][name] - tensor).abs().max() <= tolerance, f"{cut}: {name}"
    for ours, theirs in zip(kept[1], recomputed[1], strict=True):
        assert abs(ours.train_loss - theirs.train_loss) <= tolerance, cut
        assert abs(ours.val_loss - theirs.val_loss) <= tolerance, cut


def assert_reads(cut: Cut, results: list[EpochResult]) -> None:
    """The epochs read the store and spend fewer MACs on the prefix than without one."""
    for result in results:
        whole = result.plain_macs - result.forward_macs - result.backward_macs
        assert result.read_bytes > 0, f"{cut}, epoch {result.epoch} reads nothing"
        assert result.prefix_macs < whole, f"{cut}, epoch {result.epoch} recomputes everything"


def spread_images(images: ImageSet, n: int) -> ImageSet:
    places = [round(i * (len(images) - 1) / (n - 1)) for i in range(n)]
    return replace(images, rows=images.rows[places], labels=images.labels[places])


@cache
def some_digits(image_size: int, n_train: int, n_val: int) -> DataSet:
    data = load_data("digits", image_size=image_size)
    return replace(data, train=spread_images(data.train, n_train), val=spread_images(data.val, n_val))


def randomise_norms(model: nn.Module, images: torch.Tensor) -> None:
    """Give batch norms scales and statistics as of a trained model: near those of images, and none 0 or 1."""
    generator = torch.Generator().manual_seed(7)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(0, 0.2, generator=generator)
            norm.momentum = None
        model.train()(images.float() / 255 - 0.5)
        model.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            off = torch.empty_like(norm.running_mean).normal_(0, 0.2, generator=generator)
            norm.running_mean.add_(off * norm.running_var.sqrt())
            norm.running_var.mul_(1 + off.abs())


# --- a small net --------------------------------------------------------------------------------


class Residual(nn.Module):
    """Starts with an activation in place: its input is not what it was, and the shortcut reads that."""

    def __init__(self, channels: int, wider: int) -> None:
        super().__init__()
        # Not a ReLU, which makes no difference a second time.
        self.start = nn.LeakyReLU(0.2, inplace=True)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, wider, 3, stride=wider // channels, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(wider)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(wider, wider, 3, padding=1, bias=False)
        # Not of 1 x 1, which of under 16 channels writes where it should not on its way back (oneDNN with
        # AVX-512 and several threads, in torch 2.14 and 2.15).
        self.shortcut = nn.Conv2d(channels, wider, 2, stride=2) if wider > channels else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        started = self.start(x)
        y = self.conv2(self.act(self.norm2(self.conv1(self.norm1(started)))))
        y += x if self.shortcut is None else self.shortcut(started)
        return y


class Dense(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.drop = nn.Dropout(0.2)

    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return self.drop(self.conv(self.act(self.norm(torch.cat(parts, 1)))))


class Gated(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.Hardswish(inplace=True)
        self.reduce = nn.Conv2d(channels, 8, 1)
        self.expand = nn.Conv2d(8, channels, 1)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.norm(self.depthwise(x)))
        gate = self.expand(self.reduce(y.mean((2, 3), keepdim=True)).relu_()).sigmoid()
        return self.pointwise(y * gate) + x


class SmallNet(nn.Module):
    """Residual, dense and gated blocks, with all that changes from training to evaluation."""

    pretrained_cfg = {"input_size": (3, 32, 32), "classifier": "fc"}  # noqa: RUF012 - as timm has it

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.block1 = Residual(8, 16)
        self.block2 = Residual(16, 16)
        self.dense1 = Dense(16)
        self.dense2 = Dense(24)
        self.pool = nn.AvgPool2d(2)
        self.gate1 = Gated(32)
        self.gate2 = Gated(32)
        self.last = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(self.norm(self.stem(x))))
        parts = [x]
        parts.append(self.dense1(parts))
        parts.append(self.dense2(parts))
        x = self.gate2(self.gate1(self.pool(torch.cat(parts, 1))))
        return self.fc(self.drop(self.last(x).relu_().mean((2, 3))))


@cache
def small_backbone() -> Backbone:
    torch.manual_seed(0)
    model = SmallNet()
    randomise_norms(model, some_digits(32, 80, 40).train.gather(torch.arange(80)))
    return Backbone(
        name="small",
        model=model,
        classifier="fc",
        weights="random",
        digest=state_digest(model, leave_out="fc"),
        preprocessing=Preprocessing(
            image_size=32, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.25), interpolation="bicubic", crop_share=1.0
        ),
    )


@cache
def small_cuts() -> list[Cut]:
    return list_cuts(small_backbone().model, KINDS)


def small_task(folder: Path, *, memory: int = 0, disk: int = 0, precision: str = "float32", **recipe) -> Task:
    """A task with a store of its own. 80 images are more than the 64 that a store computes at once."""
    return Task(
        backbone=small_backbone(),
        data=some_digits(32, 80, 40),
        recipe=Recipe(**{"epochs": 2, "batch_size": 27, "seed": 3, **recipe}),
        device=choose_device("cpu", precision),
        budget=Budget(memory_bytes=memory, device_bytes=0, disk_bytes=disk, folder=folder),
    )


def point_at(cut: Cut) -> Point:
    return Point(cut=cut, learning_rate=3e-3, head_width=16, dropout=0.2)


@cache
def small_end(cut: Cut, precision: str = "float32", **recipe) -> End:
    return train_recomputed(small_task(Path(), precision=precision, **recipe), point_at(cut))


def shuffled(cuts: Iterable[Cut]) -> list[Cut]:
    return random.Random(5).sample(list(cuts), len(list(cuts)))


@pytest.fixture
def free_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whatever saves any work be worth its bytes, so that all kinds of boundaries are kept."""
    for kind, costs in store.MACS_PER_BYTE.items():
        monkeypatch.setitem(store.MACS_PER_BYTE, kind, dict.fromkeys(costs, 1e-6))


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files in pieces smaller than a set."""
    monkeypatch.setattr(store, "READ_BATCH", 20)
    monkeypatch.setattr(rowfile, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(rowfile, "RESIDENT_BYTES", 2**15)


CUTS = [
    "stem",
    "block1",
    "block1.conv1",
    "block1.conv2",
    "block1.shortcut",
    "block2",
    "block2.conv1",
    "block2.conv2",
    "dense1.conv",
    "dense2.cat",
    "dense2.conv",
    "gate1.depthwise",
    "gate1.reduce",
    "gate1.expand",
    "gate1.pointwise",
    "gate2.depthwise",
    "gate2.reduce",
    "gate2.expand",
    "gate2.pointwise",
    "fc",
]
SOME = ["block2.conv1", "dense2.conv", "gate1.expand", "fc"]


def cuts_named(names: Iterable[str]) -> list[Cut]:
    return [find_cut(small_cuts(), name) for name in names]


def test_every_cut_is_compared() -> None:
    assert [cut.name for cut in small_cuts()] == CUTS


@pytest.mark.usefixtures("free_reading")
@pytest.mark.parametrize("name", ["stem", "block1.shortcut", "block2", *SOME])
def test_a_trial_alone_ends_as_with_its_prefix_recomputed(name, train_kept, tmp_path: Path) -> None:
    (cut,) = cuts_named([name])
    kept = train_kept(small_task(tmp_path, memory=PLENTY), point_at(cut))
    assert_same_end(kept, small_end(cut), cut)
    if name != "stem":
        assert_reads(cut, kept[1][1:])


@pytest.mark.slow
@pytest.mark.usefixtures("free_reading")
def test_trials_that_share_a_store_end_as_without_it(train_kept, tmp_path: Path) -> None:
    """A store that expects every cut keeps what lies between: each trial starts where another was."""
    task = small_task(tmp_path, memory=PLENTY)
    prefix_macs = 0
    for cut in shuffled(small_cuts()):
        kept = train_kept(task, point_at(cut), upcoming=small_cuts())
        assert_same_end(kept, small_end(cut), cut)
        if cut.name != "stem":
            assert_reads(cut, kept[1][1:])
        prefix_macs += sum(result.prefix_macs for result in kept[1])
    n_images = len(task.data.train) + len(task.data.val)
    whole = n_images * task.features.frozen.macs_before(task.position(small_cuts()[-1]))
    # One pass over the images for all trials together, and what is changed in place and cannot be kept.
    assert whole <= prefix_macs < 1.5 * whole


@pytest.mark.slow
@pytest.mark.usefixtures("free_reading", "small_pieces")
def test_what_one_store_writes_others_read(train_kept, tmp_path: Path) -> None:
    """From the files at each batch, and from memory that was filled from them."""
    writing = small_task(tmp_path, disk=PLENTY)
    for cut in reversed(small_cuts()):
        kept = train_kept(writing, point_at(cut), upcoming=small_cuts())
        assert_same_end(kept, small_end(cut), cut)
        if cut.name != "stem":
            assert_reads(cut, kept[1][1:])
    for memory, every in ((0, 1), (PLENTY, 2)):
        reading = small_task(tmp_path, memory=memory, disk=PLENTY)
        for cut in shuffled(small_cuts())[::every]:
            kept = train_kept(reading, point_at(cut), upcoming=small_cuts())
            assert_same_end(kept, small_end(cut), cut)
            assert all(result.kept_bytes == 0 for result in kept[1]), cut
            if cut.name != "stem":
                assert_reads(cut, kept[1])
        assert bool(memory_of_store(reading.features).rows) == bool(memory)


@pytest.mark.slow
@pytest.mark.usefixtures("free_reading", "small_pieces")
def test_trials_end_the_same_while_tensors_come_and_go(train_kept, tmp_path: Path) -> None:
    """Memory for a few tensors, a disk for some more; of the other cuts, those still to come count."""
    task = small_task(tmp_path, memory=1_000_000, disk=3_000_000)
    order = shuffled(small_cuts())
    once_kept: set[Path] = set()
    n_reading = 0
    for done, cut in enumerate(order, 1):
        kept = train_kept(task, point_at(cut), upcoming=order[done:])
        assert_same_end(kept, small_end(cut), cut)
        n_reading += kept[1][1].read_bytes > 0
        once_kept.update(tmp_path.glob("*.features"))
    assert n_reading > len(order) // 2
    in_memory = memory_of_store(task.features).rows
    assert 0 < sum(kept.rows.nbytes for kept in in_memory.values()) <= 1_000_000
    assert files_of_store(task.features)._mapped, "nothing was read from the disk"
    still_kept = set(tmp_path.glob("*.features"))
    assert sum(path.stat().st_size for path in still_kept) <= 3_000_000
    assert still_kept < once_kept, "nothing had to go"


@pytest.mark.usefixtures("free_reading")
@pytest.mark.parametrize("tier", ["memory", pytest.param("disk", marks=pytest.mark.slow)])
def test_trials_with_views_end_the_same(tier, train_kept, tmp_path: Path) -> None:
    """Epochs show views 1, 2, 0 and 1 again; a second trial finds all of them."""
    task = small_task(tmp_path, epochs=4, views=3, **{tier: PLENTY})
    cuts = cuts_named(SOME[:3])
    for times in (1, 2):
        for cut in shuffled(cuts):
            kept = train_kept(task, point_at(cut), upcoming=cuts)
            assert_same_end(kept, small_end(cut, epochs=4, views=3), cut)
            assert_reads(cut, kept[1] if times == 2 else kept[1][3:])


def test_views_change_where_a_training_ends() -> None:
    """Else the views of the trials above would not matter."""
    (cut,) = cuts_named(SOME[:1])
    with_views, plain = small_end(cut, epochs=4, views=3)[1], small_end(cut, epochs=4)[1]
    assert all(one.train_loss != other.train_loss for one, other in zip(with_views, plain, strict=True))


@pytest.mark.usefixtures("free_reading")
def test_a_backbone_left_in_training_mode_is_frozen_all_the_same(train_kept, tmp_path: Path) -> None:
    (cut,) = cuts_named(["gate1.pointwise"])
    task = small_task(tmp_path, memory=PLENTY)
    model = SmallNet().train()
    model.load_state_dict(task.backbone.model.state_dict())
    task = replace(task, backbone=replace(task.backbone, model=model))
    assert_same_end(train_kept(task, point_at(cut)), small_end(cut), cut)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Where torch rounds 1 x 1 convolutions of fewer than 16 images in another way than those of more."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.usefixtures("free_reading", "one_thread")
def test_a_set_of_one_image_more_than_a_store_computes_at_once_is_rounded_alike(
    train_kept, tmp_path: Path
) -> None:
    (cut,) = cuts_named(["gate1.pointwise"])
    task = replace(small_task(tmp_path, memory=PLENTY), data=some_digits(32, 65, 40))
    assert_same_end(train_kept(task, point_at(cut)), train_recomputed(task, point_at(cut)), cut)


@pytest.mark.usefixtures("free_reading", "one_thread")
@pytest.mark.parametrize("name", ["gate1.expand", "gate1.pointwise", "fc"])
def test_batches_of_a_few_images_end_the_same_with_and_without_a_store(
    name, train_kept, tmp_path: Path
) -> None:
    """Against the same training without a budget: a bare prefix rounds such batches in its own way."""
    (cut,) = cuts_named([name])
    task = small_task(tmp_path, memory=PLENTY, batch_size=6)
    task = replace(task, data=some_digits(32, 40, 13))
    kept = train_kept(task, point_at(cut))
    assert_same_end(kept, train_kept(replace(task, budget=None), point_at(cut)), cut)
    assert_reads(cut, kept[1][1:])


@pytest.mark.usefixtures("free_reading")
@pytest.mark.skipif(not torch.cpu._is_avx512_bf16_supported(), reason="this CPU has no bf16 in hardware")
def test_in_bf16_the_ends_differ_by_the_tolerance_at_most(train_kept, tmp_path: Path) -> None:
    task = small_task(tmp_path, precision="bf16", memory=PLENTY)
    cuts = cuts_named(SOME)
    for cut in shuffled(cuts):
        kept = train_kept(task, point_at(cut), upcoming=cuts)
        assert_near_end(kept, small_end(cut, precision="bf16"), cut, BF16_TOLERANCE)
        assert_reads(cut, kept[1][1:])


# --- timm's nets --------------------------------------------------------------------------------

# A cut inside a block of each, where several tensors are alive.
INSIDE = {
    "densenet121": "features.denseblock3.denselayer12.conv2",
    "resnet18": "layer3.1.conv2",
    "resnet50": "layer3.2.conv2",
    "tf_efficientnet_lite0": "blocks.4.1.conv_dw",
    "mobilenetv3_large_100": "blocks.4.1.se.conv_reduce",
}
# On a CPU, ResNet50 takes minutes.
NETS = [name for name in INSIDE if name != "resnet50"]


@cache
def timm_backbone(name: str) -> Backbone:
    backbone = load_backbone(name, "random", image_size=64)
    randomise_norms(backbone.model, some_digits(64, 24, 12).train.gather(torch.arange(24)))
    return replace(backbone, digest=state_digest(backbone.model, leave_out=backbone.classifier))


def timm_task(name: str, budget: Budget, *, kind: str = "cpu", precision: str = "float32", **recipe) -> Task:
    return Task(
        backbone=timm_backbone(name),
        data=some_digits(64, 24, 12),
        recipe=Recipe(**{"epochs": 2, "batch_size": 12, "seed": 3, **recipe}),
        device=choose_device(kind, precision),
        budget=budget,
    )


def timm_cuts(task: Task, n_cuts: int) -> list[Cut]:
    """Cuts spread over the depth, the first and the head among them, and the one inside a block."""
    cuts = list_cuts(task.backbone.model, KINDS, image_size=64)
    places = {round(i * (len(cuts) - 1) / (n_cuts - 1)) for i in range(n_cuts)}
    inside = find_cut(cuts, INSIDE[task.backbone.name])
    assert len(task.graph.boundary(task.position(inside))) > 1
    return [cuts[place] for place in sorted({*places, inside.index})]


# Their heads have a hidden layer: a linear one alone is solved, not trained.
@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_trials_on_timms_nets_end_as_with_their_prefix_recomputed(name, train_kept, tmp_path: Path) -> None:
    """With the rule for what is worth keeping as it is: some of it in memory, the rest on the disk."""
    task = timm_task(name, Budget(memory_bytes=2**23, device_bytes=0, disk_bytes=2**30, folder=tmp_path))
    cuts = timm_cuts(task, 2)
    for cut in shuffled(cuts):
        point = Point(cut=cut, learning_rate=1e-3, head_width=16)
        kept = train_kept(task, point, upcoming=cuts)
        assert_same_end(kept, train_recomputed(task, point), cut)
        if cut.index:
            assert_reads(cut, kept[1][1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_trials_on_timms_nets_with_views_end_the_same(name, train_kept, tmp_path: Path) -> None:
    """The first trial computes both views; the second, deeper inside its block, finds them."""
    task = timm_task(
        name, Budget(memory_bytes=PLENTY, device_bytes=0, disk_bytes=0, folder=tmp_path), views=2
    )
    *_, inside, head = (cut for cut in timm_cuts(task, 2) if cut.index)
    for cut in (head, inside):
        point = Point(cut=cut, learning_rate=1e-3, head_width=16)
        kept = train_kept(task, point, upcoming=(inside, head))
        assert_same_end(kept, train_recomputed(task, point), cut)
        if cut is inside:
            assert_reads(cut, kept[1])


# --- on a GPU -----------------------------------------------------------------------------------


def distance(one: State, other: State) -> float:
    """Length of the difference of all weights; a batch norm's statistics are of another scale."""
    weights = [
        name for name in one if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    squares = [(one[name].double().cpu() - other[name].double().cpu()).square().sum() for name in weights]
    return torch.stack(squares).sum().sqrt().item()


@pytest.fixture
def deterministic_cuda() -> Iterator[None]:
    """Use kernels that give the same each time, without TF32: what differs is then the store's doing."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.usefixtures("free_reading", "deterministic_cuda")
@pytest.mark.parametrize("tier", ["device", "memory", "disk"])
def test_on_a_gpu_the_ends_differ_by_rounding_only(tier, train_kept, tmp_path: Path) -> None:
    """A GPU sums in an order that depends on the batch, and a store computes larger batches than a step has.

    Stochastic gradient descent carries such a difference on in proportion; AdamW would not, which moves a
    weight by the whole learning rate whatever its gradient's size.
    """
    given = dict.fromkeys(("memory_bytes", "device_bytes", "disk_bytes"), 0) | {f"{tier}_bytes": PLENTY}
    task = timm_task("resnet50", Budget(folder=tmp_path, **given), kind="cuda")
    cuts = timm_cuts(task, 4)
    for cut in shuffled(cuts):
        point = Point(cut=cut, learning_rate=1e-3, head_width=16, optimizer="sgd")
        start = suffix_of(task.graph, model_for(task, point, SEED), cut).state_dict()
        kept, recomputed = train_kept(task, point, upcoming=cuts), train_recomputed(task, point)
        moved = distance(start, recomputed[0])
        assert moved > 0
        assert distance(kept[0], recomputed[0]) <= GPU_TOLERANCE * moved, cut
        for ours, theirs in zip(kept[1], recomputed[1], strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=GPU_LOSS_TOLERANCE)
            assert ours.val_loss == pytest.approx(theirs.val_loss, rel=GPU_LOSS_TOLERANCE)
        if cut.index:
            assert_reads(cut, kept[1][1:])
