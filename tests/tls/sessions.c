/* Sessions: kept per name, port and settings; stored as bytes and loaded again; damaged bytes are refused. */
#include "kit.h"

/* A handshake: 1 resumed, 0 full, -1 failed. */
static int shake(psocket_tls *client, psocket_tls *server, const char *name)
{
    kit_ends p;
    psocket_tlsinfo ci, si;
    memset(&ci, 0, sizeof ci);
    ci.resumed = -1;
    kit_shake(&p, client, server, name, 100000);
    if (!p.client_status) kit_talk(&p, &ci, &si);
    if (ci.resumed >= 0) CHECK_INT(ci.resumed, si.resumed);
    if (ci.resumed >= 0) CHECK(ci.peer_subject[0] != 0);
    kit_end_both(&p);
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

/* Loads a copy that is exactly as long. */
static int load(psocket_tls *tls, const uint8_t *p, size_t n)
{
    uint8_t *copy = (uint8_t *)malloc(n ? n : 1);
    int code;
    if (n) memcpy(copy, p, n);
    code = psocket_tls_loadsessions(tls, copy, n);
    free(copy);
    return code;
}

/* How many bytes its sessions take; what none take. */
static ptrdiff_t size_of(psocket_tls *tls)
{
    return psocket_tls_savesessions(tls, NULL, 0);
}

static ptrdiff_t none(void)
{
    psocket_tls *tls = kit_client();
    ptrdiff_t n = size_of(tls);
    psocket_tls_free(tls);
    return n;
}

static psocket_tls *client_at_test_time(void)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.clock = kit_clock;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* Sessions are kept per port: another one may be another server. */
KIT_TEST(sockets_tell_the_port, 20)
{
    psocket_tls *server = kit_server("ec"), *client = kit_client();
    psocket *l[2];
    psocket_tlsinfo info;
    psocket_options o;
    const void *data;
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
        CHECK_INT(psocket_send(s, "x", 1), 1); /* and in TLS 1.3 the tickets */
        CHECK_INT(psocket_flush(s), 0);
        CHECK_INT(psocket_wait(c, PSOCKET_READ, 5000), PSOCKET_READ);
        CHECK_INT(psocket_recv(c, &data), 1);
        psocket_free(c);
        psocket_free(s);
    }
    psocket_free(l[0]);
    psocket_free(l[1]);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

KIT_TEST(stored_and_loaded, 20)
{
    psocket_tls *server = kit_server("ec"), *rsa = kit_server("rsa"), *first = kit_client(), *second = kit_client();
    psocket_tls *third = kit_client();
    uint8_t *p, *q;
    size_t n, m;
    REQUIRE(server && rsa && first && second && third);
    p = save(first, &n); /* nothing yet: loads as nothing */
    REQUIRE(p != NULL);
    CHECK_INT(load(second, p, n), 0);
    CHECK_INT(size_of(second), n);
    free(p);
    CHECK_INT(shake(first, server, "localhost"), 0);
    CHECK_INT(shake(first, rsa, "example.test"), 0);
    p = save(first, &n);
    REQUIRE(p != NULL);
    CHECK_INT(load(second, p, n), 0);
    q = save(second, &m);
    REQUIRE(q != NULL);
    CHECK_INT(m, n);
    CHECK_MEM(q, p, n);
    CHECK_INT(load(second, p, n), 0); /* those that are there stay, once */
    CHECK_INT(load(second, q, m), 0);
    CHECK_INT(size_of(second), n);
    CHECK_INT(shake(second, server, "LOCALHOST"), 1);
    CHECK_INT(shake(second, rsa, "example.test"), 1);
    CHECK_INT(shake(second, server, "a.wild.test"), 0);
    /* a session that a server does not know costs a full handshake, nothing else */
    CHECK_INT(load(third, p, n), 0);
    CHECK_INT(shake(third, rsa, "localhost"), 0);
    free(p);
    free(q);
    psocket_tls_free(server);
    psocket_tls_free(rsa);
    psocket_tls_free(first);
    psocket_tls_free(second);
    psocket_tls_free(third);
}

KIT_TEST(expired_ones_are_dropped, 20)
{
    enum { SEVEN_DAYS = 7 * 86400 };
    psocket_tls *server = kit_server("ec"), *first, *second;
    uint8_t *p;
    size_t n;
    ptrdiff_t empty = none();
    kit_time = (int64_t)time(NULL);
    first = client_at_test_time();
    second = client_at_test_time();
    REQUIRE(server && first && second);
    CHECK_INT(shake(first, server, "localhost"), 0);
    p = save(first, &n);
    REQUIRE(p != NULL);
    kit_time += SEVEN_DAYS; /* no session is good for longer */
    CHECK_INT(load(second, p, n), 0);
    CHECK_INT(size_of(second), empty);
    kit_time -= SEVEN_DAYS + 1; /* from the future */
    CHECK_INT(load(second, p, n), 0);
    CHECK_INT(size_of(second), empty);
    kit_time++;
    CHECK_INT(load(second, p, n), 0);
    CHECK_INT(size_of(second), n);
    free(p);
    psocket_tls_free(server);
    psocket_tls_free(first);
    psocket_tls_free(second);
}

#define DECIDE 1

KIT_TEST(other_settings_refuse, 20)
{
    static uint8_t pins[64];
    psocket_tls *server = kit_server("ec"), *client = kit_client();
    uint8_t *p;
    size_t n;
    ptrdiff_t empty = none();
    int how;
    REQUIRE(server && client);
    CHECK_INT(shake(client, server, "localhost"), 0);
    p = save(client, &n);
    REQUIRE(p != NULL);
    for (how = 0; how < 10; how++) {
        kit_settings s;
        psocket_tls *other;
        int same = how < 3;
        memset(&s, 0, sizeof s);
        kit_ca(&s, how == 3 ? "other_ca.pem" : "ca.pem");
        if (how == 1) s.opt.clock = kit_clock;
        if (how == 2) /* the session is of no use: another suite, of another hash */
            s.opt.suites = kit_version == 0x0304 ? "TLS_AES_256_GCM_SHA384" : "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256";
        if (how == 4) s.opt.insecure_no_name = 1;
        if (how == 5) s.opt.insecure_no_verify = 1;
        if (how == 6) s.opt.decide = DECIDE;
        if (how == 7 || how == 8) s.opt.spki_pins = pins;
        if (how == 7 || how == 8) s.opt.spki_pin_count = (size_t)how - 6;
        if (how == 9) kit_identity(&s, "client");
        kit_time = (int64_t)time(NULL);
        other = kit_make(&s);
        kit_done(&s);
        REQUIRE(other);
        if (load(other, p, n) != (same ? 0 : PSOCKET_INVALID)) check_fail(__FILE__, __LINE__, "settings %d", how);
        if (how < 2) CHECK_INT(size_of(other), n);
        else if (!same) CHECK_INT(size_of(other), empty);
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

/* Every truncation, every changed bit, bytes behind the end: nothing is taken. tests/fuzz has what a true check does not keep
   out. */
KIT_TEST(damaged_bytes, 60)
{
    psocket_tls *server = kit_server("ec"), *client = kit_client(), *other = kit_client();
    uint8_t *p;
    size_t n, i;
    int bit;
    ptrdiff_t empty = none();
    REQUIRE(server && client && other);
    CHECK_INT(shake(client, server, "localhost"), 0);
    p = save(client, &n);
    REQUIRE(p != NULL);
    CHECK_INT(psocket_tls_loadsessions(other, NULL, n), PSOCKET_INVALID);
    for (i = 0; i < n; i++) CHECK_INT(load(other, p, i), PSOCKET_INVALID);
    for (i = 0; i < n * 8; i++) {
        bit = 1 << i % 8;
        p[i / 8] = (uint8_t)(p[i / 8] ^ bit);
        CHECK_INT(load(other, p, n), PSOCKET_INVALID);
        p[i / 8] = (uint8_t)(p[i / 8] ^ bit);
    }
    p = (uint8_t *)realloc(p, n + 1);
    p[n] = 0;
    CHECK_INT(load(other, p, n + 1), PSOCKET_INVALID);
    CHECK_INT(size_of(other), empty);
    CHECK_INT(load(other, p, n), 0);
    CHECK(size_of(other) > empty);
    free(p);
    psocket_tls_free(server);
    psocket_tls_free(client);
    psocket_tls_free(other);
}
