"""How much noise cancels between settings, on made-up outcomes of which it is clear.

Slow as a whole, for the recording that it shares: guards a constant of the search.
"""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.search import noise
from benchmarks.search.tables import Bytes, Table

pytestmark = pytest.mark.slow

N_VAL, SHARE = 2000, 0.8


@pytest.fixture(scope="module")
def outcomes(whole: Table) -> Table:
    """A table in which each setting is right about its own four fifths of the images."""
    return _with(whole, np.random.default_rng(0).uniform(size=(*whole.score.shape, N_VAL)))


def _with(table: Table, chances: np.ndarray) -> Table:
    right = chances < SHARE
    bits: Bytes = np.packbits(right, axis=-1)
    about = replace(table.about, n_val=N_VAL)
    return replace(table, about=about, done=np.ones_like(table.done), score=right.mean(-1), right=bits)


def test_nothing_cancels_between_settings_that_know_nothing_of_each_other(outcomes: Table) -> None:
    unpaired, paired, over_seeds, near = noise.noise_of(outcomes)
    assert unpaired == pytest.approx(2 * SHARE * (1 - SHARE) / N_VAL, rel=0.02)
    assert paired == pytest.approx(unpaired, rel=0.05)
    assert near == pytest.approx(unpaired, rel=0.1)
    assert over_seeds == pytest.approx(unpaired, rel=0.9)


def test_all_cancels_between_settings_that_are_right_about_the_same_images(whole: Table) -> None:
    of_seeds = np.random.default_rng(0).uniform(size=(len(whole.done), 1, 1, 1, N_VAL))
    alike = _with(whole, np.broadcast_to(of_seeds, (*whole.score.shape, N_VAL)))
    assert noise.noise_of(alike)[1:] == (0, 0, 0)


def test_an_oracle_without_noise_leaves_one_cut_and_with_much_nearly_all(outcomes: Table) -> None:
    rising = np.linspace(0.5, 0.8, outcomes.score.shape[1])[None, :, None, None]
    table = replace(outcomes, score=np.broadcast_to(rising, outcomes.score.shape).copy())
    n_cuts = outcomes.score.shape[1]
    assert noise.searched(table, 1e-6, budget=4) == (1, 1 / n_cuts)
    within, share = noise.searched(table, 10.0, budget=2)
    assert within < 0.5
    assert share > 0.7
