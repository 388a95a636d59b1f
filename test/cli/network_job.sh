# shellcheck shell=bash
# test/cli/network_job.sh - what scripts share that train in network namespaces: the namespaces themselves, a small job, how it is
# followed, and that its end has the bits of one that nobody disturbed. Sourced by bash with $troupe set, the program; $name is
# the run's and $head the process that was started for it.
# SPDX-License-Identifier: Apache-2.0
name=none head=

can_make_namespaces() { unshare --user --map-root-user --net true 2>/dev/null; }

# run_alone SCRIPT TOOLS [CASE...] - runs the script again, in namespaces and a directory of its own, and ends as it does.
run_alone() {
    local script=$1 tool
    for tool in $2; do
        command -v "$tool" >/dev/null || { echo "there is no $tool here (packages.txt names its package): nothing was tested"; exit 77; }
    done
    can_make_namespaces || { echo "no network namespaces here: nothing was tested"; exit 77; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    INSIDE=1 unshare --user --map-root-user --net "$script" "$troupe" "${@:3}"
    exit
}

# new_host: sets host_pid, of a process that keeps namespaces of a network and a name
new_host() {
    unshare --net --uts sleep 900 &
    host_pid=$!
    until_so 2 is_apart "$host_pid" || { echo "FAILED: there is no second network namespace"; exit 1; }
}
is_apart() { [ -e "/proc/$1/ns/net" ] && ! [ "/proc/$1/ns/net" -ef /proc/self/ns/net ]; }

# write_recipe STEPS LAYOUT [LINE...]: recipe.yaml, and the text that it trains on
write_recipe() {
    head -c 20000 "$troupe" | od -A n -t x1 >text
    printf '%s\n' "run: run" "model: {layers: 2, width: 16, heads: 2}" "data: {text: text}" \
        "train: {steps: $1, sequence: 8, microbatch: 1, accumulate: 4}" "lr: {peak: 1e-3}" "layout: $2" "transport: zmq" \
        "${@:3}" >recipe.yaml
}

# Without a process of its own: what waits here shares the processors with what it waits for.
exec {never}<> <(:)
nap() { read -r -t "$1" -u "$never" || true; }

# until_so SECONDS COMMAND...: whether it succeeds within that time
until_so() {
    local until=$((SECONDS + $1 + 1))
    shift
    until "$@"; do
        ((SECONDS < until)) || return 1
        nap 0.005
    done
}

fail() {
    echo "FAILED $name: $*"
    tail -n 40 "$name".* 2>/dev/null || true
    [ ! -f "$name/events.jsonl" ] || tail -n 30 "$name/events.jsonl"
    [ ! -f "$name/epochs.jsonl" ] || cat "$name/epochs.jsonl"
    exit 1
}
is_over() { # PID: there is none, or only its zombie
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    stat=${stat##*) }
    [ "${stat%% *}" = Z ]
}

# --- what a run writes ---
steps_logged() { [ -f "$name/log.jsonl" ] && wc -l <"$name/log.jsonl" || echo 0; }
has_step() {
    local lines=()
    [ ! -f "$name/log.jsonl" ] || mapfile -t lines <"$name/log.jsonl"
    ((${#lines[@]} >= $1))
}
has_step_or_end() { has_step "$1" || is_over "$head"; }
wait_for_step() {
    until_so 60 has_step_or_end "$1" || fail "does not come to step $1"
    has_step "$1" || fail "ended before step $1"
}
makes_steps() { wait_for_step $(($(steps_logged) + $1)); }
count_events() { # KIND: sets n_events
    local lines=() line n=0
    [ ! -f "$name/events.jsonl" ] || mapfile -t lines <"$name/events.jsonl"
    for line in "${lines[@]}"; do [[ $line != *"\"event\":\"$1\""* ]] || ((++n)); done
    n_events=$n
}
has_events() { # KIND N
    count_events "$1"
    ((n_events >= $2))
}
has_event() { has_events "$1" 1; }
wait_for_events() { until_so 40 has_events "$1" "$2" || fail "no $2 events '$1', but $n_events"; }
wait_for_event() { wait_for_events "$1" 1; }
losses() { sed 's/.*"loss_hex": *"\([^"]*\)".*/\1/' "$1/log.jsonl"; }

# --- the cases: functions case_NAME, all or those named ---
run_cases() {
    local each began
    for each in ${*:-$(compgen -A function case_)}; do
        began=$SECONDS
        "case_${each#case_}"
        echo "ok ${each#case_} ($((SECONDS - began)) s)"
    done
}
