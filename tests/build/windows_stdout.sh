#!/bin/sh
# examples/https_get on Windows (in Wine) writes what it fetches as it is: 5,000,000 bytes, line feeds and all.
. tests/check.sh
wine=$(command -v wine64 || ls /usr/lib/wine/wine64 2>/dev/null)
[ -n "$wine" ] && has wineserver && has x86_64-w64-mingw32-gcc && has python3 || { skip "windows_stdout" "needs wine64, MinGW and python3"; finish; }
mkdir "$tmp/home" "$tmp/site"
head -c 5000000 /dev/urandom >"$tmp/site/big"
python3 -u -c "import http.server, functools
class H(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(H, directory='$tmp/site'))
print('port', s.server_address[1])
s.serve_forever()" >"$tmp/server.log" 2>&1 </dev/null &
pids=$!
port=$(port_of $pids)
check "builds" x86_64-w64-mingw32-gcc -O1 -DPSOCKET_NO_TLS -I. -o "$tmp/https_get.exe" examples/https_get.c -lws2_32
HOME=$tmp/home WINEPREFIX=$tmp/home/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
export HOME WINEPREFIX WINEDEBUG WINEDLLOVERRIDES
unset DISPLAY WAYLAND_DISPLAY
check "wine starts" timeout 100 "$wine" wineboot -i
fetch() {
    (cd "$tmp" && timeout 60 "$wine" ./https_get.exe "http://127.0.0.1:$port/big") >"$tmp/got" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
    echo "$(wc -c <"$tmp/got") bytes"
    cmp "$tmp/got" "$tmp/site/big"
}
check "5,000,000 bytes are 5,000,000 bytes" fetch
timeout 20 wineserver -k
timeout 20 wineserver -w
finish
