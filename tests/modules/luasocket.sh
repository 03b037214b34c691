#!/bin/sh
# examples/luasocket.lua with every Lua, and unchanged over it: LuaSocket's http, smtp, ftp and ltn12, LuaSec's https,
# lua-redis, lua-copas, and PostgreSQL's protocol with its upgrade to TLS. A server that is not installed is skipped.
. tests/modules/common
mkdir "$tmp/site" "$tmp/ftp"
echo "hello from a file" >"$tmp/site/hello.txt"
head -c 5000000 /dev/urandom >"$tmp/site/big.bin"
HTTP_URL= HTTPS_URL= FTP_PORT= MAIL_PORT= REDIS_PORT= PG_PORT=
has python3 || { skip "modules for LuaSocket" "no python3 for their servers"; finish; }
start python3 -u -c "import http.server, functools, ssl, threading
class H(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
def serve(tls):
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(H, directory='$tmp/site'))
    if tls:
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        c.load_cert_chain('$certs/rsa.pem', '$certs/rsa.key')
        s.socket = c.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever).start()
    return s.server_address[1]
print('tls', serve(True))
print('port', serve(False))"
printed_port && HTTP_URL=http://127.0.0.1:$port HTTPS_URL=https://localhost:$(sed -n 's/^tls //p' "$log")
start python3 -u -c "import socketserver
class H(socketserver.StreamRequestHandler):
    def say(self, text): self.wfile.write(text.encode() + b'\r\n')
    def handle(self):
        self.say('220 here')
        while True:
            line = self.rfile.readline().decode().rstrip('\r\n')
            verb = line[:4].upper()
            if not line or verb == 'QUIT': return self.say('221 bye')
            if verb == 'EHLO': self.say('250-here'); self.say('250 8BITMIME')
            elif verb == 'RCPT' and 'nobody' in line: self.say('550 unknown')
            elif verb == 'DATA':
                self.say('354 go on')
                text = b''
                while not text.endswith(b'\r\n.\r\n'): text += self.rfile.readline()
                self.say('250 taken' if b'\r\n..\r\n' in text and b'subject: hello' in text.lower() else '554 not what was expected')
            else: self.say('250 ok')
socketserver.ThreadingTCPServer.daemon_threads = True
s = socketserver.ThreadingTCPServer(('127.0.0.1', 0), H)
print('port', s.server_address[1])
s.serve_forever()"
printed_port && MAIL_PORT=$port
for python in python3 /usr/bin/python3 none; do "$python" -c 'import pyftpdlib' 2>/dev/null && break; done
if [ $python != none ]; then
    start "$python" -u -c "import logging, warnings
warnings.simplefilter('ignore')
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
logging.basicConfig(level=logging.ERROR)
a = DummyAuthorizer()
a.add_user('user', 'pass', '$tmp/ftp', perm='elradfmw')
FTPHandler.authorizer = a
s = FTPServer(('127.0.0.1', 0), FTPHandler)
print('port', s.socket.getsockname()[1])
s.serve_forever()"
    printed_port && FTP_PORT=$port
else skip "ftp" "python3-pyftpdlib is not installed"; fi
if has redis-server; then
    ports=$(free_ports 1)
    start redis-server --port "$ports" --bind 127.0.0.1 --save '' --appendonly no --dir "$tmp" --daemonize no
    await_port "$ports" && REDIS_PORT=$ports
else skip "redis" "redis-server is not installed"; fi
pg=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
if [ -n "$pg" ] && [ "$(id -u)" = 0 ] && id postgres >/dev/null 2>&1; then
    chmod 755 "$tmp"
    mkdir "$tmp/pg"
    cp "$certs/rsa.pem" "$certs/rsa.key" "$tmp/pg/"
    echo secret >"$tmp/pg/secret"
    chown -R postgres "$tmp/pg"
    chmod 600 "$tmp/pg/rsa.key"
    ports=$(free_ports 1)
    if runuser -u postgres -- "$pg/initdb" -D "$tmp/pg/data" -U tester --pwfile="$tmp/pg/secret" -A password --no-sync >"$tmp/initdb" 2>&1; then
        echo "hostssl all all 127.0.0.1/32 password" >"$tmp/pg/data/pg_hba.conf"
        start runuser -u postgres -- "$pg/postgres" -D "$tmp/pg/data" -p "$ports" -h 127.0.0.1 -c ssl=on -c "ssl_cert_file=$tmp/pg/rsa.pem" \
            -c "ssl_key_file=$tmp/pg/rsa.key" -c unix_socket_directories= -c fsync=off -c shared_buffers=16MB
        await_port "$ports" && PG_PORT=$ports
    else skip "PostgreSQL" "initdb: $(tail -n 1 "$tmp/initdb")"; fi
else skip "PostgreSQL" "it is not installed, or this is not root"; fi
export HTTP_URL HTTPS_URL FTP_PORT MAIL_PORT REDIS_PORT PG_PORT
run_lua luasocket tests/modules/luasocket_test.lua
for v in $runtimes; do
    if ! with "$v" "$(lua_of "$v")" -e 'require("luasocket").install() require "copas"' >"$tmp/out" 2>&1; then
        skip "copas ($(lua_of "$v"))" "not installed for this Lua"
        continue
    fi
    check "copas: 40 clients at a time ($(lua_of "$v"))" with "$v" timeout 60 "$(lua_of "$v")" tests/modules/copas_test.lua
done
finish
