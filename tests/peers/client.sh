#!/bin/sh
# examples/https_get against other people's servers, openssl s_server and gnutls-serv, and against hostile answers.
. tests/check.sh
site=$tmp/site
mkdir "$site"
head -c 10485760 /dev/urandom >"$site/big"
echo hello >"$site/small"
want=$(sha "$site/big")
ca=$certs/ca.pem
get=$BUILD/https_get
abs() { case $1 in /*) echo "$1" ;; *) echo "$(pwd)/$1" ;; esac; }
certs=$(abs "$certs")

start_openssl() { # CERT OPTIONS... : sets pid and port
    cert=$1
    shift
    chain=
    [ "$(grep -c BEGIN "$certs/$cert.pem")" -gt 1 ] && chain="-cert_chain $certs/inter.pem"
    # shellcheck disable=SC2086
    (cd "$site" && exec openssl s_server -accept 127.0.0.1:0 -WWW -cert "$certs/$cert.pem" -key "$certs/$cert.key" $chain "$@") \
        >"$tmp/server.log" 2>&1 </dev/null &
    pid=$!
    pids="$pids $pid"
    port=$(port_of $pid) || { cp "$tmp/server.log" "$tmp/out"; fail "openssl s_server with $cert starts"; finish; }
}
fetch() { timeout 60 "$get" --cacert "$ca" -o "$tmp/body" "$@" && [ "$(sha "$tmp/body")" = "$want" ]; }

for cert in rsa ec; do
    start_openssl $cert
    check "openssl s_server, $cert, 10 MB" fetch "https://localhost:$port/big"
    check "openssl s_server, $cert, by address" fetch "https://127.0.0.1:$port/big"
    stdout() { timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small" 2>"$tmp/err" | cmp - "$site/small" && grep -q "$1" "$tmp/err"; }
    check "openssl s_server, $cert, to standard output; the suite is told" stdout "^TLSv1.3 TLS_[A-Z0-9_]*, CN=localhost"
    refuse "openssl s_server, $cert, the CA unknown" "trusted" timeout 20 "$get" --cacert "$certs/other_ca.pem" "https://localhost:$port/small"
    stop $pid
    for c in AES128-GCM-SHA256 AES256-GCM-SHA384 CHACHA20-POLY1305; do
        start_openssl $cert -tls1_2 -cipher "ECDHE-$(echo $cert | sed 's/rsa/RSA/; s/ec/ECDSA/')-$c"
        check "openssl s_server, TLS 1.2, $cert, $c, 10 MB" fetch "https://localhost:$port/big"
        check "and the suite is told" stdout "^TLSv1.2 TLS_ECDHE_$(echo $cert | sed 's/rsa/RSA/; s/ec/ECDSA/')_.* CN=localhost"
        stop $pid
    done
done
start_openssl expired
refuse "expired" "expired" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
check "expired, but --insecure" timeout 20 "$get" --insecure -o "$tmp/body" "https://localhost:$port/small"
check "the file is there" cmp "$tmp/body" "$site/small"
stop $pid
start_openssl wrong
refuse "wrong name" "wrong.test" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
stop $pid
start_openssl untrusted
refuse "untrusted" "trusted" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
check "trusted with the other CA" timeout 20 "$get" --cacert "$certs/other_ca.pem" -o "$tmp/body" "https://localhost:$port/small"
stop $pid
start_openssl self
refuse "self-signed" "self-signed" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
stop $pid
start_openssl rsa -tls1_3
check "a server of TLS 1.3 only" stdout "^TLSv1.3 "
stop $pid
start_openssl rsa -tls1_1 -cipher ALL:@SECLEVEL=0
refuse "a server of TLS 1.1 only" "neither TLS 1.3 nor TLS 1.2" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
stop $pid
start_openssl rsa -tls1_2 -cipher AES128-GCM-SHA256
refuse "a server without ECDHE" "in common\|handshake" timeout 20 "$get" --cacert "$ca" "https://localhost:$port/small"
stop $pid

if has gnutls-serv; then
    for cert in rsa ec; do
        for mode in --http --echo; do
            gnutls-serv --port=0 $mode --x509certfile="$certs/$cert.pem" --x509keyfile="$certs/$cert.key" >"$tmp/server.log" 2>&1 </dev/null &
            pid=$!
            pids="$pids $pid"
            port=$(port_of $pid) || { cp "$tmp/server.log" "$tmp/out"; fail "gnutls-serv with $cert starts"; continue; }
            if [ $mode = --http ]; then
                # It serves one page of its own, which shows the request.
                page() { timeout 20 "$get" --cacert "$ca" -o "$tmp/body" "https://127.0.0.1:$port/a-page" && grep -q "Host: 127.0.0.1:$port" "$tmp/body" && grep -qi '</html>' "$tmp/body"; }
                check "gnutls-serv, $cert, its page is whole" page
                refuse "gnutls-serv, $cert, the CA unknown" "trusted" timeout 20 "$get" --cacert "$certs/other_ca.pem" "https://127.0.0.1:$port/"
            else
                check "gnutls-serv, $cert, 10 MB there and back" timeout 100 "$BUILD/tests/peers/tls_echo" 127.0.0.1 "$port" "$ca" 10
            fi
            stop $pid
        done
    done
else skip gnutls-serv "not installed"; fi

# --- answers, good and hostile ----------------------------------------------------------------------------------------
answer() { # OPTIONS-OF-CANNED -- OPTIONS-OF-GET : serves $tmp/answer once; the body goes to $tmp/body
    opts=
    while [ "$1" != -- ]; do opts="$opts $1"; shift; done
    shift
    rm -f "$tmp/body" "$tmp/port"
    # shellcheck disable=SC2086
    "$BUILD/tests/peers/canned" "$tmp/answer" $opts >"$tmp/port" 2>"$tmp/canned.log" </dev/null &
    canned=$!
    n=0
    until [ -s "$tmp/port" ] || [ $n -gt 100 ]; do sleep 0.05; n=$((n + 1)); done
    url=http
    case $opts in *.key*) url=https ;; esac
    timeout 20 "$get" --cacert "$ca" -o "$tmp/body" "$@" "$url://127.0.0.1:$(cat "$tmp/port")/"
    status=$?
    kill $canned 2>/dev/null
    wait $canned 2>/dev/null
    return $status
}
put() { # shellcheck disable=SC2059
    printf "$@" >"$tmp/answer"
}
body_is() { answer -- && [ "$(cat "$tmp/body")" = "$1" ]; }
put 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'
check "a length" body_is hello
put 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more'
check "more than the length" body_is hello
put 'HTTP/1.0 200 OK\n\nuntil the end'
check "until the end, bare line feeds" body_is "until the end"
put 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-LENGTH:  2 \r\n\r\nok'
check "100 before 200" body_is ok
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n \r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n'
check "chunks" body_is "hello 0123456789"
put 'HTTP/1.1 204 No Content\r\n\r\n'
check "204 has no body" body_is ""
bad() { # NAME MESSAGE : the answer in $tmp/answer is refused with this message
    refuse "$1" "$2" answer --
}
put 'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort'
bad "a short body" "incomplete: 5 of 500 bytes"
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n'
bad "chunks without an end" "incomplete: 5 bytes"
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\nhello\r\n'
bad "a chunk of 2^72 bytes" "chunk size"
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n'
bad "a negative chunk" "chunk size"
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n'
bad "a chunk longer than it said" "longer"
put 'HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello'
bad "a negative length" "Content-Length"
put 'HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello'
bad "a huge length" "Content-Length"
put 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello'
bad "two lengths" "Content-Length"
put 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'
bad "an unknown coding" "Transfer-Encoding"
put 'HTTP/1.1 404 Not\033[31m Found\r\n\r\n'
bad "404, control characters masked" "404 Not?\[31m Found"
put 'HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n'
bad "a redirection is told" "see /elsewhere"
put 'hello, this is not HTTP\r\n\r\n'
bad "not HTTP" "not an HTTP"
put ''
bad "nothing" "ended within"
put 'HTTP/1.1 200 OK\r\nX: a\000b\r\n\r\n'
bad "a NUL in the header" "NUL"
{ printf 'HTTP/1.1 200 OK\r\nX: '; head -c 100000 /dev/zero | tr '\0' a; printf '\r\n\r\n'; } >"$tmp/answer"
bad "an endless line" "too long"
{ printf 'HTTP/1.1 200 OK\r\n'; yes 'X: y' | head -n 100000; } >"$tmp/answer"
bad "endless lines" "too long"
head -c 100000 /dev/urandom >"$tmp/answer"
bad "noise" "https_get: "

tls="$certs/rsa.pem $certs/rsa.key"
put 'HTTP/1.1 200 OK\r\n\r\nuntil the end'
# shellcheck disable=SC2086
{
    ended() { answer $tls -- && [ "$(cat "$tmp/body")" = "until the end" ]; }
    check "TLS, until the end with close_notify" ended
    refuse "TLS, until the end without close_notify" "cut off" answer $tls --rude --
    put 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'
    check "TLS, a length, no close_notify: all is there" answer $tls --rude --
    put 'HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello'
    refuse "TLS, a short body" "incomplete: 5 of 50 bytes" answer $tls --
}

refuse "nobody there" "refused" timeout 20 "$get" http://127.0.0.1:1/
for u in ftp://a/ https:// http://:80/ 'http://a:0/' 'http://a:65536/' 'http://a:1x/' 'http://[::1/' 'http://a b/' 'http://u@a/' "http://$(head -c 300 /dev/zero | tr '\0' a)/"; do
    refuse "URL $(echo "$u" | cut -c1-20)" "URL" timeout 20 "$get" "$u"
done
refuse "no arguments" "usage" "$get"
refuse "no such CA file" "ca_file\|read\|nowhere" timeout 20 "$get" --cacert "$tmp/nowhere" "https://127.0.0.1:1/"
finish
