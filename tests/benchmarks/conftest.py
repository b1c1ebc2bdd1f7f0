"""A table that the tests of recordings and replays share."""

from pathlib import Path

import pytest
from recording import record_table

from benchmarks.search.tables import Table


@pytest.fixture(scope="session")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "digits.npz"
    record_table(path, "--seeds", "2")
    return path


@pytest.fixture(scope="session")
def whole(whole_file: Path) -> Table:
    return Table.read(whole_file)
