#!/bin/sh
# collector.sh: the Lua tests once more, with a collector that runs as often as it may, and in generational mode (5.4, 5.5).
set -u
BUILD=${BUILD:-build}
here=$(cd "$(dirname "$0")" && pwd)
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
passed=0 failed=0
asan=
case $BUILD in */san) asan="LD_PRELOAD=$(${CC:-gcc} -print-file-name=libasan.so)" ;; esac
for v in 5.1 5.2 5.3 5.4 5.5 jit; do
    module=$BUILD/lua/$v/psocket.so lua=lua$v
    [ $v = jit ] && lua=luajit
    [ -f "$module" ] && command -v $lua >/dev/null || continue
    for mode in eager generational; do
        case $mode$v in
            generational5.[123] | generationaljit) continue ;;
        esac
        tests='b_convenience b_defects finalizers misuse scheduler tls_options'
        [ $mode$v = eager5.4 ] || [ $mode = generational ] || tests='b_defects finalizers'
        [ -z "$asan" ] || tests='b_defects finalizers' # the rest takes minutes there
        for test in $tests; do
            if env $asan PSOCKET_GC=$mode LUA_PATH="$here/?.lua" LUA_CPATH="$BUILD/lua/$v/?.so" LUA=$lua \
                timeout 100 $lua "$here/$test.lua" >"$log" 2>&1; then
                passed=$((passed + 1))
            else
                failed=$((failed + 1))
                echo "FAIL $test, Lua $v, $mode"
                grep -v '^ok ' "$log" | head -n 20
            fi
        done
        echo "ok Lua $v, $mode"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
