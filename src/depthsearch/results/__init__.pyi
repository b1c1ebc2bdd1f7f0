from .evidence import (
    Evidence as Evidence,
    Expected as Expected,
    Settled as Settled,
    promising as promising,
    weigh as weigh,
)
from .front import Front as Front, FrontPoint as FrontPoint, front_of as front_of
from .importance import importance_of as importance_of
from .stored import (
    ConfirmationPlan as ConfirmationPlan,
    StoredBackbone as StoredBackbone,
    StoredData as StoredData,
    StoredStudy as StoredStudy,
    Wanted as Wanted,
)
from .summary import (
    Cost as Cost,
    Standing as Standing,
    Summary as Summary,
    standings as standings,
    summarize as summarize,
)
from .trials import StoredTrial as StoredTrial, UnsetTrial as UnsetTrial, rank as rank
