#!/bin/sh
# memory.sh: the Lua module while memory runs out, and in several threads at once, with each Lua: see memory_host.c.
set -u
BUILD=${BUILD:-build} CC=${CC:-gcc}
here=$(dirname "$0")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0
asan=
case $BUILD in */san) asan="-fsanitize=address,undefined" ;; esac
for v in ${LUA_ONLY:-5.1 5.2 5.3 5.4 5.5 jit}; do
    module=$BUILD/lua/$v/psocket.so
    [ -f "$module" ] || continue
    case $v in jit) name=luajit ;; *) name=lua$v ;; esac
    flags=$(pkg-config --cflags --libs "$name" 2>/dev/null) || { echo "skip Lua $v: no pkg-config file for $name"; continue; }
    # shellcheck disable=SC2086
    if ! "$CC" -g -O1 $asan -Wall -Wextra "$here/memory_host.c" -o "$work/host" $flags -pthread >"$work/log" 2>&1; then
        cat "$work/log"
        echo "FAIL building for Lua $v"
        failed=$((failed + 1))
        continue
    fi
    for mode in once all threads; do
        # When there is no memory for calling a finalizer, Lua gives up on it: what it would have freed is lost then.
        leaks=0
        [ $mode = threads ] && leaks=1
        bind=1
        case $mode$v in
            threads*) bind=0 ;;
            all5.2) bind=0; echo "skip bind, Lua 5.2, all: Lua frees the frames of sleeping coroutines then, and cannot call pcall any more" ;;
        esac
        if ASAN_OPTIONS=detect_leaks=$leaks:halt_on_error=1 LUA_CPATH="$(dirname "$module")/?.so" \
            "$work/host" $mode "$here/memory_script.lua" >"$work/log" 2>&1 &&
            { [ $bind = 0 ] || LUA_CPATH="$(dirname "$module")/?.so" ASAN_OPTIONS=detect_leaks=0 \
            "$work/host" $mode "$here/memory/bind.lua" >"$work/log" 2>&1; } &&
            { [ $mode != once ] || LUA_CPATH="$(dirname "$module")/?.so" ASAN_OPTIONS=detect_leaks=0 \
            "$work/host" once "$here/memory/run.lua" >"$work/log" 2>&1; } &&
            { [ $mode != once ] || LUA_CPATH="$(dirname "$module")/?.so" ASAN_OPTIONS=detect_leaks=0 \
            "$work/host" once "$here/memory/jump.lua" >"$work/log" 2>&1; }; then
            passed=$((passed + 1))
            echo "ok Lua $v, $mode"
        else
            failed=$((failed + 1))
            echo "FAIL Lua $v, $mode"
            head -n 30 "$work/log"
        fi
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
