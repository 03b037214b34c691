/* BearSSL: handshake bytes behind Finished in the same record leave the engine wanting nothing: a pump spins for ever.
   tests/tls/hostile.c has all lengths; here the sender is a client, or a server, that knows the keys. */
#include "tls/wire.h"

static kit_wire w;

/* The sender of Finished repeats it with extra bytes behind it. */
static void trail(int server)
{
    static kit_bytes b;
    static uint8_t plain[20000];
    kit_key key, again;
    kit_end *from, *to;
    psocket_error e = {0};
    size_t at, len;
    int type, round, i, flights = kit_version == 0x0304 ? (server ? 1 : 2) : (server ? 3 : 2);
    for (round = 0; round < 2; round++) { /* once for the log, and again with the same random numbers */
        kit_seed(99);
        REQUIRE(kit_wire_begin(&w, kit_client(), kit_server("rsa")));
        for (i = 0; i < flights; i++) kit_pass(&w, i % 2, NULL);
        if (!round) {
            CHECK(kit_wire_run(&w));
            kit_wire_end(&w);
        }
    }
    from = kit_sender(&w, server);
    to = kit_sender(&w, !server);
    kit_look(&w.tap, &from->out);
    REQUIRE(kit_tap_key(&w.tap, &key, server, kit_version == 0x0303));
    kit_take(from, &b);
    for (at = 0; at < b.n && b.p[at] != (kit_version == 0x0304 ? 23 : 20); at += len) len = 5 + kit_get(b.p + at + 3, 2);
    for (; at + 5 + kit_get(b.p + at + 3, 2) < b.n; at += len) {
        len = 5 + kit_get(b.p + at + 3, 2);
        if (b.p[at] == 23) kit_open(&key, b.p + at, plain, &type);
    }
    again = key;
    i = (int)kit_open(&key, b.p + at, plain, &type);
    REQUIRE(i >= 16 && type == 22);
    memset(plain + i, 0, 4);
    b.n = at; /* everything but the record with Finished */
    kit_feed(to, b.p, b.n);
    CHECK_INT(kit_status(to, &e), PSOCKET_WANT_READ);
    b.n = 0;
    kit_seal(&again, &b, 22, plain, (size_t)i + 4, 0);
    kit_feed(to, b.p, b.n);
    CHECK_INT(kit_status(to, &e), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(e.tls_alert, 10);
    kit_wire_end(&w);
}

KIT_TEST(bytes_behind_the_clients_finished, 20) { trail(0); }
KIT_TEST(bytes_behind_the_servers_finished, 20) { trail(1); }
