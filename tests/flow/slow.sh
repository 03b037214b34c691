#!/bin/sh
# 64 MB from a coroutine to a reader that starts late and reads slowly: identical, other coroutines go on, memory flat.
. tests/check.sh
case $BUILD in *san) skip "flow" "memory is measured on the optimised build"; finish ;; esac
head -c 67108864 /dev/urandom >"$tmp/data"
want=$(sha "$tmp/data")
flow() { # LUA MODULES [tls]
    id= ca=
    [ "${3:-}" = tls ] && id="$certs/ec.pem $certs/ec.key" ca=$certs/ca.pem
    : >"$tmp/sent"
    # shellcheck disable=SC2086
    LUA_CPATH="$2/?.so" timeout 100 $1 tests/flow/sender.lua "$tmp/data" $id >"$tmp/sent" 2>"$tmp/err" </dev/null &
    sender=$!
    pids="$pids $sender"
    n=0
    until [ -s "$tmp/sent" ] || [ $n -gt 100 ]; do sleep 0.1; n=$((n + 1)); done
    # shellcheck disable=SC2086
    LUA_CPATH="$2/?.so" timeout 100 $1 tests/flow/reader.lua "$(head -n 1 "$tmp/sent")" $ca >"$tmp/got" || return 1
    wait $sender || { cat "$tmp/err"; return 1; }
    cat "$tmp/sent" "$tmp/got"
    [ "$(cut -d' ' -f1 "$tmp/got")" = "$want" ] || return 1
    [ "$(sed -n 's/ KB more//p' "$tmp/sent" | cut -d. -f1)" -lt 2048 ] || return 1
    [ "$(sed -n 's/ ticks meanwhile//p' "$tmp/sent" | cut -d. -f1)" -gt 10 ]
}
for v in 5.1 5.4 jit; do
    lua=lua$v
    [ $v = jit ] && lua=luajit
    has $lua && [ -f "$BUILD/lua/$v/psocket.so" ] || continue
    check "64 MB in the clear ($lua)" flow $lua "$BUILD/lua/$v"
    check "64 MB through TLS ($lua)" flow $lua "$BUILD/lua/$v" tls
done
finish
