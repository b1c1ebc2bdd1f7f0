"""What a study keeps for its dashboard: the note and the plots, as they are stored."""

import contextlib
import json
import logging
import re
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import optuna
import pytest
import sqlalchemy
from markdown_it import MarkdownIt
from optuna.exceptions import StorageInternalError
from optuna_dashboard import get_note, save_note, save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from plotly.graph_objects import Figure
from stored_studies import AGAIN, CONFIRMED, FINISHED, NASTY, attributes, several, stored, trial

from depthsearch.report.dashboard import refreshing
from depthsearch.report.dashboard.keeping import BEGIN, END, keep_note, keep_plot, with_ours
from depthsearch.report.dashboard.refreshing import plots_of, refresh, refreshed
from depthsearch.results import StoredStudy, weigh
from depthsearch.results.summary import summarize
from depthsearch.study.control import mark
from depthsearch.study.lease import lease
from depthsearch.study.storage.opening import open_storage
from depthsearch.study.storage.optuna_private import database_of, storage_of, study_id_of

OURS = f"{BEGIN}\n\nours\n\n{END}"


@pytest.fixture
def kept(tmp_path, open_quick_storage):
    """Make a study like those of the report's tests, in a database."""

    def make(*trials: optuna.trial.FrozenTrial, name: str = "s", **changed: Any) -> optuna.Study:
        storage = open_quick_storage(f"sqlite:///{tmp_path}/s.db")
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        for key, value in attributes(**changed).items():
            study.set_user_attr(key, value)
        study.add_trials(trials)
        return study

    return make


def system(study: optuna.Study) -> dict[str, Any]:
    return storage_of(study).get_study_system_attrs(study_id_of(study))


def drawn(study: optuna.Study) -> dict[str, dict[str, Any]]:
    """Give the plots as the dashboard hands them to a browser."""
    return {name: json.loads(text) for name, text in get_plotly_graph_objects(system(study)).items()}


def cells(markdown: str) -> list[list[str]]:
    """Give the rows of all tables of a text, as GitHub's Markdown has them."""
    rows: list[list[str]] = []
    is_cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and is_cell:
            rows[-1].append("".join(part.content for part in token.children or ()))
        is_cell = token.type in ("th_open", "td_open")
    return rows


# --- keeping ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", OURS),
        ("mine", f"{OURS}\n\nmine"),
        (f"above\n\n{BEGIN}\n\nold\n\n{END}\n\nbelow", f"above\n\n{OURS}\n\nbelow"),
        (f"above\n\n{BEGIN}\n\nmine", f"{OURS}\n\nabove\n\n\n\nmine"),
        (f"mine\n\n{END}", f"{OURS}\n\nmine"),
        (f"{END}\n\n{BEGIN} mine", f"{OURS}\n\nmine"),
    ],
)
def test_the_note_of_a_study_keeps_what_people_have_written(kept, before: str, after: str) -> None:
    study = kept()
    if before:
        save_note(study, before)
    assert keep_note(study, "ours")
    assert get_note(study) == after
    assert with_ours(after, "ours") == after


def test_our_part_of_a_note_leaves_its_version_to_those_who_edit_it(kept) -> None:
    study = kept()
    keep_note(study, "first")
    version = system(study)["dashboard:note_ver"]
    keep_note(study, "second")
    assert system(study)["dashboard:note_ver"] == version == 1
    save_note(study, get_note(study) + "\n\nmine")
    keep_note(study, "third")
    assert get_note(study) == f"{OURS.replace('ours', 'third')}\n\nmine"


def test_a_long_note_and_a_plot_are_one_value_each_whatever_was_there_before(kept) -> None:
    study = kept()
    save_note(study, "old " * 2000)
    keep_note(study, "new " * 3000)
    pieces = {key: text for key, text in system(study).items() if key.startswith("dashboard:note_str:")}
    assert len(pieces["dashboard:note_str:0"]) > 12_000
    assert {len(text) for key, text in pieces.items() if not key.endswith(":0")} == {0}
    assert get_note(study).count("old ") == 1999

    save_plotly_graph_object(study, Figure({"data": [{"x": [0.123] * 2000}]}), graph_object_id="depth")
    keep_plot(study, "depth", Figure(layout={"template": "none"}))
    assert drawn(study)["depth"]["data"] == []


def test_who_reads_while_a_long_note_is_replaced_sees_the_old_or_the_new(kept, tmp_path) -> None:
    study = kept()
    save_note(study, "old " * 2000)
    seen = []

    def look(*_: Any) -> None:
        query = "SELECT value_json FROM study_system_attributes WHERE key LIKE 'dashboard:note_str:%'"
        with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as connection:
            seen.append(connection.execute(query).fetchall())

    sqlalchemy.event.listen(database_of(study).engine, "after_cursor_execute", look)
    before = system(study)
    keep_note(study, "new")
    pieces = sorted(json.dumps(text) for key, text in before.items() if key.startswith("dashboard:note_str:"))
    assert len(pieces) > 2
    whole = [sorted(text for (text,) in rows) == pieces for rows in seen]
    replaced = [sum(text != '""' for (text,) in rows) == 1 for rows in seen]
    assert True in whole
    assert all(a or b for a, b in zip(whole, replaced, strict=True))


def test_what_has_not_changed_is_not_written(kept, monkeypatch: pytest.MonkeyPatch) -> None:
    study = kept(*FINISHED)
    refresh(study)
    written = []
    monkeypatch.setattr(
        storage_of(study), "set_study_system_attr", lambda *arguments: written.append(arguments)
    )
    refresh(study)
    assert not written
    study.add_trials([trial(3, 0.5)])
    refresh(study)
    assert {key for _, key, _ in written} == {
        "dashboard:note_str:0",
        "dashboard:plot_data:depth:0",
        "dashboard:plot_data:learning:0",
    }


@pytest.mark.parametrize("error", [StorageInternalError("database is locked"), OSError(28, "disk full")])
def test_a_view_that_cannot_be_kept_stops_nothing(kept, monkeypatch, caplog, error: Exception) -> None:
    study = kept(*FINISHED)

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(storage_of(study), "set_study_system_attr", fail)
    with caplog.at_level(logging.WARNING, "depthsearch"):
        refresh(study)
    (record,) = (record for record in caplog.records if record.name.startswith("depthsearch"))
    assert record.getMessage() == f"The dashboard's view of study 's' is not up to date: {error}"


def test_the_study_of_somebody_else_is_left_alone(tmp_path, open_quick_storage) -> None:
    foreign = optuna.create_study(storage=open_quick_storage(f"sqlite:///{tmp_path}/s.db"))
    before = system(foreign)
    refresh(foreign)
    assert system(foreign) == before


def test_trials_that_end_fast_are_not_held_up(kept, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, now = [], [0.0]
    monkeypatch.setattr(refreshing.time, "monotonic", lambda: now[0])

    def slow(study: Any, *, at_end: bool = False) -> None:
        calls.append(study)
        now[0] += 1.0

    monkeypatch.setattr(refreshing, "refresh", slow)
    with refreshed(kept()) as freshen:
        for _ in range(100):
            now[0] += 0.5
            freshen()
    # At the beginning, after 20 seconds and after 20 more; and at the end.
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("wanted", "state"),
    [(5, "Complete: 5 of 5 trials done."), (6, "Interrupted: nobody runs it; 5 of 6 trials done.")],
)
def test_the_last_view_is_of_a_study_that_nobody_runs(kept, wanted: int, state: str) -> None:
    study = kept(*FINISHED, wanted={"trials": wanted, "confirm": False})
    with lease(study), refreshed(study):
        assert "Running: process " in get_note(study)
    note = get_note(study)
    assert state in note
    # Both say the same.
    assert ("The study is not finished" in note) == state.startswith("Interrupted")
    assert ("so far" in note) == state.startswith("Interrupted")


def test_the_view_is_brought_up_to_date_where_a_study_is_interrupted(kept) -> None:
    study = kept(*FINISHED)

    def interrupted() -> None:
        with lease(study), refreshed(study):
            study.add_trials([trial(3, 0.95)])
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        interrupted()
    assert "**0.9500**" in get_note(study)
    assert "Running" not in get_note(study)


def test_the_last_view_waits_for_no_database(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(storage=open_storage(url, busy_seconds=0.1, patience_seconds=60.0))
    with contextlib.ExitStack() as until_end:

        def interrupted() -> None:
            with refreshed(study):
                # Moved away: what reads it fails until it is back.
                (tmp_path / "s.db").rename(tmp_path / "away.db")
                until_end.callback((tmp_path / "away.db").rename, tmp_path / "s.db")
                database_of(study).engine.dispose()
                raise KeyboardInterrupt("stop")

        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt, match="stop"):
            interrupted()
        assert time.monotonic() - began < 30


# --- the note -----------------------------------------------------------------------------------


def test_the_note_says_answer_best_cuts_cost_and_images(kept) -> None:
    data = {**attributes()["data"], "skipped": ["/x.png"], "duplicates": [["/a.png", "/b.png"]]}
    study = kept(*FINISHED, data=data)
    refresh(study)
    note = get_note(study)
    assert "tiny: **train from layer 20** (conv6_keras, `layer2.0.conv`)" in note
    assert "against 0.7000 with only the head trained and 0.8500 with everything trained" in note
    assert "Not trained again: every setting was trained once" in note
    heading, first, *rest = cells(note)
    assert heading[:5] == ["layer", "Keras name", "module path", "score", "evidence"]
    assert first[:5] == ["20", "conv6_keras", "layer2.0.conv", "0.9000", "one training"]
    assert [row[:3] for row in rest[:2]] == [["2", "", "stem"], ["35", "", "fc"]]
    total = next(row for row in rest if row[0] == "in all")
    cost = summarize(study).cost
    assert total[3:] == [
        f"{cost.seconds:.1f}",
        f"{cost.full_fine_tunes:.2f}",
        f"{cost.plain_full_fine_tunes:.2f}",
    ]
    for fact in ("450 (300 train; 100 validation; 50 test)", "Classes: 2", "several splits: 1", "Skipped: 1"):
        assert fact in note


def test_the_note_ranks_what_was_trained_again_by_its_means(kept) -> None:
    study = kept(*FINISHED, *AGAIN, **CONFIRMED)
    refresh(study)
    _, first, second, third, *_ = cells(get_note(study))
    assert first[:5] == ["20", "conv6_keras", "layer2.0.conv", "0.8650 ± 0.0050", "mean of 2 trainings"]
    assert [second[3], third[3]] == ["0.8050 ± 0.0050", "0.7050 ± 0.0050"]
    assert "(mean of 2 trainings)" in get_note(study)


def test_the_note_has_what_was_trained_again_before_a_lucky_training_and_says_so(kept) -> None:
    study = kept(*FINISHED, trial(8, 0.99), *AGAIN, **CONFIRMED)
    refresh(study)
    _, *rows = cells(get_note(study))
    assert [row[4] for row in rows[:4]] == [*["mean of 2 trainings"] * 3, "one training"]
    assert "first those that were trained again" in get_note(study)


def test_the_answer_is_in_the_note_also_where_many_cuts_are_better_by_a_hair(kept) -> None:
    n_cuts = 10
    # The later the cut, the lower its score: by less than the tolerance in all.
    settings = tuple(trial(index, 0.8 - 0.0001 * index) for index in range(n_cuts))
    again = tuple(
        trial(i, 0.8 - 0.0001 * i, origin="confirm", confirms=i, seed=seed, resample=False)
        for i in range(n_cuts)
        for seed in (0, 1)
    )
    plan = {"trials": list(range(n_cuts)), "seeds": 2, "resample": False, "after": n_cuts}
    study = kept(*settings, *again, confirmation=plan)
    summary = summarize(study)
    ranked = sorted(summary.evidence.confirmed, key=lambda confirmed: confirmed.gap)
    place = [confirmed.cut for confirmed in ranked].index(summary.chosen.cut)
    assert place >= 8
    refresh(study)
    rows = cells(get_note(study))
    layers = [row[0] for row in rows if "mean of 2 trainings" in row]
    assert layers == [*(str(c.cut.layer) for c in ranked[:7]), str(summary.chosen.cut.layer)]
    assert "the marked one is the answer" in get_note(study)


def test_the_note_has_its_time_in_utc(kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        study = kept(*FINISHED)
        begun = datetime.now(UTC)
        study.ask()
        refresh(study)
    finally:
        monkeypatch.undo()
        time.tzset()
    (told,) = re.findall(r"As of (\S+ \S+) UTC\.", get_note(study))
    assert abs(datetime.fromisoformat(f"{told}+00:00") - begun) < timedelta(minutes=10)


def test_the_note_says_who_runs_a_study_and_whether_anything_is_left(kept) -> None:
    study = kept(*FINISHED, wanted={"trials": 8, "confirm": False})
    with lease(study):
        refresh(study)
        assert "Running: process " in get_note(study)
        assert "runs it; 5 of 8 trials done, about " in get_note(study)
    refresh(study)
    assert "Interrupted: nobody runs it; 5 of 8 trials done." in get_note(study)
    study.set_user_attr("wanted", {"trials": 5, "confirm": False})
    refresh(study)
    assert "Complete: 5 of 5 trials done." in get_note(study)


# --- the plots ----------------------------------------------------------------------------------


def traces(plot: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in plot["data"]}


def test_the_depth_plot_has_every_trial_with_a_score_at_its_cut_and_names_the_layer(kept) -> None:
    study = kept(*FINISHED, trial(5, 0.5, "RUNNING"))
    mark(study, [summarize(study).cuts[3]])
    refresh(study)
    plot = drawn(study)["depth"]
    found = traces(plot)
    assert found["complete"]["x"] == [11, 0, 6]
    assert found["complete"]["y"] == [0.7, 0.85, 0.9]
    assert (found["pruned"]["x"], found["running"]["x"]) == ([4], [5])
    assert found["failed"]["x"] == [8]
    low, high = plot["layout"]["yaxis"]["range"]
    assert low < found["failed"]["y"][0] < low + 0.1 * (high - low), "without a score it stands at the bottom"
    assert "layer 20 (conv6_keras, layer2.0.conv)" in found["complete"]["text"][2]
    evidence = weigh(StoredStudy.read(study))
    assert evidence is not None
    answer = evidence.answer
    assert (found["answer"]["x"], found["answer"]["y"]) == ([answer.cut.index], [answer.mean])
    layout = plot["layout"]
    assert layout["yaxis"]["title"]["text"] == "validation accuracy"
    assert layout["xaxis"]["title"]["text"] == "first trainable layer (more frozen to the right)"
    ticks = dict(zip(layout["xaxis"]["tickvals"], layout["xaxis"]["ticktext"], strict=True))
    assert ticks[6] == "20"
    assert "asked for: 11" in [each["text"] for each in layout["annotations"]]


def test_a_score_beyond_the_axis_stands_at_its_edge(kept) -> None:
    complete = [trial(place, 0.9 + place / 1000) for place in range(8)]
    study = kept(*complete, trial(8, 0.1, "PRUNED"))
    refresh(study)
    plot = drawn(study)["depth"]
    pruned, arrow = traces(plot)["pruned"], traces(plot)["beyond the axis"]
    low, high = plot["layout"]["yaxis"]["range"]
    assert low < pruned["y"][0] < low + 0.1 * (high - low)
    assert (arrow["x"], arrow["y"], arrow["marker"]["symbol"]) == (pruned["x"], [low], ["triangle-down"])
    assert "0.1000" in pruned["text"][0]


def test_the_depth_plot_of_a_confirmed_study_shows_answer_error_and_what_is_level(kept) -> None:
    study = kept(*FINISHED, *AGAIN, **CONFIRMED)
    refresh(study)
    plot = drawn(study)["depth"]
    found = traces(plot)
    assert (found["answer"]["x"], found["answer"]["y"]) == ([6], [pytest.approx(0.865)])
    assert found["answer"]["error_y"]["array"] == [pytest.approx(0.005)]
    assert sorted(found["trained again: mean ± standard error"]["x"]) == [0, 11]
    assert len(found["trained again, another seed"]["x"]) == 6
    shaded = [(shape["x0"], shape["x1"]) for shape in plot["layout"]["shapes"] if shape["type"] == "rect"]
    level = summarize(study).evidence.level
    assert {place for place in range(12) if any(low < place < high for low, high in shaded)} == set(level)
    assert plot["layout"]["title"]["text"].endswith(
        "answer: layer 20, 0.8650 ± 0.0050, mean of 2 trainings</sup>"
    )


def test_the_transfer_plot_has_the_probes_and_where_they_stop_rising(kept) -> None:
    study = kept()
    refresh(study)
    found = traces(drawn(study)["transfer"])
    assert found["linear probe ± standard error"]["x"] == [2, 6, 11]
    assert found["the first as good as the best"]["x"] == [6]
    assert set(drawn(study)) == {"transfer"}


def test_the_learning_plot_has_a_line_a_trial_and_marks_the_best(kept) -> None:
    study = kept(*FINISHED)
    refresh(study)
    lines = drawn(study)["learning"]["data"]
    assert [line["name"] for line in lines] == ["pruned", "complete", "complete", "best of the search"]
    assert [line["showlegend"] for line in lines] == [True, True, False, True]
    assert lines[-1]["y"][-1] == 0.9
    assert "layer 20 (conv6_keras, layer2.0.conv)" in lines[-1]["text"]


def test_of_many_learning_curves_the_last_are_drawn_and_the_best() -> None:
    study = stored(trial(6, 0.99), *(trial(n % 12, 0.5 + n / 1000) for n in range(80)))
    (learning,) = (plot for name, plot in plots_of(summarize(study)) if name == "learning")
    assert len(learning.data) == 61
    assert learning.data[-1].text.startswith("Trial 0: 0.9900")
    assert "61 trials, the last of 81" in learning.layout.title.text


def test_each_of_several_backbones_has_its_own_depth_and_transfer_plots() -> None:
    study = several()
    refresh(study)
    plots = drawn(study)
    assert set(plots) == {"depth-timm-a-b", "depth-b", "transfer-b", "learning"}
    assert traces(plots["depth-b"])["complete"]["y"] == [0.8]
    assert traces(plots["depth-timm-a-b"])["complete"]["y"] == [0.7]
    assert plots["depth-timm-a-b"]["layout"]["title"]["text"].startswith("Score against depth: timm/a b<br>")
    heading, first, *_ = cells(get_note(study))
    assert (heading[0], first[0]) == ("backbone", "b")


def test_names_from_users_are_text_in_the_plots() -> None:
    cuts = attributes()["cuts"]
    cuts[6] |= {"name": NASTY, "keras_name": NASTY}
    study = stored(*FINISHED, cuts=cuts)
    for _, plot in plots_of(summarize(study)):
        assert "<img" not in json.dumps(json.loads(plot.to_json()))
    (depth,) = (plot for name, plot in plots_of(summarize(study)) if name == "depth")
    (text,) = (trace.text[2] for trace in depth.data if trace.name == "complete")
    assert "&lt;img src=x onerror=alert(1)&gt;" in text.replace("<br>", " ")
