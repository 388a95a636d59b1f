#!/usr/bin/env bash
# test/cli/out_of_memory_test.sh TROUPE - the kernel kills a worker because memory is short (row 23 of the fault matrix): it is
# replaced, and the run has the bits of one that nothing happened to; killed once too often, the run ends with one line.
# Memory is short in a control group of this test: a hog in it grows until the worker, which is marked as the one to go, is
# gone. Where no control group with a memory limit may be made, the test says so and sends what the kernel would: SIGKILL.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
work=$(mktemp -d)
group= limit= usage= training=
cleanup() {
    [ -z "$training" ] || kill -KILL "$training" 2>/dev/null || true
    for _ in $(seq 50); do
        [ -z "$group" ] || [ ! -d "$group" ] || rmdir "$group" 2>/dev/null || { sleep 0.1; continue; }
        break
    done
    rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
if mkdir "/sys/fs/cgroup/memory/troupe-test-$$" 2>/dev/null; then # version 1
    group=/sys/fs/cgroup/memory/troupe-test-$$ limit=memory.limit_in_bytes usage=memory.usage_in_bytes
elif mkdir "/sys/fs/cgroup/troupe-test-$$" 2>/dev/null; then
    group=/sys/fs/cgroup/troupe-test-$$ limit=memory.max usage=memory.current
fi
if [ -z "$group" ] || [ ! -w "$group/$limit" ]; then
    echo "no control group with a memory limit may be made here: the kernel is played"
    [ -z "$group" ] || rmdir "$group"
    group=
fi

od -A n -t x1 -N 20000 "$troupe" >words
cat >recipe.yaml <<END
run: run
model: {family: llama, layers: 2, width: 32, heads: 2, vocabulary: 256}
data: {text: words}
train: {steps: 1500, sequence: 32, microbatch: 2, accumulate: 4}
lr: {peak: 1e-3}
layout: {data: 2}
transport: zmq
END
losses() { sed 's/.*"loss_hex": *"\([^"]*\)".*/\1/' "$1/log.jsonl"; }
begin() { # RUN [key=value...]: sets training
    ({ [ -z "$group" ] || echo "$BASHPID" >"$group/cgroup.procs"; } && exec "$troupe" train recipe.yaml run="$@") >out 2>&1 &
    training=$!
}
wait_for_steps() { # RUN STEPS
    for _ in $(seq 600); do
        [ ! -f "$1/log.jsonl" ] || [ "$(wc -l <"$1/log.jsonl")" -lt "$2" ] || return 0
        sleep 0.1
    done
    cat out
    return 1
}
starve() { # RUN: the worker that was started last is killed by the kernel
    local victim
    victim=$(sed -n 's/.*"worker_started".*"pid": *\([0-9]*\).*/\1/p' "$1/events.jsonl" | tail -1)
    if [ -z "$group" ]; then
        kill -KILL "$victim"
        return
    fi
    { echo 1000 >"/proc/$victim/oom_score_adj"; } 2>/dev/null || return 0 # the kernel took one more the last time
    echo $(($(cat "$group/$usage") + 16000000)) >"$group/$limit"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        hog=
        for _ in $(seq 400); do
            [ -d "/proc/$victim" ] || exit 0
            hog+=$(head -c 1000000 /dev/zero | tr '\0' x)
        done
        exit 1
    )
    echo -1 >"$group/$limit" 2>/dev/null || echo max >"$group/$limit"
}

"$troupe" train recipe.yaml run=undisturbed >out 2>&1 || { cat out; exit 1; }

# Killed once, it is replaced.
begin once
wait_for_steps once 20
starve once
wait "$training" || { cat out; exit 1; }
training=
grep -q '"worker_died".*killed by signal 9' once/events.jsonl
grep -q '"recovered"' once/events.jsonl
cmp <(losses undisturbed) <(losses once)

# Killed again, where one death is the most that is mended, it ends the run.
begin again supervision.intensity=1
wait_for_steps again 20
starve again
for _ in $(seq 300); do ! grep -q '"first_new_step"\|"ended"' again/events.jsonl || break; sleep 0.1; done
starve again
code=0
wait "$training" || code=$?
training=
[ "$code" = 1 ] || { cat out; exit 1; }
grep -q '1 within 60 s are the most that are mended' out
[ "$(grep -c '"worker_died"' again/events.jsonl)" -ge 2 ]
