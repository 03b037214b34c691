/* RFC 8449 4: unprotected messages are not subject to record_size_limit. RFC 8446 5.1: a record of the handshake has content. */
#include "kit.h"

static psocket_tls *make(const char *identity, const char *groups, size_t max_fragment)
{
    kit_settings s;
    psocket_tls *tls;
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    if (identity) kit_identity(&s, identity);
    s.opt.groups = groups;
    s.opt.max_fragment = max_fragment;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* A server's limit, and a second hello that is longer. */
TEST(second_hello)
{
    size_t most;
    kit_version = 0x0304;
    for (most = 64; most <= 512; most *= 2) {
        psocket_tls *server = make("ec", "secp384r1", most), *client = make(NULL, NULL, 16384);
        REQUIRE(client && server);
        kit_good(client, server, "localhost", 100000, NULL, NULL);
        psocket_tls_free(client);
        psocket_tls_free(server);
    }
}

/* A client's limit, and a server that puts its first flight into one record, as it may. */
KIT_TEST(first_flight, 20)
{
    psocket_tls *server = kit_server("ec"), *client = make(NULL, NULL, 64);
    static kit_bytes b, m, one;
    kit_ends p;
    size_t rest = 0;
    REQUIRE(client && server);
    REQUIRE(kit_begin(&p, client, server, "localhost"));
    b.n = 0;
    kit_take(p.client, &b);
    kit_feed(p.server, b.p, b.n);
    b.n = 0;
    kit_take(p.server, &b);
    kit_messages(&b, &m, &rest);
    REQUIRE(m.n > 64);
    one.n = 0;
    kit_record(&one, 22, m.p, m.n); /* all that is in the clear; of TLS 1.3 ServerHello */
    kit_put(&one, b.p + rest, b.n - rest);
    kit_feed(p.client, one.p, one.n);
    kit_run(p.client, p.server, 100000);
    p.client_status = kit_status(p.client, &p.client_error);
    p.server_status = kit_status(p.server, &p.server_error);
    kit_talk(&p, NULL, NULL);
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(empty_handshake_record)
{
    psocket_tls *server, *client;
    kit_ends p;
    kit_version = 0x0304;
    server = make("ec", "secp384r1", 0);
    client = kit_client();
    REQUIRE(client && server);
    REQUIRE(kit_begin(&p, client, server, "localhost"));
    kit_move(p.client, p.server, 100000); /* HelloRetryRequest */
    kit_feed(p.server, "\26\3\3\0\0", 5);
    kit_failed(p.server, PSOCKET_TLS_PROTOCOL, 10, "an empty record");
    kit_end_both(&p);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
