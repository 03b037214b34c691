/* Sessions are loaded by settings that prove the same identities only: whichever of them a server was shown. */
#include "kit.h"

static psocket_tls *two(const char *a, const char *b)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, a);
    if (b) kit_identity(&s, b);
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

KIT_TEST(the_second_counts, 20)
{
    kit_settings s;
    psocket_tls *first = two("client", "client_ec"), *same = two("client", "client_ec"), *other = two("client", "ec"),
                *fewer = two("client", NULL), *server;
    psocket_tlsinfo info;
    static uint8_t saved[20000];
    ptrdiff_t n;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, "ec");
    s.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    s.opt.sigalgs = "ecdsa_secp256r1_sha256";
    server = kit_make(&s);
    kit_done(&s);
    REQUIRE(first && same && other && fewer && server);
    kit_good(first, server, "localhost", 80000, NULL, &info);
    n = psocket_tls_savesessions(first, saved, sizeof saved);
    REQUIRE(n > 0 && n <= (ptrdiff_t)sizeof saved);
    CHECK_INT(psocket_tls_loadsessions(same, saved, (size_t)n), 0);
    CHECK_INT(psocket_tls_loadsessions(other, saved, (size_t)n), PSOCKET_INVALID);
    CHECK_INT(psocket_tls_loadsessions(fewer, saved, (size_t)n), PSOCKET_INVALID);
    kit_good(same, server, "localhost", 80000, &info, NULL);
    CHECK(info.resumed);
    psocket_tls_free(first);
    psocket_tls_free(same);
    psocket_tls_free(other);
    psocket_tls_free(fewer);
    psocket_tls_free(server);
}
