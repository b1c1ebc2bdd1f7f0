"""What each command does. Imported once a command runs: this package loads PyTorch."""

import optuna

from depthsearch.cli.commands.caching import cache
from depthsearch.cli.commands.controlling import enqueue, status, stop
from depthsearch.cli.commands.explaining import explain
from depthsearch.cli.commands.fitting import fit, predict
from depthsearch.cli.commands.reporting import dashboard, report
from depthsearch.cli.commands.searching import cuts, study

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
