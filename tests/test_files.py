"""Names of folders."""

from itertools import combinations

import pytest
from bad_input import STEADY
from hypothesis import given
from hypothesis import strategies as st

from depthsearch.files import folder_named


@pytest.mark.parametrize("name", ["photos", "photos-v1", "v1.2", "_x", "Bäume", "a" * 200])
def test_a_folder_has_the_name_of_its_study_where_it_can(name: str) -> None:
    assert folder_named(name) == name


@pytest.mark.parametrize("name", ["photos v1", "photos/v1", "photos\\v1", ".photos", "-photos", "photos\n"])
def test_a_name_that_no_folder_can_have_is_recognised_in_that_of_its_folder(name: str) -> None:
    assert folder_named(name).startswith("photos")
    assert folder_named(name) != name


def test_no_two_studies_have_one_folder() -> None:
    names = ["photos-v1", "photos v1", "photos/v1", "photos:v1", "photos  v1", ".photos-v1"]
    names += ["..", ".", "/", "", *("a" * n for n in (200, 201, 300))]
    assert not [pair for pair in combinations(names, 2) if len({*map(folder_named, pair)}) == 1]


@STEADY
@given(st.text(max_size=300))
def test_every_name_is_that_of_one_folder_which_is_seen_and_stays_where_it_is_made(name: str) -> None:
    named = folder_named(name)
    assert named[0] not in ".-"
    assert not set(named) & set("/\\: \n\0")
    assert len(named.encode()) < 220
