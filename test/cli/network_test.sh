#!/usr/bin/env bash
# test/cli/network_test.sh TROUPE - keygen, and a job that listens at an address: refused beyond this machine without a
# key and before anything is made, the same bits with one, and no process shows its key. What leaves loopback does so in a
# network namespace of its own; where none can be made, that part is left out, and said.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
troupe=$(realpath "$1")
self=$(realpath "$0")
. "${self%/*}/network_job.sh"
if [ "${2:-}" = inside ]; then # in a namespace of its own: an address that is not loopback's
    ip link set lo up
    ip link add here type veth peer name there
    ip addr add 10.77.0.1/24 dev here
    ip link set here up
    ip link set there up
    "$troupe" train recipe.yaml run=apart network.address=10.77.0.1 network.key=troupe.key >out 2>err &
    background=$!
    trap 'kill -KILL "$background" 2>/dev/null || true' EXIT
    until_so 20 test -s apart/log.jsonl
    kill -STOP "$background" # it shall not end while we look
    ss -Hltn >listening # while it trains
    secret=$(sed -n 's/^secret //p' troupe.key)
    seen=0
    for process in /proc/[0-9]*; do # head, agent, two workers
        [ "$(readlink "$process/exe" 2>/dev/null)" = "$troupe" ] || continue
        seen=$((seen + 1))
        ! grep -aqF -- "$secret" "$process/cmdline" "$process/environ" 2>/dev/null || { echo "a key shows"; exit 1; }
    done
    [ "$seen" -ge 4 ] || { echo "saw $seen processes instead of 4"; exit 1; }
    kill -CONT "$background"
    wait "$background" || { cat err; exit 1; }
    grep -q '10\.77\.0\.1:' listening || { echo "nobody listens at the address"; cat listening; exit 1; }
    ! grep -v '10\.77\.0\.1:' listening || { echo "somebody listens elsewhere"; exit 1; }
    exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
write_recipe 100 "{pipeline: 2}"
fails_with() { # CODE WORDS COMMAND...: exits with the code and says the words in one line
    local code=0 expected=$1 words=$2
    shift 2
    "$@" >out 2>err || code=$?
    [ "$code" = "$expected" ] || { echo "exit $code instead of $expected: $*"; cat err; exit 1; }
    grep -q -- "$words" err || { echo "does not say '$words': $*"; cat err; exit 1; }
    [ "$(wc -l <err)" = 1 ] || { echo "says more than a line: $*"; cat err; exit 1; }
}

# keygen: a private file, never overwritten.
"$troupe" keygen >out
[ "$(stat -c %a troupe.key)" = 600 ]
mkdir keys && "$troupe" keygen keys >out && [ -f keys/troupe.key ]
cp -p troupe.key before
fails_with 2 'not overwritten' "$troupe" keygen
fails_with 2 'not overwritten' "$troupe" keygen troupe.key
cmp troupe.key before
fails_with 2 'no option' "$troupe" keygen --force
fails_with 2 'one key' "$troupe" keygen a b
fails_with 2 'No such file' "$troupe" keygen no/such/place
"$troupe" keygen --help | grep -q network

# Beyond this machine only with a key, and a key only if it is private and whole. Nothing is made.
fails_with 2 'troupe keygen' "$troupe" train recipe.yaml network.address=192.0.2.77
fails_with 2 'troupe keygen' "$troupe" train recipe.yaml network.address=fd00::77
fails_with 2 'no place to connect' "$troupe" train recipe.yaml network.address=0.0.0.0 network.key=troupe.key
fails_with 2 'no address in numbers' "$troupe" train recipe.yaml network.address=some.host network.key=troupe.key
fails_with 2 'of this machine' "$troupe" train recipe.yaml network.address=192.0.2.77 network.key=troupe.key
fails_with 2 'transport: zmq' "$troupe" train recipe.yaml transport=ucx network.address=127.0.0.1
fails_with 2 'transport: zmq' "$troupe" train recipe.yaml layout.processes=false transport=inproc network.key=troupe.key
chmod 640 troupe.key
fails_with 2 'chmod 600' "$troupe" train recipe.yaml network.address=127.0.0.1 network.key=troupe.key
chmod 600 troupe.key
head -c 150 troupe.key >cut && chmod 600 cut
fails_with 2 'no key file' "$troupe" train recipe.yaml network.key=cut
fails_with 2 'No such file' "$troupe" train recipe.yaml network.key=missing
[ ! -e run ]

# The same bits, whatever carries them.
"$troupe" train recipe.yaml >out
"$troupe" train recipe.yaml run=keyed network.address=127.0.0.1 network.key=troupe.key >out
cmp run/checkpoints/step-100/model.safetensors keyed/checkpoints/step-100/model.safetensors
! grep -rqF -- "$(sed -n 's/^secret //p' troupe.key)" keyed || { echo "the run directory has the key"; exit 1; }
if can_make_namespaces && command -v ip ss >/dev/null; then
    unshare --user --map-root-user --net "$self" "$troupe" inside
    cmp run/checkpoints/step-100/model.safetensors apart/checkpoints/step-100/model.safetensors
else
    echo "no network namespace here: the part beyond loopback was left out"
fi
