#!/bin/sh
# make rockspec, then luarocks make without a network and in a HOME of its own; then a plain Lua requires the modules.
. tests/check.sh
has luarocks || { skip "luarocks" "not installed"; finish; }
unset MAKEFLAGS MFLAGS MAKELEVEL
alone=
if unshare -n true 2>/dev/null; then alone='unshare -n'; fi
mkdir "$tmp/home"
version=$(sed -n 's/^#define PSOCKET_VERSION "\(.*\)"/\1/p' psocket.h)
check "make rockspec" make -s rockspec BUILD="$tmp/build"
mkdir "$tmp/src" && tar xzf "$tmp/build/psocket-$version.tar.gz" -C "$tmp/src"
for v in 5.4; do
    has lua$v && [ -f /usr/include/lua$v/lua.h ] || { skip "Lua $v" "not installed"; continue; }
    # shellcheck disable=SC2086
    make_rock() { (cd "$tmp/src/psocket-$version" && HOME=$tmp/home timeout 200 $alone luarocks --lua-version $v --tree "$tmp/tree" make "$tmp/build/psocket-$version-1.rockspec"); }
    if [ -n "${BEARSSL_DIR:-}" ]; then skip "luarocks make" "BearSSL is not the system's"; continue; fi
    check "luarocks make, offline, Lua $v" make_rock
    check "require from a plain Lua $v" env LUA_PATH="$tmp/tree/share/lua/$v/?.lua" LUA_CPATH="$tmp/tree/lib/lua/$v/?.so" lua$v -e '
        local psocket, http, websocket = require "psocket", require "psocket.http", require "psocket.websocket"
        assert(psocket.version and http.request and websocket.connect and require "psocket.luasocket".tcp)'
done
finish
