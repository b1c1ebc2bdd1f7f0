"""The front of a stored study: which settings are on it, and where it is shown."""

import io
import json
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import wsgi
from rich.console import Console
from stored_studies import AIM, FINISHED, cut, stored, trial
from test_page import document, figure, traces, trials_in

from depthsearch.report.dashboard.refreshing import refresh
from depthsearch.report.text import as_json, render
from depthsearch.results.front import front_of
from depthsearch.results.summary import summarize
from depthsearch.study.storage.optuna_private import storage_of, study_id_of
from depthsearch.visualization.front import draw_front

SECTION = "## Score against cost"


def paid(index: int, score: float | None, macs: int, state: str = "COMPLETE", **more: Any) -> Any:
    return trial(index, score, state, training_macs=macs, trainable_parameters=macs // 1000, **more)


# By cost and score: 11, 8 and 4 are on the front; 6 costs more than 8 and scores less.
TRIALS = (
    paid(11, 0.70, 1_000_000),
    paid(0, 0.83, 3_000_000),
    paid(8, 0.82, 1_500_000),
    paid(6, 0.80, 2_000_000),
    paid(4, 0.90, 2_500_000),
    paid(3, 0.95, 2_600_000, "PRUNED"),
)
AGAIN = tuple(
    paid(index, score + 0.01 * seed, macs, origin="confirm", confirms=number, seed=seed, resample=False)
    for number, index, score, macs in (
        (4, 4, 0.78, 2_500_000),
        (2, 8, 0.93, 1_500_000),
        (0, 11, 0.7, 1_000_000),
    )
    for seed in (0, 1)
)
PLAN = {"confirmation": {"trials": [4, 2, 0], "seeds": 2, "resample": False}}


def drawn(study: optuna.Study) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(summarize(study)))
    return console.file.getvalue()


def test_the_front_is_of_complete_trials_that_none_beats_in_score_and_cost() -> None:
    front = front_of(summarize(stored(*TRIALS, **AIM)))
    assert [(p.trial.cut.index, p.cost, p.score) for p in front.points] == [
        (11, 1_000_000, 0.70),
        (8, 1_500_000, 0.82),
        (4, 2_500_000, 0.90),
    ]
    assert [p.trial.cut.index for p in front.others] == [0, 6]
    assert not front.is_confirmed
    assert [p.is_answer for p in front.points] == [False, False, True]


def test_of_losses_the_front_has_the_lowest() -> None:
    study = stored(*TRIALS, lower=True, recipe={"metric": "loss", "epochs": 4, "seed": 3}, **AIM)
    assert [p.trial.cut.index for p in front_of(summarize(study)).points] == [11]


def test_after_confirmation_the_front_is_of_means_with_their_errors() -> None:
    front = front_of(summarize(stored(*TRIALS, *AGAIN, **AIM, **PLAN)))
    assert front.is_confirmed
    found = [(p.trial.number, p.score, p.n_trainings, p.is_answer) for p in front.points]
    assert found == [(0, pytest.approx(0.705), 2, False), (2, pytest.approx(0.935), 2, True)]
    assert [p.trial.number for p in front.others] == [4]
    assert front.points[1].standard_error == pytest.approx(0.005)


def test_a_point_of_one_training_beside_means_says_so() -> None:
    summary = summarize(stored(*TRIALS, *AGAIN, **AIM, **PLAN))
    front = front_of(summary)
    once = replace(front, points=(replace(front.points[0], n_trainings=1, standard_error=None),))
    texts = {trace.name: trace.text for trace in draw_front(summary, once).data}
    assert texts["front"][0].startswith("Trial 0: 0.7050, one training<br>")


def test_the_cost_can_be_parameters_and_falls_back_to_those_of_the_cut() -> None:
    aim = {"aim": {"aim": "accuracy+cost", "cost": "parameters"}}
    front = front_of(summarize(stored(*FINISHED, **aim)))
    assert [p.cost for p in front.every] == [
        cut(p.trial.cut.index)["trainable_parameters"] for p in front.every
    ]
    assert 11 not in [p.trial.cut.index for p in front.every], "whose cost was not known"


@pytest.mark.parametrize("changed", [{}, {"aim": {"aim": "accuracy", "cost": None}}])
def test_a_study_of_one_aim_shows_no_front(changed: dict[str, Any]) -> None:
    study = stored(*TRIALS, **changed)
    assert front_of(summarize(study)) is None
    assert SECTION not in document(study).markdown()
    assert "Front:" not in drawn(study)
    found = as_json(summarize(study))
    assert (found["aim"], found["front"]) == ("accuracy", None)
    refresh(study)
    kept = storage_of(study).get_study_system_attrs(study_id_of(study))
    assert not [key for key in kept if "front" in key]


def test_a_study_of_two_aims_without_a_complete_trial_can_be_shown() -> None:
    study = stored(paid(3, 0.5, 10, "PRUNED"), **AIM)
    refresh(study)
    assert as_json(summarize(study))["front"] is None
    assert SECTION not in document(study).markdown()


def test_the_front_is_told_in_the_terminal_and_in_json() -> None:
    study = stored(*TRIALS, **AIM)
    text = drawn(study)
    assert (
        "Front: validation accuracy against training MACs of an image (single trainings, so too good)" in text
    )
    rows = text.split("Front:")[1].split("Top cuts")[0]
    assert [line.split()[1] for line in rows.splitlines() if line.startswith("│")] == ["1", "1.5", "2.5"]
    found = as_json(summarize(study))
    assert found["aim"] == "accuracy+cost"
    assert (found["front"]["cost"], found["front"]["confirmed"]) == ("macs", False)
    assert [(p["trial"], p["training_macs"], p["answer"]) for p in found["front"]["points"]] == [
        (0, 1_000_000, False),
        (2, 1_500_000, False),
        (4, 2_500_000, True),
    ]


@pytest.mark.parametrize("more", [(), AGAIN], ids=["single", "confirmed"])
def test_the_report_draws_all_trials_by_cost_and_score_and_marks_the_answer(more) -> None:
    made = document(stored(*TRIALS, *more, **AIM, **(PLAN if more else {})))
    drawn = figure(made, "score-against-cost")
    found = traces(drawn)
    assert {*trials_in(drawn)} == {0, 1, 2, 3, 4}
    assert found["front"].line.shape == "hv"
    answer = found["answer" if more else "best"]
    assert len(answer.x) == 1
    assert (answer.error_y.array is not None) == bool(more)
    table = made.values["front_table"]
    assert [row[-1] for row in table.rows].index("answer" if more else "best") == table.marked
    text = made.markdown()
    assert "only by comparison with trials that cost at most as much" in text
    assert ("too good" in text) == (not more)
    assert "Score against cost" in made.html()


# --- the dashboard ------------------------------------------------------------------------------


def asked(application: Any, path: str) -> Any:
    """Ask a web application for JSON."""
    said: list[str] = []
    environment: dict[str, Any] = {"PATH_INFO": path}
    setup_testing_defaults(environment)
    answer = application(environment, lambda status, _, __=None: said.append(status))
    with closing(answer) if hasattr(answer, "close") else nullcontext():
        content = b"".join(answer)
    assert said == ["200 OK"]
    return json.loads(content)


def test_the_dashboard_serves_the_front_and_has_it_anew_after_each_trial(
    tmp_path: Path, open_quick_storage
) -> None:
    storage = open_quick_storage(f"sqlite:///{tmp_path}/s.db")
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for key, value in stored(**AIM).user_attrs.items():
        study.set_user_attr(key, value)
    application = wsgi(storage)

    def shown() -> dict[str, Any]:
        plots = asked(application, f"/api/studies/{study_id_of(study)}")["plotly_graph_objects"]
        (plot,) = (plot for plot in plots if plot["id"] == "front")
        return json.loads(plot["graph_object"])

    study.add_trials(TRIALS[:3])
    refresh(study)
    traces = {trace["name"]: trace for trace in shown()["data"]}
    assert traces["front"]["x"] == [1_000_000, 1_500_000, 3_000_000]
    assert traces["front"]["line"]["shape"] == "hv"
    assert "dominated" not in traces
    study.add_trials(TRIALS[3:])
    refresh(study)
    found = shown()
    traces = {trace["name"]: trace for trace in found["data"]}
    assert traces["front"]["y"] == [0.70, 0.82, 0.90]
    assert (traces["best"]["x"], traces["dominated"]["x"]) == ([2_500_000], [3_000_000, 2_000_000])
    assert "6 trials; single trainings, so too good" in found["layout"]["title"]["text"]
