# shellcheck shell=bash
# scripts/common.sh - what ./quickstart and ./check share: words on the terminal, packages, long commands that
# are never silent. Sourced by bash from the top of the checkout.
# SPDX-License-Identifier: Apache-2.0

LOGS=build/logs
HEARTBEAT_S=10 # a long command says something at least so often
CHILD=

say() {
    printf '%s\n' "$*"
}

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# A step's command must not outlive the script: Ctrl-C does not reach what runs in the background.
end_child() {
    [ -z "$CHILD" ] || kill "$CHILD" 2>/dev/null || true
}
trap end_child EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# quietly NAME COMMAND... - runs it with its output in build/logs/NAME.log and tells from time to time how far
# it is. Returns its exit status; the end of the log is shown when that is not 0.
quietly() {
    local log=$LOGS/$1.log begin=$SECONDS told=$SECONDS status=0
    shift
    mkdir -p "$LOGS"
    "$@" >"$log" 2>&1 </dev/null &
    CHILD=$!
    while kill -0 "$CHILD" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - told >= HEARTBEAT_S)); then
            told=$SECONDS
            say "    $((SECONDS - begin)) s: $(tail -n 1 "$log" | tr -d '\r' | cut -c 1-100)"
        fi
    done
    wait "$CHILD" || status=$?
    CHILD=
    if ((status != 0)); then
        say "    failed; the end of $log:"
        tail -n 25 "$log" | sed 's/^/    | /'
    fi
    return "$status"
}

# packages_for GROUP... - the names in packages.txt that are for one of the groups.
packages_for() {
    local groups=" $* "
    while read -r group name _; do
        [[ -n $name && $group != \#* && $groups == *" $group "* ]] && echo "$name"
    done <packages.txt
    return 0
}

is_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

apt_install() {
    local apt=("${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=120)
    local install=("${apt[@]}" -o Dpkg::Use-Pty=0 install --no-install-recommends "$@")
    "${install[@]}" && return # the package lists may be good already; if not, fetch them and try again
    "${apt[@]}" update && "${install[@]}"
}

# install_packages GROUP... - installs what is missing.
install_packages() {
    local missing=() name
    if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
        die "this is not Debian or Ubuntu (no apt-get); install what packages.txt names, then use cmake --preset release"
    fi
    for name in $(packages_for "$@"); do
        is_installed "$name" || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then
        say "    all there"
        return
    fi
    AS_ROOT=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null ||
            die "needs root or sudo to install: apt-get install ${missing[*]}"
        sudo -v || die "sudo refused; as root: apt-get install ${missing[*]}"
        AS_ROOT=(sudo -n)
    fi
    say "    installing ${missing[*]}"
    quietly packages apt_install "${missing[@]}" && return
    if grep -qiE 'could not resolve|temporary failure|failed to fetch|could not connect|unable to locate' "$LOGS/packages.log"; then
        die "could not fetch the packages; is there a network, and does /etc/apt name a mirror with 'main'?"
    fi
    die "apt-get failed; all of its output is in $LOGS/packages.log"
}

# The time a step took, in words.
took() {
    local seconds=$1
    if ((seconds < 60)); then
        echo "$seconds s"
    else
        printf '%d min %02d s\n' $((seconds / 60)) $((seconds % 60))
    fi
}
