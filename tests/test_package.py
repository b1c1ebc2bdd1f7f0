"""The package as a whole: names, import order, what is shipped and documented."""

import ast
import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

import depthsearch
from depthsearch import aims, cli, cuts, flattening, sampling, training
from depthsearch.commands.loading import OPTIONAL_RANGES

ROOT = Path(__file__).parents[1]
SOURCE = Path(depthsearch.__file__).parent
# Data flows from the first to the last; a module imports only from those before it.
ORDER = (
    "errors",
    "wording",
    "interrupts",
    "files",
    "backbonenames",
    "passwords",
    "processes",
    "storage",
    "lease",
    "data",
    "restoring",
    "inputs",
    "tracing",
    "graph",
    "numbering",
    "headplace",
    "cuts",
    "checking",
    "fixed",
    "split",
    "freezing",
    "plaincnn",
    "flattening",
    "devices",
    "weightsfile",
    "backbones",
    "heads",
    "pixels",
    "rounding",
    "classifier",
    "figures",
    "card",
    "modelfolder",
    "onnxfile",
    "augmentation",
    "views",
    "features",
    "probe",
    "training",
    "space",
    "pareto",
    "extrapolation",
    "aims",
    "sampling",
    "stored",
    "trials",
    "response",
    "evidence",
    "objective",
    "executors",
    "study",
    "eventlog",
    "tensorboardlog",
    "mlflowlog",
    "summary",
    "front",
    "tables",
    "report",
    "artifacts",
    "charts",
    "document",
    "chartfile",
    "reproduction",
    "progress",
    "record",
    "plots",
    "frontpage",
    "page",
    "live",
    "refit",
    "explain",
    "lettering",
    "drawing",
    "confusion",
    "gallery",
    "view",
    "fitview",
    "guard",
    "dashboard",
    "studyfile",
    "optionvalues",
    "output",
    "contradictions",
    "commands",
    "cli",
    "__main__",
)


def imports_of(path: Path) -> set[str]:
    """Names of the package's own modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            home, names = node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            home, names = "", [alias.name for alias in node.names]
        else:
            continue
        if home == "depthsearch":
            found |= {name for name in names if name not in depthsearch.__all__}
        found |= {m.split(".")[1] for m in (home, *names) if m.startswith("depthsearch.")}
    return found


def test_every_public_name_can_be_imported() -> None:
    assert sorted(depthsearch.__all__, key=str) == depthsearch.__all__
    for name in depthsearch.__all__:
        assert getattr(depthsearch, name) is not None
    assert set(dir(depthsearch)) == set(depthsearch.__all__)


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'depthsearch' has no attribute 'nonesuch'$"):
        _ = depthsearch.nonesuch


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*.py")), ids=lambda path: path.stem)
def test_every_module_lists_its_public_names(path: Path) -> None:
    if path.stem == "__main__":
        return
    module = (
        __import__(f"depthsearch.{path.stem}", fromlist=["x"]) if path.stem != "__init__" else depthsearch
    )
    assert all(hasattr(module, name) for name in module.__all__)


def test_imports_run_one_way() -> None:
    modules = {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert modules - {"__init__"} == set(ORDER)
    for place, name in enumerate(ORDER):
        path = SOURCE / name
        paths = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
        for path in paths:
            backwards = imports_of(path) - set(ORDER[:place]) - {name}
            assert not backwards, f"{path.relative_to(SOURCE)} imports {backwards}"


def test_the_version_is_the_installed_one() -> None:
    assert depthsearch.__version__ == version("depthsearch")


@pytest.mark.parametrize("name", ["py.typed", "keras_layers.json", "page.css"])
def test_what_the_package_reads_is_shipped_with_it(name: str) -> None:
    assert (files("depthsearch") / name).is_file()


def test_the_command_line_offers_what_the_library_knows() -> None:
    """Its lists are its own, so that it starts without PyTorch."""
    assert cli.KINDS == cuts.KINDS
    assert (cli.AUTO,) == cuts.DEFAULT_KINDS
    assert cli.HEADS == flattening.HEADS
    assert set(cli.INTERPOLATIONS) <= {each.name.lower() for each in Image.Resampling}
    assert set(cli.METRICS) == set(training.METRICS)
    assert set(cli.ALSO) == set(OPTIONAL_RANGES)
    study = {action.dest: action for action in commands()["study"]._actions}
    assert tuple(study["sampler"].choices) == sampling.SAMPLERS
    assert tuple(study["pruner"].choices) == sampling.PRUNERS
    assert tuple(study["cost"].choices) == tuple(aims.COSTS)
    assert tuple(study["schedule"].choices) == training.SCHEDULES
    assert tuple(study["optimizer"].choices) == training.OPTIMIZERS
    assert tuple(study["balance"].choices) == training.BALANCES


def commands() -> dict[str, cli._Parser]:
    """Parsers of the commands by name."""
    return cli._parser()._subparsers._group_actions[0].choices


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_documented(command: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"depthsearch {command}\b", readme), (
        f"README.md does not mention: depthsearch {command}"
    )
