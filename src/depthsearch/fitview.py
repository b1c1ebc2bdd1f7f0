"""What a person sees of a fit: its epochs, the figures on the test images, where the model is."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthsearch.backbonenames import parse_name
from depthsearch.figures import Figures
from depthsearch.refit import Fitted
from depthsearch.training import EpochResult

__all__ = ["epoch_line", "render_fit"]

# A larger matrix does not fit a terminal: then the most frequent confusions are told instead.
MOST_COLUMNS = 12
N_CONFUSIONS = 10


def epoch_line(result: EpochResult, epochs: int) -> str:
    """Tell an epoch in a line."""
    return f"  epoch {result.epoch}/{epochs}: training loss {result.train_loss:.4f}, {result.seconds:.1f} s"


def render_fit(fitted: Fitted) -> RenderableType:
    """Draw a fit for a terminal."""
    figures = fitted.figures
    low, high = figures.interval
    setting = f"lr {fitted.point.learning_rate:.2g}, head {fitted.point.head_width or 'linear'}"
    answer = Text.assemble(
        ("Model     ", "bold"),
        (f"{fitted.backbone}: trained from {fitted.point.cut}", "bold green"),
        f"\n          {setting} (trial {fitted.trial}), on {fitted.n_images} {fitted.noun}s "
        f"(train + validation), {len(fitted.results)} epochs, {fitted.seconds:.1f} s",
    )
    test = Text.assemble(
        ("Test      ", "bold"),
        (f"accuracy {figures.accuracy:.4f}", "bold"),
        f", 95 % interval {low:.4f} to {high:.4f} (Wilson), {figures.n} {fitted.noun}s"
        f"\n          negative log likelihood {figures.negative_log_likelihood:.4f}, "
        f"expected calibration error {figures.calibration_error:.4f}",
    )
    classes, confusion = _classes(figures, fitted.noun), _confusion(figures, fitted.noun)
    return Group(answer, test, *_readings(fitted), classes, confusion, _place(fitted))


def _readings(fitted: Fitted) -> list[Text]:
    """Say so where the test images were read before."""
    *before, _ = fitted.readings
    if not before:
        told = f"          the test {fitted.noun}s were read for the first time; the study has recorded it"
        return [Text(told)]
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


def _classes(figures: Figures, noun: str) -> Table:
    table = Table(title="Classes", title_justify="left")
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "F1", f"{noun}s"):
        table.add_column(heading, justify="right")
    for each in figures.classes:
        shares = (each.precision, each.recall, each.f1)
        table.add_row(each.name, *(f"{share:.4f}" for share in shares), str(each.n))
    return table


def _confusion(figures: Figures, noun: str) -> RenderableType:
    names = [each.name for each in figures.classes]
    if len(names) <= MOST_COLUMNS:
        table = Table(title="Row's class, called column's", title_justify="left")
        table.add_column("", overflow="fold")
        for name in names:
            table.add_column(name, justify="right", overflow="fold")
        for name, row in zip(names, figures.confusion, strict=True):
            table.add_row(name, *(str(n) if n else "·" for n in row))
        return table
    wrong = [
        (n, names[i], names[j])
        for i, row in enumerate(figures.confusion)
        for j, n in enumerate(row)
        if n and i != j
    ]
    table = Table(title="Most frequent confusions", title_justify="left")
    for heading in ("class", "called", f"{noun}s"):
        table.add_column(heading, justify="right" if heading == f"{noun}s" else "left", overflow="fold")
    for n, name, called in sorted(wrong, key=lambda each: -each[0])[:N_CONFUSIONS]:
        table.add_row(name, called, str(n))
    return table


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
            f"on {fitted.onnx.n_images} images in onnxruntime"
        )
    return Text("\n".join(lines))
