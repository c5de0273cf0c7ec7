#!/usr/bin/env bash
# Runs slurm-array.sh on a real Slurm of one machine: controller and node daemon out of Debian 12's packages, unpacked into a
# temporary folder, nothing installed. One calibrate process is killed in the middle of its shard; the merged file must equal
# that of an undisturbed run. Needs root, apt-get and a minute.
#
#   configs/scale-out/test_slurm.sh [BINARY]        [default: target/release/qwen-nvfp4]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
QWEN_NVFP4=$(realpath "${1:-$here/../../target/release/qwen-nvfp4}")
export QWEN_NVFP4
tmp=$(mktemp -d)
chmod 755 "$tmp"
trap 'kill $(jobs -p) 2>/dev/null || true; wait || true; rm -rf "$tmp"' EXIT
cd "$tmp"
fail() { echo "FAILED: $*" >&2; tail -n 20 ctld.log d.log >&2 || true; exit 1; }

apt-get download -qq slurm-wlm-basic-plugins slurmctld slurmd slurm-client libmunge2 libhwloc15 2>/dev/null
for deb in *.deb; do dpkg -x "$deb" debs; done
libraries=$tmp/debs/usr/lib/$(uname -m)-linux-gnu
ln -s slurmstepd-wlm debs/usr/sbin/slurmstepd
export LD_LIBRARY_PATH=$libraries:$libraries/slurm-wlm SLURM_CONF=$tmp/slurm.conf PATH=$tmp/debs/usr/bin:$PATH
mkdir state spool
host=$(hostname -s)
cat >slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
PluginDir=$libraries/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$tmp/state
SlurmdSpoolDir=$tmp/spool
SlurmctldPidFile=$tmp/ctld.pid
SlurmdPidFile=$tmp/d.pid
SlurmctldLogFile=$tmp/ctld.log
SlurmdLogFile=$tmp/d.log
SchedulerParameters=bf_interval=2,sched_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
debs/usr/sbin/slurmctld-wlm -D >/dev/null 2>&1 &
sleep 3
debs/usr/sbin/slurmd-wlm -D -d "$tmp/debs/usr/sbin/slurmstepd-wlm" >/dev/null 2>&1 &
for ((i = 0; i < 60; i++)); do
  [[ $(sinfo -h -o %t 2>/dev/null) != idle ]] || break
  sleep 1
done
sinfo --version
sinfo

"$QWEN_NVFP4" calibrate --samples 96 --threads 1 -o reference.json
# As it is, but for the number of cores.
sed 's/--cpus-per-task=8/--cpus-per-task=1/' "$here/slurm-array.sh" >array.sh
chmod +x array.sh

for ((try = 0; ; try++)); do
  ((try < 5)) || fail 'shard 1 was never hit in the middle'
  rm -rf all.json all.json.shards
  ./array.sh 4 all.json --samples 96
  part=all.json.shards/shard-1-of-4.json
  until [[ -e $part || -e $part.partial ]]; do sleep 0.02; done
  for pid in $(pgrep -f -- "-o $part\$"); do
    [[ $(readlink "/proc/$pid/exe") != "$QWEN_NVFP4" || $(readlink "/proc/$pid/cwd") != "$tmp" ]] || kill -9 "$pid"
  done
  for ((i = 0; i < 240; i++)); do
    # A requeued task waits for two minutes; not here.
    id=$(squeue -h -t PENDING -o '%i %r' | awk '$2 == "BeginTime" { print $1; exit }')
    [[ -z $id ]] || { echo "requeued: $id"; scontrol update jobid="$id" starttime=now; }
    [[ -n $(squeue -h) ]] || break
    sleep 1
  done
  cat all.json.shards/slurm-1.log
  [[ $(tail -n 1 all.json.shards/slurm-1.log) != '24 samples, 24 of them'* ]] || continue
  break
done
scontrol show job | grep -oE 'JobId=.*|JobState=[A-Z]+|Restarts=[1-9][0-9]*' || true
grep -qE '^24 samples, ([1-9]|1[0-9]|2[0-3]) of them now' all.json.shards/slurm-1.log || fail 'shard 1 was not gone on with'
cmp all.json reference.json || fail 'all.json differs'
echo 'ok: Slurm array with a kill: equal to the undisturbed run'

./array.sh 2 wrong.json --stepz 1
for ((i = 0; i < 60; i++)); do [[ -n $(squeue -h) ]] || break; sleep 1; done
scontrol show job | grep -q 'JobState=CANCELLED Reason=DependencyNeverSatisfied' || fail 'the merge still waits'
[[ ! -e wrong.json ]] || fail 'wrong.json was written'
echo 'ok: wrong arguments fail at once, and the merge is cancelled'
printf '\n2 passed, 0 failed\n'
