# check.sh - the harness of psocket's shell tests; source it. A test is a command: `check` wants it to succeed, `refuse`
# wants it to fail with a status below 124 (so neither a crash nor a timeout). Output is shown when it did not.
# BUILD is the folder of the programs under test; $tmp is the script's own folder, removed at the end together with the
# processes named in $pids.
set -u
BUILD=${BUILD:-build}
PSOCKET_CERTS=${PSOCKET_CERTS:-build/certs}
certs=$PSOCKET_CERTS
passed=0 failed=0 pids=''
tmp=$(mktemp -d "${TMPDIR:-/tmp}/psocket.XXXXXX") || exit 1

# The processes that were started in the background end with the script, whatever happens.
stop() { # PID... : asks them to end, then makes them
    for p in "$@"; do kill "$p" 2>/dev/null; done
    n=0
    while [ $n -lt 50 ] && [ $# -gt 0 ] && kill -0 "$@" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
    for p in "$@"; do kill -9 "$p" 2>/dev/null; wait "$p" 2>/dev/null; done
}
cleanup() { # shellcheck disable=SC2086
    stop $pids
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

ok() { passed=$((passed + 1)); echo "ok $1"; }
fail() { # NAME [WHY]
    failed=$((failed + 1))
    echo "FAIL $1: ${2:-}"
    [ -s "$tmp/out" ] && sed 's/^/    /' "$tmp/out" | tail -n 40
    return 0
}
skip() { echo "skip $1: $2"; }
check() { # NAME COMMAND...
    name=$1
    shift
    if "$@" >"$tmp/out" 2>&1 </dev/null; then ok "$name"; else fail "$name" "exit status $? of: $*"; fi
}
refuse() { # NAME TEXT COMMAND... : fails, and what it prints matches TEXT (a basic regular expression)
    name=$1 text=$2
    shift 2
    "$@" >"$tmp/out" 2>&1 </dev/null
    status=$?
    if [ $status -eq 0 ] || [ $status -ge 124 ]; then fail "$name" "exit status $status of: $*"
    elif ! grep -q -- "$text" "$tmp/out"; then fail "$name" "nothing like \"$text\" was printed by: $*"
    else ok "$name"; fi
}
has() { command -v "$1" >/dev/null 2>&1; }

# The port that process PID listens on at 127.0.0.1 (or at all addresses): waits up to 10 s, asks the kernel, so that
# every server can take port 0.
port_of() { # PID
    n=0
    while [ $n -lt 100 ] && kill -0 "$1" 2>/dev/null; do
        inodes=$(ls -l "/proc/$1/fd" 2>/dev/null | sed -n 's/.*socket:\[\([0-9]*\)\]$/\1/p' | tr '\n' ' ')
        hex=$(awk -v list=" $inodes" '$4 == "0A" && index(list, " " $10 " ") { sub(/.*:/, "", $2); print $2; exit }' \
            /proc/net/tcp /proc/net/tcp6 2>/dev/null)
        if [ -n "$hex" ]; then printf '%d\n' "0x$hex"; return 0; fi
        sleep 0.1
        n=$((n + 1))
    done
    return 1
}
sha() { sha256sum "$@" | cut -d' ' -f1; }
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
