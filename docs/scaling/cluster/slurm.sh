#!/bin/bash
# A depthsearch study on several nodes of a Slurm cluster: sbatch slurm.sh
#
# Whole nodes, as Ray takes ports and memory for the node; one Ray process a node.
#SBATCH --job-name=depthsearch
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --time=12:00:00
#SBATCH --open-mode=append
# Not every site lets a job be queued again unless it says so.
#SBATCH --requeue
# Before the time is up only this script is told, so that running epochs can end.
#SBATCH --signal=B:TERM@600
set -euo pipefail

# --- yours ------------------------------------------------------------------------------------
gpus_per_node=4
# The same environment on every node, with depthsearch[ray,postgres]: in a folder that all nodes see.
source "$HOME/depthsearch/bin/activate"
# The password comes from ~/.pgpass (or PGPASSWORD), which nobody sees in the list of processes.
study=(
    depthsearch study
    --backbone densenet121
    --data "$HOME/photos"
    --storage "postgresql://$USER@database.example.org/depthsearch"
    --name photos
)
# A fast disk of each node: kept features, and what Ray itself writes.
scratch="/tmp/depthsearch-$SLURM_JOB_ID"
# ----------------------------------------------------------------------------------------------

# This script runs on the first node, whose name in Slurm may be another than on the network.
head=$(hostname)
head_in_slurm=${SLURMD_NODENAME:-$head}
port=$((20000 + SLURM_JOB_ID % 10000))
address="$head:$port"
# Only those who know the token can use this Ray (2.52 or later).
RAY_AUTH_TOKEN=$(python -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

# Slurm ends these with the script. The study itself keeps the usual cache folder, which should be one that
# all nodes see: there its checkpoints outlive the job.
on_node=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus_per_node" --temp-dir="$scratch/ray" --block)
XDG_CACHE_HOME="$scratch/cache" srun --overlap --nodes=1 --ntasks=1 --nodelist="$head_in_slurm" \
    ray start --head --port="$port" "${on_node[@]}" &
others=$((SLURM_JOB_NUM_NODES - 1))
for _ in {1..60}; do
    ray status --address "$address" >/dev/null 2>&1 && break
    sleep 2
done
if ((others > 0)); then
    XDG_CACHE_HOME="$scratch/cache" srun --overlap --nodes="$others" --ntasks="$others" \
        --exclude="$head_in_slurm" ray start --address="$address" "${on_node[@]}" &
fi

"${study[@]}" --executor ray --ray-address "$address" --workers $((SLURM_JOB_NUM_NODES * gpus_per_node)) &
running=$!
trap 'told=yes; kill -TERM "$running" 2>/dev/null || true' TERM
told=yes
while [[ $told ]]; do
    # The trap cuts a wait short: then there is another, for the study's own status.
    told= status=0
    wait "$running" || status=$?
done

# 130: the time is nearly up, and something is left; the same study goes on in the next job. 75: the database went
# away and stayed away. (depthsearch stop ends it with 0: then nobody goes on.)
if ((status == 130 || status == 75)); then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
