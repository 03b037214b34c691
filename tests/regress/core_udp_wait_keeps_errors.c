/* psocket_wait on a UDP socket read the error of an earlier datagram (port unreachable), said "ready to read" and forgot
   the error: the recv that follows waited. */
#include "core.h"

TEST(the_error_is_for_recv)
{
    psocket_options o = net_options(1);
    psocket *c = NULL, *gone = NULL;
    const void *data;
    int port = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&gone, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(gone, NULL, 0, &port);
    psocket_free(gone);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    CHECK_INT(psocket_send(c, "x", 1), 1);
    if (psocket_wait(c, PSOCKET_READ, 1000) == PSOCKET_READ) CHECK_INT(psocket_recv(c, &data), PSOCKET_REFUSED);
    else CHECK(!"psocket_wait saw nothing");
    CHECK_INT(psocket_recv(c, &data), PSOCKET_WANT_READ); /* told once */
    psocket_free(c);
}
