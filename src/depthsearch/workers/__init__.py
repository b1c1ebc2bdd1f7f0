"""Where jobs run: in this process, in several of this machine, or on a cluster. Workers only train."""

from depthsearch.workers.gpu import check_room
from depthsearch.workers.here import InProcess
from depthsearch.workers.jobs import (
    Ended,
    Executor,
    Failed,
    Job,
    JobRunner,
    Lost,
    Probing,
    Report,
    Training,
    run_job,
)
from depthsearch.workers.local import LocalProcesses
from depthsearch.workers.plans import WorkerPlan, plan_workers
from depthsearch.workers.ray.cluster import RayWorkers
from depthsearch.workers.starting import cluster_device, cluster_has_gpus, ray_workers

__all__ = [
    "Ended",
    "Executor",
    "Failed",
    "InProcess",
    "Job",
    "JobRunner",
    "LocalProcesses",
    "Lost",
    "Probing",
    "RayWorkers",
    "Report",
    "Training",
    "WorkerPlan",
    "check_room",
    "cluster_device",
    "cluster_has_gpus",
    "plan_workers",
    "ray_workers",
    "run_job",
]
