#!/bin/sh
# Other people's clients against examples/https_server: curl, openssl s_client, gnutls-cli.
. tests/check.sh
site=$tmp/site
mkdir -p "$site/sub dir/.hidden"
head -c 10485760 /dev/urandom >"$site/big"
want=$(sha "$site/big")
head -c 1048576 "$site/big" >"$site/mega" # for gnutls-cli, which takes seconds for ten times that
echo hello >"$site/index.html"
echo below >"$site/sub dir/index.html"
echo secret >"$site/sub dir/.hidden/file"
echo secret >"$tmp/outside"
ln -s "$tmp/outside" "$site/link-out"
ln -s index.html "$site/link-in"
: >"$site/empty.css"

start() { # NAME OPTIONS... : sets pid and port
    name=$1
    shift
    "$BUILD/https_server" --port 0 --root "$site" "$@" >"$tmp/$name.log" 2>&1 </dev/null &
    pid=$!
    pids="$pids $pid"
    port=$(port_of $pid) || { cat "$tmp/$name.log" >"$tmp/out"; fail "$name starts"; finish; }
    n=0
    until grep -q listening "$tmp/$name.log" || [ $n -gt 50 ]; do sleep 0.1; n=$((n + 1)); done
    check "$name prints its port" grep -q "listening on http.*://localhost:$port/$" "$tmp/$name.log"
}
same() { [ "$(sha "$tmp/body")" = "$want" ]; }
tail_same() { tail -c 10485760 "$tmp/body" >"$tmp/tail" && [ "$(sha "$tmp/tail")" = "$want" ]; }
request='GET /big HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
ca=$certs/ca.pem

# --- TLS, both kinds of certificate -----------------------------------------------------------------------------------
start tls --cert "$certs/rsa.pem" --key "$certs/rsa.key" --cert "$certs/ec.pem" --key "$certs/ec.key"
tls_pid=$pid tls_port=$port
url=https://localhost:$port
with_curl() { curl -sS -m 60 --cacert "$ca" -o "$tmp/body" "$@" && same; }
with_s_client() { # shellcheck disable=SC2059
    printf "$request" | timeout 60 openssl s_client -quiet -connect "localhost:$port" -servername localhost -CAfile "$ca" \
        -verify_return_error -verify_hostname localhost "$@" >"$tmp/body" && tail_same
}
with_gnutls() { # shellcheck disable=SC2059
    printf "$request" | sed s,/big,/mega, | timeout 50 gnutls-cli --logfile="$tmp/gnutls.log" --x509cafile "$ca" -p "$port" "$@" localhost \
        >"$tmp/body" && tail -c 1048576 "$tmp/body" | cmp - "$site/mega"
}
fetch() { timeout 60 "$BUILD/https_get" --cacert "$ca" -o "$tmp/body" "$@" && same; }
if has curl; then
    check "curl, 10 MB" with_curl $url/big
    check "curl, 10 MB, 127.0.0.1" with_curl https://127.0.0.1:$port/big
    check "curl, 10 MB, ::1" with_curl "https://[::1]:$port/big"
    for c in ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES128-GCM-SHA256 ECDHE-RSA-CHACHA20-POLY1305 \
        ECDHE-ECDSA-CHACHA20-POLY1305 ECDHE-RSA-AES256-GCM-SHA384 ECDHE-ECDSA-AES256-GCM-SHA384; do
        check "curl, 10 MB, $c" with_curl --tls-max 1.2 --ciphers $c $url/big
    done
    many() { # all at once: the big ones must not hold up the small ones, nor each other
        i=0 list=
        while [ $i -lt 30 ]; do
            list="$list -o $tmp/many.$i $url/$([ $((i % 6)) = 0 ] && echo big || echo index.html)"
            i=$((i + 1))
        done
        # shellcheck disable=SC2086
        curl -sS -m 100 --cacert "$ca" -Z --parallel-immediate --parallel-max 30 $list || return 1
        for i in 0 6 12 18 24; do [ "$(sha "$tmp/many.$i")" = "$want" ] || return 1; done
        for i in 1 13 29; do grep -q hello "$tmp/many.$i" || return 1; done
    }
    check "curl, 30 connections at once" many
    refuse "curl without the CA refuses" "certificate" curl -sS -m 20 -o "$tmp/body" $url/
else skip curl "not installed"; fi
for c in ECDHE-RSA-AES128-GCM-SHA256 ECDHE-ECDSA-AES128-GCM-SHA256; do
    check "openssl s_client, 10 MB, $c" with_s_client -cipher $c
done
refuse "openssl s_client, TLS 1.0 only" "protocol version\|unsupported protocol\|no protocols\|alert" sh -c \
    "openssl s_client -connect localhost:$port -tls1 -cipher 'ALL:@SECLEVEL=0' </dev/null"
refuse "openssl s_client, no ECDHE" "alert" sh -c "openssl s_client -connect localhost:$port -tls1_2 -cipher AES128-SHA </dev/null"
alpn() { openssl s_client -connect "localhost:$port" -CAfile "$ca" -alpn "$1" </dev/null >"$tmp/s" 2>&1; grep "$2" "$tmp/s"; }
check "ALPN: http/1.1 is agreed on" alpn h2,http/1.1 'ALPN protocol: http/1.1'
if has gnutls-cli; then
    check "gnutls-cli, 1 MB, RSA" with_gnutls --priority NORMAL:-ECDHE-ECDSA:-VERS-TLS1.3
    check "gnutls-cli, 1 MB, ECDSA" with_gnutls --priority NORMAL:-ECDHE-RSA:-VERS-TLS1.3
    small() {
        printf 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' |
            timeout 30 gnutls-cli --logfile="$tmp/gnutls.log" --x509cafile "$ca" -p "$port" localhost | grep hello
    }
    check "gnutls-cli, its defaults" small
    refuse "gnutls-cli without the CA refuses" "NOT trusted" gnutls-cli -p "$port" localhost
else skip gnutls-cli "not installed"; fi
check "https_get, 10 MB" fetch $url/big
check "https_get, 10 MB, 127.0.0.1" fetch https://127.0.0.1:$port/big
check "https_get, 10 MB, ::1" fetch "https://[::1]:$port/big"
logged_once() { [ "$(grep -c 'TLS handshake failed' "$tmp/tls.log")" -eq $(($1 + 1)) ]; }
before=$(grep -c 'TLS handshake failed' "$tmp/tls.log")
timeout 10 "$BUILD/https_get" "http://127.0.0.1:$port/" >/dev/null 2>&1
check "plain HTTP at the TLS port: one line in the log" logged_once "$before"

# --- the server's own ways, in plain HTTP -----------------------------------------------------------------------------
start plain
code() { # WANTED PATH OPTIONS...
    wanted=$1 path=$2
    shift 2
    got=$(curl -s -m 20 --path-as-is -o "$tmp/body" -w '%{http_code}' "$@" "http://127.0.0.1:$port$path")
    echo "answered $got"
    [ "$got" = "$wanted" ]
}
if has curl; then
    check "/ is index.html" code 200 /
    check "/ says hello" grep -q hello "$tmp/body"
    check "percent-decoding" code 200 /sub%20dir/index.html
    check "a query is ignored" code 200 '/index.html?a=/../b'
    check "a folder without its slash is redirected" code 301 /sub%20dir
    check "an empty file" code 200 /empty.css
    check "a link inside" code 200 /link-in
    check "a link to the outside" code 404 /link-out
    check "no such file" code 404 /nothing
    check "dot-dot" code 404 /../outside
    check "encoded dot-dot" code 404 /%2e%2e/outside
    check "encoded slash and dot-dot" code 404 '/sub%20dir/..%2f..%2foutside'
    check "a hidden file" code 404 '/sub%20dir/.hidden/file'
    check "two slashes" code 400 //index.html
    check "malformed percent" code 400 /%4
    check "encoded NUL" code 400 /index.html%00
    check "POST" code 405 / -d x=1
    check "HEAD" code 200 /big -I
    check "no Host" code 400 / -H Host:
    check "HTTP/1.0 without Host" code 200 / -0 -H Host:
    check "a header too large" code 431 / -H "X-Big: $(head -c 30000 /dev/zero | tr '\0' a)"
    check "10 MB" sh -c "curl -sS -m 60 http://127.0.0.1:$port/big | cmp - '$site/big'"
    kept() { [ "$(curl -s -m 20 -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects}' http://127.0.0.1:$port/ \
        http://127.0.0.1:$port/nothing http://127.0.0.1:$port/big)" = 100 ]; }
    check "keep-alive: one connection for three requests" kept
fi

# Half a request: the server sleeps until more comes. Clock ticks of its process are read from the kernel.
ticks() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; }
half_request() {
    { printf 'GET / HTTP/1.1\r\nHo'; sleep 1.5; } | timeout 5 "$BUILD/tests/peers/feed" 127.0.0.1 $port &
    feeder=$!
    sleep 0.3
    a=$(ticks)
    sleep 1
    b=$(ticks)
    kill $feeder 2>/dev/null
    wait $feeder 2>/dev/null
    echo "$((b - a)) ticks in a second"
    [ $((b - a)) -lt 20 ]
}
check "half a request costs no CPU" half_request
feed() { # TEXT WANTED-IN-THE-ANSWER : raw requests
    # shellcheck disable=SC2059
    printf "$1" | timeout 10 "$BUILD/tests/peers/feed" 127.0.0.1 "$port" >"$tmp/answer"
    cat "$tmp/answer"
    grep -q "$2" "$tmp/answer"
}
check "three requests in one packet" feed 'GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\n\r\nHEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' '^HTTP/1.1 404'
check "all three were answered" test "$(grep -c '^HTTP/1.1' "$tmp/answer")" -eq 3
check "no version" feed 'GET /\r\n\r\n' '^HTTP/1.1 400'
check "version 2" feed 'GET / HTTP/2.0\r\nHost: a\r\n\r\n' '^HTTP/1.1 505'
check "garbage" feed '\001\002\003\r\n\r\n' '^HTTP/1.1 400'
check "a folded header" feed 'GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n' '^HTTP/1.1 400'
check "a blank before the colon" feed 'GET / HTTP/1.1\r\nHost : a\r\n\r\n' '^HTTP/1.1 400'
check "two Hosts" feed 'GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n' '^HTTP/1.1 400'
check "absolute form" feed 'GET http://a/index.html HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n' '^hello'
check "a body ends the connection: no second answer" feed 'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n' '^Connection: close'

# --- the end ----------------------------------------------------------------------------------------------------------
ends() { # PID : by itself, with status 0, within 5 s
    kill -TERM "$1"
    wait "$1"
}
check "ends cleanly on SIGTERM, plain" ends $pid
check "ends cleanly on SIGTERM, TLS" ends $tls_pid
pids=
check "no sanitizer report" sh -c "! grep -l 'runtime error\|Sanitizer' '$tmp'/*.log"
refuse "a key that is not the certificate's" "key" timeout 10 "$BUILD/https_server" --port 0 --cert "$certs/rsa.pem" --key "$certs/ec.key"
refuse "a certificate without a key" "usage" timeout 10 "$BUILD/https_server" --port 0 --cert "$certs/rsa.pem"
refuse "no such folder" "No such file" timeout 10 "$BUILD/https_server" --port 0 --root "$tmp/nowhere"
finish
