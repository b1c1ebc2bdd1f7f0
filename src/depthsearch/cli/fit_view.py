"""The output of a fit: its epochs, the figures on the test images, where the model is."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from depthsearch.classifier.figures import CONFIDENCE, Figures
from depthsearch.classifier.fitting import Fitted
from depthsearch.options.backbones import parse_name
from depthsearch.report.tables import Column, FittingTable
from depthsearch.text import counted, percent
from depthsearch.training.outcomes import EpochResult

# A larger matrix does not fit a terminal: then the most frequent confusions are shown instead.
MOST_COLUMNS = 12
N_CONFUSIONS = 10


def epoch_line(result: EpochResult, epochs: int, *, is_solved: bool = False) -> str:
    """Write an epoch as a line; what is solved has none."""
    step = "solved" if is_solved else f"epoch {result.epoch}/{epochs}"
    return f"  {step}: training loss {result.train_loss:.4f}, {result.seconds:.1f} s"


def render_fit(fitted: Fitted) -> RenderableType:
    """Render a fit for a terminal."""
    figures = fitted.figures
    low, high = figures.interval
    point = fitted.point
    head = f"head {point.head_width or 'linear'}"
    setting = f"{head}, solved" if point.is_solved else f"lr {point.learning_rate:.2g}, {head}"
    epochs = "" if point.is_solved else f"{counted(len(fitted.results), 'epoch')}, "
    answer = Text.assemble(
        ("Model     ", "bold"),
        (f"{fitted.backbone}: trained from {point.cut}", "bold green"),
        f"\n          {setting} (trial {fitted.trial}), on {counted(fitted.n_images, fitted.noun)} "
        f"(train + validation), {epochs}{fitted.seconds:.1f} s",
    )
    test = Text.assemble(
        ("Test      ", "bold"),
        (f"accuracy {figures.accuracy:.4f}", "bold"),
        f", {percent(CONFIDENCE)} interval {low:.4f} to {high:.4f} (Wilson), "
        f"{counted(figures.n, fitted.noun)}\n"
        f"          negative log likelihood {figures.negative_log_likelihood:.4f}, "
        f"expected calibration error {figures.calibration_error:.4f}",
    )
    classes, confusion = _classes(figures, fitted.noun), _Confusion(figures, fitted.noun)
    return Group(answer, test, *_readings(fitted), classes, confusion, _place(fitted))


def _readings(fitted: Fitted) -> list[Text]:
    """Write whether the test images were read before."""
    *before, _ = fitted.readings
    if not before:
        text = f"          the test {fitted.noun}s were read for the first time; the study has recorded it"
        return [Text(text)]
    times = "once" if len(before) == 1 else f"{len(before)} times"
    last = before[-1]
    return [
        Text(
            f"          THE TEST {fitted.noun.upper()}S WERE READ BEFORE: {times}, last {last.when} "
            f"(accuracy {last.accuracy:.4f}, trial {last.trial}).\n"
            "          What was decided since may rest on that: this figure is no longer an unbiased one.",
            style="bold yellow",
        )
    ]


def _classes(figures: Figures, noun: str) -> FittingTable:
    return FittingTable.of(
        figures.classes,
        {
            Column(heading="class", wraps=True): lambda each: each.name,
            Column(heading="precision", is_right=True, rank=1): lambda each: f"{each.precision:.4f}",
            Column(heading="recall", is_right=True): lambda each: f"{each.recall:.4f}",
            Column(heading="F1", is_right=True, rank=2): lambda each: f"{each.f1:.4f}",
            Column(heading=f"{noun}s", is_right=True, rank=3): lambda each: str(each.n),
        },
        "Classes",
    )


@dataclass(frozen=True, slots=True)
class _Confusion:
    """The confusions of the classes: the whole matrix where it fits, else the most frequent ones."""

    figures: Figures
    noun: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        matrix = _matrix(self.figures)
        is_small = len(self.figures.classes) <= MOST_COLUMNS
        fits = is_small and matrix.fits(options.max_width)
        yield matrix if fits else _most_frequent(self.figures, self.noun)


def _matrix(figures: Figures) -> FittingTable:
    names = [each.name for each in figures.classes]
    return FittingTable(
        title="Confusion: a row for each true class, a column for each predicted one",
        columns=[Column(heading="", wraps=True)]
        + [Column(heading=name, is_right=True, wraps=True) for name in names],
        rows=[
            [name, *(str(n) if n else "·" for n in row)]
            for name, row in zip(names, figures.confusion, strict=True)
        ],
    )


def _most_frequent(figures: Figures, noun: str) -> FittingTable:
    names = [each.name for each in figures.classes]
    wrong = [
        (n, names[i], names[j])
        for i, row in enumerate(figures.confusion)
        for j, n in enumerate(row)
        if n and i != j
    ]
    return FittingTable.of(
        sorted(wrong, key=lambda each: -each[0])[:N_CONFUSIONS],
        {
            Column(heading="class", wraps=True): lambda each: each[1],
            Column(heading="called", wraps=True): lambda each: each[2],
            Column(heading=f"{noun}s", is_right=True): lambda each: str(each[0]),
        },
        "Most frequent confusions",
    )


def _place(fitted: Fitted) -> Text:
    if fitted.timm_loads:
        loads = f'timm.create_model("local-dir:{fitted.folder}", pretrained=True)'
    else:
        is_own = parse_name(fitted.backbone).source == "file"
        network = f', backbone="{fitted.backbone}"' if is_own else ""
        loads = f'depthsearch.load("{fitted.folder}"{network}); timm cannot load it'
    lines = [f"Written   {fitted.folder}: {loads}"]
    if fitted.onnx:
        lines.append(
            f"          model.onnx: probabilities within {fitted.onnx.difference:.1g} of the model's, "
            f"on {counted(fitted.onnx.n_images, 'image')} in onnxruntime"
        )
    return Text("\n".join(lines))
