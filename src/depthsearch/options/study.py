"""The options of a study, each declared once; `StudyOptions` is what ``depthsearch study`` is run with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from depthsearch.errors import SettingsError
from depthsearch.options.augmentation import USUAL, WORDS
from depthsearch.options.declaring import Declared, Option, Rule, choice, declared, flag_of
from depthsearch.options.file import read_study_file
from depthsearch.options.values import (
    at_least,
    list_such_as,
    read_above_0,
    read_augmentation,
    read_backbones,
    read_channels,
    read_columns,
    read_confirmed,
    read_decay,
    read_deviations,
    read_means,
    read_name,
    read_part,
    read_path,
    read_place,
    read_range,
    read_rates,
    read_seed,
    read_share,
    read_size,
    read_width,
    some_of,
)
from depthsearch.options.words import (
    AIMS,
    AUTO,
    BALANCES,
    COSTS,
    DEVICES,
    EXECUTORS,
    HEADS,
    INTERPOLATIONS,
    KINDS,
    METRICS,
    OPTIMIZERS,
    OPTIONAL_RANGES,
    PRECISIONS,
    PRUNERS,
    SAMPLERS,
    SCHEDULES,
    SEARCHES,
    Aim,
    Balance,
    CostWord,
    DeviceWord,
    ExecutorWord,
    HeadWord,
    Interpolation,
    Metric,
    OptimizerWord,
    Precision,
    PrunerWord,
    SamplerWord,
    Schedule,
    SearchWord,
)
from depthsearch.text import printable

__all__ = ["StudyOptions", "is_demo", "with_defaults"]

DEFAULT_STORAGE = "sqlite:///depthsearch.db"
# Defaults for a user's own images, and for the demo, which has to end within minutes on two cores.
TRIALS, DEMO_TRIALS = 30, 14
# For each of several backbones.
TRIALS_EACH, DEMO_TRIALS_EACH = 20, 10
EPOCHS, DEMO_EPOCHS = 10, 3
CONFIRMED, DEMO_CONFIRMED = 3, 2
SEEDS, DEMO_SEEDS = 3, 2
LEARNING_RATES = (1e-5, 1e-2)
# Larger images need tens of gigabytes for a single one.
MOST_PIXELS = 4096
NO_BACKBONE = (
    "the following arguments are required: --backbone, here or in a study file (see depthsearch study --help)"
)
AS_TRAINED = "default: what the weights were trained on"

BACKBONES_HELP = (
    "a timm model, such as densenet121; torchvision:NAME, with @WEIGHTS if wanted; hf:NAME or hf:FOLDER "
    "(extra: transformers); FILE.py:FUNCTION, which returns a model"
)
# Options that other commands have too.
KINDS_OPTION = Option(
    read=some_of((*KINDS, AUTO)),
    metavar="LIST",
    help=f"candidates: auto (what suits the network), or some of {','.join(KINDS)} ({AUTO})",
)
LAYERS_OPTION = Option(
    read=list_such_as("52,144,features.norm5"),
    metavar="LIST",
    help="pick candidates: layer numbers, Keras names, module paths, patterns as conv_pw_*; both ends stay; "
    "vgg16:block5_conv1 is of vgg16 alone",
)
HEAD_OPTION = choice(
    HEADS,
    "behind what timm has before its classifier, or behind the last feature map, flattened (pool)",
)
IMAGE_SIZE_OPTION = Option(read=at_least(8, MOST_PIXELS), metavar="PX", help=AS_TRAINED)
CHANNELS_OPTION = Option(read=read_channels, metavar="N", help="3: colours; 1: grey images (3)")
DEVICE_OPTION = choice(DEVICES, "what to compute on (auto: a GPU, if there is one)")
PRECISION_OPTION = choice(PRECISIONS, "auto: bf16 in hardware")
KEEP_HELP = "of what frozen layers compute; 0: nothing; default:"
KEEP_MEMORY_OPTION = Option(
    read=read_size, metavar="SIZE", help=f"{KEEP_HELP} a quarter of the memory free", is_kept=False
)
KEEP_DISK_OPTION = Option(
    read=read_size,
    metavar="SIZE",
    help=f"{KEEP_HELP} 8GiB, at most a fifth of the disk free",
    is_kept=False,
)
SEED_OPTION = Option(read=read_seed, metavar="N", help="of everything random (0)")
STORAGE_OPTION = Option(
    read=read_place, metavar="URL", help=f"database (default: {DEFAULT_STORAGE})", is_kept=False
)


def _in(group: str) -> Callable[..., Any]:
    """Make what declares the options under a heading of the help."""

    def declare(
        default: Any, read: Any = None, metavar: str | None = None, help: str = "", **more: Any
    ) -> Any:
        if isinstance(read, Option):
            return declared(read, default, group=group, **more)
        is_flag = read is None
        option = Option(read=read, metavar=metavar, help=help, is_negatable=is_flag)
        return declared(option, default, group=group, **more)

    return declare


_train, _search, _run = _in("what to train"), _in("what to search"), _in("how to run")


def _fixed(name: str) -> Rule:
    return Rule(
        is_broken=lambda options: name in options.also,
        message=f"{flag_of(name)} fixes what --also {name} searches: give one of the two.",
    )


def _searched(name: str) -> Rule:
    return Rule(
        is_broken=lambda options: (
            options.search == "exhaustive" and options.trials is None and getattr(options, name) != "none"
        ),
        message=f"--search exhaustive trains each candidate, its head linear: {flag_of(name)} would do "
        "nothing. Leave it out, or let the search go on with more --trials than candidates.",
    )


def _confirmed(name: str) -> Rule:
    return Rule(
        is_broken=lambda options: options.confirm == 0,
        message=f"{flag_of(name)} is of the confirmation, and --confirm 0 leaves that out: give one of the "
        "two.",
    )


MOMENTUM_OF_SGD = Rule(
    is_broken=lambda options: options.optimizer != "sgd" and "optimizer" not in options.also,
    message="--momentum is of sgd: say --optimizer sgd too.",
)
WITH_VIEWS = Rule(
    is_broken=lambda options: options.views == 1,
    message="--augment is what views do, and --views 1 has the plain images only: say --views 8 too.",
)
WITH_HIDDEN = Rule(
    is_broken=lambda options: options.head_width == 0,
    message="--head-depth counts hidden layers, and --head-width 0 allows none: leave one out.",
)
RANGE_OR_LIST = Rule(
    is_broken=lambda options: options.learning_rate is not None,
    message="--learning-rate and --learning-rates: give a range to search, or a list to try.",
)
RATES_TRIED = Rule(
    is_broken=lambda options: options.search != "exhaustive",
    message="--learning-rates are tried by --search exhaustive. Say that too, or give a range to search with "
    "--learning-rate LOW:HIGH.",
)
SECOND_AIM = Rule(
    is_broken=lambda options: options.aim == "accuracy",
    message="--cost {value} is a second aim: add --aim accuracy+cost, or leave --cost out.",
)
OF_RAY = Rule(
    is_broken=lambda options: options.executor != "ray",
    message="--ray-address is of --executor ray: say that too, or leave it out.",
)
NOT_ON_RAY = Rule(
    is_broken=lambda options: options.device == "mps" and options.executor == "ray",
    message="--device mps is of this machine, and --executor ray computes on cpu and cuda: leave one out.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions(Declared):
    """The options of a study: what ``depthsearch study --help`` and docs/reference/options.md explain.

    A value is checked when it is given. It may be what a study file or the command line has in its place:
    a backbone alone instead of several, ``"512MiB"`` for a number of bytes, one learning rate for a range,
    a path for a text. What is None has a default that depends on others, see `with_defaults`.

    Raises:
        SettingsError: If a value is wrong, or would be ignored beside another.
    """

    file: Path | None = declared(
        Option(
            read=read_path,
            metavar="FILE",
            help="TOML file with any of the options below, by their long names; the command line wins over "
            "it",
            positional="?",
            is_kept=False,
        ),
        None,
    )
    backbone: Sequence[str] = _train(
        MISSING, read_backbones, "NAME,...", f"{BACKBONES_HELP}; or several: a,b"
    )
    data: str | Path | None = _train(
        None,
        read_place,
        "DIR",
        "labelled images, DIR/<class>/..., DIR/{train,val,test}/<class>/... or with metadata.csv; a table "
        "(.csv, .parquet: image, label and, if you like, split); torchvision:NAME; default: scikit-learn's "
        "digits, as a demo",
        path_words=("digits",),
    )
    image_columns: tuple[str, ...] = _train(
        ("image",),
        read_columns,
        "LIST",
        "columns of a table that name an image each: several make samples of as many (image)",
    )
    number_columns: tuple[str, ...] = _train(
        (),
        read_columns,
        "LIST",
        "columns of a table with a number of each sample, which the head takes beside the images (none)",
    )
    classes_map: str | Path | None = _train(
        None,
        read_place,
        "FILE",
        'JSON with new names of the classes, {"oak": "tree", "elm": "tree", ...}: to merge some',
        path_words=(),
    )
    weights: str = _train(
        "auto",
        read_place,
        "auto|FILE|random",
        "pretrained (default: auto, its library's); FILE:NAME is one of several state dicts in a file; of "
        "several backbones NAME=FILE,...",
        path_words=("auto", "random"),
    )
    image_size: int | None = _train(None, IMAGE_SIZE_OPTION)
    mean: tuple[float, ...] | None = _train(
        None, read_means, "X[,X,X]", f"of pixels in [0, 1], subtracted; {AS_TRAINED}"
    )
    std: tuple[float, ...] | None = _train(
        None, read_deviations, "X[,X,X]", f"of them, divided by; {AS_TRAINED}"
    )
    interpolation: Interpolation | None = _train(
        None, choice(INTERPOLATIONS, f"how images are resized; {AS_TRAINED}")
    )
    crop_share: float | None = _train(
        None, read_part, "P", f"of the resized shorter side that is kept, in (0, 1]; {AS_TRAINED}"
    )
    channels: int = _train(3, CHANNELS_OPTION)
    val_share: float = _train(0.2, read_share, "P", "of train, if there is no val (0.2)")
    test_share: float = _train(0.2, read_share, "P", "of train, if there is no test (0.2)")
    subset: float = _train(1.0, read_part, "P", "of each class in each split, in (0, 1] (1)")
    skip_unreadable: bool = _train(False, help="leave out images that cannot be read")
    epochs: int | None = _train(
        None, at_least(1), "N", f"of a trial that is not pruned (default: {EPOCHS}, demo {DEMO_EPOCHS})"
    )
    batch_size: int = _train(64, at_least(2), "N", "images, or samples, a step (64)")
    metric: Metric = _train("accuracy", choice(METRICS, "score on validation (accuracy)"))
    schedule: Schedule = _train("cosine", choice(SCHEDULES, "of the learning rate (cosine)"))
    optimizer: OptimizerWord | None = _train(
        None, choice(OPTIMIZERS, "(adamw)"), rules=(_fixed("optimizer"),)
    )
    momentum: float | None = _train(
        None, read_share, "P", "of sgd, Nesterov's, in [0, 1) (0.9)", rules=(MOMENTUM_OF_SGD,)
    )
    weight_decay: float | None = _train(
        None,
        read_decay,
        "X",
        "decoupled, on matrices and kernels (0.01)",
        rules=(_fixed("weight_decay"),),
    )
    dropout: float | None = _train(
        None, read_share, "P", "in the head, in [0, 1) (0)", rules=(_fixed("dropout"),)
    )
    head: HeadWord = _train("pool", HEAD_OPTION)
    head_depth: int | None = _train(
        None,
        at_least(1),
        "N",
        "hidden layers of a head that has some (1)",
        rules=(_fixed("head_depth"), WITH_HIDDEN, _searched("head_depth")),
    )
    views: int = _train(
        1,
        at_least(1),
        "V",
        "fixed augmentations of each training image, the plain one included (1: no augmentation)",
    )
    balance: Balance = _train(
        "none",
        choice(
            BALANCES, "uneven classes: weigh the training loss, or draw images of all classes as often (none)"
        ),
    )
    augment: str | None = _train(
        None,
        read_augmentation,
        "LIST",
        f"what views may do and how far: some of {', '.join(WORDS)} ({USUAL})",
        rules=(WITH_VIEWS,),
    )
    label_smoothing: float = _train(0.0, read_share, "P", "in [0, 1) (0)")

    kinds: tuple[str, ...] = _search((AUTO,), KINDS_OPTION)
    layers: tuple[str, ...] | None = _search(None, LAYERS_OPTION)
    search: SearchWord = _search(
        "adaptive",
        choice(
            SEARCHES,
            "adaptive: a sampler proposes, weak trials are pruned; exhaustive: each candidate once "
            "(adaptive)",
        ),
    )
    learning_rate: tuple[float, float] | None = _search(
        None, read_range, "LOW:HIGH", "range, or the one to use (1e-5:1e-2)", separator=":"
    )
    learning_rates: tuple[float, ...] | None = _search(
        None,
        read_rates,
        "LIST",
        "exhaustive: each candidate once at each of these",
        rules=(RANGE_OR_LIST, RATES_TRIED),
    )
    head_width: tuple[int, int] | int = _search(
        (1024, 256),
        read_width,
        "MAX:STEP",
        "of the head's hidden layer: from 0 (none) up to MAX, or the one to use; 0: none (1024:256)",
        separator=":",
    )
    also: tuple[str, ...] = _search(
        (),
        some_of(tuple(OPTIONAL_RANGES)),
        "LIST",
        f"further dimensions: {','.join(OPTIONAL_RANGES)}",
        rules=(_searched("also"),),
    )
    sampler: SamplerWord = _search(
        "auto", choice(SAMPLERS, "auto: tpe under 20 trials, else gp"), rules=(_searched("sampler"),)
    )
    pruner: PrunerWord = _search(
        "auto",
        choice(PRUNERS, "auto: halving under 20 trials, else median"),
        rules=(_searched("pruner"),),
    )
    aim: Aim = _search(
        "accuracy",
        choice(AIMS, "accuracy: the best --metric; accuracy+cost: the front of that and --cost (accuracy)"),
    )
    cost: CostWord | None = _search(
        None,
        choice(COSTS, "with --aim accuracy+cost: training MACs or trainable parameters (macs)"),
        rules=(SECOND_AIM,),
    )

    trials: int | None = _run(
        None,
        at_least(1),
        "N",
        f"the study is to have in total (default: {TRIALS}, demo {DEMO_TRIALS}; {TRIALS_EACH} for each of "
        "several backbones; exhaustive: all candidates)",
    )
    workers: int | None = _run(
        None,
        at_least(1, 1024),
        "N",
        "trials trained at once, in processes of their own (one a GPU; 1 where there is none)",
        is_kept=False,
    )
    executor: ExecutorWord = _run(
        "local",
        choice(
            EXECUTORS, "local: this machine; ray: actors on a Ray cluster, as many as it has room for (local)"
        ),
        is_kept=False,
    )
    ray_address: str | None = _run(
        None,
        read_name,
        "ADDRESS",
        "HOST:PORT of its head; local: start Ray here (RAY_ADDRESS, else one running here, else local)",
        is_kept=False,
        rules=(OF_RAY,),
    )
    hung_after: float | None = _run(
        None,
        read_above_0,
        "SECONDS",
        "a worker that has used no processor for so long is ended, its trial goes on elsewhere (300)",
        is_kept=False,
    )
    device: DeviceWord = _run("auto", DEVICE_OPTION, rules=(NOT_ON_RAY,))
    precision: Precision = _run("auto", PRECISION_OPTION)
    compile: bool = _run(False, help="torch.compile what is trained: slow to start, then faster")
    keep_memory: int | None = _run(None, KEEP_MEMORY_OPTION)
    keep_disk: int | None = _run(None, KEEP_DISK_OPTION)
    seed: int = _run(0, SEED_OPTION)
    confirm: int | str | None = _run(
        None,
        read_confirmed,
        "N",
        "promising cuts to train again at the end, both ends with them; 0: none; all: all trained "
        f"({CONFIRMED}, demo {DEMO_CONFIRMED})",
    )
    seeds: int | None = _run(
        None,
        at_least(2),
        "N",
        f"trainings of each cut that is confirmed ({SEEDS}, demo {DEMO_SEEDS})",
        rules=(_confirmed("seeds"),),
    )
    resample: bool = _run(
        False,
        help="let each of these seeds divide training and validation images anew as well",
        rules=(_confirmed("resample"),),
    )
    mark: tuple[str, ...] | None = _run(
        None,
        list_such_as("8,47,84"),
        "LIST",
        "candidates that the report is to point out and to compare: a guess of one's own, 8,47,conv_pw_13",
    )
    storage: str = _run(DEFAULT_STORAGE, STORAGE_OPTION)
    log_file: Path | None = _run(
        None,
        read_path,
        "FILE",
        "append a line of JSON for each event: trial, epoch, score, seconds, bytes, ...",
        is_kept=False,
        path_words=(),
    )
    tensorboard: Path | None = _run(
        None,
        read_path,
        "DIR",
        "write each trial as a run of TensorBoard (extra: tensorboard)",
        is_kept=False,
        path_words=(),
    )
    mlflow: str | None = _run(
        None,
        read_place,
        "URI",
        "write the study and its trials as runs of MLflow, http://... or sqlite:///FILE (extra: mlflow)",
        is_kept=False,
    )
    name: str | None = _run(
        None,
        read_name,
        help="of the study; the same name goes on (default: the FILE's, or BACKBONE-DATA)",
        is_kept=False,
    )
    json: bool = _run(False, help="print the result as JSON, in the last line of stdout", is_kept=False)

    @classmethod
    def from_file(cls, path: str | Path, **given: Any) -> Self:
        """Read a study file; what is given besides wins over it, and its stem is the default name.

        Raises:
            SettingsError: If the file cannot be read, or has a key that is no option or a wrong value.
        """
        values = {"name": printable(Path(path).stem), **read_study_file(Path(path), cls)}
        if given.get("confirm") == 0:
            # What the file says of a confirmation is for one.
            values = {name: value for name, value in values.items() if name not in ("seeds", "resample")}
        values = {**values, **given}
        if not values.get("backbone"):
            raise SettingsError(NO_BACKBONE)
        return cls(**values, file=Path(path))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Make them of what `as_json` has written.

        Raises:
            SettingsError: If there is something else in it.
        """
        unknown = stored.keys() - {each.name for each in fields(cls)}
        if unknown or "backbone" not in stored:
            raise SettingsError(f"Options of a study: {', '.join(sorted(unknown)) or 'no backbone'}.")
        return cls(**stored)

    def as_json(self) -> dict[str, Any]:
        """Write all that a study stores of its options, by their names in Python."""
        kept = [f.name for f in fields(self) if f.metadata["option"].is_kept]
        values = {name: getattr(self, name) for name in kept}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def is_demo(options: StudyOptions) -> bool:
    """Return whether a study is of scikit-learn's digits."""
    return options.data in (None, "digits")


def with_defaults(options: StudyOptions) -> StudyOptions:
    """Fill in what is not given and depends on other options.

    The number of trials of an exhaustive search stays open: it is that of its candidates.
    """
    demo = is_demo(options)
    changes: dict[str, Any] = {}
    if options.learning_rate is None and not options.learning_rates:
        changes["learning_rate"] = LEARNING_RATES
    if options.trials is None and options.search != "exhaustive":
        alone, each = (DEMO_TRIALS, DEMO_TRIALS_EACH) if demo else (TRIALS, TRIALS_EACH)
        n_backbones = len(options.backbone)
        changes["trials"] = alone if n_backbones == 1 else each * n_backbones
    if options.epochs is None:
        changes["epochs"] = DEMO_EPOCHS if demo else EPOCHS
    if options.confirm is None:
        changes["confirm"] = DEMO_CONFIRMED if demo else CONFIRMED
    if options.seeds is None and options.confirm != 0:
        changes["seeds"] = DEMO_SEEDS if demo else SEEDS
    return replace(options, **changes)
