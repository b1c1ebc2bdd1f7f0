from . import results as results, study as study, visualization as visualization
from .classifier.model import Classifier as Classifier, Prediction as Prediction
from .classifier.modelfolder import load as load
from .data.dataset import DataSet as DataSet
from .data.loading import load_data as load_data
from .data.samples import Sample as Sample
from .devices import choose_device as choose_device
from .errors import DepthsearchError as DepthsearchError
from .features.budget import Budget as Budget, choose_budget as choose_budget
from .models.backbones import load_backbone as load_backbone
from .models.candidates import list_cuts as list_cuts
from .models.cuts import Cut as Cut, find_cut as find_cut
from .models.freezing import Frozen as Frozen, freeze_before as freeze_before
from .models.heads import make_head as make_head
from .models.split import Split as Split, joined_state as joined_state, split_at as split_at
from .options.study import StudyOptions as StudyOptions
from .search.space import Point as Point, SearchSpace as SearchSpace
from .study.control import enqueue as enqueue, request_stop as request_stop
from .study.progress import Status as Status, status as status
from .training.objective import Objective as Objective, transfer_curve as transfer_curve
from .training.outcomes import TransferCurve as TransferCurve
from .training.recipe import Recipe as Recipe
from .training.task import Task as Task

__version__: str
