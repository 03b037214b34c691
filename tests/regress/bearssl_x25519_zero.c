/* BearSSL: multiplying an X25519 point of small order succeeds, and the shared secret is zero (RFC 7748 6.1). */
#include "kit.h"

static const uint8_t points[4][32] = {
    {0},
    {1},
    {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
     0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
    {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}};

static void refused(const kit_end *h)
{
    psocket_error e = {0};
    CHECK(kit_status(h, &e) < PSOCKET_WANT_READ);
    CHECK(e.tls_alert > 0);
    CHECK_INT(e.code, PSOCKET_TLS_PROTOCOL);
    CHECK_INT(e.tls_alert, 47); /* at once, and not as bad_record_mac at Finished */
}

/* A client that sends such a point does not get through. */
KIT_TEST_12(server_refuses_small_order, 20)
{
    psocket_tls *ct = kit_client(), *stls = kit_server("ec");
    static kit_bytes b;
    int i;
    REQUIRE(ct && stls);
    for (i = 0; i < 4; i++) {
        kit_ends p;
        psocket_tls_free(ct); /* without a session */
        ct = kit_client();
        REQUIRE(kit_begin(&p, ct, stls, "localhost"));
        kit_move(p.client, p.server, 80000);
        kit_move(p.server, p.client, 80000);
        kit_take(p.client, &b);
        REQUIRE(b.p[5] == 16 && b.p[9] == 32);
        memcpy(b.p + 10, points[i], 32);
        kit_feed(p.server, b.p, b.n);
        refused(p.server);
        kit_end_both(&p);
    }
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}

/* TLS 1.3: in either hello. */
TEST(key_shares_of_small_order)
{
    psocket_tls *ct, *stls;
    static kit_bytes b;
    int i;
    kit_version = 0x0304;
    ct = kit_client();
    stls = kit_server("ec");
    REQUIRE(ct && stls);
    for (i = 0; i < 8; i++) {
        kit_ends p;
        size_t at;
        int server = i >= 4;
        REQUIRE(kit_begin(&p, ct, stls, "localhost"));
        if (server) kit_move(p.client, p.server, 80000);
        kit_take(server ? p.server : p.client, &b);
        at = kit_extension(b.p + 5, b.n - 5, 51);
        REQUIRE(at > 0);
        at += 5 + 4;
        if (!server) { /* the share of X25519 in the list */
            size_t end = at + 2 + kit_get(b.p + at, 2);
            for (at += 2; at < end && kit_get(b.p + at, 2) != 29; at += 4 + kit_get(b.p + at + 2, 2)) continue;
            REQUIRE(at < end);
        }
        CHECK_INT(kit_get(b.p + at, 2), 29);
        memcpy(b.p + at + 4, points[i % 4], 32);
        kit_feed(server ? p.client : p.server, b.p, b.n);
        refused(server ? p.client : p.server);
        kit_end_both(&p);
    }
    psocket_tls_free(ct);
    psocket_tls_free(stls);
}
