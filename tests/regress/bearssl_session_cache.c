/* BearSSL, server: a session from the cache bypasses certificates and the version check. Sessions are bound to settings and
   server name, version and suite are looked at again, and none are kept when clients have certificates. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(cached_sessions_are_checked)
{
    psocket_tls *client = pipe_client(), *server = pipe_server("ec");
    psocket_tlsinfo ci, si;
    psi_tls_session *s;
    REQUIRE(client && server);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    REQUIRE(server->server_sessions.count == 1);
    s = &server->server_sessions.list[0];
    s->par.version = BR_TLS10;
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 0);
    s = &server->server_sessions.list[server->server_sessions.count - 1];
    s->par.cipher_suite = 0x002F;
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 0);
    s = &server->server_sessions.list[server->server_sessions.count - 1];
    s->name[0] ^= 1; /* made for another name */
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 0);
    pipe_good(client, server, "localhost", 512, &ci, &si);
    CHECK_INT(si.resumed, 1);
    CHECK(ci.peer_subject[0]);
    psocket_tls_free(client);
    psocket_tls_free(server);
}

TEST(no_sessions_with_client_certificates)
{
    pipe_settings s;
    psocket_tls *client, *server;
    psocket_tlsinfo ci, si;
    int i;
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, "client.pem", "client.key");
    client = pipe_make(&s);
    pipe_done(&s);
    pipe_ca(&s, "ca.pem");
    pipe_identity(&s, "ec.pem", "ec.key");
    s.opt.client_auth = PSOCKET_CLIENT_AUTH_OPTIONAL;
    server = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(client && server);
    for (i = 0; i < 2; i++) {
        pipe_good(client, server, "localhost", 512, &ci, &si);
        CHECK_INT(si.resumed, 0);
        CHECK(si.peer_subject[0]);
    }
    CHECK_INT(server->server_sessions.count, 0);
    psocket_tls_free(client);
    psocket_tls_free(server);
}
