#!/usr/bin/env bash
# Training over the GPUs of several nodes, one process for each node:
#   sbatch docs/accelerators/slurm.sh --config=image --workdir=/shared/runs/image
# Other modes run in the same way: --mode=fit, or --mode=run for all.
#SBATCH --job-name=nid_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
# SIGTERM two minutes before the end: the step is saved, and the same command goes on from there.
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail
# JAX finds coordinator, count and number of processes in Slurm's variables.
exec srun --kill-on-bad-exit=1 nid_jax --distributed --config.mesh.data=0 "$@"
