"""The words that options accept, each list once: for the command line, the library and the reference page."""

from __future__ import annotations

from typing import Literal, get_args

from depthsearch.options.attributes import TrialKey

Aim = Literal["accuracy", "accuracy+cost"]
Balance = Literal["none", "weights", "sampling"]
CostWord = Literal["macs", "parameters"]
DeviceWord = Literal["auto", "cpu", "cuda", "mps"]
ExecutorWord = Literal["local", "ray"]
HeadWord = Literal["pool", "flatten"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "hamming", "nearest"]
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"]
OptimizerWord = Literal["adamw", "sgd"]
Precision = Literal["auto", "bf16", "float32"]
PrunerWord = Literal["auto", "pause", "halving", "median", "none"]
SamplerWord = Literal["auto", "gain", "gp", "tpe", "random"]
Schedule = Literal["cosine", "constant"]
SearchWord = Literal["adaptive", "exhaustive"]

AIMS: tuple[Aim, ...] = get_args(Aim)
BALANCES: tuple[Balance, ...] = get_args(Balance)
DEVICES: tuple[DeviceWord, ...] = get_args(DeviceWord)
EXECUTORS: tuple[ExecutorWord, ...] = get_args(ExecutorWord)
HEADS: tuple[HeadWord, ...] = get_args(HeadWord)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
OPTIMIZERS: tuple[OptimizerWord, ...] = get_args(OptimizerWord)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
PRUNERS: tuple[PrunerWord, ...] = get_args(PrunerWord)
SAMPLERS: tuple[SamplerWord, ...] = get_args(SamplerWord)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
SEARCHES: tuple[SearchWord, ...] = get_args(SearchWord)

# Kinds of layers that a network may be cut at, and the word for those that suit the network.
KINDS = ("conv", "pool", "concat", "block", "linear")
AUTO = "auto"
# Each metric by Optuna's direction.
METRICS: dict[str, str] = {
    metric: "minimize" if metric == "loss" else "maximize" for metric in get_args(Metric)
}
# Metrics that are shares of the images.
SHARES: tuple[Metric, ...] = ("accuracy", "balanced_accuracy", "macro_f1")
# What an answer may lose against the best, in points (hundredths of a score).
TOLERANCE = 0.5
# A trial's attribute for each cost.
COSTS = {"macs": str(TrialKey.TRAINING_MACS), "parameters": str(TrialKey.TRAINABLE_PARAMETERS)}
# The learning rates that are searched. Lower ones hardly move a network within a few hundred steps: at 3e-5
# the best cut was 24 to 34 points behind on three recorded sets (benchmarks/RESULTS.md).
LEARNING_RATES = (1e-4, 1e-2)
# Further dimensions of the search with their ranges; fixed for all trials where they are not searched.
OPTIONAL_RANGES: dict[str, tuple[float, float] | tuple[OptimizerWord, ...]] = {
    "head_depth": (1, 3),
    "dropout": (0.0, 0.5),
    "weight_decay": (1e-5, 1e-1),
    "optimizer": OPTIMIZERS,
}
