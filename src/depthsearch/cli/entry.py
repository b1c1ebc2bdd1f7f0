"""The command line: a thin skin. PyTorch is imported only once a command runs."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from depthsearch import __version__
from depthsearch.cli.output import run_writing
from depthsearch.errors import DepthsearchError, SettingsError
from depthsearch.options.augmentation import USUAL, WORDS
from depthsearch.options.contradictions import of_explain, of_run, of_search, refuse
from depthsearch.options.file import read_study_file
from depthsearch.options.values import (
    WIDEST,
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
    read_seconds,
    read_seed,
    read_share,
    read_size,
    read_width,
    some_of,
)
from depthsearch.signals import sigterm_interrupts
from depthsearch.text import one_line, printable

__all__ = ["main"]

DEFAULT_STORAGE = "sqlite:///depthsearch.db"
KINDS = ("conv", "pool", "concat", "block", "linear")
AUTO = "auto"
KINDS_HELP = f"candidates: auto (what suits the network), or some of {','.join(KINDS)} ({AUTO})"
LAYERS_HELP = (
    "pick candidates: layer numbers, Keras names, module paths, patterns as conv_pw_*; both ends stay; "
    "vgg16:block5_conv1 is of vgg16 alone"
)
AIMS = ("accuracy", "accuracy+cost")
COSTS = ("macs", "parameters")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")
# Defaults for a user's own images, and for the demo, which has to end within minutes on two cores.
TRIALS, DEMO_TRIALS = 30, 14
# For each of several backbones.
TRIALS_EACH, DEMO_TRIALS_EACH = 20, 10
EPOCHS, DEMO_EPOCHS = 10, 3
CONFIRMED, DEMO_CONFIRMED = 3, 2
SEEDS, DEMO_SEEDS = 3, 2
LEARNING_RATES = (1e-5, 1e-2)
EXECUTORS = ("local", "ray")
SEARCHES = ("adaptive", "exhaustive")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "bf16", "float32")
OPTIMIZERS = ("adamw", "sgd")
BALANCES = ("none", "weights", "sampling")
HEADS = ("pool", "flatten")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")
BACKBONES_HELP = (
    "a timm model, such as densenet121; torchvision:NAME, with @WEIGHTS if wanted; hf:NAME or hf:FOLDER "
    "(extra: transformers); FILE.py:FUNCTION, which returns a model"
)
ALSO = ("head_depth", "dropout", "weight_decay", "optimizer")
INTERRUPTED = 130
# What sysexits.h calls EX_TEMPFAIL: later, the same may work.
AWAY = 75
# Larger images need tens of gigabytes for a single one.
MOST_PIXELS = 4096


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line, or with the file that an option comes from."""

    source = ""

    def __init__(self, **options: Any) -> None:
        # An abbreviation may mean something else in a later version.
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, but for ``--option=--``: argparse takes that for no value at all."""
        for text in args or ():
            if text == "--":
                break
            if re.fullmatch(r"--[a-z-]+=--", text):
                self.error(f"argument {text[:-3]}: '--' is no value")
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Whose help lists what there is.
            self.prog = " ".join(filter(None, (self.prog, getattr(found, "command", None))))
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def error(self, message: str) -> NoReturn:
        told = _without_passwords(message)
        self.exit(2, one_line(f"{self.prog}: {self.source}{told} (see {self.prog} --help)") + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for a user's mistake, 130 for an interrupt.

    A study that ``depthsearch stop`` has stopped did what it was asked to: 0. Where the database went away
    and stayed away it is 75: the same command goes on once it is back. Of output that nobody reads to its
    end, as with ``| head``, it is 141.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    return run_writing(lambda: _run(given))


def _run(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        _refuse_gone_folder()
        if arguments.command == "study":
            arguments = _study_arguments(arguments, argv)
        elif arguments.command == "explain":
            refuse(of_explain(arguments))
        with sigterm_interrupts():
            from depthsearch.cli import commands

            run: Callable[[argparse.Namespace], bool | None] = getattr(commands, arguments.command)
            is_stopped = run(arguments)
    except DepthsearchError as error:
        print(one_line(f"depthsearch {arguments.command}: {error}"), file=sys.stderr)
        return AWAY if _is_outage(error) else 2
    except KeyboardInterrupt:
        # What others wait for, such as the study of stop --wait, may well go on.
        told = f"Stopped.{_kept(argv)}" if arguments.command in ("study", "fit") else "Interrupted."
        print(told, file=sys.stderr)
        return INTERRUPTED
    if is_stopped:
        # Somebody meant it, so that it is no failure.
        print(f"Stopped on request.{_kept(argv)}", file=sys.stderr)
    return 0


def _refuse_gone_folder() -> None:
    """Refuse to run in a folder that has been deleted: not even PyTorch finds its parts from there."""
    try:
        Path.cwd()
    except OSError as error:
        raise SettingsError(
            f"The folder that you are in is gone ({error.strerror}). cd to one that is there, "
            "and run the same command again."
        ) from error


def _is_outage(error: DepthsearchError) -> bool:
    """Say whether a database that was there has gone; that it cannot even be opened is another matter."""
    if isinstance(error, SettingsError):
        return False
    from depthsearch.study.storage.outage import Away, chain

    return any(isinstance(cause, Away) for cause in chain(error))


def _kept(argv: Sequence[str]) -> str:
    command = shlex.join(_without_passwords(argument) for argument in argv)
    return f" What is finished is kept; go on with: depthsearch {printable(command)}"


def _without_passwords(text: str) -> str:
    if "://" not in text:
        return text
    from depthsearch.text import hidden

    return hidden(text)


def _study_arguments(arguments: argparse.Namespace, argv: Sequence[str]) -> argparse.Namespace:
    """Complete the options of a study: the command line wins over the file, the file over defaults.

    Raises:
        SettingsError: If the file cannot be read or has a key that is no option.
    """
    if arguments.file is not None:
        options = _checked_options(arguments.file)
        here = arguments
        arguments = _parser().parse_args(
            ["study", f"--name={printable(here.file.stem)}", *options, *argv[1:]]
        )
        if here.confirm == 0:
            # What the file says of a confirmation is for one.
            arguments.seeds, arguments.resample = here.seeds, here.resample
    if arguments.backbone is None:
        _study_parser().error("the following arguments are required: --backbone, here or in a study file")
    refuse(of_search(arguments))
    refuse(of_run(arguments))
    if not arguments.learning_rates:
        arguments.learning_rate = arguments.learning_rate or LEARNING_RATES
    demo = arguments.data in (None, "digits")
    if arguments.search != "exhaustive":
        arguments.trials = arguments.trials or _usual_trials(len(arguments.backbone), demo=demo)
    arguments.epochs = arguments.epochs or (DEMO_EPOCHS if demo else EPOCHS)
    arguments.seeds = arguments.seeds or (DEMO_SEEDS if demo else SEEDS)
    if arguments.confirm is None:
        arguments.confirm = DEMO_CONFIRMED if demo else CONFIRMED
    return arguments


def _usual_trials(n_backbones: int, *, demo: bool) -> int:
    alone, each = (DEMO_TRIALS, DEMO_TRIALS_EACH) if demo else (TRIALS, TRIALS_EACH)
    return alone if n_backbones == 1 else each * n_backbones


def _checked_options(path: Path) -> list[str]:
    """Read a study file, each option checked by itself, so that the complaint can name the key."""
    parser = _study_parser()
    defaults = vars(parser.parse_args([]))
    del defaults["file"]
    options = read_study_file(path, defaults)
    for key, option in options.items():
        parser.source = f"{path}, {key}: "
        parser.parse_args([option])
    return list(options.values())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="depthsearch", description="Find out which layers of a pretrained CNN should stay frozen."
    )
    parser.add_argument("--version", action="version", version=f"depthsearch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_study(commands)
    _add_cuts(commands)
    _add_status(commands)
    _add_stop(commands)
    _add_enqueue(commands)
    _add_report(commands)
    _add_fit(commands)
    _add_predict(commands)
    _add_explain(commands)
    _add_dashboard(commands)
    _add_cache(commands)
    return parser


def _add_study(commands: Any) -> None:
    _add_study_options(commands.add_parser("study", help="search for the best cut"))


def _study_parser() -> _Parser:
    """Make a parser of a study's options alone."""
    parser = _Parser(prog="depthsearch study")
    _add_study_options(parser)
    return parser


def _add_study_options(parser: argparse.ArgumentParser) -> None:
    keys = "TOML file with any of the options below, by their long names; the command line wins over it"
    parser.add_argument("file", nargs="?", type=read_path, metavar="FILE", help=keys)
    _add_task(parser.add_argument_group("what to train").add_argument)
    _add_space(parser.add_argument_group("what to search").add_argument)
    _add_run(parser.add_argument_group("how to run").add_argument)


def _add_task(add: Any) -> None:
    folders = "labelled images, DIR/<class>/..., DIR/{train,val,test}/<class>/... or with metadata.csv"
    others = "a table (.csv, .parquet: image, label and, if you like, split); torchvision:NAME"
    add("--backbone", type=read_backbones, metavar="NAME,...", help=f"{BACKBONES_HELP}; or several: a,b")
    sources = f"{folders}; {others}; default: scikit-learn's digits, as a demo"
    add("--data", type=read_place, metavar="DIR", help=sources)
    images = "columns of a table that name an image each: several make samples of as many (image)"
    add("--image-columns", type=read_columns, default=("image",), metavar="LIST", help=images)
    numbers = "columns of a table with a number of each sample, which the head takes beside the images (none)"
    add("--number-columns", type=read_columns, default=(), metavar="LIST", help=numbers)
    new_names = 'new names of the classes, {"oak": "tree", "elm": "tree", ...}: to merge some'
    add("--classes-map", type=read_place, metavar="FILE", help=f"JSON with {new_names}")
    weights = (
        "pretrained (default: auto, its library's); FILE:NAME is one of several state dicts in a file; of "
        "several backbones NAME=FILE,..."
    )
    add("--weights", type=read_place, default="auto", metavar="auto|FILE|random", help=weights)
    size = "default: what the weights were trained on"
    add("--image-size", type=at_least(8, MOST_PIXELS), metavar="PX", help=size)
    _add_preprocessing(add)
    add("--channels", type=read_channels, default=3, metavar="N", help="3: colours; 1: grey images (3)")
    add("--val-share", type=read_share, default=0.2, metavar="P", help="of train, if there is no val (0.2)")
    add("--test-share", type=read_share, default=0.2, metavar="P", help="of train, if there is no test (0.2)")
    add(
        "--subset",
        type=read_part,
        default=1.0,
        metavar="P",
        help="of each class in each split, in (0, 1] (1)",
    )
    _add_flag(add, "--skip-unreadable", "leave out images that cannot be read")
    counts = f"default: {EPOCHS}, demo {DEMO_EPOCHS}"
    add("--epochs", type=at_least(1), metavar="N", help=f"of a trial that is not pruned ({counts})")
    add("--batch-size", type=at_least(2), default=64, metavar="N", help="images, or samples, a step (64)")
    add("--metric", choices=METRICS, default="accuracy", help="score on validation (accuracy)")
    add("--schedule", choices=("cosine", "constant"), default="cosine", help="of the learning rate (cosine)")
    add("--optimizer", choices=OPTIMIZERS, help="(adamw)")
    add("--momentum", type=read_share, metavar="P", help="of sgd, Nesterov's, in [0, 1) (0.9)")
    add("--weight-decay", type=read_decay, metavar="X", help="decoupled, on matrices and kernels (0.01)")
    add("--dropout", type=read_share, metavar="P", help="in the head, in [0, 1) (0)")
    heads = "behind what timm has before its classifier, or behind the last feature map, flattened (pool)"
    add("--head", choices=HEADS, default="pool", help=heads)
    add("--head-depth", type=at_least(1), metavar="N", help="hidden layers of a head that has some (1)")
    views = "fixed augmentations of each training image, the plain one included (1: no augmentation)"
    add("--views", type=at_least(1), default=1, metavar="V", help=views)
    balance = "uneven classes: weigh the training loss, or draw images of all classes as often (none)"
    add("--balance", choices=BALANCES, default="none", help=balance)
    listed = f"what views may do and how far: some of {', '.join(WORDS)} ({USUAL})"
    add("--augment", type=read_augmentation, metavar="LIST", help=listed)
    add("--label-smoothing", type=read_share, default=0.0, metavar="P", help="in [0, 1) (0)")


def _add_preprocessing(add: Any) -> None:
    own = "default: what the weights were trained on"
    add("--mean", type=read_means, metavar="X[,X,X]", help=f"of pixels in [0, 1], subtracted; {own}")
    add("--std", type=read_deviations, metavar="X[,X,X]", help=f"of them, divided by; {own}")
    add("--interpolation", choices=INTERPOLATIONS, help=f"how images are resized; {own}")
    share = f"of the resized shorter side that is kept, in (0, 1]; {own}"
    add("--crop-share", type=read_part, metavar="P", help=share)


def _add_space(add: Any) -> None:
    add(
        "--kinds",
        type=some_of((*KINDS, AUTO)),
        default=(AUTO,),
        metavar="LIST",
        help=KINDS_HELP,
    )
    add("--layers", type=list_such_as("52,144,features.norm5"), metavar="LIST", help=LAYERS_HELP)
    ways = "adaptive: a sampler proposes, weak trials are pruned; exhaustive: each candidate once (adaptive)"
    add("--search", choices=SEARCHES, default="adaptive", help=ways)
    add("--learning-rate", type=read_range, metavar="LOW:HIGH", help="range, or the one to use (1e-5:1e-2)")
    add(
        "--learning-rates",
        type=read_rates,
        metavar="LIST",
        help="exhaustive: each candidate once at each of these",
    )
    widths = "of the head's hidden layer: from 0 (none) up to MAX, or the one to use; 0: none (1024:256)"
    add("--head-width", type=read_width, default=(1024, 256), metavar="MAX:STEP", help=widths)
    add(
        "--also", type=some_of(ALSO), default=(), metavar="LIST", help=f"further dimensions: {','.join(ALSO)}"
    )
    samplers = ("auto", "gp", "tpe", "random")
    add("--sampler", choices=samplers, default="auto", help="auto: tpe under 20 trials, else gp")
    pruners = ("auto", "halving", "median", "none")
    add("--pruner", choices=pruners, default="auto", help="auto: halving under 20 trials, else median")
    aims = "accuracy: the best --metric; accuracy+cost: the front of that and --cost (accuracy)"
    add("--aim", choices=AIMS, default="accuracy", help=aims)
    add(
        "--cost", choices=COSTS, help="with --aim accuracy+cost: training MACs or trainable parameters (macs)"
    )


def _add_run(add: Any) -> None:
    counts = (
        f"default: {TRIALS}, demo {DEMO_TRIALS}; {TRIALS_EACH} for each of several backbones; "
        "exhaustive: all candidates"
    )
    add("--trials", type=at_least(1), metavar="N", help=f"the study is to have in total ({counts})")
    each = "trials trained at once, in processes of their own (one a GPU; 1 where there is none)"
    add("--workers", type=at_least(1, 1024), metavar="N", help=each)
    kinds = "local: this machine; ray: actors on a Ray cluster, as many as it has room for (local)"
    add("--executor", choices=EXECUTORS, default="local", help=kinds)
    where = "HOST:PORT of its head; local: start Ray here (RAY_ADDRESS, else one running here, else local)"
    add("--ray-address", type=read_name, metavar="ADDRESS", help=where)
    hung = "a worker that has used no processor for so long is ended, its trial goes on elsewhere (300)"
    add("--hung-after", type=read_above_0, metavar="SECONDS", help=hung)
    add("--device", choices=DEVICES, default="auto")
    add("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 in hardware")
    _add_flag(add, "--compile", "torch.compile what is trained: slow to start, then faster")
    _add_keep(add)
    add("--seed", type=read_seed, default=0, metavar="N", help="of everything random (0)")
    counts = f"({CONFIRMED}, demo {DEMO_CONFIRMED})"
    again = (
        f"promising cuts to train again at the end, both ends with them; 0: none; all: all trained {counts}"
    )
    add("--confirm", type=read_confirmed, metavar="N", help=again)
    seeds = f"trainings of each cut that is confirmed ({SEEDS}, demo {DEMO_SEEDS})"
    add("--seeds", type=at_least(2), metavar="N", help=seeds)
    resample = "let each of these seeds divide training and validation images anew as well"
    _add_flag(add, "--resample", resample)
    mark = "candidates that the report is to point out and to compare: a guess of one's own, 8,47,conv_pw_13"
    add("--mark", type=list_such_as("8,47,84"), metavar="LIST", help=mark)
    _add_storage(add)
    lines = "append a line of JSON for each event: trial, epoch, score, seconds, bytes, ..."
    add("--log-file", type=read_path, metavar="FILE", help=lines)
    runs = "write each trial as a run of TensorBoard (extra: tensorboard)"
    add("--tensorboard", type=read_path, metavar="DIR", help=runs)
    runs = "write the study and its trials as runs of MLflow, http://... or sqlite:///FILE (extra: mlflow)"
    add("--mlflow", type=read_place, metavar="URI", help=runs)
    name = "of the study; the same name goes on (default: the FILE's, or BACKBONE-DATA)"
    add("--name", type=read_name, help=name)
    _add_flag(add, "--json", "print the result as JSON, in the last line of stdout")


def _add_flag(add: Any, name: str, told: str) -> None:
    """Add a flag that a study file may set and the command line take back."""
    add(name, action=argparse.BooleanOptionalAction, default=False, help=told)


def _add_keep(add: Any) -> None:
    keep = "of what frozen layers compute; 0: nothing; default:"
    add("--keep-memory", type=read_size, metavar="SIZE", help=f"{keep} a quarter of the memory free")
    add("--keep-disk", type=read_size, metavar="SIZE", help=f"{keep} 8GiB, at most a fifth of the disk free")


def _add_cuts(commands: Any) -> None:
    add = commands.add_parser("cuts", help="list a backbone's candidate cuts").add_argument
    add("backbone", type=read_name, metavar="BACKBONE", help=BACKBONES_HELP)
    add(
        "--kinds",
        type=some_of((*KINDS, AUTO)),
        default=(AUTO,),
        metavar="LIST",
        help=KINDS_HELP,
    )
    add("--layers", type=list_such_as("52,144,features.norm5"), metavar="LIST", help=LAYERS_HELP)
    add("--head", choices=HEADS, default="pool", help="where the head is to come, see study (pool)")
    size = "for MACs and bytes (default: the model's own)"
    add("--image-size", type=at_least(8, MOST_PIXELS), metavar="PX", help=size)
    add("--channels", type=read_channels, default=3, metavar="N", help="3: colours; 1: grey images (3)")
    add("--json", action="store_true", help="print a JSON list")


def _add_status(commands: Any) -> None:
    add = commands.add_parser("status", help="show where stored studies stand").add_argument
    _add_stored(add, "all that are stored")
    add("--json", action="store_true", help="print one JSON object")


def _add_stop(commands: Any) -> None:
    add = commands.add_parser("stop", help="ask whoever runs a study to stop; nothing is lost").add_argument
    _add_stored(add)
    after = "what to let end first: the running epoch, as Ctrl-C with nothing lost, or the trial (epoch)"
    add("--after", choices=("epoch", "trial"), default="epoch", help=after)
    wait = "for how long to wait until it has stopped; status 2 if it has not (default: not at all)"
    add("--wait", type=read_seconds, metavar="SECONDS", help=wait)
    add("--json", action="store_true", help="print one JSON object, in the last line of stdout")


def _add_enqueue(commands: Any) -> None:
    add = commands.add_parser("enqueue", help="have a study try a guess of your own next").add_argument
    _add_stored(add)
    layer = "first trainable layer, one of the study's candidates: number, Keras name or module path"
    add("--layer", type=read_name, required=True, metavar="LAYER", help=layer)
    add("--learning-rate", type=read_above_0, metavar="X", help="default: the sensible one at that depth")
    widths = "of the head's hidden layer; 0: none (default: none, where that is searched)"
    add("--head-width", type=at_least(0, WIDEST), metavar="N", help=widths)
    add("--backbone", type=read_name, metavar="NAME", help="of several, if the layer is in more than one")
    add("--to-the-end", action="store_true", help="never prune it; else it is judged as others are")
    add("--json", action="store_true", help="print one JSON object, in the last line of stdout")


def _add_report(commands: Any) -> None:
    add = commands.add_parser("report", help="show a stored study, every trial of it").add_argument
    _add_stored(add)
    add(
        "--out",
        type=read_place,
        metavar="DIR",
        help="write report.md and report.html there, a page with charts",
    )
    add(
        "--images",
        action="store_true",
        help="draw the charts of report.md, too: wants depthsearch[images] and Chrome",
    )
    _add_artifacts(add)
    add("--json", action="store_true", help="print one JSON object")


def _add_fit(commands: Any) -> None:
    parser = commands.add_parser(
        "fit", help="train the answer on train + validation, test it, write the model"
    )
    add = parser.add_argument
    _add_stored(add)
    out = "folder for the model (default: NAME-model); an earlier model there is replaced"
    add("--out", type=read_path, metavar="FOLDER", help=out)
    add(
        "--seed",
        type=read_seed,
        metavar="N",
        help="of head, batch order and dropout (default: the trial's own)",
    )
    add("--subset", type=read_part, metavar="P", help="of the images, 1: all (default: as in the study)")
    add("--device", choices=DEVICES, help="default: as in the study")
    add("--precision", choices=PRECISIONS, help="default: as in the study")
    _add_keep(add)
    add("--onnx", action="store_true", help="write model.onnx too, checked in onnxruntime")
    _add_artifacts(add)
    add("--json", action="store_true", help="print the result as JSON, in the last line of stdout")


def _add_predict(commands: Any) -> None:
    add = commands.add_parser("predict", help="tell the classes of images").add_argument
    add("folder", type=read_path, metavar="FOLDER", help="a model that depthsearch fit wrote")
    given = "files, or folders of them; a table (.csv, .parquet) for a model of samples"
    add("images", type=read_path, nargs="+", metavar="IMAGE", help=given)
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    add("--batch-size", type=at_least(1), default=64, metavar="N", help="images, or samples, at once (64)")
    add("--device", choices=DEVICES, default="auto")
    add("--precision", choices=PRECISIONS, help="default: what the model was trained in")
    _add_own_network(add)
    add("--json", action="store_true", help="print a JSON object a line, one for each image or sample")


def _add_own_network(add: Any) -> None:
    own = "FILE.py:FUNCTION of a model whose network is your own: it is run"
    add("--backbone", type=read_name, metavar="NAME", help=own)


def _add_cache(commands: Any) -> None:
    add = commands.add_parser("cache", help="show what is kept on disk, or clear it").add_argument
    add("--clear", choices=("features", "images", "all"), help="remove it; a running study computes it again")
    add("--json", action="store_true", help="print one JSON object")


def _add_explain(commands: Any) -> None:
    add = commands.add_parser(
        "explain", help="draw what layers across depth see, before and after"
    ).add_argument
    add(
        "model",
        type=read_place,
        metavar="MODEL_OR_STUDY",
        help="a model's folder, or the name of a study that has a fitted model",
    )
    add(
        "images",
        type=read_place,
        nargs="*",
        metavar="IMAGE",
        help="files; default: some of the study's, right and wrong ones",
    )
    layers = "numbers, Keras names or module paths (default: the ends of the last five stages, and the cut)"
    add("--layers", type=list_such_as("52,144,features.norm5"), metavar="LIST", help=layers)
    add(
        "--label",
        type=read_name,
        metavar="CLASS",
        help="true class of the images (default: a folder around them with its name)",
    )
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    add("--n", type=at_least(1), metavar="N", help="images of the study, half of them wrong (4)")
    add("--split", choices=("val", "test"), help="images of the study to take them from (val)")
    add("--out", type=read_place, metavar="DIR", help="where to write the pictures (default: NAME-explain)")
    add(
        "--weights",
        type=read_place,
        metavar="FILE|none",
        help="pretrained weights, before fine-tuning (default: as it started)",
    )
    _add_own_network(add)
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    _add_storage(add)
    _add_artifacts(add)
    add("--json", action="store_true", help="print the index as one JSON object")


def _add_dashboard(commands: Any) -> None:
    add = commands.add_parser("dashboard", help="watch stored studies in a browser").add_argument
    _add_storage(add)
    _add_artifacts(add)
    host = "address to listen on; other than this machine's own it takes a password (default: 127.0.0.1)"
    add("--host", type=read_name, default="127.0.0.1", help=host)
    add("--port", type=at_least(0), default=8080, help="0 takes a free one (default: 8080)")
    password = (
        "ask browsers for it; without a value it is asked for here (default: $DEPTHSEARCH_DASHBOARD_PASSWORD)"
    )
    add("--password", nargs="?", const=True, metavar="SECRET", help=password)
    add("--writable", action="store_true", help="let notes be written, and studies be changed and deleted")


def _add_stored(add: Any, default: str = "the only one stored") -> None:
    add("study", type=read_name, nargs="?", metavar="STUDY", help=f"its name (default: {default})")
    add("--name", type=read_name, help="the same")
    _add_storage(add)


def _add_storage(add: Any) -> None:
    add(
        "--storage",
        type=read_place,
        default=DEFAULT_STORAGE,
        metavar="URL",
        help=f"database (default: {DEFAULT_STORAGE})",
    )


def _add_artifacts(add: Any) -> None:
    where = "folder of the studies' pictures and reports (default: DATABASE-artifacts beside an SQLite file)"
    add("--artifacts", type=read_place, metavar="DIR", help=where)
