"""Training the suffix: results, costs, metrics, schedules, checkpoints."""

import contextlib
import errno
import io
import itertools
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from depthsearch.devices import choose_device, release_memory
from depthsearch.errors import DivergedError, SettingsError
from depthsearch.features import Boundaries, Budget, Spent
from depthsearch.models.split import Split, split_at, suffix_of
from depthsearch.options import words
from depthsearch.search.space import Point
from depthsearch.seeds import seed_from
from depthsearch.training import loop, objective
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.training.loop import train
from depthsearch.training.objective import model_for, train_point
from depthsearch.training.outcomes import EpochResult
from depthsearch.training.recipe import Recipe

CPU = choose_device("cpu", "float32")


class Rows:
    """Boundary tensors that are there already, counting what they would have cost."""

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, macs: int = 0) -> None:
        self.features, self.labels, self.macs_per_sample = features, labels, macs
        self.spent = Spent()
        self.epochs: list[int] = []
        self.sizes: list[int] = []
        self.order: list[int] = []

    def prepare(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def batch(self, index: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.spent.macs += self.macs_per_sample * len(index)
        self.sizes.append(len(index))
        self.order += index.tolist()
        return (self.features[index],)


class First(nn.Module):
    """Applies a module to the only tensor of a boundary."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, boundary: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.module(boundary[0])


@pytest.fixture(scope="module")
def rows(digits) -> Callable[..., Rows]:
    """Make sources of digits, flattened, without a backbone."""

    def make(n: int = 100, macs: int = 0) -> Rows:
        places = torch.arange(0, len(digits.train), len(digits.train) // n)[:n]
        pixels = digits.train.gather(places)[:, 0, ::2, ::2].flatten(1).float() / 255
        return Rows(pixels, digits.train.labels[places], macs)

    return make


def linear() -> nn.Module:
    torch.manual_seed(0)
    return First(nn.Linear(64, 10))


def fit(rows, recipe: Recipe, *, n: int = 100, suffix: nn.Module | None = None) -> list[EpochResult]:
    return list(train(suffix or linear(), rows(n), rows(50), recipe, CPU, suffix_macs=640))


def split_of(task, space, index: int, seed: int = 0) -> tuple[Split, Point]:
    point = Point(cut=space.cuts[index], learning_rate=1e-3)
    return split_at(model_for(task, point, seed), point.cut, image_size=16), point


def train_split(task, split: Split, recipe: Recipe, checkpoint: Path | None = None):
    position = task.position(split.cut)
    sources = (Boundaries(task.features, views, position) for views in (task.train_views, task.val_views))
    return train(split.suffix, *sources, recipe, CPU, suffix_macs=split.suffix_macs, checkpoint=checkpoint)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_time(results: list[EpochResult]) -> list[EpochResult]:
    return [replace(result, seconds=0.0, images_per_second=0.0) for result in results]


# --- results ------------------------------------------------------------------------------------


def test_each_epoch_yields_one_result(rows) -> None:
    results = fit(rows, Recipe(epochs=3, batch_size=32))
    assert [result.epoch for result in results] == [1, 2, 3]
    assert all(result.seconds > 0 and result.images_per_second > 0 for result in results)


def test_training_learns(rows) -> None:
    results = fit(rows, Recipe(epochs=15, batch_size=20, learning_rate=0.05))
    assert results[-1].train_loss < results[0].train_loss / 4
    assert results[-1].score > 0.9


class Depthwise(nn.Module):
    """Says how the gradients of its convolution are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, groups=4)
        self.head = nn.Linear(16, 10)
        self.ways: set[str] = set()

    def forward(self, boundary: tuple[torch.Tensor, ...]) -> torch.Tensor:
        maps = self.convolution(boundary[0].reshape(-1, 4, 4, 4))
        if self.training:
            self.ways.add(type(maps.grad_fn).__name__)
        return self.head(maps.flatten(1))


def test_in_bf16_gradients_of_depthwise_convolutions_are_computed_in_float32(rows) -> None:
    suffix, device = Depthwise(), replace(CPU, bf16=True)
    list(train(suffix, rows(100), rows(50), Recipe(epochs=1), device, suffix_macs=640))
    assert suffix.ways == {"_DepthwiseBackward"}


def test_macs_are_prefix_once_and_suffix_thrice_where_it_learns(rows) -> None:
    recipe = Recipe(epochs=2, batch_size=32)
    results = list(train(linear(), rows(100, 7), rows(50, 7), recipe, CPU, suffix_macs=640))
    assert [r.macs for r in results] == [7 * (100 + 50) + 640 * (3 * 100 + 50)] * 2
    assert [r.prefix_macs for r in results] == [7 * (100 + 50)] * 2
    assert [r.forward_macs for r in results] == [640 * (100 + 50)] * 2
    assert [r.backward_macs for r in results] == [640 * 2 * 100] * 2
    assert [r.plain_macs for r in results] == [r.macs for r in results]


def test_without_validation_the_same_is_learned_and_nothing_is_scored(rows) -> None:
    recipe, ends = Recipe(epochs=2, batch_size=32), []
    for val_source in (rows(50, 7), None):
        suffix = linear()
        results = list(train(suffix, rows(100, 7), val_source, recipe, CPU, suffix_macs=640))
        ends.append(suffix.state_dict())
    assert same(*ends)
    assert all(math.isnan(result.score) and math.isnan(result.val_loss) for result in results)
    assert [result.macs for result in results] == [7 * 100 + 640 * 3 * 100] * 2


def test_sources_are_prepared_for_each_epoch_before_it(rows) -> None:
    train_source, val_source = rows(100), rows(50)
    list(train(linear(), train_source, val_source, Recipe(epochs=3), CPU, suffix_macs=640))
    assert train_source.epochs == val_source.epochs == [1, 2, 3]


@pytest.mark.parametrize("index", [0, 7, -2])
def test_macs_of_a_cut_add_up_from_its_split(task, space, index: int) -> None:
    split, point = split_of(task, space, index)
    n_train, n_val = len(task.data.train), len(task.data.val)
    expected = split.prefix_macs * (n_train + n_val) + split.suffix_macs * (3 * n_train + n_val)
    assert [result.macs for result in train_point(task, point, seed=0)] == [expected, expected]


def test_full_fine_tuning_costs_one_full_fine_tune(task, space) -> None:
    point = Point(cut=space.cuts[0], learning_rate=1e-3)
    spent = sum(result.macs for result in train_point(task, point, seed=0))
    assert spent == full_fine_tune_macs(task)


# --- several passes in an epoch ------------------------------------------------------------------


def test_several_passes_are_one_training_of_as_many_epochs(rows) -> None:
    """The steps of a plain loop over the same batches, the learning rate falling over all passes."""
    source, recipe = rows(96), Recipe(epochs=2, batch_size=32, learning_rate=0.01)
    suffix, plain = linear(), linear()
    results = list(train(suffix, source, None, recipe, CPU, suffix_macs=640, passes=3))
    passes = [source.order[start : start + 96] for start in range(0, len(source.order), 96)]
    assert [sorted(each) for each in passes] == [list(range(96))] * 6
    assert len({tuple(each) for each in passes}) == 6

    weight, bias = plain.parameters()
    groups = [{"params": [weight], "weight_decay": 0.01}, {"params": [bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(source.sizes))
    losses = []
    for batch in torch.tensor(source.order).split(32):
        loss = F.cross_entropy(plain((source.features[batch],)), source.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    torch.testing.assert_close(suffix.state_dict(), plain.state_dict())
    halves = losses[:9], losses[9:]
    assert [result.train_loss for result in results] == pytest.approx([sum(half) / 9 for half in halves])


def test_each_pass_over_the_training_images_is_paid_for(rows) -> None:
    recipe = Recipe(epochs=2, batch_size=32)
    results = list(train(linear(), rows(100, 7), rows(50, 7), recipe, CPU, suffix_macs=640, passes=4))
    assert [r.macs for r in results] == [7 * (400 + 50) + 640 * (3 * 400 + 50)] * 2
    assert [r.plain_macs for r in results] == [r.macs for r in results]


def test_what_costs_next_to_nothing_is_passed_over_more_often(task, space) -> None:
    late, n_train, n_val = replace(task.recipe, late_passes=30), len(task.data.train), len(task.data.val)
    long = task.with_recipe(late)
    wide = Point(cut=space.cuts[-1], learning_rate=1e-3, head_width=16)
    split = split_at(model_for(task, wide, 0), wide.cut, image_size=16)
    spent = sum(r.forward_macs + r.backward_macs for r in train_point(long, wide, seed=0))
    # As often as a fiftieth of the network's MACs pays for the head.
    passes = int(0.02 * split.prefix_macs / split.suffix_macs)
    assert 1 < passes < 30 // task.recipe.epochs
    assert spent == split.suffix_macs * task.recipe.epochs * (3 * passes * n_train + n_val)
    whole = Point(cut=space.cuts[0], learning_rate=1e-3)
    assert sum(r.macs for r in train_point(long, whole, seed=0)) == full_fine_tune_macs(task)


def test_late_passes_below_one_are_refused() -> None:
    with pytest.raises(SettingsError, match="0 late passes: give at least 1"):
        Recipe(epochs=3, late_passes=0)


# --- seeds and checkpoints ----------------------------------------------------------------------


def test_the_same_seed_ends_in_the_same_weights_and_another_elsewhere(task, space) -> None:
    ends = []
    for seed in (0, 0, 1):
        split, _ = split_of(task, space, 7)
        list(train_split(task, split, replace(task.recipe, seed=seed)))
        ends.append(split.suffix.state_dict())
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


@pytest.mark.parametrize(
    ("optimizer", "balance"),
    [("adamw", "none"), ("sgd", "none"), ("adamw", "weights"), ("adamw", "sampling")],
)
@pytest.mark.parametrize("stop_after", [1, 2])
def test_going_on_from_a_checkpoint_ends_in_the_same_weights(
    task, space, tmp_path: Path, optimizer: str, balance: str, stop_after: int
) -> None:
    recipe = Recipe(epochs=3, batch_size=32, optimizer=optimizer, balance=balance, seed=4)
    straight, _ = split_of(task, space, 7)
    expected = list(train_split(task, straight, recipe))

    checkpoint = tmp_path / "folder" / "trial.pt"
    stopped = train_split(task, split_of(task, space, 7)[0], recipe, checkpoint)
    list(itertools.islice(stopped, stop_after))
    stopped.close()
    torch.manual_seed(99)
    resumed, _ = split_of(task, space, 7)
    results = list(train_split(task, resumed, recipe, checkpoint))
    assert without_time(results) == without_time(expected)
    assert same(resumed.suffix.state_dict(), straight.suffix.state_dict())


def test_going_on_repeats_no_epoch(task, space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, checkpoint = Recipe(epochs=3, batch_size=32), tmp_path / "trial.pt"
    stopped = train_split(task, split_of(task, space, -1)[0], recipe, checkpoint)
    list(itertools.islice(stopped, 2))
    stopped.close()
    epochs = []
    real = loop.train_epoch
    monkeypatch.setattr(loop, "train_epoch", lambda *given: epochs.append(given[5]) or real(*given))
    list(train_split(task, split_of(task, space, -1)[0], recipe, checkpoint))
    assert epochs == [3]


class Full(io.RawIOBase):
    """A file on a disk that is full from one of its writes on."""

    def __init__(self, n_before: float = math.inf) -> None:
        super().__init__()
        self.n_before, self.n = n_before, 0

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.n += 1
        if self.n > self.n_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)


def test_a_disk_that_is_full_at_any_byte_costs_the_checkpoint_and_not_the_training(
    task, space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    suffix = split_of(task, space, -1)[0].suffix
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.1)
    file = Full()
    monkeypatch.setattr(loop, "written_whole", lambda *_, **__: contextlib.nullcontext(file))
    loop.save_checkpoint(tmp_path / "trial.pt", suffix, optimizer, [])
    n_writes, caplog.records[:] = file.n, []
    assert n_writes > 20
    for n in range(n_writes):
        file = Full(n)
        loop.save_checkpoint(tmp_path / "trial.pt", suffix, optimizer, [])
    expected = "No checkpoint of epoch 0: [Errno 28] No space left on device"
    assert caplog.messages == [expected] * n_writes


def test_another_error_of_a_checkpoint_is_no_full_disk(task, space, tmp_path: Path, monkeypatch) -> None:
    suffix = split_of(task, space, -1)[0].suffix
    optimizer = torch.optim.SGD(suffix.parameters(), lr=0.1)

    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        loop.save_checkpoint(tmp_path / "trial.pt", suffix, optimizer, [])


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: bytes(reversed(data))]
)
def test_a_damaged_checkpoint_starts_over(task, space, tmp_path: Path, damage) -> None:
    recipe, checkpoint = Recipe(epochs=2, batch_size=32), tmp_path / "trial.pt"
    straight, _ = split_of(task, space, 9)
    expected = list(train_split(task, straight, recipe, checkpoint))
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    again, _ = split_of(task, space, 9)
    results = list(train_split(task, again, recipe, checkpoint))
    assert without_time(results) == without_time(expected)
    assert same(again.suffix.state_dict(), straight.suffix.state_dict())


def test_what_is_frozen_is_bit_identical_after_training(task, space, monkeypatch: pytest.MonkeyPatch) -> None:
    suffixes = []

    def remember(*given):
        suffixes.append(suffix_of(*given))
        return suffixes[-1]

    monkeypatch.setattr(objective, "suffix_of", remember)
    point = Point(cut=space.cuts[7], learning_rate=1e-2)
    before = {name: t.clone() for name, t in task.backbone.model.state_dict().items()}
    list(train_point(task, point, seed=0))
    assert any("running_mean" in name for name in before)
    assert same(task.features.frozen.module.state_dict(), before)
    assert same(task.backbone.model.state_dict(), before)
    suffix = suffixes[0].graph.state_dict()
    assert any(not torch.equal(suffix[n], before[n]) for n in suffix if not n.startswith("fc."))


# --- divergence ---------------------------------------------------------------------------------


def test_a_learning_rate_far_too_high_diverges(task, space) -> None:
    point = Point(cut=space.cuts[-2], learning_rate=1e39)
    with pytest.raises(DivergedError, match=r"(training|validation) loss (nan|inf) in epoch \d"):
        list(train_point(task, point, seed=0))


def test_features_that_are_not_numbers_diverge_at_once(rows) -> None:
    source = rows(100)
    source.features[3] = float("nan")
    with pytest.raises(DivergedError, match=r"^training loss nan in epoch 1$"):
        list(train(linear(), source, rows(50), Recipe(epochs=2), CPU, suffix_macs=640))


def test_a_validation_loss_that_is_not_finite_diverges(rows) -> None:
    source = rows(50)
    source.features[3] = float("inf")
    with pytest.raises(DivergedError, match=r"^validation loss nan in epoch 1$"):
        list(train(linear(), rows(100), source, Recipe(epochs=2), CPU, suffix_macs=640))


# --- metrics ------------------------------------------------------------------------------------

LABELS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
CHOSEN = torch.tensor([0, 0, 0, 1, 2, 1, 0, 2, 2, 1])


@pytest.mark.parametrize(
    ("metric", "oracle"),
    [
        ("accuracy", accuracy_score),
        ("balanced_accuracy", balanced_accuracy_score),
        ("macro_f1", lambda labels, chosen: f1_score(labels, chosen, average="macro")),
    ],
)
def test_a_metric_is_scikit_learns(metric: str, oracle) -> None:
    logits = F.one_hot(CHOSEN, 3).float() * 2
    source = Rows(logits, LABELS)
    recipe = Recipe(epochs=1, batch_size=5, learning_rate=1e-30, metric=metric)
    (result,) = train(still(), source, source, recipe, CPU, suffix_macs=0)
    assert result.score == pytest.approx(oracle(LABELS, CHOSEN), abs=1e-12)
    assert words.METRICS[metric] == "maximize"


def still() -> nn.Module:
    """A suffix that hands the logits on; its weights stay as they are at a vanishing learning rate."""
    suffix = First(nn.Linear(3, 3))
    with torch.no_grad():
        suffix.module.weight.copy_(torch.eye(3))
        suffix.module.bias.zero_()
    return suffix


def test_the_loss_as_metric_is_the_validation_loss_and_is_minimized() -> None:
    logits = torch.tensor([[2.0, 0.1, -1.0], [0.5, 0.2, 0.3]]).repeat(5, 1)
    source = Rows(logits, LABELS)
    recipe = Recipe(epochs=1, batch_size=5, learning_rate=1e-30, metric="loss")
    (result,) = train(still(), source, source, recipe, CPU, suffix_macs=0)
    assert result.score == result.val_loss
    assert result.score == pytest.approx(log_loss(LABELS, logits.double().softmax(1)), abs=1e-6)
    assert words.METRICS["loss"] == "minimize"


def test_label_smoothing_changes_the_training_loss_and_not_what_validation_is_measured_with() -> None:
    source = Rows(F.one_hot(CHOSEN, 3).float() * 2, LABELS)
    plain, smoothed = (
        next(train(still(), source, source, recipe, CPU, suffix_macs=0))
        for recipe in (
            Recipe(epochs=1, batch_size=5, learning_rate=1e-30),
            Recipe(epochs=1, batch_size=5, learning_rate=1e-30, label_smoothing=0.3),
        )
    )
    assert plain.val_loss == smoothed.val_loss == pytest.approx(plain.train_loss)
    assert smoothed.train_loss > plain.train_loss + 0.01


# --- steps --------------------------------------------------------------------------------------


def rates(rows, monkeypatch: pytest.MonkeyPatch, **recipe: object) -> list[float]:
    """Give the learning rate of every step."""
    used = []
    step = torch.optim.AdamW.step

    def record(self, *given):
        used.append(self.param_groups[0]["lr"])
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    fit(rows, Recipe(epochs=2, batch_size=25, learning_rate=0.1, **recipe))
    return used


def test_cosine_falls_from_the_peak_towards_zero_over_all_steps(rows, monkeypatch) -> None:
    used = rates(rows, monkeypatch, schedule="cosine")
    expected = [0.05 * (1 + torch.tensor(torch.pi * step / 8).cos().item()) for step in range(8)]
    assert used == pytest.approx(expected)


def test_constant_stays(rows, monkeypatch) -> None:
    assert rates(rows, monkeypatch, schedule="constant") == [0.1] * 8


@pytest.mark.parametrize("batch_size", [2, 3, 16, 33])
@pytest.mark.parametrize("n_batches", [1, 3])
def test_no_batch_is_of_a_single_image(rows, batch_size: int, n_batches: int) -> None:
    source = rows(n_batches * batch_size + 1)
    list(train(linear(), source, rows(50), Recipe(epochs=1, batch_size=batch_size), CPU, suffix_macs=0))
    assert min(source.sizes) >= 2
    assert max(source.sizes) <= max(batch_size, 3)
    assert sum(source.sizes) == len(source.labels)


def test_every_epoch_sees_every_image_once_in_another_order(rows) -> None:
    source = rows(100)
    list(train(linear(), source, rows(50), Recipe(epochs=2, batch_size=32), CPU, suffix_macs=0))
    first, second = source.order[:100], source.order[100:]
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_weight_decay_is_for_matrices_only() -> None:
    """With a gradient of nearly nothing, decay alone moves weights."""
    source = Rows(torch.eye(3).repeat(4, 1) * 100, torch.arange(3).repeat(4))
    suffix = still()
    with torch.no_grad():
        suffix.module.bias.fill_(0.5)
    recipe = Recipe(epochs=1, batch_size=12, learning_rate=0.01, weight_decay=1.0, schedule="constant")
    list(train(suffix, source, source, recipe, CPU, suffix_macs=0))
    torch.testing.assert_close(suffix.module.weight.detach(), 0.99 * torch.eye(3))
    torch.testing.assert_close(suffix.module.bias.detach(), torch.full((3,), 0.5))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_sgd_steps_with_its_momentum(rows, momentum: float) -> None:
    """Against Nesterov's momentum by hand, a step an epoch."""
    source, suffix, by_hand = rows(40), linear(), linear()
    recipe = Recipe(epochs=3, batch_size=40, learning_rate=0.1, weight_decay=0.0, schedule="constant")
    recipe = replace(recipe, optimizer="sgd", momentum=momentum)
    list(train(suffix, source, None, recipe, CPU, suffix_macs=0))
    velocities = [torch.zeros_like(p) for p in by_hand.parameters()]
    for _ in range(3):
        loss = F.cross_entropy(by_hand((source.features,)), source.labels)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g, v in zip(by_hand.parameters(), gradients, velocities, strict=True):
                v.mul_(momentum).add_(g)
                p -= 0.1 * (g + momentum * v)
    torch.testing.assert_close(suffix.module.weight, by_hand.module.weight)


def test_frozen_parameters_of_a_suffix_do_not_move(rows) -> None:
    suffix = First(nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 10)))
    suffix.module[0].requires_grad_(False)
    before = suffix.module[0].weight.clone()
    fit(rows, Recipe(epochs=1, learning_rate=0.1, weight_decay=0.5), suffix=suffix)
    assert torch.equal(suffix.module[0].weight, before)


def test_validation_does_not_move_statistics_or_drop_features(rows) -> None:
    suffix = First(nn.Sequential(nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10)))
    train_source, val_source = rows(96), rows(50)
    results = train(suffix, train_source, val_source, Recipe(epochs=1, batch_size=32), CPU, suffix_macs=0)
    (result,) = results
    assert suffix.module[0].num_batches_tracked == 3
    logits = suffix.eval()((val_source.features,))
    assert result.val_loss == pytest.approx(F.cross_entropy(logits, val_source.labels).item(), rel=1e-6)


def test_neighbouring_seeds_are_unrelated() -> None:
    seeds = {seed_from(a, b) for a in range(20) for b in range(20)}
    assert len(seeds) == 400
    assert seed_from(1, 2) == seed_from(1, 2) != seed_from(2, 1)


@pytest.mark.parametrize(
    "wrong", [{"metric": "auc"}, {"schedule": "linear"}, {"optimizer": "adam"}, {"balance": "even"}]
)
def test_a_recipe_that_cannot_be_trained_is_refused(wrong) -> None:
    with pytest.raises(SettingsError, match="give one of"):
        Recipe(epochs=1, **wrong)


def test_a_momentum_that_would_not_fade_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^momentum 1\.0: give a number in \[0, 1\)\.$"):
        Recipe(epochs=1, momentum=1.0)


# --- uneven classes -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(digits) -> Rows:
    """Give ninety eights and ten threes, which a linear classifier confuses when trained for a short time."""
    many, few = ((digits.train.labels == label).nonzero().flatten() for label in (8, 3))
    places = torch.cat([many[:90], few[:10]])
    pixels = digits.train.gather(places)[:, 0, ::2, ::2].flatten(1).float() / 255
    return Rows(pixels, (digits.train.labels[places] == 3).long())


@pytest.fixture(scope="module")
def even(digits) -> Rows:
    """Give other eights and threes, as many of each."""
    places = torch.cat([(digits.val.labels == label).nonzero().flatten()[:30] for label in (8, 3)])
    pixels = digits.val.gather(places)[:, 0, ::2, ::2].flatten(1).float() / 255
    return Rows(pixels, (digits.val.labels[places] == 3).long())


def two_classes() -> nn.Module:
    torch.manual_seed(0)
    return First(nn.Linear(64, 2))


def train_uneven(uneven: Rows, even: Rows, **options: object) -> tuple[nn.Module, list[EpochResult]]:
    recipe = Recipe(**{"epochs": 2, "batch_size": 10, "learning_rate": 0.01, **options})
    suffix = two_classes()
    return suffix, list(train(suffix, uneven, even, recipe, CPU, suffix_macs=128))


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balance_finds_more_of_the_rare_class(uneven, even, balance: str) -> None:
    found = {}
    for each in ("none", balance):
        suffix, _ = train_uneven(uneven, even, balance=each, epochs=10, batch_size=25)
        predicted = suffix.eval()((even.features,)).argmax(1)
        found[each] = predicted[even.labels == 1].double().mean().item()
    assert found["none"] < 0.5 < 0.8 < found[balance]


def test_weights_are_those_of_scikit_learn_in_the_loss_of_pytorch(uneven, even) -> None:
    options = {"epochs": 1, "batch_size": 100, "optimizer": "sgd", "weight_decay": 0.0, "learning_rate": 0.1}
    ours, (result,) = train_uneven(uneven, even, balance="weights", label_smoothing=0.1, **options)
    theirs = two_classes()
    weights = compute_class_weight("balanced", classes=np.arange(2), y=uneven.labels.numpy())
    loss_of = nn.CrossEntropyLoss(torch.tensor(weights).float(), label_smoothing=0.1)
    loss = loss_of(theirs((uneven.features,)), uneven.labels)
    loss.backward()
    for parameter, trained in zip(theirs.parameters(), ours.parameters(), strict=True):
        # Nesterov's first step is 1.9 times the gradient.
        torch.testing.assert_close(trained, parameter - 0.1 * 1.9 * parameter.grad)
    assert result.train_loss == pytest.approx(loss.item())
    assert (weights[uneven.labels]).mean() == pytest.approx(1)


def test_a_class_that_is_not_there_has_no_part_in_the_weights(rows) -> None:
    some = rows(100)
    kept = some.labels < 4
    few = Rows(some.features[kept], some.labels[kept])
    recipe = Recipe(epochs=2, batch_size=8, balance="weights")
    assert all(math.isfinite(r.train_loss) for r in train(linear(), few, few, recipe, CPU, suffix_macs=640))


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_the_validation_loss_weighs_every_image_alike(uneven, even, balance: str) -> None:
    lopsided = Rows(even.features[:40], even.labels[:40])
    suffix, results = train_uneven(uneven, lopsided, balance=balance)
    logits = suffix.eval()((lopsided.features,))
    assert results[-1].val_loss == pytest.approx(F.cross_entropy(logits, lopsided.labels).item(), rel=1e-6)


def test_sampling_draws_the_classes_as_often_in_as_many_steps(uneven, even) -> None:
    drawn, sizes = {}, {}
    for balance in ("none", "sampling"):
        source = Rows(uneven.features, uneven.labels)
        train_uneven(source, even, balance=balance, epochs=10)
        drawn[balance], sizes[balance] = torch.tensor(source.order), source.sizes
    assert sizes["sampling"] == sizes["none"]
    assert uneven.labels[drawn["none"]].double().mean() == 0.1
    # Of 1,000 draws; five standard deviations.
    assert uneven.labels[drawn["sampling"]].double().mean().item() == pytest.approx(0.5, abs=0.08)
    epochs = drawn["sampling"].view(10, 100)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 10
    assert all(len(epoch.unique()) < 100 for epoch in epochs)
    assert len(drawn["sampling"].unique()) > 95


def test_sampling_on_kept_features_ends_in_the_weights_without(task, space, tmp_path: Path) -> None:
    point = Point(cut=space.cuts[9], learning_rate=1e-3)
    recipe = replace(task.recipe, balance="sampling")
    budget = Budget(memory_bytes=10**9, device_bytes=0, disk_bytes=0, folder=tmp_path)
    ends, read = [], []
    for budget_ in (None, budget):
        training_ = train_point(
            replace(task, recipe=recipe, budget=budget_),
            point,
            seed=0,
            upcoming=dict.fromkeys(space.cuts, 9.0),
        )
        n_read = 0
        while True:
            try:
                n_read += next(training_).read_bytes
            except StopIteration as ended:
                ends.append(ended.value.state_dict())
                break
        read.append(n_read)
    assert same(*ends)
    assert read[0] == 0 < read[1]


# --- a driver that is too old -------------------------------------------------------------------


def test_a_cpu_trains_where_gpus_are_counted_that_cannot_be_used(
    rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = without_time(fit(rows, Recipe(epochs=1)))

    def fail(*_: object) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", fail)
    assert without_time(fit(rows, Recipe(epochs=1))) == expected


# --- a GPU that is full -------------------------------------------------------------------------


def test_a_trial_that_runs_out_of_memory_is_tried_again_without_what_is_kept_on_the_gpu(
    task, space, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Point(cut=space.cuts[7], learning_rate=1e-3)
    expected = without_time(list(train_point(task, point, seed=0)))
    real, calls, held = objective.train, [], [True]

    def full_once(*given, **named):
        calls.append(len(calls))
        training_ = real(*given, **named)
        yield next(training_)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from training_

    monkeypatch.setattr(objective, "train", full_once)
    asked = []

    def give_back(store):
        asked.append(store)
        return held and held.pop()

    monkeypatch.setattr(type(task.features), "give_back_device", give_back)
    other, unused = replace(task), replace(task)
    others = (task, other, unused)
    assert other.features is not task.features
    assert without_time(list(train_point(task, point, seed=0, others=others))) == expected
    assert set(asked) == {task.features, other.features}
    assert "features" not in vars(unused)
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        list(train_point(task, point, seed=0))


def test_nothing_holds_the_weights_of_a_failed_try_when_the_next_begins(
    task, space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model refers to itself, and an error to all that was under way."""
    real, tries, alive = objective.train, [], []

    def full_once(suffix, *given, **named):
        tries.append([weakref.ref(each) for each in (suffix, *suffix.parameters())])
        training_ = real(suffix, *given, **named)
        yield next(training_)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from training_

    def release() -> None:
        release_memory()
        alive.append([found for found in tries[0] if found() is not None])

    monkeypatch.setattr(objective, "train", full_once)
    monkeypatch.setattr(objective, "release_memory", release)
    monkeypatch.setattr(type(task.features), "give_back_device", lambda _: len(tries) == 1)
    list(train_point(task, Point(cut=space.cuts[7], learning_rate=1e-3), seed=0))
    assert len(tries) == 2
    assert alive == [[]]
