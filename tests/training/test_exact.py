"""A linear head that is solved: against scikit-learn, against the linear probe, and within a study's task."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from depthsearch import Point, Recipe, SearchSpace, Task, list_cuts
from depthsearch.errors import DivergedError
from depthsearch.models.split import suffix_of
from depthsearch.training.exact import fit_linear, only_linear_layer
from depthsearch.training.objective import model_for, train_point, transfer_curve


@pytest.fixture(scope="module")
def rows_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels), torch.tensor(labels)


def logits_of(fit, rows: torch.Tensor) -> torch.Tensor:
    return rows @ fit.weight.T + fit.bias


def test_the_solution_is_that_of_scikit_learn_at_the_same_strength(rows_and_labels) -> None:
    rows, labels = rows_and_labels[0][:600], rows_and_labels[1][:600]
    fit = fit_linear(rows, labels, 10)
    scaler = StandardScaler().fit(rows)
    reference = LogisticRegression(C=1 / (len(rows) * fit.strength), max_iter=10_000, tol=1e-10)
    reference.fit(scaler.transform(rows), labels)
    expected = reference.predict_proba(scaler.transform(rows_and_labels[0][600:]))
    np.testing.assert_allclose(logits_of(fit, rows_and_labels[0][600:]).softmax(1), expected, atol=5e-3)


def test_more_features_than_images_are_solved_as_well(rows_and_labels) -> None:
    """Rotated into their own basis: scikit-learn solves all features."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.relu(rows_and_labels[0] @ torch.randn(64, 300, generator=generator, dtype=torch.float64))
    rows, labels = wide[:120], rows_and_labels[1][:120]
    fit = fit_linear(rows, labels, 10)
    scaler = StandardScaler().fit(rows)
    reference = LogisticRegression(C=1 / (len(rows) * fit.strength), max_iter=10_000, tol=1e-10)
    reference.fit(scaler.transform(rows), labels)
    expected = reference.predict_proba(scaler.transform(wide[120:]))
    np.testing.assert_allclose(logits_of(fit, wide[120:]).softmax(1), expected, atol=5e-3)


def test_weights_of_classes_are_those_of_scikit_learn(rows_and_labels) -> None:
    rows, labels = rows_and_labels[0][:600], rows_and_labels[1][:600]
    weights = torch.linspace(0.2, 2, 10)
    fit = fit_linear(rows, labels, 10, weights=weights)
    scaler = StandardScaler().fit(rows)
    each = weights[labels].double().numpy()
    reference = LogisticRegression(C=1 / (each.sum() * fit.strength), max_iter=10_000, tol=1e-10)
    reference.fit(scaler.transform(rows), labels, sample_weight=each)
    expected = reference.predict_proba(scaler.transform(rows_and_labels[0][600:]))
    np.testing.assert_allclose(logits_of(fit, rows_and_labels[0][600:]).softmax(1), expected, atol=5e-3)


def test_constant_features_and_absent_classes_do_no_harm(rows_and_labels) -> None:
    rows = torch.cat([rows_and_labels[0][:200], torch.full((200, 3), 7.0, dtype=torch.float64)], 1)
    fit = fit_linear(rows, rows_and_labels[1][:200], 12)
    assert fit.weight.isfinite().all()
    assert (fit.weight[:, -3:] == 0).all()
    assert (logits_of(fit, rows).argmax(1) == rows_and_labels[1][:200]).double().mean() > 0.95


def test_it_is_the_same_each_time(rows_and_labels) -> None:
    first, second = (fit_linear(rows_and_labels[0][:300], rows_and_labels[1][:300], 10) for _ in range(2))
    assert torch.equal(first.weight, second.weight)


def test_features_that_are_not_numbers_are_refused(rows_and_labels) -> None:
    rows = rows_and_labels[0][:50].clone()
    rows[3, 2] = float("nan")
    with pytest.raises(DivergedError, match=r"^features of the frozen layers are not finite$"):
        fit_linear(rows, rows_and_labels[1][:50], 10)


def test_views_of_an_image_are_held_out_together(rows_and_labels) -> None:
    """Were a copy of each held-out image trained on, the weakest strength would look best."""
    rows, labels = (
        rows_and_labels[0][:300],
        torch.randint(10, (300,), generator=torch.Generator().manual_seed(0)),
    )
    alone = fit_linear(rows, labels, 10)
    copied = fit_linear(rows.repeat(3, 1), labels.repeat(3), 10, n_views=3)
    assert copied.strength == alone.strength


@pytest.fixture
def space(task: Task) -> SearchSpace:
    return SearchSpace(cuts=tuple(list_cuts(task.backbone.model, image_size=32)))


def test_the_head_alone_comes_in_one_result_whatever_the_recipe(task, space) -> None:
    results = {}
    for learning_rate in (1e-5, 1e-1):
        point = Point(cut=space.cuts[-1], learning_rate=learning_rate)
        (results[learning_rate],) = train_point(task, point, seed=0)
    slow, fast = results.values()
    assert slow.epoch == task.recipe.epochs
    assert (slow.score, slow.val_loss) == (fast.score, fast.val_loss)


def test_the_head_alone_is_what_training_for_long_ends_in(task, space) -> None:
    """A head of hidden layers is still trained: only a linear one is solved."""
    solved = Point(cut=space.cuts[-1], learning_rate=1e-3)
    suffix = suffix_of(task.graph, model_for(task, solved, 0), solved.cut)
    assert only_linear_layer(suffix, task.backbone.classifier) is not None
    wide = replace(solved, head_width=16)
    suffix = suffix_of(task.graph, model_for(task, wide, 0), wide.cut)
    assert only_linear_layer(suffix, task.backbone.classifier) is None
    earlier = replace(solved, cut=space.cuts[-2])
    suffix = suffix_of(task.graph, model_for(task, earlier, 0), earlier.cut)
    assert only_linear_layer(suffix, task.backbone.classifier) is None


def test_the_head_alone_is_not_below_the_linear_probe(task, space) -> None:
    """On the same features and images, by more than a standard error."""
    (result,) = train_point(task, Point(cut=space.cuts[-1], learning_rate=1e-3), seed=0)
    probe = transfer_curve(task, space.cuts).points[-1]
    assert result.score >= probe.score - probe.standard_error


@pytest.mark.parametrize("recipe", [Recipe(epochs=4, views=3), Recipe(epochs=2, balance="weights")])
def test_views_and_balance_are_taken_into_account(task, space, recipe) -> None:
    point = Point(cut=space.cuts[-1], learning_rate=1e-3)
    (plain,) = train_point(task, point, seed=0)
    (other,) = train_point(task.with_recipe(recipe), point, seed=0)
    assert other.val_loss != plain.val_loss
    assert other.score >= plain.score - 0.1
