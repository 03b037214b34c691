/* A client kept a session that its server chokes on, without an alert, for a day: every connection failed. And a failure
   forgot whatever session there was by then, even one that another connection had just made. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(a_connection_that_dies_forgets_its_session)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("ec");
    psi_hs *c = NULL;
    REQUIRE(client && server);
    pipe_good(client, server, "localhost", 512, NULL, NULL);
    REQUIRE(client->client_sessions.count == 1);
    REQUIRE(!psi_hs_new(&c, client, 0, "localhost", 0, NULL));
    CHECK_INT(c->offered.session_id_len, 32);
    psi_hs_free(c); /* as psi_sock_drop does when the server has closed the connection */
    CHECK_INT(client->client_sessions.count, 0);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(it_forgets_no_other)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("ec");
    psocket_tlsinfo ci, si;
    psi_hs *c = NULL;
    REQUIRE(client && server);
    pipe_good(client, server, "localhost", 512, NULL, NULL);
    REQUIRE(!psi_hs_new(&c, client, 0, "localhost", 0, NULL));
    client->client_sessions.list[0].par.session_id[7] ^= 1; /* a newer one: the server does not know it */
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 0);
    pipe_feed(c, "garbage", 7);
    CHECK_INT(psi_hs_status(c, NULL), PSOCKET_TLS_PROTOCOL);
    psi_hs_free(c);
    CHECK_INT(client->client_sessions.count, 1);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.resumed, 1);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
