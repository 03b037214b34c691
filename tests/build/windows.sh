#!/bin/sh
# Windows: the whole header compiles without a warning for 64 and 32 bits, as C and as C++, and links without TLS with
# ws2_32 alone. Where Wine is installed, the platform block (platform.c) and the echo example run in it.
# (There is no BearSSL for MinGW in Debian; its headers are the same for every system.)
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
mkdir -p "$tmp/inc" "$tmp/dir/sub" "$tmp/home"
for d in ${BEARSSL_DIR:+"$BEARSSL_DIR/inc" "$BEARSSL_DIR/include"} /usr/include; do
    [ -f "$d/bearssl.h" ] && { cp -r "$d"/bearssl* "$tmp/inc"; break; }
done
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"
without='-DPSOCKET_NO_TLS -DPSOCKET_NO_DNS -DPSOCKET_NO_THREADS -DPSOCKET_NO_FILES'
for target in x86_64-w64-mingw32 i686-w64-mingw32; do
    # shellcheck disable=SC2086
    if has $target-gcc; then
        c="$target-gcc -std=c99 $warn -I. -isystem $tmp/inc"
        check "$target: C, header" $c -fsyntax-only tests/build/other.c
        check "$target: C" $c -O2 -c -o "$tmp/impl.o" "$tmp/impl.c"
        check "$target: C, without TLS" $c -DPSOCKET_NO_TLS -c -o "$tmp/plain.o" "$tmp/impl.c"
        for d in -DPSOCKET_NO_DNS -DPSOCKET_NO_THREADS -DPSOCKET_NO_FILES; do check "$target: C, $d" $c $d -fsyntax-only "$tmp/impl.c"; done
        check "$target: C, without anything" $c $without -c -o "$tmp/least.o" "$tmp/impl.c"
        check "$target: links without TLS" $target-gcc -I. -o "$tmp/smoke.exe" tests/build/smoke.c "$tmp/plain.o" -lws2_32
        check "$target: links without anything" $target-gcc -I. -o "$tmp/least.exe" tests/build/smoke.c "$tmp/least.o" -lws2_32
    else
        skip $target "$target-gcc is not installed"
    fi
    # shellcheck disable=SC2086
    if has $target-g++; then
        c="$target-g++ -x c++ -std=c++11 $warn -I. -isystem $tmp/inc"
        check "$target: C++, header" $c -fsyntax-only tests/build/other.c
        check "$target: C++" $c -O2 -c -o "$tmp/impl.o" "$tmp/impl.c"
        check "$target: C++, without anything" $c $without -fsyntax-only "$tmp/impl.c"
    else
        skip $target "$target-g++ is not installed"
    fi
done

wine=$(command -v wine64 || ls /usr/lib/wine/wine64 2>/dev/null)
if [ -z "$wine" ] || ! has wineserver; then
    skip "programs" "wine64 is not installed"
elif ! has x86_64-w64-mingw32-gcc; then
    skip "programs" "no 64-bit compiler"
else
    printf 'plain\n' >"$tmp/dir/plain.txt"
    printf 'umlaut\n' >"$tmp/dir/$(printf '\303\274').txt"
    # Without a display, without questions, in a home of its own.
    HOME=$tmp/home WINEPREFIX=$tmp/home/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree=;mshtml=;winemenubuilder.exe='
    export HOME WINEPREFIX WINEDEBUG WINEDLLOVERRIDES
    unset DISPLAY WAYLAND_DISPLAY SSL_CERT_FILE SSL_CERT_DIR
    run() { # PROGRAM TEXT ARGUMENTS... : prints TEXT (Wine answers 0 for what it cannot run) and ends well
        program=$1 text=$2
        shift 2
        (cd "$tmp" && timeout 100 "$wine" "./$program" "$@") >"$tmp/said" 2>&1
        status=$?
        cat "$tmp/said"
        [ $status -eq 0 ] && grep -q -- "$text" "$tmp/said"
    }
    gcc64="x86_64-w64-mingw32-gcc -O1 -Wall -Wextra -Wno-unused-function -I. -isystem $tmp/inc"
    # shellcheck disable=SC2086
    {
        check "wine: starts" timeout 100 "$wine" wineboot -i
        check "wine: platform, builds" $gcc64 -o "$tmp/platform.exe" tests/build/platform.c -lws2_32 -lcrypt32 -lbcrypt
        check "wine: platform" run platform.exe ' 0 failed' dir
        check "wine: platform without threads, builds" $gcc64 -DPSOCKET_NO_THREADS -o "$tmp/platform.exe" tests/build/platform.c \
            -lws2_32 -lcrypt32 -lbcrypt
        check "wine: platform without threads" run platform.exe ' 0 failed' dir
        # The API's tests, but those that need what is not there: POSIX' error numbers (refused_says_whom), a poller's own
        # descriptor (foreign_descriptor), ICMP errors and resets at will (Wine: udp_peers, typed_ends), a listener that
        # drops connections (second_address..., waiting_to...), Unix sockets, processes, and TLS.
        out="-refused_says_whom -foreign_descriptor -udp_peers -typed_ends -second_address_wins_over_a_black_hole
            -waiting_to_connect_is_idle -unix_sockets -descriptors_run_out -reset_in_the_middle_of_a_blocking_send -null_everywhere"
        check "wine: api, psocket" $gcc64 -DPSOCKET_NO_TLS -DPSOCKET_IMPLEMENTATION -c -o "$tmp/psocket.o" -x c psocket.h
        for t in args other poller stream; do
            check "wine: api, ${t}_test builds" $gcc64 -w -std=gnu99 -Itests/build/foreign -include tests/build/foreign/foreign.h -Itests \
                -o "$tmp/$t.exe" "tests/api/${t}_test.c" "$tmp/psocket.o" -static -lpthread -lws2_32
            check "wine: api, ${t}_test" run $t.exe ' 0 failed' $out
        done
        check "wine: plug, library" $gcc64 -DPLUG -shared -o "$tmp/plug.dll" tests/build/plug.c -lws2_32
        check "wine: plug, host" $gcc64 -o "$tmp/plug.exe" tests/build/plug.c
        check "wine: unloaded while a name is being resolved" run plug.exe survived plug.dll
        check "wine: echo, builds" $gcc64 -DPSOCKET_NO_TLS -o "$tmp/echo.exe" examples/echo.c -lws2_32
        check "wine: echo" run echo.exe 'came back the same'
    }
    timeout 20 wineserver -k
    timeout 20 wineserver -w
fi
finish
