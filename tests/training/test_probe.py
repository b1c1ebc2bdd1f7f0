"""Linear probes against scikit-learn's, on digits and on algebra; the plateau of a curve."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from depthsearch.errors import DataError, TrainingError
from depthsearch.training import probe
from depthsearch.training.outcomes import ProbePoint, plateau_start
from depthsearch.training.probe import linear_probe, ridge_logits

Rows = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def pixels() -> Rows:
    """The digits' 64 pixels, some of which are always 0: training rows and labels, validation's."""
    images, labels = load_digits(return_X_y=True)
    features, classes = torch.from_numpy(images).float(), torch.from_numpy(labels)
    val = torch.arange(len(classes)) % 3 == 1
    return features[~val], classes[~val], features[val], classes[val]


def random_rows(n: int, d: int, num_classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features that say a little about their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, d, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return centres[labels].double() * 0.3 + noise, labels


def sklearn_predictions(features: Tensor, labels: Tensor, queries: Tensor, strength: float) -> np.ndarray:
    scaler = StandardScaler().fit(features)
    ridge = RidgeClassifier(alpha=strength * len(features)).fit(scaler.transform(features), labels)
    return ridge.predict(scaler.transform(queries))


# --- against other implementations ------------------------------------------------------------------


@pytest.mark.parametrize("strength", probe.STRENGTHS)
@pytest.mark.parametrize(("n", "d", "num_classes"), [(90, 20, 3), (40, 120, 3), (60, 60, 2), (50, 1, 2)])
def test_predictions_are_those_of_scikit_learn(n: int, d: int, num_classes: int, strength: float) -> None:
    features, labels = random_rows(n, d, num_classes)
    queries, _ = random_rows(200, d, num_classes, seed=1)
    (logits,) = ridge_logits(features, labels, queries, num_classes, [strength])
    assert logits.argmax(1).tolist() == sklearn_predictions(features, labels, queries, strength).tolist()


def test_the_score_is_scikit_learns_at_the_chosen_strength(pixels: Rows) -> None:
    train, train_labels, val, val_labels = pixels
    strength = probe.choose_strength(train.double(), train_labels, 10)
    expected = np.mean(sklearn_predictions(train.double(), train_labels, val.double(), strength)
                       == val_labels.numpy())  # fmt: skip
    assert linear_probe(train, train_labels, val, val_labels, 10) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(60, 25), (25, 60), (40, 40)])
def test_both_systems_have_the_same_solution(n: int, d: int) -> None:
    features, labels = random_rows(n, d)
    queries, _ = random_rows(30, d, seed=1)
    for strength in probe.STRENGTHS:
        primal, dual = (
            ridge_logits(features, labels, queries, 3, [strength], dual=dual)[0] for dual in (False, True)
        )
        torch.testing.assert_close(primal, dual, rtol=0, atol=1e-9)


# --- what it makes of features ----------------------------------------------------------------------


def test_digits_are_told_apart_by_their_pixels(pixels: Rows) -> None:
    assert linear_probe(*pixels, 10) > 0.9


def test_it_is_deterministic_and_leaves_the_features_alone(pixels: Rows) -> None:
    before = [each.clone() for each in pixels]
    assert linear_probe(*pixels, 10) == linear_probe(*pixels, 10)
    assert all(torch.equal(a, b) for a, b in zip(pixels, before, strict=True))


def test_features_that_say_nothing_give_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    train, val = torch.randn(1000, 50, generator=generator), torch.randn(2000, 50, generator=generator)
    score = linear_probe(train, torch.arange(1000) % 4, val, torch.arange(2000) % 4, 4)
    assert score == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 2000))


def test_validation_has_no_part_in_the_fit(pixels: Rows) -> None:
    train, train_labels, val, val_labels = pixels
    n_correct = round(linear_probe(train, train_labels, val, val_labels, 10) * len(val))
    one_by_one = [
        linear_probe(train, train_labels, val[i : i + 100], val_labels[i : i + 100], 10)
        for i in (0, 100, 200)
    ]
    rest = linear_probe(train, train_labels, val[300:], val_labels[300:], 10) * len(val[300:])
    assert round(sum(one_by_one) * 100 + rest) == n_correct


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("n", [30, 600])
def test_constant_columns_change_nothing(pixels: Rows, constant: float, n: int) -> None:
    train, train_labels, val, val_labels = pixels
    train, train_labels = train[:n], train_labels[:n]
    wider = torch.cat([train, torch.full((n, 3), constant)], 1)
    # Where they are constant in training only, validation must not be moved by them either.
    wider_val = torch.cat([val, torch.randn(len(val), 3)], 1)
    expected = linear_probe(train, train_labels, val, val_labels, 10)
    assert linear_probe(wider, train_labels, wider_val, val_labels, 10) == expected


@pytest.mark.parametrize("n", [30, 600])
def test_duplicated_columns_change_nothing(pixels: Rows, n: int) -> None:
    train, train_labels, val, _ = pixels
    features, queries = train[:n].double(), val.double()
    for strength in probe.STRENGTHS:
        once = ridge_logits(features, train_labels[:n], queries, 10, [strength])[0]
        twice = ridge_logits(
            features.repeat(1, 2), train_labels[:n], queries.repeat(1, 2), 10, [2 * strength]
        )[0]
        # Every column twice doubles the fit's freedom: the same as half the strength.
        torch.testing.assert_close(once, twice, rtol=0, atol=1e-8)


def test_one_feature_repeated_twenty_thousand_times_can_be_solved() -> None:
    feature = torch.linspace(-1, 1, 300)[:, None]
    labels = (feature[:, 0] > 0).long()
    wide = feature.repeat(1, 20_000)
    assert linear_probe(wide, labels, wide[::3], labels[::3], 2) > 0.98


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_the_unit_of_a_feature_does_not_matter(pixels: Rows, scale: float) -> None:
    train, train_labels, val, val_labels = pixels
    scales = torch.ones(64)
    scales[::3] = scale
    expected = linear_probe(*pixels, 10)
    assert linear_probe(train * scales, train_labels, val * scales, val_labels, 10) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_precision_will_do(pixels: Rows, dtype: torch.dtype) -> None:
    train, train_labels, val, val_labels = pixels
    # Pixels are whole numbers up to 16, so none of these types rounds them.
    assert linear_probe(train.to(dtype), train_labels, val.to(dtype), val_labels, 10) == linear_probe(
        *pixels, 10
    )


def test_one_feature_is_enough_to_tell_two_classes_apart() -> None:
    train, val = torch.tensor([[0.0], [1.0]] * 10), torch.tensor([[-1.0], [0.4], [0.6], [5.0]])
    assert linear_probe(train, torch.arange(20) % 2, val, torch.tensor([0, 0, 1, 1]), 2) == 1.0


def test_without_a_feature_that_varies_the_most_frequent_class_is_given() -> None:
    labels = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2, 0])
    score = linear_probe(torch.ones(10, 4), labels, torch.zeros(4, 4), torch.tensor([2, 2, 2, 0]), 3)
    assert score == 0.75


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_few_rows_are_enough(n: int) -> None:
    labels = torch.arange(n) % 2
    features = labels[:, None] + torch.zeros(n, 5)
    assert linear_probe(features, labels, features, labels, 2) >= 0.5


def test_a_fifth_of_every_class_chooses_the_strength(pixels: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    train, train_labels, _, _ = pixels
    seen = []

    def spy(features: Tensor, labels: Tensor, queries: Tensor, *rest: object, **more: object) -> list[Tensor]:
        seen.append((labels.bincount(), len(queries)))
        return ridge_logits(features, labels, queries, *rest, **more)

    monkeypatch.setattr(probe, "ridge_logits", spy)
    probe.choose_strength(train.double(), train_labels, 10)
    ((fitted, n_held_out),) = seen
    assert n_held_out == pytest.approx(len(train) / 5, abs=1)
    assert ((train_labels.bincount() - fitted) / train_labels.bincount()).tolist() == pytest.approx(
        [0.2] * 10, abs=0.01
    )


def test_noise_is_held_on_a_shorter_lead_than_pixels(pixels: Rows) -> None:
    train, train_labels, _, _ = pixels
    noise = torch.randn(len(train), 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert probe.choose_strength(noise, train_labels, 10) == max(probe.STRENGTHS)
    assert probe.choose_strength(train.double(), train_labels, 10) < 1


# --- what it refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["training", "validation"])
def test_features_that_are_not_finite_are_refused(pixels: Rows, which: str, value: float) -> None:
    train, train_labels, val, val_labels = (each.clone() for each in pixels)
    {"training": train, "validation": val}[which][3:5, 7] = value
    with pytest.raises(
        TrainingError,
        match=rf"^2 of \d+ {which} images have features that are not finite \(1 of 64 features\)",
    ):
        linear_probe(train, train_labels, val, val_labels, 10)


def test_infinities_of_both_signs_are_refused(pixels: Rows) -> None:
    train, *rest = pixels
    train = train.clone()
    train[0, 0], train[1, 0] = math.inf, -math.inf
    with pytest.raises(TrainingError, match=r"^2 of 1198 training images"):
        linear_probe(train, *rest, 10)


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0)])
def test_a_probe_without_images_is_refused(n: int, m: int) -> None:
    with pytest.raises(DataError, match=rf"needs training and validation images: got {n} and {m}\.$"):
        linear_probe(torch.ones(n, 3), torch.zeros(n).long(), torch.ones(m, 3), torch.zeros(m).long(), 2)


# --- the plateau ------------------------------------------------------------------------------------


def curve(*scores: float, n_val: int = 400) -> list[ProbePoint]:
    return [
        ProbePoint(cut=4 * i, layer=10 + i, name=f"layer{i}", n_features=64, score=score, n_val=n_val)
        for i, score in enumerate(scores)
    ]


def test_the_standard_error_is_the_binomial_one() -> None:
    (point,) = curve(0.9, n_val=10_000)
    assert point.standard_error == pytest.approx(math.sqrt(0.9 * 0.1 / 10_000), rel=1e-3)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_a_perfect_score_is_still_one_image_uncertain(score: float) -> None:
    (point,) = curve(score, n_val=100)
    assert point.standard_error == pytest.approx(0.01, rel=0.02)


# One standard error of 0.9 on 400 images is 0.015.
@pytest.mark.parametrize(
    ("scores", "start"),
    [
        ((0.3, 0.6, 0.886, 0.9, 0.88), 2),
        ((0.3, 0.6, 0.884, 0.9, 0.88), 3),
        ((0.3, 0.5, 0.7, 0.9), 3),
        ((0.9, 0.9, 0.9), 0),
        ((0.9, 0.8, 0.7), 0),
        ((0.3, 0.89, 0.5, 0.9), 1),
        ((0.5,), 0),
    ],
)
def test_the_plateau_starts_at_the_shallowest_depth_as_good_as_the_best(
    scores: tuple[float, ...], start: int
) -> None:
    points = curve(*scores)
    assert plateau_start(points) == points[start]
    assert plateau_start(reversed(points)) == points[start]


def test_with_more_images_smaller_gains_count() -> None:
    scores = (0.5, 0.89, 0.9)
    few, many = (plateau_start(curve(*scores, n_val=n)) for n in (400, 40_000))
    assert (few.cut, many.cut) == (4, 8)


def test_no_points_have_no_plateau() -> None:
    assert plateau_start([]) is None


def test_points_can_be_stored_as_plain_dicts() -> None:
    points = curve(0.3, 0.6)
    stored = json.dumps([asdict(point) for point in points])
    assert [ProbePoint(**each) for each in json.loads(stored)] == points
