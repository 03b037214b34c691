/* BearSSL, server: max_fragment_length bounds what is sent, in the handshake and after it (RFC 6066 4). */
#include "tls/wire.h"

static kit_wire w;

/* Adds an extension to the ClientHello that waits in the client's output. */
static void extend(kit_bytes *b, const void *p, size_t n)
{
    size_t at = 5 + 4 + 2 + 32;
    at += 1 + (size_t)b->p[at];
    at += 2 + kit_get(b->p + at, 2);
    at += 1 + (size_t)b->p[at];
    memmove(b->p + at + 2 + n, b->p + at + 2, b->n - at - 2); /* as the first one: pre_shared_key has to be the last */
    memcpy(b->p + at + 2, p, n);
    b->n += n;
    n += kit_get(b->p + at, 2);
    b->p[at] = (uint8_t)(n >> 8);
    b->p[at + 1] = (uint8_t)n;
    b->p[3] = (uint8_t)((b->n - 5) >> 8);
    b->p[4] = (uint8_t)(b->n - 5);
    b->p[7] = (uint8_t)((b->n - 9) >> 8);
    b->p[8] = (uint8_t)(b->n - 9);
}

/* The server's flight comes in records of that size; the rest of the handshake cannot succeed, for the hello was changed. */
KIT_TEST_12(the_handshake_in_small_records, 20)
{
    static kit_bytes b;
    int log;
    for (log = 9; log <= 12; log++) {
        uint8_t ext[5] = {0, 1, 0, 1, 0};
        size_t i, largest = 0;
        ext[4] = (uint8_t)(log - 8);
        REQUIRE(kit_wire_begin(&w, kit_client(), kit_server("rsa")));
        extend(&w.ends.client->out, ext, 5);
        kit_move(w.ends.client, w.ends.server, 80000);
        kit_take(w.ends.server, &b);
        CHECK(b.n > 1000);
        for (i = 0; i + 5 <= b.n; i += 5 + kit_get(b.p + i + 3, 2))
            if (kit_get(b.p + i + 3, 2) > largest) largest = kit_get(b.p + i + 3, 2);
        CHECK(largest <= (size_t)1 << log);
        CHECK_INT(kit_status(w.ends.server, NULL), PSOCKET_WANT_READ);
        kit_wire_end(&w);
    }
}

/* Data too, towards a client of ours that asks; and it takes nothing larger (RFC 8449). */
KIT_TEST(fragments_as_the_client_asked, 60)
{
    static const size_t sizes[] = {64, 100, 512, 600, 1024, 2048, 4096, 5000, 16384};
    static uint8_t text[16384], got[16384];
    size_t i, k;
    for (i = 0; i < sizeof text; i++) text[i] = (uint8_t)(i * 7 + i / 256);
    for (i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        static kit_bytes b;
        kit_settings s;
        psocket_tls *client;
        const void *data;
        ptrdiff_t n;
        size_t have = 0;
        memset(&s, 0, sizeof s);
        kit_ca(&s, "ca.pem");
        s.opt.max_fragment = sizes[i];
        client = kit_make(&s);
        kit_done(&s);
        REQUIRE(kit_wire_begin(&w, client, kit_server("rsa")) && CHECK(kit_wire_run(&w)));
        for (k = 0; k < sizeof text; k += (size_t)n) {
            n = psocket_send(w.ends.server->s, text + k, sizeof text - k);
            if (n == PSOCKET_WANT_WRITE) n = 0;
            REQUIRE(n >= 0);
            psocket_flush(w.ends.server->s);
            kit_take(w.ends.server, &b);
            for (data = b.p; (const uint8_t *)data < b.p + b.n; data = (const uint8_t *)data + 5 + kit_get((const uint8_t *)data + 3, 2))
                CHECK(kit_get((const uint8_t *)data + 3, 2) <= sizes[i] + 24 + (kit_version == 0x0304));
            kit_watch(&w, 1, &b, NULL);
            kit_feed(w.ends.client, b.p, b.n);
            while ((n = psocket_recv(w.ends.client->s, &data)) > 0) {
                REQUIRE((size_t)n <= sizes[i] && have + (size_t)n <= sizeof got);
                memcpy(got + have, data, (size_t)n);
                have += (size_t)n;
            }
            n = (ptrdiff_t)(have - k);
        }
        CHECK_INT(have, sizeof text);
        CHECK_MEM(got, text, sizeof text);
        if (sizes[i] < 16384) {
            psocket_error e = {0};
            kit_forge(&w, 1, 23, text, sizes[i] + 1);
            CHECK_INT(psocket_recv(w.ends.client->s, &data), PSOCKET_TLS_PROTOCOL);
            psocket_geterror(w.ends.client->s, &e);
            CHECK_INT(e.tls_alert, 22);
        }
        kit_wire_end(&w);
    }
}
