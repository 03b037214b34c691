#!/bin/sh
# run.sh: what `make test` runs. Builds every test program twice (san: ASan and UBSan; opt: -O2), runs 2 * JOBS of them at
# a time, as most wait rather than compute, prints one line for each in a fixed order, and the sum at the end. A program
# that crashes, hangs or prints no "N passed, M failed" counts as failed. A shell test that says "# Once:" runs with san alone.
set -u
BUILD=${BUILD:-build} JOBS=${JOBS:-2} MAKE=${MAKE:-make} CC=${CC:-gcc}
here=$(pwd)
case $BUILD in /*) ;; *) BUILD=$here/$BUILD ;; esac
work=$BUILD/run
export BUILD CC

# --- one job: run.sh job N, with its line of $work/jobs: CONFIG LABEL SECONDS COMMAND... ------------------------------
if [ "${1:-}" = job ]; then
    line=$(sed -n "${2}p" "$work/jobs")
    # shellcheck disable=SC2086
    set -- "$2" $line
    n=$1 config=$2 seconds=$4
    shift 4
    # A report of a sanitizer ends the program. GCC's and clang's defaults differ, so all is said here.
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1:strict_string_checks=1:halt_on_error=1
    UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    PSOCKET_CERTS=$BUILD/certs
    [ "$config" = once ] || BUILD=$BUILD/$config
    export ASAN_OPTIONS UBSAN_OPTIONS PSOCKET_CERTS BUILD
    start=$(date +%s%N)
    timeout -k 5 "$seconds" "$@" >"$work/$n.log" 2>&1 </dev/null
    status=$?
    echo "$status $((($(date +%s%N) - start) / 100000000))" >"$work/$n.tmp"
    mv "$work/$n.tmp" "$work/$n.done"
    exit 0
fi

# --- build ------------------------------------------------------------------------------------------------------------
rm -rf "$work"
mkdir -p "$work"
sh tests/certs.sh "$BUILD/certs" || exit 1
jobs_flag=-j$JOBS
case " ${MAKEFLAGS:-} " in *" -j"*) jobs_flag= ;; esac # an outer make hands out the slots
echo "building the tests"
# shellcheck disable=SC2086
$MAKE -k $jobs_flag BUILD="$BUILD" test-programs >"$work/build.log" 2>&1 || sed 's/^/    /' "$work/build.log" | head -n 60

# --- the list of jobs -------------------------------------------------------------------------------------------------
: >"$work/jobs"
job() { echo "$*" >>"$work/jobs"; }
list=$($MAKE -s BUILD="$BUILD" list-tests)
# The Lua of LUA_DIR under its usual names, for scripts that ask PATH and pkg-config.
mkdir -p "$work/bin"
for entry in $list; do
    case $entry in lua=*=*/*) ;; *) continue ;; esac
    version=${entry#lua=} version=${version%%=*} name=lua$version
    [ "$version" = jit ] && name=luajit
    ln -sf "$(readlink -f "${entry#lua=*=}")" "$work/bin/$name"
    found() { find "$(readlink -f "$LUA_DIR")" -maxdepth 2 -name "$1" | head -n 1; }
    printf 'Name: %s\nDescription: LUA_DIR\nVersion: 0\nCflags: -I%s\nLibs: -Wl,-E %s -ldl -lm\n' "$name" \
        "$(dirname "$(found lua.h)")" "$(found 'liblua*.a')" >"$work/bin/$name.pc"
done
export PATH="$work/bin:$PATH" PKG_CONFIG_PATH="$work/bin:${PKG_CONFIG_PATH:-}"
asan=$($CC -print-file-name=libasan.so)
for config in san opt; do
    for entry in $list; do
        case $entry in c=*)
            source=${entry#c=}
            job $config "$source" 300 "$BUILD/$config/${source%.c}" ;;
        esac
    done
    for entry in $list; do
        case $entry in lua=*=*) ;; *) continue ;; esac
        version=${entry#lua=} version=${version%%=*} lua=${entry#lua=*=}
        if [ -z "$lua" ] || ! command -v "$lua" >/dev/null; then echo "Lua $version: headers but no interpreter, not tested"; continue; fi
        preload=
        [ $config = san ] && preload=LD_PRELOAD=$asan
        for source in tests/lua/*.lua; do
            case $source in */check.lua|*/memory_script.lua) continue ;; esac
            [ -f "$source" ] || continue
            job $config "$source[$version]" 300 env -u LUA_INIT -u LUA_CPATH_5_2 -u LUA_CPATH_5_3 -u LUA_CPATH_5_4 \
                -u LUA_PATH_5_2 -u LUA_PATH_5_3 -u LUA_PATH_5_4 $preload "LUA_PATH=$here/tests/lua/?.lua" \
                "LUA_CPATH=$BUILD/$config/lua/$version/?.so" "LUA=$lua" "$lua" "$source"
        done
    done
    for source in tests/*/*.sh; do
        case $source in tests/build/* | tests/bench/* | 'tests/*/*.sh') continue ;; esac
        [ $config = opt ] && grep -q '^# Once:' "$source" && continue
        job $config "$source" 500 sh "$source"
    done
done
for source in tests/build/*.sh; do [ -f "$source" ] && job once "$source" 900 sh "$source"; done

# --- run, and report in order -----------------------------------------------------------------------------------------
total=$(wc -l <"$work/jobs")
seq 1 "$total" | xargs -P $((2 * JOBS)) -n 1 sh tests/run.sh job &
pool=$!
trap 'kill $pool 2>/dev/null; exit 130' INT TERM HUP
passed=0 failed=0 n=0
while [ $n -lt "$total" ]; do
    n=$((n + 1))
    while [ ! -f "$work/$n.done" ] && kill -0 $pool 2>/dev/null; do sleep 0.1; done
    read -r config label rest <<LINE
$(sed -n "${n}p" "$work/jobs")
LINE
    status=none tenths=0
    [ -f "$work/$n.done" ] && read -r status tenths <"$work/$n.done"
    sum=$(tail -n 1 "$work/$n.log" 2>/dev/null | sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p')
    p=${sum% *} f=${sum#* } note=
    if [ -z "$sum" ]; then
        p=$(grep -c '^ok ' "$work/$n.log" 2>/dev/null) f=1
        note=" (no final line, exit status $status)"
        [ "$status" = 124 ] && note=" (not finished in time)"
        [ "$status" = 127 ] && note=" (did not compile?)"
    elif [ "$f" -eq 0 ] && [ "$status" != 0 ]; then
        f=1 note=" (exit status $status)"
    fi
    skipped=$(grep -c '^skip ' "$work/$n.log" 2>/dev/null)
    [ "${skipped:-0}" -eq 0 ] || note="$note ($skipped skipped)"
    passed=$((passed + ${p:-0})) failed=$((failed + f))
    printf '%-4s %-44s %4d passed, %d failed  %3d.%d s%s\n' "$config" "$label" "${p:-0}" "$f" \
        $((tenths / 10)) $((tenths % 10)) "$note"
    if [ "$f" -ne 0 ]; then
        { echo "FAILED: $config $label$note"; grep -v '^ok ' "$work/$n.log" 2>/dev/null | sed 's/^/    /' | tail -n 60; } |
            tee -a "$work/failures" | tail -n +2
    else grep '^skip ' "$work/$n.log" | sed 's/^/    /'; fi
done
wait $pool
[ ! -f "$work/failures" ] || cat "$work/failures" # once more, where a cut log still shows it
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
