"""The options of the commands besides ``study``; what they share with it or each other is declared once."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from depthsearch.options.declaring import Declared, Option, Rule, choice, declared, flag_of
from depthsearch.options.study import (
    BACKBONES_HELP,
    CHANNELS_OPTION,
    DEFAULT_STORAGE,
    DEVICE_OPTION,
    HEAD_OPTION,
    IMAGE_SIZE_OPTION,
    KEEP_DISK_OPTION,
    KEEP_MEMORY_OPTION,
    KINDS_OPTION,
    LAYERS_OPTION,
    PRECISION_OPTION,
    SEED_OPTION,
    STORAGE_OPTION,
    StudyOptions,
)
from depthsearch.options.values import (
    WIDEST,
    at_least,
    read_above_0,
    read_name,
    read_part,
    read_path,
    read_place,
    read_seconds,
)
from depthsearch.options.words import AUTO, DeviceWord, HeadWord, Precision

__all__ = [
    "COMMANDS",
    "CacheOptions",
    "CutsOptions",
    "DashboardOptions",
    "EnqueueOptions",
    "ExplainOptions",
    "FitOptions",
    "PredictOptions",
    "ReportOptions",
    "StatusOptions",
    "StopOptions",
    "StoredOptions",
]

CACHED = ("features", "images", "all")
AFTER = ("epoch", "trial")
SPLITS = ("val", "test")

STUDY_OPTION = Option(
    read=read_name,
    metavar="STUDY",
    positional="?",
    help="its name (default: the only one stored)",
)
ARTIFACTS_OPTION = Option(
    read=read_place,
    metavar="DIR",
    help="folder of the studies' pictures and reports (default: DATABASE-artifacts beside an SQLite file)",
)
OWN_NETWORK_OPTION = Option(
    read=read_name,
    metavar="NAME",
    help="FILE.py:FUNCTION of a model whose network is your own: it is run",
)
SKIP_UNREADABLE_OPTION = Option(help="leave out images that cannot be read")
JSON_OPTION = Option(help="print one JSON object")
JSON_LAST_OPTION = Option(help="print one JSON object, in the last line of stdout")
RESULT_OPTION = Option(help="print the result as JSON, in the last line of stdout")
AS_IN_STUDY = "default: as in the study"


@dataclass(frozen=True, slots=True, kw_only=True)
class CutsOptions(Declared):
    """The options of ``depthsearch cuts``."""

    backbone: str = declared(
        Option(read=read_name, metavar="BACKBONE", positional="1", help=BACKBONES_HELP), MISSING
    )
    kinds: tuple[str, ...] = declared(KINDS_OPTION, (AUTO,))
    layers: tuple[str, ...] | None = declared(LAYERS_OPTION, None)
    head: HeadWord = declared(HEAD_OPTION, "pool", help="where the head is to come, see study (pool)")
    image_size: int | None = declared(
        IMAGE_SIZE_OPTION, None, help="for MACs and bytes (default: the model's own)"
    )
    channels: int = declared(CHANNELS_OPTION, 3)
    json: bool = declared(JSON_OPTION, False, help="print a JSON list")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOptions(Declared):
    """The options of a command that works on a stored study."""

    study: str | None = declared(STUDY_OPTION, None)
    name: str | None = declared(Option(read=read_name, help="the same"), None)
    storage: str = declared(STORAGE_OPTION, DEFAULT_STORAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions(StoredOptions):
    """The options of ``depthsearch status``."""

    study: str | None = declared(STUDY_OPTION, None, help="its name (default: all that are stored)")
    json: bool = declared(JSON_OPTION, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOptions(StoredOptions):
    """The options of ``depthsearch stop``."""

    after: Literal["epoch", "trial"] = declared(
        choice(
            AFTER,
            "what to let end first: the running epoch, as Ctrl-C with nothing lost, or the trial (epoch)",
        ),
        "epoch",
    )
    wait: float | None = declared(
        Option(
            read=read_seconds,
            metavar="SECONDS",
            help="for how long to wait until it has stopped; status 2 if it has not (default: not at all)",
        ),
        None,
    )
    json: bool = declared(JSON_LAST_OPTION, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueOptions(StoredOptions):
    """The options of ``depthsearch enqueue``."""

    layer: str = declared(
        Option(
            read=read_name,
            metavar="LAYER",
            help="first trainable layer, one of the study's candidates: number, Keras name or module path",
        ),
        MISSING,
    )
    learning_rate: float | None = declared(
        Option(read=read_above_0, metavar="X", help="default: the sensible one at that depth"), None
    )
    head_width: int | None = declared(
        Option(
            read=at_least(0, WIDEST),
            metavar="N",
            help="of the head's hidden layer; 0: none (default: none, where that is searched)",
        ),
        None,
    )
    backbone: str | None = declared(
        Option(read=read_name, metavar="NAME", help="of several, if the layer is in more than one"), None
    )
    to_the_end: bool = declared(Option(help="never prune it; else it is judged as others are"), False)
    json: bool = declared(JSON_LAST_OPTION, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions(StoredOptions):
    """The options of ``depthsearch report``."""

    out: str | None = declared(
        Option(
            read=read_place,
            metavar="DIR",
            help="write report.md and report.html there, a page with charts",
        ),
        None,
    )
    images: bool = declared(
        Option(help="draw the charts of report.md, too: wants depthsearch[images] and Chrome"), False
    )
    artifacts: str | None = declared(ARTIFACTS_OPTION, None)
    json: bool = declared(JSON_OPTION, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions(StoredOptions):
    """The options of ``depthsearch fit``."""

    out: Path | None = declared(
        Option(
            read=read_path,
            metavar="FOLDER",
            help="folder for the model (default: NAME-model); an earlier model there is replaced",
        ),
        None,
    )
    seed: int | None = declared(
        SEED_OPTION, None, help="of head, batch order and dropout (default: the trial's own)"
    )
    subset: float | None = declared(
        Option(read=read_part, metavar="P", help=f"of the images, 1: all ({AS_IN_STUDY})"), None
    )
    device: DeviceWord | None = declared(DEVICE_OPTION, None, help=AS_IN_STUDY)
    precision: Precision | None = declared(PRECISION_OPTION, None, help=AS_IN_STUDY)
    keep_memory: int | None = declared(KEEP_MEMORY_OPTION, None)
    keep_disk: int | None = declared(KEEP_DISK_OPTION, None)
    onnx: bool = declared(Option(help="write model.onnx too, checked in onnxruntime"), False)
    artifacts: str | None = declared(ARTIFACTS_OPTION, None)
    json: bool = declared(RESULT_OPTION, False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions(Declared):
    """The options of ``depthsearch predict``."""

    folder: Path = declared(
        Option(read=read_path, metavar="FOLDER", positional="1", help="a model that depthsearch fit wrote"),
        MISSING,
    )
    images: tuple[Path, ...] = declared(
        Option(
            read=read_path,
            metavar="IMAGE",
            positional="+",
            help="files, or folders of them; a table (.csv, .parquet) for a model of samples",
        ),
        MISSING,
    )
    skip_unreadable: bool = declared(SKIP_UNREADABLE_OPTION, False)
    batch_size: int = declared(
        Option(read=at_least(1), metavar="N", help="images, or samples, at once (64)"), 64
    )
    device: DeviceWord = declared(DEVICE_OPTION, "auto")
    precision: Precision | None = declared(
        PRECISION_OPTION, None, help="default: what the model was trained in"
    )
    backbone: str | None = declared(OWN_NETWORK_OPTION, None)
    json: bool = declared(JSON_OPTION, False, help="print a JSON object a line, one for each image or sample")


def _without_images(name: str) -> Rule:
    return Rule(
        is_broken=lambda options: bool(options.images),
        message=f"{flag_of(name)} picks images of the study, and files are given: leave one of the two out.",
    )


def _with_images(name: str) -> Rule:
    return Rule(
        is_broken=lambda options: not options.images,
        message=f"{flag_of(name)} is of images given as files: give some, or leave it out.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(Declared):
    """The options of ``depthsearch explain``."""

    model: str = declared(
        Option(
            read=read_place,
            metavar="MODEL_OR_STUDY",
            positional="1",
            help="a model's folder, or the name of a study that has a fitted model",
        ),
        MISSING,
    )
    images: tuple[str, ...] = declared(
        Option(
            read=read_place,
            metavar="IMAGE",
            positional="*",
            help="files; default: some of the study's, right and wrong ones",
        ),
        (),
    )
    layers: tuple[str, ...] | None = declared(
        LAYERS_OPTION,
        None,
        help="numbers, Keras names or module paths (default: the ends of the last five stages, and the cut)",
    )
    label: str | None = declared(
        Option(
            read=read_name,
            metavar="CLASS",
            help="true class of the images (default: a folder around them with its name)",
            rules=(_with_images("label"),),
        ),
        None,
    )
    skip_unreadable: bool = declared(SKIP_UNREADABLE_OPTION, False, rules=(_with_images("skip_unreadable"),))
    n: int | None = declared(
        Option(
            read=at_least(1),
            metavar="N",
            help="images of the study, half of them wrong (4)",
            rules=(_without_images("n"),),
        ),
        None,
    )
    split: Literal["val", "test"] | None = declared(
        choice(
            SPLITS,
            "images of the study to take them from (val)",
            rules=(_without_images("split"),),
        ),
        None,
    )
    out: str | None = declared(
        Option(read=read_place, metavar="DIR", help="where to write the pictures (default: NAME-explain)"),
        None,
    )
    weights: str | None = declared(
        Option(
            read=read_place,
            metavar="FILE|none",
            help="pretrained weights, before fine-tuning (default: as it started)",
        ),
        None,
    )
    backbone: str | None = declared(OWN_NETWORK_OPTION, None)
    device: DeviceWord = declared(DEVICE_OPTION, "auto")
    storage: str = declared(STORAGE_OPTION, DEFAULT_STORAGE)
    artifacts: str | None = declared(ARTIFACTS_OPTION, None)
    json: bool = declared(JSON_OPTION, False, help="print the index as one JSON object")


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardOptions(Declared):
    """The options of ``depthsearch dashboard``."""

    storage: str = declared(STORAGE_OPTION, DEFAULT_STORAGE)
    artifacts: str | None = declared(ARTIFACTS_OPTION, None)
    host: str = declared(
        Option(
            read=read_name,
            help="address to listen on; other than this machine's own it takes a password (default: "
            "127.0.0.1)",
        ),
        "127.0.0.1",
    )
    port: int = declared(Option(read=at_least(0), help="0 takes a free one (default: 8080)"), 8080)
    password: str | Literal[True] | None = declared(
        Option(
            read=str,
            metavar="SECRET",
            bare=True,
            help="ask browsers for it; without a value it is asked for here (default: "
            "$DEPTHSEARCH_DASHBOARD_PASSWORD)",
        ),
        None,
    )
    writable: bool = declared(Option(help="let notes be written, and studies be changed and deleted"), False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions(Declared):
    """The options of ``depthsearch cache``."""

    clear: Literal["features", "images", "all"] | None = declared(
        choice(CACHED, "remove it; a running study computes it again"), None
    )
    json: bool = declared(JSON_OPTION, False)


# What each command takes, and what it does.
COMMANDS: dict[str, tuple[type[Declared], str]] = {
    "study": (StudyOptions, "search for the best cut"),
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
