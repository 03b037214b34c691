/* Empty datagrams that a psocket_read waits behind have no bytes, but take room: they must not pile up without end. */
#include "core.h"

TEST(read_over_empty_datagrams)
{
    psocket *a = NULL, *b = NULL;
    psocket_options o = net_options(1);
    const void *data;
    ptrdiff_t r = PSOCKET_WANT_READ;
    int port, turn, i;
    o.udp = 1;
    o.recv_limit = 10;
    REQUIRE(psocket_listen(&a, "127.0.0.1", 0, &o) == 0 && psocket_getlocal(a, NULL, 0, &port) == 0);
    REQUIRE(psocket_connect(&b, "127.0.0.1", port, &o) == 0);
    for (turn = 0; turn < 100 && r == PSOCKET_WANT_READ; turn++) {
        for (i = 0; i < 20; i++) CHECK_INT(psocket_send(b, "", 0), 0);
        r = psocket_read(a, 50, &data);
    }
    CHECK_INT(r, PSOCKET_LIMIT);
    CHECK_INT(psocket_geterror(a, NULL), PSOCKET_LIMIT);
    CHECK_INT(psocket_wait(a, PSOCKET_READ, 0), PSOCKET_READ);
    CHECK_INT(psocket_recv(a, &data), 0); /* they are there to be taken one by one */
    psocket_free(a);
    psocket_free(b);
}
