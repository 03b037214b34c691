#!/bin/sh
# size.sh DIR: how much text psocket compiles to at -Os, by feature, and a complete static HTTPS client beside the same
# with mbedTLS and OpenSSL. Prints Markdown. Text is what `size` calls so: code, constants and unwind tables. The targets go
# by that; a second figure leaves out the unwind tables, which x86-64 has unless told otherwise and firmware does not.
set -u
dir=${1:?usage: size.sh DIR}
CC=${CC:-gcc}
mkdir -p "$dir"
err=$dir/size.log
: > "$err"

text() { ${2:-size} "$1" 2>>"$err" | awk 'NR == 2 { print $1 }'; }
code() { ${2:-size} -A "$1" 2>>"$err" | awk '$1 ~ /^\.text/ { n += $2 } END { print n + 0 }'; }
bare='-fno-asynchronous-unwind-tables -fno-unwind-tables'
flags='-std=c99 -Os -ffunction-sections -fdata-sections -DPSOCKET_IMPLEMENTATION'

# object NAME COMPILER FLAGS... : psocket.h alone as an object file
object() {
    name=$1 cc=$2
    shift 2
    # shellcheck disable=SC2086
    $cc $flags "$@" ${BEARSSL_CFLAGS:-} -x c psocket.h -c -o "$dir/$name.o" 2>>"$err"
}

echo "## psocket: size"
echo
echo "- date: $(date -u '+%Y-%m-%d %H:%M UTC'), commit $(git describe --always --dirty 2>/dev/null || echo unknown)"
echo "- compiler: $($CC --version | head -n 1), -Os"
command -v dpkg-query >/dev/null &&
    echo "- packages: $(dpkg-query -W -f='${Package} ${Version}  ' libbearssl-dev libmbedtls-dev libssl-dev 2>/dev/null)"
echo
echo "### psocket's own text, by feature"
echo
echo "| built with | x86-64 text | of it code | text without unwind tables |"
echo "|---|---|---|---|"
row() { # WHAT NAME FLAGS...
    what=$1 row=$2
    shift 2
    # shellcheck disable=SC2086
    object "$row" "$CC" "$@" && object "$row.bare" "$CC" "$@" $bare &&
        echo "| $what | $(text "$dir/$row.o") | $(code "$dir/$row.o") | $(text "$dir/$row.bare.o") |"
}
row "plain TCP, UDP and poller (PSOCKET_NO_TLS)" plain -DPSOCKET_NO_TLS
row "the same, no threads, no DNS" bare -DPSOCKET_NO_TLS -DPSOCKET_NO_THREADS -DPSOCKET_NO_DNS
row "plain + TLS, client and server: everything but Lua" tls
row "the same without TLS 1.3 (PSOCKET_NO_TLS13)" tls12 -DPSOCKET_NO_TLS13
row "the same without TLS 1.2 (PSOCKET_NO_TLS12)" tls13 -DPSOCKET_NO_TLS12
[ -n "${LUA_INC:-}" ] && row "everything, with Lua" lua -DPSOCKET_LUA "-I$LUA_INC"
echo
[ -f "$dir/tls12.o" ] && echo "TLS 1.3 adds $(($(text "$dir/tls.o") - $(text "$dir/tls12.o"))) bytes of text." && echo

# What each library put into a linked program: sums of the sections in the linker's map.
from() { # MAP PATTERN [SECTIONS]
    awk -v pattern="$2" -v sections="^ [.](${3:-text|rodata|eh_frame})" '
        /^Linker script and memory map/ { on = 1 }
        on && $0 ~ sections "[^ ]*$" { name = $1; next }
        on && ($0 ~ sections || name) {
            if (name) { size = $2; file = $3 } else { size = $3; file = $4 }
            name = ""
            if (file ~ pattern && size ~ /^0x/) { total += strtonum_hex(size) }
        }
        function strtonum_hex(s,   i, v) {
            v = 0
            s = tolower(substr(s, 3))
            for (i = 1; i <= length(s); i++) v = v * 16 + index("0123456789abcdef", substr(s, i, 1)) - 1
            return v
        }
        END { print total + 0 }' "$1"
}

link() { # NAME SOURCE FLAGS AND LIBRARIES... : a static program without what it does not use
    name=$1 src=$2
    shift 2
    # shellcheck disable=SC2086
    $CC -std=c99 -D_GNU_SOURCE -Os -ffunction-sections -fdata-sections ${BEARSSL_CFLAGS:-} -I. -c "$src" -o "$dir/$name.o" "$@" 2>>"$err" &&
        $CC -static -Wl,--gc-sections -Wl,-Map="$dir/$name.map" -o "$dir/$name" "$dir/$name.o" "$@" 2>>"$err"
}

echo "### A complete static HTTPS client (x86-64, glibc, --gc-sections)"
echo
echo "| program | text | above its plain TCP twin |"
echo "|---|---|---|"
above=
client() { # WHAT NAME PLAIN
    [ -x "$dir/$2" ] && [ -x "$dir/$3" ] &&
        echo "| $1 | $(text "$dir/$2") | $(($(text "$dir/$2") - $(text "$dir/$3"))) |"
}
rm -f "$dir"/size_plain "$dir"/size_https* "$dir"/size_server
# shellcheck disable=SC2086
{
    link size_plain tests/bench/size_plain.c -DPSOCKET_NO_TLS -pthread
    link size_https tests/bench/size_https.c ${BEARSSL_LIBS:--lbearssl} -pthread
    link size_https13 tests/bench/size_https.c -DPSOCKET_NO_TLS12 ${BEARSSL_LIBS:--lbearssl} -pthread
    link size_server tests/bench/psocket.c ${BEARSSL_LIBS:--lbearssl} -pthread
    link size_plain_mbedtls tests/bench/size_https_mbedtls.c -DPLAIN -lmbedtls -lmbedx509 -lmbedcrypto
    link size_https_mbedtls tests/bench/size_https_mbedtls.c -lmbedtls -lmbedx509 -lmbedcrypto
    link size_plain_openssl tests/bench/size_https_openssl.c -DPLAIN -lssl -lcrypto -ldl -pthread
    link size_https_openssl tests/bench/size_https_openssl.c -lssl -lcrypto -ldl -pthread
}
client "psocket and BearSSL" size_https size_plain && above=$(($(text "$dir/size_https") - $(text "$dir/size_plain")))
above13=
client "psocket and BearSSL, TLS 1.3 alone" size_https13 size_plain && above13=$(($(text "$dir/size_https13") - $(text "$dir/size_plain")))
client "mbedTLS" size_https_mbedtls size_plain_mbedtls || echo "| mbedTLS | – | – |"
client "OpenSSL (its plain twin is on libcrypto's BIO)" size_https_openssl size_plain_openssl || echo "| OpenSSL | – | – |"
echo
echo "### What a linked program takes of it (--gc-sections)"
echo
echo "| program | psocket and the program | without unwind tables | BearSSL |"
echo "|---|---|---|---|"
took() {
    [ -f "$dir/$2.map" ] && echo "| $1 | $(from "$dir/$2.map" "/$2\\\\.o") | $(from "$dir/$2.map" "/$2\\\\.o" 'text|rodata') | $(
        from "$dir/$2.map" libbearssl) |"
}
took "plain TCP client (PSOCKET_NO_TLS)" size_plain
took "HTTPS client" size_https
took "TLS server with a poller (tests/bench/psocket.c)" size_server
echo

# ARM Thumb-2: Linux's sockets with a cross compiler, else lwIP's on newlib (its headers: LWIP_DIR, or Debian's liblwip-dev).
arm='' sys=''
for c in arm-linux-gnueabihf-gcc arm-linux-gnueabi-gcc arm-none-eabi-gcc; do
    command -v $c >/dev/null && { arm=$c; break; }
done
lwip=
for d in "${LWIP_DIR:+$LWIP_DIR/src/include}" /usr/include/lwip /usr/include; do [ -n "$d" ] && [ -f "$d/lwip/sockets.h" ] && { lwip=$d; break; }; done
mkdir -p "$dir/inc/arch"
cp -r /usr/include/bearssl* "$dir/inc/" 2>/dev/null # a cross compiler does not look there
if [ "$arm" = arm-none-eabi-gcc ] && [ -n "$lwip" ]; then
    cp -r "$lwip/lwip" "$dir/inc/"
    printf '#define LWIP_ERRNO_STDINCLUDE 1\n#define LWIP_TIMEVAL_PRIVATE 0\n#include <sys/time.h>\n#define LWIP_RAND() 4u\ntypedef unsigned sys_prot_t;\n' >"$dir/inc/arch/cc.h"
    echo 'typedef void *sys_sem_t, *sys_mutex_t, *sys_mbox_t, *sys_thread_t;' >"$dir/inc/arch/sys_arch.h"
    printf '#define LWIP_DNS 1\n#define LWIP_IPV6 1\n#define LWIP_NETIF_LOOPBACK 1\n#define LWIP_HAVE_LOOPIF 1\n#define SO_REUSE 1\n#define LWIP_TCPIP_CORE_LOCKING 1\n#define LWIP_STATS 0\n' >"$dir/inc/lwipopts.h"
    sys='-mcpu=cortex-m4 -mthumb -DPSOCKET_LWIP'
    what='Cortex-M4, newlib, lwIP'
elif [ -n "$arm" ] && [ "$arm" != arm-none-eabi-gcc ]; then
    sys='-mcpu=cortex-a9 -mthumb'
    what='Cortex-A9, Linux'
fi
if [ -n "$sys" ]; then
    echo "### psocket's own text on ARM Thumb-2 ($what)"
    echo
    echo "| built with | text | of it code |"
    echo "|---|---|---|"
    for v in "plain TCP, UDP and poller (PSOCKET_NO_TLS):-DPSOCKET_NO_TLS" \
        "the same, no threads, no DNS, no files:-DPSOCKET_NO_TLS -DPSOCKET_NO_THREADS -DPSOCKET_NO_DNS -DPSOCKET_NO_FILES" \
        "plain + TLS, client and server:"; do
        # shellcheck disable=SC2086
        $arm $flags $sys -isystem "$dir/inc" ${v#*:} -x c psocket.h -c -o "$dir/arm.o" 2>>"$err" &&
            echo "| ${v%%:*} | $(text "$dir/arm.o" "${arm%gcc}size") | $(code "$dir/arm.o" "${arm%gcc}size") |"
    done
else
    echo "ARM: left out, no compiler (or no lwIP headers for a bare-metal one)."
fi
echo

echo "### Targets"
echo
echo "| target | at most | measured | | without unwind tables |"
echo "|---|---|---|---|---|"
verdict() { # WHAT LIMIT TEXT WITHOUT-UNWIND-TABLES
    [ -n "$3" ] && echo "| $1 | $2 | $3 | $([ "$3" -lt "$2" ] && echo met || echo '**not met**') | $4 |"
}
verdict "plain TCP, UDP and poller: what a client takes of it" 17408 "$(from "$dir/size_plain.map" '/size_plain\\.o')" \
    "$(from "$dir/size_plain.map" '/size_plain\\.o' 'text|rodata')"
verdict "plain TCP, UDP and poller: everything" 39213 "$(text "$dir/plain.o")" "$(text "$dir/plain.bare.o")"
verdict "everything but Lua" 98148 "$(text "$dir/tls.o")" "$(text "$dir/tls.bare.o")"
verdict "complete HTTPS client above plain TCP, BearSSL included" 117760 "$above" –
verdict "the same with TLS 1.3 alone" 102400 "$above13" –
exit 0
