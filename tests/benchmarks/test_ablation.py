"""The search with one part taken out: every row is there, and what is taken out is put back."""

from pathlib import Path

import pytest

from benchmarks.search import ablation
from depthsearch.search.planning import moves, planner


@pytest.mark.slow
def test_a_row_for_each_part_and_nothing_stays_out(
    whole_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards the published table: whole studies for each part."""
    before = {name: getattr(planner, name) for name in ("CHEAP", "OTHER_RATE_COST", "ONCE_MORE_COST")}
    kept = planner.Planner._new, moves.Move.rate
    ablation.main([str(whole_file), "--seeds", "2", "--budgets", "1", "--n-val", "20"])
    shown = capsys.readouterr().out
    assert [part.name for part in ablation.PARTS if f"| {part.name}" not in shown] == []
    assert {name: getattr(planner, name) for name in before} == before
    assert (planner.Planner._new, moves.Move.rate) == kept


def test_as_many_images_are_given_as_tables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablation.main(["one.npz", "two.npz", "--n-val", "20"])
    assert "2 tables need as many numbers after --n-val" in capsys.readouterr().err
