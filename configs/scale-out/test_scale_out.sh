#!/usr/bin/env bash
# Runs every file of this folder with the tiny model, kills workers in the middle of their shards, and compares each merged
# file with that of one undisturbed run: they must be equal, byte for byte. About two minutes; needs Linux, Python 3.10 or
# newer with venv, and pip's network once.
#
#   configs/scale-out/test_scale_out.sh [BINARY]        [default: target/release/qwen-nvfp4]
#
# VENV=FOLDER keeps the virtual environment for the next time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binary=$(realpath "${1:-$here/../../target/release/qwen-nvfp4}")
[[ -x $binary ]] || { echo "$binary is missing; cargo build --release" >&2; exit 2; }
tmp=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$tmp"' EXIT
venv=${VENV:-$tmp/venv}
export RAY_AUTH_MODE=disabled PATH="$tmp/bin:$PATH" # a cluster of one test, on one machine
mkdir "$tmp/bin"
ln -s "$binary" "$tmp/bin/qwen-nvfp4"
cd "$tmp"

samples=96 shards=4 passed=0
each=$((samples / shards))
run=(qwen-nvfp4 calibrate --samples "$samples" --threads 1)

step() { printf '\n== %s\n' "$*"; }
pass() { passed=$((passed + 1)); echo "ok: $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
same() { cmp "$1" reference.json || fail "$1 differs"; pass "$2: equal to the undisturbed run, $(stat -c %s "$1") bytes"; }

# made FILE: how many samples its state has.
made() { sed -n '1s/.*"samples":\([0-9]*\)},"version".*/\1/p' "$1.partial" 2>/dev/null || true; }

# worker_of FILE: the calibrate process that writes it.
worker_of() {
  local pid
  for pid in $(pgrep -f -- "-o [^ ]*$1\$" || true); do
    [[ $(readlink "/proc/$pid/exe") != "$binary" ]] || echo "$pid"
  done
}

# kill_in_the_middle FILE LEAST child|parent: waits for LEAST samples, then kills the process that makes them or its parent.
# The process is stopped while its state is looked at, so that what is printed is what it died with.
kill_in_the_middle() {
  local file=$1 least=$2 whom=$3 pid victim n tries
  for ((tries = 0; tries < 9000; tries++)); do
    sleep 0.02
    n=$(made "$file") pid=$(worker_of "$file")
    [[ ! -e $file ]] || return 1 # too late
    [[ -n $n && -n $pid ]] && ((n >= least)) || continue
    kill -STOP "$pid" 2>/dev/null || continue
    until [[ $(sed 's/.*) //' "/proc/$pid/stat") != [RSD]* ]]; do sleep 0.01; done
    n=$(made "$file") victim=$pid
    if [[ -e $file || -z $n ]] || ((n >= each)); then kill -CONT "$pid"; return 1; fi
    [[ $whom == child ]] || victim=$(awk '/^PPid/ { print $2 }' "/proc/$pid/status")
    echo "kill -9 $victim ($(cat "/proc/$victim/comm")): $file had $n of $each samples"
    kill -9 "$victim"
    for ((tries = 0; tries < 500; tries++)); do
      [[ -d /proc/$pid && $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null) != Z* ]] || return 0
      sleep 0.01
    done
    fail "$pid lives on after its worker's death"
  done
  fail "$file was never in the middle"
}

# A shard was gone on with if its last run made some of its samples only.
assert_resumed() { # assert_resumed LOG
  local last now
  last=$(grep -E '^[0-9]+ samples, [0-9]+ of them now' "$1" | tail -n 1)
  [[ $last =~ ^([0-9]+)\ samples,\ ([0-9]+)\ of ]] || fail "$1 has no result"
  now=${BASH_REMATCH[2]}
  ((BASH_REMATCH[1] == each && now > 0 && now < each)) || fail "$1: $last"
  echo "gone on with: $last"
}

step 'one undisturbed run'
"${run[@]}" -o reference.json

step 'two shards by hand, kill -9 at a random moment, --resume'
each=$((samples / 2))
for i in 1 2; do
  file=hand-$i.json
  for ((try = 0; ; try++)); do
    ((try < 5)) || fail "$file was never hit in the middle"
    rm -f "$file" "$file.partial"
    "${run[@]}" --shard "$i/2" --resume -o "$file" & job=$!
    kill_in_the_middle "$file" $((1 + RANDOM % (each - 5))) child && hit=yes || hit=
    wait "$job" 2>/dev/null || true
    [[ -z $hit ]] || break
  done
  "${run[@]}" --shard "$i/2" --resume -o "$file" 2>"$file.log"
  assert_resumed "$file.log"
done
qwen-nvfp4 calibrate merge hand-1.json hand-2.json -o hand.json
same hand.json 'by hand'
each=$((samples / shards))

step "Slurm job array under a stand-in for sbatch and scontrol"
# sbatch runs tasks at once, one after the other; scontrol requeue has its task run again. No queue, no cluster.
cat >bin/sbatch <<'FAKE'
#!/usr/bin/env bash
set -euo pipefail
while [[ ${1:-} == --* ]]; do
  case $1 in
    --array=0-*) last=${1#*-}; last=${last#*-} ;;
    --output=*) log=${1#*=} ;;
    --wrap=*) wrap=${1#*=} ;;
    --dependency=afterok:77) ;;
    --parsable | --job-name=* | --kill-on-invalid-dep=yes) ;;
    *) echo "sbatch: what is $1?" >&2; exit 1 ;;
  esac
  shift
done
echo 77
export SLURM_JOB_ID=77 SLURM_ARRAY_JOB_ID=77 SLURM_CPUS_PER_TASK=1
[[ -z ${wrap:-} ]] || exec /bin/sh -c "$wrap" >"$log" 2>&1
for ((i = 0; i <= ${last##*-}; i++)); do
  for ((n = 0; ; n++)); do
    rm -f requeue.77_$i
    SLURM_ARRAY_TASK_ID=$i SLURM_RESTART_COUNT=$n bash "$@" >>"${log/\%a/$i}" 2>&1 || true
    [[ -e requeue.77_$i ]] || break
  done
done
FAKE
cat >bin/scontrol <<'FAKE'
#!/bin/sh
test "$1" = requeue && touch "requeue.$2" && echo "scontrol requeue $2"
FAKE
chmod +x bin/sbatch bin/scontrol
bash -n "$here/slurm-array.sh"
for ((try = 0; ; try++)); do
  ((try < 5)) || fail 'the array was never hit in the middle'
  rm -rf 'slurm out.json' 'slurm out.json.shards'
  "$here/slurm-array.sh" "$shards" 'slurm out.json' --samples "$samples" & job=$!
  kill_in_the_middle "slurm out.json.shards/shard-2-of-$shards.json" 3 child && hit=yes || hit=
  wait "$job"
  [[ -z $hit ]] || break
done
grep 'scontrol requeue 77_2' 'slurm out.json.shards/slurm-2.log'
assert_resumed 'slurm out.json.shards/slurm-2.log'
same 'slurm out.json' 'Slurm array'

step 'virtual environment'
[[ -x $venv/bin/ray ]] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q ray==2.60.0 kubernetes-validate==1.37.0; }

step "Kubernetes: schema, and the containers' commands without containers"
"$venv/bin/kubernetes-validate" --strict -k 1.37 "$here/kubernetes-indexed-job.yaml"
sed 's/backoffLimitPerIndex/backoffLimitPerIndx/' "$here/kubernetes-indexed-job.yaml" >wrong.yaml
! "$venv/bin/kubernetes-validate" --quiet --strict -k 1.37 wrong.yaml || fail 'the schema check lets a misspelt field pass'
"$venv/bin/python" - "$here/kubernetes-indexed-job.yaml" "$samples" "$shards" <<'PYTHON'
import os, pathlib, subprocess, sys, yaml

path, samples, shards = sys.argv[1:]
config, job, merge = yaml.safe_load_all(pathlib.Path(path).read_text())
spec = job["spec"]
assert spec["completionMode"] == "Indexed" and str(spec["completions"]) == config["data"]["SHARDS"]
ours = {"MODEL": "tiny", "SAMPLES": samples, "SHARDS": shards, "OUT": os.path.abspath("k8s"), "THREADS": "1"}
assert config["data"].keys() <= ours.keys()


def run(job, **more):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    subprocess.run(container["command"] + container["args"], env=os.environ | ours | more, check=True)


for index in range(int(shards)):
    run(job, JOB_COMPLETION_INDEX=str(index))
run(merge)
PYTHON
same k8s/calib.json 'Kubernetes commands'

step "Ray: $shards shards, two workers, one of which is killed, and so is one calibrate process"
python=$venv/bin/python
# A machine that stands still for half a minute, as a busy virtual one may, makes Ray give up at its start, before any shard.
ray_run() { # ray_run OUTPUT FLAG...
  local try
  for ((try = 0; try < 3; try++)); do
    "$python" "$here/calibrate_ray.py" -o "$@" 2>ray.err && return
    [[ ! -e $1.shards ]] || return
    echo 'Ray did not start; once more'
  done
  return 1
}
for ((try = 0; ; try++)); do
  ((try < 5)) || fail 'the shards were never hit in the middle'
  rm -rf ray.json ray.json.shards
  ray_run ray.json --workers 2 --threads 1 --shards "$shards" -- --samples "$samples" & job=$!
  hit=yes
  kill_in_the_middle "ray.json.shards/shard-0-of-$shards.json" 3 parent || hit=
  kill_in_the_middle "ray.json.shards/shard-2-of-$shards.json" 3 child || hit=
  wait "$job" || { cat ray.err >&2; fail 'the runner gave up'; }
  [[ -z $hit ]] || break
done
for i in 0 2; do
  cat "ray.json.shards/shard-$i-of-$shards.log"
  (($(grep -c '^-- attempt' "ray.json.shards/shard-$i-of-$shards.log") == 2)) || fail "shard $i was not tried twice"
  assert_resumed "ray.json.shards/shard-$i-of-$shards.log"
done
same ray.json 'Ray with two kills'

step 'Ray: a shard that fails for good'
code=0
ray_run no.json --shards 1 --retries 2 -- --model nowhere || code=$?
grep 'failed for good' ray.err
(($(grep -c '^-- attempt' no.json.shards/*.log) == 3)) || fail 'not tried three times'
code2=0
ray_run no2.json --shards 1 --retries 2 -- --stepz 1 || code2=$?
(($(grep -c '^-- attempt' no2.json.shards/*.log) == 1)) || fail 'wrong arguments were tried again'
((code == 1 && code2 == 1)) || fail "exit codes $code and $code2, not 1 and 1"
[[ ! -e no.json && ! -e no2.json ]] || fail 'something was written'
pass 'exit code 1 and a message; wrong arguments are not tried again'

# A Ray cluster of several nodes, all on this machine: each has its own raylet, as a machine would.
cat >cluster.py <<'PYTHON'
import os, sys, time
from ray.cluster_utils import Cluster

def wait(name):
    while not os.path.exists(name):
        time.sleep(0.02)

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
nodes = [cluster.add_node(num_cpus=int(a), num_gpus=int(b)) for a, b in (spec.split(":") for spec in sys.argv[2:])]
cluster.wait_for_nodes()
with open("address.new", "w") as file:
    file.write(cluster.address)
os.rename("address.new", "address")
if sys.argv[1] == "lose":
    wait("lose")
    cluster.remove_node(nodes[0], allow_graceful=False)
    print("the first node is killed", flush=True)
wait("stop")
cluster.shutdown()
PYTHON
start_cluster() { # start_cluster lose|keep CPUS:GPUS...
  local try
  for ((try = 0; try < 3; try++)); do
    rm -f address lose stop
    "$python" cluster.py "$@" >cluster.log 2>&1 & cluster=$!
    while [[ ! -e address && -d /proc/$cluster ]]; do sleep 0.1; done
    [[ ! -e address ]] || return 0
    wait "$cluster" || echo 'Ray did not start; once more'
  done
  cat cluster.log >&2
  fail 'the cluster did not start'
}
stop_cluster() { touch stop; wait "$cluster" || { cat cluster.log >&2; fail 'the cluster failed'; }; }

step 'Ray: a cluster of two nodes, one of which is lost'
for ((try = 0; ; try++)); do
  ((try < 5)) || fail 'no shard was hit in the middle'
  rm -rf nodes.json nodes.json.shards
  start_cluster lose 1:0 1:0
  ray_run nodes.json --address "$(cat address)" --shards "$shards" -- --samples "$samples" & job=$!
  for ((tries = 0; tries < 3000; tries++)); do
    n=$(made "nodes.json.shards/shard-0-of-$shards.json") m=$(made "nodes.json.shards/shard-1-of-$shards.json")
    [[ -z $n || -z $m ]] || break
    sleep 0.02
  done
  touch lose
  echo "a node is lost: ${n:-0} and ${m:-0} of $each samples were made of the shards that ran"
  wait "$job" || { cat ray.err >&2; fail 'the runner gave up'; }
  stop_cluster
  lost=$(grep -c '^-- attempt' nodes.json.shards/*.log | sed -n 's/:2$//p' | head -n 1)
  [[ -z $lost ]] || break
done
cat "$lost"
assert_resumed "$lost"
same nodes.json 'Ray with a lost node'

step 'Ray: two workers with a GPU each are given different ones'
# A stand-in for the binary: this is about what the scheduler hands out, not about a GPU.
printf '#!/bin/sh\nsleep 2\n' >bin/no-op
chmod +x bin/no-op
start_cluster keep 2:2
ray_run gpu.json --address "$(cat address)" --binary no-op --gpus 1 --shards 2 || { cat ray.err >&2; fail 'the runner gave up'; }
stop_cluster
cat gpu.json.shards/*.log
[[ $(grep -ohE 'GPUs [0-9]+$' gpu.json.shards/*.log | sort -u | wc -l) == 2 ]] || fail 'both had the same GPU'
pass 'CUDA_VISIBLE_DEVICES differs'

printf '\n%d passed, 0 failed\n' "$passed"
