#!/bin/sh
# psocket in place of Pluto's own socket library, in the Pluto that PLUTO_DIR names (its source folder, built): the ten
# programs of the specification as printed (but for where the certificates come from), in a network namespace where the
# hosts that they name are this machine; and Pluto's own tests of its socket library. With Pluto's scheduler and psocket's.
if [ -z "${PLUTO_DIR:-}" ]; then
    echo "skip pluto: PLUTO_DIR= names no Pluto source folder"
    echo "0 passed, 0 failed"
    exit 0
fi
pluto=$PLUTO_DIR/src/pluto
if [ ! -x "$pluto" ]; then
    echo "skip pluto: $pluto is not there: run make in $PLUTO_DIR"
    echo "0 passed, 0 failed"
    exit 0
fi
if [ "${1:-}" != inside ]; then
    if ! unshare -nm true 2>/dev/null || ! command -v ip >/dev/null; then
        echo "skip pluto: needs root, unshare and ip for namespaces of its own"
        echo "0 passed, 0 failed"
        exit 0
    fi
    exec unshare -nm sh "$0" inside
fi
. tests/check.sh
case $BUILD in *san) skip "pluto" "tested on the optimised build"; finish ;; esac
case $certs in /*) ;; *) certs=$(pwd)/$certs ;; esac
unset MAKEFLAGS MFLAGS MAKELEVEL
ip link set lo up
ip addr add 1.1.1.1/32 dev lo
printf '127.0.0.1 localhost\n1.1.1.1 google.com pluto-lang.org\n' >"$tmp/hosts"
printf 'hosts: files\n' >"$tmp/nsswitch.conf"
for f in hosts nsswitch.conf; do mount --bind "$tmp/$f" "/etc/$f" || exit 1; done
check "make LUA_DIR= builds the module" make -s BUILD="$tmp/build" LUA_DIR="$PLUTO_DIR" "$tmp/build/lua/pluto/psocket.so"
LUA_CPATH=$tmp/build/lua/pluto/?.so SSL_CERT_FILE=$certs/ca.pem
export LUA_CPATH SSL_CERT_FILE
check "loading prints nothing" sh -c "[ -z \"\$('$pluto' -e 'require \"psocket\"' 2>&1)\" ]"
printf 'subjectAltName=DNS:google.com,DNS:pluto-lang.org,IP:1.1.1.1\n' >"$tmp/san"
openssl req -newkey rsa:2048 -nodes -keyout "$tmp/key.pem" -subj /CN=google.com -out "$tmp/csr" 2>/dev/null
openssl x509 -req -in "$tmp/csr" -CA "$certs/ca.pem" -CAkey "$certs/ca.key" -set_serial 77 -days 2 -extfile "$tmp/san" -out "$tmp/cert.pem" 2>/dev/null

# The programs, each in a file.
awk -v d="$tmp" '/^== / { f = d "/" $2 ".pluto"; next } f { print > f }' tests/pluto/programs.txt
sed -i "s,http.request(\"https://[^\"]*/\([a-z]*\).pem\"),io.contents(\"$tmp/\1.pem\")," "$tmp/starttls-server.pluto"
for scheduler in pluto psocket; do
    pre='package.loaded["pluto:socket"] = require "psocket" package.loaded.socket = require "psocket"'
    [ $scheduler = pluto ] || pre="$pre package.loaded['pluto:scheduler'] = require('psocket').scheduler package.loaded.scheduler = require('psocket').scheduler"
    run() { timeout 20 "$pluto" -W -e "$pre" "$@"; }
    prints() { # TEXT PROGRAM
        run "$tmp/$2.pluto" >"$tmp/got" 2>&1 || { cat "$tmp/got"; return 1; }
        cat "$tmp/got"
        tr -d '\r' <"$tmp/got" | tr '\n' '|' | grep -q -- "^$1"
    }
    serve() { # PORT PROGRAM...: in the background, until it listens
        port=$1
        shift
        timeout 20 "$pluto" -W -e "$pre" "$@" >"$tmp/served" 2>&1 </dev/null &
        server=$!
        pids="$pids $server"
        n=0
        until python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null || [ $n -gt 50 ]; do sleep 0.1; n=$((n + 1)); done
    }
    serve 443 tests/pluto/server.pluto "$tmp/cert.pem" "$tmp/key.pem"
    check "recv ($scheduler's scheduler)" prints 'HTTP/1.1 200 OK|.*from here' recv
    check "unrecv ($scheduler's scheduler)" prints 'Hello|World|$' unrecv
    check "starttls, client ($scheduler's scheduler)" prints 'HTTP/1.1 200 OK|.*from here' starttls-client
    check "getpeer ($scheduler's scheduler)" prints '1.1.1.1|443|$' getpeer
    check "getside ($scheduler's scheduler)" prints 'client|$' getside
    check "istls ($scheduler's scheduler)" prints 'false|true|$' istls
    check "isopen ($scheduler's scheduler)" prints 'true|false|$' isopen
    stop "$server"
    serve 80 "$tmp/bind.pluto"
    check "bind ($scheduler's scheduler)" sh -c "curl -sS --max-time 5 http://127.0.0.1/ | grep -qx 'Hello, world!'"
    refuse "bind raises when it cannot listen ($scheduler's scheduler)" "in use" run "$tmp/bind.pluto"
    stop "$server"
    serve 443 "$tmp/starttls-server.pluto"
    check "starttls, server ($scheduler's scheduler)" sh -c "curl -sS --max-time 5 --cacert '$certs/ca.pem' https://pluto-lang.org --connect-to ::127.0.0.1:443 | grep -qx 'Hello, world!'"
    stop "$server"
    timeout 20 "$pluto" -W -e "$pre" "$tmp/hasconnection.pluto" >"$tmp/served" 2>&1 </dev/null &
    server=$!
    pids="$pids $server"
    check "hasconnection ($scheduler's scheduler)" sh -c "n=0; until printf 'over here\n' | timeout 5 python3 -c \"import socket, sys
s = socket.create_connection(('127.0.0.1', 80), 1)
s.sendall(sys.stdin.buffer.read())
s.recv(1)\" 2>/dev/null || [ \$n -gt 30 ]; do sleep 0.1; n=\$((n + 1)); done; grep -q 'over here' '$tmp/served'"
    stop "$server"

    # Pluto's own tests of it: the blocks of its test suite that use the socket library.
    suite=$PLUTO_DIR/testes/pluto/basic.pluto
    if [ -f "$suite" ]; then
        awk '/^do$/ { block = ""; inside = 1 } inside { block = block $0 "\n" } /^end$/ && inside { inside = 0
            if (block ~ /scheduler, socket } = require/) { print block; n++ } } END { print "print(\"" n " blocks\")" }' "$suite" >"$tmp/suite.pluto"
        check "Pluto's own tests ($scheduler's scheduler)" sh -c "grep -q 'socket.udpserver' '$tmp/suite.pluto'"
        check "pass ($scheduler's scheduler)" run "$tmp/suite.pluto"
    else skip "Pluto's own tests" "$suite is not there"; fi
done
for f in hosts nsswitch.conf; do umount "/etc/$f"; done
finish
