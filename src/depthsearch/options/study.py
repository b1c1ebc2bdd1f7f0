"""The options of a study, each declared once; `StudyOptions` is what ``depthsearch study`` is run with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Self

from depthsearch.errors import SettingsError
from depthsearch.options import values, words
from depthsearch.options.augmentation import USUAL, WORDS
from depthsearch.options.declaring import Declared, Rule, declared, flag_of
from depthsearch.options.defaults import (
    CONFIRMED,
    DEMO_BUDGET,
    DEMO_EPOCHS,
    DEMO_SEEDS,
    DEMO_TRIALS,
    EPOCHS,
    MOST_SEEDS,
    MOST_TRIALS,
    SEEDS,
    TRIALS,
    TRIALS_EACH,
)
from depthsearch.options.file import read_study_file
from depthsearch.text import percent, printable

DEFAULT_STORAGE = "sqlite:///depthsearch.db"
# A larger image would take tens of gigabytes by itself.
PIXELS = values.whole(8, 4096, metavar="PX")
NO_BACKBONE = (
    "No --backbone, neither here nor in a study file. For a demo: depthsearch study --backbone densenet121. "
    "For your own images: depthsearch init {data} writes a study file with a backbone for this machine."
)
AS_TRAINED = "default: what the weights were trained on"

# Kinds and helps that other commands have too.
BACKBONE_HELP = (
    "a timm model, such as densenet121; torchvision:NAME, with @WEIGHTS if wanted; hf:NAME or hf:FOLDER "
    "(extra: transformers); FILE.py:FUNCTION, which returns a model"
)
CUT_KINDS = (
    values.some_of((*words.KINDS, words.AUTO)),
    f"candidates: auto (what suits the network), or some of {','.join(words.KINDS)}",
)
LAYERS = (
    values.LAYERS,
    "only these candidates: layer numbers, Keras names, module paths, patterns such as conv_pw_*; both ends "
    "stay; vgg16:block5_conv1 is of vgg16 alone",
)
HEAD, DEVICE, PRECISION = map(values.choice, (words.HEADS, words.DEVICES, words.PRECISIONS))
DEVICE_HELP = "what to compute on; auto: a GPU, if there is one"
CHANNELS = (values.CHANNELS, "3: colours; 1: grey images")
KEEP_MEMORY = (
    values.SIZE,
    "memory to keep what frozen layers compute; 0: none; default: a quarter of what is free",
)
KEEP_DISK = (
    values.SIZE,
    "disk to keep what frozen layers compute; 0: none; default: 8GiB, at most a fifth of what is free",
)
STORAGE = (values.place("URL"), "database that holds the study")

_train = partial(declared, group="what to train")
_search = partial(declared, group="what to search")
_run = partial(declared, group="how to run")
# About where and how it runs, not about what is trained: no study stores it.
_here = partial(_run, is_kept=False)


def _fixed(name: str) -> Rule:
    return Rule(
        lambda options: name in options.also,
        f"{flag_of(name)} fixes what --also {name} searches: give one of the two.",
    )


def _searched(name: str) -> Rule:
    def is_idle(options: StudyOptions) -> bool:
        is_ended = options.search == "exhaustive" and options.trials is None
        return is_ended and getattr(options, name) != "none"

    return Rule(
        is_idle,
        f"--search exhaustive trains each candidate, its head linear: {flag_of(name)} would do nothing. "
        "Leave it out, or let the search go on with more --trials than candidates.",
    )


def _confirmed(name: str) -> Rule:
    return Rule(
        lambda options: options.confirm == 0,
        f"{flag_of(name)} is for the confirmation, and --confirm 0 leaves that out: give one of the two.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOptions(Declared):
    """The options of a study: what ``depthsearch study --help`` and docs/reference/options.md explain.

    Values are checked at once. A value may have the form that study files or the command line have: one
    backbone instead of several, ``"512MiB"`` for a number of bytes, one learning rate for a range, a path for
    a text. The default of an option that is None depends on other options, see `with_defaults`.

    Raises:
        SettingsError: If a value is wrong, or would be ignored beside another.
    """

    file: Path | None = declared(
        None,
        values.path("FILE"),
        "TOML file with any of the options below, by their long names; the command line wins over it",
        positional="?",
        is_kept=False,
    )
    backbone: Sequence[str] = _train(MISSING, values.BACKBONES, f"{BACKBONE_HELP}; or several: a,b")
    data: str | Path | None = _train(
        None,
        values.place("DIR", path_words=("digits",)),
        "labelled images, DIR/<class>/..., DIR/{train,val,test}/<class>/... or with metadata.csv; a table "
        "(.csv, .parquet: image, label and, if you like, split); torchvision:NAME; default: scikit-learn's "
        "digits, as a demo",
    )
    image_columns: tuple[str, ...] = _train(
        ("image",),
        values.COLUMNS,
        "columns of a table that name an image each; several make samples of several images",
    )
    number_columns: tuple[str, ...] = _train(
        (),
        values.COLUMNS,
        "columns of a table that hold a number each, which the head takes beside the images",
    )
    classes_map: str | Path | None = _train(
        None,
        values.place("FILE", path_words=()),
        'JSON with new names of the classes, {"oak": "tree", "elm": "tree", ...}: to merge some',
    )
    weights: str = _train(
        "auto",
        values.place("auto|FILE|random", path_words=("auto", "random")),
        "auto: the pretrained ones of its library; FILE:NAME is one of several state dicts in a file; of "
        "several backbones NAME=FILE,...",
    )
    image_size: int | None = _train(None, PIXELS, f"side of the images; {AS_TRAINED}")
    mean: tuple[float, ...] | None = _train(
        None, values.MEANS, f"mean that is subtracted from pixels in [0, 1]; {AS_TRAINED}"
    )
    std: tuple[float, ...] | None = _train(
        None, values.DEVIATIONS, f"standard deviation by which pixels are divided; {AS_TRAINED}"
    )
    interpolation: words.Interpolation | None = _train(
        None, values.choice(words.INTERPOLATIONS), f"how images are resized; {AS_TRAINED}"
    )
    crop_share: float | None = _train(
        None, values.PART, f"share of the resized shorter side that is kept, in (0, 1]; {AS_TRAINED}"
    )
    channels: int = _train(3, *CHANNELS)
    val_share: float = _train(
        0.2, values.SHARE, "share of the training images to validate on, if --data has no validation images"
    )
    test_share: float = _train(
        0.2, values.SHARE, "share of the training images to test on, if --data has no test images"
    )
    subset: float = _train(
        1.0, values.PART, "share of the images to use, of each class in each split, in (0, 1]"
    )
    skip_unreadable: bool = _train(False, None, "leave out images that cannot be read")
    epochs: int | None = _train(
        None,
        values.whole(1),
        f"epochs of a training that is not stopped early (default: {EPOCHS}, demo {DEMO_EPOCHS})",
    )
    late_passes: int = _train(
        30,
        values.whole(1),
        "a training in which only the head or the last layers learn costs little for each pass over the "
        "images: it makes up to so many passes in all, instead of one an epoch; 1: one an epoch for all",
    )
    batch_size: int = _train(64, values.whole(2), "images (or samples) in a training step")
    metric: words.Metric = _train("accuracy", values.choice(words.METRICS), "score on the validation images")
    schedule: words.Schedule = _train(
        "cosine", values.choice(words.SCHEDULES), "how the learning rate goes over the epochs"
    )
    optimizer: words.OptimizerWord | None = _train(
        None,
        values.choice(words.OPTIMIZERS),
        "what trains the layers that learn (adamw)",
        _fixed("optimizer"),
    )
    momentum: float | None = _train(
        None,
        values.MOMENTUM,
        "Nesterov momentum of sgd, in [0, 1) (0.9)",
        Rule(
            lambda options: options.optimizer != "sgd" and "optimizer" not in options.also,
            "--momentum needs --optimizer sgd: add that, or leave --momentum out.",
        ),
    )
    weight_decay: float | None = _train(
        None,
        values.DECAY,
        "decoupled weight decay, of matrices and kernels only (0.01)",
        _fixed("weight_decay"),
    )
    dropout: float | None = _train(None, values.SHARE, "in the head, in [0, 1) (0)", _fixed("dropout"))
    head: words.HeadWord = _train(
        "pool",
        HEAD,
        "where the new head stands. pool: in place of the network's classifier; flatten: behind the last "
        "feature map, flattened",
    )
    head_depth: int | None = _train(
        None,
        values.whole(1),
        "number of hidden layers, where --head-width gives the head any (1)",
        _fixed("head_depth"),
        Rule(
            lambda options: options.head_width == 0,
            "--head-depth counts hidden layers, and --head-width 0 allows none: leave one of the two out.",
        ),
        _searched("head_depth"),
    )
    views: int = _train(
        1,
        values.whole(1, metavar="V"),
        "fixed augmentations of each training image, the plain one included; 1: no augmentation",
    )
    balance: words.Balance = _train(
        "none",
        values.choice(words.BALANCES),
        "for uneven classes: weigh the training loss, or draw images of all classes equally often",
    )
    augment: str | None = _train(
        None,
        values.AUGMENTATION,
        f"what views may do and how far: some of {', '.join(WORDS)} ({USUAL})",
        Rule(
            lambda options: options.views == 1,
            "--augment needs --views 2 or more: --views 1 has the plain images only.",
        ),
    )
    label_smoothing: float = _train(
        0.0, values.SHARE, "share of the target that the other classes are given, in [0, 1)"
    )

    kinds: tuple[str, ...] = _search((words.AUTO,), *CUT_KINDS)
    layers: tuple[str, ...] | None = _search(None, *LAYERS)
    search: words.SearchWord = _search(
        "adaptive",
        values.choice(words.SEARCHES),
        "adaptive: what is known decides what is trained next (--sampler); exhaustive: each candidate once",
    )
    learning_rate: tuple[float, float] | None = _search(
        None, values.RANGE, "range to search, or the one to use (1e-4:1e-2)"
    )
    learning_rates: tuple[float, ...] | None = _search(
        None,
        values.RATES,
        "exhaustive: each candidate once at each of these",
        Rule(
            lambda options: options.learning_rate is not None,
            "--learning-rate is a range to search, --learning-rates a list to try: give one of the two.",
        ),
        Rule(
            lambda options: options.search != "exhaustive",
            "--learning-rates needs --search exhaustive: add that, or give a range to search with "
            "--learning-rate LOW:HIGH.",
        ),
    )
    head_width: tuple[int, int] | int = _search(
        (1024, 256),
        values.WIDTH,
        "width of the head's hidden layers: in steps from 0 (none) to MAX, or the one to use; 0: none",
    )
    also: tuple[str, ...] = _search(
        (),
        values.some_of(words.OPTIONAL_RANGES),
        f"search these too: {','.join(words.OPTIONAL_RANGES)}",
        _searched("also"),
    )
    sampler: words.SamplerWord = _search(
        "auto",
        values.choice(words.SAMPLERS),
        "what chooses the next training. gain: the one that promises most for its cost. gp, tpe, random: "
        "Optuna's samplers; gp, a Gaussian process, learns from pruned trials too. auto: gain; with another "
        "--pruner than pause, or after an exhaustive search: tpe for fewer than 20 trials, else gp",
        _searched("sampler"),
    )
    pruner: words.PrunerWord = _search(
        "auto",
        values.choice(words.PRUNERS),
        "what becomes of weak trials. pause (only with --sampler gain): they wait, and go on if they look "
        "better later. halving, median: they end, by Optuna's rule of that name. none: they go on. auto: "
        "pause; with another --sampler: halving for fewer than 20 trials, else median",
        _searched("pruner"),
    )
    aim: words.Aim = _search(
        "accuracy",
        values.choice(words.AIMS),
        "accuracy: the best --metric; accuracy+cost: the best --metric at every --cost",
    )
    cost: words.CostWord | None = _search(
        None,
        values.choice(words.COSTS),
        "what counts as cost with --aim accuracy+cost: training MACs or trainable parameters (macs)",
        Rule(
            lambda options: options.aim == "accuracy",
            "--cost {value} is a second aim: add --aim accuracy+cost, or leave --cost out.",
        ),
    )

    trials: int | None = _run(
        None,
        values.whole(1),
        "settings to try in all, trainings again not counted: a bound with --sampler gain, which ends by "
        f"itself ({MOST_TRIALS}, demo {DEMO_TRIALS}); else the number ({TRIALS}, or {TRIALS_EACH} each of "
        "several backbones; exhaustive: all candidates)",
    )
    budget: float | None = _run(
        None,
        values.BUDGET,
        "what the study may cost in all, trainings again included, such as 4 full fine-tunes (trainings of "
        f"everything); what has begun runs to its end (demo without --trials: {DEMO_BUDGET:g})",
    )
    timeout: float | None = _run(
        None,
        values.DURATION,
        "time after which this run ends, once the running epochs are over, and answers with what it has: "
        "90s, 30m, 2h",
    )
    workers: int | None = _here(
        None,
        values.whole(1, 1024),
        "trials trained at once, in processes of their own (one a GPU; 1 where there is none)",
    )
    executor: words.ExecutorWord = _here(
        "local",
        values.choice(words.EXECUTORS),
        "local: this machine; ray: actors on a Ray cluster, as many as it has room for",
    )
    ray_address: str | None = _here(
        None,
        values.name("ADDRESS"),
        "HOST:PORT of the cluster's head; local: start Ray here (RAY_ADDRESS, else one running here, else "
        "local)",
        Rule(
            lambda options: options.executor != "ray",
            "--ray-address needs --executor ray: add that, or leave --ray-address out.",
        ),
    )
    hung_after: float | None = _here(
        None,
        values.SECONDS,
        "a worker that has used no processor for so long is ended, and its trial goes on elsewhere (300)",
    )
    device: words.DeviceWord = _run(
        "auto",
        DEVICE,
        DEVICE_HELP,
        Rule(
            lambda options: options.device == "mps" and options.executor == "ray",
            "--executor ray computes on cpu and cuda, not on mps: leave one of the two out.",
        ),
    )
    precision: words.Precision = _run("auto", PRECISION, "auto: bf16 where the hardware has it, else float32")
    compile: bool = _run(False, None, "torch.compile what is trained: slow to start, then faster")
    keep_memory: int | None = _here(None, *KEEP_MEMORY)
    keep_disk: int | None = _here(None, *KEEP_DISK)
    seed: int = _run(0, values.SEED, "seed of everything random")
    confirm: int | str | None = _run(
        None,
        values.CONFIRMED,
        "how many cuts to train again with other seeds, to be surer of the answer. With --sampler gain: auto "
        "(default), as many as are worth their cost, or N, at most so many (2 at least). With other "
        f"samplers, once the search has ended: the N most promising cuts and both ends ({CONFIRMED}). 0: "
        "none. all: every cut that was trained, once the search has ended",
    )
    seeds: int | None = _run(
        None,
        values.whole(2),
        "how often to train a setting again, each time with another seed: at most with --sampler gain "
        f"({MOST_SEEDS}, demo {DEMO_SEEDS}), else exactly ({SEEDS})",
        _confirmed("seeds"),
    )
    resample: bool | None = _run(
        None,
        None,
        "divide training and validation images anew each time that a cut is trained again (default: where "
        "--data has no validation images)",
        _confirmed("resample"),
    )
    tolerance: float = _run(
        words.TOLERANCE,
        values.POINTS,
        "points (0.01 of the score) that the answer may lose against the best: it is the cheapest setting "
        f"that loses less with {percent(0.9)} probability",
    )
    mark: tuple[str, ...] | None = _run(
        None,
        values.list_such_as("8,47,84"),
        "candidates that the report points out and compares, such as a guess of your own: 8,47,conv_pw_13",
    )
    storage: str = _here(DEFAULT_STORAGE, *STORAGE)
    log_file: Path | None = _here(
        None,
        values.path("FILE"),
        "append a line of JSON for each event: trial, epoch, score, seconds, bytes, ...",
    )
    tensorboard: Path | None = _here(
        None, values.path("DIR"), "write each trial as a run of TensorBoard (extra: tensorboard)"
    )
    mlflow: str | None = _here(
        None,
        values.place("URI"),
        "write the study and its trials as runs of MLflow, http://... or sqlite:///FILE (extra: mlflow)",
    )
    name: str | None = _here(
        None,
        values.name(),
        "name of the study; with the name of a stored one it goes on (default: the FILE's, or BACKBONE-DATA)",
    )
    json: bool = _here(False, None, "print the result as JSON, in the last line of stdout")

    @classmethod
    def from_file(cls, path: str | Path, **given: Any) -> Self:
        """Read a study file; options given here win over it, and its stem is the default name.

        Raises:
            SettingsError: If the file cannot be read, or has a key that is no option or a wrong value.
        """
        read = {"name": printable(Path(path).stem), **read_study_file(Path(path), cls)}
        if given.get("confirm") == 0:
            # The file's options of the confirmation no longer apply.
            read = {name: value for name, value in read.items() if name not in ("seeds", "resample")}
        return cls.from_given({**read, **given, "file": Path(path)})

    @classmethod
    def from_given(cls, given: Mapping[str, Any]) -> Self:
        """Make options of those that are given.

        Raises:
            SettingsError: If there is no backbone among them, with what to type.
        """
        if "backbone" not in given:
            raise SettingsError(NO_BACKBONE.format(data=shlex.quote(str(given.get("data", "DIR")))))
        return cls(**given)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read options that `as_json` has written.

        Raises:
            SettingsError: If one is unknown, or there is no backbone.
        """
        unknown = stored.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise SettingsError(f"No options of a study: {', '.join(sorted(unknown))}.")
        if "backbone" not in stored:
            raise SettingsError("The options of a study name no backbone.")
        return cls(**stored)

    def as_json(self) -> dict[str, Any]:
        """Return the options that a study stores, by their names in Python."""
        kept = [each.name for each in fields(self) if each.metadata["option"].is_kept]
        stored = {name: getattr(self, name) for name in kept}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stored.items()}
