"""No test reaches a network or the user's own caches; most share one tiny backbone and a few digits."""

import gc
import os
import signal
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis.configuration import set_hypothesis_home_dir

pytest_plugins = ["small_backbones"]

# That the garbage collector goes through: ten milliseconds.
MANY_OBJECTS = 20_000


def pytest_configure(config: pytest.Config) -> None:
    """Point every cache to a temporary folder, before anything that reads these variables is imported."""
    # A shell starts what runs in the background deaf to Ctrl-C, which some tests press.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.TemporaryDirectory(prefix="depthsearch-tests-", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["XDG_CACHE_HOME"] = folder.name
    # Tests run side by side, and each is small.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Where one asks for two threads, they leave the core to the other tests while they wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HOME"] = str(Path(folder.name) / "hub")
    os.environ["HF_HUB_OFFLINE"] = "1"
    set_hypothesis_home_dir(Path(folder.name) / "hypothesis")


def pytest_collection() -> None:
    """Collect no garbage while PyTorch and the tests are imported: half of the time that it takes."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, but not among what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _quick_garbage_collection():
    """Leave what was imported out of the full collections that follow every trial: most of their time."""
    if len(gc.get_objects(generation=2)) > MANY_OBJECTS:
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _migrations_read_once():
    """Keep the migrations that Optuna reads again for each database: four fifths of the time to open one."""
    from alembic.script import ScriptDirectory

    read = ScriptDirectory.from_config
    kept = {}

    def from_config(config):
        place = config.get_main_option("script_location")
        if place not in kept:
            kept[place] = read(config)
        return kept[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield


@pytest.fixture(scope="session")
def open_quick_storage():
    """Open databases that do not wait for the disk: no test cuts the power. Closed at the end."""
    import sqlalchemy

    from depthsearch.study import open_storage

    storages = []

    def open_(url):
        storage = open_storage(url)
        sqlalchemy.event.listen(storage.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=OFF"))
        storage.engine.dispose()
        storages.append(storage)
        return storage

    yield open_
    for storage in storages:
        storage.engine.dispose()


@pytest.fixture(scope="session")
def _postgres_server():
    from benchmarks.shared import postgres_server

    if reason := postgres_server.why_missing():
        pytest.skip(reason)
    with postgres_server.postgres_server() as server:
        yield server


@pytest.fixture
def postgres(_postgres_server):
    """A PostgreSQL server that runs; a test may stop and kill it."""
    if not _postgres_server.is_running:
        _postgres_server.start()
    return _postgres_server


@pytest.fixture
def postgres_url(postgres) -> str:
    """URL of an empty database on that server."""
    return postgres.create(f"test_{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def digits():
    """Scikit-learn's digits at 16 pixels, all 1,797 of them."""
    from depthsearch.data import load_data

    return load_data("digits", image_size=16)


@pytest.fixture(scope="session")
def few_digits(digits) -> Callable[..., object]:
    """Make a data set of a few of the digits, spread over the classes."""

    def spread(images, n):
        places = [round(i * (len(images) - 1) / (n - 1)) for i in range(n)]
        return replace(images, rows=images.rows[places], labels=images.labels[places])

    def make(n_train=64, n_val=40):
        return replace(digits, train=spread(digits.train, n_train), val=spread(digits.val, n_val))

    return make


@pytest.fixture(scope="session")
def pictures(digits, tmp_path_factory) -> Path:
    """Noughts and ones as files, fourteen each."""
    from PIL import Image

    root = tmp_path_factory.mktemp("pictures")
    for label, name in ((0, "nought"), (1, "one")):
        (root / name).mkdir()
        rows = digits.train.rows[digits.train.labels == label][:14]
        for place, pixels in enumerate(digits.train.images[rows]):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(root / name / f"{place:02d}.png")
    return root


@pytest.fixture(scope="session")
def backbone():
    """A residual network of 470,000 random parameters."""
    from depthsearch.models.backbones import load_backbone

    return load_backbone("test_resnet", "random", image_size=16)


@pytest.fixture(scope="session")
def space(backbone):
    """Every cut of the backbone, learning rates, two head widths."""
    from depthsearch.search.space import SearchSpace

    return SearchSpace.for_model(backbone.model, image_size=16, head_width=(16, 16))


@pytest.fixture(scope="session")
def task(backbone, few_digits):
    """Two epochs on 64 digits, float32 on the CPU."""
    from depthsearch.devices import choose_device
    from depthsearch.training.recipe import Recipe
    from depthsearch.training.task import Task

    return Task(
        backbone=backbone,
        data=few_digits(),
        recipe=Recipe(epochs=2, batch_size=32),
        device=choose_device("cpu", "float32"),
    )


@pytest.fixture(scope="session")
def longer(task):
    """Three epochs, so that a trial can be stopped in its middle."""
    return replace(task, recipe=replace(task.recipe, epochs=3))
