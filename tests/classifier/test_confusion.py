"""The picture of a test's confusions."""

import pytest
import torch
from PIL import Image, ImageChops

from depthsearch.classifier.confusion import confusion_picture
from depthsearch.classifier.figures import Figures, figures_of


def figures(names: list[str], predicted: list[int], labels: list[int]) -> Figures:
    logits = torch.eye(len(names))[predicted]
    return figures_of(logits, torch.tensor(labels), names)


def hues(picture: Image.Image) -> set[str]:
    """Tell which of blue and red is in a picture, in more than a hint."""
    found = set()
    for _, (red, _, blue) in picture.getcolors(maxcolors=1_000_000):
        if abs(red - blue) > 60:
            found.add("red" if red > blue else "blue")
    return found


@pytest.mark.parametrize(
    ("predicted", "expected"), [([0, 1, 2], {"blue"}), ([1, 2, 0], {"red"}), ([0, 2, 1], {"blue", "red"})]
)
def test_what_is_right_is_blue_and_what_is_wrong_red(predicted: list[int], expected: set[str]) -> None:
    assert hues(confusion_picture(figures(["a", "b", "c"], predicted, [0, 1, 2]))) == expected


@pytest.mark.parametrize("n_classes", [2, 30, 100, 400])
def test_few_and_many_classes_fit_into_a_picture(n_classes: int) -> None:
    names = [f"a rather long name of class {place} <img src=x>" for place in range(n_classes)]
    labels = list(range(n_classes))
    picture = confusion_picture(figures(names, labels[::-1], labels))
    assert 300 < max(picture.size) < 2700
    white = Image.new("RGB", picture.size, "#ffffff")
    _, _, right, bottom = ImageChops.difference(picture, white).getbbox()
    assert right <= picture.width - 10
    assert picture.height - 30 <= bottom <= picture.height - 10


def test_a_class_without_images_is_drawn() -> None:
    assert hues(confusion_picture(figures(["a", "b", "none"], [0, 1], [0, 1]))) == {"blue"}
