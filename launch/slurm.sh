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

# Ranks in the order of the list of nodes: TensorFlow finds the address of each by its rank.
srun --distribution=block --kill-on-bad-exit=1 "$PYTHON" -m tfssl.fit "$@" --set training.strategy=multi_worker
status=$?

# From 128 on it was cut (138: a worker is gone; 143: preempted after a save), and the same command goes on; below, a
# user's mistake is the same the next time.
if [ "$status" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
