"""The command line: a thin skin. PyTorch is imported only once a command runs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from depthsearch import __version__
from depthsearch.errors import DepthsearchError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

    from depthsearch.objective import Task
    from depthsearch.space import SearchSpace

__all__ = ["main"]

DEFAULT_STORAGE = "sqlite:///depthsearch.db"
DEFAULT_KINDS = "conv,pool,concat"
# Defaults for a user's own images, and for the demo, which has to end within minutes on two cores.
TRIALS, DEMO_TRIALS = 30, 12
EPOCHS, DEMO_EPOCHS = 10, 4
ALSO = ("head_depth", "dropout", "weight_decay", "optimizer")
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 2 for a user's mistake, 130 for an interrupt."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments, argv))
    except DepthsearchError as error:
        print(f"depthsearch {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="depthsearch", description="Find out which layers of a pretrained CNN should stay frozen."
    )
    parser.add_argument("--version", action="version", version=f"depthsearch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_study(commands)
    _add_cuts(commands)
    _add_report(commands)
    _add_dashboard(commands)
    return parser


def _add_study(commands: Any) -> None:
    add = commands.add_parser("study", help="search for the best cut").add_argument
    add("--backbone", required=True, metavar="NAME", help="a timm model, such as densenet121")
    add("--data", metavar="DIR", help="labelled images, DIR/<class>/... or DIR/{train,val,test}/<class>/...; "
        "default: scikit-learn's digits, as a demo")  # fmt: skip
    add(
        "--weights",
        default="auto",
        metavar="auto|FILE|random",
        help="pretrained weights (default: auto, timm's)",
    )
    add(
        "--image-size",
        type=_at_least(8),
        metavar="PX",
        help="height and width (default: what the weights saw)",
    )
    add("--trials", type=_at_least(1), metavar="N",
        help=f"trials the study is to have in total (default: {TRIALS}, demo {DEMO_TRIALS})")  # fmt: skip
    add("--epochs", type=_at_least(1), metavar="N",
        help=f"epochs of a trial that is not pruned (default: {EPOCHS}, demo {DEMO_EPOCHS})")  # fmt: skip
    add("--batch-size", type=_at_least(2), default=64, metavar="N", help="images a step (default: 64)")
    add("--metric", choices=("accuracy", "balanced_accuracy", "macro_f1", "loss"), default="accuracy")
    add("--schedule", choices=("cosine", "constant"), default="cosine", help="of the learning rate")
    add("--label-smoothing", type=_share, default=0.0, metavar="P", help="in [0, 1) (default: 0)")
    add("--kinds", type=_kinds, default=_kinds(DEFAULT_KINDS), metavar="LIST",
        help=f"candidates: some of conv,pool,concat,block (default: {DEFAULT_KINDS})")  # fmt: skip
    add("--learning-rate", type=_range, default=(1e-5, 1e-2), metavar="LOW:HIGH",
        help="range to search (default: 1e-5:1e-2)")  # fmt: skip
    add("--head-width", type=_width, default=(1024, 256), metavar="MAX:STEP",
        help="widths of the hidden layer to search, from 0 (none); 0 searches none (default: 1024:256)")  # fmt: skip
    add(
        "--also", type=_also, default=(), metavar="LIST", help=f"further dimensions: some of {','.join(ALSO)}"
    )
    add("--sampler", choices=("auto", "gp", "tpe", "random"), default="auto",
        help="default: auto, tpe under 20 trials, else gp")  # fmt: skip
    add("--pruner", choices=("auto", "halving", "median", "none"), default="auto",
        help="default: auto, halving under 20 trials, else median")  # fmt: skip
    add(
        "--val-share",
        type=_share,
        default=0.2,
        metavar="P",
        help="of train, where there is no val (default: 0.2)",
    )
    add(
        "--test-share",
        type=_share,
        default=0.2,
        metavar="P",
        help="of train, where there is no test (default: 0.2)",
    )
    add("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    add("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    add(
        "--precision",
        choices=("auto", "bf16", "float32"),
        default="auto",
        help="default: bf16 where in hardware",
    )
    add("--seed", type=_at_least(0), default=0, metavar="N")
    _add_storage(add)
    add("--name", help="of the study; the same name goes on (default: BACKBONE-DATA)")
    add("--json", action="store_true", help="print the result as one JSON object, the last line of stdout")
    commands.choices["study"].set_defaults(run=_study)


def _add_cuts(commands: Any) -> None:
    add = commands.add_parser("cuts", help="list a backbone's candidate cuts").add_argument
    add("backbone", metavar="BACKBONE", help="a timm model, such as densenet121")
    add("--kinds", type=_kinds, default=_kinds(DEFAULT_KINDS), metavar="LIST",
        help=f"some of conv,pool,concat,block (default: {DEFAULT_KINDS})")  # fmt: skip
    add("--image-size", type=_at_least(8), metavar="PX", help="for MACs and bytes (default: the model's own)")
    add("--json", action="store_true", help="print a JSON list")
    commands.choices["cuts"].set_defaults(run=_cuts)


def _add_report(commands: Any) -> None:
    add = commands.add_parser("report", help="show a stored study, every trial of it").add_argument
    add("--name", help="of the study (default: the only one stored)")
    _add_storage(add)
    add("--json", action="store_true", help="print one JSON object")
    commands.choices["report"].set_defaults(run=_report)


def _add_dashboard(commands: Any) -> None:
    add = commands.add_parser("dashboard", help="watch stored studies in a browser").add_argument
    _add_storage(add)
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1; it has no password)")
    add("--port", type=_at_least(0), default=8080, help="0 takes a free one (default: 8080)")
    commands.choices["dashboard"].set_defaults(run=_dashboard)


def _add_storage(add: Any) -> None:
    add("--storage", default=DEFAULT_STORAGE, metavar="URL", help=f"database (default: {DEFAULT_STORAGE})")


def _at_least(lowest: int) -> Any:
    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if value < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {lowest} on")
        return value

    return whole_number


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number in [0, 1)")
    return value


def _range(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        ends = float(low), float(high or low)
    except ValueError:
        ends = 0.0, 0.0
    if not 0 < ends[0] <= ends[1] < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no LOW:HIGH with 0 < LOW <= HIGH, such as 1e-5:1e-2")
    return ends


def _width(text: str) -> tuple[int, int] | None:
    if text == "0":
        return None
    widest, _, step = text.partition(":")
    if not (widest.isdecimal() and step.isdecimal() and 0 < int(step) <= int(widest)) or int(widest) % int(
        step
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither 0 nor MAX:STEP with STEP dividing MAX, such as 1024:256"
        )
    return int(widest), int(step)


def _names_from(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return names


def _kinds(text: str) -> tuple[str, ...]:
    return _names_from(text, ("conv", "pool", "concat", "block"))


def _also(text: str) -> tuple[str, ...]:
    return _names_from(text, ALSO)


def _study(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from rich.console import Console

    from depthsearch.interrupts import sigterm_interrupts

    console = Console(stderr=True)
    with sigterm_interrupts():
        try:
            return _run_study(arguments, console)
        except KeyboardInterrupt:
            console.print(
                f"Stopped; everything finished is kept. Go on with: depthsearch {shlex.join(argv)}",
                highlight=False, markup=False, soft_wrap=True,
            )  # fmt: skip
            return INTERRUPTED


def _run_study(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.data is None:
        console.print(
            "No --data: a demo on scikit-learn's digits (1,797 images of 8 x 8 px).", highlight=False
        )
    with console.status("Loading PyTorch"):
        import optuna

        from depthsearch.report import as_json, render, summarize
        from depthsearch.study import open_storage, open_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = open_storage(arguments.storage)
    task, space = _prepare(arguments, console)
    name = arguments.name or f"{arguments.backbone}-{task.data.name}"
    study = open_study(storage, name, task, space, _provenance(arguments, task))
    _search(arguments, console, study, task, space)
    summary = summarize(study)
    results = Console(stderr=arguments.json)
    results.print(render(summary))
    words = "" if arguments.storage == DEFAULT_STORAGE else f" --storage {shlex.quote(arguments.storage)}"
    where = f"Study     {name} in {arguments.storage}; watch it with: depthsearch dashboard{words}"
    results.print(where, highlight=False, markup=False, soft_wrap=True)
    if arguments.json:
        print(json.dumps(as_json(summary)))
    if summary.best is None:
        raise SettingsError(
            f"No trial of {name} is complete. See why: depthsearch report --name {shlex.quote(name)}{words}"
        )
    return 0


def _prepare(arguments: argparse.Namespace, console: Console) -> tuple[Task, SearchSpace]:
    """Load backbone and images and say in a line each what they are."""
    from depthsearch.backbones import load_backbone
    from depthsearch.devices import choose_device
    from depthsearch.objective import Task
    from depthsearch.space import SearchSpace
    from depthsearch.training import Recipe

    demo = arguments.data in (None, "digits")
    device = choose_device(arguments.device, arguments.precision)
    backbone = load_backbone(
        arguments.backbone,
        arguments.weights,
        image_size=arguments.image_size,
        demo=demo,
        seed=arguments.seed,
    )
    if backbone.weights.startswith("shipped"):
        console.print(
            f"[bold yellow]No ImageNet weights for {backbone.name} at hand: using the {backbone.weights}.[/bold yellow] "
            "Results say nothing about ImageNet weights.",
            highlight=False,
        )  # fmt: skip
    data = _load_images(arguments, console, backbone.preprocessing)
    space = SearchSpace.for_model(
        backbone.model,
        arguments.kinds,
        image_size=backbone.preprocessing.image_size,
        learning_rate=arguments.learning_rate,
        head_width=arguments.head_width,
        **_optional_ranges(arguments.also),
    )
    epochs = arguments.epochs or (DEMO_EPOCHS if demo else EPOCHS)
    recipe = Recipe(
        epochs=epochs,
        batch_size=arguments.batch_size,
        schedule=arguments.schedule,
        label_smoothing=arguments.label_smoothing,
        metric=arguments.metric,
        seed=arguments.seed,
    )
    console.print(
        f"Backbone {backbone.name}, weights: {backbone.weights}; {len(space.cuts)} candidate cuts; "
        f"{backbone.preprocessing.image_size} px; {device.kind}, {device.precision}.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    return Task(backbone=backbone, data=data, recipe=recipe, device=device), space


def _optional_ranges(also: Sequence[str]) -> dict[str, Any]:
    ranges = {
        "head_depth": (1, 3),
        "dropout": (0.0, 0.5),
        "weight_decay": (1e-5, 1e-1),
        "optimizer": ("adamw", "sgd"),
    }
    return {name: ranges[name] for name in also}


def _load_images(arguments: argparse.Namespace, console: Console, preprocessing: Any) -> Any:
    from rich.progress import Progress

    from depthsearch.data import load_data

    with Progress(console=console, transient=True) as bar:
        shown = bar.add_task("Decoding images", visible=False)
        data = load_data(
            arguments.data or "digits",
            image_size=preprocessing.image_size,
            crop_share=preprocessing.crop_share,
            interpolation=preprocessing.interpolation,
            val_share=arguments.val_share,
            test_share=arguments.test_share,
            seed=arguments.seed,
            skip_unreadable=arguments.skip_unreadable,
            progress=lambda done, total: bar.update(shown, completed=done, total=total, visible=True),
        )
    console.print(
        f"Data {data.name}: {len(data.classes)} classes; {len(data.train)} train, {len(data.val)} validation, "
        f"{len(data.test)} test images.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    if data.skipped:
        _list(console, f"{len(data.skipped)} unreadable images left out", data.skipped)
    if data.duplicates:
        groups = [" = ".join(group) for group in data.duplicates]
        _list(console, f"{len(groups)} images stand in several splits", groups)
    return data


def _list(console: Console, what: str, items: Sequence[str], n_shown: int = 5) -> None:
    more = f", and {len(items) - n_shown} more (all in the study)" if len(items) > n_shown else ""
    console.print(
        f"{what}: {', '.join(items[:n_shown])}{more}.", highlight=False, markup=False, soft_wrap=True
    )


def _search(
    arguments: argparse.Namespace, console: Console, study: Any, task: Task, space: SearchSpace
) -> None:
    from contextlib import closing
    from pathlib import Path

    import platformdirs

    from depthsearch.report import summarize
    from depthsearch.sampling import resolve
    from depthsearch.study import search
    from depthsearch.view import View

    demo = arguments.data in (None, "digits")
    n_trials = arguments.trials or (DEMO_TRIALS if demo else TRIALS)
    sampler, pruner = resolve(arguments.sampler, arguments.pruner, n_trials)
    before = summarize(study)
    n_pruned = before.count("pruned")
    n_done = before.count("complete") + n_pruned + before.count("fail")
    best = before.best
    view = View(
        console,
        n_trials=n_trials,
        epochs=task.recipe.epochs,
        maximize=before.maximize,
        n_done=n_done,
        n_pruned=n_pruned,
        best=(best.score, str(best.cut)) if best is not None and best.score is not None else None,
    )
    console.print(
        f"Study {study.study_name}: {n_done} of {n_trials} trials done; {task.recipe.epochs} epochs each; "
        f"sampler {sampler}, pruner {pruner}.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    events = search(
        study,
        task,
        space,
        n_trials=n_trials,
        sampler=sampler,
        pruner=pruner,
        checkpoints=Path(platformdirs.user_cache_dir("depthsearch")) / "checkpoints",
    )
    with closing(events), view:
        for event in events:
            view.update(event)


def _provenance(arguments: argparse.Namespace, task: Task) -> dict[str, Any]:
    import platform

    import optuna
    import timm
    import torch

    return {
        "versions": {
            "depthsearch": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "optuna": optuna.__version__,
        },
        "machine": f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads",
        "device": task.device.kind,
        "precision": task.device.precision,
        "weights option": arguments.weights,
    }


def _cuts(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from depthsearch.backbones import make_model
    from depthsearch.cuts import list_cuts

    cuts = list_cuts(make_model(arguments.backbone), arguments.kinds, image_size=arguments.image_size)
    if arguments.json:
        print(json.dumps([asdict(cut) for cut in cuts]))
        return 0
    table = Table(title=f"{arguments.backbone}: {len(cuts)} candidate cuts", title_justify="left")
    columns = (
        "index",
        "layer",
        "first trainable",
        "kind",
        "Keras",
        "also",
        "frozen MACs",
        "trainable",
        "boundary",
    )
    for column in columns:
        text = column in ("first trainable", "kind", "Keras", "also")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    for cut in cuts:
        table.add_row(
            str(cut.index), str(cut.layer), cut.name, cut.kind, cut.keras_name or "", ", ".join(cut.aliases),
            f"{cut.frozen_mac_share:.4f}", f"{cut.trainable_parameters:,}", f"{cut.boundary_bytes / 1024:,.0f} KiB",
        )  # fmt: skip
    # Redirected to a file there is no width to keep to.
    Console(width=None if sys.stdout.isatty() else 180).print(table)
    return 0


def _report(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    import optuna
    from rich.console import Console

    from depthsearch.report import as_json, render, render_trials, summarize
    from depthsearch.study import open_storage

    storage = open_storage(_existing(arguments.storage))
    names = optuna.get_all_study_names(storage)
    name = arguments.name or (names[0] if len(names) == 1 else None)
    if name not in names:
        asked = f"No study {name!r}" if name else "Which study? Give --name"
        raise SettingsError(f"{asked}; {arguments.storage} has: {', '.join(names) or 'none'}.")
    summary = summarize(optuna.load_study(study_name=name, storage=storage))
    if arguments.json:
        print(json.dumps(as_json(summary)))
    else:
        console = Console(width=None if sys.stdout.isatty() else 150)
        console.print(render(summary), render_trials(summary))
    return 0


def _dashboard(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    from depthsearch.dashboard import serve
    from depthsearch.study import open_storage

    if arguments.port > 65535:
        raise SettingsError(f"--port {arguments.port} is no port: give one up to 65535.")
    serve(open_storage(_existing(arguments.storage)), arguments.host, arguments.port)
    return 0


def _existing(url: str) -> str:
    """Refuse a database file that is not there: opening it would make an empty one."""
    from pathlib import Path

    path = url.removeprefix("sqlite:///")
    if path != url and not Path(path).is_file():
        raise SettingsError(
            f"No studies in {url}: there is no such file. Run depthsearch study, or give --storage."
        )
    return url
