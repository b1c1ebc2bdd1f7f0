"""The defaults of a study's options that depend on its other options."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from depthsearch.options import words

if TYPE_CHECKING:
    from depthsearch.options.study import StudyOptions

# Most settings of a search by gain, which ends by itself long before; and how many others have.
MOST_TRIALS, TRIALS = 100, 30
# For each of several backbones.
TRIALS_EACH = 20
# Of a user's own images, and of the demo, which has to end within a few minutes on two cores.
EPOCHS, DEMO_EPOCHS = 10, 3
DEMO_TRIALS, DEMO_SEEDS, DEMO_BUDGET = 20, 3, 2.0
# Where a search does not choose by itself what it trains again.
CONFIRMED, SEEDS = 3, 3
# Most trainings of a setting again, where it does.
MOST_SEEDS = 20


def is_demo(options: StudyOptions) -> bool:
    """Return whether a study is the demo on scikit-learn's digits."""
    return options.data in (None, "digits")


def is_planned(options: StudyOptions) -> bool:
    """Return whether a study is searched by gain: what it trains, and what again, is chosen by its cost."""
    is_auto = options.sampler == "auto" and options.pruner in ("auto", "pause")
    return options.sampler == "gain" or (is_auto and options.search != "exhaustive")


def with_defaults(options: StudyOptions) -> StudyOptions:
    """Fill in the defaults that depend on other options.

    The number of trials of an exhaustive search stays None: it is the number of its candidates.
    """
    demo = is_demo(options)
    changes: dict[str, Any] = {}
    if options.learning_rate is None and not options.learning_rates:
        changes["learning_rate"] = words.LEARNING_RATES
    plans = is_planned(options)
    if options.trials is None and options.search != "exhaustive":
        n_backbones = len(options.backbone)
        usual = TRIALS if n_backbones == 1 else TRIALS_EACH * n_backbones
        most = DEMO_TRIALS if demo and n_backbones == 1 else MOST_TRIALS
        changes["trials"] = most if plans else usual
        if plans and demo and n_backbones == 1 and options.budget is None:
            changes["budget"] = DEMO_BUDGET
    if options.epochs is None:
        changes["epochs"] = DEMO_EPOCHS if demo else EPOCHS
    confirm = options.confirm
    if confirm is None or (confirm == "auto" and not plans):
        confirm = changes["confirm"] = "auto" if plans else CONFIRMED
    if options.seeds is None and confirm != 0:
        most_seeds = DEMO_SEEDS if demo else MOST_SEEDS
        changes["seeds"] = most_seeds if plans and confirm != "all" else SEEDS
    return replace(options, **changes)
