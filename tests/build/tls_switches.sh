#!/bin/sh
# Every switch that takes a part of TLS away compiles without a warning and runs; and a program that only connects links
# neither a server's functions nor any of BearSSL's engine.
. tests/check.sh
warn='-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror'
bear=${BEARSSL_DIR:+-isystem $BEARSSL_DIR/inc -isystem $BEARSSL_DIR/include}
lib=$(ls "${BEARSSL_DIR:-/nowhere}"/build/libbearssl.a "${BEARSSL_DIR:-/nowhere}"/lib/libbearssl.a 2>/dev/null | head -n 1)
lib=${lib:--lbearssl}
printf '#define PSOCKET_IMPLEMENTATION\n#include "psocket.h"\n' >"$tmp/impl.c"

compiles() { # SWITCHES
    # shellcheck disable=SC2086
    gcc -std=c99 $warn $bear -I. "$@" -O0 -c -o "$tmp/impl.o" "$tmp/impl.c"
}
runs() { # SWITCHES
    # shellcheck disable=SC2086
    compiles "$@" && gcc -std=c99 $warn $bear -I. "$@" -o "$tmp/run" tests/build/tls_switches.c "$tmp/impl.o" $lib -pthread &&
        timeout 60 "$tmp/run" "$certs"
}
for one in NO_TLS12 NO_TLS13 NO_SERVER NO_CLIENT NO_TEXT NO_FILES; do
    check "switches: $one" runs -DPSOCKET_$one
done
for v in NO_TLS12 NO_TLS13; do
    check "switches: $v NO_TEXT" runs -DPSOCKET_$v -DPSOCKET_NO_TEXT
    for side in NO_SERVER NO_CLIENT; do
        check "switches: $v $side" runs -DPSOCKET_$v -DPSOCKET_$side
        check "switches: $v $side NO_TEXT" compiles -DPSOCKET_$v -DPSOCKET_$side -DPSOCKET_NO_TEXT -DPSOCKET_NO_FILES
    done
done

# A linked client.
cat >"$tmp/client.c" <<'END'
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
int main(int argc, char **argv)
{
    psocket *s;
    const void *data;
    int port = argc > 2 ? 443 : 0;
    return psocket_connect(&s, argv[1], port, NULL) || psocket_starttls(s, NULL, argv[1]) || psocket_recv(s, &data) < 0;
}
END
client() {
    # shellcheck disable=SC2086
    gcc -std=c99 $bear -Os -ffunction-sections -fdata-sections -I. -o "$tmp/client" "$tmp/client.c" -Wl,--gc-sections $lib -pthread &&
        nm "$tmp/client" >"$tmp/symbols" && grep -q psi_client "$tmp/symbols"
}
check "a client links" client
lacks() { ! grep -E " $1" "$tmp/symbols"; } # PATTERN
check "a client links no server" lacks 'psi_(server|hello_(read|answer)|auth_write_request|ticket_)'
check "a client links nothing of BearSSL's engine" lacks 'br_(ssl_(engine|hs|client|server)|x509_minimal)_'
finish
