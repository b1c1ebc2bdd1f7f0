"""Samples of several images and some numbers: from a table to a model that is taken away."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import optuna
import pytest
import torch
from generators import run_out
from insides import memory_of_store
from PIL import Image
from torch import nn

import depthsearch
from depthsearch.classifier import fitting
from depthsearch.classifier.fitting import fit
from depthsearch.cli import main
from depthsearch.data import Columns, DataSet, Division, ImageSet, Sample, Source, load_data
from depthsearch.data.sources.tables import Row
from depthsearch.devices import choose_device
from depthsearch.errors import DataError, SettingsError
from depthsearch.features import Budget, ViewedImages
from depthsearch.models.backbones import load_backbone
from depthsearch.models.flattening import FLAT_HEAD
from depthsearch.models.heads import SampleHead, giving_numbers, make_head, without_dropout
from depthsearch.models.split import split_traced
from depthsearch.search.space import Point, SearchSpace
from depthsearch.study import open_study
from depthsearch.training.costs import full_fine_tune_macs, head_size_of, note_cost
from depthsearch.training.objective import model_for, train_point, transfer_curve
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

SIZE = 16
# In the order of the images' columns and of the numbers'.
COLUMNS = Columns(images=("front", "side"), numbers=("weight_g", "age"))
PLENTY = Budget(memory_bytes=2**30, device_bytes=0, disk_bytes=0, folder=Path())
N = 60


def paint(path: Path, seed: int, shade: int | None = None) -> None:
    """Write an image of noise, or of a shade with noise in it."""
    noise = torch.randint(0, 256, (SIZE, SIZE, 3), generator=torch.Generator().manual_seed(seed)).float()
    pixels = noise if shade is None else shade + 0.2 * noise
    Image.fromarray(pixels.to(torch.uint8).numpy()).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Hold sixty samples of two classes: noise in front, the class's shade at the side, numbers."""
    root = tmp_path_factory.mktemp("samples")
    rows = ["front,side,label,weight_g,age,shade"]
    for i in range(N):
        label = i % 2
        paint(root / f"f{i:02d}.png", 2 * i)
        paint(root / f"s{i:02d}.png", 2 * i + 1, shade=40 + 120 * label)
        rows.append(f"f{i:02d}.png,s{i:02d}.png,{'ab'[label]},{500 + 300 * label + i},{i % 7},{i}")
    (root / "samples.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def load(folder, tmp_path_factory) -> Callable[..., DataSet]:
    cache = tmp_path_factory.mktemp("cache")

    def load_(
        table: str = "samples.csv",
        columns: Columns = COLUMNS,
        division: Division = Division(),
        channels: int = 3,
        **reading,
    ) -> DataSet:
        source = Source(folder / table, columns=columns, **reading)
        return load_data(source, division, image_size=SIZE, channels=channels, cache=cache)

    return load_


@pytest.fixture(scope="module")
def data(load) -> DataSet:
    return load()


@pytest.fixture(scope="module")
def of(backbone) -> Callable[..., Task]:
    """Make a task of a data set: two epochs on the CPU."""

    def task_of(data: DataSet, **options) -> Task:
        recipe = Recipe(**{"epochs": 2, "batch_size": 8, **options})
        device = choose_device("cpu", "float32")
        return Task(backbone=backbone, data=data, recipe=recipe, device=device)

    return task_of


def end_of(task: Task, point: Point, seed: int = 5) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train a point; give the weights that it ends in, and its scores."""
    results, suffix = run_out(train_point(task, point, seed=seed, upcoming={point.cut: 3.0}))
    return suffix.state_dict(), [result.score for result in results]


def row_of(data: DataSet, images: ImageSet, sample: int) -> list[str]:
    """Name the files of a sample."""
    return [data.paths[row] for row in images.rows[images.places_of(torch.tensor([sample]))]]


# --- the data set -------------------------------------------------------------------------------


def test_a_sample_is_the_images_and_numbers_of_its_row(data) -> None:
    assert (data.columns, str(data.columns)) == (COLUMNS, "samples of 2 images and 2 numbers")
    assert [len(data.train), len(data.val), len(data.test)] == [36, 12, 12]
    for images in (data.train, data.val, data.test):
        assert images.rows.shape == (2 * len(images),)
        for sample in range(len(images)):
            front, side = row_of(data, images, sample)
            i, label = int(front[1:3]), int(images.labels[sample])
            assert (front, side, label) == (f"f{i:02d}.png", f"s{i:02d}.png", i % 2)
            assert images.numbers[sample].tolist() == [500 + 300 * label + i, i % 7]


@pytest.mark.parametrize(
    ("value", "number"), [(3, 3.0), (2.5, 2.5), (True, 1.0), (" -1e-3 ", -0.001), (Decimal("1.5"), 1.5)]
)
def test_a_number_may_be_of_any_kind_that_a_table_has(value: object, number: float) -> None:
    assert Row(place="t.parquet, row 1", values={"age": value}).number("age") == number


@pytest.mark.parametrize(
    "value", [None, "", "  ", "one", "1,5", "0x10", float("nan"), 10**400, date(2020, 1, 1)]
)
def test_what_is_no_number_says_where(value: object) -> None:
    with pytest.raises(DataError, match=r"^t\.parquet, row 1: age is ([^.]+|1e39|inf)\. Give "):
        Row(place="t.parquet, row 1", values={"age": value}).number("age")


def test_classes_are_mapped_and_splits_given_by_samples(load, folder, tmp_path) -> None:
    rows = [
        f"f{i:02d}.png,s{i:02d}.png,{'pqr'[i % 3]},{i},{('train', 'val', 'test')[i % 5 % 3]}"
        for i in range(N)
    ]
    (folder / "splits.csv").write_text("\n".join(["front,side,label,age,split", *rows]) + "\n")
    (tmp_path / "map.json").write_text('{"p": "x", "q": "x", "r": "y"}')
    data = load("splits.csv", replace(COLUMNS, numbers=("age",)), classes_map=tmp_path / "map.json")
    assert data.classes == ("x", "y")
    for name, images in (("train", data.train), ("val", data.val), ("test", data.test)):
        wanted = [i for i in range(N) if ("train", "val", "test")[i % 5 % 3] == name]
        assert images.numbers.flatten().tolist() == wanted
        assert images.labels.tolist() == [int(i % 3 == 2) for i in wanted]


def test_the_images_are_in_the_order_of_the_columns(load, data) -> None:
    turned = load(columns=replace(COLUMNS, images=("side", "front")))
    assert row_of(turned, turned.train, 0) == row_of(data, data.train, 0)[::-1]


def test_no_sample_is_in_two_splits_and_all_are_stratified(load) -> None:
    data = load(division=Division(val_share=0.3, test_share=0.3))
    seen = Counter(path for s in (data.train, data.val, data.test) for path in _paths(data, s))
    assert set(seen.values()) == {1}
    assert [Counter(s.labels.tolist()) for s in (data.train, data.val, data.test)] == [
        {0: 12, 1: 12},
        {0: 9, 1: 9},
        {0: 9, 1: 9},
    ]


def test_a_subset_keeps_samples_whole(load, data) -> None:
    half = load(division=Division(subset=0.5))
    numbers = {
        tuple(row_of(data, each, n)): each.numbers[n] for each in splits_of(data) for n in range(len(each))
    }
    for mine, whole in zip(splits_of(half), splits_of(data), strict=True):
        assert 0 < len(mine) < len(whole)
        assert set(mine.labels.tolist()) == {0, 1}
        for n in range(len(mine)):
            assert torch.equal(mine.numbers[n], numbers[tuple(row_of(half, mine, n))])


def splits_of(data: DataSet) -> tuple[ImageSet, ImageSet, ImageSet]:
    return data.train, data.val, data.test


def _paths(data: DataSet, images: ImageSet) -> list[str]:
    return [data.paths[row] for row in images.rows]


def test_the_split_is_that_of_as_many_single_images(load) -> None:
    """Over samples: the same rows as if each had its first image only."""
    alone, both = load(columns=Columns(images=("front",))), load()
    assert _paths(both, both.test)[::2] == _paths(alone, alone.test)


def test_an_unreadable_image_takes_its_sample_along(load, folder) -> None:
    text = (folder / "samples.csv").read_text().replace("s04.png", "broken.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "holes.csv").write_text(text.replace("f07.png", "missing.png"))
    with pytest.raises(DataError, match=r"missing\.png"):
        load("holes.csv")
    data = load("holes.csv", skip_unreadable=True)
    assert sorted(data.skipped) == ["broken.png", "missing.png"]
    left = [path for s in (data.train, data.val, data.test) for path in _paths(data, s)]
    assert len(left) == 2 * (N - 2)
    assert not {"f04.png", "s07.png", *data.skipped} & set(left)


def test_the_fingerprint_tells_numbers_and_columns_apart_but_not_the_place(load, folder, tmp_path) -> None:
    first = load()
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert load(copy / "samples.csv").fingerprint == first.fingerprint
    (folder / "other.csv").write_text((folder / "samples.csv").read_text().replace(",500,", ",501,"))
    others = [
        load("other.csv"),
        load(columns=replace(COLUMNS, images=("side", "front"))),
        load(columns=replace(COLUMNS, numbers=("age", "weight_g"))),
        load(columns=replace(COLUMNS, numbers=("weight_g", "shade"))),
        load(columns=replace(COLUMNS, numbers=())),
        load(columns=Columns(images=("front",))),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 7


def test_one_image_and_no_number_is_the_data_set_that_it_was(load, folder) -> None:
    """Whatever the column is called: the fingerprint is of content, labels and splits."""
    plain = load(columns=Columns(images=("front",)))
    text = (folder / "samples.csv").read_text()
    (folder / "image.csv").write_text(text.replace("front,", "image,", 1))
    usual = load_data(folder / "image.csv", image_size=SIZE)
    splits = [split for split in ("train", "val", "test") for _ in getattr(usual, split).rows]
    every = [row for split in (usual.train, usual.val, usual.test) for row in split.rows.tolist()]
    labels = torch.cat([usual.train.labels, usual.val.labels, usual.test.labels]).tolist()
    digests = usual.train.digests
    known = {r: ["ab"[y], s, digests[r]] for r, s, y in zip(every, splits, labels, strict=True)}
    content = json.dumps([["a", "b"], [known[row] for row in sorted(known)]]).encode()
    by_hand = hashlib.blake2b(content, digest_size=16).hexdigest()
    assert plain.fingerprint == usual.fingerprint == by_hand
    assert usual.columns.is_plain
    assert usual.train.numbers is None


def test_kept_features_are_of_images_and_say_nothing_of_samples(data, of) -> None:
    plain = replace(data.train, labels=data.train.labels.repeat_interleave(2), images_each=1, numbers=None)
    assert ViewedImages(data.train, 2).fingerprint == ViewedImages(plain, 2).fingerprint
    assert len(ViewedImages(data.train)) == 2 * len(data.train)


def test_each_image_of_a_sample_has_its_own_view(data) -> None:
    same = replace(data.train, rows=data.train.rows[::2].repeat_interleave(2))
    viewed = ViewedImages(same, 1)
    front, side = viewed.pixels(same.places_of(torch.tensor([0])), choose_device("cpu", "float32"))
    assert not torch.equal(front, side)


def test_splits_that_are_joined_or_thinned_keep_samples_whole(data) -> None:
    joined = data.train.joined(data.val)
    picked = joined.chosen(torch.tensor([40, 3]))
    assert _paths(data, picked) == row_of(data, data.val, 4) + row_of(data, data.train, 3)
    assert torch.equal(picked.numbers, torch.stack([data.val.numbers[4], data.train.numbers[3]]))


# --- the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("flat", "pooled"), [(False, True), (False, False), (True, False)])
@pytest.mark.parametrize("width", [0, 8])
def test_a_head_joins_features_and_standardised_numbers(flat: bool, pooled: bool, width: int) -> None:
    features = torch.randn(6, 4) if pooled else torch.randn(6, 4, 3, 3)
    numbers = torch.randn(3, 2)
    n_features = 36 if flat else 4
    options = {"width": width, "depth": 2, "pooled": pooled, "flat": flat}
    head = make_head(n_features, 5, images_each=2, n_numbers=2, dropout=0.1, **options)
    head.join.mean.copy_(torch.tensor([1.0, 2.0]))
    head.join.deviation.copy_(torch.tensor([4.0, 0.5]))
    head.eval()
    each = features.flatten(1) if flat or pooled else features.mean((2, 3))
    row = torch.cat([each[0], each[1], (numbers[0] - torch.tensor([1.0, 2.0])) / torch.tensor([4.0, 0.5])])
    rest = nn.Sequential(*list(head)[list(head).index(head.join) + 1 :])
    logits = head(features, numbers)
    assert logits.shape == (3, 5)
    assert torch.allclose(logits[0], rest(row[None])[0], atol=1e-5)
    kept = without_dropout(head)
    assert isinstance(kept, SampleHead)
    assert torch.equal(kept(features, numbers), logits)


def test_one_image_and_no_number_gives_the_heads_that_were() -> None:
    assert type(make_head(4, 2)) is nn.Linear
    assert type(make_head(4, 2, width=8)) is nn.Sequential


def test_numbers_are_standardised_by_the_training_split_and_a_constant_one_is_harmless(data, of) -> None:
    constant = data.train.numbers.clone()
    constant[:, 1] = 0.1
    data = replace(data, train=replace(data.train, numbers=constant))
    head = model_for(of(data), Point(cut=None, learning_rate=1e-3), 0).fc
    assert torch.allclose(head.join.mean, constant.mean(0))
    assert torch.allclose(head.join.deviation[0], constant[:, 0].std(correction=0))
    assert head.join.deviation[1] == 1
    again = of(data).resampled(3)
    numbers = torch.cat([constant, data.val.numbers])[again.train_rows]
    assert torch.allclose(
        model_for(again, Point(cut=None, learning_rate=1e-3), 0).fc.join.mean, numbers.mean(0)
    )


def test_suffix_of_prefix_is_the_whole_model_at_every_cut(data, of, space) -> None:
    task = of(data)
    images = torch.randn(8, 3, SIZE, SIZE)
    numbers = data.train.numbers[:4]
    for cut in space.cuts:
        model = model_for(task, Point(cut=cut, learning_rate=1e-3, head_width=16), 1).eval()
        split = split_traced(task.graph, model, cut)
        split.suffix.eval()
        with torch.no_grad(), giving_numbers(model, numbers):
            whole = model(images)
            assert torch.equal(split.suffix((*split.prefix(images), numbers)), whole), cut
        assert whole.shape == (4, 2)


def test_hooks_for_numbers_are_gone_afterwards(data, of, space) -> None:
    model = model_for(of(data), Point(cut=space.cuts[0], learning_rate=1e-3), 1).eval()
    with giving_numbers(model, data.train.numbers[:1]):
        model(torch.zeros(2, 3, SIZE, SIZE))
    with pytest.raises(ValueError, match="takes 2 numbers of each sample, and got none"):
        model(torch.zeros(2, 3, SIZE, SIZE))


# --- training -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"views": 2}, {"balance": "sampling"}, {"balance": "weights"}])
def test_training_on_kept_features_ends_in_the_same_weights(data, of, space, options) -> None:
    plain = of(data, epochs=3, **options)
    for cut in (space.cuts[0], space.cuts[len(space.cuts) // 2], space.cuts[-1]):
        point = Point(cut=cut, learning_rate=1e-2, head_width=16, dropout=0.2)
        recomputed, scores = end_of(replace(plain), point)
        kept_task = replace(plain, budget=PLENTY)
        kept, again = end_of(kept_task, point)
        assert kept.keys() == recomputed.keys()
        assert [name for name in kept if not torch.equal(kept[name], recomputed[name])] == []
        assert scores == again
    assert memory_of_store(kept_task.features).rows, "nothing was kept: nothing is shown"


def test_training_on_a_new_division_keeps_to_samples(data, of, space) -> None:
    point = Point(cut=space.cuts[-1], learning_rate=1e-2)
    task = of(data).resampled(3)
    kept, _ = end_of(task, point)
    joined = data.train.joined(data.val)
    by_hand = replace(data, train=joined.chosen(task.train_rows), val=joined.chosen(task.val_rows))
    other, _ = end_of(of(by_hand), point)
    assert all(torch.equal(kept[name], other[name]) for name in other)


def test_costs_are_those_of_a_sample(data, load, of, space) -> None:
    """Twice a backbone's, once a head's."""
    one, two = of(load(columns=Columns(images=("side",)))), of(data, batch_size=36)
    passes = 2 * (3 * len(data.train) + len(data.val))
    n_features = one.backbone.model.fc.in_features
    of_backbone = full_fine_tune_macs(one) / passes - 2 * n_features
    head = 2 * (2 * n_features + 2)
    assert full_fine_tune_macs(two) / passes == 2 * of_backbone + head
    size = head_size_of(two)
    assert (size.macs, size.tensors, size.parameters) == (head, 2, head + 2)
    cut = space.cuts[len(space.cuts) // 2]
    for result in train_point(two, Point(cut=cut, learning_rate=1e-3), seed=1):
        assert result.plain_macs == result.macs, "batches are large enough not to be filled up"
        n_train, n_all = len(data.train), len(data.train) + len(data.val)
        frozen = two.features.frozen.macs_before(two.position(cut))
        learns = 2 * (of_backbone - frozen) + head
        assert result.plain_macs == n_all * (2 * frozen + learns) + n_train * 2 * learns


def test_a_trial_notes_what_a_sample_costs(data, load, of, space) -> None:
    study = optuna.create_study()
    trial, cut = study.ask(), space.cuts[3]
    task = of(data)
    note_cost(trial, task, Point(cut=cut, learning_rate=1e-3))
    size = head_size_of(task)
    assert trial.user_attrs["training_macs"] == 2 * cut.training_macs + 3 * size.macs
    assert trial.user_attrs["trainable_parameters"] == cut.trainable_parameters + size.parameters
    assert tuple(trial.user_attrs["head_weights"]) == (size.tensors, size.parameters)


def test_the_probe_sees_a_sample_whole(data, load, of, space) -> None:
    one = transfer_curve(of(load(columns=Columns(images=("front",)))), space.cuts, n_depths=3)
    two = transfer_curve(of(data), space.cuts, n_depths=3)
    assert [p.n_features for p in two.points] == [2 * p.n_features + 2 for p in one.points]
    assert {p.n_val for p in two.points} == {len(data.val)}
    frozen = of(data).features.frozen.macs_before(of(data).position(space.cuts[-1]))
    assert two.macs == 2 * (len(data.train) + len(data.val)) * frozen
    # The weight tells the class.
    assert min(p.score for p in two.points) > 0.9 > min(p.score for p in one.points)


CASES = [
    ("numbers", Columns(images=("front",), numbers=("weight_g",))),
    ("second image", Columns(images=("front", "side"))),
]


@pytest.mark.parametrize(("what", "columns"), CASES, ids=[what for what, _ in CASES])
def test_what_alone_tells_the_class_is_learnt(load, of, space, what: str, columns) -> None:
    point = Point(cut=space.cuts[-1], learning_rate=0.03)
    data = load(columns=columns, division=Division(val_share=0.4, test_share=0.1))
    _, scores = end_of(of(data, epochs=20), point)
    assert scores[-1] > 0.9
    noise = load(columns=Columns(images=("front",)), division=Division(val_share=0.4, test_share=0.1))
    _, scores = end_of(of(noise, epochs=20), point)
    assert scores[-1] < 0.75


@pytest.mark.slow
def test_samples_train_with_other_backbones_and_heads(load, of) -> None:
    """One channel, a network from scratch, a flattened map."""
    data = load()
    for name, options in (
        ("test_resnet", {"head": "flatten"}),
        ("test_resnet", {"in_chans": 1}),
        ("cnn", {}),
        ("mobilenetv3_small_050", {}),
    ):
        backbone = load_backbone(name, "random", image_size=32, **options)
        grey = load(channels=1) if options.get("in_chans") == 1 else data
        space = SearchSpace.for_model(backbone.model, image_size=32)
        grown = load_data(
            Source(data.source, columns=COLUMNS), image_size=32, channels=1 if grey is not data else 3
        )
        task = replace(of(grown, epochs=1, batch_size=32), backbone=backbone)
        for cut in (space.cuts[0], space.cuts[-1]):
            state, scores = end_of(task, Point(cut=cut, learning_rate=1e-3))
            (name_,) = [n for n in state if n.endswith("join.mean")]
            assert torch.allclose(state[name_], grown.train.numbers.mean(0))
            assert scores[0] >= 0
        if options.get("head") == "flatten":
            assert backbone.classifier == FLAT_HEAD


# --- the model that is taken away ---------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(data, of, space, tmp_path_factory, open_quick_storage):
    """Fit a middle cut with a hidden layer; give the task, what came out, and the logits of the test."""
    folder = tmp_path_factory.mktemp("fitted")
    task = of(data)
    study = open_study(open_quick_storage(f"sqlite:///{folder}/s.db"), "s", task, space, {})
    point = Point(cut=space.cuts[9], learning_rate=3e-3, head_width=16, dropout=0.1)
    logits = []

    def remember(classifier, images):
        logits.append(seen(classifier, images))
        return logits[-1]

    with pytest.MonkeyPatch.context() as patch:
        seen = fitting.logits_on
        patch.setattr(fitting, "logits_on", remember)
        _, fitted = run_out(fit(study, task, point, folder / "model", trial=0, checkpoints=folder))
    return task, fitted, logits[0]


@pytest.fixture(scope="module")
def tested(fitted, data, folder) -> list[Sample]:
    """The test split's samples as they stand in the table."""
    rows = [row_of(data, data.test, sample) for sample in range(len(data.test))]
    return [
        Sample(images=[folder / path for path in paths], numbers=numbers.tolist())
        for paths, numbers in zip(rows, data.test.numbers, strict=True)
    ]


def test_the_model_predicts_what_the_test_reading_gave_to_the_bit(fitted, tested) -> None:
    _, done, logits = fitted
    classifier = depthsearch.load(done.folder)
    assert classifier.columns == COLUMNS
    expected = logits.softmax(1).tolist()
    for batch_size in (1, 5, 64):
        found = classifier.predict(tested, batch_size=batch_size)
        assert [list(each.probabilities.values()) for each in found] == expected
    assert not done.timm_loads
    # Numbers are given by name too, and matter.
    named = Sample(
        images=dict(zip(COLUMNS.images, tested[0].images, strict=True)),
        numbers=dict(zip(reversed(COLUMNS.numbers), reversed(tested[0].numbers), strict=True)),
    )
    assert list(classifier.predict([named])[0].probabilities.values()) == expected[0]
    other = replace(tested[0], numbers=[0.0, 0.0])
    assert list(classifier.predict([other])[0].probabilities.values()) != expected[0]


def test_numbers_are_standardised_by_all_that_the_model_learns_from(fitted, data) -> None:
    _, done, _ = fitted
    head = depthsearch.load(done.folder).model.fc
    both = torch.cat([data.train.numbers, data.val.numbers])
    assert torch.allclose(head.join.mean, both.mean(0))
    assert torch.allclose(head.join.deviation, both.std(0, correction=0))


def test_a_prediction_tells_its_sample(fitted, tested) -> None:
    (found,) = depthsearch.load(fitted[1].folder).predict(tested[:1])
    told = json.loads(json.dumps(found.as_json()))
    assert told["images"] == [str(path) for path in tested[0].images]
    assert told["numbers"] == tested[0].numbers
    assert "image" not in told


def test_a_sample_with_an_unreadable_image_is_left_out(fitted, tested) -> None:
    classifier = depthsearch.load(fitted[1].folder)
    broken = replace(tested[1], images=[tested[1].images[0], Path("none.png")])
    found = classifier.predict([tested[0], broken, tested[2]], skip_unreadable=True)
    assert [each.sample for each in found] == [s.ordered(COLUMNS) for s in (tested[0], tested[2])]
    with pytest.raises(DataError, match=r"none\.png"):
        classifier.predict([broken])


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("front.png", r"takes samples of 2 images and 2 numbers, not single images such as front\.png"),
        (Sample(images=["a.png"], numbers=[1, 2]), r"^images: 1 given for 2\. Give front, side\.$"),
        (Sample(images="a.png", numbers=[1, 2]), r"^images: 1 given for 2"),
        (Sample(images=["a", "b"], numbers=[1]), r"^numbers: 1 given for 2\. Give weight_g, age\.$"),
        (Sample(images=["a", "b"]), r"^numbers: 0 given for 2"),
        (
            Sample(images={"front": "a", "back": "b"}, numbers=[1, 2]),
            r"^images are front, back\. Give front, s",
        ),
        (Sample(images=["a", "b"], numbers=[1, float("nan")]), r"^age is nan\. Give a finite number"),
        (Sample(images=["a", "b"], numbers=[1, "2"]), r"^age is '2'\. Give a finite number"),
        (Sample(images=["a", "b"], numbers=[10**400, 2]), r"^weight_g is 1000"),
        (Sample(images=["a", "b"], numbers=[1, None]), r"^age is None"),
    ],
)
def test_samples_that_do_not_fit_are_refused(fitted, sample, message: str) -> None:
    with pytest.raises(DataError, match=message):
        depthsearch.load(fitted[1].folder).predict([sample])


def test_models_of_samples_are_not_written_as_onnx(fitted, data, of, space, tmp_path) -> None:
    study = optuna.create_study()
    training = fit(
        study,
        fitted[0],
        Point(cut=space.cuts[-1], learning_rate=1e-3),
        tmp_path / "m",
        trial=0,
        checkpoints=tmp_path,
        onnx=True,
    )
    message = r"^--onnx writes models of one image per sample, and samples has samples of 2 images and 2 num"
    with pytest.raises(SettingsError, match=message):
        next(training)


# --- the command line ---------------------------------------------------------------------------


def status_of(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


OPTIONS = (
    "--backbone test_resnet --weights random --image-size 16 --device cpu --precision float32 --head-width 0"
)
BAD = [
    ("front,side,label,age\na.png,,x,1\n", "bad.csv, line 2: side is empty. Give it, or remove the row."),
    ("front,side,label,age\na.png,b.png,,1\n", "bad.csv, line 2: label is empty."),
    ("front,side,label,age\na.png,b.png,x,\n", "bad.csv, line 2: age is empty. Give a number, or remove"),
    (
        "front,side,label,age\na.png,b.png,x,old\n",
        "bad.csv, line 2: age is 'old', no number. Give one such as",
    ),
    ('front,side,label,age\na.png,b.png,x,"1,5"\n', "bad.csv, line 2: age is '1,5', no number."),
    ("front,side,label,age\na.png,b.png,x,1_000\n", "bad.csv, line 2: age is '1_000', no number."),
    ("front,side,label,age\na.png,b.png,x,nan\n", "bad.csv, line 2: age is nan. Give a finite number"),
    ("front,side,label,age\na.png,b.png,x,-inf\n", "bad.csv, line 2: age is -inf. Give a finite number"),
    ("front,side,label,age\na.png,b.png,x,1e39\n", "bad.csv, line 2: age is 1e39. Give a finite number"),
    (
        "front,label,age\na.png,x,1\n",
        "bad.csv has no column 'side' (the file's path), only: front, label, age.",
    ),
    ("front,side,label\na.png,b.png,x\n", "bad.csv has no column 'age' (a number of the sample), only:"),
    ("front,side,age\na.png,b.png,1\n", "bad.csv has no column 'label' (its class)"),
    ("front,side,label,age\n", "bad.csv: no rows. Give one for each sample."),
    ("front,side,label,age\nf00.png,nix.png,x,1\nf01.png,s01.png,y,1\n", "bad.csv, line 2: no file "),
    (
        "front,side,label,age\nf00.png,s00.png,x,1\nf00.png,s00.png,y,1\n",
        "f00.png, s00.png, with the same numbers, is 'x' in bad.csv, line 2 and 'y' in bad.csv, line 3. Give",
    ),
    (
        "front,side,label,age\nf00.png,s00.png,x,1\nf00.png,s00.png,x,1\n",
        "s00.png, with the same numbers, stands in bad.csv, line 2 and bad.csv, line 3. Remove one row.",
    ),
    (
        "front,side,label,age\nf00.png,s00.png,x,1\nf00.png,s01.png,x,1\n",
        "one class only, 'x'. Give samples of",
    ),
    (
        "front,side,label,age\nf00.png,s00.png,x,1\nf00.png,s01.png,y,1\n",
        "bad.csv has 1 sample, too few to be in each of train, test and val at this --test-share and ",
    ),
]


@pytest.mark.parametrize(("table", "expected"), BAD)
def test_a_bad_table_is_one_line_and_status_2(folder, tmp_path, capsys, table: str, expected: str) -> None:
    for file in ("f00.png", "s00.png", "f01.png", "s01.png"):
        shutil.copy(folder / file, tmp_path)
    (tmp_path / "bad.csv").write_text(table)
    columns = ["--image-columns", "front,side", "--number-columns", "age"]
    assert status_of(["study", *OPTIONS.split(), "--data", str(tmp_path / "bad.csv"), *columns]) == 2
    assert_one_line(capsys, expected)


BAD_COLUMNS = [
    (["--image-columns", "front,Front"], "--image-columns names 'Front' twice. Name each column once."),
    (
        ["--image-columns", "front,age", "--number-columns", "age"],
        "--image-columns and --number-columns both name 'age'. Keep it in one of them.",
    ),
    (
        ["--image-columns", "front,label"],
        "--image-columns names 'label', which holds the class. Leave it out.",
    ),
    (["--image-columns", "front", "--number-columns", "split"], "names 'split', which holds the split."),
    (["--image-columns", "front,nope"], "samples.csv has no column 'nope' (the file's path), only: front, "),
    (["--number-columns", "age"], "samples.csv has no column 'image' (the file's path), only: front, side, "),
    (["--image-columns", "front", "--number-columns", "label"], "names 'label', which holds the class."),
]


@pytest.mark.parametrize(("columns", "expected"), BAD_COLUMNS)
def test_bad_columns_are_one_line_and_status_2(folder, capsys, columns: list[str], expected: str) -> None:
    assert status_of(["study", *OPTIONS.split(), "--data", str(folder / "samples.csv"), *columns]) == 2
    assert_one_line(capsys, expected)


def assert_one_line(capsys, expected: str) -> None:
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("depthsearch ")
    assert expected in line


@pytest.mark.slow
@pytest.mark.parametrize("backbones", ["test_resnet", "test_resnet,test_byobnet"])
def test_from_a_table_to_predictions_of_another(
    folder, tmp_path, capsys, monkeypatch, backbones: str
) -> None:
    """Guards samples from the table to the predictions of another process."""
    monkeypatch.chdir(tmp_path)
    columns = ["--image-columns", "front,side", "--number-columns", "weight_g,age"]
    options = OPTIONS.replace("test_resnet", backbones).split()
    counts = "--trials 5 --epochs 2 --confirm 1 --seeds 2 --resample --views 2 --name s --pruner none"
    aims = "--aim accuracy+cost --keep-disk 0"
    study = [
        "study",
        *options,
        "--data",
        str(folder / "samples.csv"),
        *columns,
        *counts.split(),
        *aims.split(),
    ]
    assert main(study) == 0
    told = capsys.readouterr()
    counted = "; 36 train, 12 validation, 12 test samples of 2 images and 2 numbers."
    assert counted in " ".join(told.err.split())
    assert "training MACs of a sample" in " ".join((told.out + told.err).split())
    assert main(["report", "s", "--out", "report"]) == 0
    page = Path("report/report.md").read_text(encoding="utf-8")
    assert "Images of a sample" in page
    assert "--image-columns front,side --number-columns weight_g,age" in " ".join(
        page.replace("\\", " ").split()
    )
    capsys.readouterr()
    assert main(["fit", "s", "--out", "m"]) == 0
    assert "12 samples" in capsys.readouterr().out
    card = Path("m/README.md").read_text(encoding="utf-8")
    assert "**A sample**: images in the columns front, side; numbers in weight_g, age" in card
    assert "depthsearch.Sample(images=" in card
    assert main(["report", "s"]) == 0
    # No label, other columns around, another order.
    rows = [f"{i},{folder}/s{i:02d}.png,{500 + 300 * (i % 2) + i},{folder}/f{i:02d}.png" for i in range(4)]
    Path("new.csv").write_text("\n".join(["Age,side,weight_g,front", *rows]) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["predict", "m", "new.csv", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["images"] for line in lines] == [
        [f"{folder}/{s}{i:02d}.png" for s in "fs"] for i in range(4)
    ]
    assert [line["class"] for line in lines] == ["a", "b", "a", "b"]
    assert_refused(capsys, folder)


def assert_refused(capsys, folder: Path) -> None:
    """What cannot be done with a model of samples is said in a line."""
    refused = [
        (
            ["fit", "s", "--out", "n", "--onnx"],
            "--onnx writes models of one image per sample, and samples has",
        ),
        (["explain", "s"], "depthsearch explain shows models of one image per sample, and"),
        (["explain", "m", f"{folder}/f00.png"], "depthsearch explain shows models of one image per sample"),
        (
            ["predict", "m", f"{folder}/f00.png"],
            "is no table, and this model takes samples of 2 images and 2",
        ),
        (
            ["predict", "m", "missing.csv"],
            "No file missing.csv. Give a table with the columns front, side, w",
        ),
        (["predict", "m", "empty.csv"], "empty.csv: no rows. Give one for each sample."),
        (["predict", "m", "short.csv"], "short.csv has no columns 'side' (the file's path) and 'weight_g'"),
    ]
    Path("empty.csv").write_text("front,side,weight_g,age\n", encoding="utf-8")
    Path("short.csv").write_text("front\nx.png\n", encoding="utf-8")
    for argv, expected in refused:
        assert status_of(argv) == 2
        assert expected in capsys.readouterr().err.splitlines()[-1]


def test_a_table_is_nothing_for_a_model_of_images(of, load, space, folder, tmp_path, capsys) -> None:
    task = of(load(columns=Columns(images=("side",))), epochs=1)
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/s.db")
    study.set_user_attr("checkpoint_id", "x")
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    list(fit(study, task, point, tmp_path / "m", trial=0, checkpoints=tmp_path))
    assert "samples" not in json.loads((tmp_path / "m" / "config.json").read_text())["depthsearch"]
    capsys.readouterr()
    assert status_of(["predict", str(tmp_path / "m"), str(folder / "samples.csv")]) == 2
    assert_one_line(capsys, "samples.csv is a table, and this model takes images. Give files, or folders of")
    with pytest.raises(DataError, match=r"takes single images, not samples such as a\.png, b\.png"):
        depthsearch.load(tmp_path / "m").predict([Sample(images=["a.png", "b.png"])])


@pytest.mark.parametrize("columns", [("front", "side"), ("front",)])
def test_the_same_image_in_several_samples_is_no_contradiction(load, folder, columns) -> None:
    """A pair may share an image with another; one image may stand with other numbers."""
    rows = [f"f{i // 4:02d}.png,s{i:02d}.png,{'xy'[i % 2]},{i}" for i in range(40)]
    (folder / "pairs.csv").write_text("\n".join(["front,side,label,age", *rows]) + "\n")
    data = load("pairs.csv", columns=Columns(images=columns, numbers=("age",)))
    assert [len(s) for s in (data.train, data.val, data.test)] == [24, 8, 8]
    assert str(data.columns) == f"samples of {len(columns)} image{'s' * (len(columns) > 1)} and 1 number"
    # That an image is in several splits is said once for each.
    assert {len(group) for group in data.duplicates} == {1}
