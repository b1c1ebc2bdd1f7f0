"""Who trains: this process, several of this machine, or a cluster. They only train; see `study`."""

from depthsearch.executors.cluster import RayWorkers
from depthsearch.executors.gpu import check_room
from depthsearch.executors.here import InProcess
from depthsearch.executors.jobs import (
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
from depthsearch.executors.local import LocalProcesses
from depthsearch.executors.plans import WorkerPlan, plan_workers
from depthsearch.executors.starting import cluster_device, cluster_has_gpus, ray_workers

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
