#!/bin/bash
# One training on several nodes of a SLURM cluster: sbatch launch/slurm.sh CONFIG [ARGUMENTS OF tfssl.fit...]
# Submit it in the folder of this project, on a disk that all nodes see. One task is one worker with all GPUs of its own.
#SBATCH --job-name=tfssl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=tfssl-%j.log
PYTHON=${PYTHON:-.venv/bin/python}

# srun gives the highest status of all tasks, so one that ends with a user's mistake (2), whose end the others notice as
# a lost worker (138), leaves this file.
export MISTAKE="tfssl-$SLURM_JOB_ID.mistake"
rm -f "$MISTAKE"

# Ranks in the order of the list of nodes: TensorFlow finds the address of each by its rank.
srun --distribution=block --kill-on-bad-exit=1 bash -c '
    trap : TERM  # which the worker gets too
    "$@"
    status=$?
    [ $status -ne 2 ] || touch "$MISTAKE"
    exit $status' worker "$PYTHON" -m tfssl.fit "$@" --set training.strategy=multi_worker
status=$?

# From 128 on it was cut (138: a worker is gone; 143: preempted after a save), and the same command goes on; a user's
# mistake would be the same the next time.
if [ -e "$MISTAKE" ]; then
    rm -f "$MISTAKE"
    status=2
elif [ "$status" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
