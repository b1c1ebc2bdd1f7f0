"""What is released: a wheel and an sdist, and that the wheel alone runs the demo."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "depthsearch"


def run(*argv: object, **options: object) -> str:
    """Run a command; its output is the message where it fails."""
    ended = subprocess.run(
        [str(word) for word in argv], capture_output=True, text=True, check=False, **options
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    """Guards against a template, a table or py.typed that a user's installation would lack."""
    ours = {
        path.relative_to(SOURCE.parent).as_posix()
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name for name in names if ".dist-info/" not in name} == ours


@pytest.mark.slow
def test_the_sdist_holds_what_its_tests_need(built: Path) -> None:
    """Guards against an sdist that cannot be tested by who packages it."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"tests/conftest.py", "tools/write_reference.py", "docs/reference/options.md", "LICENSE"} <= names


@pytest.mark.slow
def test_an_index_would_take_both(built: Path) -> None:
    """Guards against a description or metadata that an index refuses at the upload."""
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel: Path, tmp_path: Path) -> None:
    """Guards the first command of the README, where nothing of the source tree is at hand.

    The libraries are those of this environment, which takes minutes to install; depthsearch is the wheel's.
    """
    venv.create(tmp_path / "fresh", with_pip=False, symlinks=os.name != "nt")
    scripts = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    fresh = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # A folder that is added like this has its own .pth files ignored, such as that of an editable install.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (fresh / "libraries.pth").write_text("\n".join(others), encoding="utf-8")
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    where = {"cwd": tmp_path, "env": {**kept, "XDG_CACHE_HOME": str(tmp_path / "cache")}}
    place = run(python, "-c", "import depthsearch; print(depthsearch.__file__)", **where)
    assert Path(place.strip()).is_relative_to(fresh)
    command = scripts / "depthsearch"
    first = "study --backbone densenet121 --subset 0.1 --trials 3 --epochs 1 --confirm 0"
    assert "Best cut" in run(command, *first.split(), **where)
    run(command, "report", "--out", "page", **where)
    assert (tmp_path / "page" / "report.html").stat().st_size > 100_000
