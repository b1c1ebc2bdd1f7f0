from .choosing import Setting as Setting
from .making import Plan as Plan, pace as pace, plan as plan
from .measuring import Measured as Measured
from .place import check_place as check_place
from .writing import (
    study_file as study_file,
    write_study_file as write_study_file,
)
