/* What a peer that knows the keys may not say: messages that are well-formed and break a rule of the handshake. Each is
 * changed on the way; whoever receives it answers with the alert of the RFC and a sentence. */
#include "tls/wire.h"

static kit_wire w;
static kit_editor e;

static psocket_tls *client_of(const char *suites, const char *groups)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.suites = suites;
    s.opt.groups = groups;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

static psocket_tls *server_of(const char *name, const char *suites, const char *groups, int client_auth)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, name);
    s.opt.suites = suites;
    s.opt.groups = groups;
    s.opt.client_auth = client_auth;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* A change: bytes in place of others, in an extension of this type (0: in the message) from `at` on; at < 0: from its end. */
typedef struct change {
    int extension;
    long at;
    const char *p;
    size_t n;
} change;

static void replace(void *ctx, kit_bytes *m)
{
    const change *c = (const change *)ctx;
    size_t at = c->extension ? kit_extension(m->p, m->n, c->extension) : 0;
    if (c->extension && !CHECK(at != 0)) return;
    at = c->at < 0 ? m->n - (size_t)-c->at : at + (size_t)c->at;
    if (CHECK(at + c->n <= m->n)) memcpy(m->p + at, c->p, c->n);
}

/* Lengthens the message by bytes at its end: its own length, and that of the list which ends it. */
static void append(kit_bytes *m, size_t list, size_t size, const void *p, size_t n)
{
    size_t len = kit_get(m->p + list, size) + n;
    kit_put(m, p, n);
    while (size--) {
        m->p[list + size] = (uint8_t)len;
        len >>= 8;
    }
    m->p[1] = (uint8_t)((m->n - 4) >> 16);
    m->p[2] = (uint8_t)((m->n - 4) >> 8);
    m->p[3] = (uint8_t)(m->n - 4);
}

static void set(int dir, int index, void (*edit)(void *, kit_bytes *), void *ctx)
{
    memset(&e, 0, sizeof e);
    e.dir = dir;
    e.index = index;
    e.edit = edit;
    e.ctx = ctx;
}

/* The receiver of the changed message must have refused it so; the settings go. */
static void refused(psocket_tls *client, psocket_tls *server, int code, int alert, const char *what)
{
    psocket_error err = {0};
    kit_end *h;
    CHECK(e.done);
    h = kit_sender(&w, !e.dir);
    kit_status(h, &err);
    if (h->status != code || err.tls_alert != alert || !err.text[0])
        check_fail(__FILE__, __LINE__, "%s: %d, alert %d, %s", what, h->status, err.tls_alert, err.text);
    kit_end_both(&w.ends);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

static void refuse(psocket_tls *client, psocket_tls *server, int dir, int index, change c, int alert, const char *what)
{
    REQUIRE(client && server);
    set(dir, index, replace, &c);
    kit_play(&w, client, server, "localhost", &e);
    refused(client, server, PSOCKET_TLS_PROTOCOL, alert, what);
}

static change in(int extension, long at, const char *p, size_t n)
{
    change c;
    c.extension = extension;
    c.at = at;
    c.p = p;
    c.n = n;
    return c;
}

/* The client has a session of the server. */
static void met(psocket_tls *client, psocket_tls *server)
{
    kit_good(client, server, "localhost", 80000, NULL, NULL);
}

static void change_binder(void *ctx, kit_bytes *m)
{
    (void)ctx;
    m->p[m->n - 1] ^= 1;
}

static void behind_psk(void *ctx, kit_bytes *m)
{
    size_t list = 4 + 2 + 32;
    (void)ctx;
    list += 1 + (size_t)m->p[list];
    list += 2 + kit_get(m->p + list, 2);
    list += 1 + (size_t)m->p[list];
    CHECK(kit_extension(m->p, m->n, 41) != 0);
    append(m, list, 2, "\22\64\0\0", 4);
}

TEST(resumed_13)
{
    psocket_tls *c, *s;
    kit_version = 0x0304;
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    set(0, 0, change_binder, NULL); /* RFC 8446 4.2.11.2 */
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 51, "another binder");
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    set(0, 0, behind_psk, NULL); /* RFC 8446 4.2.11 */
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 47, "something behind pre_shared_key");
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    refuse(c, s, 1, 0, in(0, 4 + 2 + 32 + 1 + 32, "\23\2", 2), 47, "a PSK with a suite of another hash");
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    refuse(c, s, 1, 0, in(41, 4, "\0\1", 2), 47, "a PSK that was not offered");
}

/* A second hello goes on without a PSK whose hash is not that of the suite. */
TEST(retried_with_another_hash)
{
    psocket_tls *c, *first, *second;
    psocket_tlsinfo info;
    kit_version = 0x0304;
    c = client_of(NULL, NULL);
    first = server_of("ec", "TLS_AES_256_GCM_SHA384", NULL, 0);
    second = server_of("ec", "TLS_AES_128_GCM_SHA256", "secp256r1", 0);
    REQUIRE(c && first && second);
    met(c, first);
    kit_good(c, second, "localhost", 80000, &info, NULL);
    CHECK(!info.resumed && info.group == 23);
    psocket_tls_free(c);
    psocket_tls_free(first);
    psocket_tls_free(second);
}

TEST(hello_retry_requests)
{
    kit_version = 0x0304;
    refuse(client_of(NULL, NULL), server_of("ec", NULL, "secp256r1", 0), 1, 0, in(51, 4, "\0\35", 2), 47, "the group that was there");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, "secp256r1", 0), 1, 0, in(51, 4, "\22\64", 2), 47, "a group that was not offered");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, "secp256r1", 0), 0, 1, in(51, 6, "\22\64", 2), 47, "another share than was asked for");
    kit_version = 0;
    refuse(client_of(NULL, NULL), server_of("ec", NULL, "secp256r1", 0), 0, 1, in(43, 5, "\12\12\12\12", 4), 47, "another version");
}

/* Of all extensions supported_versions stays. */
static void without_reason(void *ctx, kit_bytes *m)
{
    size_t at = kit_extension(m->p, m->n, 43), list = 4 + 2 + 32 + 1 + m->p[38] + 3;
    (void)ctx;
    if (!CHECK(at != 0)) return;
    memmove(m->p + list, "\0\6\0\53\0\2\3\4", 8);
    m->n = list + 8;
    m->p[2] = (uint8_t)((m->n - 4) >> 8);
    m->p[3] = (uint8_t)(m->n - 4);
}

TEST(hello_retry_request_without_a_reason)
{
    psocket_tls *c, *s;
    kit_version = 0x0304;
    c = client_of(NULL, NULL), s = server_of("ec", NULL, "secp256r1", 0);
    set(1, 0, without_reason, NULL);
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 47, "another hello for no reason");
}

/* Data, sealed as the handshake is, before the peer has proved anything. */
TEST(data_under_handshake_keys)
{
    static kit_bytes b;
    psocket_error err = {0};
    kit_key key;
    kit_version = 0x0304;
    REQUIRE(kit_wire_begin(&w, client_of(NULL, NULL), server_of("ec", NULL, NULL, 0)));
    kit_pass(&w, 0, NULL);
    kit_look(&w.tap, &w.ends.server->out);
    REQUIRE(kit_tap_key(&w.tap, &key, 0, 0));
    b.n = 0;
    kit_seal(&key, &b, 23, "x", 1, 0);
    kit_feed(w.ends.server, b.p, b.n);
    CHECK_INT(kit_status(w.ends.server, &err), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(err.tls_alert, 10);
    kit_wire_end(&w);
}

static kit_bytes asked; /* a HelloRetryRequest */
static void remember(void *ctx, kit_bytes *m)
{
    (void)ctx;
    asked = *m;
}

TEST(two_hello_retry_requests)
{
    static kit_bytes b;
    psocket_tls *c, *s;
    psocket_error err = {0};
    kit_version = 0x0304;
    c = client_of(NULL, NULL), s = server_of("ec", NULL, "secp256r1", 0);
    set(1, 0, remember, NULL);
    kit_play(&w, c, s, "localhost", &e);
    kit_end_both(&w.ends);
    REQUIRE(kit_begin(&w.ends, c, s, "localhost"));
    b.n = 0;
    kit_record(&b, 22, asked.p, asked.n);
    memcpy(b.p + 5 + 39, w.ends.client->out.p + 5 + 39, 32); /* this connection's session ID */
    kit_feed(w.ends.client, b.p, b.n);
    CHECK_INT(w.ends.client->status, PSOCKET_WANT_READ);
    kit_feed(w.ends.client, b.p, b.n);
    CHECK_INT(kit_status(w.ends.client, &err), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(err.tls_alert, 10);
    kit_end_both(&w.ends);
    psocket_tls_free(c);
    psocket_tls_free(s);
}

static void extend_certificate(void *ctx, kit_bytes *m) /* of one certificate, or the last of several */
{
    const change *c = (const change *)ctx;
    m->n -= 2; /* its empty list */
    append(m, 5, 3, c->p, c->n);
    m->p[7] = (uint8_t)(m->p[7] - 2); /* append counted what was taken away */
    if (m->p[7] >= 0xFE && m->p[6]-- == 0) m->p[5]--;
}

TEST(server_messages_13)
{
    static const change asked_for = {0, 0, "\0\4\0\5\0\0", 6}, half = {0, 0, "\0\3\0\5\0", 5};
    psocket_tls *c, *s;
    kit_version = 0x0304;
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    set(1, 2, extend_certificate, (void *)(uintptr_t)&asked_for);
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 110, "status_request in a Certificate");
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    set(1, 2, extend_certificate, (void *)(uintptr_t)&half);
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 50, "half an extension in a Certificate");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, NULL, PSOCKET_CLIENT_AUTH_OPTIONAL), 1, 2, in(0, 4 + 1 + 2, "\22\64", 2), 109,
           "a CertificateRequest without signature_algorithms");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, NULL, 0), 1, 3, in(0, 4, "\2\3", 2), 47, "CertificateVerify with SHA-1");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, NULL, 0), 1, 3, in(0, 4, "\10\4", 2), 47, "CertificateVerify of RSA with an EC key");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, NULL, 0), 1, 3, in(0, -1, "\0\0", 1), 51, "CertificateVerify that is wrong");
}

static void without_ems(void *ctx, kit_bytes *m)
{
    size_t at = kit_extension(m->p, m->n, 23), list = 4 + 2 + 32 + 1 + m->p[38] + 3;
    (void)ctx;
    if (!CHECK(at != 0)) return;
    memmove(m->p + at, m->p + at + 4, m->n - at - 4);
    m->n -= 4;
    m->p[3] = (uint8_t)(m->p[3] - 4);
    m->p[list + 1] = (uint8_t)(m->p[list + 1] - 4);
}

static void stretch(void *ctx, kit_bytes *m) /* a session ID of 32 bytes in a ServerHello */
{
    static kit_bytes b;
    const uint8_t *id = (const uint8_t *)ctx;
    size_t had = m->p[38];
    b.n = 0;
    kit_put(&b, m->p, 38);
    kit_number(&b, 32, 1);
    kit_put(&b, id, 32);
    kit_put(&b, m->p + 39 + had, m->n - 39 - had);
    *m = b;
    m->p[2] = (uint8_t)((m->n - 4) >> 8);
    m->p[3] = (uint8_t)(m->n - 4);
}

TEST(server_messages_12)
{
    static uint8_t id[32];
    psocket_tls *c, *s;
    kit_settings old;
    kit_version = 0x0303;
    refuse(client_of(NULL, "x25519"), server_of("rsa", NULL, NULL, 0), 1, 2, in(0, 5, "\0\30", 2), 47, "a key exchange with a group that was not offered");
    refuse(client_of(NULL, NULL), server_of("ec", NULL, NULL, 0), 1, 2, in(0, 4, "\1", 1), 47, "a key exchange with a curve by its equation");
    c = client_of(NULL, "x25519:secp256r1"), s = server_of("ec384", NULL, NULL, 0);
    {
        change more = in(10, 8, "\0\30", 2); /* RFC 8422 5.1: what the client did not say */
        set(0, 0, replace, &more);
        kit_play(&w, c, s, "localhost", &e);
        e.dir = 1;
        refused(c, s, PSOCKET_CERT_USAGE, 47, "a certificate on a curve that was not offered");
    }
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    refuse(c, s, 1, 0, in(0, 4 + 2 + 32 + 1 + 32, "\300\54", 2), 47, "a session with another suite");
    c = client_of(NULL, NULL), s = server_of("ec", NULL, NULL, 0);
    met(c, s);
    set(1, 0, without_ems, NULL);
    kit_play(&w, c, s, "localhost", &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 40, "a session without its extended master secret");
    kit_version = 0; /* the client's session ID is there for middleboxes only */
    c = client_of(NULL, NULL);
    memset(&old, 0, sizeof old);
    kit_identity(&old, "ec");
    old.opt.max_version = 0x0303;
    s = kit_make(&old);
    kit_done(&old);
    memset(&w, 0, sizeof w);
    REQUIRE(c && s && kit_begin(&w.ends, c, s, "localhost"));
    memcpy(id, w.ends.client->out.p + 5 + 39, 32);
    set(1, 0, stretch, id);
    kit_play_on(&w, &e);
    refused(c, s, PSOCKET_TLS_PROTOCOL, 47, "a session that there never was");
}

/* A key that may not sign proves nothing, whoever accepts its certificate (RFC 5246 7.4.2, RFC 8446 4.4.2.2). */
KIT_TEST(keys_that_may_not_sign, 20)
{
    psocket_tls *sure, *server, *client;
    kit_settings s;
    memset(&s, 0, sizeof s);
    s.opt.insecure_no_verify = 1;
    sure = kit_make(&s);
    kit_done(&s);
    kit_identity(&s, "mute");
    kit_ca(&s, "ca.pem");
    client = kit_make(&s);
    kit_done(&s);
    server = server_of("mute", NULL, NULL, 0);
    REQUIRE(sure && server && client);
    kit_bad(sure, server, "localhost", PSOCKET_CERT_USAGE, PSOCKET_TLS_ALERT, 43);
    psocket_tls_free(server);
    kit_identity(&s, "ec");
    s.opt.insecure_no_verify = 1;
    s.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    server = kit_make(&s);
    kit_done(&s);
    kit_bad(client, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_USAGE, 43);
    psocket_tls_free(sure);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

/* Nothing comes between the parts of a message. */
KIT_TEST(between_the_parts, 20)
{
    static kit_bytes b, first;
    psocket_tls *c = client_of(NULL, NULL), *s = server_of("ec", NULL, NULL, 0);
    psocket_error err = {0};
    int type;
    for (type = 20; type <= 23; type++) {
        if (type == 21 || type == 22) continue;
        REQUIRE(c && s && kit_begin(&w.ends, c, s, "localhost"));
        kit_take(w.ends.client, &first);
        b.n = 0;
        kit_record(&b, 22, first.p + 5, 10);
        kit_record(&b, type, "\1", 1);
        kit_feed(w.ends.server, b.p, b.n);
        CHECK_INT(kit_status(w.ends.server, &err), PSOCKET_TLS_PROTOCOL);
        CHECK_INT(err.tls_alert, 10);
        kit_end_both(&w.ends);
    }
    psocket_tls_free(c);
    psocket_tls_free(s);
}
