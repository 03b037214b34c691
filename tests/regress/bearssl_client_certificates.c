/* BearSSL, server: TOLERATE_NO_CLIENT_AUTH goes on after a bad certificate, and without anchors no certificate is asked for.
   BearSSL, client: without a common hash an RSA client signs with MD5 and SHA-1. */
#include "kit.h"

static psocket_tls *asking(const char *ca, int how, int no_verify)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    if (ca) kit_ca(&s, ca);
    kit_identity(&s, "ec");
    s.opt.client_auth = how;
    s.opt.insecure_no_verify = no_verify;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

KIT_TEST(a_bad_certificate_is_worse_than_none, 20)
{
    psocket_tls *server = asking("ca.pem", PSOCKET_CLIENT_AUTH_OPTIONAL, 0), *bad = kit_server("untrusted"), *none = kit_client();
    REQUIRE(server && bad && none);
    kit_good(none, server, "localhost", 512, NULL, NULL);
    kit_bad(bad, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_UNTRUSTED, 48);
    psocket_tls_free(server);
    psocket_tls_free(bad);
    psocket_tls_free(none);
}

KIT_TEST(without_anchors_it_still_asks, 20)
{
    psocket_tls *server = NULL, *some = kit_server("untrusted"), *none = kit_client();
    psocket_tlsinfo ci, si;
    kit_settings s;
    psocket_error e = {0};
    REQUIRE(some && none);
    setenv("SSL_CERT_FILE", "/nonexistent", 1);
    setenv("SSL_CERT_DIR", "/nonexistent", 1);
    memset(&s, 0, sizeof s);
    kit_identity(&s, "ec");
    s.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    s.opt.error = &e;
    if (psocket_tls_new(&server, &s.opt) == 0) { /* the system has anchors all the same */
        kit_bad(none, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, kit_version == 0x0304 ? 116 : 40);
        psocket_tls_free(server);
    } else {
        CHECK_INT(e.code, PSOCKET_TLS_NO_TRUST);
    }
    kit_done(&s);
    server = asking(NULL, PSOCKET_CLIENT_AUTH_REQUIRED, 1);
    REQUIRE(server);
    kit_bad(none, server, "localhost", PSOCKET_TLS_ALERT, PSOCKET_CERT_MISSING, kit_version == 0x0304 ? 116 : 40);
    kit_good(some, server, "localhost", 512, &ci, &si);
    CHECK(si.peer_subject[0]);
    psocket_tls_free(server);
    psocket_tls_free(some);
    psocket_tls_free(none);
    psocket_cleanup();
}

KIT_TEST_12(no_signature_with_md5_and_sha1, 20)
{
    psocket_tls *server = asking("ca.pem", PSOCKET_CLIENT_AUTH_REQUIRED, 0), *client = kit_server("rsa");
    kit_end *c = NULL, *s = NULL;
    psocket_error e = {0};
    static kit_bytes b, m, out;
    size_t at, len, i, rest;
    int k;
    REQUIRE(server && client);
    REQUIRE(!kit_new(&c, client, PSOCKET_CLIENT, "localhost", &e) && !kit_new(&s, server, PSOCKET_SERVER, NULL, &e));
    kit_move(c, s, 80000);
    kit_take(s, &b);
    kit_messages(&b, &m, &rest);
    for (k = 0; (len = kit_message(&m, k, &at)) != 0; k++)
        if (m.p[at] == 13) /* the request now allows SHA-1 only */
            for (i = at + 4 + 1 + m.p[at + 4]; len; len = 0) {
                size_t end = i + 2 + kit_get(m.p + i, 2);
                for (i += 2; i < end; i += 2) {
                    m.p[i] = 2;
                    m.p[i + 1] = i % 4 ? 1 : 3;
                }
            }
    out.n = 0;
    kit_record(&out, 22, m.p, m.n);
    kit_feed(c, out.p, out.n);
    kit_failed(c, PSOCKET_TLS_HANDSHAKE, 40, "SHA-1 only");
    kit_free(c);
    kit_free(s);
    psocket_tls_free(server);
    psocket_tls_free(client);
}
