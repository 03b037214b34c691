#!/bin/sh
# The Windows block compiles without a warning for 64 and 32 bits, and links without TLS (there is no BearSSL for MinGW in
# Debian; its headers are the same for every system).
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
mkdir "$tmp/inc"
for d in ${BEARSSL_DIR:+"$BEARSSL_DIR/inc" "$BEARSSL_DIR/include"} /usr/include; do
    [ -f "$d/bearssl.h" ] && { cp -r "$d"/bearssl* "$tmp/inc"; break; }
done
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"
for target in x86_64-w64-mingw32 i686-w64-mingw32; do
    has $target-gcc || { skip $target "$target-gcc is not installed"; continue; }
    # shellcheck disable=SC2086
    {
        check "$target: header" $target-gcc -std=c99 $warn -I. -fsyntax-only tests/build/other.c
        check "$target: implementation" $target-gcc -std=c99 -O1 $warn -I. -isystem "$tmp/inc" -c -o "$tmp/impl.o" "$tmp/impl.c"
        check "$target: implementation, c11" $target-gcc -std=c11 $warn -I. -isystem "$tmp/inc" -fsyntax-only "$tmp/impl.c"
        check "$target: without TLS" $target-gcc -std=c99 $warn -I. -DPSOCKET_NO_TLS -c -o "$tmp/plain.o" "$tmp/impl.c"
        check "$target: without anything" $target-gcc -std=c99 $warn -I. -DPSOCKET_NO_TLS -DPSOCKET_NO_DNS -DPSOCKET_NO_THREADS \
            -DPSOCKET_NO_FILES -fsyntax-only "$tmp/impl.c"
        check "$target: links" $target-gcc -std=c99 -I. -o "$tmp/smoke.exe" tests/build/smoke.c "$tmp/plain.o" -lws2_32 -lbcrypt -lcrypt32
    }
done
finish
