#!/bin/sh
# The pollers of the other Unixes: kqueue, over kqueue/sys/event.h, and poll. Each is compiled without a warning and passes
# the platform's test and those of the poller.
. tests/check.sh
cc="${CC:-gcc} -std=c99 -D_GNU_SOURCE -O0 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
lib=$(ls "${BEARSSL_DIR:-/nowhere}"/build/libbearssl.a "${BEARSSL_DIR:-/nowhere}"/lib/libbearssl.a 2>/dev/null | head -n 1)
lib=${lib:--lbearssl}
mkdir -p "$tmp/dir/sub"
printf 'plain\n' >"$tmp/dir/plain.txt"
printf 'umlaut\n' >"$tmp/dir/$(printf '\303\274').txt"

# shellcheck disable=SC2086
variant() { # NAME FLAGS...
    v=$1
    shift
    check "$v: the platform block compiles" $cc $warn -Wno-unused-function $bear -I. "$@" -o "$tmp/platform" tests/build/platform.c $lib -pthread
    check "$v: the platform block" timeout 100 "$tmp/platform" "$tmp/dir"
    check "$v: the implementation compiles" $cc $warn $bear "$@" -DPSOCKET_IMPLEMENTATION -c -o "$tmp/psocket.o" -x c psocket.h
    for t in api/args_test api/other_test api/poller_test api/stream_test api/tls_test regress/core_foreign_fd_reused regress/core_poller_flushes \
             regress/core_poller_sees_read_ahead regress/core_poller_timeout_with_event regress/core_unix_backlog; do
        check "$v: $t compiles" $cc $bear -I. -Itests -o "$tmp/test" "tests/$t.c" "$tmp/psocket.o" $lib -pthread -ldl -lm
        check "$v: $t" timeout 100 "$tmp/test"
    done
}
[ "$(uname -s)" = Linux ] || { skip pollers "Linux only: here, kqueue is what all the others test"; finish; }
variant kqueue -U__linux__ -D__DragonFly__ -Itests/build/kqueue
variant poll -U__linux__
check "kqueue was compiled in, and epoll was not" sh -c "$cc $bear -U__linux__ -D__DragonFly__ -Itests/build/kqueue -DPSOCKET_IMPLEMENTATION -E -x c psocket.h |
    sed -n '/psi_os_set_wait(/,/^}/p' | grep -q ' kevent('"
finish
