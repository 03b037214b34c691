#!/bin/sh
# examples/http.lua with every Lua: against nginx and python's server, then curl and python's client against it.
. tests/modules/common
mkdir "$tmp/site"
echo "hello from a file" >"$tmp/site/hello.txt"
head -c 5000000 /dev/urandom >"$tmp/site/big.bin"
HTTP_URL= HTTPS_URL=
if has python3; then
    start python3 -u -c "import http.server, functools
class H(http.server.SimpleHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *a): pass
s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(H, directory='$tmp/site'))
print('port', s.server_address[1])
s.serve_forever()"
    printed_port && HTTP_URL=http://127.0.0.1:$port
else skip "python's server" "no python3"; fi
if has nginx && [ -n "$HTTP_URL" ]; then
    ports=$(free_ports 1)
    cat >"$tmp/nginx.conf" <<CONF
daemon off; master_process off; pid $tmp/nginx.pid; error_log $tmp/nginx.log;
events { worker_connections 64; }
http {
    access_log off; client_body_temp_path $tmp; proxy_temp_path $tmp; fastcgi_temp_path $tmp; uwsgi_temp_path $tmp; scgi_temp_path $tmp;
    server { listen 127.0.0.1:$ports ssl; ssl_certificate $certs/rsa.pem; ssl_certificate_key $certs/rsa.key; root $tmp/site; }
}
CONF
    start nginx -c "$tmp/nginx.conf" -e "$tmp/nginx.log" -p "$tmp"
    await_port "$ports" && HTTPS_URL=https://localhost:$ports
else skip "nginx" "not installed"; fi
export HTTP_URL HTTPS_URL
run_lua http tests/modules/http_test.lua

# The server side, asked by others.
gives() { # TEXT COMMAND...: what it prints
    text=$1
    shift
    "$@" >"$tmp/got" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
    [ "$(cat "$tmp/got")" = "$text" ] || { head -c 2000 "$tmp/got"; return 1; }
}
head -c 5000000 /dev/urandom >"$tmp/five"
five=$(sha "$tmp/five")
bigsum=$(yes 0123456789abcdef | tr -d '\n' | head -c 5000000 | sha256sum | cut -d' ' -f1)
sums() { # SUM COMMAND...
    sum=$1
    shift
    "$@" >"$tmp/got" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
    [ "$(sha "$tmp/got")" = "$sum" ]
}
echoes() { # SUM COMMAND...: the body after the first line
    sum=$1
    shift
    "$@" >"$tmp/got" 2>"$tmp/err" || { cat "$tmp/err"; return 1; }
    [ "$(tail -n +2 "$tmp/got" | sha256sum | cut -d' ' -f1)" = "$sum" ]
}
if has curl; then
    for v in $runtimes; do
        for scheme in http https; do
            id=
            [ $scheme = http ] || id="$certs/ec.pem $certs/ec.key"
            # shellcheck disable=SC2086
            start with "$v" timeout 100 "$(lua_of "$v")" tests/modules/http_server.lua $id
            printed_port || continue
            url=$scheme://localhost:$port
            c="curl -sS --max-time 20 --cacert $certs/ca.pem"
            tag="$scheme, $(lua_of "$v")"
            check "curl: GET ($tag)" gives "GET /x 0" $c "$url/x?y"
            check "curl: 5 MB ($tag)" sums "$bigsum" $c "$url/big"
            check "curl: in pieces ($tag)" sums "$bigsum" $c "$url/pieces"
            check "curl: in pieces, HTTP/1.0 client ($tag)" sums "$bigsum" $c -0 "$url/big"
            check "curl: 5 MB there and back, with Expect ($tag)" echoes "$five" $c -H 'Expect: 100-continue' --data-binary "@$tmp/five" "$url/post"
            check "curl: 5 MB in chunks there and back ($tag)" echoes "$five" $c -H 'Transfer-Encoding: chunked' -T "$tmp/five" "$url/put"
            check "curl: HEAD ($tag)" $c -I "$url/x"
            check "curl: follows a redirect ($tag)" gives "GET /home 0" $c -L "$url/away"
            check "curl: three requests, one connection ($tag)" gives "1
0
0" $c -o "$tmp/a" -o "$tmp/a" -o "$tmp/a" -w '%{num_connects}\n' "$url/1" "$url/2" "$url/3"
            check "curl: too long a body is 413 ($tag)" gives 413 $c -o "$tmp/a" -w '%{http_code}' -H 'Content-Length: 10000001' -X POST "$url/"
            stop "$pid"
        done
    done
else skip "curl" "not installed"; fi
if has python3; then
    for v in $runtimes; do
        start with "$v" timeout 100 "$(lua_of "$v")" tests/modules/http_server.lua
        printed_port || continue
        check "python's client ($(lua_of "$v"))" python3 -c "import http.client
c = http.client.HTTPConnection('127.0.0.1', $port, timeout=10)
for i in range(20):
    c.request('POST', '/p', body=b'x' * i * 1000)
    r = c.getresponse()
    assert r.status == 200 and r.read() == b'POST /p %d\n' % (i * 1000) + b'x' * i * 1000
c.request('GET', '/pieces')
assert c.getresponse().read() == b'0123456789abcdef' * 312500"
        stop "$pid"
    done
fi
# https_get.lua: a few lines on it.
if [ -n "$HTTPS_URL" ]; then
    for v in $runtimes; do
        get() { with "$v" timeout 20 "$(lua_of "$v")" examples/https_get.lua "$@"; }
        check "https_get.lua ($(lua_of "$v"))" gives "hello from a file" get "$HTTPS_URL/hello.txt" "$certs/ca.pem"
        refuse "https_get.lua, another CA ($(lua_of "$v"))" trusted get "$HTTPS_URL/hello.txt" "$certs/other_ca.pem"
        refuse "https_get.lua, 404 ($(lua_of "$v"))" "answered 404" get "$HTTPS_URL/none" "$certs/ca.pem"
    done
fi
finish
