/* TLS 1.3 behind and beside the handshake: KeyUpdate both ways, padding, change_cipher_spec, early data, limits of records. */
#include "tls/wire.h"


static kit_wire w;

static int join(const char *suite)
{
    kit_version = 0x0304;
    return kit_wire_join(&w, suite);
}

static ptrdiff_t tell(int dir, int type, const void *p, size_t n)
{
    const void *data;
    kit_forge(&w, dir, type, p, n);
    return psocket_recv(kit_sender(&w, !dir)->s, &data);
}

static void failed(int dir, ptrdiff_t got, int code, int alert, const char *what)
{
    psocket_error e = {0};
    psocket_geterror(kit_sender(&w, !dir)->s, &e);
    if (got != code || e.code != code || e.tls_alert != alert || !e.text[0])
        check_fail(__FILE__, __LINE__, "%s: %ld and %d (%s), alert %d; not %d, alert %d", what, (long)got, e.code, e.text, e.tls_alert, code, alert);
}

/* The next record of that sender that is no ticket. */
static ptrdiff_t hear(int dir, uint8_t *plain, int *type)
{
    ptrdiff_t n;
    do n = kit_hear(&w, dir, plain, type);
    while (n > 0 && *type == 22 && plain[0] == 4);
    return n;
}

/* The peer renews its keys, and asks us to, or not. */
TEST_LIMIT(key_updates, 60)
{
    static const char *const suites[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"};
    static uint8_t plain[17000];
    const void *data;
    int dir, i, k, type;
    for (i = 0; i < 3; i++)
        for (dir = 0; dir < 2; dir++) {
            REQUIRE(join(suites[i]));
            for (k = 0; k < 20; k++) {
                int asked = k % 2;
                CHECK_INT(tell(dir, 22, asked ? "\30\0\0\1\1" : "\30\0\0\1\0", 5), PSOCKET_WANT_READ);
                kit_key_update(&w.key[dir]);
                CHECK_INT(tell(dir, 23, "new keys", 8), 8);
                CHECK_INT(psocket_send(kit_sender(&w, !dir)->s, "answer", 6), 6);
                if (asked) { /* an update of its own, before anything else, that asks for nothing */
                    CHECK_INT(hear(!dir, plain, &type), 5);
                    CHECK_INT(type, 22);
                    CHECK_MEM(plain, "\30\0\0\1\0", 5);
                    kit_key_update(&w.key[!dir]);
                }
                CHECK_INT(hear(!dir, plain, &type), 6);
                CHECK_INT(type, 23);
            }
            CHECK_INT(psocket_recv(kit_sender(&w, !dir)->s, &data), PSOCKET_WANT_READ);
            kit_wire_end(&w);
        }
}

/* A peer that asks over and over without data is not answered for ever, nor more than once for what is asked at once. */
TEST(many_requests)
{
    static kit_bytes b;
    static uint8_t plain[17000];
    const void *data;
    ptrdiff_t n = 0;
    int i, type, updates = 0;
    REQUIRE(join(NULL));
    b.n = 0;
    for (i = 0; i < 10; i++) {
        kit_seal(&w.key[0], &b, 22, "\30\0\0\1\1", 5, 0);
        kit_key_update(&w.key[0]);
    }
    kit_feed(w.ends.server, b.p, b.n);
    CHECK_INT(psocket_recv(w.ends.server->s, &data), PSOCKET_WANT_READ);
    CHECK_INT(psocket_send(w.ends.server->s, "x", 1), 1);
    while ((n = hear(1, plain, &type)) > 0 && type == 22) {
        updates++;
        kit_key_update(&w.key[1]);
    }
    CHECK_INT(n, 1);
    CHECK(updates >= 1 && updates <= 10);
    for (i = 0; i < 1000 && (n = tell(0, 22, "\30\0\0\1\0", 5)) == PSOCKET_WANT_READ; i++) kit_key_update(&w.key[0]);
    CHECK(i < 1000);
    failed(0, n, PSOCKET_TLS_PROTOCOL, 10, "endless updates");
    kit_wire_end(&w);
}

TEST_LIMIT(bad_messages, 60)
{
    static const struct { int dir, type, alert; const char *p; size_t n; const char *what; } bad[] = {
        {0, 22, 47, "\30\0\0\1\2", 5, "an update of an unknown kind"}, {0, 22, 50, "\30\0\0\0", 4, "an empty update"},
        {0, 22, 50, "\30\0\0\2\0\0", 6, "a long update"}, {1, 22, 47, "\30\0\0\1\377", 5, "an update of an unknown kind"},
        {0, 22, 10, "\30\0\0\1\0\30\0\0\1\0", 10, "two updates in a record: the second is under old keys"},
        {0, 22, 10, "\30\0\0\1\0\4", 6, "something behind an update"}, {0, 22, 10, "\4\0\0\0", 4, "a ticket from a client"},
        {0, 22, 10, "\1\0\0\0", 4, "a hello"}, {1, 22, 10, "\0\0\0\0", 4, "a HelloRequest"}, {1, 22, 10, "\2\0\0\0", 4, "a ServerHello"},
        {0, 22, 10, "\24\0\0\0", 4, "Finished again"}, {0, 22, 10, "\5\0\0\0", 4, "EndOfEarlyData"}, {1, 22, 10, "\15\0\0\0", 4, "a request that was not allowed"},
        {0, 20, 10, "\1", 1, "change_cipher_spec, encrypted"}, {1, 24, 10, "x", 1, "an unknown type"}, {0, 22, 10, "", 0, "an empty handshake record"},
        {1, 22, 50, "\4\0\0\0", 4, "an empty ticket"}, {1, 21, 10, "", 0, "an empty alert"}, {1, 21, 50, "\2", 1, "half an alert"}};
    size_t i;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        REQUIRE(join(NULL));
        failed(bad[i].dir, tell(bad[i].dir, bad[i].type, bad[i].p, bad[i].n), PSOCKET_TLS_PROTOCOL, bad[i].alert, bad[i].what);
        kit_wire_end(&w);
    }
    REQUIRE(join(NULL)); /* data between the halves of a message */
    CHECK_INT(tell(0, 22, "\30\0", 2), PSOCKET_WANT_READ);
    failed(0, tell(0, 23, "x", 1), PSOCKET_TLS_PROTOCOL, 10, "data within a message");
    kit_wire_end(&w);
    REQUIRE(join(NULL)); /* in halves, it is fine */
    CHECK_INT(tell(0, 22, "\30\0", 2), PSOCKET_WANT_READ);
    CHECK_INT(tell(0, 22, "\0\1\0", 3), PSOCKET_WANT_READ);
    kit_key_update(&w.key[0]);
    CHECK_INT(tell(0, 23, "x", 1), 1);
    kit_wire_end(&w);
}

/* Tickets that a client takes or leaves without harm, and those that are wrong. */
TEST_LIMIT(tickets_behind_the_handshake, 60)
{
    static const struct { const char *p; size_t n; int alert; const char *what; } tickets[] = {
        {"\4\0\0\26\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\0", 26, 0, "a good one"},
        {"\4\0\0\26\0\0\0\0\1\2\3\4\1\0\0\10ticketed\0\0", 26, 0, "good for no time"},
        {"\4\0\0\32\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\4\12\12\0\0", 30, 0, "with an unknown extension"},
        {"\4\0\0\36\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\10\0\52\0\4\0\0\100\0", 34, 0, "with early data: not used"},
        {"\4\0\0\46\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\20\0\52\0\4\0\0\100\0\0\52\0\4\0\0\100\0", 42, 47, "with early data twice"},
        {"\4\0\0\36\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\10\12\12\0\0\12\12\0\0", 34, 47, "with an unknown extension twice"},
        {"\4\0\0\16\0\0\34\40\1\2\3\4\1\0\0\0\0\0", 18, 50, "empty"},
        {"\4\0\0\27\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\0\0", 27, 50, "with a byte behind it"},
        {"\4\0\0\26\0\0\34\40\1\2\3\4\1\0\0\11ticketed\0\0", 26, 50, "cut off"},
        {"\4\0\0\26\0\0\34\40\1\2\3\4\1\0\0\10ticketed\0\1", 26, 50, "with half an extension"}};
    size_t i;
    for (i = 0; i < sizeof tickets / sizeof tickets[0]; i++) {
        REQUIRE(join(NULL));
        if (tickets[i].alert) {
            failed(1, tell(1, 22, tickets[i].p, tickets[i].n), PSOCKET_TLS_PROTOCOL, tickets[i].alert, tickets[i].what);
        } else {
            ptrdiff_t n = tell(1, 22, tickets[i].p, tickets[i].n);
            if (n != PSOCKET_WANT_READ) check_fail(__FILE__, __LINE__, "%s: %ld", tickets[i].what, (long)n);
            CHECK_INT(tell(1, 23, "on", 2), 2);
        }
        kit_wire_end(&w);
    }
}

/* Padding is taken off; a record of nothing but padding has no type. A record may hold 2^14 bytes and one for the type. */
TEST(padding)
{
    static uint8_t text[16386];
    static kit_bytes b;
    const void *data;
    size_t pad;
    int dir;
    for (dir = 0; dir < 2; dir++) {
        REQUIRE(join(NULL));
        for (pad = 0; pad < 16384; pad = pad * 2 + 1) {
            b.n = 0;
            kit_seal(&w.key[dir], &b, 23, "x", 1, pad);
            kit_feed(kit_sender(&w, !dir), b.p, b.n);
            CHECK_INT(psocket_recv(kit_sender(&w, !dir)->s, &data), 1);
        }
        CHECK_INT(tell(dir, 23, text, 16384), 16384);
        failed(dir, tell(dir, 23, text, 16385), PSOCKET_TLS_PROTOCOL, 22, "one byte too many");
        kit_wire_end(&w);
        REQUIRE(join(NULL));
        failed(dir, tell(dir, 0, text, 5), PSOCKET_TLS_PROTOCOL, 10, "only padding");
        kit_wire_end(&w);
    }
}

/* change_cipher_spec for the sake of middleboxes: ignored between hello and Finished, if it is what it should be. */
TEST(change_cipher_spec)
{
    static const struct { const char *p; size_t n; int ok; } specs[] = {{"\1", 1, 1}, {"\2", 1, 0}, {"\1\1", 2, 0}, {"", 0, 0}};
    static kit_bytes b;
    size_t i;
    int dir;
    kit_version = 0x0304;
    for (i = 0; i < 4; i++)
        for (dir = 0; dir < 2; dir++) {
            kit_end *to;
            REQUIRE(kit_wire_begin(&w, kit_client(), kit_server("ec")));
            kit_pass(&w, 0, NULL);
            to = kit_sender(&w, !dir);
            if (dir) kit_take(w.ends.server, &b);
            else b.n = 0;
            {
                static kit_bytes c;
                c.n = 0;
                kit_record(&c, 20, specs[i].p, specs[i].n);
                if (dir) { /* behind ServerHello */
                    size_t hello = 5 + kit_get(b.p + 3, 2);
                    kit_put(&c, b.p + hello, b.n - hello);
                    b.n = hello;
                    kit_feed(to, b.p, b.n);
                }
                kit_feed(to, c.p, c.n);
            }
            if (specs[i].ok) CHECK_INT(to->status < PSOCKET_WANT_WRITE, 0);
            else CHECK_INT(to->status, PSOCKET_TLS_PROTOCOL);
            if (!specs[i].ok) {
                psocket_error e = {0};
                kit_status(to, &e);
                CHECK_INT(e.tls_alert, 10);
            }
            kit_wire_end(&w);
        }
    REQUIRE(join(NULL)); /* none behind Finished */
    kit_feed(w.ends.client, "\24\3\3\0\1\1", 6);
    {
        const void *data;
        failed(1, psocket_recv(w.ends.client->s, &data), PSOCKET_TLS_PROTOCOL, 10, "late change_cipher_spec");
    }
    kit_wire_end(&w);
}

/* The client's next hello with one more extension, as a record. */
static void hello_with(kit_end *client, const char *ext, size_t len, kit_bytes *out)
{
    static kit_bytes b, m;
    size_t at, n, rest;
    kit_take(client, &b);
    if (b.n && b.p[0] == 20) memmove(b.p, b.p + 6, b.n -= 6);
    kit_messages(&b, &m, &rest);
    at = kit_extension(m.p, m.n, 43); /* in front of supported_versions */
    REQUIRE(at != 0);
    memmove(m.p + at + len, m.p + at, m.n - at);
    memcpy(m.p + at, ext, len);
    m.n += len;
    at = 4 + 2 + 32;
    at += 1 + (size_t)m.p[at];
    at += 2 + kit_get(m.p + at, 2);
    at += 1 + (size_t)m.p[at];
    n = kit_get(m.p + at, 2) + len;
    m.p[at] = (uint8_t)(n >> 8);
    m.p[at + 1] = (uint8_t)n;
    n = m.n - 4;
    m.p[2] = (uint8_t)(n >> 8);
    m.p[3] = (uint8_t)n;
    out->n = 0;
    kit_record(out, 22, m.p, m.n);
}

static void junk_record(kit_end *to, size_t n)
{
    static kit_bytes b;
    static uint8_t junk[16384];
    memset(junk, 0x5A, sizeof junk);
    b.n = 0;
    kit_record(&b, 23, junk, n);
    kit_feed(to, b.p, b.n);
}

static void begin_with(kit_ends *p, const char *groups, const char *ext, size_t n)
{
    static kit_bytes b;
    kit_settings s;
    psocket_tls *client, *server;
    kit_version = 0x0304;
    client = kit_client();
    memset(&s, 0, sizeof s);
    kit_identity(&s, "ec");
    s.opt.groups = groups;
    server = kit_make(&s);
    kit_done(&s);
    REQUIRE(client && server && kit_begin(p, client, server, "localhost"));
    psocket_tls_free(client);
    psocket_tls_free(server);
    hello_with(p->client, ext, n, &b);
    kit_feed(p->server, b.p, b.n);
    CHECK_INT(p->server->status, PSOCKET_WANT_READ);
}

/* Early data is neither taken nor a reason to fail: records under unknown keys are skipped, up to a limit (RFC 8446 4.2.10). */
TEST(early_data_is_skipped)
{
    int records, i;
    for (records = 0; records < 5; records++) {
        kit_ends p;
        psocket_error e = {0};
        begin_with(&p, NULL, "\0\52\0\0", 4);
        CHECK(p.server->out.n > 500);
        for (i = 0; i < records; i++) {
            junk_record(p.server, 100);
            CHECK_INT(p.server->status, PSOCKET_WANT_READ);
        }
        for (i = 0; i < 9 && p.server->status == PSOCKET_WANT_READ; i++) junk_record(p.server, 16384);
        CHECK_INT(i, records ? 1 : 2); /* 16 KB are borne */
        kit_status(p.server, &e);
        CHECK_INT(e.tls_alert, 20);
        kit_end_both(&p);
    }
}

/* Before a second hello it is skipped, too; with or behind that one there is none (RFC 8446 4.1.2). */
TEST(early_data_and_a_second_hello)
{
    static kit_bytes b;
    int again;
    for (again = 0; again < 2; again++) {
        kit_ends p;
        psocket_error e = {0};
        begin_with(&p, "secp256r1", "\0\52\0\0", 4);
        junk_record(p.server, 100);
        junk_record(p.server, 16284);
        CHECK_INT(p.server->status, PSOCKET_WANT_READ);
        kit_move(p.server, p.client, 80000);
        hello_with(p.client, again ? "\0\52\0\0" : "\177\167\0\0", 4, &b);
        kit_feed(p.server, b.p, b.n);
        CHECK_INT(p.server->status, PSOCKET_WANT_READ);
        junk_record(p.server, 100);
        CHECK_INT(kit_status(p.server, &e), PSOCKET_TLS_RECORD);
        CHECK_INT(e.tls_alert, 20);
        kit_end_both(&p);
    }
}

/* Point formats are not TLS 1.3's business. */
TEST(hellos_without_uncompressed_points)
{
    kit_ends p;
    begin_with(&p, NULL, "\0\13\0\2\1\1", 6);
    CHECK(p.server->out.n > 500);
    kit_end_both(&p);
}

/* Plaintext where protection is due. */
TEST(unprotected_records)
{
    static kit_bytes b;
    const void *data;
    int type;
    for (type = 22; type <= 23; type++) {
        REQUIRE(join(NULL));
        b.n = 0;
        kit_record(&b, type, "\30\0\0\1\0abcdefghijklmnop", 21);
        kit_feed(w.ends.server, b.p, b.n);
        failed(0, psocket_recv(w.ends.server->s, &data), type == 22 ? PSOCKET_TLS_PROTOCOL : PSOCKET_TLS_RECORD, type == 22 ? 10 : 20, "plaintext");
        kit_wire_end(&w);
    }
}

