/* BearSSL, server: the cipher suite is chosen in the order of the client unless told otherwise. */
#include "kit.h"

KIT_TEST(cipher_order, 20)
{
    static const char *const one_way[] = {"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
                                          "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"};
    static const char *const the_other[] = {"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
                                            "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"};
    int v = kit_version == 0x0304, i;
    for (i = 0; i < 2; i++) {
        psocket_tls *client = kit_tls(NULL, i ? one_way[v] : the_other[v], 0), *server = kit_tls("rsa", i ? the_other[v] : one_way[v], 0);
        psocket_tlsinfo ci, si;
        REQUIRE(client && server);
        kit_good(client, server, "localhost", 512, &ci, &si);
        CHECK_INT(strstr(ci.suite_name, "CHACHA20") != NULL, i); /* the server's first */
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}
