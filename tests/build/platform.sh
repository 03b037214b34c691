#!/bin/sh
# The POSIX block by itself (platform.c), with and without threads.
. tests/check.sh
mkdir -p "$tmp/dir/sub"
printf 'plain\n' >"$tmp/dir/plain.txt"
printf 'umlaut\n' >"$tmp/dir/$(printf '\303\274').txt"
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
for d in '' -DPSOCKET_NO_THREADS; do
    # shellcheck disable=SC2086
    check "posix $d: builds" "${CC:-gcc}" -O1 -Wall -Wextra -Wno-unused-function $bear -I. $d -o "$tmp/platform" tests/build/platform.c -pthread
    check "posix $d: runs" timeout 100 "$tmp/platform" "$tmp/dir"
done
finish
