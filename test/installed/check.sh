#!/usr/bin/env bash
# test/installed/check.sh BUILD - installs a build, then builds the word counter against what was installed, with the CMake
# package and (without sanitizers, whose flags a .pc file does not carry) with pkg-config, and runs it.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
build=$(cd "$1" && pwd)
source=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
tree=$build/installed
rm -rf "$tree" "$build/consumer"
cmake --install "$build" --prefix "$tree" >/dev/null
"$tree/bin/troupe" --version

printf 'the man the boat the sea\n' >"$build/installed.txt"
counts() {
    [ "$("$1" "$build/installed.txt" | head -n 1 | tr -s ' ')" = " 3 the" ] || { echo "$1 counts wrong"; return 1; }
}

cmake -G Ninja -S "$source/test/installed" -B "$build/consumer" -DCMAKE_PREFIX_PATH="$tree" \
    -DEXAMPLES="$source/examples" >/dev/null
cmake --build "$build/consumer"
counts "$build/consumer/wordcount"

if grep -q '^TROUPE_SANITIZE:STRING=$' "$build/CMakeCache.txt"; then
    pc=$(dirname "$(find "$tree" -name troupe.pc)")
    # shellcheck disable=SC2046 # words are what is wanted
    cc -std=c17 -D_GNU_SOURCE -o "$build/consumer/wordcount-pc" "$source"/examples/{wordcount,words}.c \
        $(PKG_CONFIG_PATH=$pc pkg-config --define-variable=prefix="$tree" --cflags --libs troupe)
    counts "$build/consumer/wordcount-pc"
fi
