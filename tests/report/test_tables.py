"""Tables in narrow and wide terminals."""

import pytest
from rich.console import Console

from depthsearch.report.tables import Column, FittingTable

NAME = "features.denseblock3.denselayer11.conv2 (conv4_block11_2_conv)"
TABLE = FittingTable(
    title="Top cuts",
    columns=(
        Column(heading="layer", is_right=True),
        Column(heading="first trainable", wraps=True),
        Column(heading="kind", rank=2),
        Column(heading="setting", rank=1, wraps=True),
        Column(heading="score", is_right=True),
    ),
    rows=[("217", NAME, "conv", "lr 0.00095, head linear", "0.9819")],
)


def drawn(table: FittingTable, width: int) -> str:
    console = Console(width=width, file=None, record=True, force_terminal=False, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 160])
def test_names_stay_whole_and_no_line_is_longer_than_the_terminal(width: int) -> None:
    told = drawn(TABLE, width)
    assert all(word in told for word in (*NAME.split(), "217", "0.9819"))
    assert max(map(len, told.splitlines())) <= width


def test_what_is_left_out_is_named() -> None:
    assert "Too narrow" not in drawn(TABLE, 160)
    assert "kind" in drawn(TABLE, 160)
    assert "Too narrow here for: kind, setting." in drawn(TABLE, 65)


def test_a_column_that_still_fits_is_shown_though_one_before_it_does_not() -> None:
    table = FittingTable(
        columns=(Column(heading="a"), Column(heading="b", rank=1), Column(heading="c", rank=2)),
        rows=[("1" * 20, "2" * 20, "3")],
    )
    told = drawn(table, 35)
    assert "3" in told
    assert "2" not in told
    assert "Too narrow here for: b." in told


def test_a_name_longer_than_the_terminal_is_folded_and_not_cut() -> None:
    table = FittingTable(columns=(Column(heading="name"),), rows=[("abcdefghij" * 5,)])
    told = drawn(table, 24)
    assert "abcdefghij" * 5 in "".join(part.strip("│ \n") for part in told.splitlines() if "│" in part)


def test_markup_in_a_name_is_shown_as_it_is() -> None:
    assert "[red]x" in drawn(FittingTable(columns=(Column(heading="n"),), rows=[("[red]x",)]), 80)
