#!/bin/sh
# Servers that run out of descriptors, or whose accept finds no memory: they wait instead of spinning, and go on afterwards.
. tests/check.sh
case $BUILD in *san) skip "exhausted" "CPU time is measured on the optimised build"; finish ;; esac
has python3 || { skip "exhausted" "no python3"; finish; }
mkdir "$tmp/site"
echo hello >"$tmp/site/index.html"
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; } # CPU time so far, in 1/100 s
crowd() { # PID PORT [REQUEST ANSWER]: 60 clients for a second and more; the server must rest meanwhile and answer afterwards
    before=$(ticks "$1")
    timeout 30 python3 -c "import socket, time
l = []
for i in range(60):
    try: l.append(socket.create_connection(('127.0.0.1', $2), 1))
    except OSError: pass
time.sleep(1.3)
for s in l: s.close()"
    used=$(($(ticks "$1") - before))
    echo "$used hundredths of a second of CPU time"
    [ $used -lt 50 ] || return 1
    [ $# -gt 2 ] || return 0
    timeout 10 python3 -c "import socket, sys
for i in range(20):
    s = socket.create_connection(('127.0.0.1', $2), 5)
    s.settimeout(5)
    s.sendall(b'$3')
    if b'$4' in s.recv(1000): sys.exit(0)
sys.exit(1)"
}
for limit in descriptors memory; do
    for server in echo https_server; do
        case $server in
            echo) arguments=--serve request='hello\n' answer=hello ;;
            *) arguments="--address 127.0.0.1 --port 0 --root $tmp/site" request='GET / HTTP/1.0\r\n\r\n' answer=hello ;;
        esac
        if [ $limit = descriptors ]; then
            # shellcheck disable=SC2086
            (ulimit -n 24 && exec "$BUILD/$server" $arguments) >"$tmp/log" 2>&1 </dev/null &
        elif has strace && strace -o "$tmp/trace" true 2>/dev/null; then
            # shellcheck disable=SC2086
            ASAN_OPTIONS=detect_leaks=0 strace -f -o "$tmp/trace" -e trace=accept,accept4 -e inject=accept,accept4:error=ENOMEM:when=1..200 \
                "$BUILD/$server" $arguments >"$tmp/log" 2>&1 </dev/null &
        else
            skip "$server without memory" "strace is not installed, or may not trace"
            continue
        fi
        pids="$pids $!"
        pid=$!
        [ $limit = descriptors ] || { sleep 0.5; pid=$(pgrep -P "$pid" | head -n 1); pids="$pids $pid"; }
        port=$(port_of "$pid") || { cp "$tmp/log" "$tmp/out"; fail "$server starts"; continue; }
        if [ $limit = descriptors ]; then check "$server out of descriptors" crowd "$pid" "$port" "$request" "$answer"
        else
            rests() {
                crowd "$pid" "$port" || return 1
                n=$(grep -c ENOMEM "$tmp/trace")
                echo "$n failed calls"
                [ "$n" -ge 1 ] && [ "$n" -le 5 ]
            }
            check "$server without memory for a connection" rests
        fi
        stop "$pid"
    done
done
finish
