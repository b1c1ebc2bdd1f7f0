"""The report as a reader gets it: the page is parsed as HTML, the text as Markdown."""

import base64
import hashlib
import itertools
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import optuna
import pytest
from chromium import browser, needs_chromium
from markdown_it import MarkdownIt
from stored_studies import (
    ENDS,
    EPOCHS,
    FINISHED,
    N_CUTS,
    NASTY,
    NO_CURVE,
    attributes,
    fitted,
    several,
    stored,
    trial,
)

from depthsearch.cli.parser import make_parser, options_from
from depthsearch.errors import SettingsError
from depthsearch.options.reproduction import study_command
from depthsearch.options.study import StudyOptions
from depthsearch.report.page import pictures
from depthsearch.report.page.composing import Report, compose, sentence, write_report
from depthsearch.report.page.tables import depth_table
from depthsearch.results import StoredStudy, importance_of
from depthsearch.results.evidence import Evidence, Expected, Settled
from depthsearch.results.summary import Summary, summarize
from depthsearch.study.control import mark
from depthsearch.visualization.style import SYMBOLS

VOID = {"meta", "link", "br", "wbr", "img", "input", "hr"}


def confirmed(*places: int, level: tuple[int, ...] = (6, 7, 8)) -> tuple[Summary, optuna.Study]:
    """Give a study whose best settings were trained again at some cuts, the last of them the answer."""
    again = [
        trial(place, 0.88, origin="confirm", confirms=2, seed=seed) for place in places for seed in (0, 1)
    ]
    study = stored(*FINISHED, *again)
    summary = summarize(study)
    means = tuple(
        Settled(
            cut=summary.cuts[place],
            trial=2,
            params={"learning_rate": 3e-4, "head_width": 0},
            scores={0: 0.8934, 1: 0.88},
            mean=0.8867,
            standard_error=0.0067,
            gap=0.0,
            gap_error=0.002,
            chance=0.93,
        )
        for place in places
    )
    evidence = Evidence(
        settled=means,
        best=means[0],
        answer=means[-1],
        tolerance=0.005,
        level=level,
        expected=(Expected(mean=0.8, low=0.75, high=0.85, loss=0.02),) * N_CUTS,
        further_rates=None,
        advice=None,
    )
    return replace(summary, evidence=evidence), study


def document(study: optuna.Study) -> Report:
    return compose(summarize(study), StoredStudy.read(study))


# --- readers ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script", "output"} & {*self.open}:
            self.text += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data.replace("\n", " ")


def rendered(markdown: str) -> Page:
    """Read Markdown as GitHub does, with its tables."""
    return Page(MarkdownIt("commonmark").enable("table").render(markdown))


def figure(made: Report | optuna.Study, name: str) -> Any:
    """Give one of the figures of a report."""
    made = made if isinstance(made, Report) else document(made)
    return next(plot.figure for plot in made.plots if plot.name == name)


def traces(figure: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


def trials_in(figure: Any) -> list[int]:
    """Number of each trial that has a mark or a line."""
    return [number for trace in figure.data for number in dict.fromkeys(trace.customdata or ())]


# --- what is in it ------------------------------------------------------------------------------


def test_every_trial_is_drawn_where_scores_rates_and_curves_are_and_state_is_told_by_shape() -> None:
    made = document(stored(*FINISHED))
    depth, learning, rates = (
        figure(made, name) for name in ("score-against-depth", "learning-curves", "learning-rate-and-depth")
    )
    for drawn in (depth, rates):
        assert sorted({*trials_in(drawn)}) == [0, 1, 2, 3, 4]
    assert sorted(trials_in(learning)) == [0, 1, 2, 3]
    for drawn in (depth, learning):
        shapes = [each for t in drawn.data if t.marker.symbol for each in np.atleast_1d(t.marker.symbol)]
        assert shapes.count("x-thin") == 1
    assert traces(depth)["answer"].text[0].startswith("0.9000, one training")
    (failed,) = traces(depth)["failed"].text
    assert failed.startswith("Trial 4: –, failed: boom")  # noqa: RUF001 (a dash for nothing)


def test_no_two_kinds_of_trials_share_a_shape() -> None:
    assert len({*SYMBOLS.values()}) == len(SYMBOLS)


def test_a_mark_tells_number_names_kind_share_and_setting_of_its_cut() -> None:
    best = traces(figure(stored(ENDS[0], FINISHED[2]), "score-against-depth"))["best, one training"]
    assert best.text[0].split("<br>") == [
        "Trial 1: 0.9000, complete",
        "layer 20 (conv6_keras, layer2.0.conv); conv;",
        "54.5 % of the MACs frozen",
        "lr 0.0003, head linear",
    ]


def test_baselines_are_lines_and_stages_have_borders() -> None:
    depth = figure(stored(*FINISHED), "score-against-depth")
    lines = {name: trace.y for name, trace in traces(depth).items() if trace.mode == "lines"}
    assert {name: y for name, y in lines.items() if not name.startswith("expected")} == {
        "head only 0.7000": (0.7, 0.7),
        "everything trained 0.8500": (0.85, 0.85),
    }
    assert [each.x0 for each in depth.layout.shapes if each.type == "line"] == [0.5, 5.5, 10.5]
    assert [each.text for each in depth.layout.annotations] == ["stem", "layer1", "layer2", "fc"]


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        (
            FINISHED,
            "tiny: train from layer 20 (conv6_keras, layer2.0.conv), everything before it frozen: validation "
            "accuracy 0.9000, against 0.7000 with only the head trained and 0.8500 with everything trained.",
        ),
        (
            ENDS,
            "tiny: train everything, from layer 2 (stem) on: validation accuracy 0.8500, against 0.7000 with",
        ),
        (ENDS[:1], "tiny: train only the head, layer 35 (fc), with the whole backbone frozen: validation"),
        (FINISHED[3:], "tiny: no trial is complete yet; 2 trials over."),
        ((*ENDS, trial(3, 0.5, "RUNNING")), "tiny so far: train everything"),
        ((trial(3, 0.5, "RUNNING"),), "tiny: no trial is complete so far; 0 trials over."),
        ((), "tiny: no trial is complete yet; 0 trials over."),
    ],
)
def test_the_answer_is_one_sentence(trials, expected: str) -> None:
    made = document(stored(*trials))
    assert expected in Page(made.html()).text
    assert expected in rendered(made.markdown()).text


def test_an_answer_of_single_trainings_says_so() -> None:
    text = Page(document(stored(*FINISHED)).html()).text
    assert "Not trained again: every setting was trained once, with one seed" in text
    assert "one seed, 3 complete trials on the same validation images (100; one is worth 0.0100)" in text


def test_a_running_study_says_how_far_it_is_and_draws_what_it_has() -> None:
    made = document(stored(*FINISHED, trial(3, 0.5, "RUNNING")))
    text = Page(made.html()).text
    assert "The study is not finished: 5 trials are done, 1 is running or interrupted." in text
    for name in ("score-against-depth", "learning-curves"):
        assert {*traces(figure(made, name))["running"].customdata} == {5}


def test_a_study_that_wants_more_trials_is_not_finished() -> None:
    text = Page(document(stored(*FINISHED, wanted={"trials": 8, "confirm": False})).html()).text
    assert "The study is not finished: 5 trials are done." in text
    text = Page(document(stored(*FINISHED, wanted={"trials": 5, "confirm": False})).html()).text
    assert "The study is not finished" not in text


def test_of_losses_the_lowest_is_best_and_the_axis_says_so() -> None:
    trials = trial(11, 1.7), trial(0, 0.9), trial(5, 0.4), trial(6, 0.3)
    study = stored(*trials, lower=True, recipe={"metric": "loss", "epochs": EPOCHS, "seed": 0})
    made = document(study)
    depth, learning, rates = (
        figure(made, name) for name in ("score-against-depth", "learning-curves", "learning-rate-and-depth")
    )
    assert depth.layout.yaxis.title.text == "validation loss (lower is better)"
    assert (traces(depth)["answer"].x, traces(depth)["answer"].y) == ((6,), (0.3,))
    assert {*learning.data[-1].customdata} == {3}
    assert learning.data[-1].name == "best of the search"
    scale = rates.layout.coloraxis
    assert (scale.cmin, scale.cmax, scale.reversescale) == (0.3, 1.7, True)
    shades = dict(
        zip(traces(rates)["complete"].customdata, traces(rates)["complete"].marker.color, strict=True)
    )
    assert (shades[3], shades[0]) == (0.3, 1.7)


def test_one_far_off_trial_does_not_flatten_the_others() -> None:
    scores = (0.90, 0.91, 0.92, 0.93, 0.94)
    trials = [trial(k + 1, score) for k, score in enumerate(scores)]
    depth = figure(stored(*trials, trial(7, 0.01), trial(8, 0.02, "PRUNED")), "score-against-depth")
    low, high = depth.layout.yaxis.range
    assert (max(scores) - min(scores)) / (high - low) > 0.3
    arrows = traces(depth)["beyond the axis"]
    assert (arrows.y, arrows.marker.symbol) == ((low, low), ("triangle-down", "triangle-down"))
    assert low < traces(depth)["pruned"].y[0] < low + 0.1 * (high - low)


@pytest.mark.parametrize("n", [19, 20])
def test_importance_is_shown_only_where_there_are_trials_enough(n: int) -> None:
    trials = [trial(k % N_CUTS, 0.5 + 0.04 * (k % N_CUTS), rate=1e-3 * (1 + k % 3)) for k in range(n)]
    again = [trial(5, 0.7, origin="confirm", confirms=5, seed=0)] * 3
    found = [importance_of(StoredStudy.read(stored(*trials, *again))) for _ in range(2)]
    assert found[0] == found[1]
    text = document(stored(*trials, *again)).markdown()
    if n < 20:
        assert found[0] == {}
        assert "with 19 complete trials the parameters' importance would be chance; it takes 20." in text
    else:
        assert max(found[0], key=found[0].get) == "cut"
        assert "| cut | " in text


def test_scores_that_are_all_alike_leave_importance_out() -> None:
    text = document(stored(*[trial(k % N_CUTS, 0.5) for k in range(20)])).markdown()
    assert "## What mattered" in text


def test_the_cost_adds_up() -> None:
    page = rendered(document(stored(*FINISHED)).markdown())
    rows = [page.cells[i : i + 6] for i in range(len(page.cells)) if page.cells[i : i + 1] == ["in all"]]
    spent, plain = (3 * 4 + 2) * 60 + 500, (3 * 4 + 2) * 99
    assert rows == [["in all", "5", "14", "9.5", f"{spent / 10_000:.2f}", f"{plain / 10_000:.2f}"]]
    assert "17\xa0% went into frozen layers, 33\xa0% forward and 50\xa0% backward" in page.text


def test_the_data_are_told() -> None:
    data = attributes()["data"] | {"skipped": ["cat/bad.png"], "duplicates": [["a.png", "b.png"]]}
    data["classes"] = [f"class {k}" for k in range(30)]
    page = Page(document(stored(*FINISHED, data=data)).html())
    for told in (
        "300 train; 100 validation; 50 test",
        "All 30 classes",
        "class 29",
        "cat/bad.png",
        "a.png = b.png",
    ):
        assert told in page.text


# --- evidence and test --------------------------------------------------------------------------


def test_where_nothing_was_trained_again_no_confirmation_is_shown() -> None:
    assert "## Confirmation" not in document(stored(*FINISHED)).markdown()


def test_without_evidence_nothing_of_it_is_shown() -> None:
    made = document(stored(*ENDS))
    assert "## Confirmation" not in made.markdown()
    assert "may be the best" not in made.markdown()
    drawn = [name for name, trace in traces(figure(made, "score-against-depth")).items() if trace.y]
    assert "expected, 95 %" not in drawn
    shapes = figure(made, "score-against-depth").layout.shapes
    assert not [each for each in shapes if each.type == "rect"]


def test_evidence_is_the_answer_and_is_drawn() -> None:
    summary, study = confirmed(4, 6)
    made = compose(summary, StoredStudy.read(study))
    text = rendered(made.markdown()).text
    assert "train from layer 20" in text
    assert "validation accuracy 0.8867 ± 0.0067 (mean of 2 trainings)" in text
    assert "The best cut is among layers 20 to 26 (" in text
    assert "Layer 20 loses less than 0.5 points against the best cut with 93\xa0% probability." in text
    assert "Not trained again" not in text
    depth = figure(made, "score-against-depth")
    found = traces(depth)
    assert found["expected, 95 %"].fill == "tonexty"
    assert found["expected"].y == (0.8,) * N_CUTS
    assert [each.type for each in depth.layout.shapes].count("rect") == 1
    assert (found["trained again: mean ± standard error"].x, found["answer"].x) == ((4,), (6,))
    assert found["answer"].error_y.array == (0.0067,)
    assert found["answer"].text[0].startswith("0.8867 ± 0.0067, mean of 2 trainings")
    assert len(found["trained again, another seed"].x) == 4
    # Epochs of what was trained again are none of the search's.
    assert f"1 trial pruned: {3 * EPOCHS + 2} of {5 * EPOCHS} epochs were trained" in text
    assert "What was trained again has seeds of its own: 0, 1." in text
    assert "tiny: train" in text
    assert "against 0.7000 with only the head trained" in text


def test_the_best_is_behind_nothing_and_an_option_stays_whole() -> None:
    summary, study = confirmed(4, 6)
    page = compose(summary, StoredStudy.read(study))
    (row,) = [row for row in page.values["confirmation_table"].rows if row[0] == "14"]
    assert row[page.values["confirmation_table"].headings.index("behind the best")] == ""
    assert '<span class="whole">--resample</span>' in page.html()
    assert "with --resample, which of them" in page.markdown()


def test_few_validation_images_are_told_once_on_the_page() -> None:
    images = {"train": 8, "val": 2, "test": 2}
    text = document(stored(*FINISHED, data={**attributes()["data"], "images": images})).markdown()
    assert text.count("Only 2 validation images, each worth 0.5000") == 1
    assert "Only " not in document(stored(*FINISHED)).markdown()


def test_an_end_that_was_trained_again_is_told_by_its_mean() -> None:
    summary, study = confirmed(0, 6)
    made = compose(summary, StoredStudy.read(study))
    assert "and 0.8867 with everything trained" in rendered(made.markdown()).text
    found = traces(figure(made, "score-against-depth"))
    assert {"head only 0.7000", "everything trained 0.8867"} <= {*found}


def test_of_several_backbones_only_that_of_the_answer_has_a_marked_depth() -> None:
    summary = summarize(several())
    marked = {part.backbone: depth_table(part).marked for part in summary.parts}
    answers = {part.backbone for part in summary.parts if part.holds_answer}
    assert len(answers) == 1
    assert {backbone for backbone, place in marked.items() if place is not None} == answers


def test_depths_that_do_not_touch_are_named_and_shaded_apart() -> None:
    summary, study = confirmed(4, 6, level=(2, 3, 8))
    made = compose(summary, StoredStudy.read(study))
    assert "The best cut is among layers 8 to 11, 26 (" in made.markdown()
    shapes = figure(made, "score-against-depth").layout.shapes
    assert [(each.x0, each.x1) for each in shapes if each.type == "rect"] == [(1.5, 3.5), (7.5, 8.5)]


def test_a_test_is_told_as_fit_stores_it() -> None:
    readings = [{"when": "2026-01-01", "accuracy": 0.91}] * 2
    page = rendered(document(stored(*FINISHED, fit=fitted(), test_readings=readings)).markdown())
    for expected in (
        "The final training, of trial 2, from layer 20, on 400 images (train + validation).",
        "The test images were read 2 times.",
        "95\xa0%: 0.8200 to 0.9600",
        "/models/a",
        "Confusion",
    ):
        assert expected in page.text
    solved = document(stored(*FINISHED, fit={**fitted(), "is_solved": True})).markdown()
    assert "on 400 images (train + validation), solved." in solved
    place = page.cells.index("precision")
    assert page.cells[place + 4 : place + 9] == ["cat", "0.7000", "0.6000", "0.6500", "25"]
    once = document(stored(*FINISHED, fit=fitted(), test_readings=readings[:1])).markdown()
    assert "The test images were read once." in once


# --- running it again ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        [],
        ["--head-width", "0", "--learning-rate", "1e-4:3e-3", "--also", "dropout,optimizer"],
        ["--confirm", "4", "--no-resample"],
        ["--confirm", "4", "--resample"],
        [
            "--kinds",
            "block",
            "--skip-unreadable",
            "--compile",
            "--data",
            "/a dir/it's $HOME",
            "--image-size",
            "64",
        ],
        [
            "--weights=-odd name.pt",
            "--label-smoothing",
            "0.1",
            "--metric",
            "loss",
            "--seed",
            "7",
            "--views",
            "4",
        ],
    ],
)
def test_the_command_asks_for_what_was_asked_for(changed: list[str]) -> None:
    def parsed(words: list[str]) -> StudyOptions:
        given = vars(make_parser().parse_args(words))
        return options_from(given.pop("command"), given)

    given = parsed(["study", "--backbone", "tiny", "--epochs", "3", *changed])
    command = study_command(StudyOptions.from_json(given.as_json()), name="it's", n_trials=9)
    again = parsed(shlex.split(command.replace("\\\n", ""))[1:])
    assert again == replace(given, name="it's", trials=9)
    assert max(map(len, command.splitlines())) < 110


def test_the_report_has_the_command_with_its_trials_and_seeds() -> None:
    text = document(stored(*FINISHED)).markdown()
    assert "--data '/photos/my cats'" in text
    assert "--trials 5 --name mine-again" in text
    assert "Seed 3: trial n draws" in text
    assert "| torch | 2.9 |" in text


@pytest.mark.parametrize("provenance", [{"versions": {"torch": "2.9"}}, {}])
def test_a_study_without_its_options_is_told_without_its_command(provenance: Any) -> None:
    study = stored(*FINISHED, provenance=provenance, transfer_curve=NO_CURVE)
    made = document(study)
    assert "The command is not known: this study does not keep its options" in made.markdown()
    assert "```console" not in made.markdown()
    assert "Where pretrained features stop helping" not in made.markdown()


# --- form ---------------------------------------------------------------------------------------


def nasty() -> optuna.Study:
    data = attributes()["data"] | {
        "name": NASTY,
        "source": f"/{NASTY}",
        "classes": [NASTY, "b"],
        "skipped": [NASTY],
        "duplicates": [[NASTY, NASTY]],
    }
    cuts = attributes()["cuts"]
    cuts[6] |= {"name": NASTY, "keras_name": NASTY}
    trials = (*FINISHED, trial(3, None, "FAIL", reason=f"{NASTY}\nsecond line"))
    fit = fitted((NASTY, "b"), folder=NASTY)
    return stored(*trials, name=NASTY, data=data, cuts=cuts, fit=fit, provenance={"versions": {NASTY: NASTY}})


STUDIES: dict[str, Callable[[], optuna.Study]] = {
    "finished": lambda: stored(*FINISHED),
    "empty": lambda: stored(),
    "one trial": lambda: stored(trial(5, 0.5)),
    "nothing complete": lambda: stored(*FINISHED[3:]),
    "only failed": lambda: stored(FINISHED[4]),
    "running": lambda: stored(trial(5, 0.5, "RUNNING"), trial(6, None, "RUNNING")),
    "not a number": lambda: stored(*ENDS, trial(3, float("nan"), "PRUNED")),
    "all alike": lambda: stored(*[trial(k % N_CUTS, 0.5) for k in range(21)]),
    "nasty": nasty,
}


@pytest.mark.parametrize("name", STUDIES)
def test_page_and_text_are_well_formed_and_say_the_same(name: str) -> None:
    made = document(STUDIES[name]())
    page, text = Page(made.html()), rendered(made.markdown())
    assert page.cells == text.cells
    assert len(text.cells) > 10
    headings = re.findall(r"^## (.*)$", made.markdown(), re.MULTILINE)
    assert headings
    for heading in headings:
        assert heading in page.text
    for plot in made.plots:
        caption = plot.caption.replace(" %", "\N{NO-BREAK SPACE}%")
        assert caption in page.text
        assert caption in text.text
        json.loads(plot.figure.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_needs_nothing_but_itself(name: str) -> None:
    html = document(STUDIES[name]()).html()
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"img", "iframe", "object", "embed", "base", "form", "audio", "video", "use", "image"}
    links = [v for _, attrs in page.tags for key, v in attrs.items() if key in ("src", "href", "xlink:href")]
    assert links == ["data:,"]
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    (policy,) = (a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv"))
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    sources = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert len(digests) == 2
    assert policy == f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; img-src data:"
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert not re.search(r"url\(|@import|//", style)


def test_names_of_users_are_text_in_both_forms() -> None:
    made = document(nasty())
    html = made.html()
    for read_ in (Page(html), rendered(made.markdown())):
        assert not {tag for tag, _ in read_.tags} & {"em", "a", "img"}
        assert read_.cells.count(NASTY) >= 2
        assert read_.text.count(NASTY) >= 6
    for described in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL):
        assert "<" not in described
        # Nor is it markup to plotly.js, which shows some of HTML.
        assert "<img" not in json.dumps(json.loads(described))


def test_one_table_has_as_many_cells_in_each_row() -> None:
    markdown = document(nasty()).markdown()
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    n_rows = sum(token.type == "tr_open" for token in tokens)
    assert n_rows == sum(
        line.startswith("| ") and not line.startswith("| -") for line in markdown.splitlines()
    )


# --- files --------------------------------------------------------------------------------------


def test_both_files_are_written_whole_and_again(tmp_path: Path) -> None:
    for study in (stored(*FINISHED), stored(*ENDS)):
        made = document(study)
        written = write_report(made, tmp_path / "out")
        assert [path.read_text() for path in written] == [made.markdown(), made.html()]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]


@pytest.mark.slow
@needs_chromium
def test_the_markdown_shows_each_figure_from_a_file_that_is_there(tmp_path: Path) -> None:
    """Guards the pictures that kaleido draws in a Chrome."""
    markdown, _ = write_report(document(nasty()), tmp_path, images=True)
    text = markdown.read_text()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", text)
    assert "charts/score-against-depth.svg" in shown
    assert len(shown) == len(set(shown)) == sum(1 for _ in (tmp_path / "charts").iterdir()) > 3
    assert "--images" not in text
    for name in shown:
        root = ElementTree.fromstring((tmp_path / name).read_text())
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert {"script", "foreignObject"}.isdisjoint(each.tag.split("}")[1] for each in root.iter())


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (False, "The figures are in report.html; depthsearch report --out DIR --images draws them"),
        (True, "No pictures of the figures: no browser here. They take depthsearch\\[images\\] and a Chrome"),
    ],
)
def test_a_markdown_without_pictures_says_in_a_line_why(
    tmp_path, monkeypatch, images: bool, told: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no browser here.\nMore.")

    monkeypatch.setattr(pictures, "_drawn", fail)
    markdown, _ = write_report(document(stored(*FINISHED)), tmp_path, images=images)
    assert [line for line in markdown.read_text().splitlines() if line.startswith(told)]
    assert not (tmp_path / "charts").exists()


def test_layers_that_were_asked_for_are_pointed_out_and_compared() -> None:
    summary, study = confirmed(4, 6)
    page = compose(replace(summary, marked=(summary.cuts[6], summary.cuts[7])), StoredStudy.read(study))
    notes = [each.text for each in figure(page, "score-against-depth").layout.annotations]
    assert [note for note in notes if "asked" in note] == ["asked for: 20", "asked for: 23"]
    text = page.markdown()
    asked = text[text.index("The layers that were asked for") :].splitlines()[4:6]
    assert (
        asked[0]
        == "| 20 | `layer2.0.conv` (conv6_keras) | 0.8867 ± 0.0067 | 2 of 2 | 0.0000 ± 0.0020 | 0.9000 |"
    )
    assert asked[1].startswith("| 23 | `layer2.1.conv` (conv7_keras) |  |  |  | ")
    assert "asked for" not in compose(summary, StoredStudy.read(study)).markdown()


def test_layers_asked_for_are_stored_as_candidates() -> None:
    study = stored(*FINISHED)
    cuts = summarize(study).cuts
    mark(study, [cuts[4], cuts[1]])
    assert summarize(study).marked == (cuts[4], cuts[1])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        SettingsError, match=r"^--out '.*file': (Not a directory|File exists)\. Give a folder"
    ):
        write_report(document(stored(*FINISHED)), tmp_path / "file")


def test_reading_for_a_report_changes_nothing() -> None:
    study = stored(*FINISHED)
    before = study.get_trials(), study.user_attrs
    document(study).html()
    assert (study.get_trials(), study.user_attrs) == before


# --- a browser ----------------------------------------------------------------------------------


def console_of(page: Path, scratch: Path) -> list[str]:
    """Open a page in Chromium and give what its console says."""
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --enable-logging=stderr"
    options += " --disable-sync --disable-background-networking --disable-component-update"
    shown = scratch / "shown.png"
    shown.unlink(missing_ok=True)
    command = [
        "chromium",
        *options.split(),
        f"--user-data-dir={scratch / 'profile'}",
        f"--screenshot={shown}",
    ]
    ended = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    assert shown.is_file(), ended.stderr
    return [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here")
def test_a_browser_shows_the_page_without_a_complaint(tmp_path: Path) -> None:
    """Guards the page's script and style, which no parser checks."""
    _, page = write_report(document(nasty()), tmp_path)
    assert console_of(page, tmp_path) == []
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("</main>", "<script>1</script></main>"))
    assert console_of(broken, tmp_path) != []


DRAWN = "document.querySelectorAll('.chart .main-svg').length"
INK = "getComputedStyle(document.querySelector('.chart .xtitle')).fill"


@pytest.mark.slow
@needs_chromium
def test_a_page_fits_a_telephone_and_a_desk_in_light_and_dark(tmp_path: Path) -> None:
    """Guards the layout, which exists in a browser alone."""
    _, page = write_report(document(stored(*FINISHED)), tmp_path)
    inks = set()
    with browser(tmp_path / "profile") as tab:
        for width, scheme in itertools.product((390, 1280), ("light", "dark")):
            tab.ask(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=900,
                deviceScaleFactor=1,
                mobile=True,
            )
            preference = {"name": "prefers-color-scheme", "value": scheme}
            tab.ask("Emulation.setEmulatedMedia", features=[preference])
            tab.open(page.as_uri())
            assert tab.until(DRAWN) >= 4
            assert tab.value("document.documentElement.scrollWidth") == width
            inks.add(tab.until(INK))
        assert len(inks) == 2
        assert tab.complaints == []


@pytest.mark.slow
@needs_chromium
def test_the_arrow_keys_go_from_mark_to_mark(tmp_path: Path) -> None:
    """Guards the page for who uses no mouse."""
    _, page = write_report(document(stored(*FINISHED)), tmp_path)
    with browser(tmp_path / "profile") as tab:
        tab.open(page.as_uri())
        tab.until(DRAWN)
        chart = "document.getElementById('score-against-depth')"
        tab.value(f"{chart}.focus()")
        read = []
        for _ in range(12):
            tab.ask("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
            read.append(tab.value(f"{chart}.parentElement.querySelector('output').textContent"))
        for number in range(5):
            assert [text for text in read if text.startswith(f"Trial {number}: ")]
        assert tab.until("document.querySelectorAll('.hovertext').length") == 1


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("layer 3 is the best", "Layer 3 is the best."),
        ("mobilenetv2_100 layer 3 is the best", "mobilenetv2_100 layer 3 is the best."),
        ("the best cut is among mobilenetv2_100 3 to 5", "The best cut is among mobilenetv2_100 3 to 5."),
    ],
)
def test_the_name_of_a_backbone_is_spelled_as_it_is_at_the_beginning_of_a_sentence(
    line: str, expected: str
) -> None:
    assert sentence(line, ("resnet50", "mobilenetv2_100")) == expected
    assert sentence("layer 3 is the best", ("",)) == "Layer 3 is the best."
