#!/bin/sh
# examples/firmware: FreeRTOS, lwIP and psocket on QEMU's mps2-an385 fetch a page over TLS from this machine's loopback.
# FREERTOS_DIR, LWIP_DIR (lwIP 2.2) and BEARSSL_SOURCE name the sources.
. tests/check.sh
case $BUILD in *san) skip "firmware" "built for another machine"; finish ;; esac
case $certs in /*) ;; *) certs=$(pwd)/$certs ;; esac
unset MAKEFLAGS MFLAGS MAKELEVEL
for v in FREERTOS_DIR:tasks.c LWIP_DIR:contrib/ports/freertos/sys_arch.c BEARSSL_SOURCE:src/inner.h; do
    eval "d=\${${v%%:*}:-}"
    [ -n "$d" ] && [ -f "$d/${v#*:}" ] || { skip "firmware" "${v%%:*}= names no folder with ${v#*:}"; finish; }
done
for tool in arm-none-eabi-gcc qemu-system-arm openssl; do has $tool || { skip "firmware" "$tool is not installed"; finish; }; done
check "BearSSL for the Cortex-M3" make bearssl CROSS=arm-none-eabi- BUILD="$tmp/build" BEARSSL_DIR="$BEARSSL_SOURCE" \
    BEARSSL_FLAGS="-Os -mcpu=cortex-m3 -mthumb -ffunction-sections -DBR_USE_URANDOM=0 -DBR_USE_UNIX_TIME=0 -DBR_LOMUL=1"
fetch() { # KIND TRUST: with the server's certificate of that kind
    : >"$tmp/server.log"
    openssl s_server -accept 127.0.0.1:0 -cert "$certs/$1.pem" -cert_chain "$certs/$1.pem" -key "$certs/$1.key" -www >"$tmp/server.log" 2>&1 </dev/null &
    server=$!
    pids="$pids $server"
    port= n=0
    while [ -z "$port" ] && [ $n -lt 100 ]; do sleep 0.05; port=$(sed -n 's/^ACCEPT .*:\([0-9]*\)$/\1/p' "$tmp/server.log"); n=$((n + 1)); done
    timeout 100 make -C examples/firmware OUT="$tmp/out-$1-$2" BEARSSL_DIR="$tmp/build/bearssl-arm-none-eabi" TRUST="$certs/$2.pem" \
        HOST_PORT="$port" run flash >"$tmp/said" 2>&1 </dev/null
    status=$?
    stop "$server"
    cat "$tmp/said"
    return $status
}
gets() { fetch "$1" ca && grep -q '^HTTP/1.0 200' "$tmp/said" && grep -q '^stack: ' "$tmp/said"; }
for kind in ec rsa; do
    check "a page over TLS, $kind" gets $kind
    cp "$tmp/said" "$tmp/said-$kind"
done
refused() { ! fetch ec other_ca && grep -q 'failed: .*trusted' "$tmp/said"; }
check "a CA that is not trusted" refused
grep -h 'instructions\|^stack\|^TLS\|^psocket ' "$tmp/said-ec" "$tmp/said-rsa" | sed 's/^/    /'
finish
