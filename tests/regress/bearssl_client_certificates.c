/* BearSSL, server: TOLERATE_NO_CLIENT_AUTH goes on after a bad certificate, and without anchors no certificate is asked for.
   BearSSL, client: without a common hash an RSA client signs with MD5 and SHA-1. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static psocket_tls *asking(const char *ca, int how, int no_verify)
{
    pipe_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    if (ca) pipe_ca(&s, ca);
    pipe_identity(&s, "ec.pem", "ec.key");
    s.opt.client_auth = how;
    s.opt.insecure_no_verify = no_verify;
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

TEST(a_bad_certificate_is_worse_than_none)
{
    psocket_tls *server = asking("ca.pem", PSOCKET_CLIENT_AUTH_OPTIONAL, 0), *bad = client_with("untrusted"), *none = pipe_client();
    REQUIRE(server && bad && none);
    pipe_good(none, server, "localhost", 512, NULL, NULL);
    pipe_bad(bad, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    psocket_tls_free(server);
    psocket_tls_free(bad);
    psocket_tls_free(none);
}

TEST(without_anchors_it_still_asks)
{
    psocket_tls *server = NULL, *some = client_with("untrusted"), *none = pipe_client();
    psocket_tlsinfo ci, si;
    pipe_settings s;
    psocket_error e = {0};
    REQUIRE(some && none);
    setenv("SSL_CERT_FILE", "/nonexistent", 1);
    setenv("SSL_CERT_DIR", "/nonexistent", 1);
    memset(&s, 0, sizeof s);
    pipe_identity(&s, "ec.pem", "ec.key");
    s.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    s.opt.error = &e;
    if (psocket_tls_new(&server, &s.opt) == 0) { /* the system has anchors all the same */
        pipe_bad(none, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, 40);
        psocket_tls_free(server);
    } else {
        CHECK_INT(e.code, PSOCKET_TLS_NO_TRUST);
    }
    pipe_done(&s);
    server = asking(NULL, PSOCKET_CLIENT_AUTH_REQUIRED, 1);
    REQUIRE(server);
    pipe_bad(none, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, 40);
    pipe_good(some, server, "localhost", 512, &ci, &si);
    CHECK(si.peer_subject[0]);
    psocket_tls_free(server);
    psocket_tls_free(some);
    psocket_tls_free(none);
    psocket_cleanup();
}

TEST(no_signature_with_md5_and_sha1)
{
    psocket_tls *server = asking("ca.pem", PSOCKET_CLIENT_AUTH_REQUIRED, 0), *client = client_with("rsa");
    psi_hs *c = NULL, *s = NULL;
    psocket_error e = {0};
    pipe_bytes b, m, out;
    size_t at, len, i, rest;
    int k;
    REQUIRE(server && client);
    REQUIRE(!psi_hs_new(&c, client, 0, "localhost", 0, &e) && !psi_hs_new(&s, server, 1, NULL, 0, &e));
    pipe_move(c, s, 40000);
    pipe_take(s, &b);
    pipe_messages(&b, &m, &rest);
    for (k = 0; (len = pipe_message(&m, k, &at)) != 0; k++)
        if (m.p[at] == 13) /* the request now allows SHA-1 only */
            for (i = at + 4 + 1 + m.p[at + 4] + 2; i < at + 4 + 1 + m.p[at + 4] + 2 + 12; i += 2) m.p[i] = 2;
    out.n = 0;
    pipe_record(&out, 22, m.p, m.n);
    pipe_feed(c, out.p, out.n);
    CHECK_INT(psi_hs_status(c, &e), PSOCKET_WANT_READ);
    pipe_take(c, &b);
    CHECK_MEM(b.p + 5, "\13\0\0\3\0\0\0", 7); /* an empty list of certificates */
    CHECK_INT(b.p[12], 16);                   /* and no CertificateVerify after ClientKeyExchange */
    psi_hs_free(c);
    psi_hs_free(s);
    psocket_tls_free(server);
    psocket_tls_free(client);
}
