from .choosing.confirmation import FINISHED as FINISHED
from .conducting import StudyResult as StudyResult, run as run
from .control import enqueue as enqueue, request_stop as request_stop, wait_until_free as wait_until_free
from .coordinator import confirm as confirm, search as search
from .events import (
    ConfirmationPlanned as ConfirmationPlanned,
    CurveDrawn as CurveDrawn,
    Decoding as Decoding,
    EpochDone as EpochDone,
    Event as Event,
    Note as Note,
    SearchEnded as SearchEnded,
    Stopped as Stopped,
    TrialEnded as TrialEnded,
    TrialLost as TrialLost,
    TrialPaused as TrialPaused,
    TrialStarted as TrialStarted,
    Waiting as Waiting,
)
from .opening import open_study as open_study
from .storage.opening import open_storage as open_storage
