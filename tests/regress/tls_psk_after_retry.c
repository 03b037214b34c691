/* A client whose second hello could not repeat its PSK, as the server's suite has another hash, is answered with
 * pre_shared_key all the same: nothing was offered, so that is refused. Anybody on the way can say so. */
#include "tls/wire.h"

static psocket_tls *settings(const char *identity, const char *suites, const char *groups)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.suites = suites;
    s.opt.groups = groups;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* ServerHello gets a pre_shared_key that selects the first. */
static void add_psk(void *ctx, kit_bytes *m)
{
    size_t list = 4 + 2 + 32, n;
    (void)ctx;
    list += 1 + (size_t)m->p[list] + 3;
    kit_put(m, "\0\51\0\2\0\0", 6);
    n = m->n - list - 2;
    m->p[list] = (uint8_t)(n >> 8);
    m->p[list + 1] = (uint8_t)n;
    m->p[2] = (uint8_t)((m->n - 4) >> 8);
    m->p[3] = (uint8_t)(m->n - 4);
}

static void answered(const char *first_suites, const char *second_suites)
{
    static kit_wire w;
    kit_editor e;
    psocket_error err = {0};
    psocket_tls *c, *first, *second;
    kit_version = 0x0304;
    c = settings(NULL, NULL, NULL);
    first = settings("ec", first_suites, NULL);
    second = settings("ec", second_suites, "secp256r1");
    REQUIRE(c && first && second);
    kit_good(c, first, "localhost", 80000, NULL, NULL); /* the client has a session */
    memset(&e, 0, sizeof e);
    e.dir = 1;
    e.index = 1; /* behind HelloRetryRequest */
    e.edit = add_psk;
    kit_play(&w, c, second, "localhost", &e);
    CHECK(e.done);
    CHECK_INT(kit_status(w.ends.client, &err), PSOCKET_TLS_PROTOCOL);
    CHECK_INT(err.tls_alert, 110);
    kit_end_both(&w.ends);
    psocket_tls_free(c);
    psocket_tls_free(first);
    psocket_tls_free(second);
}

TEST(nothing_was_offered_with_sha384)
{
    answered("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384");
}

TEST(nothing_was_offered_with_sha256)
{
    answered("TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256");
}
