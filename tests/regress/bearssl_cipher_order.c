/* BearSSL, server: the cipher suite is chosen in the order of the client unless told otherwise. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(cipher_order)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("rsa");
    psocket_tlsinfo ci, si;
    size_t i;
    REQUIRE(client && server);
    for (i = 0; i < PSI_TLS_SUITES; i++) client->prim.suites[i] = server->prim.suites[PSI_TLS_SUITES - 1 - i];
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(ci.suite, server->prim.suites[1]); /* the server's best for RSA */
    psocket_tls_free(client);
    psocket_tls_free(server);
}
