/* tls-server-end-point (RFC 5929 4) is the same at both ends of a resumed connection, also when the server has another
 * certificate by now: it is that of the full handshake. */
#include "tls/wire.h"

static psocket_tls *server_of(const char *identity)
{
    static const uint8_t keys[32] = {1, 2, 3};
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    kit_identity(&s, identity);
    s.opt.ticket_keys = keys;
    s.opt.ticket_key_count = 1;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* How many bytes it is at both ends, *resumed tells whether one was. */
static ptrdiff_t endpoint(psocket_tls *client, psocket_tls *server, int *resumed, uint8_t out[64])
{
    kit_ends p;
    psocket_tlsinfo ci;
    uint8_t theirs[64];
    ptrdiff_t n;
    memset(&ci, 0, sizeof ci);
    kit_shake(&p, client, server, "localhost", 100000);
    kit_talk(&p, &ci, NULL);
    *resumed = ci.resumed;
    n = psocket_tls_export(p.client->s, "tls-server-end-point", NULL, 0, out, 64);
    CHECK_INT(psocket_tls_export(p.server->s, "tls-server-end-point", NULL, 0, theirs, 64), n);
    if (n > 0) CHECK_MEM(theirs, out, (size_t)n);
    kit_end_both(&p);
    return n;
}

KIT_TEST(renewed, 20)
{
    psocket_tls *before = server_of("ec"), *after = server_of("rsa"), *client = kit_client();
    uint8_t first[64], second[64];
    int resumed;
    REQUIRE(before && after && client);
    CHECK_INT(endpoint(client, before, &resumed, first), 32);
    CHECK_INT(resumed, 0);
    CHECK_INT(endpoint(client, after, &resumed, second), 32);
    CHECK_INT(resumed, 1);
    CHECK_MEM(second, first, 32);
    psocket_tls_free(before);
    psocket_tls_free(after);
    psocket_tls_free(client);
}
