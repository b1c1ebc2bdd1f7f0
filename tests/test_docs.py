"""What README and documentation say holds: links lead somewhere, commands parse, code runs."""

import re
import runpy
import tomllib
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import plotly.graph_objects
import pytest

import depthsearch.study
from depthsearch import StudyOptions
from depthsearch.cli import entry
from depthsearch.cli.parser import make_parser
from depthsearch.options.declaring import flag_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "studies/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
    if not path.is_relative_to(ROOT / "studies" / "data")
)
WRITTEN = [path for path in PAGES if not path.is_relative_to(ROOT / "studies" / "results")]
README = ROOT / "README.md"
TOOL = runpy.run_path(str(ROOT / "tools" / "refresh_readme.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Make the anchors of a page's headings as GitHub and MkDocs do, where they agree."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    kept = (re.sub(r"[^\w\s-]", "", heading.lower()) for heading in headings)
    written = set(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    return {re.sub(r"\s+", "-", heading.strip()) for heading in kept} | written


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        there = page.parent / target if target else page
        assert there.exists(), f"{name_of(page)} links to {link}"
        assert not anchor or anchor in anchors(there), f"{name_of(page)} links to {link}"


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for arguments in TOOL["commands"](page.read_text(encoding="utf-8")):
        make_parser().parse_args(arguments)


def test_the_readme_is_short_and_its_code_runs() -> None:
    TOOL["check"]()


def test_the_readme_shows_both_commands_of_a_fresh_machine() -> None:
    text = README.read_text(encoding="utf-8")
    assert "$ pip install . && depthsearch study --backbone densenet121\n" in text
    assert '$ pip install -e ".[dev]" && pytest\n' in text
    assert 'pip install -q -e ".[dev]"\n' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [README, DOCS / "which-layers.md"], ids=name_of)
def test_every_figure_in_a_table_of_results_is_in_a_page_it_links_to(page: Path) -> None:
    rows = "\n".join(re.findall(r"^\|.+$", page.read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / link for link in re.findall(r"\]\(([^)#]+\.md)\)", text)]
    kept = "\n".join(path.read_text(encoding="utf-8") for path in linked)
    numbers = [float(number) for number in re.findall(r"\d+\.\d+", kept)]
    rounded = {f"{number:.{digits}f}" for number in numbers for digits in (1, 2, 3)}
    figures = re.findall(r"\d+\.\d+", rows)
    assert len(figures) > 8
    assert not set(figures) - rounded
    assert all(count in kept for count in re.findall(r"\d+/\d+", rows))


def test_the_citation_is_of_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {depthsearch.__version__}\n" in text
    assert f"## [{depthsearch.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_output_that_is_shown_is_chosen_from_the_demos() -> None:
    lines = [f"trial {i} {what}" for i in range(4) for what in ("(sampler): layer 7", "complete, score 0.9")]
    output = ["Data digits: ...", *lines, "search ended: enough", "Best cut  7", " " * 10 + "0.9"]
    output += ["Cost      3 s", "Study     d in sqlite:///d.db", "Next      depthsearch fit d"]
    output += [" " * 10 + "depthsearch dashboard"]
    end = ["search ended: enough", "Best cut  7", " " * 10 + "0.9", "Cost      3 s"]
    assert TOOL["short"](output)[-4:] == end
    assert TOOL["long"](output) == [output[0], *lines[:4], "  ...", *output[-7:]]


def test_pictures_are_those_of_the_kept_studies() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "draw_studies.py"))
    for name, drawn in script["pictures"]().items():
        assert (DOCS / "pictures" / name).read_text(encoding="utf-8") == drawn, "python tools/draw_studies.py"


def test_a_frozen_batch_norm_is_what_its_page_says() -> None:
    names: dict[str, object] = {}
    for block in TOOL["python_blocks"]((DOCS / "concepts" / "frozen-batch-norm.md").read_text("utf-8")):
        exec(block, names)


def test_the_study_of_the_guide_runs_in_python(monkeypatch, tmp_path, capsys) -> None:
    given: list[StudyOptions] = []
    run = depthsearch.study.run

    def run_small(options: StudyOptions, **events: object) -> object:
        given.append(options)
        small = {"backbone": ("test_resnet",), "data": "digits", "weights": "random", "subset": 0.2}
        few = {"trials": 2, "epochs": 1, "head_width": 0, "confirm": 0, "device": "cpu"}
        return run(replace(options, storage=f"sqlite:///{tmp_path}/s.db", **small, **few), **events)

    monkeypatch.setattr(depthsearch.study, "run", run_small)
    monkeypatch.setattr(plotly.graph_objects.Figure, "show", lambda figure: print(len(figure.data) > 0))
    objective, study = TOOL["python_blocks"]((DOCS / "guide" / "python.md").read_text("utf-8"))
    assert "SearchSpace.for_model" in objective
    names: dict[str, Any] = {}
    exec(study, names)
    assert given[0].backbone == ("resnet50",)
    assert names["setting"].cut == names["answer"].cut
    *trials, result, is_drawn = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in trials] == ["0", "1"]
    assert "train from layer" in result
    assert is_drawn == "True"


def test_the_study_file_of_the_reference_has_options_as_keys() -> None:
    (text,) = re.findall(
        r"```toml\n(.*?)```", (DOCS / "reference" / "study-file.md").read_text("utf-8"), re.DOTALL
    )
    options = dict(tomllib.loads(text))
    for table in ("train", "search"):
        options |= options.pop(table)
    flags = {flag_of(name) for name in StudyOptions.__dataclass_fields__}
    assert {f"--{key}" for key in options} <= flags


def test_the_reference_has_the_exit_statuses() -> None:
    text = (DOCS / "reference" / "exit-statuses.md").read_text(encoding="utf-8")
    statuses = [int(status) for status in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert statuses == [0, 2, entry.AWAY, entry.INTERRUPTED, 141]


@pytest.mark.parametrize(
    "page", sorted((DOCS / "reference" / "python").glob("*.md")), ids=lambda page: page.stem
)
def test_the_reference_has_every_public_name(page: Path) -> None:
    module = "depthsearch" if page.stem == "depthsearch" else f"depthsearch.{page.stem}"
    package = import_module(module)
    names = {name for name in package.__all__ if not isinstance(getattr(package, name), ModuleType)}
    text = page.read_text(encoding="utf-8")
    shown = re.findall(rf"^::: {re.escape(module)}\.(\w+)$", text, re.MULTILINE)
    elsewhere = re.findall(r"\[`(\w+)`\]\(depthsearch\.md#depthsearch\.\1\)", text)
    assert sorted(shown + elsewhere) == sorted(names)


def test_every_public_package_has_a_page_in_the_reference() -> None:
    rooms = {path.stem for path in (DOCS / "reference" / "python").glob("*.md")}
    faces = "data models features search training workers results study classifier visualization"
    assert rooms == {"depthsearch", *faces.split()}
