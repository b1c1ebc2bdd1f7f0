from .gpu import check_room as check_room
from .here import InProcess as InProcess
from .jobs import (
    Ended as Ended,
    Executor as Executor,
    Failed as Failed,
    Job as Job,
    JobRunner as JobRunner,
    Lost as Lost,
    Probing as Probing,
    Report as Report,
    Training as Training,
    run_job as run_job,
)
from .local import LocalProcesses as LocalProcesses
from .plans import WorkerPlan as WorkerPlan, plan_workers as plan_workers
from .ray.cluster import RayWorkers as RayWorkers
from .starting import (
    cluster_device as cluster_device,
    cluster_has_gpus as cluster_has_gpus,
    ray_workers as ray_workers,
)
