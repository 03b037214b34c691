/* BearSSL, server: a client that resumes a session with ALPN names of which none is known makes the engine read
   protocol_names[0xFFFE]. */
#include "kit.h"

static psocket_tls *with(const char *name, const char *identity)
{
    const char *names[1];
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    names[0] = name;
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.alpn = names;
    s.opt.alpn_count = name ? 1 : 0;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

KIT_TEST(alpn_resumption_crash, 20)
{
    psocket_tls *server = with("http/1.1", "ec"), *good = with("http/1.1", NULL), *evil = with("evil", NULL), *none = with(NULL, NULL);
    psocket_tlsinfo ci, si;
    uint8_t saved[4096];
    ptrdiff_t n;
    REQUIRE(server && good && evil && none);
    kit_good(good, server, "localhost", 512, &ci, &si);
    CHECK_STR(ci.alpn, "http/1.1");
    n = psocket_tls_savesessions(good, saved, sizeof saved);
    REQUIRE(n > 0 && n <= (ptrdiff_t)sizeof saved);
    /* the session goes to clients that ask for another protocol, or for none */
    CHECK_INT(psocket_tls_loadsessions(evil, saved, (size_t)n), 0);
    CHECK_INT(psocket_tls_loadsessions(none, saved, (size_t)n), 0);
    kit_bad(evil, server, "localhost", PSOCKET_TLS_ALPN, PSOCKET_TLS_ALPN, 120);
    kit_good(none, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(si.alpn, "");
    kit_good(good, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(si.alpn, "http/1.1");
    psocket_tls_free(server);
    psocket_tls_free(good);
    psocket_tls_free(evil);
    psocket_tls_free(none);
}
