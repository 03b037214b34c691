#!/bin/sh
# deps.sh build|demo|test: installs what is missing for that make target, or prints the command that would.
#   build: a C compiler, BearSSL, and Lua with headers (any one that is there will do; else all of them). Only prints.
#   demo:  the same, and openssl; curl if it can be had
#   test:  every Lua, openssl, gnutls, curl, clang, MinGW, strace. Only the compiler, BearSSL, a Lua and openssl are a must.
# BEARSSL_DIR= and LUA_DIR= count as installed.
set -u
level=${1:?usage: deps.sh build|demo|test}

has() { command -v "$1" >/dev/null 2>&1; }
header() { # FILE... : one of them is in the usual places
    for h in "$@"; do
        for d in /usr/include /usr/local/include /opt/homebrew/include; do [ -f "$d/$h" ] && return 0; done
    done
    return 1
}
lua() { # 5.4 : interpreter and headers
    has "lua$1" && header "lua$1/lua.h" "lua$(echo "$1" | tr -d .)/lua.h"
}
luajit() { has luajit && header luajit-2.1/lua.h; }
a_lua() { [ -n "${LUA_DIR:-}" ] || lua 5.1 || lua 5.2 || lua 5.3 || lua 5.4 || lua 5.5 || luajit; }

must='' may=''
look() { # what is missing, as Debian packages
    must='' may=''
    { has "${CC:-gcc}" && header stdio.h; } || must="$must gcc libc6-dev"
    { [ -n "${BEARSSL_DIR:-}" ] || header bearssl.h; } || must="$must libbearssl-dev"
    if [ "$level" = test ] || ! a_lua; then
        lua 5.1 || may="$may lua5.1 liblua5.1-0-dev"
        lua 5.2 || may="$may lua5.2 liblua5.2-dev"
        lua 5.3 || may="$may lua5.3 liblua5.3-dev"
        lua 5.4 || may="$may lua5.4 liblua5.4-dev"
        luajit || may="$may luajit libluajit-5.1-dev"
    fi
    [ "$level" = build ] && return
    has openssl || must="$must openssl"
    has curl || may="$may curl"
    [ "$level" = demo ] && return
    has g++ || may="$may g++"
    has clang || may="$may clang"
    has gnutls-cli || may="$may gnutls-bin"
    has pmccabe || may="$may pmccabe"
    has tcc || may="$may tcc"
    has musl-gcc || may="$may musl-tools"
    [ "$(uname -m)" != x86_64 ] || [ -e /usr/lib/gcc/x86_64-linux-gnu/12/32 ] || may="$may gcc-12-multilib"
    has strace || may="$may strace"
    has nmap || may="$may nmap"
    has sslscan || may="$may sslscan"
    has testssl || has testssl.sh || may="$may testssl.sh"
    has ip || may="$may iproute2"
    has pkg-config || may="$may pkg-config"
    header uv.h || may="$may libuv1-dev"
    has python3 || may="$may python3"
    has go || may="$may golang-go"
    has node || may="$may nodejs"
    has tstclnt || may="$may libnss3-tools"
    has nginx || may="$may nginx-light"
    has redis-server || may="$may redis-server"
    has node || may="$may nodejs"
    has cmake || may="$may cmake"
    has luarocks || may="$may luarocks"
    has nvim || may="$may neovim"
    has love || may="$may love"
    has Xvfb || may="$may xvfb"
    has import || may="$may imagemagick"
    [ -f /usr/share/nodejs/ws/package.json ] || may="$may node-ws"
    [ -f /usr/share/lua/5.1/socket.lua ] || may="$may lua-socket"
    [ -f /usr/share/lua/5.1/ssl.lua ] || may="$may lua-sec"
    [ -f /usr/share/lua/5.1/redis.lua ] || may="$may lua-redis"
    [ -f /usr/share/lua/5.1/copas.lua ] || may="$may lua-copas"
    /usr/bin/python3 -c 'import websockets' 2>/dev/null || may="$may python3-websockets"
    /usr/bin/python3 -c 'import pyftpdlib' 2>/dev/null || may="$may python3-pyftpdlib"
    has x86_64-w64-mingw32-gcc || may="$may gcc-mingw-w64-x86-64-win32"
    has i686-w64-mingw32-gcc || may="$may gcc-mingw-w64-i686-win32"
    has x86_64-w64-mingw32-g++ || may="$may g++-mingw-w64-x86-64-win32"
    has i686-w64-mingw32-g++ || may="$may g++-mingw-w64-i686-win32"
}

look
[ -z "$must$may" ] && exit 0

as_root=''
if [ "$(id -u)" != 0 ]; then
    if has sudo && sudo -n true 2>/dev/null; then as_root='sudo -n env DEBIAN_FRONTEND=noninteractive'; else as_root=none; fi
fi
install="apt-get install -y --no-install-recommends"
command="apt-get update && $install$must$may"
[ "$as_root" = '' ] || command="sudo apt-get update && sudo $install$must$may"
if ! has apt-get; then
    command="install a C compiler, BearSSL (https://bearssl.org), Lua and openssl"
    has dnf && command="dnf install gcc gcc-c++ make openssl lua-devel luajit-devel curl gnutls-utils clang mingw64-gcc mingw32-gcc strace bearssl-devel"
    has pacman && command="pacman -S --needed gcc make openssl bearssl lua lua51 lua52 lua53 luajit curl gnutls clang mingw-w64-gcc strace"
    has apk && command="apk add build-base bash openssl bearssl-dev lua5.1-dev lua5.2-dev lua5.3-dev lua5.4-dev lua5.1 lua5.2 lua5.3 lua5.4 luajit-dev curl gnutls-utils clang strace"
    has brew && command="brew install bearssl lua luajit openssl curl gnutls"
fi

# What is left missing: nothing to say if it is optional, an end with the command if it is not.
finish() {
    look
    a_lua || must="$must lua5.4 liblua5.4-dev"
    if [ -n "$must" ]; then
        echo "psocket: missing:$must" >&2
        echo "To install it: $command" >&2
        exit 1
    fi
    [ -z "$may" ] || echo "psocket: going on without:$may"
    exit 0
}

{ has apt-get && [ "$as_root" != none ] && [ "$level" != build ]; } || finish

DEBIAN_FRONTEND=noninteractive
export DEBIAN_FRONTEND
lock='-o DPkg::Lock::Timeout=120'
echo "psocket: installing$must$may"
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086
$as_root apt-get $lock -qq update </dev/null >"$log" 2>&1 || cat "$log" >&2
wanted=''
for p in $must $may; do # other releases lack some of them
    if LC_ALL=C apt-cache policy "$p" 2>/dev/null | grep -q 'Candidate: [^(]'; then wanted="$wanted $p"; fi
done
# shellcheck disable=SC2086
[ -z "$wanted" ] || $as_root $install $lock -qq $wanted </dev/null >"$log" 2>&1 || tail -n 20 "$log" >&2
hash -r
finish
