#!/usr/bin/env bash
#SBATCH --job-name=calibrate
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
##SBATCH --gpus-per-task=1
##SBATCH --time=4:00:00
#
# `qwen-nvfp4 calibrate` as a Slurm job array, and a job that merges when all of it is done. On the login node:
#
#   ./slurm-array.sh SHARDS OUTPUT [flags of calibrate]
#   ./slurm-array.sh 64 calib.json --model FILE --samples 512
#
# Partition, account and so on: edit the lines above, or say SBATCH_PARTITION=... in the environment.
# QWEN_NVFP4 names the binary. The same command goes on with whatever an earlier one left.
set -euo pipefail

if (($# < 2)) || ! [[ $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 SHARDS OUTPUT [flags of qwen-nvfp4 calibrate]" >&2
  exit 2
fi
shards=$1 output=$2
shift 2
binary=${QWEN_NVFP4:-qwen-nvfp4}
part() { printf '%s.shards/shard-%s-of-%s.json' "$output" "$1" "$shards"; }

if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then # on the login node
  [[ ! -e $output ]] || { echo "$output is there already; remove it, or give another name" >&2; exit 2; }
  mkdir -p "$output.shards"
  id=$(sbatch --parsable --array="0-$((shards - 1))" --output="$output.shards/slurm-%a.log" "$0" "$shards" "$output" "$@")
  merge=("$binary" calibrate merge)
  for ((i = 0; i < shards; i++)); do merge+=("$(part "$i")"); done
  merge+=(-o "$output")
  # Where a shard fails for good, the merge is cancelled instead of waiting for ever.
  sbatch --job-name=calibrate-merge --dependency="afterok:${id%%;*}" --kill-on-invalid-dep=yes \
    --output="$output.shards/slurm-merge.log" --wrap="$(printf '%q ' "${merge[@]}")"
  exit
fi

# In the array. --requeue is for lost and preempted nodes; what dies by itself (out of memory, a fault of the GPU) is
# given back here, five times at most. Exit code 2 is wrong arguments, which stay wrong.
code=0
"$binary" calibrate "$@" --threads "${SLURM_CPUS_PER_TASK:-1}" \
  --shard "$SLURM_ARRAY_TASK_ID/$shards" --resume -o "$(part "$SLURM_ARRAY_TASK_ID")" || code=$?
if ((code != 0 && code != 2 && ${SLURM_RESTART_COUNT:-0} < 5)); then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
