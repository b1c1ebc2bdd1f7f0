"""What a study's options become."""

from __future__ import annotations

from dataclasses import fields

from depthsearch.options.study import StudyOptions
from depthsearch.search.space import Point
from depthsearch.study.preparing.tasks import RECIPE
from depthsearch.training import Recipe


def test_each_option_of_a_training_reaches_its_recipe_or_its_setting() -> None:
    """One that is left out would be taken and do nothing."""
    options, recipe, setting = (
        {field.name for field in fields(kind)} for kind in (StudyOptions, Recipe, Point)
    )
    assert set(RECIPE) | setting >= options & recipe
    assert set(RECIPE) <= options & recipe
