#!/usr/bin/env bash
# test/cli/changing_hosts_test.sh TROUPE [CASE...] - a job on several hosts whose hosts or layout change while it goes on: hosts that
# leave politely or come late, troupe scale, a resume, and a host that is lost in or behind the change. Nothing is run twice that
# nobody was lost for, and the bits are those of one host.
# Where no namespaces can be made, nothing is tested, and that is said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
. "${self%/*}/network_job.sh"
[ -n "${INSIDE:-}" ] || run_alone "$self" "ip nsenter" "${@:2}"
. "${self%/*}/two_hosts.sh"

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
        makes_steps 5
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
    makes_steps 20
    kill -TERM "$(agent_of "$first")"
    wait "$first" || fail "the first host ends with exit $?"
    makes_steps 20
    is_there 2 || fail "worker 2 is not on the spare"
    kill -TERM "$(agent_of "$second")"
    wait "$second" || fail "the second host ends with exit $?"
    makes_steps 20
    ! is_there 2 || fail "worker 2 is not on the head's host"
    join 10.77.0.2 go.joiner3
    wait_for_hosts 3
    makes_steps 50
    is_there 2 || fail "a host that joined later is not used"
    changed_without_loss long
    wait "$joiner" || fail "the third joiner fails"
    [ "$(epochs)" = "1 2 3 4 " ] || fail "epochs $(epochs)"
}

case_scaling_over_hosts() {
    local spare
    long
    lead scaled train.steps=1500
    join 10.77.0.2 scaled.joiner
    wait_for_step 20
    scale data=4
    grep -q '2 -> 4 replicas, 2 workers new' scaled.scale || fail "says '$(cat scaled.scale)'"
    ! is_there 2 && is_there 3 && is_there 4 || fail "4 replicas are not 2 on each host"
    makes_steps 20
    scale data=1 pipeline=2
    ! is_there 1 && is_there 2 || fail "the pipeline is not cut between the hosts"
    makes_steps 20
    if timeout 60 "$troupe" scale scaled hosts=3 data=3 >scaled.refused 2>&1; then fail "more hosts than there are"; fi
    grep -q '2 hosts are here, and 3 are wanted' scaled.refused || fail "says '$(cat scaled.refused)'"
    spare=$joiner
    join 10.77.0.3 scaled.joiner2
    wait_for_hosts 2
    scale data=3 pipeline=1 hosts=3
    ! is_there 1 && is_there 2 && is_there 3 || fail "3 replicas are not on 3 hosts"
    [ "$("$troupe" ps scaled --json | grep '"host_number"' | sort -u | wc -l)" = 3 ] || fail "not 3 hosts"
    makes_steps 20
    scale hosts=1
    ! is_there 1 && ! is_there 2 && ! is_there 3 || fail "not all is on one host"
    makes_steps 20
    scale data=2 hosts=2
    is_there 2 || fail "the second host is not used again"
    changed_without_loss long
    wait "$joiner" || fail "a joiner fails"
    wait "$spare" || fail "a joiner fails"
}

# Whatever moment of a change the host is lost in, whether it is to get work, to give it or to keep it.
case_a_host_is_lost_during_a_change() {
    local delay wish
    undisturbed plain600 train.steps=600
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

# From replicas that are each other's copies to a pipeline that has none: they come with the change, not some seconds later.
case_a_host_is_lost_behind_a_change() {
    local slow="model.width=96 train.steps=400 network.copy_rate=1"
    undisturbed wide $slow
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
    count_events host_lost
    [ "$n_events" = 2 ] || fail "not two hosts were lost"
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

run_cases "${@:2}"
