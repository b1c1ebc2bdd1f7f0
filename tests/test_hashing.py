"""Digests stay what they are: what is kept and what is stored is known by them."""

from depthsearch.hashing import digest_of


def test_a_digest_is_that_of_all_parts_in_a_row_and_stays_as_it_is() -> None:
    assert digest_of("kept") == "6493dc325c0e7c5a37fe5d4dd8a381e3"
    assert digest_of("k", b"ep", memoryview(b"t"), "") == digest_of("kept")


def test_a_digest_has_as_many_bytes_as_asked_for() -> None:
    assert digest_of("kept", n_bytes=4) == "18078ab3"
    assert len(digest_of("kept", n_bytes=64)) == 128


def test_what_is_no_utf_8_has_a_digest_too() -> None:
    assert digest_of("a\udcff") != digest_of("a")
