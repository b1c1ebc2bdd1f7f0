"""What tables of recorded trainings say."""

import numpy as np
import pytest

from benchmarks.search.tables import packed, unpacked


def test_log_probabilities_survive_a_byte() -> None:
    exact = np.log(np.linspace(1e-6, 1, 1000))
    kept = unpacked(packed(exact))
    assert np.abs(kept - exact).max() < 0.13
    near = exact > -1
    assert np.abs(kept - exact)[near].max() < 0.033
    assert unpacked(packed(np.array([0.0, -np.inf]))).tolist() == [0, -16]
    assert abs((kept - exact)[exact > -3].mean()) == pytest.approx(0, abs=1e-3)
