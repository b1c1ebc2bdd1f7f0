"""The account of a campaign of faults."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults.campaign import Account

CLEAN = Account(
    made=3, needed=3, crashed=0, finished=68, lost=0, doubled=0, stuck=0, different=0, same_answer=True
)


def test_an_account_without_a_flaw_is_clean() -> None:
    assert CLEAN.is_clean


@pytest.mark.parametrize(
    "flaw",
    [
        # A fault that did not happen proves nothing.
        {"made": 2},
        {"crashed": 1},
        {"lost": 1},
        {"doubled": 1},
        {"stuck": 1},
        {"different": 1},
        {"same_answer": False},
    ],
)
def test_an_account_with_one_is_not(flaw: dict[str, int]) -> None:
    assert not replace(CLEAN, **flaw).is_clean
