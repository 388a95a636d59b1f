# shellcheck shell=bash
# test/cli/two_hosts.sh - two hosts for a job: the namespace of the script, 10.77.0.1, and another one, 10.77.0.2 and .3, joined by a
# cable; how a job is led on the one and joined from the other; and plain, the run that nothing happens to. Sourced by bash
# behind network_job.sh, in namespaces of its own.
# SPDX-License-Identifier: Apache-2.0
here=10.77.0.1 port=7600
cleanup() {
    local pid
    for pid in $host_pid $(jobs -p); do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in /proc/[0-9]*; do # what hosts of ours may have left
        [ "$(readlink "$pid/exe" 2>/dev/null)" = "$troupe" ] && [ "$(readlink "$pid/cwd" 2>/dev/null)" = "$PWD" ] &&
            kill -KILL "${pid#/proc/}" 2>/dev/null || true
    done
}
new_host
trap cleanup EXIT
over_there() { nsenter --net="/proc/$host_pid/ns/net" --uts="/proc/$host_pid/ns/uts" "$@"; }
ip link set lo up
ip link add cable type veth peer name cable netns "$host_pid"
ip addr add $here/24 dev cable
ip link set cable up
over_there hostname second
over_there ip link set lo up
over_there ip addr add 10.77.0.2/24 dev cable
over_there ip addr add 10.77.0.3/24 dev cable
over_there ip link set cable up
cable() { ip link set cable "$1"; }
deafen() { # HERE|THERE: what is sent to that side does not arrive; the other way is open
    if [ "$1" = HERE ]; then
        over_there ip neigh replace $here lladdr 02:00:00:00:00:99 dev cable nud permanent
    else
        ip neigh replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev cable nud permanent
    fi
}
hear_again() {
    over_there ip neigh del $here dev cable 2>/dev/null || true
    ip neigh del 10.77.0.2 dev cable 2>/dev/null || true
}

# --- a job over both ---
hosts="layout.hosts=2 network.address=$here network.key=troupe.key network.wait=30 supervision.silence=2"
pipeline="layout.data=1 layout.pipeline=2"
joiner=
lead() { # NAME key=value...: sets head
    name=$1
    shift
    rm -rf "$name" "$name".*
    timeout -k 5 120 "$troupe" train recipe.yaml run="$name" $hosts "$@" >"$name.out" 2>"$name.err" &
    head=$!
}
join() { # ADDRESS OUTPUT [options]: sets joiner, the agent of another host
    local address=$1 output=$2
    shift 2
    over_there timeout -k 5 120 "$troupe" worker --join $here:$port --key troupe.key --address "$address" "$@" \
        >"$output" 2>&1 &
    joiner=$!
}
wait_for_hosts() { wait_for_events host_joined "$1"; } # so many have joined in all
scale() { timeout 60 "$troupe" scale "$name" "$@" >"$name.scale" 2>&1 || { cat "$name.scale"; fail "is not scaled to $*"; }; }

# --- its processes ---
processes_of() { # the tree under a process
    local child
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do processes_of "$child"; done
    echo "$1"
}
kill_host() { # all at once
    local all
    all=$(processes_of "$joiner")
    kill -KILL $all 2>/dev/null || true # some end with another
    wait "$joiner" 2>/dev/null || true
}
all_end() { # what ran there is gone within some seconds
    local pid
    for pid in $1; do until_so 6 is_over "$pid" || fail "process $pid lives on"; done
}
agent_of() { # the process itself, below timeout(1) and whatever shell
    local pid=$1 child
    while child=$(pgrep -P "$pid" | head -n 1) && [ -n "$child" ] && [ "$(readlink "/proc/$pid/exe")" != "$troupe" ]; do
        pid=$child
    done
    echo "$pid"
}
agent_of_the_head() { # below timeout(1) is the head, below it the agent
    local real pid
    read -r real _ <"/proc/$head/task/$head/children"
    read -r pid _ <"/proc/$real/task/$real/children"
    echo "$pid"
}
pid_of_worker() { # of the process that it is now, on whatever host
    sed -n "s/.*\"worker_started\".*\"node\":$1,\"pid\":\([0-9]*\).*/\1/p" "$name/events.jsonl" | tail -n 1
}
is_there() { # WORKER: its process is on another host than the head's
    grep '"worker_started"' "$name/events.jsonl" | grep "\"node\":$1," | tail -n 1 | grep -q 'on another host'
}
stop_politely() { # the head's run, where it stands
    kill -INT "$(cat "/proc/$head/task/$head/children")"
    wait "$head" || true
}

# --- its end ---
same_bits() { # PLAIN: the run ended well, and as the plain one did
    local code=0 last
    wait "$head" || code=$?
    [ $code = 0 ] || fail "exit $code"
    cmp -s <(losses "$1") <(losses "$name") || fail "other losses than $1"
    last=$(ls "$1/checkpoints" | tail -1)
    cmp -s "$1/checkpoints/$last/model.safetensors" "$name/checkpoints/$last/model.safetensors" ||
        fail "other weights than $1"
    ! has_event from_disk || fail "went back to the disk"
}
changed_without_loss() { # PLAIN: behind a change that nobody died of, every step once
    same_bits "$1"
    ! has_event recovered && ! has_event host_lost || fail "somebody was lost"
    ! grep -q '"event":"going_back' "$name/events.jsonl" || fail "went back"
}
epochs() { sed -n 's/.*"epoch": *\([0-9]*\).*/\1/p' "$name/log.jsonl" | sort -un | tr '\n' ' '; }

write_recipe 250 "{data: 2}" "supervision: {intensity: 100}" "checkpoint: {every: 100, keep: 0}"
"$troupe" keygen >/dev/null
undisturbed() { # NAME key=value...: a run to compare with, where there is none yet
    [ -d "$1" ] || "$troupe" train recipe.yaml run="$1" layout.processes=false transport=inproc "${@:2}" >/dev/null
}
undisturbed plain
long() { undisturbed long train.steps=1500; } # under way for longer than several changes
