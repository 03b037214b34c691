/* Renewing a server's certificate: new settings for new connections, while old ones go on under the old settings. */
#include "kit.h"

KIT_TEST(new_identity_for_new_connections, 20)
{
    psocket_tls *server = kit_server("rsa"), *client = kit_client();
    kit_ends p[2];
    psocket_tlsinfo info[2];
    int i;
    REQUIRE(server && client);
    for (i = 0; i < 2; i++) {
        kit_shake(&p[i], client, server, "localhost", 80000);
        kit_talk(&p[i], &info[i], NULL);
        if (i) break;
        psocket_tls_free(server); /* the first connection holds what it needs */
        server = kit_server("ec");
        REQUIRE(server);
    }
    CHECK(!kit_is_ec(&info[0]) && kit_is_ec(&info[1]));
    CHECK(memcmp(info[0].peer_sha256, info[1].peer_sha256, 32) != 0);
    CHECK_INT(info[1].resumed, 0); /* the session of the old settings is of no use with the new */
    for (i = 0; i < 2; i++) {
        kit_say(p[i].server, p[i].client, "still here");
        kit_say(p[i].client, p[i].server, "good");
        kit_end_both(&p[i]);
    }
    psocket_tls_free(server);
    psocket_tls_free(client);
}
