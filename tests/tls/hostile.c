/* Peers that break the protocol: whatever they send ends with an error and an alert, and never with a hang. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

/* One handshake with the flights it consists of: 0 ClientHello, 1 ServerHello..ServerHelloDone, 2 ClientKeyExchange..
   Finished, 3 the server's Finished. */
typedef struct stage {
    psocket_tls *client_tls, *server_tls;
    psi_hs *client, *server;
    pipe_state client_state, server_state; /* before the flight arrives */
    pipe_bytes flight;                     /* taken from its sender */
} stage;

static stage st;

enum { MUTUAL = 1, RESUMED = 2, CHACHA = 4 };

/* Goes to where flight number k has been sent and nothing of it received. A resumed handshake's flights are 0 ClientHello,
   1 ServerHello..Finished, 2 the client's Finished. 0 on failure. */
static int stage_begin(int k, int how)
{
    int mutual = how & MUTUAL;
    pipe_settings s;
    psocket_error e = {0};
    memset(&st, 0, sizeof st);
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    if (mutual) pipe_identity(&s, "client.pem", "client.key");
    st.client_tls = pipe_make(&s);
    pipe_done(&s);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, "ec.pem", "ec.key");
    if (mutual) s.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    if (how & CHACHA) s.opt.suites = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    st.server_tls = pipe_make(&s);
    pipe_done(&s);
    if (st.client_tls && st.server_tls && how & RESUMED)
        pipe_good(st.client_tls, st.server_tls, "localhost", 100000, NULL, NULL);
    if (!st.client_tls || !st.server_tls || psi_hs_new(&st.client, st.client_tls, 0, "localhost", 0, &e) ||
        psi_hs_new(&st.server, st.server_tls, 1, NULL, 0, &e)) {
        check_fail(__FILE__, __LINE__, "no handshake: %s", e.text);
        return 0;
    }
    pipe_take(st.client, &st.flight);
    while (k--) {
        psi_hs *to = st.flight.p[5] == 1 || st.flight.p[5] == 16 || st.flight.p[5] == 11 ? st.server : st.client;
        pipe_feed(to, st.flight.p, st.flight.n);
        pipe_take(to, &st.flight);
    }
    pipe_save(st.client, &st.client_state);
    pipe_save(st.server, &st.server_state);
    return 1;
}

static psi_hs *stage_receiver(int k)
{
    return k % 2 ? st.client : st.server;
}

static void stage_again(void)
{
    pipe_restore(st.client, &st.client_state);
    pipe_restore(st.server, &st.server_state);
}

static void stage_end(void)
{
    psi_hs_free(st.client);
    psi_hs_free(st.server);
    psocket_tls_free(st.client_tls);
    psocket_tls_free(st.server_tls);
}

/* Flips every byte of a flight in turn and lets both go on. */
static void flip_every_byte(int k, uint8_t mask, int how)
{
    size_t i, waiting = 0;
    int last = how & RESUMED ? 2 : 3; /* its sender is done */
    REQUIRE(stage_begin(k, how));
    CHECK_INT(st.client->offered.session_id_len, how & RESUMED ? 32 : 0);
    for (i = 0; i < st.flight.n; i++) {
        psocket_error ce = {0}, se = {0};
        int c, s;
        pipe_bytes b;
        stage_again();
        b = st.flight;
        b.p[i] ^= mask;
        pipe_feed(stage_receiver(k), b.p, b.n);
        pipe_run(st.client, st.server, 100000);
        c = psi_hs_status(st.client, &ce);
        s = psi_hs_status(st.server, &se);
        if (c == 0 && s == 0) { /* the version of the first record does not count (RFC 5246 E.1) */
            if (k != 0 || i != 2) check_fail(__FILE__, __LINE__, "flight %d byte %lu does not matter", k, (unsigned long)i);
        } else if (c == PSOCKET_WANT_READ && s == PSOCKET_WANT_READ) {
            waiting++; /* a length grew: one waits for the rest */
        } else if (c >= PSOCKET_WANT_READ && s >= PSOCKET_WANT_READ) {
            if (k != last) check_fail(__FILE__, __LINE__, "flight %d byte %lu: %d %d", k, (unsigned long)i, c, s);
        } else if (c >= PSOCKET_WANT_READ || s >= PSOCKET_WANT_READ) {
            /* one failed and the other did not hear of it: only one that is done already */
            if (k != last || (c != 0 && s != 0)) check_fail(__FILE__, __LINE__, "flight %d byte %lu: %d %d %s%s", k, (unsigned long)i, c, s, ce.text, se.text);
        }
        if (c < PSOCKET_WANT_READ && (!ce.text[0] || ce.tls_alert < 0)) check_fail(__FILE__, __LINE__, "flight %d byte %lu: client says nothing", k, (unsigned long)i);
        if (s < PSOCKET_WANT_READ && (!se.text[0] || se.tls_alert < 0)) check_fail(__FILE__, __LINE__, "flight %d byte %lu: server says nothing", k, (unsigned long)i);
    }
    stage_again();
    CHECK(waiting < 24);
    stage_end();
}

TEST_LIMIT(every_byte_of_the_client_hello, 60) { flip_every_byte(0, 0xFF, 0); }
TEST_LIMIT(every_byte_of_the_server_flight, 120) { flip_every_byte(1, 0xFF, 0); }
TEST_LIMIT(every_byte_of_the_client_finished, 60) { flip_every_byte(2, 0xFF, 0); }
TEST_LIMIT(every_byte_of_the_server_finished, 60) { flip_every_byte(3, 0xFF, 0); }
TEST_LIMIT(low_bits_of_the_client_hello, 60) { flip_every_byte(0, 1, 0); }
TEST_LIMIT(low_bits_of_the_client_finished, 60) { flip_every_byte(2, 1, 0); }
TEST_LIMIT(every_byte_of_a_client_certificate, 120) { flip_every_byte(2, 1, MUTUAL); }
TEST_LIMIT(every_byte_of_chacha_finished, 60) { flip_every_byte(2, 1, CHACHA); flip_every_byte(3, 1, CHACHA); }

TEST_LIMIT(every_byte_of_a_resumed_handshake, 120)
{
    int k;
    for (k = 0; k < 3; k++) {
        flip_every_byte(k, 0xFF, RESUMED);
        flip_every_byte(k, 1, RESUMED);
        flip_every_byte(k, 0x80, RESUMED | CHACHA);
    }
}

/* A flight cut off anywhere: the receiver waits, and goes on when the rest comes. */
static void cut_everywhere(int k, int how)
{
    size_t i;
    REQUIRE(stage_begin(k, how));
    for (i = 0; i <= st.flight.n; i++) {
        psi_hs *h;
        stage_again();
        h = stage_receiver(k);
        CHECK_INT(pipe_feed(h, st.flight.p, i), i);
        if (i < st.flight.n) CHECK_INT(psi_hs_status(h, NULL), PSOCKET_WANT_READ);
        if (i % 16 && i != st.flight.n) continue;
        CHECK_INT(pipe_feed(h, st.flight.p + i, st.flight.n - i), st.flight.n - i);
        pipe_run(st.client, st.server, 100000);
        CHECK_INT(psi_hs_status(st.client, NULL), 0);
        CHECK_INT(psi_hs_status(st.server, NULL), 0);
    }
    stage_again();
    stage_end();
}

TEST_LIMIT(cut_client_hello, 60) { cut_everywhere(0, 0); }
TEST_LIMIT(cut_server_flight, 120) { cut_everywhere(1, 0); }
TEST_LIMIT(cut_client_finished, 60) { cut_everywhere(2, 0); }
TEST_LIMIT(cut_server_finished, 60) { cut_everywhere(3, 0); }
TEST_LIMIT(cut_resumed_handshake, 60)
{
    int k;
    for (k = 0; k < 3; k++) cut_everywhere(k, RESUMED);
}

/* Lets the receiver have the plaintext messages m, in records of first bytes and then of most bytes, and the rest of the
   flight. Both must succeed, for records are none of the messages' business (RFC 5246 6.2.1). */
static void records_of(int k, const pipe_bytes *m, size_t rest, size_t first, size_t most)
{
    psocket_error ce = {0}, se = {0};
    pipe_bytes b;
    size_t i, n;
    stage_again();
    for (i = 0; i < m->n; i += n) {
        n = i ? most : first;
        if (n > m->n - i) n = m->n - i;
        b.n = 0;
        pipe_record(&b, 22, m->p + i, n);
        pipe_feed(stage_receiver(k), b.p, b.n);
    }
    pipe_feed(stage_receiver(k), st.flight.p + rest, st.flight.n - rest);
    pipe_run(st.client, st.server, 100000);
    if (psi_hs_status(st.client, &ce) || psi_hs_status(st.server, &se))
        check_fail(__FILE__, __LINE__, "flight %d, records of %lu and %lu: %s%s", k, (unsigned long)first, (unsigned long)most,
                   ce.text, se.text);
}

static void cut_records(int k, int how)
{
    pipe_bytes m;
    size_t i, at, rest;
    REQUIRE(stage_begin(k, how));
    pipe_messages(&st.flight, &m, &rest);
    CHECK(m.n > 0);
    for (i = 1; i < 4; i++) records_of(k, &m, rest, i, i);
    for (i = 4; i < 600; i = i * 3 / 2) records_of(k, &m, rest, i, i);
    records_of(k, &m, rest, m.n, m.n); /* all in one */
    for (i = 0; pipe_message(&m, (int)i, &at); i++) /* around each message's header */
        for (; at && at % 16 < 8; at++) records_of(k, &m, rest, at, m.n);
    for (i = 1; i < (m.n < 300 ? m.n : 300); i += 1) records_of(k, &m, rest, i, m.n);
    stage_again();
    stage_end();
}

TEST_LIMIT(client_hello_in_other_records, 60) { cut_records(0, 0); }
TEST_LIMIT(server_flight_in_other_records, 120) { cut_records(1, 0); }
TEST_LIMIT(client_flight_in_other_records, 120) { cut_records(2, 0); }
TEST_LIMIT(server_flight_with_request_in_other_records, 120) { cut_records(1, MUTUAL); }
TEST_LIMIT(client_flight_with_certificate_in_other_records, 120) { cut_records(2, MUTUAL); }
TEST_LIMIT(resumed_flights_in_other_records, 60) { cut_records(0, RESUMED); cut_records(1, RESUMED); }

/* Feeds a changed sequence of messages, then the rest of the flight. */
static void expect_refusal(int k, const pipe_bytes *m, size_t rest, const char *what, int message)
{
    psi_hs *h;
    psocket_error e = {0};
    pipe_bytes b, out;
    size_t i, max = 16384;
    int status;
    stage_again();
    h = stage_receiver(k);
    b.n = 0;
    for (i = 0; i < m->n; i += max) pipe_record(&b, 22, m->p + i, m->n - i < max ? m->n - i : max);
    pipe_put(&b, st.flight.p + rest, st.flight.n - rest);
    pipe_feed(h, b.p, b.n);
    status = psi_hs_status(h, &e);
    pipe_take(h, &out);
    if (status >= PSOCKET_WANT_READ) check_fail(__FILE__, __LINE__, "flight %d message %d %s: status %d", k, message, what, status);
    else if (e.tls_alert <= 0 || !e.text[0] || !out.n) check_fail(__FILE__, __LINE__, "flight %d message %d %s: %d, alert %d, %lu bytes, %s", k, message, what, status, e.tls_alert, (unsigned long)out.n, e.text);
}

/* Every message of a flight shortened, lengthened, emptied, repeated, left out, exchanged with the next. */
static void break_messages(int k, int mutual)
{
    pipe_bytes all, m;
    size_t rest, at, len, next_at, next_len;
    int i;
    REQUIRE(stage_begin(k, mutual));
    pipe_messages(&st.flight, &all, &rest);
    for (i = 0; (len = pipe_message(&all, i, &at)) != 0; i++) {
        if (len > 4) {
            m.n = 0; /* one byte less */
            pipe_put(&m, all.p, at + len - 1);
            m.p[at + 3]--;
            if (m.p[at + 3] == 255 && m.p[at + 2]--  == 0) m.p[at + 1]--;
            pipe_put(&m, all.p + at + len, all.n - at - len);
            expect_refusal(k, &m, rest, "shortened", i);
            m.n = 0; /* nothing */
            pipe_put(&m, all.p, at + 1);
            pipe_number(&m, 0, 3);
            pipe_put(&m, all.p + at + len, all.n - at - len);
            expect_refusal(k, &m, rest, "emptied", i);
        }
        m.n = 0; /* one byte more */
        pipe_put(&m, all.p, at + 1);
        pipe_number(&m, len - 4 + 1, 3);
        pipe_put(&m, all.p + at + 4, len - 4);
        pipe_number(&m, 0, 1);
        pipe_put(&m, all.p + at + len, all.n - at - len);
        expect_refusal(k, &m, rest, "lengthened", i);
        m.n = 0; /* twice */
        pipe_put(&m, all.p, at + len);
        pipe_put(&m, all.p + at, all.n - at);
        expect_refusal(k, &m, rest, "repeated", i);
        m.n = 0; /* not at all */
        pipe_put(&m, all.p, at);
        pipe_put(&m, all.p + at + len, all.n - at - len);
        /* Without the last one the receiver waits; a missing request comes out with Finished. */
        if (at + len < all.n ? all.p[at] != 13 : rest < st.flight.n) expect_refusal(k, &m, rest, "left out", i);
        m.n = 0; /* a length of 16 MB */
        pipe_put(&m, all.p, at + 1);
        pipe_number(&m, 0xFFFFFF, 3);
        pipe_put(&m, all.p + at + 4, all.n - at - 4);
        expect_refusal(k, &m, rest, "said to be of 16 MB", i);
        m.n = 0; /* of unknown type */
        pipe_put(&m, all.p, all.n);
        m.p[at] = 99;
        expect_refusal(k, &m, rest, "of unknown type", i);
        next_len = pipe_message(&all, i + 1, &next_at);
        if (!next_len) continue;
        m.n = 0;
        pipe_put(&m, all.p, at);
        pipe_put(&m, all.p + next_at, next_len);
        pipe_put(&m, all.p + at, len);
        pipe_put(&m, all.p + next_at + next_len, all.n - next_at - next_len);
        expect_refusal(k, &m, rest, "exchanged with the next", i);
    }
    CHECK(i > 0);
    stage_again();
    stage_end();
}

TEST_LIMIT(broken_client_hello, 60) { break_messages(0, 0); }
TEST_LIMIT(broken_server_flight, 60) { break_messages(1, 0); }
TEST_LIMIT(broken_client_flight, 60) { break_messages(2, 0); }
TEST_LIMIT(broken_server_flight_with_request, 60) { break_messages(1, 1); }
TEST_LIMIT(broken_client_flight_with_certificate, 60) { break_messages(2, 1); }

/* Records that bring nothing, at every stage of both sides. */
TEST_LIMIT(endless_nothing, 60)
{
    static const uint8_t warning[] = {1, 112}, more_warning[] = {1, 90};
    int k, kind, n;
    for (k = 0; k < 4; k++) {
        REQUIRE(stage_begin(k, 0));
        for (kind = 0; kind < 4; kind++) {
            pipe_bytes b;
            psi_hs *h;
            stage_again();
            h = stage_receiver(k);
            b.n = 0;
            if (kind == 0) pipe_record(&b, 22, NULL, 0);
            if (kind == 1) pipe_record(&b, 21, warning, 2);
            if (kind == 2) pipe_record(&b, 21, more_warning, 2);
            if (kind == 3) pipe_record(&b, 20, NULL, 0);
            for (n = 0; n < 1000 && psi_hs_status(h, NULL) == PSOCKET_WANT_READ; n++) pipe_feed(h, b.p, b.n);
            CHECK_INT(n, PSI_REC_QUIET + 1);
            if (k < 3) {
                pipe_failed(h, PSOCKET_TLS_PROTOCOL, 10, "endless nothing");
            } else { /* the alert is encrypted */
                CHECK_INT(psi_hs_status(h, NULL), PSOCKET_TLS_PROTOCOL);
                pipe_take(h, &b);
                CHECK_INT(b.n, 5 + 2 + (h->u.eng.out.vtable->context_size == sizeof(br_sslrec_gcm_context) ? 24 : 16));
            }
            stage_again(); /* some of them do no harm */
            b.n = 0;
            pipe_record(&b, kind == 0 ? 22 : kind == 3 ? 20 : 21, kind == 1 ? warning : more_warning, kind == 1 || kind == 2 ? 2 : 0);
            for (n = 0; n < PSI_REC_QUIET; n++) pipe_feed(h, b.p, b.n);
            pipe_feed(h, st.flight.p, st.flight.n);
            pipe_run(st.client, st.server, 100000);
            CHECK_INT(psi_hs_status(h, NULL), 0);
        }
        stage_again();
        stage_end();
    }
}

/* HelloRequests within a handshake: BearSSL skips any number of them, a byte at a time, and hashes them, which nobody else
   does (RFC 5246 7.4.1.1), so that the handshake fails in the end. */
TEST(hello_requests)
{
    int k;
    for (k = 1; k < 3; k++) {
        pipe_bytes b, m;
        size_t at, len;
        REQUIRE(stage_begin(k, 0));
        stage_again();
        b.n = 0;
        pipe_messages(&st.flight, &m, NULL);
        len = pipe_message(&m, 0, &at);
        if (k == 1) pipe_record(&b, 22, m.p, len); /* ServerHello */
        pipe_record(&b, 22, "\0\0\0\0", 4);
        pipe_feed(stage_receiver(k), b.p, b.n);
        pipe_failed(stage_receiver(k), PSOCKET_TLS_PROTOCOL, 10, "HelloRequest");
        stage_again();
        stage_end();
    }
}

/* Headers of records that must be refused at once, before their bodies come. */
TEST_LIMIT(bad_record_headers, 60)
{
    static const struct { uint8_t p[5]; int alert; } bad[] = {
        {{23, 3, 3, 0, 5}, 10},      /* data too early */
        {{19, 3, 3, 0, 5}, 10},      /* unknown types */
        {{24, 3, 3, 0, 5}, 10},
        {{0, 3, 3, 0, 5}, 10},
        {{'G', 'E', 'T', ' ', '/'}, 10},
        {{'H', 'T', 'T', 'P', '/'}, 10},
        {{0x80, 0x2e, 1, 3, 1}, 10}, /* SSL 2.0 */
        {{22, 2, 0, 0, 5}, 70},      /* unknown version */
        {{22, 4, 0, 0, 5}, 70},
        {{22, 3, 3, 0x40, 1}, 22},   /* 16385 bytes */
        {{22, 3, 3, 0xFF, 0xFF}, 22},
        {{21, 3, 3, 0x40, 1}, 22},
    };
    size_t i;
    int k;
    for (k = 0; k < 3; k++) {
        REQUIRE(stage_begin(k, 0));
        for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            psi_hs *h;
            stage_again();
            h = stage_receiver(k);
            CHECK_INT(pipe_feed(h, bad[i].p, 5), 5);
            pipe_failed(h, PSOCKET_TLS_PROTOCOL, bad[i].alert, "header");
            CHECK_INT(pipe_feed(h, bad[i].p, 5), 0); /* nothing more is taken */
        }
        stage_again();
        stage_end();
    }
}

/* Plaintext alerts are named. */
TEST_LIMIT(received_alerts, 60)
{
    int k, n;
    for (k = 0; k < 3; k++) {
        REQUIRE(stage_begin(k, 0));
        for (n = 0; n < 256; n++) {
            uint8_t alert[2] = {2, 0};
            psocket_error e = {0};
            pipe_bytes b;
            psi_hs *h;
            stage_again();
            h = stage_receiver(k);
            alert[1] = (uint8_t)n;
            b.n = 0;
            pipe_record(&b, 21, alert, 2);
            pipe_feed(h, b.p, b.n);
            CHECK_INT(psi_hs_status(h, &e), n == 70 ? PSOCKET_TLS_VERSION : n == 120 ? PSOCKET_TLS_ALPN : PSOCKET_TLS_ALERT);
            CHECK_INT(e.tls_alert, n);
            if (n) CHECK(strstr(e.text, psi_rec_alert_name(n)) != NULL);
            if (n == 70 && k == 1) CHECK(strstr(e.text, "the server probably accepts TLS 1.3 only") != NULL);
            pipe_take(h, &b);
            CHECK_INT(b.n, n ? 0 : 7); /* close_notify is answered, other alerts are not */
        }
        {   /* malformed ones */
            static const struct { uint8_t p[3]; size_t n; } odd[] = {{{2, 40, 0}, 3}, {{2, 0, 0}, 1}, {{0, 40, 0}, 2}, {{3, 40, 0}, 2}};
            for (n = 0; n < 4; n++) {
                pipe_bytes b;
                psi_hs *h;
                stage_again();
                h = stage_receiver(k);
                b.n = 0;
                pipe_record(&b, 21, odd[n].p, odd[n].n);
                pipe_feed(h, b.p, b.n);
                pipe_failed(h, PSOCKET_TLS_PROTOCOL, 50, "malformed alert");
            }
        }
        stage_again();
        stage_end();
    }
}

/* The Finished of from, as a record with extra bytes behind it or as two records. */
static void make_finished(psi_hs *from, int server, pipe_bytes *b, size_t extra, size_t split)
{
    br_ssl_engine_context *eng = &from->u.eng;
    uint8_t plain[64] = {20, 0, 0, 12}, buf[128];
    br_sslrec_gcm_context gcm;
    size_t at = 0, total = 16 + extra;
    memcpy(plain + 4, eng->saved_finished + (server ? 12 : 0), 12);
    gcm = eng->out.gcm;
    gcm.seq = 0;
    while (at < total) {
        size_t n = at == 0 && split ? split : total - at;
        uint8_t *p;
        memcpy(buf + 32, plain + at, n);
        at += n;
        p = gcm.vtable.out->inner.encrypt((const br_sslrec_out_class **)(void *)&gcm.vtable.out, 22, 0x0303, buf + 32, &n);
        pipe_put(b, p, n);
    }
}

/* BEARSSL.md "Endless loop": handshake bytes behind Finished. And what is allowed: Finished in two records. */
TEST(bytes_behind_finished)
{
    size_t extra, split;
    int k;
    for (k = 2; k < 4; k++) {
        psi_hs *from, *to;
        pipe_bytes b, head;
        REQUIRE(stage_begin(k, 0));
        if (st.client->u.eng.session.cipher_suite != BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256) {
            stage_end();
            SKIP("no AES-GCM on this CPU");
        }
        to = stage_receiver(k);
        from = k == 2 ? st.client : st.server;
        head = st.flight;
        head.n -= 5 + 40;
        for (extra = 0; extra < 20; extra++) {
            stage_again();
            b = head;
            make_finished(from, k == 3, &b, extra, 0);
            CHECK_INT(pipe_feed(to, b.p, b.n), b.n);
            if (extra) {
                psocket_error e = {0};
                CHECK_INT(psi_hs_status(to, &e), PSOCKET_TLS_PROTOCOL);
                CHECK_INT(e.tls_alert, 10);
                CHECK(to->out_len > 0);
            } else {
                pipe_run(st.client, st.server, 100000);
                CHECK_INT(psi_hs_status(st.client, NULL), 0);
                CHECK_INT(psi_hs_status(st.server, NULL), 0);
            }
        }
        for (split = 1; split < 16; split++) {
            stage_again();
            b = head;
            make_finished(from, k == 3, &b, 0, split);
            pipe_feed(to, b.p, b.n);
            pipe_run(st.client, st.server, 100000);
            CHECK_INT(psi_hs_status(st.client, NULL), 0);
            CHECK_INT(psi_hs_status(st.server, NULL), 0);
        }
        stage_again();
        stage_end();
    }
}

/* Application data right behind Finished belongs to the record layer. */
TEST(data_behind_finished)
{
    psi_rec *rec = NULL, *to = NULL;
    psi_tlsinfo *info = NULL, *info2 = NULL;
    psi_rec_in in;
    psocket_error e = {0};
    uint8_t buf[64];
    uint8_t *p;
    size_t n = 2, used;
    REQUIRE(stage_begin(3, 0)); /* the server is done */
    REQUIRE(psi_hs_status(st.server, NULL) == 0);
    CHECK_INT(psi_hs_finish(st.server, &rec, &info), 0);
    memcpy(buf + PSI_REC_HEAD, "hi", 2);
    p = psi_rec_seal(rec, PSI_REC_APPDATA, buf + PSI_REC_HEAD, &n);
    used = st.flight.n;
    pipe_put(&st.flight, p, n);
    CHECK_INT(pipe_feed(st.client, st.flight.p, st.flight.n), used);
    CHECK_INT(psi_hs_status(st.client, NULL), 0);
    CHECK_INT(psi_hs_finish(st.client, &to, &info2), 0);
    CHECK_INT(psi_rec_open(to, st.flight.p + used, n, &in, &e), PSI_REC_DATA);
    CHECK_INT(in.len, 2);
    psi_rec_free(rec);
    psi_rec_free(to);
    psi_tlsinfo_free(info);
    psi_tlsinfo_free(info2);
    stage_end();
}

/* A peer that sends megabytes of handshake. */
TEST_LIMIT(endless_certificates, 60)
{
    static uint8_t body[16384];
    pipe_bytes b, m;
    psocket_error e = {0};
    size_t at, len;
    int n;
    REQUIRE(stage_begin(1, 0));
    pipe_messages(&st.flight, &m, NULL);
    len = pipe_message(&m, 0, &at);
    b.n = 0;
    pipe_record(&b, 22, m.p, len); /* ServerHello, then 100 KB of one certificate in a Certificate message */
    pipe_feed(st.client, b.p, b.n);
    b.n = 0;
    m.n = 0;
    pipe_number(&m, 11, 1);
    pipe_number(&m, PSOCKET_CHAIN_BYTES + 4096, 3);
    pipe_number(&m, PSOCKET_CHAIN_BYTES + 4093, 3);
    pipe_number(&m, PSOCKET_CHAIN_BYTES + 4090, 3);
    pipe_record(&b, 22, m.p, m.n);
    pipe_feed(st.client, b.p, b.n);
    for (n = 0; n < 1000 && psi_hs_status(st.client, &e) == PSOCKET_WANT_READ; n++) {
        b.n = 0;
        pipe_record(&b, 22, body, sizeof body);
        pipe_feed(st.client, b.p, b.n);
    }
    CHECK(n < 100);
    CHECK_INT(psi_hs_status(st.client, &e), PSOCKET_CERT_LIMIT);
    CHECK_INT(e.tls_alert, 42);
    stage_end();
    REQUIRE(stage_begin(1, 0)); /* many tiny certificates */
    pipe_messages(&st.flight, &m, NULL);
    len = pipe_message(&m, 0, &at);
    b.n = 0;
    pipe_record(&b, 22, m.p, len);
    m.n = 0;
    pipe_number(&m, 11, 1);
    pipe_number(&m, 3 + 4000 * 5, 3);
    pipe_number(&m, 4000 * 5, 3);
    for (n = 0; n < 4000; n++) {
        pipe_number(&m, 2, 3);
        pipe_number(&m, 0x3000, 2);
    }
    pipe_record(&b, 22, m.p, 16000);
    pipe_record(&b, 22, m.p + 16000, m.n - 16000);
    pipe_feed(st.client, b.p, b.n);
    CHECK_INT(psi_hs_status(st.client, &e), PSOCKET_CERT_LIMIT);
    stage_end();
}

/* A client's hello in many records, and one that is too long. */
TEST(hello_across_records)
{
    pipe_bytes b, m;
    size_t i, piece;
    REQUIRE(stage_begin(0, 0));
    pipe_messages(&st.flight, &m, NULL);
    for (piece = 1; piece < 50; piece += 7) {
        stage_again();
        b.n = 0;
        for (i = 0; i < m.n; i += piece) pipe_record(&b, 22, m.p + i, m.n - i < piece ? m.n - i : piece);
        pipe_feed(st.server, b.p, b.n);
        pipe_run(st.client, st.server, 100000);
        CHECK_INT(psi_hs_status(st.client, NULL), 0);
        CHECK_INT(psi_hs_status(st.server, NULL), 0);
    }
    stage_again(); /* another record in between */
    b.n = 0;
    pipe_record(&b, 22, m.p, 10);
    pipe_record(&b, 20, "\1", 1);
    pipe_feed(st.server, b.p, b.n);
    pipe_failed(st.server, PSOCKET_TLS_PROTOCOL, 10, "CCS within a hello");
    stage_again();
    memset(m.p + 4, 0, 30000);
    m.p[1] = 0;
    m.p[2] = 0x3F;
    m.p[3] = 0xFD;
    b.n = 0;
    pipe_record(&b, 22, m.p, 16384);
    pipe_feed(st.server, b.p, b.n);
    pipe_failed(st.server, PSOCKET_TLS_PROTOCOL, 47, "hello of 16 KB and one byte");
    stage_again();
    stage_end();
}
