#!/bin/sh
# heap.sh: the Lua module while psocket's own allocations fail, one after the other: see memory_host.c and memory/heap.lua.
# Once: under the sanitizers, with one Lua; what is tried is C's.
set -u
BUILD=${BUILD:-build} CC=${CC:-gcc}
here=$(dirname "$0")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
for v in 5.4 jit 5.3 5.5 5.2 5.1; do
    case $v in jit) name=luajit ;; *) name=lua$v ;; esac
    flags=$(pkg-config --cflags --libs "$name" 2>/dev/null) && break
    flags=
done
if [ -z "$flags" ]; then
    echo "skip heap: no Lua with a pkg-config file"
    echo "0 passed, 0 failed"
    exit 0
fi
tls=-lbearssl
echo 'int main(void) { return 0; }' >"$work/try.c"
"$CC" "$work/try.c" -o "$work/try" $tls 2>/dev/null || tls=-DPSOCKET_NO_TLS
# shellcheck disable=SC2086
if ! "$CC" -g -O0 -fsanitize=address,undefined -Wall -Wextra -DHEAP -I"$here/../.." \
    "$here/memory_host.c" -o "$work/host" $flags $tls -pthread >"$work/log" 2>&1; then
    head -n 30 "$work/log"
    echo "FAIL building"
    echo "0 passed, 1 failed"
    exit 1
fi
if ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:halt_on_error=1 "$work/host" once "$here/memory/heap.lua" >"$work/log" 2>&1; then
    echo "ok $(tail -n 1 "$work/log")"
    echo "1 passed, 0 failed"
else
    head -n 30 "$work/log"
    echo "0 passed, 1 failed"
    exit 1
fi
