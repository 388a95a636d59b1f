#!/usr/bin/env bash
# test/model/check.sh [recovery | hosts] [--only NAME] - searches every state of recovery.pml and hosts.pml, or of one of them,
# with Spin: first the design as it is, under several kinds of deaths, where no property may fail; then with one of its rules
# broken, where one must. Ends with 77 where there is no spin (Debian: spin).
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wanted_model= only=
case ${1:-} in recovery | hosts) wanted_model=$1 && shift ;; esac
[ "${1:-}" != --only ] || only=${2:?--only needs a name}
MEMORY_MIB=1024
SECONDS_EACH=200 # on a busy machine; a search takes a quarter of a minute on an idle one

if ! command -v spin >/dev/null; then
    echo "not run: there is no spin here (Debian: spin)"
    exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
faults=0 searched=0

# Not optimised: to compile a verifier takes longer than most searches, and with -O1 five times as long. Nor are states
# compressed (COLLAPSE), which costs a third of the time and saves a sixth of the memory.
# search OPTION... - leaves what Spin's verifier says in ./said
search() {
    rm -f -- pan pan.* ./*.trail said
    spin -a "$@" "$folder/$model" >said 2>&1 || return 1
    ${CC:-gcc} -O0 -w -DSAFETY -DNOFAIR -DMEMLIM=$MEMORY_MIB -o pan pan.c >>said 2>&1 || return 1
    timeout -k 5 "$SECONDS_EACH" ./pan -m100000 >said 2>&1 || return 1
}

wanted() {
    [ -z "$wanted_model" ] || [ "$wanted_model.pml" = "$model" ] || return 1
    [ -z "$only" ] || [ "$only" = "$1" ] || return 1
    searched=$((searched + 1))
}

# holds NAME OPTION... - every state is searched, and no property fails
holds() {
    local name=$1
    shift
    wanted "$name" || return 0
    search "$@" || true
    if grep -q 'errors: 0' said && ! grep -qE 'max search depth too small|Search not completed|out of memory' said; then
        printf '%-28s holds in %s states\n' "$name" "$(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' said)"
    else
        printf '%-28s FAILS: spin -a %s %s\n' "$name" "$*" "$model"
        tail -n 30 said
        faults=$((faults + 1))
    fi
}

# breaks NAME EXPECTED OPTION... - some state violates a property, and that property is one of those expected
breaks() {
    local name=$1 expected=$2 found
    shift 2
    wanted "$name" || return 0
    search "$@" || true
    found=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' said)
    if [[ $found =~ $expected ]]; then
        printf '%-28s is noticed: %s\n' "$name" "$found"
    else
        printf '%-28s IS NOT NOTICED, or otherwise than expected: %s\n' "$name" "${found:-no property fails}"
        tail -n 30 said
        faults=$((faults + 1))
    fi
}

model=recovery.pml
from_disk=(-DSTEPS=5 -DSAVE_FIRST -DMEMORY_LOSSES=1 -DDEATHS=1 -DONLY_IN_RECOVERY)

holds "no death"                -DSTEPS=5
holds "a worker"                -DDEATHS=1
holds "two workers"             -DDEATHS=2 -DSTEPS=2 -DSAVE_EVERY=5
holds "the agent and a worker"  -DAGENT_DEATHS=1 -DDEATHS=1 -DSTEPS=2
holds "all memory, then a worker" "${from_disk[@]}"
holds "the head"                -DHEAD_DEATHS=1 -DMEMORY_LOSSES=1
holds "a rotten slot"           -DSTEPS=2 -DROTS=1 -DDEATHS=1

breaks "epoch not bumped"       'invalid end state|acted'  -DBREAK_SAME_EPOCH -DDEATHS=1
breaks "epoch not recorded"     'acted'                    -DBREAK_UNRECORDED -DDEATHS=1 -DHEAD_DEATHS=1 -DSTEPS=2
breaks "nothing kept of an agent" 'memory_lost'            -DBREAK_NO_HOLDINGS -DAGENT_DEATHS=1 -DDEATHS=1 -DSTEPS=2
breaks "slot written in place"  'memory_lost|sound|b==a'     -DBREAK_IN_PLACE -DDEATHS=1
breaks "one worker chooses"     'memory|generation|at_step' -DBREAK_ONE_CHOOSES -DDEATHS=1
breaks "commit before all"      'memory_lost|at_step|step' -DBREAK_COMMIT_EARLY -DDEATHS=1
breaks "late COMMIT taken"      'e==epoch_of'              -DBREAK_LATE_COMMIT -DDEATHS=1
breaks "streamed slot written"  'b==a|wanted'              -DBREAK_STREAM -DSAVE_FIRST
breaks "the journal's ring"     'record_step'              -DBREAK_JOURNAL "${from_disk[@]}"
breaks "checkpoint removed first" 'on_disk>=promised'      -DBREAK_RENAME -DROTS=1 -DDEATHS=1 -DHEAD_DEATHS=1 -DSTEPS=3

model=hosts.pml
# Of two hosts, that hold each other's copies; one is the head's, whose agent comes again. With a third for a lost one's work.
holds "hosts, none is lost"     -DFROM_START
holds "a host"                  -DHOSTS=2 -DLOSSES=1
holds "a host, and a spare"     -DLOSSES=1 -DLOST_HOST=2 -DSTEPS=2
holds "one host after another"  -DHOSTS=2 -DLOSSES=2 -DSTEPS=2

two_hosts=(-DHOSTS=2 -DLOSSES=1 -DSTEPS=2)
breaks "no wait for copies"     'common'                   -DBREAK_NO_WAIT "${two_hosts[@]}"
breaks "newest slot overwritten" 'common'                  -DBREAK_NEWEST_OVERWRITTEN "${two_hosts[@]}"
breaks "held before it is whole" 'common'                  -DBREAK_HELD_EARLY "${two_hosts[@]}"
breaks "only the newest copied" 'common'                   -DBREAK_NEWEST_ONLY -DHOSTS=2 -DLOSSES=2 -DSTEPS=1
breaks "begun before it is there" 'common'                 -DBREAK_NO_EXPECTATION "${two_hosts[@]}"
breaks "a lost part is lost"    'invalid end state'        -DBREAK_NO_RESEND "${two_hosts[@]}"
breaks "a lost end is lost"     'invalid end state'        -DBREAK_END_ONCE -DLOSSES=1 -DLOST_HOST=2 -DSTEPS=1

((searched > 0)) || { echo "there is no search called '$only'"; exit 1; }
((faults == 0)) || { echo "$faults of $searched searches did not end as they should"; exit 1; }
