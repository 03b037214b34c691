/* Peers that break the protocol: whatever they send ends with an error and an alert, and never with a hang. */
#include "tls/wire.h"

/* One handshake with the flights it consists of. TLS 1.2: 0 ClientHello, 1 ServerHello..ServerHelloDone, 2
   ClientKeyExchange..Finished, 3 the server's Finished; resumed: 0 ClientHello, 1 ServerHello..Finished, 2 the client's
   Finished. TLS 1.3: 0 ClientHello, 1 ServerHello..Finished, 2 the client's Finished. Random numbers are the same each
   time, so that a flight comes again byte for byte. */
typedef struct stage {
    psocket_tls *client_tls, *server_tls;
    kit_end *client, *server;
    kit_bytes flight; /* taken from its sender, not yet received */
    uint8_t *sessions;
    size_t sessions_len;
    int k, how;
} stage;

static stage st;

enum { MUTUAL = 1, RESUMED = 2, CHACHA = 4 };

static void stage_drop(void)
{
    kit_free(st.client);
    kit_free(st.server);
    st.client = st.server = NULL;
    psocket_tls_free(st.client_tls);
    st.client_tls = NULL;
}

static psocket_tls *stage_client(void)
{
    return kit_tls(st.how & MUTUAL ? "client" : NULL, NULL, 0);
}

/* A connection from its beginning to where flight number k has been sent and nothing of it received. */
static void stage_again(void)
{
    int k = st.k;
    psocket_error e = {0};
    stage_drop();
    kit_seed(4711);
    st.client_tls = stage_client();
    if (st.sessions) CHECK_INT(psocket_tls_loadsessions(st.client_tls, st.sessions, st.sessions_len), 0);
    if (kit_new(&st.client, st.client_tls, PSOCKET_CLIENT, "localhost", &e) ||
        kit_new(&st.server, st.server_tls, PSOCKET_SERVER, NULL, &e)) {
        check_fail(__FILE__, __LINE__, "no handshake: %s", e.text);
        exit(1);
    }
    kit_take(st.client, &st.flight);
    while (k--) {
        kit_end *to = (st.k - k) % 2 ? st.server : st.client;
        kit_feed(to, st.flight.p, st.flight.n);
        kit_take(to, &st.flight);
    }
}

/* Makes the settings and goes there. 0 on failure. */
static int stage_begin(int k, int how)
{
    const char *chacha = kit_version == 0x0304 ? "TLS_CHACHA20_POLY1305_SHA256" : "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    memset(&st, 0, sizeof st);
    st.k = k;
    st.how = how;
    st.client_tls = stage_client();
    st.server_tls = kit_tls("ec", how & CHACHA ? chacha : NULL, how & MUTUAL ? PSOCKET_CLIENT_AUTH_REQUIRED : PSOCKET_CLIENT_AUTH_NONE);
    if (!st.client_tls || !st.server_tls) return 0;
    if (how & RESUMED) {
        ptrdiff_t n;
        kit_good(st.client_tls, st.server_tls, "localhost", 100000, NULL, NULL);
        n = psocket_tls_savesessions(st.client_tls, NULL, 0);
        if (n <= 0 || (st.sessions = (uint8_t *)malloc((size_t)n)) == NULL) return 0;
        st.sessions_len = (size_t)psocket_tls_savesessions(st.client_tls, st.sessions, (size_t)n);
    }
    stage_again();
    return 1;
}

static kit_end *stage_receiver(int k)
{
    return k % 2 ? st.client : st.server;
}

static void stage_end(void)
{
    stage_drop();
    psocket_tls_free(st.server_tls);
    free(st.sessions);
    memset(&st, 0, sizeof st);
}

/* Flips every byte of a flight in turn and lets both go on. */
static void flip_every_byte(int k, uint8_t mask, int how)
{
    size_t i, n, waiting = 0;
    int last = how & RESUMED || kit_version == 0x0304 ? 2 : 3; /* its sender is done */
    REQUIRE(stage_begin(k, how));
    n = st.flight.n;
    for (i = 0; i < n; i += i < 200 || n - i < 100 ? 1 : 5) { /* certificates are alike all through */
        psocket_error ce = {0}, se = {0};
        int c, s;
        stage_again();
        CHECK_INT(st.flight.n, n);
        st.flight.p[i] ^= mask;
        kit_feed(stage_receiver(k), st.flight.p, st.flight.n);
        kit_run(st.client, st.server, 100000);
        c = kit_status(st.client, &ce);
        s = kit_status(st.server, &se);
        if (c == 0 && s == 0) { /* the version of the first record does not count (RFC 5246 E.1, RFC 8446 5.1) */
            if (i != 2) check_fail(__FILE__, __LINE__, "flight %d byte %lu does not matter", k, (unsigned long)i);
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

KIT_TEST(every_byte_of_the_client_hello, 60) { flip_every_byte(0, 0xFF, 0); }
KIT_TEST(every_byte_of_the_server_flight, 120) { flip_every_byte(1, 0xFF, 0); }
KIT_TEST(every_byte_of_the_client_finished, 60) { flip_every_byte(2, 0xFF, 0); }
KIT_TEST_12(every_byte_of_the_server_finished, 60) { flip_every_byte(3, 0xFF, 0); }
KIT_TEST(low_bits_of_the_client_hello, 60) { flip_every_byte(0, 1, 0); }
KIT_TEST(low_bits_of_the_client_finished, 60) { flip_every_byte(2, 1, 0); }
KIT_TEST(every_byte_of_a_client_certificate, 120) { flip_every_byte(2, 1, MUTUAL); }
KIT_TEST_12(every_byte_of_chacha_finished, 60) { flip_every_byte(2, 1, CHACHA); flip_every_byte(3, 1, CHACHA); }

KIT_TEST_12(every_byte_of_a_resumed_handshake, 120)
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
    size_t i, n;
    REQUIRE(stage_begin(k, how));
    n = st.flight.n;
    for (i = 0; i <= n; i += i < 200 || n - i < 100 ? 1 : 7) {
        kit_end *h;
        stage_again();
        h = stage_receiver(k);
        kit_feed(h, st.flight.p, i);
        if (i < st.flight.n) CHECK_INT(kit_status(h, NULL), PSOCKET_WANT_READ);
        if (i % 16 && i != st.flight.n) continue;
        kit_feed(h, st.flight.p + i, st.flight.n - i);
        kit_run(st.client, st.server, 100000);
        CHECK_INT(kit_status(st.client, NULL), 0);
        CHECK_INT(kit_status(st.server, NULL), 0);
    }
    stage_again();
    stage_end();
}

KIT_TEST(cut_client_hello, 60) { cut_everywhere(0, 0); }
KIT_TEST(cut_server_flight, 120) { cut_everywhere(1, 0); }
KIT_TEST(cut_client_finished, 60) { cut_everywhere(2, 0); }
KIT_TEST_12(cut_server_finished, 60) { cut_everywhere(3, 0); }
KIT_TEST_12(cut_resumed_handshake, 60)
{
    int k;
    for (k = 0; k < 3; k++) cut_everywhere(k, RESUMED);
}

/* Lets the receiver have the plaintext messages m, in records of first bytes and then of most bytes, and the rest of the
   flight. Both must succeed, for records are none of the messages' business (RFC 5246 6.2.1). */
static void records_of(int k, const kit_bytes *m, size_t rest, size_t first, size_t most)
{
    psocket_error ce = {0}, se = {0};
    static kit_bytes b;
    size_t i, n;
    stage_again();
    for (i = 0; i < m->n; i += n) {
        n = i ? most : first;
        if (n > m->n - i) n = m->n - i;
        b.n = 0;
        kit_record(&b, 22, m->p + i, n);
        kit_feed(stage_receiver(k), b.p, b.n);
    }
    kit_feed(stage_receiver(k), st.flight.p + rest, st.flight.n - rest);
    kit_run(st.client, st.server, 100000);
    if (kit_status(st.client, &ce) || kit_status(st.server, &se))
        check_fail(__FILE__, __LINE__, "flight %d, records of %lu and %lu: %s%s", k, (unsigned long)first, (unsigned long)most,
                   ce.text, se.text);
}

static void cut_records(int k, int how)
{
    static kit_bytes m;
    size_t i, at, rest;
    REQUIRE(stage_begin(k, how));
    kit_messages(&st.flight, &m, &rest);
    CHECK(m.n > 0);
    for (i = 1; i < 4; i++) records_of(k, &m, rest, i, i);
    for (i = 4; i < 600; i = i * 3 / 2) records_of(k, &m, rest, i, i);
    records_of(k, &m, rest, m.n, m.n); /* all in one */
    for (i = 0; kit_message(&m, (int)i, &at); i++) /* around each message's header */
        for (; at && at % 16 < 8; at++) records_of(k, &m, rest, at, m.n);
    for (i = 1; i < (m.n < 300 ? m.n : 300); i += i < 50 ? 1 : 9) records_of(k, &m, rest, i, m.n);
    stage_again();
    stage_end();
}

KIT_TEST(client_hello_in_other_records, 60) { cut_records(0, 0); }
KIT_TEST_12(server_flight_in_other_records, 120) { cut_records(1, 0); }
KIT_TEST_12(client_flight_in_other_records, 120) { cut_records(2, 0); }
KIT_TEST_12(server_flight_with_request_in_other_records, 120) { cut_records(1, MUTUAL); }
KIT_TEST_12(client_flight_with_certificate_in_other_records, 120) { cut_records(2, MUTUAL); }
KIT_TEST_12(resumed_flights_in_other_records, 60) { cut_records(0, RESUMED); cut_records(1, RESUMED); }

/* Feeds a changed sequence of messages, then the rest of the flight. */
static void expect_refusal(int k, const kit_bytes *m, size_t rest, const char *what, int message)
{
    kit_end *h;
    psocket_error e = {0};
    static kit_bytes b, out;
    size_t i, max = 16384;
    int status;
    stage_again();
    h = stage_receiver(k);
    b.n = 0;
    for (i = 0; i < m->n; i += max) kit_record(&b, 22, m->p + i, m->n - i < max ? m->n - i : max);
    kit_put(&b, st.flight.p + rest, st.flight.n - rest);
    kit_feed(h, b.p, b.n);
    status = kit_status(h, &e);
    kit_take(h, &out);
    if (status >= PSOCKET_WANT_READ) check_fail(__FILE__, __LINE__, "flight %d message %d %s: status %d", k, message, what, status);
    else if (e.tls_alert <= 0 || !e.text[0] || !out.n) check_fail(__FILE__, __LINE__, "flight %d message %d %s: %d, alert %d, %lu bytes, %s", k, message, what, status, e.tls_alert, (unsigned long)out.n, e.text);
}

/* Every message of a flight shortened, lengthened, emptied, repeated, left out, exchanged with the next. */
static void break_messages(int k, int mutual)
{
    static kit_bytes all, m;
    size_t rest, at, len, next_at, next_len;
    int i;
    REQUIRE(stage_begin(k, mutual));
    kit_messages(&st.flight, &all, &rest);
    for (i = 0; (len = kit_message(&all, i, &at)) != 0; i++) {
        if (len > 4) {
            m.n = 0; /* one byte less */
            kit_put(&m, all.p, at + len - 1);
            m.p[at + 3]--;
            if (m.p[at + 3] == 255 && m.p[at + 2]--  == 0) m.p[at + 1]--;
            kit_put(&m, all.p + at + len, all.n - at - len);
            expect_refusal(k, &m, rest, "shortened", i);
            m.n = 0; /* nothing */
            kit_put(&m, all.p, at + 1);
            kit_number(&m, 0, 3);
            kit_put(&m, all.p + at + len, all.n - at - len);
            expect_refusal(k, &m, rest, "emptied", i);
        }
        m.n = 0; /* one byte more */
        kit_put(&m, all.p, at + 1);
        kit_number(&m, len - 4 + 1, 3);
        kit_put(&m, all.p + at + 4, len - 4);
        kit_number(&m, 0, 1);
        kit_put(&m, all.p + at + len, all.n - at - len);
        expect_refusal(k, &m, rest, "lengthened", i);
        m.n = 0; /* twice */
        kit_put(&m, all.p, at + len);
        kit_put(&m, all.p + at, all.n - at);
        expect_refusal(k, &m, rest, "repeated", i);
        m.n = 0; /* not at all */
        kit_put(&m, all.p, at);
        kit_put(&m, all.p + at + len, all.n - at - len);
        /* Without the last one the receiver waits; a missing request comes out with Finished. */
        if (at + len < all.n ? all.p[at] != 13 : rest < st.flight.n) expect_refusal(k, &m, rest, "left out", i);
        m.n = 0; /* a length of 16 MB */
        kit_put(&m, all.p, at + 1);
        kit_number(&m, 0xFFFFFF, 3);
        kit_put(&m, all.p + at + 4, all.n - at - 4);
        expect_refusal(k, &m, rest, "said to be of 16 MB", i);
        m.n = 0; /* of unknown type */
        kit_put(&m, all.p, all.n);
        m.p[at] = 99;
        expect_refusal(k, &m, rest, "of unknown type", i);
        next_len = kit_message(&all, i + 1, &next_at);
        if (!next_len) continue;
        m.n = 0;
        kit_put(&m, all.p, at);
        kit_put(&m, all.p + next_at, next_len);
        kit_put(&m, all.p + at, len);
        kit_put(&m, all.p + next_at + next_len, all.n - next_at - next_len);
        expect_refusal(k, &m, rest, "exchanged with the next", i);
    }
    CHECK(i > 0);
    stage_again();
    stage_end();
}

KIT_TEST_12(broken_client_hello, 60) { break_messages(0, 0); }
KIT_TEST_12(broken_server_flight, 60) { break_messages(1, 0); }
KIT_TEST_12(broken_client_flight, 60) { break_messages(2, 0); }
KIT_TEST_12(broken_server_flight_with_request, 60) { break_messages(1, 1); }
KIT_TEST_12(broken_client_flight_with_certificate, 60) { break_messages(2, 1); }

enum { QUIET = 32, FEW = 3 }; /* more are not borne; so many are */

/* Records that bring nothing, at every stage of both sides. */
KIT_TEST_12(endless_nothing, 60)
{
    static const uint8_t warning[] = {1, 112}, more_warning[] = {1, 90};
    int k, kind, n;
    for (k = 0; k < 4; k++) {
        REQUIRE(stage_begin(k, 0));
        for (kind = 0; kind < 4; kind++) {
            static kit_bytes b;
            kit_end *h;
            stage_again();
            h = stage_receiver(k);
            b.n = 0;
            if (kind == 0) kit_record(&b, 22, NULL, 0);
            if (kind == 1) kit_record(&b, 21, warning, 2);
            if (kind == 2) kit_record(&b, 21, more_warning, 2);
            if (kind == 3) kit_record(&b, 20, NULL, 0);
            for (n = 0; n < 1000 && kit_status(h, NULL) == PSOCKET_WANT_READ; n++) kit_feed(h, b.p, b.n);
            CHECK(n <= QUIET + 1 && (n > 3 || kind == 0 || kind == 3)); /* empty ones are forbidden (RFC 8446 5.1) */
            if (k < 3) {
                kit_failed(h, PSOCKET_TLS_PROTOCOL, 10, "endless nothing");
            } else { /* the alert is encrypted */
                CHECK_INT(kit_status(h, NULL), PSOCKET_TLS_PROTOCOL);
                kit_take(h, &b);
                CHECK(b.n == 5 + 2 + 24 || b.n == 5 + 2 + 16);
            }
            if (kind == 0 || kind == 3) continue;
            stage_again(); /* some of them do no harm */
            b.n = 0;
            kit_record(&b, kind == 0 ? 22 : kind == 3 ? 20 : 21, kind == 1 ? warning : more_warning, kind == 1 || kind == 2 ? 2 : 0);
            for (n = 0; n < FEW; n++) kit_feed(stage_receiver(k), b.p, b.n);
            h = stage_receiver(k);
            kit_feed(h, st.flight.p, st.flight.n);
            kit_run(st.client, st.server, 100000);
            CHECK_INT(kit_status(h, NULL), 0);
        }
        stage_again();
        stage_end();
    }
}

/* HelloRequests within a handshake: BearSSL skips any number of them, a byte at a time, and hashes them, which nobody else
   does (RFC 5246 7.4.1.1), so that the handshake fails in the end. */
KIT_TEST_12(hello_requests, 20)
{
    int k;
    for (k = 1; k < 3; k++) {
        static kit_bytes b, m;
        size_t at, len;
        REQUIRE(stage_begin(k, 0));
        stage_again();
        b.n = 0;
        kit_messages(&st.flight, &m, NULL);
        len = kit_message(&m, 0, &at);
        if (k == 1) kit_record(&b, 22, m.p, len); /* ServerHello */
        kit_record(&b, 22, "\0\0\0\0", 4);
        kit_feed(stage_receiver(k), b.p, b.n);
        kit_failed(stage_receiver(k), PSOCKET_TLS_PROTOCOL, 10, "HelloRequest");
        stage_again();
        stage_end();
    }
}

/* A ChangeCipherSpec is one byte, 1, in either version (RFC 5246 7.1, RFC 8446 5). */
KIT_TEST_12(bad_change_cipher_spec, 20)
{
    static const struct { const char *p; size_t n; } bad[] = {{"\2", 1}, {"\1\1", 2}, {"\0", 1}};
    size_t i, at;
    int k;
    for (k = 2; k < 4; k++) {
        REQUIRE(stage_begin(k, 0));
        for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
            static kit_bytes b;
            psocket_error e = {0};
            stage_again();
            for (at = 0; at < st.flight.n && st.flight.p[at] != 20;) at += 5 + kit_get(st.flight.p + at + 3, 2);
            REQUIRE(at < st.flight.n);
            b.n = 0;
            kit_put(&b, st.flight.p, at);
            kit_record(&b, 20, bad[i].p, bad[i].n);
            kit_put(&b, st.flight.p + at + 6, st.flight.n - at - 6);
            kit_feed(stage_receiver(k), b.p, b.n);
            CHECK_INT(kit_status(stage_receiver(k), &e), PSOCKET_TLS_PROTOCOL);
            CHECK_INT(e.tls_alert, 10);
        }
        stage_again();
        stage_end();
    }
}

/* Headers of records that must be refused at once, before their bodies come. */
KIT_TEST_12(bad_record_headers, 60)
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
            kit_end *h;
            stage_again();
            h = stage_receiver(k);
            kit_feed(h, bad[i].p, 5);
            kit_failed(h, PSOCKET_TLS_PROTOCOL, bad[i].alert, "header");
            CHECK(h->closed);
        }
        stage_again();
        stage_end();
    }
}

/* Plaintext alerts are named. */
KIT_TEST_12(received_alerts, 60)
{
    int k, n;
    for (k = 0; k < 3; k++) {
        REQUIRE(stage_begin(k, 0));
        for (n = 0; n < 256; n++) {
            uint8_t alert[2] = {2, 0};
            char number[16];
            psocket_error e = {0};
            static kit_bytes b;
            kit_end *h;
            stage_again();
            h = stage_receiver(k);
            alert[1] = (uint8_t)n;
            b.n = 0;
            kit_record(&b, 21, alert, 2);
            kit_feed(h, b.p, b.n);
            CHECK_INT(kit_status(h, &e), n == 70 ? PSOCKET_TLS_VERSION : n == 120 ? PSOCKET_TLS_ALPN : PSOCKET_TLS_ALERT);
            CHECK_INT(e.tls_alert, n);
            snprintf(number, sizeof number, "(%d)", n);
            if (n) CHECK(strstr(e.text, number) != NULL);
            if (n == 40) CHECK(strstr(e.text, "handshake_failure") != NULL);
            if (n == 109) CHECK(strstr(e.text, "missing_extension") != NULL);
            if (n == 70 && k == 1) CHECK(strstr(e.text, "the server probably accepts TLS 1.3 only") != NULL);
            kit_take(h, &b);
            CHECK_INT(b.n, n ? 0 : 7); /* close_notify is answered, other alerts are not */
        }
        {   /* malformed ones */
            static const struct { uint8_t p[3]; size_t n; } odd[] = {{{2, 40, 0}, 3}, {{2, 0, 0}, 1}, {{0, 40, 0}, 2}, {{3, 40, 0}, 2}};
            for (n = 0; n < 4; n++) {
                static kit_bytes b;
                kit_end *h;
                stage_again();
                h = stage_receiver(k);
                b.n = 0;
                kit_record(&b, 21, odd[n].p, odd[n].n);
                kit_feed(h, b.p, b.n);
                kit_failed(h, PSOCKET_TLS_PROTOCOL, n < 2 ? 50 : 47, "malformed alert");
            }
        }
        stage_again();
        stage_end();
    }
}

/* BEARSSL.md "Endless loop": handshake bytes behind Finished. And what is allowed: Finished in two records. */
KIT_TEST_12(bytes_behind_finished, 60)
{
    static const struct { size_t extra, split; } cases[] = {{0, 0}, {1, 0}, {3, 0}, {4, 0}, {16, 0}, {0, 1}, {0, 4}, {0, 15}};
    size_t i;
    int k;
    for (k = 2; k < 4; k++) {
        kit_tap t = {{0}, {0}, 0, 0};
        REQUIRE(stage_begin(k, 0));
        kit_feed(stage_receiver(k), st.flight.p, st.flight.n);
        kit_run(st.client, st.server, 100000); /* with the same random numbers once before: for the log */
        for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            static kit_bytes b;
            static uint8_t plain[1024];
            kit_key key, again;
            kit_end *to;
            psocket_error e = {0};
            size_t at, len, n;
            int type, j;
            st.k = 0; /* looks at the hellos on the way */
            stage_again();
            for (j = 0; j < k; j++) {
                kit_end *next = j % 2 ? st.client : st.server;
                kit_look(&t, &st.flight);
                kit_feed(next, st.flight.p, st.flight.n);
                kit_take(next, &st.flight);
            }
            st.k = k;
            to = stage_receiver(k);
            for (at = 0; at + 5 + kit_get(st.flight.p + at + 3, 2) < st.flight.n; at += len) len = 5 + kit_get(st.flight.p + at + 3, 2);
            REQUIRE(kit_tap_key(&t, &key, k == 3, 1));
            again = key;
            REQUIRE(kit_open(&key, st.flight.p + at, plain, &type) == 16 && type == 22);
            b.n = 0;
            kit_put(&b, st.flight.p, at);
            memset(plain + 16, 0, 64);
            n = 16 + cases[i].extra;
            if (cases[i].split) kit_seal(&again, &b, 22, plain, cases[i].split, 0);
            kit_seal(&again, &b, 22, plain + cases[i].split, n - cases[i].split, 0);
            kit_feed(to, b.p, b.n);
            kit_status(to, &e);
            if (cases[i].extra) {
                CHECK_INT(to->status, PSOCKET_TLS_PROTOCOL);
                CHECK_INT(e.tls_alert, 10);
                CHECK(to->out.n > 0);
            } else {
                kit_run(st.client, st.server, 100000);
                CHECK_INT(st.client->status, 0);
                CHECK_INT(st.server->status, 0);
            }
        }
        stage_end();
    }
}

/* Application data right behind Finished is data. */
KIT_TEST(data_behind_finished, 20)
{
    const void *data;
    int last = kit_version == 0x0304 ? 2 : 3;
    kit_end *from, *to;
    REQUIRE(stage_begin(last, 0));
    to = stage_receiver(last);
    from = to == st.client ? st.server : st.client;
    REQUIRE(kit_status(from, NULL) == 0);
    CHECK_INT(psocket_send(from->s, "hi", 2), 2);
    CHECK_INT(psocket_flush(from->s), 0);
    kit_put(&st.flight, from->out.p, from->out.n);
    kit_feed(to, st.flight.p, st.flight.n);
    CHECK_INT(kit_status(to, NULL), 0);
    CHECK_INT(psocket_recv(to->s, &data), 2);
    stage_end();
}

/* A peer that sends megabytes of handshake. */
KIT_TEST_12(endless_certificates, 60)
{
    static uint8_t body[16384];
    static kit_bytes b, m;
    psocket_error e = {0};
    size_t at, len;
    int n;
    REQUIRE(stage_begin(1, 0));
    kit_messages(&st.flight, &m, NULL);
    len = kit_message(&m, 0, &at);
    b.n = 0;
    kit_record(&b, 22, m.p, len); /* ServerHello, then 100 KB of one certificate in a Certificate message */
    kit_feed(st.client, b.p, b.n);
    b.n = 0;
    m.n = 0;
    kit_number(&m, 11, 1);
    kit_number(&m, PSOCKET_CHAIN_BYTES + 4096, 3);
    kit_number(&m, PSOCKET_CHAIN_BYTES + 4093, 3);
    kit_number(&m, PSOCKET_CHAIN_BYTES + 4090, 3);
    kit_record(&b, 22, m.p, m.n);
    kit_feed(st.client, b.p, b.n);
    for (n = 0; n < 1000 && kit_status(st.client, &e) == PSOCKET_WANT_READ; n++) {
        b.n = 0;
        kit_record(&b, 22, body, sizeof body);
        kit_feed(st.client, b.p, b.n);
    }
    CHECK(n < 100);
    CHECK_INT(kit_status(st.client, &e), PSOCKET_CERT_LIMIT);
    CHECK_INT(e.tls_alert, 42);
    stage_end();
    REQUIRE(stage_begin(1, 0)); /* many tiny certificates */
    kit_messages(&st.flight, &m, NULL);
    len = kit_message(&m, 0, &at);
    b.n = 0;
    kit_record(&b, 22, m.p, len);
    m.n = 0;
    kit_number(&m, 11, 1);
    kit_number(&m, 3 + 4000 * 5, 3);
    kit_number(&m, 4000 * 5, 3);
    for (n = 0; n < 4000; n++) {
        kit_number(&m, 2, 3);
        kit_number(&m, 0x3000, 2);
    }
    kit_record(&b, 22, m.p, 16000);
    kit_record(&b, 22, m.p + 16000, m.n - 16000);
    kit_feed(st.client, b.p, b.n);
    CHECK_INT(kit_status(st.client, &e), PSOCKET_CERT_LIMIT);
    stage_end();
}

/* A client's hello in many records, and one that is too long. */
KIT_TEST_12(hello_across_records, 20)
{
    static kit_bytes b, m;
    size_t i, piece;
    REQUIRE(stage_begin(0, 0));
    kit_messages(&st.flight, &m, NULL);
    for (piece = 1; piece < 50; piece += 7) {
        stage_again();
        b.n = 0;
        for (i = 0; i < m.n; i += piece) kit_record(&b, 22, m.p + i, m.n - i < piece ? m.n - i : piece);
        kit_feed(st.server, b.p, b.n);
        kit_run(st.client, st.server, 100000);
        CHECK_INT(kit_status(st.client, NULL), 0);
        CHECK_INT(kit_status(st.server, NULL), 0);
    }
    stage_again(); /* another record in between */
    b.n = 0;
    kit_record(&b, 22, m.p, 10);
    kit_record(&b, 20, "\1", 1);
    kit_feed(st.server, b.p, b.n);
    kit_failed(st.server, PSOCKET_TLS_PROTOCOL, 10, "CCS within a hello");
    stage_end();
}
