#!/bin/sh
# Servers that run out of descriptors, or whose accept finds no memory: they rest instead of spinning, and go on afterwards.
# All of them at once: README's first server and the servers among the examples, in C and in Lua.
. tests/check.sh
case $BUILD in *san) skip "exhausted" "CPU time is measured on the optimised build"; finish ;; esac
has python3 || { skip "exhausted" "no python3"; finish; }
mkdir "$tmp/site"
echo hello >"$tmp/site/index.html"
: >"$tmp/servers"

# Clients beyond the limits, for a second and more. Each server named in the list is to rest meanwhile; what ran out of
# descriptors is to answer afterwards. Prints a line for each: NAME, its CPU time in 1/100 s, and "answers" or why not.
cat >"$tmp/crowd.py" <<'PY'
import socket, ssl, sys, time
context = ssl.create_default_context(cafile=sys.argv[2])
servers = [line.split() for line in open(sys.argv[1])]
def ticks(pid): return sum(map(int, open('/proc/%s/stat' % pid).read().rsplit(')', 1)[1].split()[11:13]))
def ask(port, kind):
    s = socket.create_connection(('127.0.0.1', port), 5)
    s.settimeout(5)
    if kind.startswith('tls'): s = context.wrap_socket(s, server_hostname='localhost')
    s.sendall(b'GET / HTTP/1.0\r\n\r\n' if kind.endswith('http') else b'hello\n')
    answer, wanted = b'', b'name' if kind == 'chat' else b'ello'
    while wanted not in answer and (data := s.recv(1000)): answer += data
    s.close()
    return wanted in answer
crowd, before = [], {}
for name, pid, port, kind in servers:
    before[name] = ticks(pid)
    for i in range(60):
        try: crowd.append(socket.create_connection(('127.0.0.1', int(port)), 1))
        except OSError: pass
time.sleep(1.3)
used = {name: ticks(pid) - before[name] for name, pid, port, kind in servers}
for s in crowd: s.close()
for name, pid, port, kind in servers:
    said = 'rests'
    for i in range(20 if kind != 'none' else 0):
        try: said = 'answers' if ask(int(port), kind) else 'says something else'
        except OSError as e: said = str(e)
        if said == 'answers': break
        time.sleep(0.05)
    print(name, used[name], said)
PY
server() { # NAME KIND COMMAND... : with few descriptors
    name=$1 kind=$2
    shift 2
    (ulimit -n 24 && exec "$@") >"$tmp/log" 2>&1 </dev/null &
    pids="$pids $!"
    port=$(port_of $!) || { cp "$tmp/log" "$tmp/out"; fail "$name starts"; return; }
    echo "$name $! $port $kind" >>"$tmp/servers"
}
server echo echo "$BUILD/echo" --serve
server https_server http "$BUILD/https_server" --address 127.0.0.1 --port 0 --root "$tmp/site"
server tls_server tls "$BUILD/tls_server" 0 "$certs/ec.pem" "$certs/ec.key"
lua= module=
for v in 5.1 5.2 5.3 5.4 jit; do
    case $v in jit) l=luajit ;; *) l=lua$v ;; esac
    if has $l && [ -f "$BUILD/lua/$v/psocket.so" ]; then lua=$l module=$BUILD/lua/$v/?.so; fi
    [ "$lua" != lua5.4 ] || break
done
if [ -n "$lua" ]; then
    export LUA_CPATH="$module" LUA_PATH="examples/?.lua"
    server hello_server.lua http $lua examples/hello_server.lua 0
    server https_server.lua tls-http $lua examples/https_server.lua 0 "$certs/ec.pem" "$certs/ec.key"
    server chat.lua chat $lua examples/chat.lua 0
    awk '/^```lua$/ { n++; next } /^```$/ { if (n == 1) exit } n == 1' README.md | sed '/^-- a client/,/^end)/d' >"$tmp/first.lua"
    server "README's-first-server" echo $lua "$tmp/first.lua"
else skip "Lua servers" "no Lua module was built"; fi
if has strace && strace -o "$tmp/trace" true 2>/dev/null; then
    for name in echo https_server; do
        case $name in
            echo) arguments=--serve ;;
            *) arguments="--address 127.0.0.1 --port 0 --root $tmp/site" ;;
        esac
        # shellcheck disable=SC2086
        strace -D -f -o "$tmp/trace-$name" -e trace=accept,accept4 -e inject=accept,accept4:error=ENOMEM:when=1..200 \
            "$BUILD/$name" $arguments >"$tmp/log" 2>&1 </dev/null &
        pids="$pids $!"
        port=$(port_of $!) || { cp "$tmp/log" "$tmp/out"; fail "$name starts under strace"; continue; }
        echo "$name-without-memory $! $port none" >>"$tmp/servers"
    done
else skip "servers without memory" "strace is not installed, or may not trace"; fi

timeout 60 python3 "$tmp/crowd.py" "$tmp/servers" "$certs/ca.pem" >"$tmp/report" 2>&1
cp "$tmp/report" "$tmp/out"
while read -r server pid port kind; do
    rests() {
        line=$(grep "^$server " "$tmp/report") || { cat "$tmp/report"; return 1; }
        echo "$line"
        # shellcheck disable=SC2086
        set -- $line
        [ "$2" -lt 50 ] || return 1
        [ "$kind" = none ] || { [ "$3" = answers ]; return; }
        n=$(grep -c ENOMEM "$tmp/trace-${server%-without-memory}")
        echo "$n failed calls"
        [ "$n" -ge 1 ] && [ "$n" -le 5 ]
    }
    check "$server rests and goes on" rests
done <"$tmp/servers"
finish
