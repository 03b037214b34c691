#!/bin/sh
# psocket's poller inside libuv's loop, if libuv's headers are there.
. tests/check.sh
if ! echo '#include <uv.h>' | ${CC:-gcc} -E -x c -o "$tmp/uv.i" - 2>/dev/null; then
    skip "libuv" "its headers are not installed (libuv1-dev)"
    finish
fi
san=
case $BUILD in *san) san='-fsanitize=address,undefined' ;; esac
build() {
    # shellcheck disable=SC2086
    ${CC:-gcc} -O1 -g $san -Wall -Wextra -DPSOCKET_IMPLEMENTATION -c -x c psocket.h -o "$tmp/psocket.o" &&
        ${CC:-gcc} -O1 -g $san -Wall -Wextra tests/loops/uv_loop.c "$tmp/psocket.o" -o "$tmp/uv_loop" \
            -luv -lbearssl -pthread
}
check "builds against libuv" build
check "TLS echo in libuv's loop" timeout 30 "$tmp/uv_loop" "$certs"
finish
