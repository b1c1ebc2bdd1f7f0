"""What each command does. Imported once a command runs: this package loads PyTorch."""

import optuna

from depthsearch.commands.caching import cache
from depthsearch.commands.controlling import enqueue, status, stop
from depthsearch.commands.explaining import explain
from depthsearch.commands.fitting import fit, predict
from depthsearch.commands.reporting import dashboard, report
from depthsearch.commands.searching import cuts, study

__all__ = [
    "cache",
    "cuts",
    "dashboard",
    "enqueue",
    "explain",
    "fit",
    "predict",
    "report",
    "status",
    "stop",
    "study",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)
