#!/usr/bin/env bash
# test/cli/hosts_test.sh TROUPE [CASE...] - a job on several hosts, which are network namespaces joined by a cable: they train the
# bits of one host, whatever of them is lost, cut off or made deaf on the way, and who may not join is told so on both sides.
# Where no namespaces can be made, nothing is tested, and that is said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
shift
if [ "${INSIDE:-}" = "" ]; then
    if ! unshare --user --map-root-user --net true 2>/dev/null ||
        ! command -v ip >/dev/null || ! command -v nsenter >/dev/null; then
        echo "no network namespaces here: nothing was tested"
        exit 77
    fi
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    INSIDE=1 unshare --user --map-root-user --net "$self" "$troupe" "$@"
    exit
fi

# --- two hosts: this namespace, 10.77.0.1, and that of $there, 10.77.0.2 and .3 ---
here=10.77.0.1 port=7600
unshare --net --uts sleep 900 &
there=$!
cleanup() {
    local pid
    for pid in $there $(jobs -p); do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in /proc/[0-9]*; do # what hosts of ours may have left
        [ "$(readlink "$pid/exe" 2>/dev/null)" = "$troupe" ] && [ "$(readlink "$pid/cwd" 2>/dev/null)" = "$PWD" ] &&
            kill -KILL "${pid#/proc/}" 2>/dev/null || true
    done
}
trap cleanup EXIT
for _ in $(seq 100); do # it has another namespace than ours
    [ "$(readlink /proc/$there/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break || sleep 0.02
done
over_there() { nsenter --net="/proc/$there/ns/net" --uts="/proc/$there/ns/uts" "$@"; }
ip link set lo up
ip link add cable type veth peer name cable netns "$there"
ip addr add $here/24 dev cable
ip link set cable up
over_there hostname second
over_there ip link set lo up
over_there ip addr add 10.77.0.2/24 dev cable
over_there ip addr add 10.77.0.3/24 dev cable
over_there ip link set cable up

fail() {
    echo "FAILED $name: $*"
    tail -n 40 "$name".* 2>/dev/null
    [ -f "$name/events.jsonl" ] && tail -n 30 "$name/events.jsonl"
    exit 1
}
has_event() { grep -q "\"event\": *\"$1\"\|\"kind\": *\"$1\"\|\"$1\"" "$name/events.jsonl"; }
steps_logged() { [ -f "$name/log.jsonl" ] && wc -l <"$name/log.jsonl" || echo 0; }
wait_for_step() {
    for _ in $(seq 12000); do
        [ "$(steps_logged)" -ge "$1" ] && return
        kill -0 "$head" 2>/dev/null || fail "ended before step $1"
        sleep 0.005
    done
    fail "does not come to step $1"
}
wait_for_event() {
    for _ in $(seq 1500); do
        [ -f "$name/events.jsonl" ] && has_event "$1" && return
        sleep 0.02
    done
    fail "no event $1"
}
hosts="layout.hosts=2 network.address=$here network.key=troupe.key network.wait=30 supervision.silence=2"
lead() { # NAME key=value...
    name=$1
    shift
    rm -rf "$name" "$name".*
    timeout -k 5 120 "$troupe" train recipe.yaml run="$name" $hosts "$@" >"$name.out" 2>"$name.err" &
    head=$!
}
joiner=
join() { # ADDRESS OUTPUT [options]: sets joiner, the agent of another host
    local address=$1 output=$2
    shift 2
    over_there timeout -k 5 120 "$troupe" worker --join $here:$port --key troupe.key --address "$address" "$@" \
        >"$output" 2>&1 &
    joiner=$!
}
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
losses() { sed 's/.*"loss_hex": *"\([^"]*\)".*/\1/' "$1/log.jsonl"; }
same_bits() { # PLAIN: the run ended well, and as the plain one did
    local code=0
    wait "$head" || code=$?
    [ $code = 0 ] || fail "exit $code"
    cmp -s <(losses "$1") <(losses "$name") || fail "other losses than $1"
    local last
    last=$(ls "$1/checkpoints" | tail -1)
    cmp -s "$1/checkpoints/$last/model.safetensors" "$name/checkpoints/$last/model.safetensors" ||
        fail "other weights than $1"
    ! has_event from_disk || fail "went back to the disk"
}
all_end() { # what ran there is gone within some seconds
    local pid
    for pid in $1; do
        for _ in $(seq 300); do [ -d "/proc/$pid" ] && sleep 0.02 || break; done
        [ ! -d "/proc/$pid" ] || [ "$(awk '{print $3}' /proc/$pid/stat 2>/dev/null)" = Z ] || fail "process $pid lives on"
    done
}
epochs() { sed -n 's/.*"epoch": *\([0-9]*\).*/\1/p' "$name/log.jsonl" | sort -un | tr '\n' ' '; }
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

head -c 20000 "$troupe" | od -A n -t x1 >text
cat >recipe.yaml <<END
run: run
model: {layers: 2, width: 16, heads: 2}
data: {text: text}
train: {steps: 250, sequence: 8, microbatch: 1, accumulate: 4}
lr: {peak: 1e-3}
layout: {data: 2}
transport: zmq
supervision: {intensity: 100}
checkpoint: {every: 100, keep: 0}
END
"$troupe" keygen >/dev/null
"$troupe" train recipe.yaml run=plain >/dev/null
pipeline="layout.data=1 layout.pipeline=2"

# --- the cases ---

case_two_hosts_train_the_bits_of_one() {
    lead data
    join 10.77.0.2 data.joiner
    wait_for_step 10
    [ "$(over_there ss -Hltn | grep -c '10\.77\.0\.2:')" -ge 2 ] || fail "nobody listens on the other host"
    same_bits plain
    wait "$joiner" || fail "the joiner fails though the job ended well"
    lead pipe $pipeline
    join 10.77.0.2 pipe.joiner
    same_bits plain
    [ "$(epochs)" = "1 " ] || fail "epochs $(epochs)"
}

case_who_may_not_join_is_refused() {
    local code
    mkdir -p other && "$troupe" keygen other >/dev/null
    cp "$troupe" built_anew && printf 'x' >>built_anew
    lead refusals network.wait=60
    wait_for_event host_awaited
    refused() { # WORDS THERE, WORDS HERE, COMMAND...
        local there_says=$1 here_says=$2
        shift 2
        code=0
        over_there timeout 40 "$@" >refused.out 2>&1 || code=$?
        [ $code = 2 ] || { cat refused.out; fail "exit $code instead of 2: $*"; }
        grep -q -- "$there_says" refused.out || { cat refused.out; fail "does not say '$there_says'"; }
        for _ in $(seq 50); do grep -q -- "$here_says" "$name.out" "$name.err" && return || sleep 0.05; done
        fail "the head does not say '$here_says'"
    }
    refused 'another key' "key is not this job's" "$troupe" worker --join $here:$port --key other/troupe.key
    refused 'another build' "may not join: its program is another build" ./built_anew worker --join $here:$port --key troupe.key
    refused "wants to join the run 'elsewhere'" "may not join: it wants" "$troupe" worker --join $here:$port --key troupe.key --run elsewhere
    refused 'expects plan' "may not join: it expects plan" "$troupe" worker --join $here:$port --key troupe.key --plan 0123456789abcdef
    plan=$("$troupe" plan recipe.yaml run=refusals $hosts network.wait=60 | sed -n 's/^plan //p')
    join 10.77.0.2 refusals.joiner --run refusals --plan "$plan"
    same_bits plain
}

pid_of_worker() { # of the process that it is now, on whatever host
    sed -n "s/.*\"worker_started\".*\"node\":$1,\"pid\":\([0-9]*\).*/\1/p" "$name/events.jsonl" | tail -n 1
}
stop_politely() { # the head's run, where it stands
    kill -INT "$(cat "/proc/$head/task/$head/children")"
    wait "$head" || true
}

case_ps_sees_all_hosts() {
    local row pid
    lead seen train.steps=1000000
    join 10.77.0.2 seen.joiner
    wait_for_step 20
    pid=$(pid_of_worker 2)
    sleep 1 # two reports
    "$troupe" ps seen >seen.ps || fail "ps fails"
    row=$(grep '^stage 0 of replica 1' seen.ps)
    [[ $row =~ worker\ 2\ +second\ +$pid\ +[0-9]+\ MiB\ +1\.0\ +([0-9]+)\ +[0-9-]+\ +[0-9]+\ +([0-9]+)\  ]] || fail "not seen at work: $row"
    [ "${BASH_REMATCH[1]}" -ge 10 ] && [ "${BASH_REMATCH[2]}" -gt 100 ] || fail "nothing is done there: $row"
    row=$(grep '^stage 0 of replica 0' seen.ps)
    [[ $row =~ worker\ 1\ +$(hostname)\ +$(pid_of_worker 1)\ +[0-9]+\ MiB ]] || fail "not seen: $row"
    "$troupe" top seen --interval 0.1 2>&1 | head -n 20 | grep -q 'worker 2 *second' || fail "top does not show it"
    kill -STOP "$pid"
    for _ in $(seq 60); do
        "$troupe" ps seen --json | grep -q '"process": "stopped"' && break || sleep 0.02
    done
    "$troupe" ps seen --json | grep -q '"process": "stopped"' || fail "does not see that it was stopped"
    kill -CONT "$pid"
    stop_politely
}

case_a_worker_on_another_host_dies() {
    lead worker $pipeline
    join 10.77.0.2 worker.joiner
    wait_for_step 40
    kill -KILL "$(pid_of_worker 2)"
    same_bits plain
    [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
    ! has_event host_lost || fail "lost the whole host"
    wait "$joiner" || fail "the joiner fails"
    grep -q 'worker_died.*worker 2 .*signal 9' worker/events.jsonl || fail "its death is not told"
}

# Behind a change that nobody died of: every step once, the disk is not needed.
changed_without_loss() { # PLAIN
    same_bits "$1"
    ! grep -q '"recovered"\|"host_lost"' "$name/events.jsonl" || fail "somebody was lost"
    [ -z "$(grep -o '"event":"going_back[^,]*' "$name/events.jsonl")" ] || fail "went back"
}
agent_of() { # the process itself, below timeout(1) and whatever shell
    local pid=$1 child
    while child=$(pgrep -P "$pid" | head -n 1) && [ -n "$child" ] && [ "$(readlink "/proc/$pid/exe")" != "$troupe" ]; do
        pid=$child
    done
    echo "$pid"
}
generation_of() { sed -n "s/.*\"$1\".*\"generation\":\([0-9]*\).*/\1/p" "$name/events.jsonl" | tail -n 1; }
long() { [ -d long ] || "$troupe" train recipe.yaml run=long train.steps=1500 layout.processes=false transport=inproc >/dev/null; }
wait_for_hosts() { # so many have joined in all
    for _ in $(seq 1000); do
        [ "$(grep -c host_joined "$name/events.jsonl")" -ge "$1" ] && return || sleep 0.02
    done
    fail "no $1 hosts have joined"
}
is_there() { # WORKER: its process is on another host than the head's
    grep '"worker_started"' "$name/events.jsonl" | grep "\"node\":$1," | tail -n 1 | grep -q 'on another host'
}

# Its workers go to the head's host, with and without equals elsewhere, by SIGTERM and by Ctrl-C; nothing is run again.
case_a_host_leaves_politely() {
    local signal
    long
    for signal in TERM INT; do
        if [ $signal = TERM ]; then
            lead left train.steps=1500 $pipeline
        else
            lead left train.steps=1500 recovery=replay
        fi
        join 10.77.0.2 left.joiner
        wait_for_step 40
        kill -$signal "$(agent_of "$joiner")"
        wait "$joiner" || fail "the host that leaves ends with exit $?"
        grep -q 'has left the job' left.joiner || fail "does not say that it left"
        ! grep -q 'lease of this host' left.joiner || fail "was not told that it may go"
        wait_for_event host_left
        wait_for_event hosts_changed
        wait_for_step $(($(steps_logged) + 5))
        ! is_there 2 || fail "worker 2 is not on the head's host"
        changed_without_loss long
        [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
    done
}

# First the spare takes over what ran there, then the head's host what ran on the spare; a host that comes then is used again.
case_hosts_come_and_go() {
    local first second
    long
    lead go $pipeline train.steps=1500
    join 10.77.0.2 go.joiner
    first=$joiner
    wait_for_step 20
    join 10.77.0.3 go.joiner2
    second=$joiner
    wait_for_hosts 2
    wait_for_step $(($(steps_logged) + 20))
    kill -TERM "$(agent_of "$first")"
    wait "$first" || fail "the first host ends with exit $?"
    wait_for_step $(($(steps_logged) + 20))
    is_there 2 || fail "worker 2 is not on the spare"
    kill -TERM "$(agent_of "$second")"
    wait "$second" || fail "the second host ends with exit $?"
    wait_for_step $(($(steps_logged) + 20))
    ! is_there 2 || fail "worker 2 is not on the head's host"
    join 10.77.0.2 go.joiner3
    wait_for_hosts 3
    wait_for_step $(($(steps_logged) + 50))
    is_there 2 || fail "a host that joined later is not used"
    changed_without_loss long
    wait "$joiner" || fail "the third joiner fails"
    [ "$(epochs)" = "1 2 3 4 " ] || fail "epochs $(epochs)"
}

scale() { timeout 60 "$troupe" scale "$name" "$@" >"$name.scale" 2>&1 || { cat "$name.scale"; fail "is not scaled to $*"; }; }
case_scaling_over_hosts() {
    local spare
    long
    lead scaled train.steps=1500
    join 10.77.0.2 scaled.joiner
    wait_for_step 20
    scale data=4
    grep -q '2 -> 4 replicas, 2 workers new' scaled.scale || fail "says '$(cat scaled.scale)'"
    ! is_there 2 && is_there 3 && is_there 4 || fail "4 replicas are not 2 on each host"
    wait_for_step $(($(steps_logged) + 20))
    scale data=1 pipeline=2
    ! is_there 1 && is_there 2 || fail "the pipeline is not cut between the hosts"
    wait_for_step $(($(steps_logged) + 20))
    if timeout 60 "$troupe" scale scaled hosts=3 data=3 >scaled.refused 2>&1; then fail "more hosts than there are"; fi
    grep -q '2 hosts are here, and 3 are wanted' scaled.refused || fail "says '$(cat scaled.refused)'"
    spare=$joiner
    join 10.77.0.3 scaled.joiner2
    wait_for_hosts 2
    scale data=3 pipeline=1 hosts=3
    ! is_there 1 && is_there 2 && is_there 3 || fail "3 replicas are not on 3 hosts"
    [ "$("$troupe" ps scaled --json | grep '"host_number"' | sort -u | wc -l)" = 3 ] || fail "not 3 hosts"
    wait_for_step $(($(steps_logged) + 20))
    scale hosts=1
    ! is_there 1 && ! is_there 2 && ! is_there 3 || fail "not all is on one host"
    wait_for_step $(($(steps_logged) + 20))
    scale data=2 hosts=2
    is_there 2 || fail "the second host is not used again"
    changed_without_loss long
    wait "$joiner" || fail "a joiner fails"
    wait "$spare" || fail "a joiner fails"
}

# From replicas that are each other's copies to a pipeline that has none: they come with the change, not some seconds later.
case_a_host_is_lost_behind_a_change() {
    local slow="model.width=96 train.steps=400 network.copy_rate=1"
    "$troupe" train recipe.yaml run=wide $slow layout.processes=false transport=inproc >/dev/null
    lead behind $slow
    join 10.77.0.2 behind.joiner
    wait_for_step 20
    scale data=1 pipeline=2
    kill_host
    same_bits wide
    has_event host_lost || fail "nobody noticed"
    lead behind2 $slow $pipeline
    join 10.77.0.2 behind2.joiner
    wait_for_step 20
    kill_host
    wait_for_event recovered
    join 10.77.0.3 behind2.joiner2 # is used, and has copies
    wait_for_event hosts_changed
    kill_host
    same_bits wide
    [ "$(grep -c '"host_lost"' behind2/events.jsonl)" = 2 ] || fail "not two hosts were lost"
}

# Asked twice it goes at once; a worker that is asked is replaced where it is; a spare just goes.
case_other_ways_to_leave() {
    local first
    long
    lead ways train.steps=1500
    join 10.77.0.2 ways.joiner
    first=$joiner
    wait_for_step 20
    kill -TERM "$(pid_of_worker 2)"
    wait_for_event workers_replaced
    is_there 2 || fail "the worker's successor is on another host"
    join 10.77.0.3 ways.joiner2
    wait_for_hosts 2
    kill -TERM "$(agent_of "$joiner")"
    wait "$joiner" || fail "the spare ends with exit $?"
    wait_for_event host_left
    changed_without_loss long
    [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
    wait "$first" || fail "the joiner fails"
    lead twice $pipeline train.steps=1500
    join 10.77.0.2 twice.joiner
    wait_for_step 20
    first=$(agent_of "$joiner")
    kill -INT "$first"
    kill -TERM "$first" || true # it may be gone by now
    wait "$joiner" || fail "the host that leaves at once ends with exit $?"
    same_bits long
}

case_a_resumed_job_keeps_its_layout() {
    long
    lead again train.steps=1500
    join 10.77.0.2 again.joiner --stay
    wait_for_step 20
    scale data=4
    wait_for_step 150
    kill -KILL "$(cat "/proc/$head/task/$head/children")"
    wait "$head" || true
    timeout -k 5 120 "$troupe" train recipe.yaml run=again $hosts train.steps=1500 --resume >again.out2 2>&1 &
    head=$!
    wait_for_hosts 2
    same_bits long
    is_there 3 && is_there 4 || fail "not the layout that it was scaled to"
    wait "$joiner" || fail "the joiner fails"
}

# Whatever moment of a change the host is lost in, whether it is to get work, to give it or to keep it.
case_a_host_is_lost_during_a_change() {
    local delay wish
    "$troupe" train recipe.yaml run=plain600 train.steps=600 layout.processes=false transport=inproc >/dev/null
    for delay in 0 0.02 0.06; do
        for wish in "data=4 pipeline=1" "data=1 pipeline=1 hosts=1" leave; do
            lead mid $pipeline train.steps=600
            join 10.77.0.2 mid.joiner
            wait_for_step 30
            if [ "$wish" = leave ]; then
                kill -TERM "$(agent_of "$joiner")"
            else
                timeout 60 "$troupe" scale mid $wish >mid.scale 2>&1 &
            fi
            sleep $delay
            kill_host
            same_bits plain600
        done
    done
}

case_a_lost_host_is_taken_over_by_equals() {
    lead lost
    join 10.77.0.2 lost.joiner
    wait_for_step 20
    kill_host
    same_bits plain
    has_event host_lost || fail "nobody noticed"
    [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
}

case_a_lost_host_is_taken_over_by_copies() {
    lead copies $pipeline
    join 10.77.0.2 copies.joiner
    wait_for_step 40
    kill_host
    same_bits plain
    [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
    lead each $pipeline supervision.hold_every=1
    join 10.77.0.2 each.joiner
    wait_for_step 40
    kill_host
    same_bits plain
}

case_a_lost_host_of_shards_is_taken_over_by_copies() { # replicas are no equals then
    local every
    for every in "" supervision.hold_every=1; do
        lead shards layout.zero=1 $every
        join 10.77.0.2 shards.joiner
        wait_for_step 40
        kill_host
        same_bits plain
        has_event host_lost || fail "nobody noticed"
    done
}

case_those_who_live_on_keep_their_work() { # recovery: replay
    local layout
    for layout in "" "$pipeline"; do
        lead kept recovery=replay $layout
        join 10.77.0.2 kept.joiner
        wait_for_step 40
        kill_host
        same_bits plain
        grep -q '"replayed".*: 1 of 2 stages kept their work' kept/events.jsonl || fail "all was computed again"
        ! grep -q '"corruption"' kept/events.jsonl || fail "a replay differs"
    done
}

case_a_slow_copy_holds_the_job_back() { # or there would be no generation that all have
    local keys="model.width=96 train.steps=12 supervision.hold_every=1 network.copy_rate=1" mib took least
    "$troupe" train recipe.yaml run=slow_plain $keys layout.processes=false transport=inproc >/dev/null
    lead slow $pipeline $keys
    join 10.77.0.2 slow.joiner
    same_bits slow_plain
    # Each host sends its half of the states for each step but the last two, at 1 MiB a second.
    mib=$("$troupe" plan recipe.yaml run=slow $hosts $pipeline $keys | sed -n 's/^copied to .*: \([0-9.]*\) MiB in all/\1/p')
    least=$(awk "BEGIN {print int(10 * 1000 * $mib / 2 - 500)}")
    took=$(sed 's/.*"step_ms": *\([0-9]*\).*/\1/' slow/log.jsonl | awk '{sum += $1} END {print int(sum)}')
    [ "$least" -gt 4000 ] || fail "the states are so small ($mib MiB) that nothing is seen"
    [ "$took" -ge "$least" ] || fail "copied more than 1 MiB a second: 12 steps of $mib MiB took $took ms, not $least"
    lead lost_slow $pipeline $keys
    join 10.77.0.2 lost_slow.joiner
    wait_for_step 4
    kill_host
    same_bits slow_plain
}

# While nothing happens the head says nothing but that it lives, and the host needs no more.
case_a_quiet_job_keeps_its_hosts() {
    lead quiet train.steps=1000000 supervision.silence=1
    join 10.77.0.2 quiet.joiner
    wait_for_step 5
    sleep 4
    [ "$(epochs)" = "1 " ] || fail "epochs $(epochs)"
    ! has_event host_lost || fail "lost a host that was well"
    ! grep -q 'lease of this host is over' quiet.joiner || fail "the host ended its workers"
    stop_politely
}

case_a_stall_for_copies_is_told() {
    local agent
    lead stalled $pipeline supervision.silence=25 supervision.stall_after=2 supervision.hold_every=1
    join 10.77.0.2 stalled.joiner
    agent=$(agent_of "$joiner")
    wait_for_step 20
    kill -STOP "$agent" # its worker goes on
    wait_for_event stalled
    kill -CONT "$agent"
    grep '"stalled"' stalled/events.jsonl |
        grep -q 'coordinator (head, pid [0-9]*), which waits for no actor.*it waits for copies of all held states on other hosts' ||
        fail "it does not say for what"
    same_bits plain
}

case_another_host_replaces_it() {
    lead replaced $pipeline supervision.wait_for_host=30
    join 10.77.0.2 replaced.joiner
    wait_for_step 40
    kill_host
    wait_for_event host_lost
    join 10.77.0.3 replaced.joiner2
    same_bits plain
    wait "$joiner" || fail "the second joiner fails"
    [ "$(grep -c host_joined replaced/events.jsonl)" = 2 ] || fail "not two hosts joined"
}

case_a_spare_takes_over() {
    local first second
    lead spare $pipeline
    join 10.77.0.2 spare.joiner
    first=$joiner
    wait_for_step 5
    join 10.77.0.3 spare.joiner2
    second=$joiner
    for _ in $(seq 500); do
        [ "$(grep -c host_joined spare/events.jsonl)" = 2 ] && break || sleep 0.01
    done
    joiner=$first
    kill_host
    same_bits plain
    has_event host_lost || fail "nobody was lost"
    wait "$second" || fail "the spare fails"
}

# Three times what its worker sends comes damaged: it is replaced, and one mistake is the most that a host may make here.
case_an_erring_host_is_quarantined() {
    local first second stage="stage 1 of replica 0/backward"
    long
    lead erring $pipeline train.steps=1500 supervision.quarantine_after=1 \
        "chaos.at=1/$stage/500/DAMAGE,2/$stage/520/DAMAGE,3/$stage/540/DAMAGE"
    join 10.77.0.2 erring.joiner
    first=$joiner
    wait_for_step 5
    join 10.77.0.3 erring.joiner2
    second=$joiner
    wait_for_hosts 2
    wait_for_event quarantined
    wait "$first" || true
    join 10.77.0.2 erring.joiner3
    wait_for_event host_refused
    grep -q "at tcp://10.77.0.2:.* is quarantined, and not taken again" erring/events.jsonl || fail "refused for another reason"
    timeout 20 tail --pid="$joiner" -f /dev/null || fail "who is refused does not end"
    same_bits long
    has_event host_lost || fail "nobody was lost"
    grep -q "host 1 .* is quarantined for 1 mistake of its processes" erring/events.jsonl || fail "it is not said why"
    wait "$second" || fail "the spare fails"
}

case_the_agent_of_the_heads_host_dies() { # also of one that knows the job's layout from the head alone
    agent_dies plain "1 2 "
    agent_dies long "1 2 3 " train.steps=1500
}
agent_dies() { # PLAIN EPOCHS [key=value]: with it, behind a change of the layout
    local real pid plain=$1 epochs=$2
    shift 2
    [ $plain = plain ] || long
    lead agent $pipeline "$@"
    join 10.77.0.2 agent.joiner
    wait_for_step 40
    if [ $plain = long ]; then
        scale data=2
        is_there 3 && is_there 4 || fail "the second replica is not on the second host"
        wait_for_step $(($(steps_logged) + 20))
    fi
    real=$(cat "/proc/$head/task/$head/children") # below timeout(1) is the head, below it the agent
    real=${real%% *}
    pid=$(cat "/proc/$real/task/$real/children")
    kill -KILL ${pid%% *}
    same_bits $plain
    [ "$(epochs)" = "$epochs" ] || fail "epochs $(epochs)"
}

cut_between_hosts() { # key=value...
    local all
    lead cut "$@"
    join 10.77.0.2 cut.joiner
    wait_for_step 20
    all=$(processes_of "$joiner")
    cable down
    same_bits plain
    all_end "$all"
    grep -q 'lease of this host is over' cut.joiner || fail "it did not end by its lease"
    cable up
}
case_a_cut_between_hosts() {
    cut_between_hosts
    cut_between_hosts $pipeline
}

case_a_host_that_comes_back_takes_copies() {
    local real pid
    long
    lead back $pipeline train.steps=1500
    join 10.77.0.2 back.joiner --stay
    wait_for_step 20
    cable down
    wait_for_event host_lost
    cable up
    for _ in $(seq 1000); do
        [ "$(grep -c host_joined back/events.jsonl)" = 2 ] && break || sleep 0.02
    done
    [ "$(grep -c host_joined back/events.jsonl)" = 2 ] || fail "it did not come back"
    wait_for_step $(($(steps_logged) + 100)) # held and copied several times since
    real=$(cat "/proc/$head/task/$head/children")
    real=${real%% *}
    pid=$(cat "/proc/$real/task/$real/children")
    kill -KILL ${pid%% *} # the only other one that had a state
    same_bits long
    wait "$joiner" || fail "the joiner fails"
}

side_is_deaf() { # HERE|THERE
    local all
    lead deaf
    join 10.77.0.2 deaf.joiner
    wait_for_step 20
    all=$(processes_of "$joiner")
    deafen "$1"
    same_bits plain
    all_end "$all"
    hear_again
    [ "$(epochs)" = "1 2 " ] || fail "epochs $(epochs)"
}
case_one_side_is_deaf() {
    side_is_deaf HERE
    side_is_deaf THERE
}

case_a_connection_that_flaps() {
    lead flaps supervision.silence=10
    join 10.77.0.2 flaps.joiner
    for at in 20 60 100; do
        wait_for_step $at
        cable down
        sleep 0.5
        cable up
    done
    same_bits plain
    [ "$(epochs)" = "1 " ] || fail "was begun again: epochs $(epochs)"
}

case_hosts_that_do_not_come() {
    local code=0
    lead alone network.wait=1
    wait "$head" || code=$?
    [ $code = 1 ] || fail "exit $code"
    grep -q 'did not join within 1 s' alone.err || fail "does not say why"
    code=0
    over_there "$troupe" worker --join $here:$port --key troupe.key --wait 1 >nobody 2>&1 || code=$?
    [ $code = 2 ] || [ $code = 1 ] || fail "exit $code where no head is"
    grep -q 'no head at' nobody || fail "does not say that nobody is there"
}

all="other_ways_to_leave a_resumed_job_keeps_its_layout a_quiet_job_keeps_its_hosts a_stall_for_copies_is_told two_hosts_train_the_bits_of_one a_host_leaves_politely hosts_come_and_go scaling_over_hosts a_host_is_lost_during_a_change a_host_is_lost_behind_a_change ps_sees_all_hosts a_worker_on_another_host_dies who_may_not_join_is_refused a_lost_host_is_taken_over_by_equals
    a_lost_host_is_taken_over_by_copies a_lost_host_of_shards_is_taken_over_by_copies those_who_live_on_keep_their_work a_slow_copy_holds_the_job_back another_host_replaces_it a_spare_takes_over an_erring_host_is_quarantined the_agent_of_the_heads_host_dies
    a_cut_between_hosts a_host_that_comes_back_takes_copies one_side_is_deaf a_connection_that_flaps hosts_that_do_not_come"
for each in ${*:-$all}; do
    began=$SECONDS
    "case_$each"
    echo "ok $each ($((SECONDS - began)) s)"
done
