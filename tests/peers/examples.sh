#!/bin/sh
# The short C examples against peers of other makes, and all of them as C++17 and, where MinGW is there, for Windows.
. tests/check.sh
case $BUILD in /*) ;; *) BUILD=$(pwd)/$BUILD ;; esac
log=$tmp/server.log
has python3 || { skip "examples" "no python3 for their peers"; finish; }
start() { # COMMAND... : in the background; sets pid and port (from a line "port N")
    : >"$log"
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    pids="$pids $pid"
    n=0 port=
    while [ -z "$port" ] && [ $n -lt 100 ]; do
        sleep 0.05
        port=$(sed -n 's/^port \([0-9]*\)$/\1/p; s/^ACCEPT .*:\([0-9]*\)$/\1/p' "$log" | head -n 1)
        n=$((n + 1))
    done
}
gives() { # TEXT COMMAND...: what it prints
    text=$1
    shift
    "$@" >"$tmp/got" 2>&1 || { cat "$tmp/got"; return 1; }
    cat "$tmp/got"
    grep -q -- "$text" "$tmp/got"
}

start python3 -u -c "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 0))
print('port', s.getsockname()[1])
n = 0
while True:
    data, peer = s.recvfrom(2000)
    n += 1
    if n != 1: s.sendto(b'answer to ' + data, peer)"
check "udp_query: the first datagram is lost" gives "^answer to what$" timeout 10 "$BUILD/udp_query" 127.0.0.1 "$port" what
stop "$pid"
refuse "udp_query: nobody is there" "refused" timeout 10 "$BUILD/udp_query" 127.0.0.1 "$port" what

start python3 -u -c "import socket
l = socket.create_server(('127.0.0.1', 0))
print('port', l.getsockname()[1])
for i in range(3):
    c, _ = l.accept()
    c.sendall(b'line %d\nhalf' % i)
    c.close()"
again() {
    timeout 15 "$BUILD/reconnect" 127.0.0.1 "$port" >"$tmp/lines" 2>"$tmp/errors" &
    r=$!
    pids="$pids $r"
    n=0
    until grep -q 'line 2' "$tmp/lines" || [ $n -gt 100 ]; do sleep 0.1; n=$((n + 1)); done
    n=0
    until grep -q refused "$tmp/errors" || [ $n -gt 50 ]; do sleep 0.1; n=$((n + 1)); done
    cat "$tmp/lines" "$tmp/errors"
    [ "$(cat "$tmp/lines")" = "line 0
line 1
line 2" ] && grep -q refused "$tmp/errors"
}
check "reconnect: three connections, then nobody" again
stop "$r" "$pid"

if [ -f "$certs/rsa.pem" ]; then
    cat >"$tmp/mail.py" <<'PY'
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
l = socket.create_server(('127.0.0.1', 0))
print('port', l.getsockname()[1], flush=True)
def serve(c, f):
    for line in f:
        if line.startswith(b'EHLO'): c.sendall(b'250-here\r\n250 STARTTLS\r\n')
        elif line.startswith(b'QUIT'): return c.sendall(b'221 bye\r\n')
        elif line.startswith(b'STARTTLS'):
            c.sendall(b'220 go on\r\n' + sys.argv[3].encode())
            t = context.wrap_socket(c, server_side=True)
            return serve(t, t.makefile('rb'))
while True:
    c, _ = l.accept()
    c.sendall(b'220 here ESMTP\r\n')
    try: serve(c, c.makefile('rb'))
    except OSError: pass
    c.close()
PY
    start python3 "$tmp/mail.py" "$certs/rsa.pem" "$certs/rsa.key" ""
    check "mail_starttls" gives "^221 bye" timeout 10 "$BUILD/mail_starttls" localhost "$port" "$certs/ca.pem"
    refuse "mail_starttls, another CA" "trusted" timeout 10 "$BUILD/mail_starttls" localhost "$port" "$certs/other_ca.pem"
    stop "$pid"
    start python3 "$tmp/mail.py" "$certs/rsa.pem" "$certs/rsa.key" "250 slipped in
"
    refuse "mail_starttls: what was slipped in before TLS" "plaintext" timeout 10 "$BUILD/mail_starttls" localhost "$port" "$certs/ca.pem"
    stop "$pid"

    start python3 -u -c "import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain('$certs/rsa.pem', '$certs/rsa.key')
context.load_verify_locations('$certs/ca.pem')
context.verify_mode = ssl.CERT_REQUIRED
l = socket.create_server(('127.0.0.1', 0))
print('port', l.getsockname()[1])
while True:
    c, _ = l.accept()
    try:
        t = context.wrap_socket(c, server_side=True)
        t.sendall(t.recv(100) + str(dict(x[0] for x in t.getpeercert()['subject'])).encode())
        t.unwrap()
    except (OSError, ssl.SSLError): pass
    c.close()"
    check "client_certificate" gives "commonName" timeout 10 "$BUILD/client_certificate" localhost "$port" "$certs/client.pem" "$certs/client.key" "$certs/ca.pem"
    refuse "client_certificate: one that the server does not trust" "alert\|closed\|reset" \
        timeout 10 "$BUILD/client_certificate" localhost "$port" "$certs/untrusted.pem" "$certs/untrusted.key" "$certs/ca.pem"
    refuse "client_certificate: no such file" "nowhere.pem" timeout 10 "$BUILD/client_certificate" localhost "$port" "$tmp/nowhere.pem" "$tmp/nowhere.key"
    stop "$pid"

    start "$BUILD/tls_server" 0 "$certs/ec.pem" "$certs/ec.key"
    tls_port=$port server=$pid
    talk() { (printf 'one\ntwo\n'; sleep 0.3) | timeout 10 openssl s_client -connect "localhost:$tls_port" -CAfile "$certs/ca.pem" -verify_return_error -quiet -no_ign_eof; }
    check "tls_server" gives "^two" talk
    check "tls_server: a second client while a first one is silent" sh -c "sleep 5 | timeout 5 python3 -c \"import socket; s = socket.create_connection(('127.0.0.1', $tls_port)); import time; time.sleep(2)\" & (printf 'one\ntwo\n'; sleep 0.3) | timeout 10 openssl s_client -connect localhost:$tls_port -CAfile '$certs/ca.pem' -verify_return_error -quiet -no_ign_eof | grep -q two"

    start python3 -u -c "import socket, threading
l = socket.create_server(('127.0.0.1', 0))
print('port', l.getsockname()[1])
def pump(a, b):
    try:
        while data := a.recv(65536): b.sendall(data)
        b.shutdown(socket.SHUT_WR)
    except OSError: pass
while True:
    c, _ = l.accept()
    head = b''
    while b'\r\n\r\n' not in head: head += c.recv(1000)
    host, port = head.split()[1].decode().rsplit(':', 1)
    if host != 'localhost':
        c.sendall(b'HTTP/1.1 403 Forbidden\r\n\r\n')
        c.close()
        continue
    u = socket.create_connection((host, int(port)))
    c.sendall(b'HTTP/1.1 200 Connection established\r\n\r\n')
    threading.Thread(target=pump, args=(u, c), daemon=True).start()
    pump(c, u)"
    proxy=$port
    start openssl s_server -accept 127.0.0.1:0 -cert "$certs/rsa.pem" -cert_chain "$certs/rsa.pem" -key "$certs/rsa.key" -www
    check "proxy_tunnel" gives "HTTP/1.0 200" timeout 10 "$BUILD/proxy_tunnel" 127.0.0.1 "$proxy" localhost "$port" "$certs/ca.pem"
    refuse "proxy_tunnel: the proxy does not want to" "the proxy answers HTTP/1.1 403" timeout 10 "$BUILD/proxy_tunnel" 127.0.0.1 "$proxy" elsewhere.example "$port" "$certs/ca.pem"
    refuse "proxy_tunnel, another CA" "trusted" timeout 10 "$BUILD/proxy_tunnel" 127.0.0.1 "$proxy" localhost "$port" "$certs/other_ca.pem"
fi

# The same sources in other languages and for other systems; once is enough.
case $BUILD in *opt)
    inc=
    [ -n "${BEARSSL_DIR:-}" ] && inc="-isystem $(ls -d "$BEARSSL_DIR/inc" "$BEARSSL_DIR/include" 2>/dev/null | head -n 1)"
    mkdir "$tmp/inc"
    [ -n "$inc" ] || cp -r /usr/include/bearssl* "$tmp/inc"
    win=$([ -n "$inc" ] && echo "$inc" || echo "-isystem $tmp/inc")
    for f in examples/*.c; do
        # shellcheck disable=SC2086
        {
            has g++ && check "$f as C++17" g++ -std=c++17 -Wall -Wextra -Werror $inc -I. -x c++ -fsyntax-only "$f"
            has x86_64-w64-mingw32-gcc && check "$f for Windows" x86_64-w64-mingw32-gcc -std=c99 -Wall -Wextra -Werror $win -I. -fsyntax-only "$f"
            has x86_64-w64-mingw32-g++ && check "$f for Windows as C++17" x86_64-w64-mingw32-g++ -std=c++17 -Wall -Wextra -Werror $win -I. -x c++ -fsyntax-only "$f"
        }
    done
    lines() { for f in udp_query client_certificate reconnect mail_starttls proxy_tunnel tls_server; do [ "$(wc -l <examples/$f.c)" -lt 60 ] || { echo "$f.c is long"; return 1; }; done; }
    check "the short examples are short" lines ;;
esac
finish
