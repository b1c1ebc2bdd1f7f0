"""Recorded trainings are those of a study, and a recording that was cut off goes on as if it had not been.

Slow as a whole: guards the recordings that the search's defaults are chosen on, and nothing that a user runs.
"""

from pathlib import Path

import numpy as np
import pytest
from recording import GRID, record_table

from benchmarks.search import record
from benchmarks.search.tables import Table
from depthsearch.errors import SettingsError
from depthsearch.search.space import Point
from depthsearch.training import train_point

pytestmark = pytest.mark.slow

TRAININGS = ("done", "score", "train_loss", "val_loss", "log_probability", "right", "probe")


def assert_same(one: Table, other: Table) -> None:
    for name in ("images", "labels", "validation", *TRAININGS):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_every_setting_is_there_with_every_epoch(whole: Table) -> None:
    assert whole.is_whole
    assert whole.score.shape == (2, 4, 2, 2)
    assert np.isfinite(whole.score[:, :-1]).all()
    # The head alone is solved: one result, that of the last epoch, at whatever learning rate.
    assert np.isnan(whole.score[:, -1, :, 0]).all()
    assert (whole.score[:, -1, 0, -1] == whole.score[:, -1, 1, -1]).all()
    assert [cut.index for cut in whole.cuts] == [0, 1, 2, 3]
    assert (whole.cuts[0].frozen_mac_share, whole.cuts[-1].kind) == (0, "head")


def test_the_score_is_the_share_of_images_that_were_right(whole: Table) -> None:
    outcomes = whole.outcomes(1, 2, 0, 2)
    assert outcomes.shape == (40,)
    assert outcomes.mean() == pytest.approx(whole.score[1, 2, 0, 1])
    assert -whole.log_probabilities(1, 2, 0, 2).mean() == pytest.approx(whole.val_loss[1, 2, 0, 1], abs=0.02)


def test_seeds_validate_on_images_of_their_own_split(whole: Table) -> None:
    assert len(whole.images) == len(whole.labels) == 100
    assert all(len(set(rows)) == 40 for rows in whole.validation.tolist())
    assert set(whole.validation[0]) != set(whole.validation[1])
    assert all((np.bincount(whole.labels[rows]) == 4).all() for rows in whole.validation)


def test_a_training_is_that_of_a_study(whole: Table, tmp_path: Path) -> None:
    options = record.read_options([*GRID, "--out", str(tmp_path / "table.npz")])
    task = record.load_task(options)
    seed = record.seed_of(1)
    point = Point(cut=whole.cuts[1], learning_rate=1e-2)
    scores = [result.score for result in train_point(task.resampled(seed), point, seed=seed)]
    assert scores == whole.score[1, 1, 1].tolist()


def test_a_recording_that_was_cut_off_goes_on(
    whole: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.npz"
    begun = 0

    def interrupted(*arguments: object) -> None:
        nonlocal begun
        begun += 1
        if begun == 12:
            raise KeyboardInterrupt
        fill(*arguments)

    fill = record.fill
    monkeypatch.setattr(record, "WRITE_EVERY_SECONDS", 0)
    monkeypatch.setattr(record, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record_table(path, "--seeds", "2")
    assert Table.read(path).done.sum() == 11
    monkeypatch.setattr(record, "fill", fill)
    assert_same(record_table(path, "--seeds", "2"), whole)


def test_seeds_can_be_added_later(whole: Table, tmp_path: Path) -> None:
    one = record_table(tmp_path / "table.npz", "--seeds", "1")
    assert_same(one, whole.first_seeds(1))
    assert_same(record_table(tmp_path / "table.npz", "--seeds", "2"), whole)


def test_learning_rates_can_be_added_later(tmp_path: Path) -> None:
    path, both = tmp_path / "table.npz", ("--learning-rates", "1e-4", "1e-3")
    before = record_table(path, "--seeds", "1", "--learning-rates", "1e-3")
    table = record_table(path, "--seeds", "1", *both)
    assert table.is_whole
    # Not trained again: the seconds are those of then.
    np.testing.assert_array_equal(table.seconds[:, :, 1], before.seconds[:, :, 0])
    assert_same(table, record_table(tmp_path / "other.npz", "--seeds", "1", *both))
    # A further seed of one of them leaves the other as it was.
    more = record_table(path, "--seeds", "2", "--learning-rates", "1e-3")
    assert more.done[:, :, 1].all()
    assert (more.done[0].all(), more.done[1, :, 0].any()) == (True, False)
    assert_same(more.first_seeds(1), table)


def test_a_file_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    record_table(path, "--seeds", "1")
    with pytest.raises(SettingsError, match=r"other settings \(batch_size\)"):
        record_table(path, "--seeds", "1", "--batch-size", "16")


def test_a_training_that_diverges_is_there_without_a_score(tmp_path: Path) -> None:
    table = record_table(tmp_path / "table.npz", "--seeds", "1", "--learning-rates", "1e30")
    assert table.is_whole
    # Only the head alone is solved.
    assert table.diverged[:, :-1].all()
    assert not table.diverged[:, -1].any()
    assert (table.mean_score()[:-1] == 1 / 10).all()


def test_cuts_lie_closer_where_trainings_are_cheap(whole: Table, tmp_path: Path) -> None:
    task = record.load_task(record.read_options([*GRID, "--out", str(tmp_path / "table.npz")]))
    from depthsearch import list_cuts

    cuts = list_cuts(task.backbone.model, image_size=32)
    chosen = record.spread_cuts(cuts, 7)
    assert len(chosen) == 7
    assert (chosen[0], chosen[-1]) == (cuts[0], cuts[-1])
    assert sum(cut.frozen_mac_share >= 0.75 for cut in chosen) >= 3
    assert record.spread_cuts(cuts, 99) == cuts


def test_more_images_than_there_are_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="smaller --max-train"):
        record_table(tmp_path / "table.npz", "--max-train", "2000")
