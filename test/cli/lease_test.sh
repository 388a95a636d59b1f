#!/usr/bin/env bash
# test/cli/lease_test.sh TROUPE [CASE...] - who leads a job on several hosts: the head that has the lease in etcd. Hosts are network
# namespaces on one bridge, etcd is a real one behind it, the run directory is the same for all. Whatever happens to the leading
# host, one head goes on, with the bits of a run that nobody disturbed, each step logged once and each epoch used once.
# Where no namespaces can be made or no etcd is installed, nothing is tested, and that is said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
. "${self%/*}/network_job.sh"
[ -n "${INSIDE:-}" ] || run_alone "$self" "ip nsenter etcd" "${@:2}"

# --- etcd at 10.78.0.1, and the hosts a, b, c at .2, .3, .4 ---
declare -A host address=([a]=10.78.0.2 [b]=10.78.0.3 [c]=10.78.0.4)
etcd_url=http://10.78.0.1:2379
etcd_pid=""
processes_on() { # HOST: all that run there, but what keeps it; without a process of its own, so that it is quick
    local pid
    for pid in /proc/[0-9]*; do
        [ "$pid/ns/net" -ef "/proc/${host[$1]}/ns/net" ] && [ "$pid" != "/proc/${host[$1]}" ] && echo "${pid#/proc/}"
    done
    true
}
nobody_is_on() { [ -z "$(processes_on "$1")" ]; }
kill_host() { # HOST: all at once
    local all
    all=$(processes_on "$1")
    kill -KILL $all 2>/dev/null || true # some end with another
}
cleanup() {
    local each pid
    for each in a b c; do [ -n "${host[$each]:-}" ] && kill_host $each && kill -KILL "${host[$each]}" 2>/dev/null || true; done
    for pid in $etcd_pid $(jobs -p); do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
}
trap cleanup EXIT
on() { # HOST COMMAND...
    local at=$1
    shift
    nsenter --net="/proc/${host[$at]}/ns/net" "$@"
}
ip link set lo up
ip link add bridge type bridge
ip addr add 10.78.0.1/24 dev bridge
ip link set bridge up
for each in a b c; do
    new_host
    host[$each]=$host_pid
    ip link add "to_$each" type veth peer name eth netns "${host[$each]}"
    ip link set "to_$each" master bridge up
    on $each ip link set lo up
    on $each ip addr add "${address[$each]}/24" dev eth
    on $each ip link set eth up
done
cut_off() { ip link set "to_$1" down; }

start_etcd() {
    etcd --data-dir "$PWD/etcd" --listen-client-urls $etcd_url --advertise-client-urls $etcd_url \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380 >>etcd.log 2>&1 &
    etcd_pid=$!
    until_so 20 etcd_is_well || { echo "FAILED: etcd does not start"; tail -n 20 etcd.log; exit 1; }
}
etcd_is_well() {
    (exec 3<>/dev/tcp/10.78.0.1/2379 && printf 'GET /health HTTP/1.0\r\n\r\n' >&3 && grep -q true <&3) 2>/dev/null
}
stop_etcd() {
    kill -KILL "$etcd_pid"
    wait "$etcd_pid" 2>/dev/null || true
    etcd_pid=""
}

# --- jobs ---
common="layout.hosts=2 network.key=troupe.key network.wait=30 supervision.silence=2 head.etcd=$etcd_url head.ttl=3"
lead() { # HOST NAME key=value...: sets head
    local at=$1
    name=$2
    shift 2
    rm -rf "$name" "$name".*
    on "$at" timeout -k 5 90 "$troupe" train recipe.yaml run="./$name" $common network.address="${address[$at]}" "$@" \
        >"$name.$at.out" 2>"$name.$at.err" &
    head=$!
}
standby() { # HOST: sets standby
    on "$1" timeout -k 5 90 "$troupe" train "$name/recipe.yaml" --standby network.address="${address[$1]}" \
        >"$name.$1.standby" 2>&1 &
    standby=$!
    wait_for_words "waits: job '.*' is led by process [0-9]* on host" "$name.$1.standby" 10
}
join() { # HOST: sets joiner
    on "$1" timeout -k 5 90 "$troupe" worker --key troupe.key --stay --wait 40 \
        --join 10.78.0.2:7600,10.78.0.3:7600,10.78.0.4:7600 >"$name.$1.joiner" 2>&1 &
    joiner=$!
}
head_of() { # PID: the head below a shell and timeout(1)
    local child
    [ "$(readlink "/proc/$1/exe")" != "$troupe" ] || { echo "$1"; return; }
    for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do head_of "$child"; done
}
wait_for_running() { wait_for_events running "$1"; } # the N-th head trains
wait_for_words() { # WORDS FILE SECONDS
    until_so "$3" grep -qs -- "$1" "$2" || fail "$2 does not say '$1' within $3 s"
}
ends_with() { # CODE PID SECONDS WHO
    local code=0
    until_so "$3" is_over "$2" || fail "$4 has not ended within $3 s"
    wait "$2" || code=$?
    [ "$code" = "$1" ] || fail "$4: exit $code instead of $1"
}
same_bits() { # the run is done, as the plain one
    [ "$(sed 's/.*"step": *\([0-9]*\).*/\1/' "$name/log.jsonl" | tr '\n' ' ')" = "$(seq $steps | tr '\n' ' ')" ] ||
        fail "log.jsonl has not each step once, in order"
    cmp -s <(losses plain) <(losses "$name") || fail "other losses"
    cmp -s plain/checkpoints/step-$steps/model.safetensors "$name/checkpoints/step-$steps/model.safetensors" || fail "other weights"
    local begun
    begun=$(sed -n 's/^{"epoch":\([0-9]*\)\(,"data".*\)\?,"lease":[0-9]*}$/\1/p' "$name/epochs.jsonl")
    [ -n "$begun" ] && [ "$begun" = "$(sort -n <<<"$begun" | uniq)" ] || fail "an epoch was used twice, or not won in etcd"
    [ ! -e "$name/processes.json" ] || fail "processes.json is left"
}
heads_in_epochs() { grep -o '"lease":[0-9]*' "$name/epochs.jsonl" | sort -u | wc -l; }
from_memory() { # N: so many heads went on from what hosts held, and nobody went back to the disk
    count_events from_memory
    [ "$n_events" = "$1" ] || fail "$n_events heads instead of $1 went on from memory"
    ! has_event from_disk || fail "went back to the disk"
    ! grep -qs "resuming after step" "$name".*.standby || fail "went on from a checkpoint"
}

steps=500
case " ${*:2} " in *etcd_goes_away* | *two_standbys* | "  ") steps=1200 ;; esac # under way for longer than a lease, or than two losses
write_recipe $steps "{data: 2}" "supervision: {intensity: 100}" "checkpoint: {every: 40, keep: 3}"
"$troupe" keygen >/dev/null
"$troupe" train recipe.yaml run=plain transport=inproc layout.processes=false >/dev/null

# --- the cases ---

case_the_leading_host_is_killed() { # one that joined goes on, beside the head that was a standby there
    lead a killed
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby b
    join b
    wait_for_step 50
    kill_host a
    ends_with 0 $standby 60 "the standby"
    same_bits
    ends_with 0 $joiner 10 "the joiner"
    wait_for_words "went on in its place\|goes on in its place" killed.b.standby 1
    from_memory 1 # of the other replica, which was there
    count_events host_joined
    [ "$n_events" = 2 ] || fail "the host did not join again"
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
}

case_copies_replace_the_leading_hosts_states() { # which go from the host that has them to the one that leads now
    lead a copies layout.data=1 layout.pipeline=2 supervision.hold_every=4 checkpoint.every=1000 # more than a coordinator remembers
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    wait_for_step 200
    kill_host a
    ends_with 0 $standby 60 "the standby"
    same_bits
    from_memory 1
    ends_with 0 $joiner 10 "the joiner"
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
}

case_states_that_nobody_holds_come_from_the_disk() { # one stage of two was on the leading host alone
    local text
    lead a nowhere layout.data=1 layout.pipeline=2 supervision.copies=false
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    wait_for_step 100
    kill_host a
    ends_with 0 $standby 60 "the standby"
    same_bits
    ends_with 0 $joiner 10 "the joiner"
    ! has_event from_memory || fail "went on from a state that nobody had"
    text=$(grep '"event":"from_disk"' "$name/events.jsonl") || fail "does not say that it went back to the disk"
    [[ $text =~ checkpoints/step-|after\ step\ [0-9] ]] || fail "does not say to where: $text"
}

case_states_of_a_layout_that_it_was_scaled_to() {
    lead a scaled
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    wait_for_step 50
    on a timeout 60 "$troupe" scale ./scaled data=4 >scaled.scale 2>&1 || fail "is not scaled: $(cat scaled.scale)"
    wait_for_step 150
    kill_host a
    ends_with 0 $standby 60 "the standby"
    same_bits
    from_memory 1
    grep -q "4 replicas x 1 stages" scaled.c.standby || fail "not in the layout that it was scaled to"
    ends_with 0 $joiner 10 "the joiner"
}

case_states_that_the_log_does_not_reach_are_not_used() { # lines that a file system lost with the host that wrote them
    local logged
    lead a behind checkpoint.every=1000
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby b
    join b
    wait_for_step 100
    kill_host a
    logged=$(steps_logged)
    head -n $((logged - 10)) behind/log.jsonl >behind.log
    cp behind.log behind/log.jsonl # before the lease of the one that was killed is over
    ends_with 0 $standby 60 "the standby"
    same_bits
    ! has_event from_memory && grep -q "steps [0-9]* to $((logged - 10)) are run again" behind/events.jsonl ||
        fail "went on from states of steps that are not in the log"
}

case_a_resume_goes_on_from_what_hosts_hold() { # where only the processes of the leading host were lost
    lead a again
    join b
    wait_for_step 50
    kill_host a
    on a timeout -k 5 90 "$troupe" train recipe.yaml --resume run=./again $common network.address=10.78.0.2 >again.resumed 2>&1 ||
        fail "the resumed run: exit $?"
    same_bits
    from_memory 1
    ends_with 0 $joiner 10 "the joiner"
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
}

case_heads_that_are_lost_one_after_another_leave_the_states() { # the second one before or after it has begun
    local first second
    lead a heads
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standbys begin
    standby b
    first=$standby
    standby c
    second=$standby
    join b
    wait_for_step 50
    kill_host a
    until_so 20 grep -qs "goes on in its place" heads.b.standby heads.c.standby || fail "nobody goes on"
    if grep -q "goes on in its place" heads.b.standby; then # not its host, where the states are
        kill -KILL "$(head_of "$first")"
        ends_with 0 "$second" 60 "the second standby"
    else
        kill_host c
        ends_with 0 "$first" 60 "the first standby"
    fi
    same_bits
    ends_with 0 $joiner 10 "the joiner"
    has_event from_memory && ! has_event from_disk || fail "went back to the disk"
    [ "$(heads_in_epochs)" = 3 ] || [ "$(heads_in_epochs)" = 2 ] || fail "not so many heads"
}

case_the_leading_host_is_cut_off() { # from etcd and from all others
    lead a cut
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby b
    join b
    wait_for_step 50
    cut_off a
    ends_with 1 $head 10 "the head that was cut off"
    grep -q "lease of job" cut.a.err || fail "it does not say why it ends"
    [ "$(grep -c . cut.a.err)" -ge 1 ] && [ "$(grep -c '^troupe:' cut.a.err)" = 1 ] || fail "not one line of why"
    until_so 5 nobody_is_on a || fail "processes live on where the head was: $(processes_on a)"
    ends_with 0 $standby 60 "the standby"
    same_bits
    ends_with 0 $joiner 10 "the joiner"
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
    ip link set to_a up
}

case_two_standbys_and_one_more_loss() { # in the end with fewer hosts than the layout has
    local first second
    lead a two
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby b
    first=$standby
    standby c
    second=$standby
    join a
    wait_for_step 50
    kill_host a
    wait_for_running 2
    local leads=b other=c
    grep -q "goes on in its place" two.c.standby && leads=c other=b
    ! grep -q "goes on in its place" two.$other.standby || fail "both lead"
    kill_host $leads
    if [ $leads = b ]; then ends_with 0 "$second" 60 "the second standby"; else ends_with 0 "$first" 60 "the first standby"; fi
    same_bits
    [ "$(heads_in_epochs)" = 3 ] || fail "not three heads"
}

case_the_loser_is_refused() { # and a standby that nobody needs goes
    local code
    lead a refused train.steps=4000
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    refused() { # WORDS key=value...
        local words=$1 out
        shift
        code=0
        out=$(on c timeout 20 "$troupe" train "$@" 2>&1) || code=$?
        [ $code = 2 ] || fail "exit $code instead of 2: $out"
        out=$(grep -v "waits up to" <<<"$out") # beside the one line of why
        [[ $(wc -l <<<"$out") = 1 && $out =~ $words ]] || fail "does not say '$words' in one line: $out"
    }
    local mine="$common network.address=10.78.0.4"
    local leader="is led by process $(head_of $head) on host '.*' at 10.78.0.2"
    refused "$leader" recipe.yaml run=other $mine head.job="$PWD/refused"
    [ ! -e other ] || fail "a run that was refused made a directory"
    refused "another troupe trains" recipe.yaml --resume run=refused $mine
    mkdir elsewhere && cp recipe.yaml elsewhere # the lock is of one host, as all are here: where it is free, the lease decides
    refused "$leader" recipe.yaml --resume run=elsewhere $mine head.job="$PWD/refused"
    refused "needs head.etcd" refused/recipe.yaml --standby network.address=10.78.0.4 head.etcd=null head.job=null head.ttl=null
    kill -INT "$(head_of $head)"
    ends_with 1 $head 20 "the head that was stopped"
    ends_with 0 $standby 10 "the standby that was not needed"
    [ "$(wc -l <refused.c.standby)" = 1 ] || fail "the standby says more than that it waits"
}

case_etcd_goes_away() { # the head stops with a checkpoint; the standby goes on when etcd is back
    lead a away
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    wait_for_step 30
    stop_etcd
    ends_with 1 $head 10 "the head"
    grep -q "stopped after step [0-9]* of $steps: the lease of job" away.a.err || fail "it does not say that it stopped"
    local step
    step=$(steps_logged)
    [ -d "away/checkpoints/step-$step" ] || fail "no checkpoint of step $step"
    [ -e away/processes.json ] || fail "who comes next is not told that the run goes on"
    start_etcd
    ends_with 0 $standby 60 "the standby"
    grep -q "going on after step $step .*no step is run again" away.c.standby || fail "it went back behind step $step"
    same_bits
    ends_with 0 $joiner 10 "the joiner"
    count_events host_joined
    [ "$n_events" = 2 ] || fail "the host was not told that the job goes on"
}

case_no_etcd_at_the_start() {
    local code=0
    name=none
    stop_etcd
    on a timeout 30 "$troupe" train recipe.yaml run=none $common network.address=10.78.0.2 >none.out 2>&1 || code=$?
    [ $code = 2 ] && [ "$(wc -l <none.out)" = 1 ] && grep -q "head.etcd: cannot ask for the lease" none.out ||
        { cat none.out; fail "exit $code"; }
    [ ! -e none ] || fail "it made a directory"
    mkdir none && cp recipe.yaml none/
    code=0
    on a timeout 30 "$troupe" train none/recipe.yaml --standby run=none $common network.address=10.78.0.2 >none.out 2>&1 || code=$?
    [ $code = 2 ] && [ "$(wc -l <none.out)" = 1 ] || { cat none.out; fail "a standby: exit $code"; }
    rm -r none
    start_etcd
}

case_a_head_that_sleeps_beyond_its_lease_does_nothing() {
    local real before epochs
    lead a asleep
    wait_for_words host_awaited "$name/events.jsonl" 20 # it waits for its hosts while the standby begins
    standby c
    join b
    wait_for_step 50
    real=$(head_of $head)
    kill -STOP "$real"
    wait_for_words "waits until another one on this host" asleep.c.standby 15 # it has the lease, not yet the lock
    ln asleep/log.jsonl asleep.log # what it has open; the next head's log is another file
    before=$(cksum <asleep.log)
    epochs=$(cat asleep/epochs.jsonl)
    kill -CONT "$real"
    ends_with 1 $head 5 "the head that slept"
    grep -q "another one may lead\|does not lead any more" asleep.a.err || fail "it does not say why it ends"
    [ "$before" = "$(cksum <asleep.log)" ] || fail "it logged something yet"
    [ "$epochs" = "$(grep -v '"epoch":2' asleep/epochs.jsonl)" ] || fail "it began something yet"
    ends_with 0 $standby 60 "the standby"
    same_bits
}

case_a_standby_beside_the_head_takes_its_workers_over() { # on one host the lease and the lock go together
    lead a beside layout.hosts=1 supervision.silence=null network.wait=null head.standby=true
    wait_for_step 50
    kill -KILL "$(head_of $head)"
    wait $head 2>/dev/null || true
    wait_for_words '"event":"ended"' beside/events.jsonl 60 # by the standby, whose parent is gone
    wait_for_words "done after step $steps" beside.a.out 5
    grep -q '"event":"readopted"' beside/events.jsonl || fail "its workers were not taken over"
    until_so 5 test ! -e beside/processes.json || true
    same_bits
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
}

case_a_resume_waits_for_a_dead_heads_lease() {
    local alone="layout.hosts=1 supervision.silence=null network.wait=null"
    lead a resumed $alone
    wait_for_step 50
    kill -KILL "$(head_of $head)"
    wait $head 2>/dev/null || true
    on a timeout 60 "$troupe" train recipe.yaml --resume run=resumed $common network.address=10.78.0.2 $alone >resumed.out 2>&1 ||
        fail "exit $?"
    grep -q "waits up to 5 s: job '.*/resumed' was led by process" resumed.out || fail "it does not say that it waits"
    same_bits
    [ "$(heads_in_epochs)" = 2 ] || fail "not two heads"
}

start_etcd
run_cases "${@:2}"
