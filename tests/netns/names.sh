#!/bin/sh
# Names through the system's resolver and a name server of our own, in network and mount namespaces that this script makes:
# a slow answer keeps nothing else waiting, and a black hole costs a quarter of a second.
if [ "${1:-}" != inside ]; then
    if ! unshare -nm true 2>/dev/null || ! command -v ip >/dev/null; then
        echo "skip names: needs root, unshare and ip for namespaces of its own"
        echo "0 passed, 0 failed"
        exit 0
    fi
    exec unshare -nm sh "$0" inside
fi
. tests/check.sh
ip link set lo up
ip link add hole type veth peer name nobody
ip link set hole up
ip link set nobody up
ip -6 addr add 2001:db8:99::2/64 dev hole nodad
printf 'nameserver 127.0.0.1\noptions timeout:5 attempts:1\n' >"$tmp/resolv.conf"
printf '127.0.0.1 localhost\n' >"$tmp/hosts"
printf 'hosts: files dns\n' >"$tmp/nsswitch.conf"
for f in resolv.conf hosts nsswitch.conf; do mount --bind "$tmp/$f" "/etc/$f" || exit 1; done
names=$BUILD/tests/peers/names
"$names" serve >"$tmp/serve" 2>&1 </dev/null &
pids=$!
n=0
until grep -q ready "$tmp/serve" || [ $n -gt 50 ]; do sleep 0.1; n=$((n + 1)); done
check "a slow name keeps no timer waiting" timeout 30 "$names" slow
check "a black hole before the address that answers" timeout 30 "$names" race
check "forty names at once, some given up" timeout 60 "$names" many
case $BUILD in *opt)
    for v in 5.1 5.2 5.3 5.4 jit; do
        lua=lua$v
        [ $v = jit ] && lua=luajit
        has $lua && [ -f "$BUILD/lua/$v/psocket.so" ] || continue
        check "a coroutine ticks while another resolves ($lua)" env LUA_CPATH="$BUILD/lua/$v/?.so" timeout 30 $lua tests/netns/tick.lua
    done ;;
esac
for f in resolv.conf hosts nsswitch.conf; do umount "/etc/$f"; done
finish
