#!/bin/sh
# make install puts the header and the pkg-config file under DESTDIR/PREFIX; a program builds from there.
. tests/check.sh
unset MAKEFLAGS MFLAGS MAKELEVEL
root=$(pwd)
check "make install" make -C "$root" install PREFIX=/opt/ps DESTDIR="$tmp/dest"
check "the header is the same" cmp psocket.h "$tmp/dest/opt/ps/include/psocket.h"
check "nothing else is installed" test "$(find "$tmp/dest" -type f | wc -l)" -eq 2
check "make install, no DESTDIR" make -C "$root" install PREFIX="$tmp/prefix"
pc=$tmp/prefix/lib/pkgconfig/psocket.pc
check "psocket.pc has the version" grep -q "^Version: $(sed -n 's/^#define PSOCKET_VERSION "\(.*\)"/\1/p' psocket.h)$" "$pc"
flags="-I$tmp/prefix/include -lbearssl -pthread"
if has pkg-config; then
    flags=$(PKG_CONFIG_PATH=$tmp/prefix/lib/pkgconfig pkg-config --cflags --libs psocket)
    check "pkg-config finds it" test -n "$flags"
fi
if [ -z "${BEARSSL_DIR:-}" ]; then
    # shellcheck disable=SC2086
    check "a program builds from it" gcc -DPSOCKET_IMPLEMENTATION -o "$tmp/smoke" tests/build/smoke.c $flags
    check "the program runs" "$tmp/smoke"
fi
check "make help lists the targets" sh -c "make -C '$root' help | grep -q 'make demo'"
for target in all demo test install clean help; do
    check "Makefile has $target" grep -qE "^$target:|^\.PHONY:.* $target( |$)" Makefile
done
finish
