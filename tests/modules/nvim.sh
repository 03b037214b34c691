#!/bin/sh
# A request in Neovim, whose event loop watches the scheduler's descriptor.
. tests/modules/common
has nvim || { skip "Neovim" "not installed"; finish; }
has python3 || { skip "Neovim" "no python3 for the server"; finish; }
v=jit
nvim --headless -u NONE -i NONE -c 'lua io.stdout:write(jit and "jit" or "5.1")' -c 'qall!' 2>/dev/null | grep -q jit || v=5.1
[ -f "$BUILD/lua/$v/psocket.so" ] || { skip "Neovim" "there is no module for its Lua"; finish; }
start python3 -u -c "import http.server, ssl, time
class H(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header('Content-Length', '1000000')
        self.end_headers()
        for i in range(10):
            time.sleep(0.05)
            self.wfile.write(b'x' * 100000)
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), H)
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
c.load_cert_chain('$certs/rsa.pem', '$certs/rsa.key')
s.socket = c.wrap_socket(s.socket, server_side=True)
print('port', s.server_address[1])
s.serve_forever()"
printed_port || finish
check "a request through getfd and vim.loop" with $v env HOME="$tmp" timeout 30 nvim --headless -u NONE -i NONE \
    -c "lua arg_url, arg_ca = 'https://localhost:$port/', '$certs/ca.pem'" -c "luafile tests/modules/nvim_test.lua"
finish
