/* Renewing a server's certificate: new settings for new connections, while old ones go on under the old settings. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

TEST(new_identity_for_new_connections)
{
    psocket_tls *server = pipe_server("rsa"), *client = pipe_client();
    psocket *c[2], *s[2];
    psocket_tlsinfo info[2];
    const void *data;
    int i, round;
    REQUIRE(server && client);
    for (i = 0; i < 2; i++) {
        REQUIRE(!psocket_pair(&c[i], &s[i], NULL));
        psocket_setnonblocking(c[i], 1);
        psocket_setnonblocking(s[i], 1);
        psocket_starttls(c[i], client, "localhost");
        psocket_starttls(s[i], server, NULL);
        for (round = 0; round < 20 && !(psocket_istls(c[i]) && psocket_istls(s[i])); round++) {
            psocket_step(c[i]);
            psocket_step(s[i]);
        }
        CHECK_INT(psocket_gettlsinfo(c[i], &info[i]), 0);
        if (i) break;
        psocket_tls_free(server); /* the first connection holds what it needs */
        server = pipe_server("ec");
        REQUIRE(server);
    }
    CHECK(strstr(info[0].suite_name, "ECDHE_RSA") && strstr(info[1].suite_name, "ECDHE_ECDSA"));
    CHECK(memcmp(info[0].peer_sha256, info[1].peer_sha256, 32) != 0);
    CHECK_INT(info[1].resumed, 0); /* the session of the old settings is of no use with the new */
    for (i = 0; i < 2; i++) {
        CHECK_INT(psocket_send(s[i], "still here", 10), 10);
        CHECK_INT(psocket_recv(c[i], &data), 10);
        CHECK_MEM(data, "still here", 10);
        CHECK_INT(psocket_send(c[i], "good", 4), 4);
        CHECK_INT(psocket_recv(s[i], &data), 4);
        psocket_free(c[i]);
        psocket_free(s[i]);
    }
    psocket_tls_free(server);
    psocket_tls_free(client);
}
