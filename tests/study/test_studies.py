"""The kept studies: their files are right, and say what they are said to search."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from depthsearch.cli import main
from depthsearch.models.backbones import make_model
from depthsearch.models.backbones.requirements import FROM_SCRATCH
from depthsearch.models.cuts import find_cut
from depthsearch.models.flattening import flattened
from depthsearch.options.study import StudyOptions
from depthsearch.search.space import SearchSpace

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted(STUDIES.glob("*.toml"))
# Models that take seconds to build.
LARGE = {"vgg16_catsdogs", "cifar100_superclasses", "resnet50_vs_101_catsdogs"}


def arguments_of(name: str) -> StudyOptions:
    """Give what `depthsearch study` is run with."""
    given: list[StudyOptions] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("depthsearch.cli.commands.study.study", given.append)
        # The images are not in this repository.
        patch.setattr("depthsearch.cli.checks.CHECKS", {})
        assert main(["study", str(STUDIES / f"{name}.toml")]) == 0
    return given[0]


def space_of(name: str) -> SearchSpace:
    arguments = arguments_of(name)
    models = {backbone: make_model(backbone, in_chans=arguments.channels) for backbone in arguments.backbone}
    if arguments.head == "flatten":
        models = {n: flattened(model, image_size=arguments.image_size) for n, model in models.items()}
    return SearchSpace.across(
        models,
        arguments.kinds,
        image_size=arguments.image_size,
        layers=arguments.layers,
        from_scratch=FROM_SCRATCH,
        learning_rate=arguments.learning_rate or (1e-5, 1e-2),
        head_width=arguments.head_width,
    )


def test_there_are_studies() -> None:
    assert len(FILES) >= 7


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_can_be_read_and_stands_in_the_table(path: Path) -> None:
    arguments = arguments_of(path.stem)
    assert arguments.name == path.stem
    assert f"({path.name})" in (STUDIES / "README.md").read_text()
    if arguments.classes_map is not None:
        assert Path(arguments.classes_map).is_file()


@pytest.mark.parametrize(
    "name", [pytest.param(p.stem, marks=pytest.mark.slow if p.stem in LARGE else ()) for p in FILES]
)
def test_every_study_finds_its_layers(name: str) -> None:
    wanted, space = arguments_of(name), space_of(name)
    assert space.backbones == (wanted.backbone if len(wanted.backbone) > 1 else ("",))
    for layer in wanted.mark or ():
        assert find_cut(space.cuts, layer)
    if wanted.search == "exhaustive":
        assert wanted.trials is None
        assert len(space.cuts) <= 15


def test_mobilenets_candidates_are_the_ordinary_convolutions_of_keras() -> None:
    *convolutions, head = space_of("mobilenet_vehicles").cuts
    assert [cut.keras_name for cut in convolutions] == ["conv1", *(f"conv_pw_{n}" for n in range(1, 14))]
    assert head.kind == "head"
    assert {8, 47, 84} < {cut.layer for cut in convolutions}


def test_densenets_candidates_are_the_seven_and_both_ends() -> None:
    assert [cut.layer for cut in space_of("densenet_vehicles").cuts] == [
        3,
        52,
        56,
        140,
        144,
        151,
        312,
        316,
        431,
    ]


def test_blocks_are_cut_where_each_dense_block_begins() -> None:
    space = space_of("densenet_blocks_binary")
    assert len(space.cuts_of("cnn")) == 1
    names = [cut.name for cut in space.cuts_of("densenet121")]
    assert names == [
        "features.conv0",
        *(f"features.denseblock{n}.denselayer1" for n in range(1, 5)),
        "classifier",
    ]


def test_the_superclasses_are_twenty_of_five() -> None:
    coarse = json.loads((STUDIES / "cifar100_superclasses.json").read_text())
    sizes = [list(coarse.values()).count(name) for name in set(coarse.values())]
    assert sizes == [5] * 20


@pytest.mark.slow
def test_vgg16_learns_from_block5_conv1_or_not_at_all() -> None:
    """Guards the kept study of VGG16, whose full network takes seconds an image."""
    cuts = space_of("vgg16_catsdogs").cuts_of("vgg16")
    assert [cut.keras_name for cut in cuts[:2]] == ["block1_conv1", "block5_conv1"]
    assert cuts[-1].kind == "head"
    # Kernels and biases: of thirteen convolutions, of three, of none.
    assert [cut.trainable_tensors for cut in cuts] == [26, 6, 0]


def test_links_of_the_table_and_pictures_of_the_results_are_there() -> None:
    for text in (STUDIES / "README.md", *STUDIES.glob("results/*/report.md")):
        targets = re.findall(r"\]\(([^)#:]+)\)", text.read_text())
        assert targets, text
        for target in targets:
            assert (text.parent / target).is_file(), f"{text}: {target}"
