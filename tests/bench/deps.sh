#!/bin/sh
# deps.sh bench|size: installs what the benchmarks need (OpenSSL's headers) and the peers to compare with, or goes on
# without the latter and says so. The compiler, BearSSL, Lua and openssl come from tests/deps.sh.
set -u
level=${1:?usage: deps.sh bench|size}

has() { command -v "$1" >/dev/null 2>&1; }
header() {
    for d in /usr/include /usr/local/include "/usr/include/$(gcc -dumpmachine 2>/dev/null)"; do [ -f "$d/$1" ] && return 0; done
    return 1
}
lua() { lua5.4 -e "$1" >/dev/null 2>&1; }

must='' may=''
look() {
    must='' may=''
    header openssl/ssl.h || must="$must libssl-dev"
    if [ "$level" = size ]; then
        header mbedtls/ssl.h || may="$may libmbedtls-dev"
        { ! has arm-none-eabi-gcc || [ -n "${LWIP_DIR:-}" ] || header lwip/lwip/sockets.h; } || may="$may liblwip-dev"
        return
    fi
    has lua5.4 || may="$may lua5.4 liblua5.4-dev"
    has luajit || may="$may luajit libluajit-5.1-dev"
    lua 'require "luv"' || may="$may lua-luv"
    lua 'require "cqueues"' || may="$may lua-cqueues"
    lua 'require "openssl.ssl.context"' || may="$may lua-luaossl"
    lua 'require "socket"' || may="$may lua-socket"
    lua 'require "ssl"' || may="$may lua-sec"
    [ -f /usr/share/lua/5.2/copas.lua ] || may="$may lua-copas"
    has wrk || may="$may wrk"
    has strace || may="$may strace"
}

look
[ -z "$must$may" ] && exit 0
as_root=''
if [ "$(id -u)" != 0 ]; then
    if has sudo && sudo -n true 2>/dev/null; then as_root='sudo -n env DEBIAN_FRONTEND=noninteractive'; else as_root=none; fi
fi
if has apt-get && [ "$as_root" != none ]; then
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    lock='-o DPkg::Lock::Timeout=120'
    echo "psocket: installing$must$may" >&2
    # shellcheck disable=SC2086
    $as_root apt-get $lock -qq update </dev/null >&2
    for p in $must $may; do # one by one: not every release has them all
        # shellcheck disable=SC2086
        $as_root apt-get $lock install -y --no-install-recommends -qq "$p" </dev/null >/dev/null 2>&1 || true
    done
    hash -r
    look
fi
[ -z "$may" ] || echo "psocket: going on without:$may" >&2
[ -z "$must" ] && exit 0
echo "psocket: missing:$must" >&2
echo "To install it: apt-get install$must" >&2
exit 1
