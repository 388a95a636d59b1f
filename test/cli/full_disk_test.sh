#!/usr/bin/env bash
# test/cli/full_disk_test.sh TROUPE - a disk that fills up: at the start (exit 2, nothing is left), during a training
# (an alarm, and it goes on; the log misses no line), at the last checkpoint (exit 1; a resume goes on from the one
# before, with the bits of a run that never lacked room).
# Twice: with files that may not grow (RLIMIT_FSIZE, which everybody may set), and on a small tmpfs in a mount namespace
# of our own, which some containers forbid; that is said then.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
kind=${2:-} # limit or disk; none: both
if [ -z "$kind" ]; then
    "$0" "$troupe" limit
    for enter in "unshare -Urm" "unshare -m"; do
        $enter sh -c 'mount -t tmpfs -o size=64k none /mnt' 2>/dev/null || continue
        $enter "$0" "$troupe" disk
        exit
    done
    echo "no small disk: neither 'unshare -Urm' nor 'unshare -m' may mount a tmpfs here; tested by file sizes alone"
    exit 0
fi

work=$(mktemp -d)
background=
cleanup() {
    [ -z "$background" ] || kill -KILL "$background" 2>/dev/null || true
    cd /
    [ "$kind" = limit ] || umount "$work/disk" || true
    rm -rf "$work"
}
trap cleanup EXIT
fault() { echo "$kind: $*"; cat "$work"/{out,err} 2>/dev/null | tail -n 20; exit 1; }

# --- how much room there is: of a disk in all, of a limit in one file ---

ROOMY_KIB=65536
mkdir "$work/disk"
if [ "$kind" = disk ]; then
    mount -t tmpfs -o size=${ROOMY_KIB}k none "$work/disk"
    NO_SPACE="No space left on device"
    leave() { # KIB; again where something was written between looking and setting
        for _ in $(seq 100); do
            local used
            used=$(df --output=used -k . | tail -n 1)
            mount -o "remount,size=$((used + $1))k" "$work/disk" 2>/dev/null && return
        done
        fault "could not set the size of the disk"
    }
    troupe() { "$troupe" "$@"; }
else
    NO_SPACE="File too large"
    limit=$ROOMY_KIB # for what is started; what runs gets it at once
    leave() {
        limit=$1
        [ -z "$background" ] || prlimit --pid "$background" --fsize="$(($1 * 1024)):"
    }
    troupe() { (ulimit -S -f "$limit" && exec "$troupe" "$@"); }
fi

cd "$work/disk"
od -A n -t x1 -N 20000 "$troupe" >text
cat >recipe.yaml <<END
run: run
model: {layers: 2, width: 32, heads: 2}
data: {text: text}
train: {steps: 15, sequence: 8, microbatch: 1, accumulate: 2}
lr: {peak: 1e-3, decay: constant}
layout: {processes: false}
checkpoint: {every: 5, keep: 2}
END
steps() { grep -oE '^\{"step":[0-9]+' "$1/log.jsonl" | cut -d: -f2; }
is_complete() { # RUN N: steps 1 to N, each once and in order, each line whole
    [ "$(steps "$1")" = "$(seq "$2")" ] || fault "the log of $1 does not have the steps 1 to $2"
    ! grep -qvE '^\{"step":.*\}$' "$1/log.jsonl" || fault "a line of $1/log.jsonl is cut"
}
newest() { find "$1/checkpoints" -maxdepth 1 -name 'step-*' -printf '%f\n' 2>/dev/null | cut -d- -f2 | sort -n | tail -n 1; }
await() { # WHAT COMMAND...: for at most a minute
    local what=$1
    shift
    for _ in $(seq 600); do
        "$@" && return
        [ -z "$background" ] || kill -0 "$background" 2>/dev/null || fault "it ended before $what"
        sleep 0.1
    done
    fault "waited a minute for $what"
}
# What it says goes through a pipe: a file of ours has the same limit.
fails_with() { # CODE WORDS COMMAND...
    local code=0 expected=$1 words=$2
    shift 2
    { "$@" 2>&1 >&3 | cat >"$work/err"; } 3>"$work/out" || code=$?
    [ "$code" = "$expected" ] || fault "exit $code instead of $expected: $*"
    grep -q -- "$words" "$work/err" || fault "does not say '$words': $*"
}
succeeds() { "$@" >"$work/out" 2>"$work/err" || fault "failed where there is room: $*"; }

# --- at the start ---

before=$(find . | sort)
leave 0
fails_with 2 "$NO_SPACE" troupe train recipe.yaml run=deep/below/full
[ "$(wc -l <"$work/err")" = 1 ] || fault "a refusal of more than one line"
[ "$(find . | sort)" = "$before" ] || fault "a start that could not write left something behind"
if [ "$kind" = disk ]; then # recipe.yaml has its page, trace.json none
    leave 4
    fails_with 2 "trace.json.*$NO_SPACE" troupe train recipe.yaml run=deep/full trace=true
    [ "$(find . | sort)" = "$before" ] || fault "a start that could not write its trace left something behind"
fi

# --- at the last checkpoint: not by a limit, which also bounds the memory files of the state ---

leave $ROOMY_KIB
[ "$kind" = limit ] || succeeds troupe train recipe.yaml run=roomy train.steps=40
for processes in $([ "$kind" = limit ] || echo false true); do
    run=run-$processes
    succeeds troupe train recipe.yaml run=$run
    leave 100 # the weights need 170 KiB, the moments twice that
    fails_with 1 "the last checkpoint, after step 40, is lost: .*$NO_SPACE" \
        troupe train recipe.yaml run=$run train.steps=40 layout.processes=$processes --resume
    for step in 20 25 30 35; do
        grep -q "checkpoint after step $step could not be written, training goes on" "$work/err" ||
            fault "no alarm at step $step"
    done
    [ "$(grep -c '"event":"checkpoint_failed"' $run/events.jsonl)" = 5 ] || fault "not an event for each"
    is_complete $run 40
    [ "$(newest $run)" = 15 ] && [ "$(find $run/checkpoints -name '.*' | wc -l)" = 0 ] || fault "left $(find $run)"
    leave $ROOMY_KIB
    succeeds troupe train recipe.yaml run=$run train.steps=40 --resume
    grep -q "resuming after step 15" "$work/out" || fault "did not resume from the checkpoint before"
    is_complete $run 40
    for file in model.safetensors trainer/optimizer.safetensors; do
        cmp {roomy,$run}/checkpoints/step-40/$file
    done
    [ "$(grep -o '"loss_hex":"[^"]*"' roomy/log.jsonl)" = "$(grep -o '"loss_hex":"[^"]*"' $run/log.jsonl)" ] ||
        fault "a resume with other bits"
    rm -r $run
done

# --- for a while in between, and so that not even the log can be written ---

has_checkpoint_after() { [ "$(newest busy)" -gt "$1" ] 2>/dev/null; }
alarms() { [ "$(grep -c "could not be written, training goes on" "$work/err")" -ge "$1" ]; }
fill_up() { # trains in busy until there is no room: its newest checkpoint is then kept
    "$troupe" train recipe.yaml run=busy train.steps=1000000 "$@" > >(cat >"$work/out") 2> >(cat >"$work/err") &
    background=$!
    await "a checkpoint" has_checkpoint_after "${kept:-5}"
    leave 0
    await "the log to wait" grep -q "log.jsonl.*$NO_SPACE; training goes on" "$work/out"
    await "two alarms" alarms 2
    kept=$(newest busy)
    [ "$kept" -gt 5 ] || fault "the older checkpoint is gone"
}
stop() { # WORDS that it says
    local code=0
    kill -INT "$background"
    wait "$background" || code=$?
    background=
    [ "$code" = 1 ] || fault "exit $code instead of 1"
    await "the words '$1'" grep -q "$1" "$work/err"
}
kept=
fill_up
leave $ROOMY_KIB
await "a checkpoint where there is room again" has_checkpoint_after "$kept"
stop "stopped after step"
last=$(sed -nE 's/.*stopped after step ([0-9]+) of 1000000, as asked.*/\1/p' "$work/err")
[ -n "$last" ] && [ "$(newest busy)" = "$last" ] || fault "did not stop at a checkpoint"
is_complete busy "$last"
for event in log_waits checkpoint_failed log_written; do
    grep -q "\"event\":\"$event\"" busy/events.jsonl || fault "no event $event"
done

# --- and stopped while there is no room ---

kept=$last
fill_up --resume
stop "the last checkpoint, after step [0-9]*, is lost: .*$NO_SPACE"
[ "$(newest busy)" = "$kept" ] || fault "the older checkpoint is gone"
leave $ROOMY_KIB
succeeds troupe train recipe.yaml run=busy --resume train.steps=$((kept + 7))
is_complete busy $((kept + 7))
echo "$kind: sound"
