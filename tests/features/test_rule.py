"""What is kept within a budget, against every other choice on instances small enough to try them all."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from insides import memory_of_store

from depthsearch.devices import choose_device
from depthsearch.features import Budget, FeatureStore, FrozenBackbone, ViewedImages
from depthsearch.features.rule import Asks, Starts, choose
from depthsearch.models.backbones import load_backbone
from depthsearch.models.tracing.trace import trace

PLENTY = 2**40
SEEDS = range(60)
# Of the better of greedy by density and the best single start, see the source in `rule`.
GUARANTEED = (1 - 1 / np.e) / 2

Kept = Mapping[str, set[int]]


def starts(work: Sequence[float], needs: Sequence[Sequence[int]], tensor_bytes: Sequence[float]) -> Starts:
    """Starts at positions 1, 2, ... with the tensors that each needs."""
    table = np.zeros((len(work), len(tensor_bytes)), dtype=bool)
    for row, columns in enumerate(needs):
        table[row, list(columns)] = True
    return Starts(
        positions=np.arange(1, len(work) + 1),
        work=np.array(work, dtype=np.float64),
        needs=table,
        tensor_bytes=np.array(tensor_bytes, dtype=np.float64),
    )


def asks(passes: Mapping[int, float], *, group: str = "train", n_images: int = 1) -> Asks[str]:
    return Asks(group=group, n_images=n_images, passes=passes)


# A dense block behind a transition: the transition's output, then each layer's; the starts in the block
# need all before them.
DENSE = starts([1000, 1100, 1200, 1300], [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]], [10, 8, 8, 8])


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "budget", "rate"),
    [
        ([], PLENTY, 1),
        ([asks({})], PLENTY, 1),
        ([asks({4: 0.0})], PLENTY, 1),
        ([asks({4: 0.0})], PLENTY, 0),
        ([asks({0: 9.0})], PLENTY, 1),
        ([asks({4: 9.0})], 0, 1),
        ([asks({4: 9.0})], 9, 1),
        ([asks({4: 9.0})], PLENTY, 1e6),
    ],
    ids=[
        "no set",
        "no cut",
        "no pass",
        "no pass and reading is free",
        "a cut before every start",
        "no budget",
        "a budget too small for any start",
        "reading is slower than computing",
    ],
)
def test_nothing_gained_is_nothing_kept(asked: list[Asks[str]], budget: int, rate: float) -> None:
    kept = choose(DENSE, asked, budget_bytes=budget, macs_per_byte=rate)
    assert kept == {a.group: set() for a in asked}


def test_without_any_start_nothing_is_kept() -> None:
    assert choose(starts([], [], []), [asks({4: 9.0})], budget_bytes=9, macs_per_byte=1) == {"train": set()}


def test_the_start_at_the_cut_is_kept_where_there_is_room() -> None:
    chain = starts([100, 200, 300], [[0], [1], [2]], [10, 10, 10])
    kept = choose(chain, [asks({2: 5.0})], budget_bytes=PLENTY, macs_per_byte=1)
    assert kept == {"train": {1}}


def test_a_start_behind_the_cut_is_of_no_use() -> None:
    falling = starts([100, 900], [[0], [1]], [10, 1])
    assert choose(falling, [asks({1: 5.0})], budget_bytes=PLENTY, macs_per_byte=1) == {"train": {0}}


def test_a_smaller_boundary_before_the_cut_is_preferred_to_a_larger_one_at_it() -> None:
    """As in a DenseNet: before the block's first convolution lie a batch norm and 4 times the bytes."""
    net = starts([1000, 1001], [[0], [0, 1]], [10, 30])
    assert choose(net, [asks({2: 10.0})], budget_bytes=PLENTY, macs_per_byte=1) == {"train": {0}}


def test_what_a_start_saves_further_has_to_pay_for_the_bytes_it_adds() -> None:
    """Behind the transition 10 more passes save 100 MACs each and read 8 bytes more, for 8 bytes written."""
    at_two = [asks({2: 10.0})]
    assert choose(DENSE, at_two, budget_bytes=PLENTY, macs_per_byte=11) == {"train": {0, 1}}
    assert choose(DENSE, at_two, budget_bytes=PLENTY, macs_per_byte=12) == {"train": {0}}


@pytest.mark.parametrize(("passes", "kept"), [(1.1, {0}), (0.9, set())])
def test_a_start_that_saves_less_than_writing_costs_is_not_kept(passes: float, kept: set[int]) -> None:
    """It saves 200 - 10 x 10 MACs a pass; writing it costs 100."""
    one = starts([200], [[0]], [10])
    assert choose(one, [asks({1: passes})], budget_bytes=PLENTY, macs_per_byte=10) == {"train": kept}


def test_a_shared_tensor_is_counted_once() -> None:
    kept = choose(DENSE, [asks({1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0})], budget_bytes=34, macs_per_byte=0)
    assert kept == {"train": {0, 1, 2, 3}}


def test_the_budget_is_for_all_images() -> None:
    asked = [asks({1: 9.0}, n_images=100)]
    assert choose(DENSE, asked, budget_bytes=1000, macs_per_byte=1) == {"train": {0}}
    assert choose(DENSE, asked, budget_bytes=999, macs_per_byte=1) == {"train": set()}


def test_sets_and_views_share_the_budget_by_value() -> None:
    chain = starts([100, 300], [[0], [1]], [10, 10])
    asked = [asks({2: passes}, group=group) for group, passes in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    kept = choose(chain, asked, budget_bytes=20, macs_per_byte=1)
    assert kept == {"a": set(), "b": {1}, "c": {1}}


def test_a_view_shown_alike_is_worth_the_same() -> None:
    asked = [asks({4: 5.0}, group=group, n_images=n) for group, n in (("a", 3), ("b", 3), ("val", 1))]
    kept = choose(DENSE, asked, budget_bytes=PLENTY, macs_per_byte=1)
    assert kept["a"] == kept["b"] == kept["val"] != set()


def test_what_a_faster_memory_holds_is_not_chosen_again() -> None:
    asked = [asks({1: 9.0, 4: 9.0})]
    kept = choose(DENSE, asked, budget_bytes=PLENTY, macs_per_byte=1, given={"train": {0}})
    assert kept == {"train": {1, 2, 3}}
    assert choose(DENSE, asked, budget_bytes=PLENTY, macs_per_byte=1, given={"train": {0, 1, 2, 3}}) == {
        "train": set()
    }


def test_what_a_faster_memory_holds_takes_no_room() -> None:
    asked = [asks({4: 9.0})]
    kept = choose(DENSE, asked, budget_bytes=24, macs_per_byte=1, given={"train": {0}})
    assert kept == {"train": {1, 2, 3}}


def test_a_small_start_does_not_bar_one_that_gains_far_more() -> None:
    """By density alone the first start is taken, 10 MACs for 1 byte, and the second finds no room."""
    pair = starts([10, 900], [[0], [1]], [1, 100])
    assert choose(pair, [asks({1: 1.0, 2: 1.0})], budget_bytes=100, macs_per_byte=0) == {"train": {1}}


def test_a_tensor_is_not_kept_without_those_it_needs_beside_it() -> None:
    """The transition's output does not fit; what the layers add to it is of no use alone."""
    kept = choose(DENSE, [asks({1: 50.0, 4: 50.0})], budget_bytes=9, macs_per_byte=0)
    assert kept == {"train": set()}


# --- against every other choice -----------------------------------------------------------------


def random_case(seed: int, *, shared: bool) -> tuple[Starts, list[Asks[str]], int]:
    """Up to five starts, each with a tensor of its own or sharing some, one set or two, and a budget."""
    rng = np.random.default_rng(seed)
    n_groups = int(rng.integers(1, 3))
    p = int(rng.integers(2, 6 if n_groups == 1 else 5))
    needs = np.eye(p, dtype=bool)
    if shared:
        needs |= rng.random((p, p)) < 0.3
    given = Starts(
        positions=2 * np.arange(1, p + 1),
        work=np.sort(rng.integers(1, 1000, p)).astype(float),
        needs=needs,
        tensor_bytes=rng.integers(1, 50, p).astype(float),
    )
    asked = [
        asks(
            {int(cut): float(rng.integers(0, 5)) for cut in rng.integers(0, 2 * p + 3, 3)},
            group=group,
            n_images=int(rng.integers(1, 4)),
        )
        for group in "ab"[:n_groups]
    ]
    whole = sum(given.tensor_bytes.sum() * a.n_images for a in asked)
    return given, asked, int(rng.random() * whole)


def size_of(given: Starts, asked: Asks[str], kept: set[int]) -> float:
    return float(given.tensor_bytes[sorted(kept)].sum() * asked.n_images)


def value_of(given: Starts, asked: Asks[str], kept: set[int], rate: float) -> float:
    """MACs that a choice saves in all passes, less those that writing is charged as."""
    sizes = given.needs @ given.tensor_bytes
    at_hand = [row for row, needs in enumerate(given.needs) if set(np.flatnonzero(needs)) <= kept]
    saved = 0.0
    for cut, passes in asked.passes.items():
        worth = [given.work[r] - rate * sizes[r] for r in at_hand if given.positions[r] <= cut]
        saved += passes * max([0.0, *worth])
    return saved * asked.n_images - rate * size_of(given, asked, kept)


def best_value(given: Starts, asked: Sequence[Asks[str]], budget: int, rate: float) -> float:
    """Try every set of tensors for every set of images."""
    columns = range(len(given.tensor_bytes))
    choices = [set(c) for n in range(len(columns) + 1) for c in itertools.combinations(columns, n)]
    tried = [[(size_of(given, a, c), value_of(given, a, c, rate)) for c in choices] for a in asked]
    fits = (c for c in itertools.product(*tried) if sum(size for size, _ in c) <= budget)
    return max(sum(value for _, value in c) for c in fits)


def cases(rate: float, *, shared: bool) -> Iterator[tuple[Starts, list[Asks[str]], int, Kept]]:
    for seed in SEEDS:
        given, asked, budget = random_case(seed, shared=shared)
        yield given, asked, budget, choose(given, asked, budget_bytes=budget, macs_per_byte=rate)


@cache
def shares_of_best(rate: float, *, shared: bool) -> list[float]:
    """The value of each choice over that of the best, where anything can be gained."""
    shares = []
    for given, asked, budget, kept in cases(rate, shared=shared):
        best = best_value(given, asked, budget, rate)
        if best > 0:
            shares.append(sum(value_of(given, a, kept[a.group], rate) for a in asked) / best)
    return shares


everywhere = pytest.mark.parametrize("shared", [False, True], ids=["own tensors", "shared tensors"])
at_all_rates = pytest.mark.parametrize("rate", [0.0, 1.0, 5.0])


@everywhere
@at_all_rates
def test_the_budget_is_never_exceeded(rate: float, shared: bool) -> None:
    for given, asked, budget, kept in cases(rate, shared=shared):
        assert sum(size_of(given, a, kept[a.group]) for a in asked) <= budget


@everywhere
@at_all_rates
def test_most_choices_are_nearly_the_best(rate: float, shared: bool) -> None:
    shares = shares_of_best(rate, shared=shared)
    assert len(shares) > len(SEEDS) / 2
    assert np.median(shares) > 0.97


@everywhere
@at_all_rates
def test_no_choice_is_below_the_guaranteed_share_of_the_best(rate: float, shared: bool) -> None:
    assert min(shares_of_best(rate, shared=shared)) >= GUARANTEED


@everywhere
@at_all_rates
def test_every_tensor_kept_belongs_to_a_start_that_is_kept_whole(rate: float, shared: bool) -> None:
    for given, asked, _, kept in cases(rate, shared=shared):
        for a in asked:
            whole = [set(np.flatnonzero(n)) for n in given.needs if set(np.flatnonzero(n)) <= kept[a.group]]
            assert kept[a.group] == set().union(*whole)


def test_the_choice_is_deterministic_whatever_the_order_of_cuts() -> None:
    for seed in SEEDS:
        given, asked, budget = random_case(seed, shared=True)
        turned = [asks(dict(reversed(a.passes.items())), group=a.group, n_images=a.n_images) for a in asked]
        first, again, other = (
            choose(given, a, budget_bytes=budget, macs_per_byte=1.0) for a in (asked, asked, turned)
        )
        assert first == again == other


# --- a real net ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def densenet() -> FrozenBackbone:
    """DenseNet121 of random weights at 64 pixels."""
    backbone = load_backbone("densenet121", "random", image_size=64)
    return FrozenBackbone(
        trace(backbone.model, image_size=64), backbone.preprocessing, choose_device("cpu", "float32")
    )


def wanted_of(frozen: FrozenBackbone, images, passes: Mapping[str, float], folder: Path) -> set[str]:
    """Name the nodes that a store wants to keep in memory for passes at some layers."""
    viewed = ViewedImages(images)
    store = FeatureStore(frozen, Budget(memory_bytes=PLENTY, device_bytes=0, disk_bytes=0, folder=folder))
    positions = {layer.name: layer.position for layer in frozen.graph.layers}
    at = {positions[name]: times for name, times in passes.items()}
    store.expect([Asks(group=viewed, n_images=len(viewed), passes=at)])
    memory = memory_of_store(store)
    return {node.name for node, item in store.items(viewed).items() if item.key in memory.wanted}


def test_at_layer_144_of_densenet121_the_transition_is_kept(densenet, digits, tmp_path: Path) -> None:
    """Layer 144 is the first convolution of the third block; two batch norms lie between."""
    layer = "features.denseblock3.denselayer1.conv1"
    assert wanted_of(densenet, digits.val, {layer: 20.0}, tmp_path) == {"features_transition2_pool"}


def test_deep_in_a_dense_block_what_is_kept_builds_on_the_transition(densenet, digits, tmp_path) -> None:
    layers = {f"features.denseblock3.denselayer{i}.conv1": 20.0 for i in (1, 2, 3, 4)}
    assert wanted_of(densenet, digits.val, layers, tmp_path) == {
        "features_transition2_pool",
        *(f"features_denseblock3_denselayer{i}_conv2" for i in (1, 2, 3)),
    }


def test_at_the_first_layer_of_densenet121_nothing_is_kept(densenet, digits, tmp_path: Path) -> None:
    assert wanted_of(densenet, digits.val, {"features.conv0": 20.0}, tmp_path) == set()
