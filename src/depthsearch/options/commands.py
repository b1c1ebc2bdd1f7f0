"""The options of the commands other than ``study``; what commands share is declared once."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from depthsearch.options import values, words
from depthsearch.options.declaring import Declared, Rule, declared, flag_of
from depthsearch.options.study import (
    BACKBONE_HELP,
    CHANNELS,
    CUT_KINDS,
    DEFAULT_STORAGE,
    DEVICE,
    DEVICE_HELP,
    HEAD,
    KEEP_DISK,
    KEEP_MEMORY,
    LAYERS,
    PIXELS,
    PRECISION,
    STORAGE,
    StudyOptions,
)

COUNT = values.whole(1)
STUDY = values.name("STUDY")
ARTIFACTS = (
    values.place("DIR"),
    "folder of the studies' pictures and reports (default: DATABASE-artifacts beside an SQLite file)",
)
OWN_NETWORK = (values.name("NAME"), "FILE.py:FUNCTION of a model whose network is your own: it is run")
UNREADABLE_HELP = "leave out images that cannot be read"
JSON_HELP = "print one JSON object"
JSON_LAST_HELP = "print one JSON object, in the last line of stdout"
AS_IN_STUDY = "default: as in the study"


def _words(default: Any, kind: values.Kind, help: str, n: str = "1") -> Any:
    """Declare an option without dashes."""
    return declared(default, kind, help, positional=n)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions(Declared):
    """The options of ``depthsearch init``."""

    data: str = _words(MISSING, values.place("DATA"), "labelled images, as --data of study")
    out: Path | None = declared(
        None, values.path("FILE"), "the study file to write, a new one (default: DATA's name with .toml)"
    )
    backbone: tuple[str, ...] | None = declared(
        None, values.BACKBONES, f"{BACKBONE_HELP}; or several: a,b (default: one that suits this machine)"
    )
    weights: str = declared(
        "auto",
        values.place("auto|FILE|random"),
        "as --weights of study",
        Rule(
            lambda options: options.backbone is None,
            "--weights {value} needs the --backbone that they are of: give both, or leave --weights out.",
        ),
    )
    image_columns: tuple[str, ...] = declared(
        ("image",), values.COLUMNS, "columns of a table that name an image each"
    )
    number_columns: tuple[str, ...] = declared(
        (), values.COLUMNS, "columns of a table with a number of each sample"
    )
    skip_unreadable: bool = declared(False, None, UNREADABLE_HELP)
    device: words.DeviceWord = declared("auto", DEVICE, DEVICE_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CutsOptions(Declared):
    """The options of ``depthsearch cuts``."""

    backbone: str = _words(MISSING, values.name("BACKBONE"), BACKBONE_HELP)
    kinds: tuple[str, ...] = declared((words.AUTO,), *CUT_KINDS)
    layers: tuple[str, ...] | None = declared(None, *LAYERS)
    head: words.HeadWord = declared("pool", HEAD, "where the head is to come, see study")
    image_size: int | None = declared(None, PIXELS, "for MACs and bytes (default: the model's own)")
    channels: int = declared(3, *CHANNELS)
    json: bool = declared(False, None, "print a JSON list")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOptions(Declared):
    """The options of a command that works on a stored study."""

    study: str | None = _words(None, STUDY, "its name (default: the only one stored)", "?")
    name: str | None = declared(None, values.name(), "name of the study, the same as STUDY")
    storage: str = declared(DEFAULT_STORAGE, *STORAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions(StoredOptions):
    """The options of ``depthsearch status``."""

    study: str | None = _words(None, STUDY, "its name (default: all that are stored)", "?")
    json: bool = declared(False, None, JSON_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOptions(StoredOptions):
    """The options of ``depthsearch stop``."""

    after: Literal["epoch", "trial"] = declared(
        "epoch",
        values.choice(("epoch", "trial")),
        "what to let end first: the running epoch, as Ctrl-C with nothing lost, or the trial",
    )
    wait: float | None = declared(
        None,
        values.WAIT,
        "for how long to wait until it has stopped; status 2 if it has not (default: not at all)",
    )
    json: bool = declared(False, None, JSON_LAST_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueOptions(StoredOptions):
    """The options of ``depthsearch enqueue``."""

    layer: str = declared(
        MISSING,
        values.name("LAYER"),
        "first trainable layer, one of the study's candidates: number, Keras name or module path",
    )
    learning_rate: float | None = declared(None, values.RATE, "default: the sensible one at that depth")
    head_width: int | None = declared(
        None,
        values.whole(0, values.WIDEST),
        "width of the head's hidden layers; 0: a linear head (default: the narrowest that the study has)",
    )
    backbone: str | None = declared(None, values.name("NAME"), "which backbone, if several have the layer")
    to_the_end: bool = declared(False, None, "never pause or prune it; else it is judged as others are")
    json: bool = declared(False, None, JSON_LAST_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions(StoredOptions):
    """The options of ``depthsearch report``."""

    out: str | None = declared(
        None, values.place("DIR"), "write report.md and report.html there, a page with charts"
    )
    images: bool = declared(
        False, None, "draw the charts of report.md, too: wants depthsearch[images] and Chrome"
    )
    artifacts: str | None = declared(None, *ARTIFACTS)
    json: bool = declared(False, None, JSON_HELP)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions(StoredOptions):
    """The options of ``depthsearch fit``."""

    out: Path | None = declared(
        None,
        values.path("FOLDER"),
        "folder for the model (default: NAME-model); an earlier model there is replaced",
    )
    seed: int | None = declared(
        None, values.SEED, "seed of head, batch order and dropout (default: the trial's own)"
    )
    subset: float | None = declared(None, values.PART, f"share of the images to use; 1: all ({AS_IN_STUDY})")
    device: words.DeviceWord | None = declared(None, DEVICE, AS_IN_STUDY)
    precision: words.Precision | None = declared(None, PRECISION, AS_IN_STUDY)
    keep_memory: int | None = declared(None, *KEEP_MEMORY)
    keep_disk: int | None = declared(None, *KEEP_DISK)
    onnx: bool = declared(False, None, "write model.onnx too, checked in onnxruntime")
    artifacts: str | None = declared(None, *ARTIFACTS)
    json: bool = declared(False, None, "print the result as JSON, in the last line of stdout")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions(Declared):
    """The options of ``depthsearch predict``."""

    folder: Path = _words(MISSING, values.path("FOLDER"), "a model that depthsearch fit wrote")
    images: tuple[Path, ...] = _words(
        MISSING,
        values.path("IMAGE"),
        "files, or folders of them; a table (.csv, .parquet) for a model of samples",
        "+",
    )
    skip_unreadable: bool = declared(False, None, UNREADABLE_HELP)
    batch_size: int = declared(64, COUNT, "images, or samples, at once")
    device: words.DeviceWord = declared("auto", DEVICE, DEVICE_HELP)
    precision: words.Precision | None = declared(None, PRECISION, "default: what the model was trained in")
    backbone: str | None = declared(None, *OWN_NETWORK)
    json: bool = declared(False, None, "print a JSON object a line, one for each image or sample")


def _without_images(name: str) -> Rule:
    return Rule(
        lambda options: bool(options.images),
        f"{flag_of(name)} picks images of the study, and files are given: leave one of the two out.",
    )


def _with_images(name: str) -> Rule:
    return Rule(
        lambda options: not options.images,
        f"{flag_of(name)} is of images given as files: give some, or leave it out.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(Declared):
    """The options of ``depthsearch explain``."""

    model: str = _words(
        MISSING,
        values.place("MODEL_OR_STUDY"),
        "a model's folder, or the name of a study that has a fitted model",
    )
    images: tuple[str, ...] = _words(
        (), values.place("IMAGE"), "files; default: some of the study's, right and wrong ones", "*"
    )
    layers: tuple[str, ...] | None = declared(
        None,
        values.LAYERS,
        "numbers, Keras names or module paths (default: the ends of the last five stages, and the cut)",
    )
    label: str | None = declared(
        None,
        values.name("CLASS"),
        "true class of the images (default: a folder around them with its name)",
        _with_images("label"),
    )
    skip_unreadable: bool = declared(False, None, UNREADABLE_HELP, _with_images("skip_unreadable"))
    n: int | None = declared(None, COUNT, "images of the study, half of them wrong (4)", _without_images("n"))
    split: Literal["val", "test"] | None = declared(
        None,
        values.choice(("val", "test")),
        "images of the study to take them from (val)",
        _without_images("split"),
    )
    out: str | None = declared(
        None, values.place("DIR"), "where to write the pictures (default: NAME-explain)"
    )
    weights: str | None = declared(
        None,
        values.place("FILE|none"),
        "weights for the pictures before fine-tuning; none: no such pictures (default: those that training "
        "started from)",
    )
    backbone: str | None = declared(None, *OWN_NETWORK)
    device: words.DeviceWord = declared("auto", DEVICE, DEVICE_HELP)
    storage: str = declared(DEFAULT_STORAGE, *STORAGE)
    artifacts: str | None = declared(None, *ARTIFACTS)
    json: bool = declared(False, None, "print the index as one JSON object")


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardOptions(Declared):
    """The options of ``depthsearch dashboard``."""

    storage: str = declared(DEFAULT_STORAGE, *STORAGE)
    artifacts: str | None = declared(None, *ARTIFACTS)
    host: str = declared(
        "127.0.0.1", values.name(), "address to listen on; any but this machine's own needs --password"
    )
    port: int = declared(8080, values.whole(0, metavar=None), "port to listen on; 0: a free one")
    password: str | Literal[True] | None = declared(
        None,
        values.Kind(read=str, metavar="SECRET"),
        "password that browsers must give; without a value you are asked for it (default: "
        "$DEPTHSEARCH_DASHBOARD_PASSWORD)",
        bare=True,
    )
    writable: bool = declared(False, None, "let notes be written, and studies be changed and deleted")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions(Declared):
    """The options of ``depthsearch cache``."""

    clear: Literal["features", "images", "all"] | None = declared(
        None,
        values.choice(("features", "images", "all")),
        "which files to remove; a running study computes them again",
    )
    json: bool = declared(False, None, JSON_HELP)


# What each command takes, and what it does.
COMMANDS: dict[str, tuple[type[Declared], str]] = {
    "study": (StudyOptions, "search for the best cut"),
    "init": (InitOptions, "look at images and this machine, and write a study file for them"),
    "cuts": (CutsOptions, "list a backbone's candidate cuts"),
    "status": (StatusOptions, "show where stored studies stand"),
    "stop": (StopOptions, "ask whoever runs a study to stop; nothing is lost"),
    "enqueue": (EnqueueOptions, "have a study try a guess of your own next"),
    "report": (ReportOptions, "show a stored study, every trial of it"),
    "fit": (FitOptions, "train the answer on train + validation, test it, write the model"),
    "predict": (PredictOptions, "tell the classes of images"),
    "explain": (ExplainOptions, "draw what layers across depth see, before and after"),
    "dashboard": (DashboardOptions, "watch stored studies in a browser"),
    "cache": (CacheOptions, "show what is kept on disk, or clear it"),
}
