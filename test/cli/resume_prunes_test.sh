#!/usr/bin/env bash
# test/cli/resume_prunes_test.sh TROUPE - a resumed run outlives the checkpoint it began from, ends with the files and
# bits of an uninterrupted one, and logs each step once.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
golden=$(cd "$(dirname "${BASH_SOURCE[0]}")/../golden/llama" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
head -c 20000 "$troupe" | od -A n -t x1 >text

cat >recipe.yaml <<END
run: whole
model: {hf: model}
data: {text: text}
train: {steps: 6, sequence: 8, microbatch: 1, accumulate: 2}
lr: {peak: 1e-3}
layout: {processes: false, pipeline: 2}
checkpoint: {every: 1, keep: 1}
END
mkdir model
cp "$golden"/{config.json,generation_config.json,model.safetensors} model
echo '{"a companion": true}' >model/tokenizer_config.json
"$troupe" train recipe.yaml >/dev/null

# As if it had been interrupted after step 2.
"$troupe" train recipe.yaml run=parts checkpoint.keep=0 >/dev/null
rm -r parts/checkpoints/step-{3,4,5,6}
"$troupe" train recipe.yaml run=parts --resume >out
grep -q 'resuming after step 2' out

for file in model.safetensors tokenizer_config.json trainer/optimizer.safetensors; do
    cmp "whole/checkpoints/step-6/$file" "parts/checkpoints/step-6/$file"
done
[ "$(ls parts/checkpoints)" = step-6 ]
[ "$(grep -o '"loss_hex":"[^"]*"' whole/log.jsonl)" = "$(grep -o '"loss_hex":"[^"]*"' parts/log.jsonl)" ]
