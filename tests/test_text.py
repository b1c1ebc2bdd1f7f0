"""Long lists are cut short, and the line says by how much."""

import pytest

from depthsearch.text import a_few, first_few, named_few


@pytest.mark.parametrize(
    ("n", "told"), [(0, ""), (2, "1, 0"), (5, "4, 3, 2, 1, 0"), (7, "6, 5, 4, 3, 2 and 2 more")]
)
def test_the_first_five_are_named_in_their_order(n: int, told: str) -> None:
    assert first_few(map(str, reversed(range(n)))) == told


def test_a_few_names_are_in_the_order_of_the_alphabet() -> None:
    assert a_few({"b", "a", "c"}) == "a, b, c"


def test_who_is_told_of_a_few_is_told_where_the_others_are() -> None:
    assert named_few("2 left out", ["a", "b"]) == "2 left out: a, b."
    assert named_few("6 left out", list("abcdef")) == (
        "6 left out: a, b, c, d, e and 1 more (all in the study)."
    )
