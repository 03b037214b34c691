/* Handshakes in memory: what succeeds, what was agreed, and how refusals are told. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static const char *const h2_http[] = {"h2", "http/1.1"};
static const char *const http_only[] = {"http/1.1"};
static const char *const imap_only[] = {"imap"};

/* A client or server with these protocols; settings by hand. */
static psocket_tls *with_alpn(const char *identity, const char *const *alpn, size_t count)
{
    pipe_settings s;
    psocket_tls *tls;
    char cert[64], key[64];
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    if (identity) {
        snprintf(cert, sizeof cert, "%s.pem", identity);
        snprintf(key, sizeof key, "%s.key", identity);
        pipe_identity(&s, cert, key);
    }
    s.opt.alpn = alpn;
    s.opt.alpn_count = count;
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

TEST_LIMIT(rsa_and_ec_at_any_granularity, 60)
{
    static const size_t steps[] = {1, 7, 512, 100000};
    static const char *const names[] = {"localhost", "example.test", "a.wild.test", "127.0.0.1", "::1", "LocalHost."};
    psocket_tls *rsa = pipe_server("rsa"), *ec = pipe_server("ec");
    psocket_tlsinfo ci, si;
    size_t i;
    REQUIRE(rsa && ec);
    for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        psocket_tls *client = pipe_client(); /* a new one each time: full handshakes */
        REQUIRE(client);
        pipe_good(client, rsa, "localhost", steps[i], &ci, &si);
        CHECK(strstr(ci.suite_name, "ECDHE_RSA"));
        CHECK_STR(ci.suite_name, si.suite_name);
        CHECK_INT(ci.version, 0x0303);
        CHECK_STR(ci.version_name, "TLSv1.2");
        CHECK_INT(ci.resumed, 0);
        CHECK(ci.peer_subject[0]);
        CHECK_STR(si.peer_subject, "");
        pipe_good(client, ec, "example.test", steps[i], &ci, &si);
        CHECK(strstr(ci.suite_name, "ECDHE_ECDSA"));
        CHECK_STR(si.server_name, "example.test");
        psocket_tls_free(client);
    }
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        psocket_tls *client = pipe_client();
        pipe_good(client, ec, names[i], 100000, &ci, &si);
        if (i == 3 || i == 4) {
            CHECK_STR(si.server_name, ""); /* RFC 6066 3: no addresses */
            CHECK_STR(ci.server_name, names[i]);
        }
        if (i == 5) CHECK_STR(si.server_name, "LocalHost");
        psocket_tls_free(client);
    }
    psocket_tls_free(rsa);
    psocket_tls_free(ec);
}

TEST(refused_certificates)
{
    psocket_tls *client = pipe_client(), *untrusted = pipe_server("untrusted"), *wrong = pipe_server("wrong");
    psocket_tls *expired = pipe_server("expired"), *self = pipe_server("self"), *good = pipe_server("rsa");
    psocket_tls *usage = pipe_server("client");
    REQUIRE(client && untrusted && wrong && expired && self && good && usage);
    pipe_bad(client, untrusted, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    pipe_bad(client, wrong, "localhost", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    pipe_bad(client, expired, "localhost", PSOCKET_CERT_EXPIRED, PSOCKET_TLS_ALERT, 45);
    pipe_bad(client, self, "localhost", PSOCKET_CERT_SELF_SIGNED, PSOCKET_TLS_ALERT, 48);
    pipe_bad(client, good, "example.org", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    pipe_bad(client, good, "127.0.0.2", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    psocket_tls_free(client);
    psocket_tls_free(untrusted);
    psocket_tls_free(wrong);
    psocket_tls_free(expired);
    psocket_tls_free(self);
    psocket_tls_free(good);
    psocket_tls_free(usage);
}

TEST(alpn)
{
    psocket_tls *none = pipe_server("ec"), *both = with_alpn("ec", h2_http, 2), *imap = with_alpn("ec", imap_only, 1);
    psocket_tlsinfo ci, si;
    psocket_tls *c;
    REQUIRE(none && both && imap);
    c = with_alpn(NULL, http_only, 1);
    pipe_good(c, both, "localhost", 512, &ci, &si);
    CHECK_STR(ci.alpn, "http/1.1");
    CHECK_STR(si.alpn, "http/1.1");
    pipe_good(c, none, "example.test", 512, &ci, &si); /* a server without ALPN ignores the offer */
    CHECK_STR(ci.alpn, "");
    CHECK_STR(si.alpn, "");
    pipe_bad(c, imap, "a.wild.test", PSOCKET_TLS_ALPN, PSOCKET_TLS_ALPN, 120);
    psocket_tls_free(c);
    c = with_alpn(NULL, h2_http, 2);
    pipe_good(c, both, "localhost", 7, &ci, &si);
    CHECK_STR(ci.alpn, "h2");
    psocket_tls_free(c);
    c = pipe_client(); /* a client without ALPN is welcome */
    pipe_good(c, both, "localhost", 512, &ci, &si);
    CHECK_STR(si.alpn, "");
    psocket_tls_free(c);
    psocket_tls_free(none);
    psocket_tls_free(both);
    psocket_tls_free(imap);
}

TEST(identities_by_name_and_ability)
{
    pipe_settings s;
    psocket_tls *server, *client = pipe_client();
    psocket_tlsinfo ci, si;
    memset(&s, 0, sizeof s);
    pipe_identity(&s, "wrong.pem", "wrong.key"); /* the first one: for wrong.test */
    pipe_identity(&s, "rsa.pem", "rsa.key");
    pipe_identity(&s, "ec.pem", "ec.key");
    server = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(server && client);
    pipe_good(client, server, "example.test", 512, &ci, &si);
    CHECK(strstr(ci.suite_name, "ECDSA"));
    pipe_good(client, server, "b.wild.test", 512, &ci, &si);
    CHECK(strstr(ci.suite_name, "ECDSA"));
    pipe_good(client, server, "wrong.test", 512, &ci, &si);
    CHECK_STR(si.server_name, "wrong.test");
    pipe_bad(client, server, "unknown.test", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42); /* got the first */
    {   /* a client that knows RSA suites only */
        psocket_tls *rsa = pipe_client();
        size_t i;
        REQUIRE(rsa);
        for (i = 0; i < PSI_TLS_SUITES; i++) rsa->prim.suites[i] = BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
        pipe_good(rsa, server, "example.test", 512, &ci, &si);
        CHECK_STR(ci.suite_name, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256");
        psocket_tls_free(rsa);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(every_suite)
{
    psocket_tls *rsa = pipe_server("rsa"), *ec = pipe_server("ec");
    psocket_tlsinfo ci, si;
    size_t i, k;
    REQUIRE(rsa && ec);
    for (i = 0; i < PSI_TLS_SUITES; i++) {
        psocket_tls *client = pipe_client();
        uint16_t suite;
        REQUIRE(client);
        suite = client->prim.suites[i];
        for (k = 0; k < PSI_TLS_SUITES; k++) client->prim.suites[k] = suite;
        pipe_good(client, strstr(psi_tls_suite_name(suite), "ECDSA") ? ec : rsa, "localhost", 512, &ci, &si);
        CHECK_INT(ci.suite, suite);
        CHECK_INT(si.suite, suite);
        CHECK_STR(ci.suite_name, psi_tls_suite_name(suite));
        pipe_bad(client, strstr(psi_tls_suite_name(suite), "ECDSA") ? rsa : ec, "example.test", PSOCKET_TLS_ALERT,
                 PSOCKET_TLS_HANDSHAKE, 40);
        psocket_tls_free(client);
    }
    psocket_tls_free(rsa);
    psocket_tls_free(ec);
}

/* A server that asks for a client certificate. */
static psocket_tls *asking_server(int how)
{
    pipe_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, "ec.pem", "ec.key");
    s.opt.client_auth = how;
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

static psocket_tls *client_with(const char *identity)
{
    pipe_settings s;
    psocket_tls *tls;
    char cert[64], key[64];
    memset(&s, 0, sizeof s);
    snprintf(cert, sizeof cert, "%s.pem", identity);
    snprintf(key, sizeof key, "%s.key", identity);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, cert, key);
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

TEST(client_certificates)
{
    psocket_tls *optional = asking_server(PSOCKET_CLIENT_AUTH_OPTIONAL), *required = asking_server(PSOCKET_CLIENT_AUTH_REQUIRED);
    psocket_tls *nobody = pipe_client(), *alice = client_with("client"), *stranger = client_with("untrusted");
    psocket_tls *server_cert = client_with("rsa");
    psocket_tlsinfo ci, si;
    static const uint8_t zero[32];
    int round;
    REQUIRE(optional && required && nobody && alice && stranger && server_cert);
    for (round = 0; round < 2; round++) {
        pipe_good(alice, required, "localhost", 512, &ci, &si);
        CHECK(strstr(si.peer_subject, "CN="));
        CHECK(memcmp(si.peer_sha256, zero, 32) && memcmp(si.peer_spki_sha256, zero, 32));
        CHECK_INT(si.resumed, 0); /* never without the certificate */
    }
    pipe_good(alice, optional, "localhost", 7, &ci, &si);
    CHECK(si.peer_subject[0]);
    pipe_good(nobody, optional, "localhost", 512, &ci, &si);
    CHECK_STR(si.peer_subject, "");
    pipe_bad(nobody, required, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, 40);
    pipe_bad(stranger, required, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    pipe_bad(stranger, optional, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    pipe_bad(server_cert, optional, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_USAGE, 43);
    psocket_tls_free(optional);
    psocket_tls_free(required);
    psocket_tls_free(nobody);
    psocket_tls_free(alice);
    psocket_tls_free(stranger);
    psocket_tls_free(server_cert);
}

static int64_t test_time;
static int64_t test_clock(void *user)
{
    (void)user;
    return test_time;
}

TEST(sessions_are_resumed)
{
    pipe_settings s;
    psocket_tls *server = pipe_server("ec"), *other = pipe_server("ec"), *client, *stranger = pipe_client();
    psocket_tlsinfo first, ci, si;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    test_time = (int64_t)time(NULL);
    s.opt.clock = test_clock;
    client = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(server && other && client && stranger);
    pipe_good(client, server, "localhost", 512, &first, &si);
    CHECK_INT(first.resumed, 0);
    pipe_good(client, server, "localhost", 1, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(ci.peer_subject, first.peer_subject); /* the identity comes with the session */
    CHECK_MEM(ci.peer_sha256, first.peer_sha256, 32);
    CHECK_MEM(ci.peer_spki_sha256, first.peer_spki_sha256, 32);
    CHECK_INT(ci.peer_not_after, first.peer_not_after);
    pipe_good(client, server, "LOCALHOST", 512, &ci, &si); /* names are the same in any case */
    CHECK_INT(ci.resumed, 1);
    pipe_good(client, server, "example.test", 512, &ci, &si); /* another name: another session */
    CHECK_INT(ci.resumed, 0);
    pipe_good(stranger, server, "localhost", 512, &ci, &si); /* other settings: another session */
    CHECK_INT(ci.resumed, 0);
    pipe_good(client, other, "localhost", 512, &ci, &si); /* a server that does not know it */
    CHECK_INT(ci.resumed, 0);
    CHECK_INT(si.resumed, 0);
    pipe_good(client, other, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    test_time += PSI_TLS_SESSION_TIME + 1; /* too old */
    pipe_good(client, other, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    psocket_tls_free(server);
    psocket_tls_free(other);
    psocket_tls_free(client);
    psocket_tls_free(stranger);
}

TEST(sessions_end_with_the_certificate)
{
    pipe_settings s;
    psocket_tls *server = pipe_server("ec"), *client;
    psocket_tlsinfo ci, si;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    test_time = (int64_t)time(NULL);
    s.opt.clock = test_clock;
    client = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(server && client);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    test_time = ci.peer_not_after - 10;
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    test_time = ci.peer_not_after + 10;
    pipe_bad(client, server, "localhost", PSOCKET_CERT_EXPIRED, PSOCKET_TLS_ALERT, 45);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

TEST(session_caches_are_bounded)
{
    psocket_tls *server = pipe_server("ec"), *client;
    psocket_tlsinfo ci, si;
    char name[32];
    int i;
    client = pipe_client();
    REQUIRE(server && client);
    for (i = 0; i < PSI_TLS_CLIENT_SESSIONS + 4; i++) {
        snprintf(name, sizeof name, "n%d.wild.test", i);
        pipe_good(client, server, name, 100000, &ci, &si);
        CHECK_INT(ci.resumed, 0);
    }
    CHECK_INT(client->client_sessions.count, PSI_TLS_CLIENT_SESSIONS);
    pipe_good(client, server, "n0.wild.test", 100000, &ci, &si); /* was pushed out */
    CHECK_INT(ci.resumed, 0);
    pipe_good(client, server, name, 100000, &ci, &si); /* the newest was not */
    CHECK_INT(ci.resumed, 1);
    for (i = 0; i < PSI_TLS_SERVER_SESSIONS + 3; i++) psi_tls_sessions_place(&server->server_sessions)->used = (uint64_t)i + 1000;
    CHECK_INT(server->server_sessions.count, PSI_TLS_SERVER_SESSIONS);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

static int decisions, decide_answer, decide_saw;
static int decide(void *user, const psocket_certinfo *peer, const psocket_error *verdict)
{
    CHECK(user == &decisions);
    CHECK(peer->subject && peer->subject[0] && peer->issuer);
    decisions++;
    decide_saw = verdict->code;
    return decide_answer;
}

TEST(the_application_decides)
{
    pipe_settings s;
    psocket_tls *good = pipe_server("ec"), *bad = pipe_server("untrusted"), *client;
    psocket_tlsinfo ci, si;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    s.opt.decide = decide;
    s.opt.decide_user = &decisions;
    client = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(good && bad && client);
    decide_answer = 0;
    pipe_good(client, good, "localhost", 512, &ci, &si);
    CHECK_INT(decide_saw, 0);
    pipe_good(client, good, "localhost", 512, &ci, &si); /* asked each time: no resumption behind its back */
    CHECK_INT(decisions, 2);
    pipe_good(client, bad, "localhost", 512, &ci, &si);
    CHECK_INT(decide_saw, PSOCKET_CERT_UNTRUSTED);
    decide_answer = 1;
    pipe_bad(client, good, "localhost", PSOCKET_CERT_REJECTED, PSOCKET_TLS_ALERT, 46);
    pipe_bad(client, bad, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    psocket_tls_free(good);
    psocket_tls_free(bad);
    psocket_tls_free(client);
}

TEST(pins)
{
    pipe_settings s;
    psocket_tls *server = pipe_server("ec"), *client = pipe_client();
    psocket_tlsinfo ci, si;
    uint8_t pin[64];
    REQUIRE(server && client);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    psocket_tls_free(client);
    memset(pin, 1, sizeof pin);
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    s.opt.spki_pins = pin;
    s.opt.spki_pin_count = 2;
    client = pipe_make(&s);
    REQUIRE(client);
    pipe_bad(client, server, "localhost", PSOCKET_CERT_PIN, PSOCKET_TLS_ALERT, 42);
    psocket_tls_free(client);
    memcpy(pin + 32, ci.peer_spki_sha256, 32);
    client = pipe_make(&s);
    memset(pin, 2, sizeof pin); /* they were copied */
    REQUIRE(client);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    pipe_done(&s);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(insecure_switches_do_what_they_say)
{
    pipe_settings s;
    psocket_tls *wrong = pipe_server("wrong"), *untrusted = pipe_server("untrusted"), *client;
    psocket_tlsinfo ci, si;
    psi_hs *h = NULL;
    psocket_error e = {0};
    REQUIRE(wrong && untrusted);
    client = pipe_client();
    CHECK_INT(psi_hs_new(&h, client, 0, NULL, 0, &e), PSOCKET_INVALID); /* no name, no verification, no handshake */
    CHECK(h == NULL && e.text[0]);
    CHECK_INT(psi_hs_new(&h, client, 0, "", 0, &e), PSOCKET_INVALID);
    CHECK_INT(psi_hs_new(&h, client, 0, "a b", 0, &e), PSOCKET_INVALID);
    CHECK_INT(psi_hs_new(&h, client, 0, "caf\xc3\xa9.test", 0, &e), PSOCKET_INVALID);
    psocket_tls_free(client);
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    s.opt.insecure_no_name = 1;
    client = pipe_make(&s);
    pipe_good(client, wrong, "localhost", 512, &ci, &si);
    pipe_good(client, wrong, NULL, 512, &ci, &si);
    pipe_bad(client, untrusted, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    psocket_tls_free(client);
    s.opt.insecure_no_name = 0;
    s.opt.insecure_no_verify = 1;
    client = pipe_make(&s);
    pipe_good(client, untrusted, "localhost", 512, &ci, &si);
    pipe_good(client, wrong, NULL, 512, &ci, &si);
    pipe_done(&s);
    psocket_tls_free(client);
    psocket_tls_free(wrong);
    psocket_tls_free(untrusted);
}

TEST(handshakes_keep_their_settings)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("ec");
    pipe_ends p;
    psocket_error e = {0};
    memset(&p, 0, sizeof p);
    REQUIRE(client && server);
    CHECK_INT(psi_hs_new(&p.client, client, 0, "localhost", 0, &e), 0);
    CHECK_INT(psi_hs_new(&p.server, server, 1, NULL, 0, &e), 0);
    psocket_tls_free(client); /* e.g. a renewed certificate: running handshakes go on */
    psocket_tls_free(server);
    pipe_run(p.client, p.server, 100);
    p.client_status = psi_hs_status(p.client, &p.client_error);
    p.server_status = psi_hs_status(p.server, &p.server_error);
    pipe_talk(&p, NULL, NULL);
    pipe_end(&p);
}

TEST(what_remains_is_small)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("ec");
    pipe_ends p;
    psi_rec *rec = NULL;
    psi_tlsinfo *info = NULL;
    REQUIRE(client && server);
    pipe_shake(&p, client, server, "localhost", 512);
    REQUIRE(p.client_status == 0);
    CHECK_INT(psi_hs_finish(p.client, &rec, &info), 0);
    CHECK(rec->size <= 700);
    CHECK((rec->size - PSI_REC_CONTEXTS) / 2 <= 320);
    CHECK_INT(psi_rec_max_send(rec), 16384);
    psi_rec_free(rec);
    psi_tlsinfo_free(info);
    pipe_end(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
