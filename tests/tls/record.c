/* Records after the handshake, in each version and with each kind of suite. */
#include "tls/wire.h"

static kit_wire w;

/* A connection with AES-GCM or ChaCha20-Poly1305. */
static int join(int chacha)
{
    return kit_wire_join(&w, kit_version == 0x0303 ? (chacha ? "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256" : "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")
                                                   : (chacha ? "TLS_CHACHA20_POLY1305_SHA256" : "TLS_AES_128_GCM_SHA256"));
}

/* What the receiver of dir has to say to a record: psocket_recv's answer. */
static ptrdiff_t tell(int dir, int type, const void *p, size_t n)
{
    const void *data;
    kit_forge(&w, dir, type, p, n);
    return psocket_recv(kit_sender(&w, !dir)->s, &data);
}

/* It has failed with this code and has told the peer so by this alert. */
static void failed(int dir, ptrdiff_t got, int code, int alert, const char *what)
{
    psocket_error e = {0};
    int heard;
    psocket_geterror(kit_sender(&w, !dir)->s, &e);
    heard = kit_hear_alert(&w, !dir);
    if (got != code || e.code != code || e.tls_alert != alert || heard != 512 + alert || !e.text[0])
        check_fail(__FILE__, __LINE__, "%s: %ld and %d (%s), alert %d, on the wire %d; not %d, alert %d", what, (long)got,
                   e.code, e.text, e.tls_alert, heard, code, alert);
}

KIT_TEST(every_length_comes_through, 60)
{
    static uint8_t text[16384];
    static const size_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 255, 256, 1000, 4096, 16383, 16384};
    size_t i;
    int k;
    for (i = 0; i < sizeof text; i++) text[i] = (uint8_t)(i * 7);
    for (k = 0; k < 2; k++) {
        REQUIRE(join(k));
        for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) { /* from end to end */
            kit_end *from = kit_sender(&w, i % 2), *to = kit_sender(&w, !(i % 2));
            const void *data = NULL;
            CHECK_INT(psocket_send(from->s, text, lengths[i]), lengths[i]);
            CHECK_INT(psocket_flush(from->s), 0);
            kit_pass(&w, i % 2, NULL);
            CHECK_INT(psocket_recv(to->s, &data), lengths[i]);
            CHECK_MEM(data, text, lengths[i]);
        }
        for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) { /* from a stranger */
            const void *data = NULL;
            kit_forge(&w, 1, 23, text, lengths[i]);
            CHECK_INT(psocket_recv(w.ends.client->s, &data), lengths[i]);
            CHECK_MEM(data, text, lengths[i]);
        }
        kit_wire_end(&w);
    }
}

KIT_TEST(incomplete_records_wait, 30)
{
    static kit_bytes b;
    const void *data;
    size_t i;
    kit_end *c;
    REQUIRE(join(0));
    c = w.ends.client;
    kit_seal(&w.key[1], &b, 23, "hello", 5, 0);
    for (i = 0; i < b.n; i++) {
        CHECK_INT(psocket_recv(c->s, &data), PSOCKET_WANT_READ);
        kit_feed(c, b.p + i, 1);
    }
    CHECK_INT(psocket_recv(c->s, &data), 5);
    kit_feed(c, b.p, b.n); /* replayed */
    failed(1, psocket_recv(c->s, &data), PSOCKET_TLS_RECORD, 20, "replayed");
    kit_wire_end(&w);
}

/* No bit of a record may change. */
KIT_TEST(every_bit_counts, 120)
{
    static kit_bytes b;
    const void *data;
    psocket_error e;
    size_t i, n = 0;
    int k;
    for (k = 0; k < 2; k++) {
        for (i = 0; i == 0 || i < n * 8; i += i < 48 ? 1 : 5) {
            ptrdiff_t got;
            REQUIRE(join(k));
            b.n = 0;
            kit_seal(&w.key[1], &b, 23, "hello", 5, 0);
            n = b.n;
            b.p[i / 8] ^= (uint8_t)(1 << i % 8);
            kit_feed(w.ends.client, b.p, b.n);
            got = psocket_recv(w.ends.client->s, &data);
            memset(&e, 0, sizeof e);
            psocket_geterror(w.ends.client->s, &e);
            if (got == PSOCKET_WANT_READ) CHECK(i / 8 == 3 || i / 8 == 4); /* the length grew */
            else failed(1, got, got == PSOCKET_TLS_RECORD ? PSOCKET_TLS_RECORD : PSOCKET_TLS_PROTOCOL, e.tls_alert, "a bit");
            kit_wire_end(&w);
        }
    }
}

/* Headers that are refused before the rest has come. */
KIT_TEST(bad_headers, 60)
{
    static const struct { uint8_t p[5]; int code, alert; } bad[] = {
        {{23, 3, 3, 0x48, 0}, PSOCKET_TLS_PROTOCOL, 22},  {{23, 3, 3, 0xFF, 0xFF}, PSOCKET_TLS_PROTOCOL, 22},
        {{23, 3, 3, 0, 0}, PSOCKET_TLS_RECORD, 20},       {{23, 3, 3, 0, 15}, PSOCKET_TLS_RECORD, 20},
        {{24, 3, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 10},    {{19, 3, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 10},
        {{23, 2, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 70},    {{'H', 'T', 'T', 'P', '/'}, PSOCKET_TLS_PROTOCOL, 10}};
    const void *data;
    size_t i;
    int k;
    for (k = 0; k < 2; k++) {
        for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            REQUIRE(join(k));
            kit_feed(w.ends.client, bad[i].p, 5);
            failed(1, psocket_recv(w.ends.client->s, &data), bad[i].code, bad[i].alert, "header");
            kit_wire_end(&w);
        }
    }
}

KIT_TEST(alerts, 60)
{
    static const struct { uint8_t p[3]; size_t n; int code, alert; } refused[] = {
        {{2, 20, 0}, 3, PSOCKET_TLS_PROTOCOL, 50}, {{2, 20}, 1, PSOCKET_TLS_PROTOCOL, 50},
        {{0x42, 20}, 2, PSOCKET_TLS_PROTOCOL, 47}, {{0, 90}, 2, PSOCKET_TLS_PROTOCOL, 47}};
    psocket_error e = {0};
    size_t i;
    int level;
    REQUIRE(join(0));
    if (kit_version == 0x0303) { /* warnings do no harm */
        CHECK_INT(tell(1, 21, "\1\132", 2), PSOCKET_WANT_READ);
        CHECK_INT(kit_hear_alert(&w, 0), -1);
    }
    CHECK_INT(tell(1, 21, "\1\0", 2), PSOCKET_CLOSED);
    kit_wire_end(&w);
    for (level = 1; level <= 2; level++) { /* close_notify of either level */
        REQUIRE(join(0));
        CHECK_INT(tell(1, 21, level == 1 ? "\1\0" : "\2\0", 2), PSOCKET_CLOSED);
        kit_wire_end(&w);
        REQUIRE(join(0));
        if (level == 1) /* RFC 8446 5.4 has an alert of its own for one that is empty */
            failed(1, tell(1, 21, "", 0), PSOCKET_TLS_PROTOCOL, kit_version == 0x0304 ? 10 : 50, "an empty alert");
        kit_wire_end(&w);
        REQUIRE(join(0));
        if (level == 1 && kit_version == 0x0304) failed(1, tell(1, 21, "\1\24", 2), PSOCKET_TLS_PROTOCOL, 50, "a warning in TLS 1.3");
        if (level == 2) {
            CHECK_INT(tell(1, 21, "\2\24", 2), PSOCKET_TLS_ALERT);
            psocket_geterror(w.ends.client->s, &e);
            CHECK_INT(e.tls_alert, 20);
            CHECK(strstr(e.text, "bad_record_mac") != NULL);
            CHECK_INT(kit_hear_alert(&w, 0), -1); /* no answer */
        }
        kit_wire_end(&w);
    }
    for (i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        REQUIRE(join(0));
        /* RFC 8446 5.4: an empty one is unexpected */
        if (kit_version == 0x0303 || i < 3)
            failed(1, tell(1, 21, refused[i].p, refused[i].n), refused[i].code,
                   kit_version == 0x0304 && !refused[i].n ? 10 : refused[i].alert, "alert");
        kit_wire_end(&w);
    }
}

/* Records that bring nothing cannot go on for ever; data in between makes it well. */
KIT_TEST(records_without_data_are_limited, 60)
{
    ptrdiff_t n = 0;
    int i, kind;
    for (kind = 0; kind < 2; kind++) {
        if (kind && kit_version == 0x0304) continue; /* no warnings */
        REQUIRE(join(0));
        for (i = 0; i < 100; i++) {
            CHECK_INT(tell(1, kind ? 21 : 23, "\1\132", kind ? 2 : 0), PSOCKET_WANT_READ);
            CHECK_INT(tell(1, 23, "x", 1), 1);
        }
        for (i = 0; i < 100 && (n = tell(1, kind ? 21 : 23, "\1\132", kind ? 2 : 0)) == PSOCKET_WANT_READ; i++) continue;
        CHECK_INT(i, kind ? 4 : 32); /* as BoringSSL's protocol tests ask */
        failed(1, n, PSOCKET_TLS_PROTOCOL, 10, "nothing");
        kit_wire_end(&w);
    }
}

/* Renegotiation is declined, whole or in pieces, and the connection goes on. */
TEST_LIMIT(renegotiation_is_refused, 60)
{
    static const uint8_t two[] = {0, 0, 0, 0, 0, 0, 0, 0};
    static const struct { int dir, type; uint8_t p[6]; size_t n; } refused[] = {
        {1, 22, {0, 0, 0, 1, 0}, 5}, {1, 22, {20, 0, 0, 0}, 4}, {1, 20, {1}, 1}, {0, 22, {1, 2, 0, 0}, 4}, {1, 22, {4, 0, 0, 0}, 4}};
    uint8_t hello[304] = {1, 0, 1, 44};
    size_t i;
    psocket_error e;
    kit_version = 0x0303;
    REQUIRE(join(0));
    CHECK_INT(tell(1, 22, two, 4), PSOCKET_WANT_READ);
    CHECK_INT(kit_hear_alert(&w, 0), 256 + 100);
    CHECK_INT(tell(1, 22, two, 8), PSOCKET_WANT_READ);
    CHECK_INT(kit_hear_alert(&w, 0), 256 + 100);
    CHECK_INT(tell(1, 23, "me too", 6), 6);
    kit_wire_end(&w);
    REQUIRE(join(0));
    CHECK_INT(tell(0, 22, hello, 304), PSOCKET_WANT_READ); /* whole */
    CHECK_INT(kit_hear_alert(&w, 1), 256 + 100);
    CHECK_INT(tell(0, 22, hello, 100), PSOCKET_WANT_READ); /* in three records */
    CHECK_INT(tell(0, 22, hello + 100, 200), PSOCKET_WANT_READ);
    CHECK_INT(tell(0, 22, hello + 300, 4), PSOCKET_WANT_READ);
    CHECK_INT(kit_hear_alert(&w, 1), 256 + 100);
    CHECK_INT(tell(0, 23, "still here", 10), 10);
    kit_wire_end(&w);
    for (i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        ptrdiff_t n;
        REQUIRE(join(0));
        n = tell(refused[i].dir, refused[i].type, refused[i].p, refused[i].n);
        memset(&e, 0, sizeof e);
        psocket_geterror(kit_sender(&w, !refused[i].dir)->s, &e);
        CHECK_INT(n, PSOCKET_TLS_PROTOCOL);
        CHECK(e.tls_alert == 10 || e.tls_alert == 50 || e.tls_alert == 47);
        kit_wire_end(&w);
    }
}

/* A HelloRequest in two records is declined like a whole one. */
TEST(half_hello_requests)
{
    kit_version = 0x0303;
    REQUIRE(join(0));
    CHECK_INT(tell(1, 22, "\0\0\0", 3), PSOCKET_WANT_READ);
    CHECK_INT(tell(1, 22, "\0", 1), PSOCKET_WANT_READ);
    CHECK_INT(kit_hear_alert(&w, 0), 256 + 100);
    CHECK_INT(tell(1, 23, "on", 2), 2);
    kit_wire_end(&w);
}
