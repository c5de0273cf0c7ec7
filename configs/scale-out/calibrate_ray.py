#!/usr/bin/env python3
"""`qwen-nvfp4 calibrate` over many devices or machines, scheduled by Ray.

    pip install ray==2.60.0
    python calibrate_ray.py --workers 2 --shards 8 -o calib.json -- --model FILE --samples 512
    python calibrate_ray.py --address auto --gpus 1 --shards 64 -o calib.json -- --model FILE --samples 512

What stands after `--` goes to `calibrate` as it is. Each shard is a task. One that is killed, or whose worker or
machine is lost, is given to another worker, where `--resume` goes on after the last sample. Binary, model and output
must lie under the same paths on all machines. The same command goes on with whatever an earlier one left.

Exit codes: 0 done, 1 a shard failed for good or the merge failed, 2 wrong arguments.
"""

import argparse
import os
import pathlib
import shutil
import socket
import subprocess
import sys

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
import ray

WRONG_ARGUMENTS = 2  # of qwen-nvfp4: trying again would not help


def last_line(log):
    lines = pathlib.Path(log).read_text(errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "nothing")


def run_shard(command, cwd, log):
    """One attempt. Returns whether the shard is done; raises where another attempt may help."""
    # A worker that is killed must not leave its child behind, beside the child of its successor.
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    with open(log, "a") as file:
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        print(f"-- attempt on {socket.gethostname()}, worker {os.getpid()}, GPUs {gpus}", file=file, flush=True)
        code = subprocess.run(guard + command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=file).returncode
    if code not in (0, WRONG_ARGUMENTS):
        raise RuntimeError(f"exit code {code}, last line: {last_line(log)}")
    return code == 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--binary", default="qwen-nvfp4", help="[default: qwen-nvfp4, from PATH]")
    add("--shards", type=int, required=True, help="parts; a few for each worker, so that none waits long at the end")
    add("--workers", type=int, default=1, help="on this machine, at a time; --address ignores it [default: 1]")
    add("--threads", type=int, help="of each worker, CPUs in Ray's words [default: cores / workers; 1 with --address]")
    add("--gpus", type=float, default=0, help="of each worker; Ray tells them apart by CUDA_VISIBLE_DEVICES [default: 0]")
    add("--retries", type=int, default=5, help="of each shard [default: 5]")
    add("--address", help="of a running Ray cluster, or auto [default: none, one is started for this run]")
    add("--force", action="store_true", help="overwrite the output")
    add("-o", "--output", required=True, help="merged file; OUTPUT.shards/ keeps the parts and their logs")
    add("calibrate", nargs="*", metavar="-- FLAG", help="flags of qwen-nvfp4 calibrate")
    args = parser.parse_args()
    args.binary = shutil.which(args.binary) or parser.error(f"{args.binary} is no program; say --binary")
    args.output = os.path.abspath(args.output)
    if min(args.shards, args.workers) < 1:
        parser.error("--shards and --workers count from 1")
    if os.path.exists(args.output) and not args.force:
        parser.error(f"{args.output} is there already; say --force to overwrite it, or give another -o")
    return args


def start_ray(args):
    if args.address:
        args.threads = args.threads or 1
        ray.init(args.address, log_to_driver=False)
    else:
        args.threads = args.threads or max(1, (os.cpu_count() or 1) // args.workers)
        ray.init(num_cpus=args.workers * args.threads, include_dashboard=False, log_to_driver=False)
    has = ray.cluster_resources()
    if has.get("GPU", 0) < args.gpus or has.get("CPU", 0) < args.threads:
        sys.exit(f"no worker can have {args.threads} CPUs and {args.gpus} GPUs: Ray has {has}")


def main():
    args = arguments()
    start_ray(args)
    folder = pathlib.Path(args.output + ".shards")
    folder.mkdir(parents=True, exist_ok=True)
    binary = os.path.abspath(args.binary)
    parts = [folder / f"shard-{i}-of-{args.shards}.json" for i in range(args.shards)]
    task = ray.remote(run_shard).options(
        num_cpus=args.threads, num_gpus=args.gpus, max_retries=args.retries, retry_exceptions=[RuntimeError]
    )
    running = {}
    for i, part in enumerate(parts):
        command = [binary, "calibrate", *args.calibrate, "--threads", str(args.threads)]
        command += ["--shard", f"{i}/{args.shards}", "--resume", "-o", str(part)]
        running[task.remote(command, os.getcwd(), str(part.with_suffix(".log")))] = i

    failed = 0
    while running:
        [ref], _ = ray.wait(list(running), num_returns=1)
        i = running.pop(ref)
        log = parts[i].with_suffix(".log")
        try:
            done, why = ray.get(ref), None
        except ray.exceptions.RayError as e:
            done, why = False, getattr(e, "cause", None) or e
        if done:
            attempts = log.read_text(errors="replace").count("-- attempt on ")
            print(f"shard {i}: {last_line(log)} (attempts: {attempts})", flush=True)
        else:
            failed += 1
            print(f"shard {i} failed for good: {why or last_line(log)}; see {log}", file=sys.stderr, flush=True)
    ray.shutdown()
    if failed:
        sys.exit(f"{failed} of {args.shards} shards failed; nothing is lost, the same command goes on")
    merge = [binary, "calibrate", "merge", *map(str, parts), "-o", args.output]
    sys.exit(subprocess.run(merge + ["--force"] * args.force).returncode)


if __name__ == "__main__":
    main()
