"""The commands. Imported only once a command runs, as this package loads PyTorch."""

import optuna

from depthsearch.cli.commands.cache import cache
from depthsearch.cli.commands.cuts import cuts
from depthsearch.cli.commands.dashboard import dashboard
from depthsearch.cli.commands.enqueue import enqueue
from depthsearch.cli.commands.explain import explain
from depthsearch.cli.commands.fit import fit
from depthsearch.cli.commands.init import init
from depthsearch.cli.commands.predict import predict
from depthsearch.cli.commands.report import report
from depthsearch.cli.commands.status import status
from depthsearch.cli.commands.stop import stop
from depthsearch.cli.commands.study import study

__all__ = [
    "cache",
    "cuts",
    "dashboard",
    "enqueue",
    "explain",
    "fit",
    "init",
    "predict",
    "report",
    "status",
    "stop",
    "study",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)
