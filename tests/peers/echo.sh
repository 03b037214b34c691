#!/bin/sh
# examples/echo: its three modes.
. tests/check.sh
both() { timeout 20 "$BUILD/echo" >"$tmp/both" && grep -q '1048576 came back the same' "$tmp/both"; }
check "both ends in one process" both
"$BUILD/echo" --serve >"$tmp/serve.log" 2>&1 </dev/null &
pid=$!
pids=$pid
port=$(port_of $pid)
n=0
until grep -q listening "$tmp/serve.log" || [ $n -gt 50 ]; do sleep 0.1; n=$((n + 1)); done
lines() { seq 1 2000 | timeout 20 "$BUILD/echo" 127.0.0.1 "$port" >"$tmp/back" && seq 1 2000 | cmp - "$tmp/back"; }
check "2000 lines" lines
several() { # at the same time
    list=
    for i in 1 2 3 4 5; do seq $i 500 | timeout 20 "$BUILD/echo" localhost "$port" >"$tmp/back.$i" & list="$list $!"; done
    for p in $list; do wait "$p" || return 1; done
    for i in 1 2 3 4 5; do seq $i 500 | cmp - "$tmp/back.$i" || return 1; done
}
check "five clients" several
refuse "usage" "usage" "$BUILD/echo" --what
refuse "nobody there" "refused" timeout 20 "$BUILD/echo" 127.0.0.1 1
finish
