"""Studies on recorded trainings pay for what they see, and are judged by what is true.

Slow as a whole: guards the benchmarks that choose the search's defaults, and nothing that a user runs.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks.search import replay
from benchmarks.search.policies import POLICIES, depthsearch
from benchmarks.search.recorded import Recorded, task_of
from benchmarks.search.tables import Table, packed
from benchmarks.search.truth import difference_error, truth_of
from depthsearch.errors import DivergedError
from depthsearch.study import open_study, search
from depthsearch.training import full_fine_tune_macs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")]


@pytest.fixture(scope="module")
def peaked(whole: Table) -> Table:
    """A table of 400 images in which the third of four cuts is right far more often, at the higher rate."""
    chances = np.array([[0.5, 0.55], [0.6, 0.62], [0.7, 0.9], [0.6, 0.5]])[None, :, :, None, None]
    n_val, shape = 400, (*whole.score.shape, 400)
    right = np.random.default_rng(0).uniform(size=shape) < np.broadcast_to(chances, shape)
    about = replace(whole.about, n_val=n_val)
    labels = np.arange(460) % 10
    validation = np.stack([np.arange(n_val), np.arange(60, 460)])
    empty = Table.empty(about, whole.cuts, images=labels.astype(str), labels=labels, validation=validation)
    return replace(
        empty,
        done=np.ones_like(whole.done),
        score=right.mean(-1),
        train_loss=np.ones_like(whole.score),
        seconds=np.ones_like(whole.score),
        log_probability=packed(np.where(right, -0.1, -2.0)),
        right=np.packbits(right, axis=-1),
        probe=np.full_like(whole.probe, 0.5),
    )


def test_the_unit_of_costs_is_that_of_the_product(whole: Table) -> None:
    assert full_fine_tune_macs(task_of(whole)) == whole.full_fine_tune_macs


def test_training_everything_costs_one(whole: Table) -> None:
    recorded = Recorded(whole, 0)
    results = list(recorded.train(0, 0))
    assert recorded.cost == 1
    assert sum(result.macs for result in results) == recorded.macs


def test_frozen_layers_are_paid_for_once(whole: Table) -> None:
    recorded = Recorded(whole, 0)
    list(recorded.train(2, 0))
    first = recorded.macs
    assert first == whole.frozen_macs(2) + 2 * whole.learning_macs(2)
    list(recorded.train(2, 1, again=1))
    assert recorded.macs - first == 2 * whole.learning_macs(2)
    list(recorded.train(3, 0))
    later = whole.frozen_macs(3) - whole.frozen_macs(2)
    # The head alone is solved in one pass.
    assert recorded.macs - first == 2 * whole.learning_macs(2) + later + whole.learning_macs(3)


def test_a_study_sees_a_draw_of_its_own_and_always_the_same(peaked: Table) -> None:
    def scores(seed: int, again: int) -> list[float]:
        return [result.score for result in Recorded(peaked, seed).train(2, 1, again=again)]

    assert scores(0, 0) == scores(0, 0)
    assert scores(0, 0) != scores(1, 0)
    assert scores(0, 0) != scores(0, 1)
    means = [scores(seed, 0)[-1] for seed in range(60)]
    assert np.mean(means) == pytest.approx(peaked.score[:, 2, 1, -1].mean(), abs=0.01)
    # The error of a share of 400 images.
    assert np.std(means) == pytest.approx(0.015, abs=0.006)


def test_a_training_that_diverged_says_so_once_it_is_paid(whole: Table) -> None:
    score = whole.score.copy()
    score[:, 0, 1, 1] = np.nan
    recorded = Recorded(replace(whole, score=score), 0)
    with pytest.raises(DivergedError, match="epoch 2"):
        list(recorded.train(0, 1))
    assert recorded.cost == 1


def test_the_coordinator_counts_what_the_table_counts(whole: Table, tmp_path: Path) -> None:
    recorded = Recorded(whole, 3)
    study = open_study(optuna.storages.InMemoryStorage(), "s", recorded.task, recorded.space, {})
    options = {"n_trials": 4, "sampler": "random", "pruner": "none", "checkpoints": tmp_path}
    list(search(study, recorded.task, recorded.space, executor=recorded.executor(), **options))
    trained = sum(trial.user_attrs["macs"] for trial in study.trials if trial.state.is_finished())
    assert trained + study.user_attrs["transfer_curve"]["macs"] == recorded.macs
    seen = [(p["cut"], p["score"]) for p in study.user_attrs["transfer_curve"]["points"]]
    assert seen == list(enumerate(whole.probe[recorded.draw(0).seed]))[1:]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_answer_costs_more_than_its_budget(policy: str, whole: Table) -> None:
    budgets = (0.01, 0.5, 2.0)
    answers = POLICIES[policy](Recorded(whole, 0), budgets)
    assert sorted(answers) == list(budgets)
    assert all(answer.cost <= budget for budget, answer in answers.items())
    assert answers[0.5].cost < answers[2.0].cost


@pytest.mark.parametrize("policy", POLICIES)
def test_what_stands_out_is_found(policy: str, peaked: Table) -> None:
    answer = POLICIES[policy](Recorded(peaked, 1), [30.0])[30.0]
    assert (answer.cut, answer.rate) == (2, 1)
    assert (answer.level is None) == (not policy.startswith("depthsearch"))


def test_what_is_trained_again_is_part_of_the_cost(peaked: Table) -> None:
    recorded = Recorded(peaked, 0)
    answer = depthsearch(recorded, [1000.0])[1000.0]
    assert answer.level is not None
    assert 2 in answer.level
    assert answer.cost == recorded.cost < 1000
    first = depthsearch(Recorded(peaked, 0), [0.05])[0.05]
    assert first.cost <= 0.05 < answer.cost


def test_the_truth_is_the_mean_or_smoother(peaked: Table, whole: Table) -> None:
    mean = truth_of(peaked, "mean")
    noise = np.random.default_rng(0).standard_normal(whole.score.shape)
    noisy = replace(whole, score=0.5 + 0.02 * noise)
    assert mean.best_cut == 2
    assert mean.score == pytest.approx(peaked.score[..., -1].mean(0))
    assert mean.regret(2, 1) == 0
    assert mean.regret(2, 0) == pytest.approx(20, abs=3)
    assert truth_of(noisy, "smooth").score.var() < noisy.mean_score()[..., -1].var()
    assert truth_of(noisy).way == "smooth"
    assert 0 < difference_error(noisy) < 0.2
    assert truth_of(whole.first_seeds(1)).error == np.inf


def test_replays_are_printed_and_written(whole_file: Path, tmp_path: Path, capsys) -> None:
    written = tmp_path / "replay.json"
    options = ("--policies", "depthsearch", "RandomSampler", "--seeds", "2", "--budgets", "1,3")
    replay.main([str(whole_file), *options, "--json", str(written)])
    shown = capsys.readouterr().out
    assert "| depthsearch   | 3      | 2 |" in shown
    assert "Truth: " in shown
    studies = json.loads(written.read_text())
    assert len(studies) == 2 * 2 * 2
    wanted = {"table", "policy", "budget", "seed", "regret", "within", "covered", "set_share", "cost"}
    assert wanted <= studies[0].keys()
    assert all(study["regret"] >= 0 and study["cost"] <= study["budget"] for study in studies)


def test_a_table_of_some_learning_rates_has_what_was_recorded_of_them(whole: Table) -> None:
    rates = whole.about.learning_rates
    some = whole.with_rates(rates[1], rates[-1])
    assert some.about.learning_rates == rates[1:]
    assert some.done.shape[2] == len(rates) - 1
    np.testing.assert_array_equal(some.score, whole.score[:, :, 1:])
    assert (some.outcomes(0, 1, 0, 1) == whole.outcomes(0, 1, 1, 1)).all()
    with pytest.raises(ValueError, match=r"^Learning rates 1 to 2: the table has"):
        whole.with_rates(1.0, 2.0)


def test_a_table_without_a_whole_seed_is_refused(whole: Table, tmp_path: Path, capsys) -> None:
    done = whole.done.copy()
    done[0, 0, 0] = False
    done[1] = False
    replace(whole, done=done).write(tmp_path / "table.npz")
    with pytest.raises(ValueError, match="Record on"):
        replay.read_table(tmp_path / "table.npz")
    with pytest.raises(SystemExit, match="2"):
        replay.main([str(tmp_path / "table.npz")])
    assert capsys.readouterr().err.endswith("Record on.\n")
