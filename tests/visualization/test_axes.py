"""What figures are made of: stages from module paths, ranges, words."""

from types import SimpleNamespace

import pytest

from depthsearch.models.backbones import make_model
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut
from depthsearch.visualization.axes import stages, without_outliers
from depthsearch.visualization.style import N_LETTERS, N_LINES, hover
from depthsearch.visualization.words import shown


def cuts_named(*names: str) -> list[Cut]:
    return [SimpleNamespace(name=name, kind="head" if name == names[-1] else "conv") for name in names]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["conv1", *(f"layer{stage}.{k}.conv" for stage in (1, 2, 3) for k in range(2)), "fc"],
            [(0, 1, "conv1"), (1, 3, "layer1"), (3, 5, "layer2"), (5, 7, "layer3"), (7, 8, "fc")],
        ),
        (
            ["stem", *(f"blocks.{stage}.{k}.conv" for stage in range(3) for k in range(2)), "conv", "fc"],
            [(0, 1, "stem"), (1, 3, "blocks.0"), (3, 5, "blocks.1"), (5, 7, "blocks.2"), (7, 8, "conv"),
             (8, 9, "fc")],
        ),
        (
            ["features.0", "features.3", "features.6", "pre_logits.fc1", "pre_logits.fc2", "head.fc"],
            [(0, 3, "features"), (3, 5, "pre_logits"), (5, 6, "head")],
        ),
        (["features.0", "features.3", "features.6", "classifier"], []),
        (["a", "b", "fc"], []),
    ],
)  # fmt: skip
def test_stages_are_runs_of_the_first_components_of_paths(names: list[str], expected: list) -> None:
    assert stages(cuts_named(*names)) == expected


def test_a_head_in_the_last_stage_is_a_stage_of_its_own() -> None:
    names = [f"stage{k}.{i}" for k in range(3) for i in range(2)]
    assert stages(cuts_named(*names, "stage2.head"))[-1] == (6, 7, "stage2")


def test_a_real_backbone_has_its_stages() -> None:
    found = stages(list_cuts(make_model("test_resnet"), image_size=16))
    assert [name for _, _, name in found] == ["conv1", "layer1", "layer2", "layer3", "layer4", "fc"]
    assert [end for _, end, _ in found[:-1]] == [start for start, _, _ in found[1:]]


@pytest.mark.parametrize(
    ("values", "left"),
    [
        ([0.9, 0.91, 0.92, 0.93, 0.1], [0.9, 0.91, 0.92, 0.93]),
        ([0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.8]),
        ([0.1, 0.9, 0.9], [0.1, 0.9, 0.9]),
        ([0.5, 0.5, 0.5, 0.5, 0.1], [0.5, 0.5, 0.5, 0.5, 0.1]),
        ([], []),
    ],
)
def test_only_what_would_flatten_the_others_is_an_outlier(values: list[float], left: list[float]) -> None:
    assert without_outliers(values) == left


def test_what_is_read_of_a_mark_fits_its_lines() -> None:
    path = "features.denseblock1." * 40
    lines = hover("Trial 1: 0.9", f"layer 3 ({path})", "word " * 200).split("<br>")
    assert len(lines) == N_LINES
    assert max(map(len, lines)) <= N_LETTERS
    assert lines[-1].endswith("…")
    assert hover("Trial 1: 0.9") == "Trial 1: 0.9"


def test_what_is_read_of_a_mark_is_text() -> None:
    assert hover("<b>a</b> & b", "c\x1b[0m\nd") == "&lt;b&gt;a&lt;/b&gt; &amp; b<br>c\\x1b[0m\\nd"


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_no_score_is_a_dash(score: float | None) -> None:
    assert shown(score) == "–"  # noqa: RUF001 (a dash for nothing)
