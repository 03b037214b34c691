#!/bin/sh
# demo.sh: what `make demo` runs. LUAS names the runtimes whose modules are built: "5.4=lua5.4 jit=luajit ...".
# Everything happens on loopback and in a temporary folder; nothing is left behind. Exit status 0 means all of it worked.
set -u
BUILD=${BUILD:-build}
problems=0 servers='' version='' lua=''
for v in 5.4 jit 5.3 5.5 5.2 5.1; do
    for entry in ${LUAS:-}; do
        if [ "${entry%%=*}" = $v ] && command -v "${entry#*=}" >/dev/null; then
            version=$v lua=${entry#*=}
            break 2
        fi
    done
done
[ -n "$lua" ] || { echo "make demo needs a Lua interpreter with headers" >&2; exit 1; }

tmp=$(mktemp -d "${TMPDIR:-/tmp}/psocket-demo.XXXXXX") || exit 1
stop_all() {
    for p in $servers; do kill "$p" 2>/dev/null; done
    for p in $servers; do wait "$p" 2>/dev/null; done
    servers=
}
trap 'stop_all; rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

say() { printf '\n%s\n' "$*"; }
problem() { problems=$((problems + 1)); echo "   PROBLEM: $*"; }
show() { sed "s|$tmp/||g; s/^/   /" "$1"; }
run() { # COMMAND... : shows the command and what it prints; the status is kept in $status
    echo "   \$ $*" | sed "s|$tmp/||g"
    timeout 30 "$@" >"$tmp/out" 2>&1 </dev/null
    status=$?
    show "$tmp/out"
}
serve() { # CHAIN KEY : starts the Lua server, sets url
    : >"$tmp/log"
    LUA_CPATH="$BUILD/lua/$version/?.so;;" "$lua" examples/https_server.lua 0 "$1" "$2" >"$tmp/log" 2>&1 </dev/null &
    servers="$servers $!"
    n=0
    until grep -q 'listening on' "$tmp/log"; do
        n=$((n + 1))
        if [ $n -gt 100 ] || ! kill -0 $! 2>/dev/null; then
            problem "the server did not start"
            show "$tmp/log"
            exit 1
        fi
        sleep 0.1
    done
    url=$(sed -n 's/.*listening on \(https:[^ ]*\).*/\1/p' "$tmp/log" | head -n 1)
    echo "   \$ $lua examples/https_server.lua 0 $(basename "$1") $(basename "$2")"
    show "$tmp/log"
}

echo "psocket: an HTTPS server written in Lua and a client written in C, talking on this machine only."

say "1. A certificate authority and certificates, made for this demo and thrown away at its end:"
sh tests/certs.sh "$tmp/certs" || exit 1
for f in ca.pem other_ca.pem rsa.pem rsa.key wrong.pem wrong.key; do mv "$tmp/certs/$f" "$tmp/$f"; done
echo "   ca.pem        the authority that the client will trust"
echo "   rsa.pem/.key  a certificate for localhost, signed by it"
echo "   wrong.pem     a certificate for wrong.test, signed by it too"

say "2. The server, in Lua ($version), with the certificate for localhost:"
serve "$tmp/rsa.pem" "$tmp/rsa.key"

say "3. The client, in C, fetches the page. It trusts ca.pem, and checks the chain, the dates and the name:"
run "$BUILD/https_get" --cacert "$tmp/ca.pem" "$url"
[ $status -eq 0 ] || problem "https_get ended with status $status"
page=$(grep -v '^TLSv' "$tmp/out")
grep -q '^TLSv1' "$tmp/out" || problem "https_get did not say what TLS it got"

if command -v curl >/dev/null 2>&1; then
    say "4. curl, which uses another TLS library, gets the same page:"
    run curl -sS --cacert "$tmp/ca.pem" "$url"
    [ $status -eq 0 ] || problem "curl ended with status $status"
    [ "$(cat "$tmp/out")" = "$page" ] || problem "curl got something else"
else
    say "4. (curl is not installed: left out)"
fi

say "5. A client that trusts another authority refuses the server, before a byte of the request is sent:"
run "$BUILD/https_get" --cacert "$tmp/other_ca.pem" "$url"
{ [ $status -eq 1 ] && grep -qi 'trust' "$tmp/out"; } || problem "the untrusted chain was not refused"

say "6. A server that shows the certificate of wrong.test is refused as localhost:"
serve "$tmp/wrong.pem" "$tmp/wrong.key"
run "$BUILD/https_get" --cacert "$tmp/ca.pem" "$url"
{ [ $status -eq 1 ] && grep -q 'wrong.test' "$tmp/out"; } || problem "the wrong name was not refused"

stop_all
if [ $problems -eq 0 ]; then
    say "All of it worked; the servers are stopped. Next: read examples/, or put psocket.h into your own project."
else
    say "$problems of the steps above did not work."
    exit 1
fi
