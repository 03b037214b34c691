/* A client kept a session that its server chokes on, without an alert, for a day: every connection failed. And a failure
   forgot whatever session there was by then, even one that another connection had just made. */
#include "kit.h"

KIT_TEST_12(a_connection_that_dies_forgets_its_session, 20)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec");
    psocket_tlsinfo ci, si;
    kit_end *c = NULL;
    REQUIRE(client && server);
    kit_good(client, server, "localhost", 512, NULL, NULL);
    REQUIRE(!kit_new(&c, client, PSOCKET_CLIENT, "localhost", NULL));
    CHECK(c->out.n > 50);
    kit_eof(c); /* the server has closed the connection */
    CHECK(kit_status(c, NULL) < PSOCKET_WANT_READ);
    kit_free(c);
    kit_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

KIT_TEST_12(it_forgets_no_other, 20)
{
    psocket_tls *client = kit_client(), *server = kit_server("ec"), *other = kit_server("ec");
    psocket_tlsinfo ci, si;
    kit_end *c = NULL;
    REQUIRE(client && server && other);
    kit_good(client, server, "localhost", 512, NULL, NULL);
    REQUIRE(!kit_new(&c, client, PSOCKET_CLIENT, "localhost", NULL)); /* offers the session */
    kit_good(client, other, "localhost", 512, &ci, &si); /* which this server does not know: a newer one */
    CHECK_INT(ci.resumed, 0);
    kit_feed(c, "garbage", 7);
    CHECK_INT(kit_status(c, NULL), PSOCKET_TLS_PROTOCOL);
    kit_free(c);
    kit_good(client, other, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    psocket_tls_free(client);
    psocket_tls_free(server);
    psocket_tls_free(other);
}
