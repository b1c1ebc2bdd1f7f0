"""Studies: opened in a storage, searched and confirmed by one coordinator."""

from depthsearch.search.firsts import ANCHOR_DEPTHS, ANCHOR_LEARNING_RATES, count_exhaustive, first_settings
from depthsearch.study.choosing.confirmation import FINISHED
from depthsearch.study.conducting import StudyResult, run
from depthsearch.study.control import enqueue, request_stop, wait_until_free
from depthsearch.study.coordinator import confirm, search
from depthsearch.study.events import (
    ConfirmationPlanned,
    CurveDrawn,
    Decoding,
    EpochDone,
    Event,
    Note,
    SearchEnded,
    Stopped,
    TrialEnded,
    TrialLost,
    TrialPaused,
    TrialStarted,
    Waiting,
)
from depthsearch.study.opening import open_study
from depthsearch.study.storage import open_storage
from depthsearch.text import without_password

__all__ = [
    "ANCHOR_DEPTHS",
    "ANCHOR_LEARNING_RATES",
    "FINISHED",
    "ConfirmationPlanned",
    "CurveDrawn",
    "Decoding",
    "EpochDone",
    "Event",
    "Note",
    "SearchEnded",
    "Stopped",
    "StudyResult",
    "TrialEnded",
    "TrialLost",
    "TrialPaused",
    "TrialStarted",
    "Waiting",
    "confirm",
    "count_exhaustive",
    "enqueue",
    "first_settings",
    "open_storage",
    "open_study",
    "request_stop",
    "run",
    "search",
    "wait_until_free",
    "without_password",
]
