#!/bin/sh
# lwIP: the header compiles without a warning against lwIP's own headers, for this machine and for a Cortex-M, in the
# configurations that matter; and the platform block (platform.c) runs over lwIP's loopback interface. LWIP_DIR is the
# folder of lwIP's source (in Debian: apt-get source lwip), which holds src/include; to run, it needs the Unix port, too
# (port/ in Debian, contrib/ports/unix/port/ in lwIP itself).
. tests/check.sh
L=${LWIP_DIR:-}
if [ ! -f "$L/src/include/lwip/sockets.h" ]; then
    skip lwip "LWIP_DIR names no source of lwIP"
    finish
fi
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
mkdir -p "$tmp/inc" "$tmp/small/arch" "$tmp/obj"
for d in ${BEARSSL_DIR:+"$BEARSSL_DIR/inc" "$BEARSSL_DIR/include"} /usr/include; do
    [ -f "$d/bearssl.h" ] && { cp -r "$d"/bearssl* "$tmp/inc"; break; }
done
printf '#define PSOCKET_LWIP\n#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"

# What a firmware has of its own.
cat >"$tmp/small/arch/cc.h" <<'END'
#define LWIP_ERRNO_STDINCLUDE 1
#define LWIP_TIMEVAL_PRIVATE 0
#include <sys/time.h>
#define LWIP_RAND() 4u
typedef unsigned sys_prot_t;
END
cat >"$tmp/small/arch/sys_arch.h" <<'END'
typedef void *sys_sem_t, *sys_mutex_t, *sys_mbox_t, *sys_thread_t;
END
cat >"$tmp/inc/lwipopts.h" <<'END'
#ifndef LWIP_HAVE_LOOPIF
#define LWIP_HAVE_LOOPIF LWIP_NETIF_LOOPBACK
#endif
#ifndef LWIP_DNS
#define LWIP_DNS 1
#endif
#define SO_REUSE 1
#define LWIP_SO_LINGER 1
#define IPV6_FRAG_COPYHEADER 1
#define LWIP_TCPIP_CORE_LOCKING 1
#define LWIP_STATS 0
#ifdef TEST_RUN /* on a Unix machine, with room for platform.c */
#define MEM_LIBC_MALLOC 1
#define MEMP_MEM_MALLOC 1
#define MEM_ALIGNMENT 8
#define MEMP_NUM_NETCONN 1000
#define MEMP_NUM_TCP_PCB 2400
#define TCPIP_MBOX_SIZE 128
#define DEFAULT_TCP_RECVMBOX_SIZE 128
#define DEFAULT_UDP_RECVMBOX_SIZE 32
#define DEFAULT_ACCEPTMBOX_SIZE 32
#define TCP_MSS 1460
#define TCP_WND (16 * TCP_MSS)
#define TCP_SND_BUF (16 * TCP_MSS)
#define TCP_SND_QUEUELEN 128
#define DNS_LOCAL_HOSTLIST 1
#define DNS_LOCAL_HOSTLIST_INIT {DNS_LOCAL_HOSTLIST_ELEM("localhost", IPADDR4_INIT_BYTES(127, 0, 0, 1))}
/* Debian's sources.c wants these, which only its own headers for the Hurd define. */
#define IP4ADDR_SOCKADDR_SET_LEN(a) (a)->sin_len = sizeof(struct sockaddr_in)
#define IP6ADDR_SOCKADDR_SET_LEN(a) (a)->sin6_len = sizeof(struct sockaddr_in6)
#define IPADDR_SOCKADDR_GET_LEN(a) (a)->sa.sa_len
#endif
END
all='-DLWIP_NETIF_LOOPBACK=1 -DLWIP_IPV6=1'
for compiler in 'gcc -std=gnu99' 'g++ -x c++ -std=c++11' 'arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -std=c99' \
    'arm-none-eabi-g++ -x c++ -mcpu=cortex-m4 -mthumb -std=c++11'; do
    who=${compiler%% *}
    has "$who" || { skip "$who" "not installed"; continue; }
    c="$compiler $warn -Os -I. -isystem $tmp/inc -isystem $tmp/small -isystem $L/src/include -c -o $tmp/impl.o"
    # shellcheck disable=SC2086
    {
        check "$who: all" $c $all "$tmp/impl.c"
        check "$who: no select" $c $all -DLWIP_SOCKET_SELECT=0 -DPSOCKET_NO_TLS "$tmp/impl.c"
        check "$who: lwip_ names only" $c $all -DLWIP_COMPAT_SOCKETS=0 -DPSOCKET_NO_TLS "$tmp/impl.c"
        check "$who: IPv4 only, no loopback" $c -DLWIP_NETIF_LOOPBACK=0 -DLWIP_IPV6=0 -DPSOCKET_NO_TLS "$tmp/impl.c"
        check "$who: multicast" $c $all -DLWIP_IGMP=1 -DLWIP_IPV6_MLD=1 -DLWIP_MULTICAST_TX_OPTIONS=1 -DPSOCKET_NO_TLS "$tmp/impl.c"
        check "$who: IPv6 only" $c -DLWIP_NETIF_LOOPBACK=1 -DLWIP_IPV6=1 -DLWIP_IPV4=0 -DPSOCKET_NO_TLS "$tmp/impl.c"
        check "$who: least" $c $all -DPSOCKET_NO_TLS -DPSOCKET_NO_DNS -DPSOCKET_NO_THREADS -DPSOCKET_NO_FILES "$tmp/impl.c"
    }
done

port=
for d in "$L/port" "$L/contrib/ports/unix/port"; do [ -f "$d/sys_arch.c" ] && port=$d; done
if [ -z "$port" ]; then
    skip "programs" "no Unix port in LWIP_DIR"
    finish
fi
build_lwip() { # SWITCHES
    rm -f "$tmp/obj"/*
    for f in "$L"/src/core/*.c "$L"/src/core/ipv4/*.c "$L"/src/core/ipv6/*.c "$L"/src/api/*.c "$L/src/netif/ethernet.c" "$port/sys_arch.c"; do
        gcc -O1 -w -DTEST_RUN -DLWIP_COMPAT_SOCKETS=0 "$@" -I"$tmp/inc" -I"$port/include" -I"$L/src/include" -c \
            -o "$tmp/obj/$(basename "$f").o" "$f" || return 1
    done
}
# The API's tests over lwIP, but those that need what it has not: more loopback addresses than one (second_address...,
# all_refused...), an address that cannot be bound (listen_arguments), names resolved meanwhile (refused_and_unresolved...),
# ICMP errors (udp_peers), a reset at will (typed_ends), more than 64 KB under way (full_ring..., ring_is_bounded), two
# arrivals at once (removed_within...), processes, and TLS.
out="-second_address_wins_over_a_black_hole -all_refused_lists_each -listen_arguments -refused_and_unresolved_are_reported
    -udp_peers -typed_ends -full_ring_is_watched_again -ring_is_bounded -removed_within_a_batch -descriptors_run_out
    -reset_in_the_middle_of_a_blocking_send -waiting_to_connect_is_idle -unix_sockets -null_everywhere"
api() { # SWITCHES
    inc="-Itests/build/foreign -include tests/build/foreign/foreign.h -I. -Itests -I$tmp/inc -I$port/include -I$L/src/include"
    # shellcheck disable=SC2086
    check "api $*: psocket" gcc -std=gnu99 -O1 -g -w -DTEST_RUN "$@" -DLWIP_COMPAT_SOCKETS=0 -DPSOCKET_LWIP -DPSOCKET_NO_TLS -DPSOCKET_IMPLEMENTATION \
        -I. -I"$tmp/inc" -I"$port/include" -I"$L/src/include" -c -o "$tmp/psocket.o" -x c psocket.h
    for t in args other poller stream; do
        # shellcheck disable=SC2086
        check "api $*: ${t}_test builds" gcc -std=gnu99 -O1 -g -w -DTEST_RUN "$@" $inc -o "$tmp/api" "tests/api/${t}_test.c" "$tmp/psocket.o" "$tmp"/obj/*.o -pthread
        # shellcheck disable=SC2086
        check "api $*: ${t}_test" timeout 100 "$tmp/api" $out
    done
}
# shellcheck disable=SC2086
{
    check "lwIP: builds" build_lwip $all
    check "platform: builds" gcc -O1 -Wall -Wextra -Wno-unused-function -DTEST_RUN -DPSOCKET_LWIP $all -I. -isystem "$tmp/inc" \
        -isystem "$port/include" -isystem "$L/src/include" -o "$tmp/platform" tests/build/platform.c "$tmp"/obj/*.o -pthread
    check "platform: runs" timeout 100 "$tmp/platform"
    api $all
}
# A poller can be woken without a loopback interface, lwIP's default, and without UDP.
for d in '' -DLWIP_UDP=0\ -DLWIP_DNS=0\ -DLWIP_DHCP=0; do
    # shellcheck disable=SC2086
    {
        check "lwIP without loopback $d: builds" build_lwip -DLWIP_NETIF_LOOPBACK=0 -DLWIP_HAVE_LOOPIF=0 $d
        check "bell $d: builds" gcc -O1 -w -DTEST_RUN -DPSOCKET_LWIP -DPSOCKET_NO_DNS -DLWIP_NETIF_LOOPBACK=0 -DLWIP_HAVE_LOOPIF=0 $d -I. -isystem "$tmp/inc" \
            -isystem "$port/include" -isystem "$L/src/include" -o "$tmp/platform" tests/build/platform.c "$tmp"/obj/*.o -pthread
    }
    check "bell $d: rings" timeout 100 "$tmp/platform" --bell
done
finish
