/* Sessions: kept per name, port and settings; stored as bytes and loaded again; damaged bytes are refused. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

/* A handshake with the server at this port: 1 resumed, 0 full, -1 failed. */
static int shake(psocket_tls *client, psocket_tls *server, const char *name, int port)
{
    pipe_ends p;
    psocket_tlsinfo ci, si;
    psocket_error e = {0};
    memset(&p, 0, sizeof p);
    memset(&ci, 0, sizeof ci);
    ci.resumed = -1;
    if (psi_hs_new(&p.client, client, 0, name, port, &e) || psi_hs_new(&p.server, server, 1, NULL, 0, &e)) {
        check_fail(__FILE__, __LINE__, "psi_hs_new: %s", e.text);
    } else {
        pipe_run(p.client, p.server, 100000);
        p.client_status = psi_hs_status(p.client, &p.client_error);
        p.server_status = psi_hs_status(p.server, &p.server_error);
        if (!p.client_status) pipe_talk(&p, &ci, &si);
        if (ci.resumed >= 0) CHECK_INT(ci.resumed, si.resumed);
        if (ci.resumed >= 0) CHECK(ci.peer_subject[0] != 0);
    }
    pipe_end(&p);
    return ci.resumed;
}

/* All sessions as bytes, in memory of exactly their length. */
static uint8_t *save(psocket_tls *tls, size_t *len)
{
    ptrdiff_t n = psocket_tls_savesessions(tls, NULL, 0);
    uint8_t *p;
    *len = 0;
    if (!CHECK(n > 0)) return NULL;
    p = (uint8_t *)malloc((size_t)n);
    memset(p, 0xEE, (size_t)n);
    CHECK_INT(psocket_tls_savesessions(tls, p, (size_t)n - 1), n); /* too small: nothing is written */
    CHECK(p[0] == 0xEE && p[n - 1] == 0xEE);
    CHECK_INT(psocket_tls_savesessions(tls, p, (size_t)n), n);
    *len = (size_t)n;
    return p;
}

/* Loads a copy that is exactly as long, with the digest at its end made right again if seal is set. */
static int load(psocket_tls *tls, const uint8_t *p, size_t n, int seal)
{
    uint8_t *copy = (uint8_t *)malloc(n ? n : 1);
    int code;
    if (n) memcpy(copy, p, n);
    if (seal && n >= 32) psi_tls_digest(copy, n - 32, copy + n - 32);
    code = psocket_tls_loadsessions(tls, copy, n);
    free(copy);
    return code;
}

static int64_t test_time;
static int64_t test_clock(void *user)
{
    (void)user;
    return test_time;
}

static psocket_tls *client_at_test_time(void)
{
    pipe_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    s.opt.clock = test_clock;
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

TEST(ports_are_told_apart)
{
    psocket_tls *server = pipe_server("ec"), *client = pipe_client();
    REQUIRE(server && client);
    CHECK_INT(shake(client, server, "localhost", 443), 0);
    CHECK_INT(shake(client, server, "localhost", 443), 1);
    CHECK_INT(shake(client, server, "localhost", 8443), 0);
    CHECK_INT(shake(client, server, "localhost", 8443), 1);
    CHECK_INT(shake(client, server, "localhost", 0), 0);
    CHECK_INT(shake(client, server, "localhost", 443), 1);
    CHECK_INT(client->client_sessions.count, 3);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

TEST(sockets_tell_the_port)
{
    psocket_tls *server = pipe_server("ec"), *client = pipe_client();
    psocket *l[2];
    psocket_tlsinfo info;
    psocket_options o;
    int i, port = 0;
    memset(&o, 0, sizeof o);
    o.timeout_ms = 5000;
    REQUIRE(server && client);
    REQUIRE(!psocket_listen(&l[0], "127.0.0.1", 0, &o) && !psocket_listen(&l[1], "127.0.0.1", 0, &o));
    for (i = 0; i < 4; i++) {
        psocket *c = NULL, *s = NULL;
        CHECK_INT(psocket_getlocal(l[i / 2], NULL, 0, &port), 0);
        REQUIRE(!psocket_connect(&c, "127.0.0.1", port, &o) && !psocket_accept(l[i / 2], &s));
        psocket_setnonblocking(c, 1);
        psocket_setnonblocking(s, 1);
        CHECK_INT(psocket_starttls(c, client, "localhost"), PSOCKET_WANT_READ);
        psocket_starttls(s, server, NULL);
        while (psocket_step(c) == PSOCKET_WANT_READ && psocket_wait(s, PSOCKET_READ | PSOCKET_WRITE, 20) >= 0)
            psocket_step(s);
        CHECK_INT(psocket_gettlsinfo(c, &info), 0);
        CHECK_INT(info.resumed, i % 2);
        psocket_free(c);
        psocket_free(s);
    }
    psocket_free(l[0]);
    psocket_free(l[1]);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

TEST(stored_and_loaded)
{
    psocket_tls *server = pipe_server("ec"), *rsa = pipe_server("rsa"), *first = pipe_client(), *second = pipe_client();
    psocket_tls *third = pipe_client();
    psi_tls_session *s;
    uint8_t *p, *q;
    size_t n, m;
    REQUIRE(server && rsa && first && second && third);
    p = save(first, &n); /* nothing yet: loads as nothing */
    REQUIRE(p != NULL);
    CHECK_INT(load(second, p, n, 0), 0);
    CHECK_INT(second->client_sessions.count, 0);
    free(p);
    CHECK_INT(shake(first, server, "localhost", 443), 0);
    CHECK_INT(shake(first, rsa, "example.test", 993), 0);
    p = save(first, &n);
    REQUIRE(p != NULL);
    CHECK_INT(load(second, p, n, 0), 0);
    CHECK_INT(second->client_sessions.count, 2);
    q = save(second, &m);
    REQUIRE(q != NULL);
    CHECK_INT(m, n);
    CHECK_MEM(q, p, n);
    CHECK_INT(shake(second, server, "LOCALHOST", 443), 1);
    CHECK_INT(shake(second, rsa, "example.test", 993), 1);
    CHECK_INT(shake(second, server, "localhost", 444), 0);
    CHECK_INT(load(second, p, n, 0), 0); /* those that are there stay, once */
    CHECK_INT(second->client_sessions.count, 3);
    CHECK_INT(load(second, q, m, 0), 0);
    CHECK_INT(second->client_sessions.count, 3);
    /* a session that a server has forgotten costs a full handshake, nothing else */
    CHECK_INT(load(third, p, n, 0), 0);
    CHECK_INT(shake(third, rsa, "localhost", 443), 0);
    /* a wrong secret fails one handshake, and is forgotten */
    s = &first->client_sessions.list[0];
    s->par.master_secret[5] ^= 1;
    CHECK_INT(shake(first, server, "localhost", 443), -1);
    CHECK_INT(shake(first, server, "localhost", 443), 0);
    free(p);
    free(q);
    psocket_tls_free(server);
    psocket_tls_free(rsa);
    psocket_tls_free(first);
    psocket_tls_free(second);
    psocket_tls_free(third);
}

TEST(expired_ones_are_dropped)
{
    psocket_tls *server = pipe_server("ec"), *first, *second;
    uint8_t *p;
    size_t n;
    test_time = (int64_t)time(NULL);
    first = client_at_test_time();
    second = client_at_test_time();
    REQUIRE(server && first && second);
    CHECK_INT(shake(first, server, "localhost", 443), 0);
    p = save(first, &n);
    REQUIRE(p != NULL);
    test_time += PSI_TLS_SESSION_TIME;
    CHECK_INT(load(second, p, n, 0), 0);
    CHECK_INT(second->client_sessions.count, 0);
    test_time -= PSI_TLS_SESSION_TIME + 1; /* from the future */
    CHECK_INT(load(second, p, n, 0), 0);
    CHECK_INT(second->client_sessions.count, 0);
    test_time++;
    CHECK_INT(load(second, p, n, 0), 0);
    CHECK_INT(second->client_sessions.count, 1);
    free(p);
    psocket_tls_free(server);
    psocket_tls_free(first);
    psocket_tls_free(second);
}

static int decide(void *user, const psocket_certinfo *peer, const psocket_error *verdict)
{
    (void)user;
    (void)peer;
    return verdict->code;
}

TEST(other_settings_refuse)
{
    static uint8_t pins[64];
    psocket_tls *server = pipe_server("ec"), *client = pipe_client();
    uint8_t *p;
    size_t n;
    int how;
    REQUIRE(server && client);
    CHECK_INT(shake(client, server, "localhost", 443), 0);
    p = save(client, &n);
    REQUIRE(p != NULL);
    for (how = 0; how < 10; how++) {
        pipe_settings s;
        psocket_tls *other;
        int same = how < 3;
        memset(&s, 0, sizeof s);
        pipe_ca(&s, how == 3 ? "other_ca.pem" : "ca.pem");
        if (how == 1) s.opt.clock = test_clock;
        if (how == 2) s.opt.suites = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"; /* the session is left out */
        if (how == 4) s.opt.insecure_no_name = 1;
        if (how == 5) s.opt.insecure_no_verify = 1;
        if (how == 6) s.opt.decide = decide;
        if (how == 7 || how == 8) s.opt.spki_pins = pins;
        if (how == 7 || how == 8) s.opt.spki_pin_count = (size_t)how - 6;
        if (how == 9) pipe_identity(&s, "client.pem", "client.key");
        test_time = (int64_t)time(NULL);
        other = pipe_make(&s);
        pipe_done(&s);
        REQUIRE(other);
        if (load(other, p, n, 0) != (same ? 0 : PSOCKET_INVALID)) check_fail(__FILE__, __LINE__, "settings %d", how);
        CHECK_INT(other->client_sessions.count, how < 2);
        psocket_tls_free(other);
    }
    CHECK_INT(psocket_tls_loadsessions(NULL, p, n), PSOCKET_INVALID); /* the default settings trust the system */
    free(p);
    psocket_tls_free(server);
    psocket_tls_free(client);
    psocket_cleanup();
}

TEST(the_default_settings)
{
    uint8_t buf[256];
    ptrdiff_t n = psocket_tls_savesessions(NULL, buf, sizeof buf);
    REQUIRE(n > 0 && n <= (ptrdiff_t)sizeof buf);
    CHECK_INT(psocket_tls_loadsessions(NULL, buf, (size_t)n), 0);
    CHECK_INT(psocket_tls_savesessions(NULL, NULL, 10), PSOCKET_INVALID);
    psocket_cleanup();
}

TEST_LIMIT(damaged_bytes, 60)
{
    psocket_tls *server = pipe_server("ec"), *client = pipe_client(), *other = pipe_client();
    uint8_t *p, more[40];
    size_t n, i;
    int bit, k, loaded = 0;
    REQUIRE(server && client && other);
    CHECK_INT(shake(client, server, "localhost", 443), 0);
    p = save(client, &n);
    REQUIRE(p != NULL);
    CHECK_INT(psocket_tls_loadsessions(other, NULL, n), PSOCKET_INVALID);
    for (i = 0; i < n; i++) { /* every truncation, with a digest that was true before and with one that is */
        CHECK_INT(load(other, p, i, 0), PSOCKET_INVALID);
        if (i != PSI_TLS_SAVED_HEAD + 32) CHECK_INT(load(other, p, i, 1), PSOCKET_INVALID);
    }
    CHECK_INT(other->client_sessions.count, 0);
    for (i = 0; i < n; i++)
        for (bit = 0; bit < 8; bit++) {
            p[i] = (uint8_t)(p[i] ^ 1 << bit);
            CHECK_INT(load(other, p, n, 0), PSOCKET_INVALID);
            if (i < n - 32) { /* with a true digest: refused, or a session that some handshake will not accept */
                psocket_tls *fresh = pipe_client();
                int code = load(fresh, p, n, 1);
                CHECK(code == 0 || code == PSOCKET_INVALID);
                if (i < PSI_TLS_SAVED_HEAD) CHECK_INT(code, PSOCKET_INVALID);
                if (!code && fresh->client_sessions.count && bit == 0) {
                    loaded++;
                    CHECK(shake(fresh, server, "localhost", 443) <= 1);
                }
                psocket_tls_free(fresh);
            }
            p[i] = (uint8_t)(p[i] ^ 1 << bit);
        }
    CHECK(loaded > 100);
    CHECK_INT(other->client_sessions.count, 0);
    for (i = 0; i < 2000; i++) { /* garbage behind a true header, with a true digest */
        memset(more, 0, sizeof more);
        for (k = 0; k < 40; k++) more[k] = (uint8_t)(rand() & 255);
        memcpy(p + PSI_TLS_SAVED_HEAD + i % (n - PSI_TLS_SAVED_HEAD - 72), more, sizeof more);
        load(other, p, n, 1);
        CHECK(other->client_sessions.count <= PSI_TLS_CLIENT_SESSIONS);
    }
    free(p);
    psocket_tls_free(server);
    psocket_tls_free(client);
    psocket_tls_free(other);
}

/* Loads with the time number k (from, until, not before, not after) replaced. */
static int load_with_time(psocket_tls *tls, uint8_t *p, size_t n, int k, int64_t value)
{
    uint8_t kept[8];
    uint8_t *at = p + PSI_TLS_SAVED_HEAD + 2 + 1 + 32 + 48 + 32 + 8 * k;
    int code;
    memcpy(kept, at, 8);
    psi_tls_write_number(at, (uint64_t)value, 8);
    code = load(tls, p, n, 1);
    memcpy(at, kept, 8);
    return code;
}

/* Fields that contradict each other, and too many sessions. */
TEST(impossible_fields)
{
    psocket_tls *server = pipe_server("ec"), *client, *other;
    int64_t now = test_time = (int64_t)time(NULL);
    uint8_t *p, *q;
    size_t n, one, i;
    client = client_at_test_time();
    other = client_at_test_time();
    REQUIRE(server && client && other);
    CHECK_INT(shake(client, server, "localhost", 443), 0);
    p = save(client, &n);
    REQUIRE(p != NULL);
    CHECK_INT(load_with_time(other, p, n, 0, now - 1), PSOCKET_INVALID); /* usable longer than any session */
    CHECK_INT(load_with_time(other, p, n, 0, INT64_MIN), PSOCKET_INVALID);
    CHECK_INT(load_with_time(other, p, n, 1, now), PSOCKET_INVALID); /* ends when it begins */
    CHECK_INT(load_with_time(other, p, n, 1, INT64_MAX), PSOCKET_INVALID);
    CHECK_INT(load_with_time(other, p, n, 3, now + 10), PSOCKET_INVALID); /* outlives the certificate */
    CHECK_INT(other->client_sessions.count, 0);
    one = n - PSI_TLS_SAVED_HEAD - 32;
    q = (uint8_t *)malloc(n + PSI_TLS_CLIENT_SESSIONS * one);
    memcpy(q, p, PSI_TLS_SAVED_HEAD);
    for (i = 0; i <= PSI_TLS_CLIENT_SESSIONS; i++) {
        memcpy(q + PSI_TLS_SAVED_HEAD + i * one, p + PSI_TLS_SAVED_HEAD, one);
        q[PSI_TLS_SAVED_HEAD + i * one + 2 + 1 + 32 + 48] = (uint8_t)i; /* another name */
    }
    CHECK_INT(load(other, q, n + PSI_TLS_CLIENT_SESSIONS * one, 1), PSOCKET_INVALID);
    CHECK_INT(other->client_sessions.count, 0);
    CHECK_INT(load(other, q, n + (PSI_TLS_CLIENT_SESSIONS - 1) * one, 1), 0);
    CHECK_INT(other->client_sessions.count, PSI_TLS_CLIENT_SESSIONS);
    free(p);
    free(q);
    psocket_tls_free(server);
    psocket_tls_free(client);
    psocket_tls_free(other);
}
