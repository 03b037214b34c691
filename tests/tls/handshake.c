/* Handshakes in memory: what succeeds, what was agreed, and how refusals are told. */
#include "kit.h"

static const char *const h2_http[] = {"h2", "http/1.1"};
static const char *const http_only[] = {"http/1.1"};
static const char *const imap_only[] = {"imap"};

/* The suites of each version, those of 1.2 for EC and RSA keys. */
#define EC_128 "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
#define EC_256 "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
#define EC_CHA "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
#define RSA_128 "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
#define RSA_256 "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
#define RSA_CHA "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"

/* A client or server with these protocols. */
static psocket_tls *with_alpn(const char *identity, const char *const *alpn, size_t count)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.alpn = alpn;
    s.opt.alpn_count = count;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

KIT_TEST(rsa_and_ec_at_any_granularity, 60)
{
    static const size_t steps[] = {1, 7, 512, 100000};
    static const char *const names[] = {"localhost", "example.test", "a.wild.test", "127.0.0.1", "::1", "LocalHost."};
    psocket_tls *rsa = kit_server("rsa"), *ec = kit_server("ec");
    psocket_tlsinfo ci, si;
    size_t i;
    REQUIRE(rsa && ec);
    for (i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        psocket_tls *client = kit_client(); /* a new one each time: full handshakes */
        REQUIRE(client);
        kit_good(client, rsa, "localhost", steps[i], &ci, &si);
        CHECK(!kit_is_ec(&ci));
        CHECK_STR(ci.suite_name, si.suite_name);
        CHECK_INT(ci.version, kit_version);
        CHECK_STR(ci.version_name, kit_version == 0x0303 ? "TLSv1.2" : "TLSv1.3");
        CHECK_INT(ci.resumed, 0);
        CHECK(ci.peer_subject[0]);
        CHECK_STR(si.peer_subject, "");
        kit_good(client, ec, "example.test", steps[i], &ci, &si);
        CHECK(kit_is_ec(&ci));
        CHECK_STR(si.server_name, "example.test");
        psocket_tls_free(client);
    }
    for (i = 0; i < sizeof names / sizeof names[0]; i++) {
        psocket_tls *client = kit_client();
        kit_good(client, ec, names[i], 100000, &ci, &si);
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

KIT_TEST(refused_certificates, 60)
{
    psocket_tls *client = kit_client(), *untrusted = kit_server("untrusted"), *wrong = kit_server("wrong");
    psocket_tls *expired = kit_server("expired"), *self = kit_server("self"), *good = kit_server("rsa");
    psocket_tls *usage = kit_server("client");
    REQUIRE(client && untrusted && wrong && expired && self && good && usage);
    kit_bad(client, untrusted, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    kit_bad(client, wrong, "localhost", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    kit_bad(client, expired, "localhost", PSOCKET_CERT_EXPIRED, PSOCKET_TLS_ALERT, 45);
    kit_bad(client, self, "localhost", PSOCKET_CERT_SELF_SIGNED, PSOCKET_TLS_ALERT, 48);
    kit_bad(client, good, "example.org", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    kit_bad(client, good, "127.0.0.2", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42);
    psocket_tls_free(client);
    psocket_tls_free(untrusted);
    psocket_tls_free(wrong);
    psocket_tls_free(expired);
    psocket_tls_free(self);
    psocket_tls_free(good);
    psocket_tls_free(usage);
}

KIT_TEST(alpn, 60)
{
    psocket_tls *none = kit_server("ec"), *both = with_alpn("ec", h2_http, 2), *imap = with_alpn("ec", imap_only, 1);
    psocket_tlsinfo ci, si;
    psocket_tls *c;
    REQUIRE(none && both && imap);
    c = with_alpn(NULL, http_only, 1);
    kit_good(c, both, "localhost", 512, &ci, &si);
    CHECK_STR(ci.alpn, "http/1.1");
    CHECK_STR(si.alpn, "http/1.1");
    kit_good(c, none, "example.test", 512, &ci, &si); /* a server without ALPN ignores the offer */
    CHECK_STR(ci.alpn, "");
    CHECK_STR(si.alpn, "");
    kit_bad(c, imap, "a.wild.test", PSOCKET_TLS_ALPN, PSOCKET_TLS_ALPN, 120);
    psocket_tls_free(c);
    c = with_alpn(NULL, h2_http, 2);
    kit_good(c, both, "localhost", 7, &ci, &si);
    CHECK_STR(ci.alpn, "h2");
    psocket_tls_free(c);
    c = kit_client(); /* a client without ALPN is welcome */
    kit_good(c, both, "localhost", 512, &ci, &si);
    CHECK_STR(si.alpn, "");
    psocket_tls_free(c);
    psocket_tls_free(none);
    psocket_tls_free(both);
    psocket_tls_free(imap);
}

KIT_TEST(identities_by_name_and_ability, 60)
{
    kit_settings s;
    psocket_tls *server, *client = kit_client();
    psocket_tlsinfo ci, si;
    memset(&s, 0, sizeof s);
    kit_identity(&s, "wrong"); /* the first one: for wrong.test */
    kit_identity(&s, "rsa");
    kit_identity(&s, "ec");
    server = kit_make(&s);
    kit_done(&s);
    REQUIRE(server && client);
    kit_good(client, server, "example.test", 512, &ci, &si);
    CHECK(kit_is_ec(&ci));
    kit_good(client, server, "b.wild.test", 512, &ci, &si);
    CHECK(kit_is_ec(&ci));
    kit_good(client, server, "wrong.test", 512, &ci, &si);
    CHECK_STR(si.server_name, "wrong.test");
    kit_bad(client, server, "unknown.test", PSOCKET_CERT_NAME, PSOCKET_TLS_ALERT, 42); /* got the first */
    if (kit_version == 0x0303) { /* a client that knows RSA suites only */
        psocket_tls *rsa = kit_tls(NULL, RSA_128, PSOCKET_CLIENT_AUTH_NONE);
        REQUIRE(rsa);
        kit_good(rsa, server, "example.test", 512, &ci, &si);
        CHECK_STR(ci.suite_name, RSA_128);
        psocket_tls_free(rsa);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(every_suite)
{
    static const char *const names[] = {EC_128, EC_256, EC_CHA, RSA_128, RSA_256, RSA_CHA};
    static const int numbers[] = {0xC02B, 0xC02C, 0xCCA9, 0xC02F, 0xC030, 0xCCA8};
    psocket_tls *rsa, *ec;
    psocket_tlsinfo ci, si;
    size_t i;
    kit_version = 0x0303;
    rsa = kit_server("rsa");
    ec = kit_server("ec");
    REQUIRE(rsa && ec);
    for (i = 0; i < 6; i++) {
        psocket_tls *client = kit_tls(NULL, names[i], PSOCKET_CLIENT_AUTH_NONE);
        REQUIRE(client);
        kit_good(client, i < 3 ? ec : rsa, "localhost", 512, &ci, &si);
        CHECK_INT(ci.suite, numbers[i]);
        CHECK_INT(si.suite, numbers[i]);
        CHECK_STR(ci.suite_name, names[i]);
        kit_bad(client, i < 3 ? rsa : ec, "example.test", PSOCKET_TLS_ALERT, PSOCKET_TLS_HANDSHAKE, 40);
        psocket_tls_free(client);
    }
    psocket_tls_free(rsa);
    psocket_tls_free(ec);
}

TEST(every_suite_of_1_3)
{
    static const char *const names[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"};
    psocket_tls *rsa, *ec;
    psocket_tlsinfo ci, si;
    int i, k;
    kit_version = 0x0304;
    rsa = kit_server("rsa");
    ec = kit_server("ec");
    REQUIRE(rsa && ec);
    for (i = 0; i < 6; i++) {
        psocket_tls *client = kit_tls(NULL, names[i % 3], PSOCKET_CLIENT_AUTH_NONE);
        REQUIRE(client);
        for (k = 0; k < 2; k++) { /* full and resumed: the schedule hangs on the suite's hash */
            kit_good(client, i < 3 ? ec : rsa, "localhost", 512, &ci, &si);
            CHECK_INT(ci.suite, 0x1301 + i % 3);
            CHECK_INT(si.suite, 0x1301 + i % 3);
            CHECK_STR(ci.suite_name, names[i % 3]);
            CHECK_INT(ci.resumed, k);
            CHECK_INT(si.resumed, k);
        }
        psocket_tls_free(client);
    }
    psocket_tls_free(rsa);
    psocket_tls_free(ec);
}

KIT_TEST(client_certificates, 60)
{
    psocket_tls *optional = kit_tls("ec", NULL, PSOCKET_CLIENT_AUTH_OPTIONAL), *required = kit_tls("ec", NULL, PSOCKET_CLIENT_AUTH_REQUIRED);
    psocket_tls *nobody = kit_client(), *alice = kit_server("client"), *stranger = kit_server("untrusted");
    psocket_tls *server_cert = kit_server("rsa");
    psocket_tlsinfo ci, si;
    static const uint8_t zero[32];
    int round;
    REQUIRE(optional && required && nobody && alice && stranger && server_cert);
    for (round = 0; round < 2; round++) {
        kit_good(alice, required, "localhost", 512, &ci, &si);
        CHECK(strstr(si.peer_subject, "CN="));
        CHECK(memcmp(si.peer_sha256, zero, 32) && memcmp(si.peer_spki_sha256, zero, 32));
    }
    kit_good(alice, optional, "localhost", 7, &ci, &si);
    CHECK(si.peer_subject[0]);
    kit_good(nobody, optional, "localhost", 512, &ci, &si);
    CHECK_STR(si.peer_subject, "");
    kit_bad(nobody, required, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, kit_version == 0x0304 ? 116 : 40);
    kit_bad(stranger, required, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    kit_bad(stranger, optional, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    kit_bad(server_cert, optional, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_USAGE, 43);
    psocket_tls_free(optional);
    psocket_tls_free(required);
    psocket_tls_free(nobody);
    psocket_tls_free(alice);
    psocket_tls_free(stranger);
    psocket_tls_free(server_cert);
}

KIT_TEST(sessions_are_resumed, 60)
{
    kit_settings s;
    psocket_tls *server = kit_server("ec"), *other = kit_server("ec"), *client, *stranger = kit_client();
    psocket_tlsinfo first, ci, si;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_time = (int64_t)time(NULL);
    s.opt.clock = kit_clock;
    client = kit_make(&s);
    kit_done(&s);
    REQUIRE(server && other && client && stranger);
    kit_good(client, server, "localhost", 512, &first, &si);
    CHECK_INT(first.resumed, 0);
    kit_good(client, server, "localhost", 1, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(ci.peer_subject, first.peer_subject); /* the identity comes with the session */
    CHECK_MEM(ci.peer_sha256, first.peer_sha256, 32);
    CHECK_MEM(ci.peer_spki_sha256, first.peer_spki_sha256, 32);
    CHECK_INT(ci.peer_not_after, first.peer_not_after);
    kit_good(client, server, "LOCALHOST", 512, &ci, &si); /* names are the same in any case */
    CHECK_INT(ci.resumed, 1);
    kit_good(client, server, "example.test", 512, &ci, &si); /* another name: another session */
    CHECK_INT(ci.resumed, 0);
    kit_good(stranger, server, "localhost", 512, &ci, &si); /* other settings: another session */
    CHECK_INT(ci.resumed, 0);
    kit_good(client, other, "localhost", 512, &ci, &si); /* a server that does not know it */
    CHECK_INT(ci.resumed, 0);
    CHECK_INT(si.resumed, 0);
    kit_good(client, other, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    kit_time += 8 * 86400; /* too old: more than seven days */
    kit_good(client, other, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    psocket_tls_free(server);
    psocket_tls_free(other);
    psocket_tls_free(client);
    psocket_tls_free(stranger);
}

KIT_TEST(sessions_end_with_the_certificate, 60)
{
    kit_settings s;
    psocket_tls *server = kit_server("ec"), *client;
    psocket_tlsinfo ci, si;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_time = (int64_t)time(NULL);
    s.opt.clock = kit_clock;
    client = kit_make(&s);
    kit_done(&s);
    REQUIRE(server && client);
    kit_good(client, server, "localhost", 512, &ci, &si);
    kit_time = ci.peer_not_after - 10;
    kit_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    kit_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    kit_time = ci.peer_not_after + 10;
    kit_bad(client, server, "localhost", PSOCKET_CERT_EXPIRED, PSOCKET_TLS_ALERT, 45);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

/* Clients remember 32 servers: the one not used for longest goes first. */
KIT_TEST(session_caches_are_bounded, 120)
{
    enum { SESSIONS = 32 };
    psocket_tls *server = kit_server("ec"), *client = kit_client();
    psocket_tlsinfo ci, si;
    char name[32];
    int i;
    REQUIRE(server && client);
    for (i = 0; i < SESSIONS + 4; i++) {
        snprintf(name, sizeof name, "n%d.wild.test", i);
        kit_good(client, server, name, 100000, &ci, &si);
        CHECK_INT(ci.resumed, 0);
    }
    kit_good(client, server, "n0.wild.test", 100000, &ci, &si); /* was pushed out */
    CHECK_INT(ci.resumed, 0);
    kit_good(client, server, name, 100000, &ci, &si); /* the newest was not */
    CHECK_INT(ci.resumed, 1);
    psocket_tls_free(server);
    psocket_tls_free(client);
}

KIT_TEST(pins, 60)
{
    kit_settings s;
    psocket_tls *server = kit_server("ec"), *client = kit_client();
    psocket_tlsinfo ci, si;
    uint8_t pin[64];
    REQUIRE(server && client);
    kit_good(client, server, "localhost", 512, &ci, &si);
    psocket_tls_free(client);
    memset(pin, 1, sizeof pin);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.spki_pins = pin;
    s.opt.spki_pin_count = 2;
    client = kit_make(&s);
    REQUIRE(client);
    kit_bad(client, server, "localhost", PSOCKET_CERT_PIN, PSOCKET_TLS_ALERT, 42);
    psocket_tls_free(client);
    memcpy(pin + 32, ci.peer_spki_sha256, 32);
    client = kit_make(&s);
    memset(pin, 2, sizeof pin); /* they were copied */
    REQUIRE(client);
    kit_good(client, server, "localhost", 512, &ci, &si);
    kit_done(&s);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

KIT_TEST(insecure_switches_do_what_they_say, 60)
{
    kit_settings s;
    psocket_tls *wrong = kit_server("wrong"), *untrusted = kit_server("untrusted"), *client;
    psocket_tlsinfo ci, si;
    kit_end *h = NULL;
    psocket_error e = {0};
    REQUIRE(wrong && untrusted);
    client = kit_client();
    CHECK_INT(kit_new(&h, client, PSOCKET_CLIENT, NULL, &e), PSOCKET_INVALID); /* no name, no verification, no handshake */
    CHECK(h == NULL && e.text[0]);
    CHECK_INT(kit_new(&h, client, PSOCKET_CLIENT, "", &e), PSOCKET_INVALID);
    CHECK_INT(kit_new(&h, client, PSOCKET_CLIENT, "a b", &e), PSOCKET_INVALID);
    CHECK_INT(kit_new(&h, client, PSOCKET_CLIENT, "caf\xc3\xa9.test", &e), PSOCKET_INVALID);
    psocket_tls_free(client);
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.insecure_no_name = 1;
    client = kit_make(&s);
    kit_good(client, wrong, "localhost", 512, &ci, &si);
    kit_good(client, wrong, NULL, 512, &ci, &si);
    kit_bad(client, untrusted, "localhost", PSOCKET_CERT_UNTRUSTED, PSOCKET_TLS_ALERT, 48);
    psocket_tls_free(client);
    s.opt.insecure_no_name = 0;
    s.opt.insecure_no_verify = 1;
    client = kit_make(&s);
    kit_good(client, untrusted, "localhost", 512, &ci, &si);
    kit_good(client, wrong, NULL, 512, &ci, &si);
    kit_done(&s);
    psocket_tls_free(client);
    psocket_tls_free(wrong);
    psocket_tls_free(untrusted);
}

KIT_TEST(handshakes_keep_their_settings, 60)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_ends p;
    psocket_error e = {0};
    memset(&p, 0, sizeof p);
    REQUIRE(client && server);
    CHECK_INT(kit_new(&p.client, client, PSOCKET_CLIENT, "localhost", &e), 0);
    CHECK_INT(kit_new(&p.server, server, PSOCKET_SERVER, NULL, &e), 0);
    psocket_tls_free(client); /* e.g. a renewed certificate: running handshakes go on */
    psocket_tls_free(server);
    kit_run(p.client, p.server, 100);
    p.client_status = kit_status(p.client, &p.client_error);
    p.server_status = kit_status(p.server, &p.server_error);
    kit_talk(&p, NULL, NULL);
    kit_end_both(&p);
}
