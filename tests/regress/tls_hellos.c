/* Hellos of TLS 1.3. Made by hand: lower bounds of vectors (RFC 8446 4.2.8 and 4.2.11), and what has to be there when no PSK
 * can be used (4.2.3). A request with what is for other messages (4.2). Second hellos. */
#include "tls/wire.h"

static void extension(kit_bytes *x, int type, const void *p, size_t n)
{
    kit_number(x, (size_t)type, 2);
    kit_number(x, n, 2);
    kit_put(x, p, n);
}

/* The server's alert, 0 if it goes on. */
static int answer(int schemes, const void *share, size_t share_len, size_t binder)
{
    static kit_bytes b, x, m, out, psk;
    static const uint8_t zero[256] = {0};
    psocket_tls *server;
    psocket_error e = {0};
    kit_end *h = NULL;
    int alert = 0;
    kit_version = 0x0304;
    server = kit_server("ec");
    b.n = x.n = m.n = out.n = psk.n = 0;
    kit_number(&b, 0x0303, 2);
    kit_put(&b, zero, 32);
    kit_number(&b, 0, 1);
    kit_put(&b, "\0\2\x13\1\1\0", 6);
    extension(&x, 10, "\0\4\0\x1d\0\x17", 6);
    if (schemes) extension(&x, 13, "\0\2\4\3", 4);
    extension(&x, 43, "\2\3\4", 3);
    extension(&x, 45, "\1\1", 2);
    extension(&x, 51, share, share_len);
    if (binder <= 255) {
        kit_put(&psk, "\0\x10\0\x0a", 4);
        kit_put(&psk, zero, 14);
        kit_number(&psk, binder + 1, 2);
        kit_number(&psk, binder, 1);
        kit_put(&psk, zero, binder);
        extension(&x, 41, psk.p, psk.n);
    }
    kit_number(&b, x.n, 2);
    kit_put(&b, x.p, x.n);
    kit_handshake(&m, 1, b.p, b.n);
    kit_record(&out, 22, m.p, m.n);
    if (CHECK(server && !kit_new(&h, server, PSOCKET_SERVER, NULL, &e))) {
        kit_feed(h, out.p, out.n);
        if (h->status < PSOCKET_WANT_READ) {
            psocket_geterror(h->s, &e);
            alert = e.tls_alert;
        }
    }
    kit_free(h);
    psocket_tls_free(server);
    return alert;
}

static const uint8_t share[38] = {0, 36, 0, 29, 0, 32, 9};

TEST(empty_shares)
{
    CHECK_INT(answer(1, share, sizeof share, 999), 0);
    CHECK_INT(answer(1, "\0\4\0\x1d\0\0", 6, 999), 50);
    CHECK_INT(answer(1, "\0\4\x5a\x5a\0\0", 6, 999), 50);
}

/* An empty binder is malformed; one that is only too short may be of a ticket that we know, and is then wrong. */
TEST(short_binders)
{
    static const size_t good[] = {1, 31, 32, 48, 255};
    size_t i;
    CHECK_INT(answer(1, share, sizeof share, 0), 50);
    for (i = 0; i < 5; i++) CHECK_INT(answer(1, share, sizeof share, good[i]), 0);
}

TEST(no_signature_algorithms)
{
    CHECK_INT(answer(0, share, sizeof share, 999), 109);
    CHECK_INT(answer(0, share, sizeof share, 32), 109);
}

static unsigned misplaced;

static void add(void *ctx, kit_bytes *m)
{
    size_t n = kit_get(m->p + 5, 2) + 6;
    (void)ctx;
    CHECK_INT(m->p[0], 13);
    kit_number(m, misplaced, 2);
    kit_put(m, "\0\2\3\4", 4);
    m->p[5] = (uint8_t)(n >> 8);
    m->p[6] = (uint8_t)n;
    n = m->n - 4;
    m->p[2] = (uint8_t)(n >> 8);
    m->p[3] = (uint8_t)n;
}

/* Known ones are illegal_parameter; an unknown one is ignored, and only the transcript differs. */
TEST(misplaced_in_a_request)
{
    static const unsigned types[] = {43, 51, 16, 0, 44, 41, 10, 28, 0x5555};
    psocket_tls *client, *server;
    size_t i;
    kit_version = 0x0304;
    client = kit_client();
    server = kit_tls("ec", NULL, PSOCKET_CLIENT_AUTH_OPTIONAL);
    REQUIRE(client && server);
    for (i = 0; i < sizeof types / sizeof *types; i++) {
        kit_wire w;
        kit_editor e;
        memset(&e, 0, sizeof e);
        e.dir = 1;
        e.index = 2;
        e.edit = add;
        misplaced = types[i];
        kit_play(&w, client, server, "localhost", &e);
        CHECK_INT(e.done, 1);
        CHECK_INT(w.ends.client_status, PSOCKET_TLS_PROTOCOL);
        CHECK_INT(w.ends.client_error.tls_alert, types[i] == 0x5555 ? 51 : 47);
        kit_end_both(&w.ends);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}

static psocket_tls *made(const char *identity, const char *groups, const char *protocol)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.groups = groups;
    s.opt.alpn = &protocol;
    s.opt.alpn_count = protocol != NULL;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* What a first hello said counts no more when the second one does not say it. */
TEST(a_second_hello_counts)
{
    psocket_tls *server, *client;
    psocket_tlsinfo info = {0};
    kit_ends p;
    kit_version = 0x0304;
    server = made("ec", "secp384r1", "h2");
    client = made(NULL, NULL, "h2");
    REQUIRE(server && client);
    REQUIRE(kit_begin(&p, client, server, "localhost"));
    client->alpn.n = 0; /* such a client is none of ours */
    psi_sock_hs(p.client->s)->is_address = 1; /* no server_name */
    kit_run(p.client, p.server, 100000);
    CHECK_INT(p.server->status, 0);
    CHECK_INT(psocket_gettlsinfo(p.server->s, &info), 0);
    CHECK_STR(info.alpn, "");
    CHECK_STR(info.server_name, "");
    kit_end_both(&p);
    psocket_tls_free(server);
    psocket_tls_free(client);
}
