/* psocket_tls_options.suites and min_version: order and choice on both sides, and what is refused. */
#include "kit.h"

#define A128 "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
#define A256 "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
#define CHA "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
#define R128 "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
#define R256 "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
#define RCHA "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"

static psocket_tls *with_suites(const char *suites, const char *identity)
{
    kit_settings s;
    psocket_tls *tls;
    char cert[64], key[64], copy[512];
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) {
        snprintf(cert, sizeof cert, "%s.pem", identity);
        snprintf(key, sizeof key, "%s.key", identity);
        kit_identity(&s, cert, key);
    }
    if (suites) {
        snprintf(copy, sizeof copy, "%s", suites); /* is copied */
        s.opt.suites = copy;
    }
    s.opt.min_version = 0x0303;
    tls = kit_make(&s);
    memset(copy, 0, sizeof copy);
    kit_done(&s);
    return tls;
}

TEST_LIMIT(order_and_choice, 60)
{
    static const char *const table[][3] = { /* client, server, what comes of it (NULL: nothing) */
        {A128, NULL, A128}, {A256, NULL, A256}, {CHA, NULL, CHA},
        {NULL, A128, A128}, {NULL, A256, A256}, {NULL, CHA, CHA},
        {A128 ":" A256 ":" CHA, CHA ":" A256 ":" A128, CHA}, /* the server's order */
        {CHA ":" A256 ":" A128, A256 ":" CHA, A256},
        {CHA ":" CHA ":" CHA ":" CHA ":" CHA ":" CHA ":" CHA ":" A128, A128 ":" A128, A128}, /* again is once */
        {R128 ":" CHA, R256 ":" R128 ":" CHA ":" A128, CHA}, /* the identity is EC */
        {A128, A256 ":" CHA, NULL}, {R128 ":" R256 ":" RCHA, NULL, NULL}, {NULL, RCHA, NULL}};
    size_t i;
    for (i = 0; i < sizeof table / sizeof table[0]; i++) {
        psocket_tls *client = with_suites(table[i][0], NULL), *server = with_suites(table[i][1], "ec");
        psocket_tlsinfo ci, si;
        int round;
        REQUIRE(client && server);
        for (round = 0; round < 2 && table[i][2]; round++) {
            kit_good(client, server, "localhost", 100000, &ci, &si);
            CHECK_STR(ci.suite_name, table[i][2]);
            CHECK_STR(si.suite_name, table[i][2]);
            CHECK_INT(ci.resumed, round);
        }
        if (!table[i][2]) kit_bad(client, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_TLS_HANDSHAKE, 40);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* The ClientHello names the suites of the list, in its order, and no others. */
TEST(the_hello_says_so)
{
    static const uint8_t want[] = {0, 6, 0xCC, 0xA8, 0xC0, 0x2C, 0xC0, 0x2B};
    psocket_tls *client = with_suites(RCHA ":" A256 ":" A128, NULL);
    kit_end *h = NULL;
    kit_bytes b;
    psocket_error e = {0};
    size_t at;
    REQUIRE(client);
    REQUIRE(!kit_new(&h, client, PSOCKET_CLIENT, "localhost", &e));
    kit_take(h, &b);
    at = 5 + 4 + 2 + 32; /* the session ID */
    at += 1 + (size_t)b.p[at];
    REQUIRE(at + sizeof want <= b.n);
    CHECK_MEM(b.p + at, want, sizeof want);
    kit_free(h);
    psocket_tls_free(client);
}

static void refused(const char *suites, int version, int code, const char *word)
{
    psocket_tls_options o;
    psocket_error e = {0};
    psocket_tls *tls = NULL;
    memset(&o, 0, sizeof o);
    o.suites = suites;
    o.min_version = version;
    o.error = &e;
    CHECK_INT(psocket_tls_new(&tls, &o), code);
    CHECK(tls == NULL);
    if (!strstr(e.text, word)) check_fail(__FILE__, __LINE__, "\"%s\" does not mention \"%s\"", e.text, word);
}

TEST(refused_lists)
{
    char name[2000];
    memset(name, 'A', sizeof name - 1);
    name[sizeof name - 1] = 0;
    refused("", 0, PSOCKET_INVALID, "\"\"");
    refused(":", 0, PSOCKET_INVALID, "\"\"");
    refused(A128 ":", 0, PSOCKET_INVALID, "\"\"");
    refused(A128 "::" A256, 0, PSOCKET_INVALID, "\"\"");
    refused(A128 ":TLS_RSA_WITH_RC4_128_SHA:" A256, 0, PSOCKET_INVALID, "\"TLS_RSA_WITH_RC4_128_SHA\"");
    refused("ECDHE-ECDSA-AES128-GCM-SHA256", 0, PSOCKET_INVALID, "ECDHE-ECDSA-AES128-GCM-SHA256");
    refused(A128 "X", 0, PSOCKET_INVALID, A128 "X");
    refused("TLS_ECDHE", 0, PSOCKET_INVALID, "\"TLS_ECDHE\"");
    refused(name, 0, PSOCKET_INVALID, "AAAA");
}

TEST(refused_versions)
{
    refused(NULL, 0x0301, PSOCKET_UNSUPPORTED, "before TLS 1.2");
    refused(NULL, 0x0302, PSOCKET_UNSUPPORTED, "before TLS 1.2");
    refused(NULL, -1, PSOCKET_UNSUPPORTED, "before TLS 1.2");
    refused(NULL, 0x0304, PSOCKET_UNSUPPORTED, "newest");
}

/* Suites that the engine knows and we do not speak: never chosen, alone or among others. */
TEST(other_suites_are_never_chosen)
{
    static const uint16_t others[] = {0x000A, 0x002F, 0xC02D, 0xC009};
    size_t i;
    for (i = 0; i < sizeof others / sizeof others[0]; i++) {
        psocket_tls *client = with_suites(R128, NULL), *server = with_suites(NULL, "rsa");
        psocket_tlsinfo ci, si;
        REQUIRE(client && server);
        client->prim.suites[1] = client->prim.suites[0];
        client->prim.suites[0] = others[i];
        client->prim.suite_count = 2;
        kit_good(client, server, "localhost", 100000, &ci, &si);
        CHECK_STR(si.suite_name, R128);
        client->prim.suite_count = 1;
        kit_bad(client, server, "example.test", PSOCKET_TLS_ALERT, PSOCKET_TLS_HANDSHAKE, 40);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}
