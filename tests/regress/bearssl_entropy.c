/* BearSSL seeds itself from RDRAND alone or /dev/urandom. Here it gets the platform's random bytes, and no others: when there
   are none, there is no handshake, and the peer is told. */
#include "kit.h"

KIT_TEST(only_the_platforms_entropy, 20)
{
    psocket_tls *tls = kit_client();
    kit_end *h = NULL;
    psocket_error e = {0};
    static kit_bytes a, b;
    REQUIRE(tls);
    kit_seed(7);
    REQUIRE(!kit_new(&h, tls, PSOCKET_CLIENT, "localhost", &e));
    kit_take(h, &a);
    kit_free(h);
    kit_seed(7);
    REQUIRE(!kit_new(&h, tls, PSOCKET_CLIENT, "localhost", &e));
    kit_take(h, &b);
    kit_free(h);
    CHECK(a.n > 50);
    CHECK_INT(a.n, b.n);
    CHECK_MEM(a.p, b.p, a.n); /* the same seed, the same hello: no other source is mixed in */
    kit_seed(8);
    REQUIRE(!kit_new(&h, tls, PSOCKET_CLIENT, "localhost", &e));
    kit_take(h, &b);
    kit_free(h);
    CHECK(memcmp(a.p, b.p, a.n) != 0);
    kit_no_entropy = 1;
    CHECK(kit_new(&h, tls, PSOCKET_CLIENT, "localhost", &e) < 0);
    CHECK(h == NULL && e.code && e.text[0]);
    psocket_tls_free(tls);
}

/* A server that has none says so (internal_error), whenever it notices. */
KIT_TEST(a_server_without_entropy, 20)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    kit_end *c = NULL, *s = NULL;
    psocket_error e = {0};
    REQUIRE(client && server);
    REQUIRE(!kit_new(&c, client, PSOCKET_CLIENT, "localhost", &e));
    kit_no_entropy = 1;
    if (kit_new(&s, server, PSOCKET_SERVER, NULL, &e)) {
        CHECK_INT(e.code, PSOCKET_NO_ENTROPY);
    } else {
        kit_feed(s, c->out.p, c->out.n);
        kit_failed(s, PSOCKET_NO_ENTROPY, 80, "no entropy");
    }
    kit_free(c);
    kit_free(s);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
