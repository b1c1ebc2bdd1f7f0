"""What is read out of a stored study, and nothing but that."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console
from stored_studies import AGAIN, FINISHED, several, stored

from depthsearch.errors import StudyError
from depthsearch.report.page.composing import compose
from depthsearch.report.page.tables import top_table, trials_table
from depthsearch.report.text import as_json, backbone_row, render, render_trials
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import standings, summarize
from depthsearch.study import open_study
from depthsearch.training.costs import full_fine_tune_macs
from depthsearch.visualization.words import millions


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def store(url: str, task, space, open_quick_storage) -> Callable[..., optuna.Study]:
    """Make a stored study of finished trials: (cut, score, state) each; give it as read anew."""

    def make(
        *trials: tuple[int, float | None, str], metric: str = "accuracy", head_width: int = 16
    ) -> optuna.Study:
        measured = replace(task, recipe=replace(task.recipe, metric=metric))
        study = open_study(open_quick_storage(url), "s", measured, space, {})
        for number, (cut, score, state) in enumerate(trials):
            study.add_trial(
                create_trial(
                    state=TrialState[state],
                    value=score if state == "COMPLETE" else None,
                    params={"cut": cut, "learning_rate": 1e-3 * (number + 1), "head_width": head_width},
                    distributions=space.distributions(),
                    intermediate_values={} if score is None else {1: 0.1, 2: score},
                    user_attrs={
                        "macs": 1000 * (number + 1),
                        "plain_macs": 10000 * (number + 1),
                        "kept_bytes": number + 1,
                        "read_bytes": 10 * (number + 1),
                        "seconds": 0.5,
                        "reason": "why it ended",
                    },
                )
            )
        return optuna.load_study(study_name="s", storage=open_quick_storage(url))

    return make


def drawn(renderable: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable)
    return console.file.getvalue()


def test_the_best_is_the_best_complete_trial(store) -> None:
    summary = summarize(store((3, 0.5, "COMPLETE"), (5, 0.7, "COMPLETE"), (6, 0.9, "PRUNED")))
    assert (summary.best.number, summary.best.cut.index, summary.best.score) == (7, 5, 0.7)


def test_of_equal_scores_the_deeper_cut_is_best_then_the_earlier_trial(store) -> None:
    trials = [(3, 0.7, "COMPLETE"), (9, 0.7, "COMPLETE"), (9, 0.7, "COMPLETE"), (5, 0.7, "COMPLETE")]
    best = summarize(store(*trials)).best
    assert (best.cut.index, best.number) == (9, 7)


def test_the_lowest_loss_is_best(store) -> None:
    trials = [(3, 0.7, "COMPLETE"), (5, 0.2, "COMPLETE"), (4, 0.2, "COMPLETE")]
    summary = summarize(store(*trials, metric="loss"))
    assert (summary.best.score, summary.best.cut.index) == (0.2, 5)
    assert [trial.cut.index for trial in summary.top_cuts()] == [5, 4, 3]


def test_top_cuts_are_distinct_and_each_with_its_best_trial(store) -> None:
    trials = [(3, 0.5, "COMPLETE"), (5, 0.6, "COMPLETE"), (3, 0.8, "COMPLETE"), (7, 0.7, "COMPLETE")]
    summary = summarize(store(*trials))
    top = [(trial.cut.index, trial.score) for trial in summary.top_cuts()]
    assert top == [(3, 0.8), (7, 0.7), (5, 0.6)]
    assert len(summary.top_cuts(2)) == 2


def test_baselines_are_the_best_scores_at_both_ends(store, space) -> None:
    last = len(space.cuts) - 1
    trials = [(last, 0.4, "COMPLETE"), (0, 0.6, "COMPLETE"), (last, 0.5, "COMPLETE"), (0, 0.9, "PRUNED")]
    summary = summarize(store(*trials))
    assert (summary.feature_extraction, summary.full_fine_tuning) == (0.5, 0.6)


def test_the_cost_is_that_of_all_trials_in_full_fine_tunes(store, task) -> None:
    summary = summarize(store((3, 0.5, "COMPLETE"), (5, 0.6, "PRUNED"), (6, None, "FAIL")))
    unit = full_fine_tune_macs(task)
    assert summary.cost.seconds == 1.5
    assert summary.cost.full_fine_tunes == pytest.approx(6000 / unit)
    assert summary.cost.plain_full_fine_tunes == pytest.approx(60000 / unit)
    assert (summary.cost.kept_bytes, summary.cost.read_bytes) == (6, 60)


def test_the_cost_has_the_probes_in_it_and_the_curve_is_shown(store, task, url, open_quick_storage) -> None:
    study = store((3, 0.5, "COMPLETE"))
    point = {"layer": 4, "name": "conv1", "n_features": 8, "n_val": 100}
    points = [{**point, "cut": 1, "score": 0.6}, {**point, "cut": 2, "layer": 9, "score": 0.9}]
    curve = {"points": points, "macs": 500, "seconds": 2.5, "kept_bytes": 7}
    study.set_user_attr("transfer_curve", curve)
    summary = summarize(optuna.load_study(study_name="s", storage=open_quick_storage(url)))
    assert summary.cost.full_fine_tunes == pytest.approx(1500 / full_fine_tune_macs(task))
    assert (summary.cost.seconds, summary.cost.kept_bytes) == (3.0, 8)
    # What the probes took is told apart: the plain cost beside it is of the trials alone.
    unit = full_fine_tune_macs(task)
    text = drawn(render(summary))
    assert f"{1500 / unit:.2f} full fine-tunes, {500 / unit:.2f} of them linear probes, for 1 trial (" in text
    assert f"the trials alone: {1000 / unit:.2f}; the same trials" in text
    assert "▁█ accuracy of a linear probe at 2 depths, from 0.6000 (layer 4)" in drawn(render(summary))
    assert as_json(summary)["transfer_curve"] == points


def test_trials_are_counted_by_how_they_ended(store) -> None:
    trials = [(3, 0.5, "COMPLETE"), (5, 0.6, "PRUNED"), (6, 0.6, "PRUNED"), (6, None, "FAIL")]
    summary = summarize(store(*trials))
    assert as_json(summary)["trials"] == {"complete": 1, "pruned": 2, "failed": 1}
    assert summary.n_finished == 4


def test_the_json_has_the_documented_keys(store, space) -> None:
    found = as_json(summarize(store((3, 0.5, "COMPLETE"), (0, 0.25, "COMPLETE"))))
    documented = {
        "study",
        "backbone",
        "weights",
        "data",
        "best",
        "baselines",
        "trials",
        "cost",
        "transfer_curve",
    }
    assert documented <= found.keys()
    assert {"cut", "learning_rate", "head_width", "score"} <= found["best"].keys()
    cut = space.cuts[3]
    assert found["best"]["cut"] == {
        "index": 3,
        "layer": cut.layer,
        "name": cut.name,
        "kind": cut.kind,
        "keras_name": cut.keras_name,
    }
    assert (found["best"]["learning_rate"], found["best"]["head_width"]) == (1e-3, 16)
    assert found["baselines"] == {"feature_extraction": None, "full_fine_tuning": 0.25}
    account = {"full_fine_tunes", "plain_full_fine_tunes", "seconds", "kept_bytes", "read_bytes"}
    assert found["cost"].keys() == account
    assert (found["study"], found["backbone"], found["data"]) == ("s", "test_resnet", "digits")


def test_a_head_width_that_was_not_searched_is_linear_in_the_json(store, url: str, space) -> None:
    study = store()
    study.add_trial(
        create_trial(
            value=0.5,
            params={"cut": 3, "learning_rate": 1e-3},
            distributions={name: space.distributions()[name] for name in ("cut", "learning_rate")},
        )
    )
    assert as_json(summarize(study))["best"]["head_width"] == 0


def test_reading_changes_nothing(store) -> None:
    study = store((3, 0.5, "COMPLETE"))
    before = study.get_trials(), study.user_attrs
    drawn(render(summarize(study)))
    assert (study.get_trials(), study.user_attrs) == before


def test_a_study_of_somebody_else_has_no_summary(url: str, open_quick_storage) -> None:
    study = optuna.create_study(study_name="theirs", storage=open_quick_storage(url))
    with pytest.raises(
        StudyError, match=r"^Study 'theirs' was not made by depthsearch\. Give another --name\.$"
    ):
        summarize(study)


def test_a_study_without_a_complete_trial_can_be_shown(store) -> None:
    summary = summarize(store((5, 0.6, "PRUNED"), (6, None, "FAIL")))
    assert summary.best is None
    assert as_json(summary)["best"] is None
    assert drawn(render(summary)) == "Study s: no trial is complete yet.\n"
    assert drawn(render_trials(summary)).count("why it ended") == 2


def test_a_head_that_is_solved_is_shown_without_a_learning_rate(store, space) -> None:
    """It had one, which was not used: what programs read still says so."""
    summary = summarize(store((3, 0.5, "COMPLETE"), (len(space.cuts) - 1, 0.6, "COMPLETE"), head_width=0))
    for table in (top_table(summary), trials_table(summary)):
        at = table.headings.index("setting")
        assert [row[at] for row in table.rows if "lr 0.002" in row[at] or "solved" in row[at]] == [
            "head linear, solved"
        ]
    for text in (drawn(render(summary)), drawn(render_trials(summary))):
        assert "lr 0.001, head linear" in text
        assert "head linear, solved" in text
        assert "lr 0.002" not in text
    best = as_json(summary)["best"]
    assert (best["trial"], best["learning_rate"]) == (7, 0.002)


def test_the_answer_names_the_cut_by_number_and_path(store, space) -> None:
    text = drawn(render(summarize(store((3, 0.5, "COMPLETE"), (0, 0.25, "COMPLETE")))))
    cut = space.cuts[3]
    assert f"test_resnet: train from layer {cut.layer} ({cut.name})" in text
    assert "validation accuracy 0.5000, one training, lr 0.001, head 16 (trial 6)" in text
    assert "feature extraction – · full fine-tuning 0.2500" in text  # noqa: RUF001 (a dash for nothing)
    assert "for 2 trials (2 complete)" in text


def test_every_trial_is_a_row(store) -> None:
    trials = [(3, 0.5, "COMPLETE"), (5, 0.6, "PRUNED"), (6, None, "FAIL")]
    text = drawn(render_trials(summarize(store(*trials))))
    assert [line.split()[1] for line in text.splitlines() if line.startswith("│")] == ["6", "7", "8"]


def test_trials_that_train_a_setting_again_are_named_and_counted() -> None:
    summary = summarize(stored(*FINISHED, *AGAIN))
    text = drawn(render_trials(summary))
    assert text.count("trial 2 again, seed 1") == 1
    assert text.count(" again, seed ") == len(AGAIN)
    n, told = len(summary.trials), "5 of the search: 3 complete, 1 pruned, 1 failed; 6 train a setting again"
    assert f"for {n} trials ({told})" in drawn(render(summary))
    page = compose(summary, StoredStudy.read(stored(*FINISHED, *AGAIN))).markdown()
    assert f"- Trials: {n} ({told})" in page
    assert "trial 2 again, seed 1" in page


def test_small_numbers_are_written_in_full() -> None:
    assert [millions(count) for count in (0, 5124, 99_999)] == ["0", "5,124", "99,999"]
    assert [millions(count) for count in (100_000, 3_376_132, 2_000_000_000)] == ["0.1 M", "3.38 M", "2 G"]


def test_the_parameters_that_a_backbone_trains_are_the_heads_too() -> None:
    study = several()
    (first, *_) = standings(summarize(study))
    learns = replace(first, trial=replace(first.trial, trainable_parameters=5124))
    of_head = 5124 - first.trial.cut.trainable_parameters
    assert f"5,124 of {millions(first.parameters + of_head)}" in backbone_row(learns)
