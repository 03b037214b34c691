#!/bin/sh
# memory.sh DIR CERTS: what `make bench-memory` says of small memories: a 32-bit client in a fixed arena, its stacks, and a
# server's unfinished handshakes. DIR holds the server of the benchmarks (psocket) and receives what is built.
set -u
dir=${1:?usage: memory.sh DIR CERTS} certs=${2:?usage: memory.sh DIR CERTS}
CC=${CC:-gcc}
err=$dir/memory.log
: >"$err"
pids=''
trap 'kill $pids 2>/dev/null' EXIT

# shellcheck disable=SC2086
$CC -std=gnu11 -O2 -g ${BEARSSL_CFLAGS:-} -I. -o "$dir/waiting" tests/bench/memory.c ${BEARSSL_LIBS:--lbearssl} -pthread 2>>"$err" &&
    (ulimit -n 8192; "$dir/waiting" "$certs")

# BearSSL for 32 bits, from Debian's sources.
lib32() {
    [ -f "$dir/bearssl32/libbearssl.a" ] && return 0
    mkdir -p "$dir/bearssl-src" || return 1
    (cd "$dir/bearssl-src" && apt-get source -qq bearssl) >>"$err" 2>&1 || return 1
    # shellcheck disable=SC2012
    src=$(ls -d "$dir"/bearssl-src/bearssl-*/ | head -n 1)
    make -C "$src" lib BUILD="$(cd "$dir" && pwd)/bearssl32" CC="$CC -m32 -idirafter /usr/include/x86_64-linux-gnu" CFLAGS=-Os >>"$err" 2>&1
}
echo 'int main(void) { return 0; }' >"$dir/m32.c"
if ! $CC -m32 -o "$dir/m32" "$dir/m32.c" 2>>"$err" || ! "$dir/m32"; then
    echo "Fixed arena: left out, no 32-bit C library (gcc-12-multilib)."
    exit 0
fi
lib32 || { echo "Fixed arena: left out, BearSSL cannot be built for 32 bits (see $err)."; exit 0; }
$CC -m32 -std=gnu11 -Os -g -ffunction-sections -fdata-sections -DMEMORY_ARENA -idirafter /usr/include/x86_64-linux-gnu ${BEARSSL_CFLAGS:-} -I. \
    -o "$dir/arena" tests/bench/memory.c "$dir/bearssl32/libbearssl.a" -Wl,--gc-sections -pthread 2>>"$err" ||
    { echo "Fixed arena: does not compile (see $err)."; exit 1; }
for k in rsa ec; do cat "$certs/$k.pem" "$certs/ca.pem" >"$dir/three-$k.pem"; done
ports=''
serve() { # MODE SIZE [CHAIN KEY]
    "$dir/psocket" "$@" >"$dir/port" 2>>"$err" &
    pids="$pids $!"
    n=0
    while [ ! -s "$dir/port" ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
    ports="$ports $(cat "$dir/port")"
    rm -f "$dir/port"
}
serve http 0
serve source 16384
for k in rsa ec; do
    serve http 0 "$dir/three-$k.pem" "$certs/$k.key"
    serve source 16384 "$certs/$k.pem" "$certs/$k.key"
done
# shellcheck disable=SC2086
"$dir/arena" $ports "$certs"
