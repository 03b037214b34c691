/* The record layer after the handshake. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static psi_rec *client, *server;

/* Two joined record layers, with AES-GCM or ChaCha20-Poly1305. */
static int join(int chacha)
{
    psocket_tls *c = pipe_client(), *s = pipe_server("ec");
    psi_tlsinfo *ci = NULL, *si = NULL;
    pipe_ends p;
    size_t i;
    if (!c || !s) return 0;
    for (i = 0; i < PSI_TLS_SUITES; i++)
        c->prim.suites[i] = (uint16_t)(chacha ? BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                                              : BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
    pipe_shake(&p, c, s, "localhost", 10000);
    if (p.client_status || p.server_status) return 0;
    CHECK_INT(psi_hs_finish(p.client, &client, &ci), 0);
    CHECK_INT(psi_hs_finish(p.server, &server, &si), 0);
    psi_tlsinfo_free(ci);
    psi_tlsinfo_free(si);
    pipe_end(&p);
    psocket_tls_free(c);
    psocket_tls_free(s);
    return client && server;
}

static void part(void)
{
    psi_rec_free(client);
    psi_rec_free(server);
    client = server = NULL;
}

/* A sealed record in b. */
static void seal(psi_rec *r, int type, const void *p, size_t n, pipe_bytes *b)
{
    static uint8_t room[20000];
    uint8_t *q = room + PSI_REC_HEAD;
    if (n) memcpy(q, p, n);
    q = psi_rec_seal(r, type, q, &n);
    CHECK(q >= room && n <= sizeof room);
    b->n = 0;
    pipe_put(b, q, n);
}

/* Opens one record in memory of exactly its size. */
static int open_exactly(psi_rec *r, const pipe_bytes *b, psi_rec_in *in, psocket_error *e, pipe_bytes *plain)
{
    uint8_t *copy = (uint8_t *)malloc(b->n ? b->n : 1);
    int result;
    memcpy(copy, b->p, b->n);
    result = psi_rec_open(r, copy, b->n, in, e);
    if (result == PSI_REC_DATA) {
        CHECK(in->data >= copy + 5);
        CHECK(in->data + in->len <= copy + b->n);
        plain->n = 0;
        pipe_put(plain, in->data, in->len);
    }
    free(copy);
    return result;
}

TEST(every_length_comes_through)
{
    static uint8_t text[16384];
    static const size_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 255, 256, 1000, 4096, 16383, 16384};
    psi_rec_in in;
    psocket_error e = {0};
    pipe_bytes b, plain;
    size_t i;
    int k;
    for (i = 0; i < sizeof text; i++) text[i] = (uint8_t)(i * 7);
    for (k = 0; k < 2; k++) {
        REQUIRE(join(k));
        for (i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            seal(i % 2 ? client : server, PSI_REC_APPDATA, text, lengths[i], &b);
            REQUIRE(open_exactly(i % 2 ? server : client, &b, &in, &e, &plain) == PSI_REC_DATA);
            CHECK_INT(in.used, b.n);
            CHECK_INT(in.len, lengths[i]);
            CHECK_MEM(plain.p, text, lengths[i]);
        }
        part();
    }
}

TEST(incomplete_records_wait)
{
    psi_rec_in in;
    psocket_error e = {0};
    pipe_bytes b, c, plain;
    size_t i;
    REQUIRE(join(0));
    seal(client, PSI_REC_APPDATA, "hello", 5, &b);
    for (i = 0; i < b.n; i++) {
        c = b;
        c.n = i;
        CHECK_INT(open_exactly(server, &c, &in, &e, &plain), PSI_REC_MORE);
        CHECK_INT(in.used, i < 5 ? 5 : b.n);
    }
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_DATA);
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSOCKET_TLS_RECORD); /* replayed */
    part();
}

TEST(every_bit_counts)
{
    psi_rec_in in;
    psocket_error e;
    pipe_bytes b, c, plain;
    size_t i;
    int k;
    for (k = 0; k < 2; k++) {
        REQUIRE(join(k));
        seal(client, PSI_REC_APPDATA, "hello", 5, &b);
        for (i = 0; i < b.n * 8; i++) {
            uint8_t saved[1024];
            int result;
            REQUIRE(server->size <= sizeof saved);
            memcpy(saved, server, server->size);
            memset(&e, 0, sizeof e);
            c = b;
            c.p[i / 8] ^= (uint8_t)(1 << i % 8);
            result = open_exactly(server, &c, &in, &e, &plain);
            memcpy(server, saved, server->size);
            if (result == PSI_REC_MORE) { /* the length grew */
                CHECK(i / 8 == 3 || i / 8 == 4);
                continue;
            }
            CHECK(result == PSOCKET_TLS_RECORD || result == PSOCKET_TLS_PROTOCOL);
            CHECK_INT(e.code, result);
            CHECK_INT(in.alert_level, 2);
            CHECK_INT(e.tls_alert, in.alert);
            CHECK(e.text[0]);
        }
        CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_DATA);
        part();
    }
}

TEST(bad_headers)
{
    static const struct { uint8_t p[5]; int code, alert; } bad[] = {
        {{23, 3, 3, 0x48, 0}, PSOCKET_TLS_PROTOCOL, 22},  {{23, 3, 3, 0xFF, 0xFF}, PSOCKET_TLS_PROTOCOL, 22},
        {{23, 3, 3, 0, 0}, PSOCKET_TLS_RECORD, 20},       {{23, 3, 3, 0, 15}, PSOCKET_TLS_RECORD, 20},
        {{24, 3, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 10},    {{19, 3, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 10},
        {{23, 3, 1, 0, 50}, PSOCKET_TLS_PROTOCOL, 70},    {{23, 2, 3, 0, 50}, PSOCKET_TLS_PROTOCOL, 70},
        {{'H', 'T', 'T', 'P', '/'}, PSOCKET_TLS_PROTOCOL, 10}};
    psi_rec_in in;
    psocket_error e;
    size_t i;
    int k;
    for (k = 0; k < 2; k++) {
        REQUIRE(join(k));
        for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            uint8_t copy[5];
            memcpy(copy, bad[i].p, 5);
            memset(&e, 0, sizeof e);
            CHECK_INT(psi_rec_open(client, copy, 5, &in, &e), bad[i].code);
            CHECK_INT(in.alert, bad[i].alert);
            CHECK_INT(in.alert_level, 2);
        }
        part();
    }
}

TEST(alerts)
{
    static const uint8_t close[] = {1, 0}, fatal_close[] = {2, 0}, fatal[] = {2, 20}, warning[] = {1, 90}, odd[] = {2, 20, 0};
    psi_rec_in in;
    psocket_error e = {0};
    pipe_bytes b, plain;
    REQUIRE(join(0));
    seal(server, PSI_REC_ALERT, warning, 2, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_SKIP);
    CHECK_INT(in.alert_level, 0);
    seal(server, PSI_REC_ALERT, close, 2, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_END);
    CHECK_INT(in.used, b.n);
    seal(server, PSI_REC_ALERT, fatal_close, 2, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_END);
    seal(server, PSI_REC_ALERT, fatal, 2, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_ALERT);
    CHECK_INT(e.tls_alert, 20);
    CHECK(strstr(e.text, "bad_record_mac") != NULL);
    CHECK_INT(in.alert_level, 0); /* no answer */
    seal(server, PSI_REC_ALERT, odd, 3, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(in.alert, 50);
    seal(server, PSI_REC_ALERT, odd, 0, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    part();
}

TEST(records_without_data_are_limited)
{
    static const uint8_t warning[] = {1, 90};
    psi_rec_in in;
    psocket_error e = {0};
    pipe_bytes b, plain;
    int i, kind;
    REQUIRE(join(0));
    for (kind = 0; kind < 2; kind++) {
        for (i = 0; i < 2 * PSI_REC_QUIET; i++) { /* data in between makes it well */
            seal(server, kind ? PSI_REC_ALERT : PSI_REC_APPDATA, warning, kind ? 2 : 0, &b);
            CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_SKIP);
            seal(server, PSI_REC_APPDATA, "x", 1, &b);
            CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_DATA);
        }
    }
    for (i = 0; i < PSI_REC_QUIET; i++) {
        seal(server, i % 2 ? PSI_REC_ALERT : PSI_REC_APPDATA, warning, i % 2 ? 2 : 0, &b);
        CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_SKIP);
    }
    seal(server, PSI_REC_APPDATA, NULL, 0, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(in.alert, 10);
    part();
}

TEST(renegotiation_is_refused)
{
    static const uint8_t request[] = {0, 0, 0, 0}, two[] = {0, 0, 0, 0, 0, 0, 0, 0}, longer[] = {0, 0, 0, 1, 0}, cut[] = {0, 0, 0};
    static const uint8_t finished[] = {20, 0, 0, 12}, huge[] = {1, 0, 0x40, 1};
    uint8_t hello[304] = {1, 0, 1, 44};
    psi_rec_in in;
    psocket_error e = {0};
    pipe_bytes b, plain;
    REQUIRE(join(0));
    seal(server, PSI_REC_HANDSHAKE, request, 4, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_SKIP);
    CHECK_INT(in.alert_level * 256 + in.alert, 256 + 100);
    seal(server, PSI_REC_HANDSHAKE, two, 8, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSI_REC_SKIP);
    seal(client, PSI_REC_HANDSHAKE, hello, 304, &b); /* whole */
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_SKIP);
    CHECK_INT(in.alert_level * 256 + in.alert, 256 + 100);
    seal(client, PSI_REC_HANDSHAKE, hello, 100, &b); /* in three records, with data in between */
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_SKIP);
    CHECK_INT(in.alert_level, 1);
    seal(client, PSI_REC_APPDATA, "x", 1, &b);
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_DATA);
    seal(client, PSI_REC_HANDSHAKE, hello + 100, 200, &b);
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_SKIP);
    CHECK_INT(in.alert_level, 0);
    seal(client, PSI_REC_HANDSHAKE, hello + 300, 4, &b);
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSI_REC_SKIP);
    seal(client, PSI_REC_HANDSHAKE, huge, 4, &b);
    CHECK_INT(open_exactly(server, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    part();
    REQUIRE(join(0));
    seal(server, PSI_REC_HANDSHAKE, longer, 5, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(in.alert, 10);
    seal(server, PSI_REC_HANDSHAKE, cut, 3, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    seal(server, PSI_REC_HANDSHAKE, finished, 4, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    seal(server, PSI_REC_CCS, "\1", 1, &b);
    CHECK_INT(open_exactly(client, &b, &in, &e, &plain), PSOCKET_TLS_PROTOCOL);
    part();
}
