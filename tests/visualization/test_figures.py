"""The public figures: what each shows of a stored study, in the examples of its page as well."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from plotly.graph_objects import Figure
from stored_studies import AGAIN, AIM, CONFIRMED, FINISHED, NO_CURVE, several, stored

import depthsearch
from depthsearch import visualization
from depthsearch.errors import SettingsError, StudyError
from depthsearch.visualization.style import COLOURS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "figures.md"
GROUNDS = ("#ffffff", "#15181c")


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_page_has_an_example_of_each_figure() -> None:
    used = re.findall(r"visualization\.(\w+)\(study\)", "".join(blocks()))
    assert sorted(used) == visualization.__all__ == sorted(dir(visualization))


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, open_quick_storage) -> None:
    monkeypatch.chdir(tmp_path)
    source = stored(*(paid(each) for each in (*FINISHED, *AGAIN)), **CONFIRMED, **AIM)
    study = optuna.create_study(
        storage=open_quick_storage("sqlite:///depthsearch.db"),
        study_name="densenet121-digits",
        direction="maximize",
    )
    for key, value in source.user_attrs.items():
        study.set_user_attr(key, value)
    study.add_trials(source.get_trials())
    first, *examples = blocks()
    names: dict[str, object] = {}
    exec(first, names)
    for example in examples:
        exec(example, names)
        assert isinstance(names["figure"], Figure)
        assert any(len(trace.x) for trace in names["figure"].data)


def paid(trial: optuna.trial.FrozenTrial) -> optuna.trial.FrozenTrial:
    """Give a trial whose cost was noted."""
    made = copy.deepcopy(trial)
    made.set_user_attr("training_macs", 1000 * (20 - trial.params["cut"]))
    return made


@pytest.mark.parametrize("name", visualization.__all__)
def test_a_figure_can_be_written_whatever_a_study_lacks(name: str) -> None:
    for study in (stored(), stored(FINISHED[4]), stored(*FINISHED[:1])):
        if name == "plot_front":
            with pytest.raises(
                StudyError, match=r"^Study 'mine' has no front: it aims at the score alone\.$"
            ):
                visualization.plot_front(study)
            continue
        drawn = getattr(visualization, name)(study)
        json.loads(drawn.to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", visualization.__all__)
def test_the_study_of_somebody_else_is_refused(name: str) -> None:
    with pytest.raises(StudyError, match="was not made by depthsearch"):
        getattr(visualization, name)(optuna.create_study(study_name="theirs"))


def test_what_was_not_probed_has_no_transfer_curve() -> None:
    with pytest.raises(
        StudyError, match=r"^Study 'mine' has no transfer curve of tiny: nothing was probed\.$"
    ):
        visualization.plot_transfer_curve(stored(*FINISHED, transfer_curve=NO_CURVE))


def test_of_several_backbones_the_answers_is_shown_or_that_which_is_asked_for() -> None:
    study = several()
    title = "Score against depth: {}<br>"
    assert visualization.plot_score_by_depth(study).layout.title.text.startswith(title.format("b"))
    other = visualization.plot_score_by_depth(study, backbone="timm/a b")
    assert other.layout.title.text.startswith(title.format("timm/a b"))
    with pytest.raises(SettingsError, match=r"has no backbone 'c'\. Give one of: timm/a b, b\.$"):
        visualization.plot_learning_rate_by_depth(study, backbone="c")


def test_each_backbone_is_named_beside_its_best() -> None:
    drawn = visualization.plot_backbones(several())
    named = {trace.text[0]: trace.y[0] for trace in drawn.data if trace.mode == "markers+text"}
    assert named == {"b": 0.8, "timm/a b": 0.7}


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_stands_out_on_white_and_on_black(kind: str, ground: str) -> None:
    """WCAG 2.2, 1.4.11: graphics want a contrast of 3."""
    light, dark = sorted((luminance(COLOURS[kind]), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour: str) -> float:
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.slow
def test_plotly_is_imported_with_the_first_figure() -> None:
    """Guards the start of commands that draw nothing; a process of its own."""
    code = (
        "import sys, depthsearch\n"
        "from depthsearch import visualization\n"
        "assert visualization is depthsearch.visualization\n"
        "assert 'plotly' not in sys.modules\n"
        "visualization.plot_front\n"
        "assert 'plotly' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="plot_nonesuch"):
        _ = depthsearch.visualization.plot_nonesuch
