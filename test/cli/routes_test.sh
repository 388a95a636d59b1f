#!/usr/bin/env bash
# test/cli/routes_test.sh TROUPE [CASE...] - a job on three hosts, of which two lose the way to each other while both reach the head:
# one of the two is given up, which one is known beforehand, and the others train on with the bits of one host.
# Where no namespaces can be made, nothing is tested, and that is said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
. "${self%/*}/network_job.sh"
[ -n "${INSIDE:-}" ] || run_alone "$self" "ip nsenter" "${@:2}"
. "${self%/*}/two_hosts.sh"

# --- the third one, 10.77.1.2, which reaches the second, 10.77.0.2, by way of the first ---
second_pid=$host_pid
new_host
third_pid=$host_pid host_pid="$second_pid $third_pid" # for cleanup, which ends both
over_there() { nsenter --net="/proc/$second_pid/ns/net" --uts="/proc/$second_pid/ns/uts" "$@"; }
on_third() { nsenter --net="/proc/$third_pid/ns/net" --uts="/proc/$third_pid/ns/uts" "$@"; }
ip link add cable2 type veth peer name cable netns "$third_pid"
ip addr add 10.77.1.1/24 dev cable2
ip link set cable2 up
on_third hostname third
on_third ip link set lo up
on_third ip addr add 10.77.1.2/24 dev cable
on_third ip link set cable up
on_third ip route add default via 10.77.1.1
over_there ip route add default via $here
echo 1 >/proc/sys/net/ipv4/ip_forward
break_way() { # HOW FROM...: what is forwarded from these is lost (blackhole), or refused (unreachable)
    local how=$1 from
    shift
    for from in "$@"; do ip rule add iif "$from" pref 10 "$how"; done
}
mend_way() { while ip rule del pref 10 2>/dev/null; do :; done; }
join_third() { # OUTPUT [options]: sets third, its agent
    local output=$1
    shift
    on_third timeout -k 5 120 "$troupe" worker --join $here:$port --key troupe.key --address 10.77.1.2 "$@" >"$output" 2>&1 &
    third=$!
}
hosts="layout.hosts=3 network.address=$here network.key=troupe.key network.wait=30 supervision.silence=2 model.layers=3"
pipeline="layout.data=1 layout.pipeline=3 train.steps=1200"
undisturbed of_three model.layers=3 train.steps=1200
lead_three() { # NAME key=value...: a stage on each, and at work
    lead "$@"
    join 10.77.0.2 "$1.joiner"
    wait_for_hosts 1 # so that the third is host 2
    join_third "$1.joiner2"
    wait_for_step 30
}
gave_up() { # N: the line that says so
    grep '"host_lost"' "$name/events.jsonl" | grep -q "host $1 (.*) is lost: the way between it and host .* is broken (nothing came for [0-9.]* s), though the head hears both" ||
        fail "it is not said why host $1 is given up"
}

long_keys="train.steps=12000 checkpoint.every=3000" # where a way that breaks does not hold training up
long_three() { undisturbed long_three model.layers=3 $long_keys; }

the_way_breaks() { # HOW FROM...
    lead_three way $pipeline
    break_way "$@"
    wait_for_event host_lost
    gave_up 2
    makes_steps 20
    count_events host_lost
    [ "$n_events" = 1 ] || fail "$n_events hosts were lost"
    same_bits of_three
    mend_way
    wait "$joiner" || fail "the second host fails"
    wait "$third" && fail "the third host does not say that it was lost"
    ! has_event stalled || fail "it is only told as a stall"
}

case_a_way_that_loses_all() {
    the_way_breaks blackhole cable cable2
}

case_a_way_that_loses_all_in_one_direction() {
    the_way_breaks blackhole cable
    the_way_breaks blackhole cable2
}

case_a_way_that_refuses() { # workers see it at once, and die of it until the host is given up
    the_way_breaks unreachable cable cable2
}

# It comes again by itself, is apart as long as the way is broken, and has its stage again behind that.
case_a_host_that_comes_back_is_used_when_it_is_reached() {
    name=apart
    long_three
    lead apart $pipeline $long_keys
    join 10.77.0.2 apart.joiner
    wait_for_hosts 1
    join_third apart.joiner2 --stay
    wait_for_step 30
    break_way blackhole cable cable2
    wait_for_event host_lost
    wait_for_hosts 3
    grep '"host_joined"' apart/events.jsonl | tail -n 1 | grep -q 'the others did not reach it before' || fail "it joins as if nothing had been"
    sleep 7 # longer than it is kept apart where nobody misses it
    ! has_event hosts_changed || fail "it is used though it is not reached"
    count_events host_lost
    [ "$n_events" = 1 ] || fail "$n_events hosts were lost"
    mend_way
    wait_for_event hosts_changed
    is_there 3 || fail "worker 3 is not on the third host"
    same_bits long_three
    wait "$third" || fail "the third host fails"
}

# Nobody works there, and nobody dies of it.
case_a_spare_that_is_not_reached() {
    long_three
    lead spare layout.hosts=2 layout.data=1 layout.pipeline=2 $long_keys
    join 10.77.0.2 spare.joiner
    wait_for_step 10
    break_way blackhole cable cable2
    join_third spare.joiner2
    wait_for_event host_cut_off
    makes_steps 20
    ! has_event host_lost || fail "a host was lost"
    mend_way
    same_bits long_three
    [ "$(epochs)" = "1 " ] || fail "epochs $(epochs)"
    wait "$third" || fail "the spare fails"
}

# What the agents would hand each other for it does not come; it is taken back, and training goes on.
case_a_way_that_breaks_during_a_change() {
    long_three
    lead change $pipeline $long_keys layout.hosts=2 layout.pipeline=2
    join 10.77.0.2 change.joiner
    wait_for_step 10
    join_third change.joiner2
    wait_for_hosts 2
    break_way blackhole cable cable2
    timeout 60 "$troupe" scale change hosts=3 pipeline=3 >change.scale 2>&1 || true
    grep -Eq 'nothing has changed|hosts are here, and 3 are wanted|with a death on the way' change.scale || { cat change.scale; fail "says something else"; }
    makes_steps 20
    same_bits long_three
    mend_way
}

run_cases "${@:2}"
