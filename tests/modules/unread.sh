#!/bin/sh
# Servers that answer before they have read: all of the answer arrives at a client that sends much and reads slowly, in the
# clear and through TLS, when bind or finish ends the connection, or examples/https_server refuses a body; and a client that
# never stops sending is left in time.
. tests/modules/common
has python3 || { skip "unread" "no python3 for the clients"; finish; }
cat >"$tmp/client.py" <<'PY'
import socket, ssl, sys, threading, time
port, tls, endless = int(sys.argv[1]), sys.argv[2], sys.argv[3] == 'endless'
s = socket.create_connection(('127.0.0.1', port), 10)
s.settimeout(20)
if tls: s = ssl.create_default_context(cafile=tls).wrap_socket(s, server_hostname='localhost')
s.sendall(b'GET /big HTTP/1.1\r\nHost: a\r\nContent-Length: 900000000\r\n\r\n')
def upload():
    try:
        n = 0
        while endless or n < 1000000: n += s.send(b'y' * 10000)
    except (OSError, ssl.SSLError): pass
if not tls: threading.Thread(target=upload, daemon=True).start()
else: s.sendall(b'y' * 300000) # python's TLS sockets are one thread's
time.sleep(0.3)
got, before, body = 0, time.time(), None
try:
    while data := s.recv(20000):
        got += len(data)
        if body is None: body = got - data.index(b'\r\n\r\n') - 4 # Content-Length's bytes begin there
        else: body += len(data)
        if not endless: time.sleep(0.005)
except (OSError, ssl.SSLError) as e: print('ended by', e)
print(got, 'bytes', round(time.time() - before, 1), 's')
sys.exit(0 if endless and time.time() - before < 15 or got == 1000045 or body == 1000000 else 1)
PY
for v in 5.1 jit; do
    case " $runtimes " in *" $v "*) ;; *) continue ;; esac
    for way in bind finish; do
        for scheme in clear TLS; do
            id= ca=
            [ $scheme = clear ] || id="$certs/rsa.pem $certs/rsa.key" ca=$certs/ca.pem
            # shellcheck disable=SC2086
            start with "$v" timeout 60 "$(lua_of "$v")" tests/modules/unread_server.lua $way $id
            printed_port || continue
            check "all arrives: $way, $scheme ($(lua_of "$v"))" timeout 40 python3 "$tmp/client.py" "$port" "$ca" once
            [ $scheme = TLS ] || check "one that never stops sending is left: $way ($(lua_of "$v"))" timeout 40 python3 "$tmp/client.py" "$port" "$ca" endless
            stop "$pid"
        done
    done
done
mkdir "$tmp/site"
head -c 1000000 /dev/zero >"$tmp/site/big"
for scheme in clear TLS; do
    id= ca=
    [ $scheme = clear ] || id="--cert $certs/rsa.pem --key $certs/rsa.key" ca=$certs/ca.pem
    # shellcheck disable=SC2086
    start "$BUILD/https_server" --port 0 --root "$tmp/site" $id
    port=$(port_of "$pid") || { fail "https_server starts"; continue; }
    check "all arrives: https_server, $scheme" timeout 40 python3 "$tmp/client.py" "$port" "$ca" once
    [ $scheme = TLS ] || check "one that never stops sending is left: https_server" timeout 40 python3 "$tmp/client.py" "$port" "$ca" endless
    stop "$pid"
done
finish
