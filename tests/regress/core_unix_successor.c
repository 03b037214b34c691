/* A restart without a gap: the new server takes the path over, then the old one closes and must not take it away. */
#include "core.h"

TEST(the_path_of_a_successor_stays)
{
    psocket_options o = net_options(0);
    psocket *old = NULL, *next = NULL, *client = NULL;
    char address[128];
    snprintf(address, sizeof address, "unix:/tmp/psocket-successor-%ld", (long)getpid());
    REQUIRE(psocket_listen(&old, address, 0, &o) == 0);
    CHECK(unlink(address + 5) == 0);
    CHECK_INT(psocket_listen(&next, address, 0, &o), 0);
    psocket_free(old);
    CHECK_INT(psocket_connect(&client, address, 0, &o), 0);
    psocket_free(client);
    psocket_free(next);
    CHECK(access(address + 5, F_OK) != 0);
    unlink(address + 5);
}
