#!/bin/sh
# Compilers and targets that complained or failed: -m32, tcc, PSOCKET_STATIC with -Wall; folders on 32-bit Linux; an allocator
# of PSOCKET_MALLOC and PSOCKET_FREE alone; no file functions where there are no files; macros that stay behind on Windows.
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
bear_m32=-idirafter\ /usr/include/x86_64-linux-gnu
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"
cat >"$tmp/use.c" <<'C'
#include <stdio.h>
int main(void)
{
    psocket *l = NULL, *c = NULL, *s = NULL;
    const void *data;
    int port;
    if (psocket_listen(&l, "127.0.0.1", 0, NULL) || psocket_getlocal(l, NULL, 0, &port)) return 1;
    if (psocket_connect(&c, "127.0.0.1", port, NULL) || psocket_accept(l, &s)) return 2;
    if (psocket_send(c, "hello", 5) != 5 || psocket_recv(s, &data) != 5) return 3;
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
    return 0;
}
C
(printf '#define PSOCKET_STATIC\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n'; cat "$tmp/use.c") >"$tmp/static.c"
(printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n'; cat "$tmp/use.c") >"$tmp/whole.c"

# PSOCKET_STATIC: functions that a program does not use are no reason for a warning.
for cc in gcc clang; do
    command -v $cc >/dev/null || { skip "static, $cc" "not installed"; continue; }
    for t in '' -DPSOCKET_NO_TLS; do
        # shellcheck disable=SC2086
        check "static, $cc $t" $cc -std=c99 $warn $bear -I. $t -c -o "$tmp/static.o" "$tmp/static.c"
    done
done
if command -v g++ >/dev/null; then
    # shellcheck disable=SC2086
    check "static, C++" g++ -std=c++11 $warn $bear -I. -DPSOCKET_NO_TLS -x c++ -c -o "$tmp/static.o" "$tmp/static.c"
fi
# declared static without the implementation: nothing to warn of either
printf '#define PSOCKET_STATIC\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/unused.c"
# shellcheck disable=SC2086
check "static, nothing used" gcc -std=c99 $warn $bear -I. -c -o "$tmp/static.o" "$tmp/unused.c"

# 32 bits.
if echo 'int main(void) { return 0; }' | gcc -m32 -x c - -o "$tmp/m32" 2>/dev/null && "$tmp/m32"; then
    for t in '' -DPSOCKET_NO_TLS; do
        # shellcheck disable=SC2086
        check "gcc -m32 $t" gcc -m32 -std=c99 $warn $bear $bear_m32 -I. $t -c -o "$tmp/m32.o" "$tmp/impl.c"
        # readdir and stat without 64-bit offsets fail on large inode numbers, and always under qemu
        check "gcc -m32 $t: 64-bit file functions" sh -c "! nm -u '$tmp/m32.o' | grep -wE 'readdir|stat|fstat|lstat|open|fopen'"
    done
    # shellcheck disable=SC2086
    check "gcc -m32 runs" gcc -m32 -std=c99 $bear_m32 -I. -DPSOCKET_NO_TLS -o "$tmp/whole" "$tmp/whole.c" -pthread
    check "gcc -m32 carries bytes" timeout 20 "$tmp/whole"
else
    skip "gcc -m32" "no 32-bit C library (gcc-12-multilib)"
fi

# tcc has neither __ATOMIC_RELAXED nor computed gotos.
if command -v tcc >/dev/null; then
    check "tcc, no TLS" tcc -std=c99 -Wall -Werror -I. -DPSOCKET_NO_TLS -o "$tmp/tcc" "$tmp/whole.c" -lpthread
    check "tcc carries bytes" timeout 20 "$tmp/tcc"
    # shellcheck disable=SC2086
    check "tcc, TLS" tcc -std=c99 -Wall -I. $bear -c -o "$tmp/tcc.o" "$tmp/impl.c"
else
    skip "tcc" "not installed"
fi
if command -v musl-gcc >/dev/null; then
    check "musl" musl-gcc -static -std=c99 $warn -I. -DPSOCKET_NO_TLS -o "$tmp/musl" "$tmp/whole.c"
    check "musl carries bytes" timeout 20 "$tmp/musl"
else
    skip "musl" "not installed"
fi

# An allocator without realloc (FreeRTOS).
printf '#include <stdlib.h>\n#define PSOCKET_MALLOC(n) malloc(n)\n#define PSOCKET_FREE(p) free(p)\n' | cat - "$tmp/whole.c" >"$tmp/alloc.c"
# shellcheck disable=SC2086
check "PSOCKET_MALLOC and PSOCKET_FREE alone" gcc -std=c99 -D_GNU_SOURCE $warn $bear -I. -o "$tmp/alloc" "$tmp/alloc.c" ${BEARSSL_LIBS:--lbearssl} -pthread
check "PSOCKET_MALLOC and PSOCKET_FREE alone: carries bytes" timeout 20 "$tmp/alloc"
refuse "PSOCKET_MALLOC without PSOCKET_FREE" PSOCKET_FREE gcc -std=c99 $bear -I. '-DPSOCKET_MALLOC(n)=0' -c -o "$tmp/alloc.o" "$tmp/impl.c"

# No files: none of their headers.
no_files() { # FLAGS
    # shellcheck disable=SC2086
    gcc -std=c99 $bear -I. -DPSOCKET_NO_FILES "$@" -M "$tmp/impl.c" >"$tmp/headers" && ! grep '/dirent\.h' "$tmp/headers"
}
check "PSOCKET_NO_FILES includes no <dirent.h>" no_files
check "PSOCKET_NO_FILES includes no <dirent.h>, no TLS" no_files -DPSOCKET_NO_TLS

# Windows: what the header defines for windows.h does not stay.
for cc in x86_64-w64-mingw32-gcc i686-w64-mingw32-gcc; do
    command -v $cc >/dev/null || { skip "$cc" "not installed"; continue; }
    printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n#if defined(WIN32_LEAN_AND_MEAN) || defined(NOMINMAX)\n#error stays\n#endif\n' >"$tmp/win.c"
    check "$cc: WIN32_LEAN_AND_MEAN does not stay" $cc -std=c99 -I. -DPSOCKET_NO_TLS -c -o "$tmp/win.o" "$tmp/win.c"
    printf '#define WIN32_LEAN_AND_MEAN\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n#ifndef WIN32_LEAN_AND_MEAN\n#error gone\n#endif\n' >"$tmp/win.c"
    check "$cc: the program's own stays" $cc -std=c99 -I. -DPSOCKET_NO_TLS -c -o "$tmp/win.o" "$tmp/win.c"
done

# 32-bit Linux on other machines: a folder of certificates can be read, and bytes carried.
foreign() { # ARCH GCC QEMU ROOT
    command -v "$2" >/dev/null && command -v "$3" >/dev/null || { skip "$1" "$2 or $3 is not installed"; return; }
    # shellcheck disable=SC2086
    check "$1: compiles" "$2" -std=c99 $warn -I. -DPSOCKET_NO_TLS -o "$tmp/foreign" "$tmp/whole.c" -pthread
    check "$1: carries bytes" timeout 60 "$3" -L "$4" "$tmp/foreign"
    mkdir -p "$tmp/inc"
    cp /usr/include/bearssl*.h "$tmp/inc/" 2>/dev/null
    check "$1: compiles with TLS" "$2" -std=c99 $warn -isystem "$tmp/inc" -I. -c -o "$tmp/foreign.o" "$tmp/impl.c"
    check "$1: 64-bit file functions" sh -c "! nm -u '$tmp/foreign.o' | grep -wE 'readdir|stat|fstat|lstat|open|fopen'"
}
foreign armhf arm-linux-gnueabihf-gcc qemu-arm /usr/arm-linux-gnueabihf
foreign mipsel mipsel-linux-gnu-gcc qemu-mipsel /usr/mipsel-linux-gnu
finish
