#!/bin/sh
# An idle server in Lua with 1,000 open connections makes no system calls.
. tests/check.sh
has strace || { skip "idle" "strace is not installed"; finish; }
strace -o /dev/null true 2>/dev/null || { skip "idle" "strace may not trace here"; finish; }
case $BUILD in *san) skip "idle" "measured on the optimised build only"; finish ;; esac
ulimit -n 4096 2>/dev/null || { skip "idle" "too few descriptors allowed"; finish; }
idle() { # LUA MODULES CONNECTIONS : at most 5 calls in 5 s
    LUA_CPATH="$2/?.so" $1 tests/idle/server.lua "$3" >"$tmp/port" 2>"$tmp/err" </dev/null &
    server=$!
    pids="$pids $server"
    n=0
    until [ -s "$tmp/port" ] || [ $n -gt 100 ]; do sleep 0.1; n=$((n + 1)); done
    LUA_CPATH="$2/?.so" timeout 60 $1 tests/idle/clients.lua "$(head -n 1 "$tmp/port")" "$3" >"$tmp/open" 2>>"$tmp/err" </dev/null &
    clients=$!
    pids="$pids $clients"
    n=0
    until [ -s "$tmp/open" ] || [ $n -gt 300 ]; do sleep 0.1; n=$((n + 1)); done
    grep -q open "$tmp/open" || { cat "$tmp/err"; return 1; }
    # the calls are counted line by line: strace's own summary leaves out a call that never returned
    timeout -s INT 5 strace -f -o "$tmp/calls" -p $server 2>/dev/null
    calls=$(grep -c '(' "$tmp/calls")
    kill $clients $server 2>/dev/null
    wait $clients $server 2>/dev/null
    : >"$tmp/open"
    : >"$tmp/port"
    echo "$calls system calls in 5 s"
    cat "$tmp/calls"
    [ "$calls" -le 5 ]
}
for v in 5.1 5.4 jit; do
    lua=lua$v
    [ $v = jit ] && lua=luajit
    has $lua && [ -f "$BUILD/lua/$v/psocket.so" ] || continue
    check "1000 idle connections ($lua)" idle $lua "$BUILD/lua/$v" 1000
    sed -n '/system calls/p' "$tmp/out"
done
finish
