from .backbones import plot_backbones as plot_backbones
from .depth import plot_score_by_depth as plot_score_by_depth
from .front import plot_front as plot_front
from .learning import plot_learning_curves as plot_learning_curves
from .settings import plot_learning_rate_by_depth as plot_learning_rate_by_depth
from .transfer import plot_transfer_curve as plot_transfer_curve
