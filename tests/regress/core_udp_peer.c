/* psocket_wait read the next datagram ahead and with it changed the peer: the answer to the datagram taken last went to
   somebody else. */
#include "core.h"

TEST(the_answer_goes_to_the_sender)
{
    psocket_options o = net_options(1);
    psocket *s = NULL, *x = NULL, *y = NULL;
    const void *data;
    int port = 0, px = 0, now = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    REQUIRE(psocket_connect(&x, "127.0.0.1", port, &o) == 0 && psocket_connect(&y, "127.0.0.1", port, &o) == 0);
    psocket_getlocal(x, NULL, 0, &px);
    CHECK_INT(psocket_send(x, "from x", 6), 6);
    CHECK_INT(psocket_send(y, "from y", 6), 6);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(net_recv(s), "from x");
    CHECK(psocket_wait(s, PSOCKET_READ | PSOCKET_WRITE, 1000) > 0);
    CHECK_INT(psocket_getpeer(s, NULL, 0, &now), 0);
    CHECK_INT(now, px);
    CHECK_INT(psocket_send(s, "for x", 5), 5);
    CHECK_INT(psocket_wait(x, PSOCKET_READ, 300), PSOCKET_READ);
    if (psocket_pending(x) || psocket_wait(x, PSOCKET_READ, 0)) CHECK_STR(net_recv(x), "for x");
    CHECK_INT(psocket_recv(y, &data), PSOCKET_WANT_READ);
    psocket_free(s);
    psocket_free(x);
    psocket_free(y);
}
