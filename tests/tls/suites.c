/* psocket_tls_options.suites and min_version: order and choice on both sides, and what is refused. */
#include "kit.h"

#define KIT_VERSION_WORD "min_version"

#define A128 "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
#define A256 "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
#define CHA "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"
#define R128 "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
#define R256 "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"
#define RCHA "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"

/* The list is copied. */
static psocket_tls *with_suites(const char *suites, const char *identity)
{
    char copy[512];
    psocket_tls *tls;
    if (suites) snprintf(copy, sizeof copy, "%s", suites);
    tls = kit_tls(identity, suites ? copy : NULL, PSOCKET_CLIENT_AUTH_NONE);
    memset(copy, 0, sizeof copy);
    return tls;
}

KIT_TEST_12(order_and_choice, 60)
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

/* Where the suites of a ClientHello are: their length stands there. */
static size_t suites_at(const kit_bytes *b)
{
    size_t at = 5 + 4 + 2 + 32;
    return at + 1 + (size_t)b->p[at];
}

/* The ClientHello names the suites of the list, in its order, and no others but those that mean nothing: GREASE (RFC 8701)
   and signals. */
KIT_TEST_12(the_hello_says_so, 20)
{
    static const int want[] = {0xCCA8, 0xC02C, 0xC02B};
    psocket_tls *client = with_suites(RCHA ":" A256 ":" A128, NULL);
    kit_end *h = NULL;
    psocket_error e = {0};
    size_t at, end, n = 0;
    REQUIRE(client);
    REQUIRE(!kit_new(&h, client, PSOCKET_CLIENT, "localhost", &e));
    at = suites_at(&h->out);
    end = at + 2 + kit_get(h->out.p + at, 2);
    REQUIRE(end < h->out.n);
    for (at += 2; at < end; at += 2) {
        int suite = (int)kit_get(h->out.p + at, 2);
        if ((suite & 0x0F0F) == 0x0A0A || suite == 0x00FF) continue;
        if (n < 3) CHECK_INT(suite, want[n]);
        n++;
    }
    CHECK_INT(n, 3);
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
    static const int versions[] = {0x0301, 0x0302, -1, 0x0305};
    size_t i;
    for (i = 0; i < 4; i++)
        refused(NULL, versions[i], PSOCKET_UNSUPPORTED, KIT_VERSION_WORD);
}

/* Suites that we do not speak are never chosen, alone or among others: the server's answer to a changed hello. */
KIT_TEST_12(other_suites_are_never_chosen, 20)
{
    static const int others[] = {0x000A, 0x002F, 0xC02D, 0xC009, 0x1301};
    psocket_tls *client = with_suites(R128 ":" R256, NULL), *server = with_suites(NULL, "rsa");
    size_t i;
    int alone;
    REQUIRE(client && server);
    for (i = 0; i < 2 * sizeof others / sizeof others[0]; i++) {
        static kit_bytes b, m;
        kit_ends p;
        size_t at, end, last = 0;
        alone = (int)(i % 2);
        REQUIRE(kit_begin(&p, client, server, "localhost"));
        kit_take(p.client, &b);
        at = suites_at(&b);
        for (end = at + 2 + kit_get(b.p + at, 2), at += 2; at < end; at += 2) {
            if (!alone && kit_get(b.p + at, 2) == 0xC02F) continue;
            b.p[at] = (uint8_t)(others[i / 2] >> 8);
            b.p[at + 1] = (uint8_t)others[i / 2];
        }
        kit_feed(p.server, b.p, b.n);
        if (alone) {
            kit_failed(p.server, PSOCKET_TLS_HANDSHAKE, 40, "a strange suite");
        } else {
            kit_take(p.server, &b);
            kit_messages(&b, &m, NULL);
            REQUIRE(kit_message(&m, 0, &last) > 40 && m.p[0] == 2);
            CHECK_INT(kit_get(m.p + 39 + m.p[38], 2), 0xC02F);
        }
        kit_end_both(&p);
    }
    psocket_tls_free(client);
    psocket_tls_free(server);
}
