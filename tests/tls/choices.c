/* What two ends agree on: groups, signature schemes, kinds of keys, versions; and the lists that the options take. */
#include "tls/wire.h"


typedef struct side {
    const char *identity, *suites, *groups, *sigalgs;
    int min, max, client_auth;
} side;

static psocket_tls *make(const side *x)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (x->identity) kit_identity(&s, x->identity);
    s.opt.suites = x->suites;
    s.opt.groups = x->groups;
    s.opt.sigalgs = x->sigalgs;
    s.opt.min_version = x->min;
    s.opt.max_version = x->max;
    s.opt.client_auth = x->client_auth;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* A handshake between the two, which must agree on this group and scheme (NULL: whatever). */
static void agree(const side *c, const side *s, const char *group, const char *sigalg, int resumed_too)
{
    psocket_tls *client = make(c), *server = make(s);
    psocket_tlsinfo ci, si;
    int round;
    REQUIRE(client && server);
    for (round = 0; round <= resumed_too; round++) {
        kit_good(client, server, "localhost", 100000, &ci, &si);
        CHECK_INT(ci.resumed, round);
        CHECK_INT(si.resumed, round);
        CHECK_STR(ci.group_name, si.group_name);
        CHECK_INT(ci.group, si.group);
        if (group && !(round && ci.version == 0x0303)) CHECK_STR(ci.group_name, group);
        if (sigalg && !round) {
            CHECK_STR(ci.sigalg_name, sigalg);
            CHECK_STR(si.sigalg_name, sigalg);
        }
        if (round) CHECK_STR(ci.sigalg_name, "");
        CHECK_INT(ci.extended_master_secret, 1);
        CHECK_INT(si.extended_master_secret, 1);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}

KIT_TEST(every_group, 60)
{
    static const char *const groups[] = {"x25519", "secp256r1", "secp384r1", "secp521r1"};
    size_t i, k;
    for (i = 0; i < 4; i++) {
        side c = {NULL, NULL, groups[i], NULL, 0, 0, 0}, s = {"rsa", NULL, NULL, NULL, 0, 0, 0};
        agree(&c, &s, groups[i], NULL, 1); /* with an RSA key: groups restrict the curves of certificates in TLS 1.2 */
        c.groups = NULL;
        s.groups = groups[i]; /* TLS 1.3: by HelloRetryRequest */
        agree(&c, &s, groups[i], NULL, 1);
        for (k = 0; k < 4; k++) {
            char both[64];
            if (k == i) continue;
            snprintf(both, sizeof both, "%s:%s", groups[k], groups[i]);
            c.groups = both;
            agree(&c, &s, groups[i], NULL, 0);
        }
    }
}

KIT_TEST(no_group_in_common, 20)
{
    side c = {NULL, NULL, "x25519", NULL, 0, 0, 0}, s = {"rsa", NULL, "secp384r1", NULL, 0, 0, 0};
    psocket_tls *client = make(&c), *server = make(&s);
    REQUIRE(client && server);
    kit_bad(client, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_TLS_HANDSHAKE, 40);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

/* Each kind of key signs as it can, in both roles. */
KIT_TEST(every_kind_of_key, 60)
{
    static const struct { const char *identity, *sigalg[2]; } keys[] = {
        {"ec", {"ecdsa_secp256r1_sha256", "ecdsa_secp256r1_sha256"}}, {"ec384", {"ecdsa_secp384r1_sha384", "ecdsa_secp384r1_sha384"}},
        {"ec521", {"ecdsa_secp521r1_sha512", "ecdsa_secp521r1_sha512"}}, {"rsa", {NULL, "rsa_pss_rsae_sha256"}}, {"pss", {NULL, NULL}}};
    size_t i;
    for (i = 0; i < 5; i++) {
        side c = {NULL, NULL, NULL, NULL, 0, 0, 0}, s = {NULL, NULL, NULL, NULL, 0, 0, 0};
        s.identity = keys[i].identity;
        agree(&c, &s, NULL, kit_version == 0x0304 ? keys[i].sigalg[1] : NULL, 1);
    }
    for (i = 0; i < 2; i++) { /* client certificates of each kind, resumed, too */
        side c = {"client", NULL, NULL, NULL, 0, 0, 0}, s = {"ec", NULL, NULL, NULL, 0, 0, PSOCKET_CLIENT_AUTH_REQUIRED};
        if (i) c.identity = "client_ec";
        agree(&c, &s, NULL, NULL, 1);
    }
}

/* Each scheme alone in the client's list. */
KIT_TEST(every_scheme, 60)
{
    static const struct { const char *name, *identity; int v12, v13; } schemes[] = {
        {"ecdsa_secp256r1_sha256", "ec", 1, 1}, {"ecdsa_secp384r1_sha384", "ec384", 1, 1}, {"ecdsa_secp521r1_sha512", "ec521", 1, 1},
        {"rsa_pss_rsae_sha256", "rsa", 1, 1}, {"rsa_pss_rsae_sha384", "rsa", 1, 1}, {"rsa_pss_rsae_sha512", "rsa", 1, 1},
        {"rsa_pss_pss_sha256", "pss", 1, 1}, {"rsa_pss_pss_sha384", "pss", 1, 1}, {"rsa_pss_pss_sha512", "pss", 1, 1},
        {"rsa_pkcs1_sha256", "rsa", 1, 0}, {"rsa_pkcs1_sha384", "rsa", 1, 0}, {"rsa_pkcs1_sha512", "rsa", 1, 0}};
    size_t i;
    for (i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
        side c = {NULL, NULL, NULL, NULL, 0, 0, 0}, s = {NULL, NULL, NULL, NULL, 0, 0, 0};
        c.sigalgs = schemes[i].name;
        s.identity = schemes[i].identity;
        if (kit_version == 0x0303 ? schemes[i].v12 : schemes[i].v13) {
            agree(&c, &s, NULL, schemes[i].name, 0);
        } else {
            psocket_tls *client = make(&c), *server = make(&s);
            REQUIRE(client && server);
            kit_bad(client, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_TLS_HANDSHAKE, 40);
            psocket_tls_free(client);
            psocket_tls_free(server);
        }
    }
}

/* Versions: the newest that both know; a sentence that says which one is missing. */
TEST(versions)
{
    static const struct { int cmin, cmax, smin, smax, want; } cases[] = {
        {0, 0, 0, 0, 0x0304}, {0, 0x0303, 0, 0, 0x0303}, {0, 0, 0, 0x0303, 0x0303}, {0x0304, 0, 0, 0, 0x0304},
        {0, 0, 0x0304, 0, 0x0304}, {0x0303, 0x0304, 0x0303, 0x0304, 0x0304}, {0x0304, 0, 0, 0x0303, 0}, {0, 0x0303, 0x0304, 0, 0}};
    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        side c = {NULL, NULL, NULL, NULL, 0, 0, 0}, s = {"ec", NULL, NULL, NULL, 0, 0, 0};
        psocket_tls *client, *server;
        psocket_tlsinfo ci, si;
        kit_ends p;
        c.min = cases[i].cmin;
        c.max = cases[i].cmax;
        s.min = cases[i].smin;
        s.max = cases[i].smax;
        client = make(&c);
        server = make(&s);
        REQUIRE(client && server);
        if (cases[i].want) {
            kit_good(client, server, "localhost", 100000, &ci, &si);
            CHECK_INT(ci.version, cases[i].want);
            CHECK_INT(si.version, cases[i].want);
            CHECK_STR(ci.version_name, cases[i].want == 0x0304 ? "TLSv1.3" : "TLSv1.2");
        } else {
            kit_shake(&p, client, server, "localhost", 100000);
            CHECK_INT(p.server_status, PSOCKET_TLS_VERSION);
            CHECK_INT(p.server_error.tls_alert, 70);
            CHECK_INT(p.client_status, PSOCKET_TLS_VERSION);
            CHECK(strstr(p.server_error.text, "1.3") || strstr(p.server_error.text, "1.2"));
            if (!strstr(p.client_error.text, "version")) check_fail(__FILE__, __LINE__, "%s", p.client_error.text);
            kit_end_both(&p);
        }
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* A client that could speak 1.3 notices when someone makes the server believe otherwise (RFC 8446 4.1.3). */
TEST(downgrades_are_noticed)
{
    static kit_bytes b;
    side c = {NULL, NULL, NULL, NULL, 0, 0, 0}, s = {"ec", NULL, NULL, NULL, 0, 0, 0};
    psocket_tls *client = make(&c), *server = make(&s);
    kit_ends p;
    size_t at;
    REQUIRE(client && server);
    REQUIRE(kit_begin(&p, client, server, "localhost"));
    kit_take(p.client, &b);
    at = kit_extension(b.p + 5, b.n - 5, 43);
    REQUIRE(at > 0);
    b.p[5 + at] = 0x7A; /* supported_versions becomes something unknown */
    kit_feed(p.server, b.p, b.n);
    CHECK_INT(p.server->status, PSOCKET_WANT_READ);
    kit_take(p.server, &b);
    CHECK_INT(kit_get(b.p + 9, 2), 0x0303);
    CHECK_MEM(b.p + 5 + 4 + 2 + 24, "DOWNGRD\1", 8);
    kit_feed(p.client, b.p, b.n);
    kit_failed(p.client, PSOCKET_TLS_PROTOCOL, 47, "downgrade");
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

static void refused(const side *x, const char *word)
{
    kit_settings s;
    psocket_tls *tls = NULL;
    psocket_error e = {0};
    int code;
    memset(&s, 0, sizeof s);
    s.opt.suites = x->suites;
    s.opt.groups = x->groups;
    s.opt.sigalgs = x->sigalgs;
    s.opt.min_version = x->min;
    s.opt.max_version = x->max;
    s.opt.error = &e;
    code = psocket_tls_new(&tls, &s.opt);
    if (code != PSOCKET_INVALID || tls || !strstr(e.text, word)) check_fail(__FILE__, __LINE__, "%d \"%s\", not \"%s\"", code, e.text, word);
    psocket_tls_free(tls);
}

TEST(refused_lists)
{
    static const side bad[] = {{NULL, NULL, "", NULL, 0, 0, 0}, {NULL, NULL, "x25519:", NULL, 0, 0, 0}, {NULL, NULL, "X25519", NULL, 0, 0, 0},
        {NULL, NULL, "x25519:x448", NULL, 0, 0, 0}, {NULL, NULL, NULL, "", 0, 0, 0}, {NULL, NULL, NULL, "rsa_pkcs1_sha1", 0, 0, 0},
        {NULL, NULL, NULL, "ed25519", 0, 0, 0}, {NULL, NULL, NULL, "rsa_pss_rsae_sha256::rsa_pkcs1_sha256", 0, 0, 0}};
    static const char *const words[] = {"\"\"", "\"\"", "\"X25519\"", "\"x448\"", "\"\"", "\"rsa_pkcs1_sha1\"", "\"ed25519\"", "\"\""};
    side versions = {NULL, NULL, NULL, NULL, 0x0304, 0x0303, 0}, suites = {NULL, "TLS_AES_128_GCM_SHA256", NULL, NULL, 0, 0x0303, 0};
    size_t i;
    for (i = 0; i < sizeof bad / sizeof bad[0]; i++) refused(&bad[i], words[i]);
    refused(&versions, "version");
    refused(&suites, "suite"); /* none is left for the versions allowed */
}

/* A ClientHello can be long and come in many records: post-quantum key shares make such. Padding to 512 bytes of those of
   256 to 511 (RFC 7685), GREASE (RFC 8701). */
TEST(the_hello_is_tolerable)
{
    static const char *const names[] = {"localhost", "a.very.long.name.of.a.host.that.makes.the.hello.longer.than.two.hundred.and.fifty-five.bytes.example.test", "127.0.0.1"};
    psocket_tls *client = kit_client();
    size_t i;
    int grease_seen = 0;
    REQUIRE(client);
    for (i = 0; i < 3; i++) {
        kit_end *h = NULL;
        size_t at, n;
        REQUIRE(!kit_new(&h, client, PSOCKET_CLIENT, names[i], NULL));
        CHECK_INT(kit_get(h->out.p + 1, 2), 0x0301); /* the record's version, for the sake of old servers */
        n = kit_get(h->out.p + 3, 2);
        CHECK(n < 256 || n >= 512);
        at = 5 + 4 + 2 + 32;
        at += 1 + (size_t)h->out.p[at];
        for (n = kit_get(h->out.p + at, 2), at += 2; n; n -= 2, at += 2) grease_seen |= (h->out.p[at] & 15) == 10 && h->out.p[at] == h->out.p[at + 1];
        kit_free(h);
    }
    CHECK(grease_seen);
    psocket_tls_free(client);
}

/* A server names the authorities of its own `ca`, not the system's hundred and more. */
TEST(requests_name_own_authorities)
{
    static kit_bytes flight, messages;
    int own;
    char path[1024];
    snprintf(path, sizeof path, "%s/ca.pem", check_certs());
    setenv("SSL_CERT_FILE", path, 1);
    kit_version = 0x0303;
    for (own = 0; own < 2; own++) {
        kit_settings s;
        kit_end *c = NULL, *h = NULL;
        psocket_tls *client = kit_client(), *server;
        size_t at = 0, n = 1;
        int k;
        memset(&s, 0, sizeof s);
        if (own) kit_ca(&s, "ca.pem");
        kit_identity(&s, "ec");
        s.opt.client_auth = PSOCKET_CLIENT_AUTH_OPTIONAL;
        server = kit_make(&s);
        kit_done(&s);
        REQUIRE(client && server && !kit_new(&c, client, PSOCKET_CLIENT, "localhost", NULL) && !kit_new(&h, server, PSOCKET_SERVER, NULL, NULL));
        kit_take(c, &flight);
        kit_feed(h, flight.p, flight.n);
        kit_take(h, &flight);
        kit_messages(&flight, &messages, NULL);
        for (k = 0; n && (k == 0 || messages.p[at] != 13); k++) n = kit_message(&messages, k, &at);
        if (CHECK(n > 6)) {
            size_t schemes = 4 + 3, names = schemes + 2 + kit_get(messages.p + at + schemes, 2);
            CHECK_INT(names + 2 + kit_get(messages.p + at + names, 2), n);
            CHECK_INT(n > names + 2, own);
        }
        kit_free(c);
        kit_free(h);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
    psocket_cleanup();
    unsetenv("SSL_CERT_FILE");
}
