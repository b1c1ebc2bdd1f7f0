"""The loggers that a study's options ask for, opened together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import optuna

from depthsearch.options.study import StudyOptions
from depthsearch.study.events import Event
from depthsearch.study.loggers.eventlog import Sink, check_log, open_log
from depthsearch.study.loggers.mlflowlog import check_mlflow, mlflow_log
from depthsearch.study.loggers.tensorboardlog import check_tensorboard, tensorboard_log


def check_watchers(options: StudyOptions) -> None:
    """Check that all loggers can write, before anything is loaded.

    Raises:
        SettingsError: If one cannot, or its package is not installed.
    """
    if options.log_file is not None:
        check_log(options.log_file)
    if options.tensorboard is not None:
        check_tensorboard(options.tensorboard)
    if options.mlflow is not None:
        check_mlflow(options.mlflow)


@contextmanager
def watching(options: StudyOptions, study: optuna.Study) -> Iterator[Sink]:
    """Open the loggers that the options ask for; yield a function that passes an event to each.

    Raises:
        SettingsError: If one cannot be opened.
    """
    with ExitStack() as stack:
        sinks: list[Sink] = []
        if options.log_file is not None:
            sinks.append(stack.enter_context(open_log(options.log_file, study)))
        if options.tensorboard is not None:
            sinks.append(stack.enter_context(tensorboard_log(options.tensorboard, study)))
        if options.mlflow is not None:
            sinks.append(stack.enter_context(mlflow_log(options.mlflow, study)))

        def tell(event: Event) -> None:
            for sink in sinks:
                sink(event)

        yield tell
