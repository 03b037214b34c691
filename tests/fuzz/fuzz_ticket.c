/* Sessions and tickets. The first byte chooses: 0, 1 what psocket_tls_loadsessions gets; 2, 3 changes (position, position, value)
 * to saved sessions; 4, 5 the body of a NewSessionTicket behind a handshake, for the client; 6, 7 changes to the ClientHello
 * that offers a ticket (odd: TLS 1.3). */
#include "fuzz.h"

static void apply(uint8_t *p, size_t n, const uint8_t *changes, size_t len)
{
    size_t i;
    for (i = 0; i + 3 <= len; i += 3) {
        size_t at = kit_get(changes + i, 2);
        if (at < n) p[at] ^= changes[i + 2];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static kit_wire w;
    static kit_bytes b;
    static uint8_t saved[8192];
    int how = size ? data[0] & 7 : 0;
    ptrdiff_t n;
    psocket_tls *client, *server;
    if (size) data++, size--;
    if (size > 40000) return 0;
    fuzz_begin(&w, how & 1);
    if (how < 2) {
        psocket_tls_loadsessions(w.tls[0], data, size);
        fuzz_finish(&w);
        return 0;
    }
    if (!kit_wire_run(&w)) abort();
    fuzz_drain(w.ends.client);
    if (how == 4 || how == 5) {
        b.n = 0;
        kit_handshake(&b, 4, data, size);
        if (size <= 16000) kit_forge(&w, 1, 22, b.p, b.n);
        fuzz_finish(&w);
        return 0;
    }
    n = psocket_tls_savesessions(w.tls[0], saved, sizeof saved);
    if (n < 0 || n > (ptrdiff_t)sizeof saved) abort();
    client = w.tls[0];
    server = w.tls[1];
    kit_end_both(&w.ends);
    if (how < 4) {
        apply(saved, (size_t)n, data, size);
        psocket_tls_free(client);
        client = fuzz_settings(FUZZ_CLIENT, kit_version);
        psocket_tls_loadsessions(client, saved, (size_t)n);
    }
    if (!kit_wire_begin(&w, client, server)) abort();
    if (how >= 6) {
        kit_take(w.ends.client, &b);
        apply(b.p, b.n, data, size);
        kit_feed(w.ends.server, b.p, b.n);
    } else {
        kit_wire_run(&w);
    }
    fuzz_finish(&w);
    return 0;
}
