#!/usr/bin/env bash
# test/cli/guards_test.sh TROUPE - what a careless shell does to a run: a reader that goes away, closed streams, two
# trainings in one directory, a resume with another model, a full disk behind the output, files of others.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
work=$(mktemp -d)
background=
trap '[ -z "$background" ] || kill -KILL "$background" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
head -c 20000 "$troupe" | od -A n -t x1 >text
cat >recipe.yaml <<END
run: run
model: {layers: 2, width: 16, heads: 2}
data: {text: text}
train: {steps: 8, sequence: 8, microbatch: 1, accumulate: 2}
lr: {peak: 1e-3}
layout: {processes: false}
validate: {every: 1}
END
fails_with() { # CODE WORDS COMMAND...: exits with the code and says the words
    local code=0 expected=$1 words=$2
    shift 2
    "$@" >out 2>err || code=$?
    [ "$code" = "$expected" ] || { echo "exit $code instead of $expected: $*"; cat err; exit 1; }
    grep -q -- "$words" err || { echo "does not say '$words': $*"; cat err; exit 1; }
}

# The reader leaves after one line; the training does not.
"$troupe" train recipe.yaml | head -n 1 >out
[ -d run/checkpoints/step-8 ]

# Closed streams do not become files of the run.
"$troupe" train recipe.yaml run=closed >&- 2>&- <&-
[ "$(grep -c '^{"step":' closed/log.jsonl)" = "$(wc -l <closed/log.jsonl)" ]
cmp run/checkpoints/step-8/model.safetensors closed/checkpoints/step-8/model.safetensors

# Another model, or other data, is another run; another learning rate is not.
fails_with 2 model.width "$troupe" train recipe.yaml --resume model.width=32
fails_with 2 train.seed "$troupe" train recipe.yaml --resume train.steps=9 train.seed=2
"$troupe" train recipe.yaml --resume train.steps=9 lr.peak=2e-3 >out
[ -d run/checkpoints/step-9 ]

# Output that does not arrive is no success.
fails_with 1 'could not write' bash -c "'$troupe' sample run/checkpoints/step-9 --tokens 5 >/dev/full"

# What may not be read or written. Root may do all, so then somebody else tries, with a copy that he may start.
as_somebody() { if [ "$(id -u)" = 0 ]; then setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; else "$@"; fi; }
chmod 755 .
cp "$troupe" somebodys
cp text secret
mkdir -m 555 locked
chmod 000 secret
fails_with 2 "locked/run.*Permission denied" as_somebody ./somebodys train recipe.yaml run=locked/run
mkdir -m 777 open
fails_with 2 "secret.*Permission denied" as_somebody ./somebodys train recipe.yaml run=open/run data.text=secret
[ -z "$(find locked open -mindepth 1)" ]

# A start that cannot write leaves nothing behind.
code=0
(trap '' XFSZ && ulimit -f 0 && exec "$troupe" train recipe.yaml run=full) >/dev/null 2>&1 || code=$?
[ "$code" = 2 ] && [ ! -e full ]

# One training in a directory at a time.
"$troupe" train recipe.yaml run=busy train.steps=1000000 checkpoint.every=5 >out2 &
background=$!
for _ in $(seq 100); do [ -s busy/log.jsonl ] && break || sleep 0.1; done
fails_with 2 'another troupe trains' "$troupe" train recipe.yaml run=busy train.steps=1000000 --resume
kill -INT "$background"
wait "$background" || [ $? = 1 ] # stopped, as asked
background=
