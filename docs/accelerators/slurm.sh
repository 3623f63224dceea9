#!/usr/bin/env bash
# Training over the GPUs of several nodes, one process for each GPU:
#   sbatch slurm.sh --config=image:cpu-joint --workdir=/shared/runs/image
# Other modes run in the same way: --mode=fit, or --mode=run for all. Add what your cluster asks for (--partition,
# --account), and activate the environment that nid_jax is installed in, before you call sbatch or below.
#SBATCH --job-name=nid_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
# SIGTERM two minutes before the end: the step is saved, and the same command goes on from there.
#SBATCH --signal=TERM@120
# Again by itself after a node failed or the job was preempted; after its time is over, call sbatch again.
#SBATCH --requeue
set -euo pipefail
# JAX finds coordinator, count and number of processes in Slurm's variables, and takes the GPU of the process's own
# number on its node: as many tasks as GPUs.
exec srun --kill-on-bad-exit=1 nid_jax --distributed --config.mesh.data=0 "$@"
