#!/usr/bin/env bash
# test/cli/hosts_test.sh TROUPE [CASE...] - a job on several hosts (two_hosts.sh): they train the bits of one host, whatever of
# them is lost, cut off or made deaf on the way, and who may not join is told so on both sides.
# Where no namespaces can be made, nothing is tested, and that is said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
. "${self%/*}/network_job.sh"
[ -n "${INSIDE:-}" ] || run_alone "$self" "ip nsenter" "${@:2}"
. "${self%/*}/two_hosts.sh"

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
        until_so 3 grep -q -- "$here_says" "$name.out" "$name.err" || fail "the head does not say '$here_says'"
    }
    refused 'another key' "key is not this job's" "$troupe" worker --join $here:$port --key other/troupe.key
    refused 'another build' "may not join: its program is another build" ./built_anew worker --join $here:$port --key troupe.key
    refused "wants to join the run 'elsewhere'" "may not join: it wants" "$troupe" worker --join $here:$port --key troupe.key --run elsewhere
    refused 'expects plan' "may not join: it expects plan" "$troupe" worker --join $here:$port --key troupe.key --plan 0123456789abcdef
    plan=$("$troupe" plan recipe.yaml run=refusals $hosts network.wait=60 | sed -n 's/^plan //p')
    join 10.77.0.2 refusals.joiner --run refusals --plan "$plan"
    same_bits plain
}

shows_a_stopped_one() { "$troupe" ps seen --json | grep -q '"process": "stopped"'; }
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
    until_so 3 shows_a_stopped_one || fail "does not see that it was stopped"
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
        ! has_event corruption || fail "a replay differs"
    done
}

case_a_slow_copy_holds_the_job_back() { # or there would be no generation that all have
    local keys="model.width=96 train.steps=12 supervision.hold_every=1 network.copy_rate=1" mib took least
    undisturbed slow_plain $keys
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
    count_events host_joined
    [ "$n_events" = 2 ] || fail "not two hosts joined"
}

case_a_spare_takes_over() {
    local first second
    lead spare $pipeline
    join 10.77.0.2 spare.joiner
    first=$joiner
    wait_for_step 5
    join 10.77.0.3 spare.joiner2
    second=$joiner
    wait_for_hosts 2
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

# A worker there ends because its device failed, which is a mistake of its host.
case_a_host_whose_device_fails_is_quarantined() {
    local first second
    long
    lead failing $pipeline train.steps=1500 supervision.quarantine_after=1 \
        "chaos.at=1/stage 1 of replica 0/backward/500/DEVICE"
    join 10.77.0.2 failing.joiner
    first=$joiner
    wait_for_step 5
    join 10.77.0.3 failing.joiner2
    second=$joiner
    wait_for_hosts 2
    wait_for_event quarantined
    wait "$first" || true
    same_bits long
    has_event host_lost || fail "nobody was lost"
    grep -q "host 1 .* is quarantined for 1 mistake of its processes; the last: worker 2 .* ended with exit code 3 (its device failed)" \
        failing/events.jsonl || fail "it is not said why"
    wait "$second" || fail "the spare fails"
}

case_the_agent_of_the_heads_host_dies() { # also of one that knows the job's layout from the head alone
    agent_dies plain "1 2 "
    agent_dies long "1 2 3 " train.steps=1500
}

agent_dies() { # PLAIN EPOCHS [key=value]: with it, behind a change of the layout
    local plain=$1 epochs=$2
    shift 2
    [ $plain = plain ] || long
    lead agent $pipeline "$@"
    join 10.77.0.2 agent.joiner
    wait_for_step 40
    if [ $plain = long ]; then
        scale data=2
        is_there 3 && is_there 4 || fail "the second replica is not on the second host"
        makes_steps 20
    fi
    kill -KILL "$(agent_of_the_head)"
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
    long
    lead back $pipeline train.steps=1500
    join 10.77.0.2 back.joiner --stay
    wait_for_step 20
    cable down
    wait_for_event host_lost
    cable up
    wait_for_hosts 2
    makes_steps 100 # held and copied several times since
    kill -KILL "$(agent_of_the_head)" # the only other one that had a state
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

run_cases "${@:2}"
