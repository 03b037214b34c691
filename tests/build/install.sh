#!/bin/sh
# make install puts the header and the pkg-config file under DESTDIR/PREFIX; a program builds from there. make install-lua adds
# the Lua modules; make uninstall leaves nothing. None of them calls the system's package manager.
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
    export PKG_CONFIG_PATH="$tmp/prefix/lib/pkgconfig"
    flags=$(pkg-config --cflags --libs psocket)
    check "pkg-config finds it" test -n "$flags"
    says() { # TEXT OPTIONS...
        text=$1
        shift
        pkg-config "$@" psocket | tee "$tmp/flags" | grep -q -- "$text"
    }
    check "pkg-config --static names BearSSL" says -lbearssl --static --libs
    check "pkg-config without TLS does not" sh -c "! pkg-config --define-variable=tls= --libs psocket | grep bearssl"
fi
if [ -z "${BEARSSL_DIR:-}" ]; then
    # shellcheck disable=SC2086
    check "a program builds from it" gcc -DPSOCKET_IMPLEMENTATION -o "$tmp/smoke" tests/build/smoke.c $flags
    check "the program runs" "$tmp/smoke"
fi

# The Lua modules, and the end of all.
check "make install-lua" make -s -C "$root" install-lua BUILD="$tmp/build" CFLAGS=-O0 PREFIX=/opt/ps DESTDIR="$tmp/dest"
found=0
for v in 5.1 5.2 5.3 5.4 5.5; do
    [ -f "$tmp/dest/opt/ps/lib/lua/$v/psocket.so" ] || continue
    found=$((found + 1))
    has lua$v || continue
    check "Lua $v requires them" env LUA_PATH="$tmp/dest/opt/ps/share/lua/$v/?.lua" LUA_CPATH="$tmp/dest/opt/ps/lib/lua/$v/?.so" \
        lua$v -e 'assert(require "psocket".version and require "psocket.http".request and require "psocket.websocket".connect and require "psocket.luasocket".tcp)'
done
check "for every Lua with headers" test $found -gt 0
check "the annotations are installed" test -f "$tmp/dest/opt/ps/share/psocket/lua/psocket.lua"
check "make uninstall" make -s -C "$root" uninstall PREFIX=/opt/ps DESTDIR="$tmp/dest"
check "it leaves nothing" sh -c "find '$tmp/dest/opt/ps' | tee '$tmp/out'; [ -z \"\$(find '$tmp/dest' -type f)\" ] && [ ! -e '$tmp/dest/opt/ps' ]"

# Other places.
blank() { # a program finds the header in a folder with a blank in its name
    make -s -C "$root" install PREFIX="$tmp/my libs/ps" && export PKG_CONFIG_PATH="$tmp/my libs/ps/lib/pkgconfig" &&
        eval "gcc -fsyntax-only $(pkg-config --cflags psocket) tests/build/smoke.c"
}
if has pkg-config && [ -z "${BEARSSL_DIR:-}" ]; then check "a PREFIX with a blank" blank; fi
for prefix in here/ps "$tmp/o'clock" "$tmp/a\"b"; do
    refuse "make install PREFIX=$(basename "$prefix")" "PREFIX=" make -s -C "$root" install PREFIX="$prefix"
    check "and nothing was installed there" sh -c "[ ! -e \"\$1\" ] && [ ! -e here ]" sh "$prefix"
done

# What is missing is named with the command that brings it; nobody runs that.
mkdir "$tmp/bin"
for c in apt-get dnf apk pacman brew sudo; do printf '#!/bin/sh\necho "%s $*" >>"%s/called"\n' $c "$tmp" >"$tmp/bin/$c"; chmod 755 "$tmp/bin/$c"; done
for target in all install install-lua uninstall; do
    PATH="$tmp/bin:$PATH" make -s -C "$root" $target BUILD="$tmp/b2" CC=no-such-compiler PREFIX="$tmp/p2" >"$tmp/said-$target" 2>&1
done
check "no package manager is called by make, make install, install-lua, uninstall" sh -c "cat '$tmp/called' 2>/dev/null; [ ! -e '$tmp/called' ]"
check "make says what is missing and which command brings it" sh -c "cat '$tmp/said-all'; grep -q 'missing: gcc' '$tmp/said-all' && grep -q 'apt-get install' '$tmp/said-all'"
check "make help lists the targets" sh -c "make -C '$root' help | grep -q 'make demo'"
for target in all demo test install install-lua uninstall rockspec bearssl clean help; do
    check "Makefile has $target" grep -qE "^$target:|^\.PHONY:.* $target( |$)" Makefile
done
finish
