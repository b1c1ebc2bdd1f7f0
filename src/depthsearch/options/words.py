"""The words that options may be."""

from __future__ import annotations

__all__ = ["BALANCES", "METRICS", "OPTIMIZERS", "SCHEDULES"]

# Optuna's direction of each.
METRICS = {
    "accuracy": "maximize",
    "balanced_accuracy": "maximize",
    "macro_f1": "maximize",
    "loss": "minimize",
}
SCHEDULES = ("cosine", "constant")
OPTIMIZERS = ("adamw", "sgd")
BALANCES = ("none", "weights", "sampling")
