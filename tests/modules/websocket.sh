#!/bin/sh
# examples/websocket.lua with every Lua: a table of cases and itself, node's ws and python's websockets both ways, and a
# page in headless Chromium, of which a screenshot is left in $BUILD.
. tests/modules/common
NODE_PATH=/usr/share/nodejs
export NODE_PATH
ws_node() { has node && node -e 'require("ws")' 2>/dev/null; }
python=
for p in python3 /usr/bin/python3; do "$p" -c 'import websockets' 2>/dev/null && python=$p; done
cat >"$tmp/client.js" <<'JS'
const WebSocket = require('ws'), assert = require('assert'), fs = require('fs');
const ws = new WebSocket(process.argv[2], ['other', 'echo'], process.argv[3] ? { ca: fs.readFileSync(process.argv[3]) } : {});
const sizes = [0, 1, 125, 126, 65535, 65536, 1000000];
let n = 0, pongs = 0;
const data = i => i % 2 ? Buffer.alloc(sizes[i >> 1], 255) : 'x'.repeat(sizes[i >> 1]);
ws.on('open', () => { assert.equal(ws.protocol, 'echo'); ws.ping('p'); ws.send(data(0)); });
ws.on('pong', d => { assert.equal(String(d), 'p'); pongs++; });
ws.on('message', (d, binary) => {
    assert.equal(binary, n % 2 == 1);
    assert(Buffer.from(data(n)).equals(d));
    if (++n < sizes.length * 2) return ws.send(data(n));
    ws.send('frag', { fin: false });
    ws.send('ment', { fin: true });
    ws.removeAllListeners('message');
    ws.once('message', d => { assert.equal(String(d), 'fragment'); ws.close(4001, 'enough'); });
});
ws.on('close', (code, reason) => { assert.equal(code, 4001); assert.equal(pongs, 1); console.log('done'); });
setTimeout(() => process.exit(3), 15000).unref();
JS
cat >"$tmp/server.js" <<'JS'
const { WebSocketServer } = require('ws');
const wss = new WebSocketServer({ host: '127.0.0.1', port: 0 }, () => console.log('port ' + wss.address().port));
wss.on('connection', ws => { ws.on('message', (d, binary) => ws.send(d, { binary })); ws.ping('x'); });
JS
cat >"$tmp/client.py" <<'PY'
import asyncio, ssl, sys, websockets
async def main():
    context = ssl.create_default_context(cafile=sys.argv[2]) if len(sys.argv) > 2 else None
    async with websockets.connect(sys.argv[1], subprotocols=['echo'], max_size=None, compression=None, ssl=context) as ws:
        assert ws.subprotocol == 'echo'
        for n in (0, 1, 125, 126, 65535, 65536, 1000000):
            await ws.send('x' * n)
            assert await ws.recv() == 'x' * n
            await ws.send(b'\xff' * n)
            assert await ws.recv() == b'\xff' * n
        await ws.send(['frag', 'men', 't'])
        assert await ws.recv() == 'fragment'
        await asyncio.wait_for(await ws.ping(), 5)
        await ws.close(4001, 'enough')
        assert ws.close_code == 4001, ws.close_code
asyncio.run(asyncio.wait_for(main(), 20))
PY
cat >"$tmp/server.py" <<'PY'
import asyncio, websockets
async def echo(ws, *_):
    async for message in ws: await ws.send(message)
async def main():
    server = await websockets.serve(echo, '127.0.0.1', 0, max_size=None)
    print('port', server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Future()
asyncio.run(main())
PY
WS_URL=
if ws_node; then
    start node "$tmp/server.js"
    printed_port && WS_URL=ws://127.0.0.1:$port/
else skip "node's ws" "node or its module ws is not installed"; fi
export WS_URL
run_lua websocket tests/modules/websocket_test.lua
[ -z "$WS_URL" ] || stop "$pid"
[ -n "$python" ] || skip "python's websockets" "not installed"
if [ -n "$python" ]; then
    start "$python" "$tmp/server.py"
    printed_port
    WS_URL=ws://127.0.0.1:$port/
    cat >"$tmp/talk.lua" <<'LUA'
local websocket = require "websocket"
local ws = assert(websocket.connect(os.getenv "WS_URL"))
for _, n in ipairs { 0, 1, 125, 126, 65535, 65536, 300000 } do
  assert(ws:send(("x"):rep(n)))
  assert(ws:receive(5) == ("x"):rep(n))
end
ws:close(1000, "bye")
LUA
    for v in $runtimes; do check "to python's websockets ($(lua_of "$v"))" with "$v" timeout 20 "$(lua_of "$v")" "$tmp/talk.lua"; done
    stop "$pid"
fi
said() { # TEXT: the server, within 5 s
    n=0
    until grep -q -- "$1" "$log"; do
        n=$((n + 1))
        [ $n -lt 50 ] || { cat "$log"; return 1; }
        sleep 0.1
    done
}
for v in $runtimes; do
    for scheme in ws wss; do
        id= ca=
        [ $scheme = ws ] || id="$certs/ec.pem $certs/ec.key" ca=$certs/ca.pem
        # shellcheck disable=SC2086
        start with "$v" timeout 100 "$(lua_of "$v")" tests/modules/websocket_server.lua $id
        printed_port || continue
        url=$scheme://localhost:$port/
        if ws_node; then
            check "node's ws, $scheme ($(lua_of "$v"))" timeout 20 node "$tmp/client.js" "$url" $ca
            check "node's ws, its close code and reason, $scheme ($(lua_of "$v"))" said "closed 4001 enough"
        fi
        [ -z "$python" ] || check "python's websockets, $scheme ($(lua_of "$v"))" timeout 20 "$python" "$tmp/client.py" "$url" $ca
        stop "$pid"
    done
done

# A page in a browser that is alone in a network namespace of its own.
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ] || ! unshare -n ip link set lo up 2>/dev/null; then
    skip "Chromium" "it is not installed, or network namespaces are not allowed"
else
    mkdir "$tmp/home"
    cat >"$tmp/page.html" <<'PAGE'
<!DOCTYPE html><title>psocket</title><style>body { font: 24px sans-serif; background: #eef }</style>
<h1>websocket.lua</h1><p id="p">nothing yet</p><img src="/wait" alt=""><script>
const p = document.getElementById('p'), ws = new WebSocket(location.origin.replace('http', 'ws') + '/chat', ['x', 'echo']);
const sizes = [0, 1, 125, 126, 65535, 65536, 1000000];
let n = 0;
ws.binaryType = 'arraybuffer';
ws.onopen = () => ws.send('x'.repeat(sizes[0]));
ws.onmessage = e => {
    if (n < sizes.length && e.data !== 'x'.repeat(sizes[n])) p.textContent = 'wrong at ' + sizes[n];
    if (++n < sizes.length) return ws.send('x'.repeat(sizes[n]));
    if (n == sizes.length) return ws.send(new Uint8Array([0, 255, 128]));
    const back = new Uint8Array(e.data);
    p.textContent = back[1] === 255 && back.length === 3 ? 'all ' + n + ' messages came back, protocol ' + ws.protocol : 'wrong bytes';
    ws.close(3333, 'page');
};
ws.onerror = () => { p.textContent = 'error'; };
ws.onclose = e => { p.textContent += ', closed ' + e.code + (e.wasClean ? ' cleanly' : ''); };
</script>
PAGE
    v=$(echo "$runtimes" | tr ' ' '\n' | grep -v '^$' | tail -n 2 | head -n 1)
    page() {
        with "$v" env HOME="$tmp/home" PAGES="$tmp" unshare -n sh -c '
            ip link set lo up
            timeout 80 "$1" tests/modules/websocket_server.lua >"$2/page.log" 2>&1 &
            n=0
            until grep -q "^port" "$2/page.log" || [ $n -gt 100 ]; do sleep 0.1; n=$((n + 1)); done
            port=$(sed -n "s/^port //p" "$2/page.log")
            timeout -k 2 60 "$3" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-extensions --no-first-run \
                --disable-background-networking --disable-component-update --disable-sync --user-data-dir="$2/home/profile" \
                --window-size=800,300 --hide-scrollbars --dump-dom "--screenshot=$4" "http://127.0.0.1:$port/page" >"$2/dom" 2>"$2/browser.err"
            kill %1 2>/dev/null
            kill $! 2>/dev/null
            cat "$2/page.log" "$2/dom"' page "$(lua_of "$v")" "$tmp" "$browser" "$BUILD/websocket.png" || return 1
        grep -q "all 8 messages came back, protocol echo, closed 3333 cleanly" "$tmp/dom"
    }
    check "a page in Chromium ($(lua_of "$v"))" page
    check "a screenshot of it: $BUILD/websocket.png" test -s "$BUILD/websocket.png"
fi
finish
