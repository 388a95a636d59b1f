#!/bin/sh
# test/examples/wordcount_test.sh WORDCOUNT TEXT - the example counts as sort and uniq do, however its counters are joined.
# SPDX-License-Identifier: Apache-2.0
set -eu
wordcount=$1 text=$2
export LC_ALL=C
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

tr -cs "A-Za-z0-9'\200-\377" '\n' <"$text" | tr 'A-Z' 'a-z' | sed '/^$/d' | sort | uniq -c |
    sort -k1,1nr -k2,2 | awk 'NR <= 10 { printf "%8d %s\n", $1, $2 }' >"$work/expected"
[ -s "$work/expected" ]

for how in "" "--counters 5" "--processes --transport zmq" "--processes --transport ucx --counters 3"; do
    timeout 60 "$wordcount" $how "$text" >"$work/counted"
    cmp "$work/expected" "$work/counted" || {
        echo "wordcount $how differs:" >&2
        diff "$work/expected" "$work/counted" >&2
        exit 1
    }
done

: >"$work/empty"
[ -z "$("$wordcount" "$work/empty")" ]
status=0
"$wordcount" "$work/missing" 2>"$work/message" || status=$?
[ "$status" = 2 ] && grep -q "cannot read '$work/missing'" "$work/message"
