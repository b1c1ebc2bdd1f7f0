"""What a study will take, and the study file that suits images and a machine."""

from depthsearch.study.planning.choosing import Setting
from depthsearch.study.planning.making import Plan, pace, plan
from depthsearch.study.planning.measuring import Measured
from depthsearch.study.planning.writing import check_place, study_file, write_study_file

__all__ = [
    "Measured",
    "Plan",
    "Setting",
    "check_place",
    "pace",
    "plan",
    "study_file",
    "write_study_file",
]
