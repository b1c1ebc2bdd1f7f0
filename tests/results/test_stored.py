"""A stored study, read once: what it holds, what is refused, and how little it asks of the database."""

import ast
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial
from stored_studies import AGAIN, AIM, CONFIRMED, EPOCHS, FINISHED, N_CUTS, attributes, several, stored, trial

import depthsearch
from depthsearch.errors import StudyError
from depthsearch.options.attributes import FORMAT, StudyKey, TrialKey
from depthsearch.results import StoredStudy, front_of, importance_of, summarize, weigh
from depthsearch.study import open_storage
from depthsearch.study.progress import is_something_left
from depthsearch.study.storage.optuna_private import storage_of

SOURCE = Path(depthsearch.__file__).parent
PAGE = SOURCE.parents[1] / "docs" / "reference" / "stored-attributes.md"


def kept(url: str, n_trials: int = 100) -> optuna.Study:
    """Store a study of many trials, some of them confirming."""
    study = optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    for key, value in attributes(**CONFIRMED).items():
        study.set_user_attr(key, value)
    searched = [trial(k % N_CUTS, 0.5 + 0.001 * k, rate=1e-3 * (1 + k % 3)) for k in range(n_trials - 6)]
    study.add_trials([*FINISHED[:3], *searched[3:], *AGAIN])
    return study


@pytest.mark.parametrize("is_fresh", [True, False])
def test_a_summary_asks_the_database_three_times_at_most(tmp_path: Path, *, is_fresh: bool) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study = kept(url)
    storage = open_storage(url)
    study = optuna.load_study(study_name="s", storage=storage)
    if not is_fresh:
        summarize(study)
    asked: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        asked.append(statement)

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", note)
    summary = summarize(study)
    assert (len(summary.trials), summary.evidence is not None) == (100, True)
    assert 0 < len(asked) <= 3


def test_all_that_is_said_of_a_study_is_said_of_the_value(tmp_path: Path) -> None:
    """Nothing asks the database again, which has the study no more."""
    study = kept(f"sqlite:///{tmp_path}/s.db")
    value = StoredStudy.read(study)
    assert StoredStudy.read(value) is value
    expected = summarize(study)
    optuna.delete_study(study_name="s", storage=storage_of(study))
    assert summarize(value) == expected
    assert weigh(value) == expected.evidence
    assert front_of(summarize(value)) is None
    assert len(importance_of(value)) == 3
    assert is_something_left(value) is False


def test_a_study_is_read_into_typed_values() -> None:
    value = StoredStudy.read(stored(*FINISHED, **AIM))
    assert (value.name, value.maximize, value.format, value.cost_aim) == ("mine", True, FORMAT, "macs")
    assert (value.recipe.epochs, value.data.classes, value.data.noun) == (EPOCHS, ["cat", "dog"], "image")
    assert (value.options.seed, value.wanted.trials, value.is_exhaustive) == (3, None, False)
    assert (value.space.learning_rate, value.space.head_width) == ((1e-5, 1e-2), (1024, 256))
    assert [each.layer for each in value.curves[""].points] == [8, 20, 35]
    assert [len(each.results) for each in value.trials] == [4, 4, 4, 2, 0]
    assert value.trials[0].results[-1].val_loss == 0.5
    with pytest.raises(FrozenInstanceError):
        value.name = "another"


def test_backbones_are_named_in_the_order_of_their_cuts() -> None:
    assert StoredStudy.read(several()).backbone_names == ("a", "b")


def test_a_trial_without_a_setting_is_there_but_not_among_those_that_have_one() -> None:
    study = stored(*FINISHED)
    study.enqueue_trial({"cut": 3}, user_attrs={"origin": "guess"})
    study.add_trial(create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"dropped": True}))
    value = StoredStudy.read(study)
    assert [(each.number, each.state, each.origin, each.is_dropped) for each in value.unset] == [
        (5, "waiting", "guess", False),
        (6, "fail", "sampler", True),
    ]
    assert [each.number for each in value.every_trial] == list(range(7))


def test_of_one_backbone_that_has_a_name_no_trial_is_left_out() -> None:
    cuts = [{**each, "backbone": "mine"} for each in attributes()["cuts"]]
    (key,) = attributes()["backbones"]
    study = stored(cuts=cuts, backbones={"mine": attributes()["backbones"][key]})
    ranges = {
        "cut_mine": IntDistribution(0, N_CUTS - 1),
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    }
    params = {"cut_mine": 3, "learning_rate": 1e-3}
    complete = optuna.trial.TrialState.COMPLETE
    study.add_trial(create_trial(state=complete, value=0.7, params=params, distributions=ranges))
    value = StoredStudy.read(study)
    assert [(trial.cut.index, trial.score) for trial in value.trials] == [(3, 0.7)]
    assert not value.unset


# --- the format ---------------------------------------------------------------------------------


def test_a_study_of_another_format_is_refused_with_what_to_do() -> None:
    provenance = {"versions": {"depthsearch": "0.9.0"}}
    message = (
        rf"^Study 'mine' is stored in format 9, and this depthsearch reads format {FORMAT}\. Use the "
        r"depthsearch that made it \(0\.9\.0\), or give another --name\.$"
    )
    with pytest.raises(StudyError, match=message):
        summarize(stored(*FINISHED, format=9, provenance=provenance))
    for damaged in ({"versions": 3}, [], "x"):
        with pytest.raises(StudyError, match=r"Use the depthsearch that made it, or give another --name\.$"):
            summarize(stored(format="x", provenance=damaged))


def test_a_study_of_no_format_was_made_by_something_else() -> None:
    with pytest.raises(StudyError, match=r"^Study 'x' was not made by depthsearch\. Give another --name\.$"):
        StoredStudy.read(optuna.create_study(study_name="x"))


# --- the names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("heading", "keys"), [("Of a study", StudyKey), ("Of a trial", TrialKey)])
def test_the_reference_page_has_each_attribute(heading: str, keys: Any) -> None:
    (section,) = [part for part in PAGE.read_text().split("\n## ") if part.startswith(heading)]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == [str(key) for key in keys]
    assert all(len(row) == 4 and all(row) for row in rows)


def test_the_reference_page_has_the_format() -> None:
    assert f"`format`, now {FORMAT}." in PAGE.read_text()


def test_nobody_spells_the_name_of_an_attribute() -> None:
    """Those who read or write one take it from the one list of them."""
    spelled = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                call = ast.unparse(node.func)
                if re.search(r"set_user_attr$|set_trial_user_attr$|user_attrs\.get$", call):
                    key = node.args[call.endswith("set_trial_user_attr")]
                    spelled += [(path.name, ast.unparse(key))] * isinstance(key, ast.Constant)
            if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("user_attrs"):
                spelled += [(path.name, ast.unparse(node.slice))] * isinstance(node.slice, ast.Constant)
    assert spelled == []
