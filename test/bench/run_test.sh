#!/bin/sh
# test/bench/run_test.sh SOURCES - bench/run puts rows together, says what reached its target, and stands where a part fails.
# The programs are made up here, so that nothing is measured.
# SPDX-License-Identifier: Apache-2.0
set -eu
run=$1/bench/run
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/build/bench"

# shellcheck disable=SC2016 # what is written is for the program to expand
program() {
    printf '#!/bin/sh\n[ "$1" = --json ] || exit 9\ncat <<END\n%s\nEND\nexit %s\n' "$2" "$3" >"$work/build/bench/$1"
    chmod +x "$work/build/bench/$1"
}

expect() {
    grep -qF -- "$1" "$work/results.md" || {
        echo "there is no '$1' in:" >&2
        cat "$work/results.md" >&2
        exit 1
    }
}

program actors 'for people: nothing
{"row": "quick, and good", "unit": "ns", "ours": 39.5, "baseline": 352, "baseline_name": "others", "limit": 4.4, "limit_name": "bare", "target": 40, "load": 0.125}
{"row": "slow", "unit": "ns", "ours": 41, "baseline": null, "baseline_name": "", "limit": null, "limit_name": "", "target": 40, "load": 0}' 0
program links '{"row": "wide", "unit": "GB/s", "ours": 12345.6, "baseline": 1, "baseline_name": "others", "limit": 2, "limit_name": "bare", "target": 9, "load": 0}
{"row": "narrow", "unit": "GB/s", "ours": 8, "baseline": 1, "baseline_name": "others", "limit": null, "limit_name": "", "target": null, "load": 0}' 0
"$run" --no-build --build "$work/build" --parts actors,links --output "$work/results.md" >"$work/table" 2>"$work/words"
expect '| quick, and good | ns | 39.5 | others 352 | bare 4.4 | 40 | yes | 0.12 |'
expect '| slow | ns | 41 | - | - | 40 | no | 0.00 |'
expect '| wide | GB/s | 12346 | others 1 | bare 2 | 9 | yes | 0.00 |'
expect '| narrow | GB/s | 8 | others 1 | - | - | - | 0.00 |'
grep -q 'quick, and good' "$work/table"
if grep -q 'Not measured' "$work/results.md"; then exit 1; fi

# Where a training step's time goes stands behind the table, each dtype by itself; llm.c stands beside PyTorch.
cat >"$work/build/bench/training" <<'PROGRAM'
#!/bin/sh
printf '%s\n' "$@" >"$0.told"
cat <<END
| operation | processor ms | of the step |
| linear | 1.0 | 9% |

{"row": "step", "unit": "ms", "ours": 652, "baseline": 2933, "baseline_name": "PyTorch", "limit": 463, "limit_name": "peak", "target": 1100, "load": 0.02, "also": "llm.c 1987"}

| float32 | 124m-64 |
| --- | ---: |
| linear | 100.1, 22.6% (96%) |

| bfloat16 | 124m-64 |
| --- | ---: |
| linear | 54.3, 22.8% (86%) |

END
PROGRAM
chmod +x "$work/build/bench/training"
LLMC=/somewhere/llm.c "$run" --no-build --build "$work/build" --parts training --output "$work/results.md" >"$work/table" 2>"$work/words"
grep -qx '/somewhere/llm.c' "$work/build/bench/training.told"
expect '| step | ms | 652 | PyTorch 2933, llm.c 1987 | peak 463 | 1100 | yes | 0.02 |'
expect "## Where a training step's time goes"
expect '| linear | 100.1, 22.6% (96%) |'
expect '| linear | 54.3, 22.8% (86%) |'
[ "$(grep -c '^| float32 |\|^| bfloat16 |' "$work/results.md")" = 2 ]
if grep -q 'processor ms |' "$work/results.md"; then exit 1; fi
"$run" --no-build --build "$work/build" --parts training --llmc "/a b:/c" --output - 2>"$work/words" >"$work/table"
grep -q 'PyTorch 2933, llm.c 1987' "$work/table"
grep -qx '/a b:/c' "$work/build/bench/training.told"

# A part that fails is named, with its last word; what it had measured and the other parts stand.
# shellcheck disable=SC2016
program links '{"row": "half", "unit": "x", "ours": 1, "baseline": null, "baseline_name": "", "limit": null, "limit_name": "", "target": 1, "load": 0}
$(echo it broke >&2)' 3
status=0
"$run" --no-build --build "$work/build" --parts actors,links,pipelines --output "$work/results.md" >"$work/table" 2>"$work/words" || status=$?
[ "$status" = 1 ]
expect '| slow |'
expect '| half |'
expect 'Not measured: links (exit 3: it broke).'
expect 'Not measured: pipelines (not built).'

status=0
"$run" --parts nonsense 2>"$work/words" || status=$?
[ "$status" = 2 ] && grep -q "there is no part 'nonsense'" "$work/words"

# What was measured on a GPU is put behind the table, in the place of what was there, and stays when the table is written again.
mkdir "$work/gpu"
printf '| model | tokens/s |\n|---|---|\n| small | 12345 |\n' >"$work/gpu/results.md"
for _ in 1 2; do "$1/bench/gpu/run" --record "$work/gpu" --results "$work/results.md" >/dev/null; done
expect '| slow |'
[ "$(grep -c '| small | 12345 |' "$work/results.md")" = 1 ]
"$run" --no-build --build "$work/build" --parts actors --output "$work/results.md" >"$work/table" 2>"$work/words"
expect '| small | 12345 |'
[ "$(grep -c '^## On a GPU' "$work/results.md")" = 1 ]
[ "$(grep -c '| slow |' "$work/results.md")" = 1 ]
printf '| small | 23456 |\n' >"$work/gpu/results.md"
"$1/bench/gpu/run" --record "$work/gpu" --results "$work/results.md" >/dev/null
expect '| small | 23456 |'
expect '| quick, and good |'
if grep -q 12345 "$work/results.md"; then exit 1; fi
status=0
"$1/bench/gpu/run" --record "$work/nowhere" --results "$work/results.md" 2>"$work/words" || status=$?
[ "$status" = 2 ] && grep -q "results.md'" "$work/words"
