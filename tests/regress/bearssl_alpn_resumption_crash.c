/* BearSSL, server: a client that resumes a session with ALPN names of which none is known makes the engine read
   protocol_names[0xFFFE]. The names are compared before the engine sees the hello. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static psocket_tls *with(const char *name, const char *identity)
{
    const char *names[1];
    pipe_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    names[0] = name;
    pipe_ca(&s, "ca.pem");
    if (identity) pipe_identity(&s, "ec.pem", "ec.key");
    s.opt.alpn = names;
    s.opt.alpn_count = name ? 1 : 0;
    tls = pipe_make(&s);
    pipe_done(&s);
    return tls;
}

TEST(alpn_resumption_crash)
{
    psocket_tls *server = with("http/1.1", "ec"), *good = with("http/1.1", NULL), *evil = with("evil", NULL), *none = with(NULL, NULL);
    psocket_tlsinfo ci, si;
    psocket_tls *others[2];
    int i;
    REQUIRE(server && good && evil && none);
    pipe_good(good, server, "localhost", 512, &ci, &si);
    CHECK_STR(ci.alpn, "http/1.1");
    /* the session goes to clients that ask for another protocol, or for none */
    others[0] = evil;
    others[1] = none;
    for (i = 0; i < 2; i++) {
        psi_tls_session *from = psi_tls_sessions_find(&good->client_sessions, good->client_sessions.list[0].name, NULL);
        psi_tls_session *to = psi_tls_sessions_place(&others[i]->client_sessions);
        REQUIRE(from && to);
        *to = *from;
        to->peer = psi_tlsinfo_new("", "", "CN=localhost", NULL);
        to->peer->has_peer = 1;
    }
    pipe_bad(evil, server, "localhost", PSOCKET_TLS_ALPN, PSOCKET_TLS_ALPN, 120);
    pipe_good(none, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(si.alpn, "");
    pipe_good(good, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 1);
    CHECK_STR(si.alpn, "http/1.1");
    psocket_tls_free(server);
    psocket_tls_free(good);
    psocket_tls_free(evil);
    psocket_tls_free(none);
}
