"""The package as a whole: names, import order, what is shipped and documented."""

import re
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest
from PIL import Image

import depthsearch
from depthsearch.options.commands import COMMANDS
from depthsearch.options.words import INTERPOLATIONS

ROOT = Path(__file__).parents[1]
SOURCE = Path(depthsearch.__file__).parent


def test_every_public_name_can_be_imported() -> None:
    assert sorted(depthsearch.__all__, key=str) == depthsearch.__all__
    for name in depthsearch.__all__:
        assert getattr(depthsearch, name) is not None
    assert set(dir(depthsearch)) == set(depthsearch.__all__)


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"depthsearch.*nonesuch"):
        _ = depthsearch.nonesuch


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_every_module_can_be_imported_and_has_what_its_package_offers(path: Path) -> None:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    if path.stem == "__main__":
        return
    module = import_module(".".join(parts[:-1] if path.stem == "__init__" else parts))
    assert all(hasattr(module, name) for name in getattr(module, "__all__", ()))


def test_no_room_is_crowded() -> None:
    """A newcomer sees in a minute what lies where."""
    assert len(list(SOURCE.glob("*.py"))) <= 10
    packages = {path.parent for path in SOURCE.rglob("*.py")} - {SOURCE}
    assert not {str(each) for each in packages if len(list(each.glob("*.py"))) > 14}


def test_the_version_is_the_installed_one() -> None:
    assert depthsearch.__version__ == version("depthsearch")


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "models/keras_layers.json",
        "classifier/templates/card.md.j2",
        "report/page/templates/report.j2",
    ],
)
def test_what_the_package_reads_is_shipped_with_it(name: str) -> None:
    assert (files("depthsearch") / name).is_file()


def test_every_way_to_resize_is_one_of_pillows() -> None:
    assert set(INTERPOLATIONS) <= {each.name.lower() for each in Image.Resampling}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented(command: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert re.search(rf"depthsearch {command}\b", readme), (
        f"README.md does not mention: depthsearch {command}"
    )
