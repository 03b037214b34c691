#!/bin/sh
# The programs in README.md, extracted and run as printed, in a network namespace where example.org is this machine; its
# CMake project, built; and what it lists, compared with psocket.h.
if [ "${1:-}" != inside ]; then
    if ! unshare -nm true 2>/dev/null || ! command -v ip >/dev/null; then
        echo "skip readme: needs root, unshare and ip for namespaces of its own"
        echo "0 passed, 0 failed"
        exit 0
    fi
    exec unshare -nm sh "$0" inside
fi
. tests/check.sh
case $certs in /*) ;; *) certs=$(pwd)/$certs ;; esac
case $BUILD in /*) ;; *) BUILD=$(pwd)/$BUILD ;; esac
unset MAKEFLAGS MFLAGS MAKELEVEL
root=$(pwd)
check "README.md has at most 300 lines" test "$(wc -l <README.md)" -le 300
# README's blocks: $tmp/c.1, $tmp/cmake.1, $tmp/lua.1, $tmp/lua.2 ...
awk -v d="$tmp" '/^```[a-z]/ { kind = substr($0, 4); f = d "/" kind "." ++n[kind]; printf "" > f; next } /^```$/ { f = ""; next } f { print > f }' README.md
warn='-Wall -Wextra -Werror'
flags="-I. ${BEARSSL_DIR:+-isystem $(ls -d "$BEARSSL_DIR/inc" "$BEARSSL_DIR/include" 2>/dev/null | head -n 1)}"
libs="-lbearssl -pthread"
[ -z "${BEARSSL_DIR:-}" ] || libs="$(ls "$BEARSSL_DIR/build/libbearssl.a" "$BEARSSL_DIR/lib/libbearssl.a" 2>/dev/null | head -n 1) -pthread"
cp "$tmp/c.1" "$tmp/program.c"
# shellcheck disable=SC2086
{
    check "the C program compiles as C99" gcc -std=c99 $warn -Wpedantic $flags -o "$tmp/program" "$tmp/program.c" $libs
    has g++ && check "and as C++17" g++ -std=c++17 $warn $flags -x c++ -o "$tmp/program++" "$tmp/program.c" -x none $libs
    has clang && check "and with clang" clang -std=c99 $warn $flags -o "$tmp/programc" "$tmp/program.c" $libs
    if has x86_64-w64-mingw32-gcc; then
        mkdir "$tmp/inc"
        cp -r ${BEARSSL_DIR:+"$BEARSSL_DIR"/inc/bearssl*} /usr/include/bearssl* "$tmp/inc" 2>/dev/null
        for c in 'gcc -std=c99' 'g++ -std=c++17 -x c++'; do
            check "and with MinGW: $c" x86_64-w64-mingw32-$c $warn -I. -isystem "$tmp/inc" -fsyntax-only "$tmp/program.c"
        done
    fi
}

# The hosts that the programs name are this machine; it has a certificate for them.
ip link set lo up
printf '127.0.0.1 localhost example.org\n' >"$tmp/hosts"
printf 'hosts: files\n' >"$tmp/nsswitch.conf"
for f in hosts nsswitch.conf; do mount --bind "$tmp/$f" "/etc/$f" || exit 1; done
printf 'subjectAltName=DNS:example.org,DNS:localhost\n' >"$tmp/san"
openssl req -newkey rsa:2048 -nodes -keyout "$tmp/key.pem" -subj /CN=example.org -out "$tmp/csr" 2>/dev/null
openssl x509 -req -in "$tmp/csr" -CA "$certs/ca.pem" -CAkey "$certs/ca.key" -set_serial 78 -days 2 -extfile "$tmp/san" -out "$tmp/chain.pem" 2>/dev/null
SSL_CERT_FILE=$certs/ca.pem
export SSL_CERT_FILE
mkdir "$tmp/site"
echo "a page" >"$tmp/site/index.html"
if [ -x "$BUILD/https_server" ]; then server=$BUILD/https_server; else server=$BUILD/opt/https_server; fi
"$server" --port 443 --root "$tmp/site" --cert "$tmp/chain.pem" --key "$tmp/key.pem" >"$tmp/server.log" 2>&1 </dev/null &
pids=$!
port_of $pids >/dev/null
gives() { # TEXT COMMAND...
    text=$1
    shift
    timeout 20 "$@" >"$tmp/got" 2>&1 || { cat "$tmp/got"; return 1; }
    cat "$tmp/got"
    tr -d '\r' <"$tmp/got" | tr '\n' '|' | grep -q -- "$text"
}
check "the C program fetches the page" gives '^HTTP/1.1 200 OK|.*||a page|$' "$tmp/program"
! has g++ || check "as C++, too" gives '||a page|$' "$tmp/program++"
cp examples/http.lua "$tmp/"
for v in 5.1 5.2 5.3 5.4 5.5 jit; do
    case $v in jit) lua=luajit ;; *) lua=lua$v ;; esac
    module=
    for d in "$BUILD/lua/$v" "$BUILD/opt/lua/$v"; do [ ! -f "$d/psocket.so" ] || module=$d; done
    [ -n "$module" ] && has $lua || continue
    run() { (cd "$tmp" && LUA_PATH="?.lua" LUA_CPATH="$module/?.so" timeout 20 $lua "$@"); }
    said() { # TEXT FILE
        run "$2" >"$tmp/got" 2>&1 || { cat "$tmp/got"; return 1; }
        cat "$tmp/got"
        [ "$(cat "$tmp/got")" = "$1" ]
    }
    check "README's first Lua program ($lua)" said hello lua.1
    check "its request in one call ($lua)" said 200 lua.2
    (cd "$tmp" && LUA_PATH="?.lua" LUA_CPATH="$module/?.so" exec timeout 20 $lua lua.3) >"$tmp/tls.log" 2>&1 </dev/null &
    tls=$!
    pids="$pids $tls"
    n=0
    until curl -s --max-time 2 --cacert "$certs/ca.pem" https://localhost:8443/ >/dev/null || [ $n -gt 30 ]; do sleep 0.1; n=$((n + 1)); done
    check "its TLS server ($lua)" sh -c "curl -sS --max-time 5 --cacert '$certs/ca.pem' https://localhost:8443/x | grep -qx 'You asked for /x'"
    stop $tls
done
if [ -f /usr/include/lua5.4/lua.h ] && has lua5.4; then
    mkdir "$tmp/alone"
    cp psocket.h "$tmp/lua.1" "$tmp/alone/"
    alone() { (cd "$tmp/alone" && sh -ex ../sh.1 && env -u LUA_CPATH timeout 20 lua5.4 lua.1 | grep -qx hello); }
    if [ -z "${BEARSSL_DIR:-}" ]; then check "README's command makes a Lua module of the header alone" alone; fi
fi
for f in lua.4 lua.5; do ! has lua5.4 || check "block $f is Lua" lua5.4 -e "assert(loadfile('$tmp/$f'))"; done

# CMake's project as printed, beside a program of that name.
if has cmake; then
    mkdir "$tmp/cmake"
    cp "$tmp/cmake.1" "$tmp/cmake/CMakeLists.txt"
    cp "$tmp/program.c" "$tmp/cmake/program.c"
    prefixes="$tmp/prefix${BEARSSL_DIR:+;$BEARSSL_DIR}"
    check "make install for CMake" make -s -C "$root" install PREFIX="$tmp/prefix"
    check "README's CMake project is configured" cmake -S "$tmp/cmake" -B "$tmp/cmake/build" -DCMAKE_PREFIX_PATH="$prefixes" ${BEARSSL_DIR:+-DBEARSSL_LIBRARY="$BEARSSL_DIR/build/libbearssl.a"}
    check "and built" cmake --build "$tmp/cmake/build"
    check "and its program fetches the page" gives '||a page|$' "$tmp/cmake/build/program"
else skip "cmake" "not installed"; fi

# What README lists.
names() { sed -n 's/^PSOCKET_API .*[ *]psocket_\([a-z_]*\)(.*/\1/p' psocket.h | sort -u | grep -v -e '^resolve_' -e '^cleanup$' -e '^tls_free$' -e '^tls_retain$' -e '_free$'; }
listed() {
    missing=
    for f in $(names); do grep -q "\`$f\`" README.md || missing="$missing $f"; done
    echo "not in README's table of functions:$missing"
    [ -z "$missing" ]
}
check "README names every function" listed
codes() {
    missing=
    for c in $(sed -n 's/^    X(\([A-Z_]*\), *-[0-9].*/\1/p' psocket.h | grep -v -e '^OK$'); do grep -q "\`$c\`" README.md || missing="$missing $c"; done
    echo "not in README's table of errors:$missing"
    [ -z "$missing" ]
}
check "README names every error" codes
links() {
    bad=
    for f in $(grep -o '`\(examples\|tests\)/[A-Za-z0-9_./]*`' README.md | tr -d '`' | sort -u); do [ -e "$f" ] || bad="$bad $f"; done
    echo "README names what is not there:$bad"
    [ -z "$bad" ]
}
check "README's files exist" links
for f in hosts nsswitch.conf; do umount "/etc/$f"; done
finish
