/* record_size_limit (RFC 8449 4): "Unprotected messages are not subject to this limit." */
#include "tls/wire.h"

static psocket_tls *made(const char *identity, const char *groups, size_t most)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.groups = groups;
    s.opt.max_fragment = most;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* A second hello comes before the server has told its limit. */
TEST(second_hello)
{
    size_t most;
    kit_version = 0x0304;
    for (most = 64; most <= 512; most *= 2) {
        psocket_tls *server = made("ec", "secp384r1", most), *client = made(NULL, NULL, 16384);
        REQUIRE(server && client);
        kit_good(client, server, "localhost", 100000, NULL, NULL);
        psocket_tls_free(server);
        psocket_tls_free(client);
    }
}
