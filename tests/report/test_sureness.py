"""How sure the answer is, as it is written: in words, as a table, as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from stored_studies import AGAIN, ENDS, FINISHED, N_CUTS, attributes, several, stored, trial

from depthsearch.models.cuts import Cut
from depthsearch.report.sureness import confirmed_table, evidence_json, evidence_lines, few_images
from depthsearch.report.text import as_json, render
from depthsearch.results import Evidence, Expected, Settled, Summary, summarize
from depthsearch.results.evidence import Advice


def settled(cut: Cut, **changed: Any) -> Settled:
    usual = {"trial": 0, "params": {}, "scores": {}, "mean": 0.8, "standard_error": None}
    return Settled(**{"cut": cut, **usual, "gap": 0.0, "gap_error": 0.0, "chance": 0.5, **changed})


@pytest.fixture
def judged() -> Any:
    """Make a summary of which it is said what is the answer and what the best: cuts 6 and 4."""

    def make(chance: float, *, is_best: bool = False, **changed: Any) -> tuple[Summary, Evidence]:
        summary = summarize(stored(*FINISHED))
        answer = settled(summary.cuts[6], trial=2, chance=chance)
        best = answer if is_best else settled(summary.cuts[4], trial=3, scores={0: 0.9, 1: 0.92}, mean=0.91)
        given = {
            "settled": (best, answer),
            "best": best,
            "answer": answer,
            "tolerance": 0.005,
            "level": (4, 5, 6),
            "expected": tuple(
                Expected(mean=0.9, low=0.8, high=0.95, loss=0.004 * max(0, place - 5))
                for place in range(N_CUTS)
            ),
            "further_rates": None,
            "advice": None,
        }
        evidence = Evidence(**{**given, **changed})
        return replace(summary, evidence=evidence), evidence

    return make


def test_an_answer_that_is_shown_is_told_with_its_probability(judged) -> None:
    lines = list(evidence_lines(*judged(0.934)))
    assert lines[0] == "layer 20 loses less than 0.5 points against the best cut with 93 % probability"
    assert lines[1].startswith("layer 14 has the highest expected score, 0.9100")
    assert "mean of 2 trainings" in lines[1]
    assert lines[2] == "the best cut is among layers 14 to 20 (3 of 12 candidates, 95 %)"


def test_an_answer_that_is_not_shown_says_so_and_what_would_show_it(judged) -> None:
    advice = Advice(trials=False, trainings=4, images=3)
    lines = list(evidence_lines(*judged(0.4, is_best=True, advice=advice)))
    assert lines[0] == (
        "layer 20 has the highest expected score; with a probability of 40 % it loses less than 0.5 "
        "points against the best cut"
    )
    assert lines[-1] == (
        "to be surer: about 4 more trainings of two cuts, or 3 times as many validation images"
    )
    only_images = list(evidence_lines(*judged(0.4, is_best=True, advice=replace(advice, trainings=None))))
    assert only_images[-1] == "to be surer: 3 times as many validation images"


@pytest.mark.parametrize(
    ("advice", "told"),
    [
        (Advice(trials=False, trainings=1, images=None), "to be surer: about 1 more training of two cuts"),
        (
            Advice(trials=True, trainings=None, images=None),
            "to be surer: more trials (--budget, --trials); most of the doubt is about settings not tried",
        ),
        (
            Advice(trials=False, trainings=None, images=None),
            "even 10 times as many validation images would not tell the answer from its rivals",
        ),
    ],
)
def test_what_is_advised_is_what_can_be_had(judged, advice: Advice, told: str) -> None:
    assert list(evidence_lines(*judged(0.4, is_best=True, advice=advice)))[-1] == told


def test_a_score_above_the_answers_is_explained(judged) -> None:
    summary, evidence = judged(0.4, is_best=True)
    lucky = settled(summary.cuts[11], trial=0, mean=0.95)
    told = (
        "layer 35 (trial 0) has scored 0.9500, one training; expected scores are learned from all trials "
        "together"
    )
    lines = list(evidence_lines(summary, replace(evidence, settled=(*evidence.settled, lucky))))
    assert lines[1] == told
    # Nothing is to be explained where the answer, or the one expected to be best, has the best score.
    answer = replace(evidence.answer, mean=0.96)
    alone = replace(evidence, settled=(lucky, answer), best=answer, answer=answer)
    assert "expected scores are" not in "".join(evidence_lines(summary, alone))
    assert "expected scores are" not in "".join(evidence_lines(*judged(0.95)))
    # Of losses the lowest is the best.
    falling = replace(summary, maximize=False)
    low = replace(evidence, settled=(settled(summary.cuts[11], mean=0.1), evidence.answer))
    assert "has scored 0.1000" in list(evidence_lines(falling, low))[1]


def test_a_reader_is_warned_of_few_validation_images() -> None:
    few = summarize(stored(*FINISHED, data={**attributes()["data"], "images": {"train": 8, "val": 2}}))
    assert (
        few_images(few)
        == "only 2 validation images, each worth 0.5000: most differences of scores are chance"
    )
    text = io.StringIO()
    Console(file=text, width=200).print(render(few))
    assert f"Careful   {few_images(few)}\n" in text.getvalue()
    assert few_images(summarize(stored(*FINISHED))) == ""


def test_a_learning_rate_at_an_end_of_the_range_is_pointed_out(judged) -> None:
    summary, evidence = judged(0.95, further_rates=(1e-5, 1e-2))
    best = replace(evidence.best, params={"learning_rate": 1.2e-4})
    (line,) = [
        line for line in evidence_lines(summary, replace(evidence, best=best)) if "learning rate" in line
    ]
    assert line == (
        "the best learning rate, 0.00012, is at an end of those searched: "
        "a study with --learning-rate 1e-05:0.01 looks further"
    )


def test_what_freezing_more_costs_is_told_by_the_deepest_cut_of_each_price(judged) -> None:
    (line,) = [
        line for line in evidence_lines(*judged(0.95)) if line.startswith("freezing more costs (90 %)")
    ]
    # Of 0.4, 0.8, 1.2, 1.6, 2.0 and 2.4 points behind layer 17: at most half a point, one, two; the head.
    assert line.endswith(
        "up to layer 23 at most 0.8 points; up to layer 32 at most 2.0 points; "
        "up to layer 35 at most 2.4 points"
    )


def test_only_what_was_trained_again_is_in_the_table(judged) -> None:
    _, evidence = judged(0.95)
    console = Console(file=io.StringIO(), width=200)
    console.print(confirmed_table(evidence, "validation accuracy"))
    text = console.file.getvalue()
    assert "behind the best: by expected scores" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 1
    assert "best expected" in rows[0]


def test_settings_of_one_cut_are_told_apart_on_a_narrow_terminal(judged) -> None:
    summary, evidence = judged(0.95)
    both = [
        settled(summary.cuts[11], params={"learning_rate": 2e-3, "head_width": width}, scores={0: 0.9})
        for width in (0, 768)
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(confirmed_table(replace(evidence, settled=tuple(both)), "validation accuracy"))
    text = console.file.getvalue()
    assert "linear" in text
    assert "768" in text
    assert " note " in text


@pytest.mark.parametrize(
    "study",
    [
        lambda: stored(*FINISHED),
        lambda: stored(*FINISHED, *AGAIN),
        lambda: stored(*FINISHED, aim={"aim": "accuracy", "cost": None, "tolerance": 0}),
        lambda: stored(*ENDS, trial(3, float("nan"), "PRUNED"), trial(4, 0.8)),
        lambda: stored(*[trial(place, 0.5) for place in range(N_CUTS)]),
        lambda: stored(
            *(trial(place, 3.0 - place / 5) for place in range(N_CUTS)),
            lower=True,
            recipe={**attributes()["recipe"], "metric": "loss"},
        ),
    ],
    ids=["single", "again", "no tolerance", "not a number", "all alike", "loss"],
)
def test_the_json_is_json_with_probabilities_and_places_that_fit(study) -> None:
    summary = summarize(study())
    told = json.loads(json.dumps(as_json(summary), allow_nan=False))["evidence"]
    assert told == evidence_json(summary)
    assert all(0 <= each["chance"] <= 1 for each in told["settled"])
    assert all(each["gap"] >= 0 for each in told["settled"])
    by_trial = {each["trial"]: each for each in told["settled"]}
    assert {told["answer_trial"], told["best_trial"]} <= by_trial.keys()
    layers = [each["cut"]["layer"] for each in told["candidates"]]
    assert set(told["level_layers"]) <= set(layers)
    for number in (told["answer_trial"], told["best_trial"]):
        assert by_trial[number]["cut"]["layer"] in told["level_layers"]
    assert told["is_shown"] == (by_trial[told["answer_trial"]]["chance"] >= 0.9)
    assert all(each["low"] <= each["mean"] <= each["high"] for each in told["candidates"])
    assert all(each["loss"] >= 0 for each in told["candidates"])
    console = Console(file=io.StringIO(), width=200)
    console.print(render(summary))
    assert "the best cut is among " in console.file.getvalue()
    assert not {"inf", "nan"} & set(console.file.getvalue().split())


def test_too_little_to_judge_is_no_evidence() -> None:
    for study in (stored(*ENDS), several()):
        summary = summarize(study)
        assert evidence_json(summary) is None
        assert as_json(summary)["answer"]["confirmed"] is False
