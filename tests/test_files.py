"""Files and folders that appear whole, and the names of folders."""

import os
from itertools import combinations

import pytest
from bad_input import STEADY
from hypothesis import given, strategies as st

from depthsearch.files import folder_named, folder_written_whole, written_whole


@pytest.mark.parametrize("name", ["photos", "photos-v1", "v1.2", "_x", "Bäume", "a" * 200])
def test_a_folder_has_the_name_of_its_study_where_it_can(name: str) -> None:
    assert folder_named(name) == name


@pytest.mark.parametrize(
    "name", ["photos v1", "photos/v1", "photos\\v1", ".photos", "-photos", "photos\n", "photos."]
)
def test_a_name_that_no_folder_can_have_is_recognised_in_that_of_its_folder(name: str) -> None:
    assert folder_named(name).startswith("photos")
    assert folder_named(name) != name


@pytest.mark.parametrize("name", ["con", "NUL", "com1.x", "lpt9"])
def test_a_folder_is_called_like_no_device_of_windows(name: str) -> None:
    assert folder_named(name).startswith(f"{name.partition('.')[0]}-")


def test_what_is_synced_was_opened_to_write_as_windows_wants_it(tmp_path, monkeypatch) -> None:
    real = os.fsync

    def sync(descriptor: int) -> None:
        # Nothing is written, but it fails where nothing may be.
        os.write(descriptor, b"")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    with written_whole(tmp_path / "a", durable=True) as file:
        file.write(b"a")
    with folder_written_whole(tmp_path / "b") as made:
        (made / "c").write_bytes(b"c")
    assert (tmp_path / "b" / "c").read_bytes() == b"c"


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
