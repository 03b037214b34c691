#!/bin/sh
# examples/love as a .love under Xvfb: a download over TLS from a server that takes its time. The bar is on the screenshot,
# which is left in $BUILD/love.png, and no frame waits for the network.
. tests/modules/common
for tool in love Xvfb xvfb-run import python3; do
    has $tool || { skip "LÖVE" "$tool is not installed"; finish; }
done
[ -f "$BUILD/lua/jit/psocket.so" ] || { skip "LÖVE" "there is no module for LuaJIT"; finish; }
start python3 -u -c "import http.server, ssl, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '20000000')
        self.end_headers()
        for i in range(100):
            self.wfile.write(b'x' * 200000)
            time.sleep(0.02 if i != 60 else 2.5)
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain('$certs/rsa.pem', '$certs/rsa.key')
s.socket = c.wrap_socket(s.socket, server_side=True)
print('port', s.server_address[1])
s.serve_forever()"
printed_port || finish
python3 -c "import zipfile
z = zipfile.ZipFile('$tmp/game.love', 'w')
for f, n in (('examples/love/main.lua', 'main.lua'), ('examples/love/conf.lua', 'conf.lua'), ('examples/http.lua', 'http.lua'),
             ('$BUILD/lua/jit/psocket.so', 'psocket.so'), ('$certs/ca.pem', 'ca.pem')): z.write(f, n)"
mkdir "$tmp/home"
cat >"$tmp/show" <<'SHOW'
timeout 40 love "$1" "$2" >"$3/love.out" 2>&1 &
love=$!
n=0
bar=0
# When the server rests the bar stands at 60 %: 336 pixels of it are green.
while [ $n -lt 80 ] && kill -0 $love 2>/dev/null && ! grep -q done "$3/love.out"; do
    import -window root -depth 8 "$3/shot.ppm" 2>/dev/null
    bar=$(python3 -c "import sys
d = open(sys.argv[1], 'rb').read()
row = d[-640 * 3 * 100:-640 * 3 * 99]
print(sum(row[i:i + 3] in (bytes((51, 204, 76)), bytes((51, 204, 77))) for i in range(0, 1920, 3)))" "$3/shot.ppm" 2>/dev/null || echo 0)
    [ "$bar" -ge 300 ] && [ "$bar" -lt 500 ] && { import -window root "$4"; break; }
    n=$((n + 1))
    sleep 0.1
done
echo "$bar pixels of the bar"
n=0
until grep -q "frame" "$3/love.out" || [ $n -gt 150 ]; do sleep 0.1; n=$((n + 1)); done
kill $love 2>/dev/null
cat "$3/love.out"
[ "$bar" -ge 300 ] && [ "$bar" -lt 500 ]
SHOW
rm -f "$BUILD/love.png"
check "the bar is on the screenshot" env -u SSL_CERT_FILE HOME="$tmp/home" XDG_DATA_HOME="$tmp/home" LIBGL_ALWAYS_SOFTWARE=1 SDL_AUDIODRIVER=dummy \
    xvfb-run -a -s "-screen 0 640x200x24" sh "$tmp/show" "$tmp/game.love" "https://localhost:$port/" "$tmp" "$BUILD/love.png"
cp "$tmp/out" "$tmp/shown"
check "the screenshot: $BUILD/love.png" test -s "$BUILD/love.png"
check "all of it came" grep -q "done, 20000000 of 20000000 bytes" "$tmp/love.out"
# What may take long is the handshake's arithmetic: milliseconds, here under a software renderer on a busy machine.
brief() { sed -n 's/.*at most \([0-9]*\)\..* ms.*/\1/p' "$tmp/love.out" | { read -r ms && cat "$tmp/love.out" && [ "$ms" -lt 100 ]; }; }
check "no frame waited for the network" brief
sed -n 's/.*\(the network took.*\)/    \1/p' "$tmp/love.out"
finish
