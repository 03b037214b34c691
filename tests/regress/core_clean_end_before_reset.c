/* A peer that has sent all, ended its direction and gone: a send then answers RESET, and what it sent still ends as CLOSED,
   as it does when nothing is sent. (One that broke off ends as RESET whichever call meets it: a_reset_stays_reset.c.) */
#include "core.h"

TEST(what_was_complete_stays_complete)
{
    int nonblocking, i, fd;
    for (nonblocking = 0; nonblocking < 2; nonblocking++) {
        psocket *s = net_raw_peer(&fd);
        ptrdiff_t n = 1;
        REQUIRE(s != NULL);
        psocket_setnonblocking(s, nonblocking);
        CHECK(send(fd, "complete", 8, 0) == 8);
        close(fd);
        for (i = 0; i < 100 && n >= 0; i++) {
            check_sleep_us(2000);
            n = psocket_send(s, "x", 1);
        }
        CHECK_INT(n, PSOCKET_RESET);
        CHECK_INT(psocket_geterror(s, NULL), PSOCKET_RESET);
        CHECK_STR(net_recv(s), "complete");
        CHECK_STR(net_recv(s), "CLOSED");
        CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
        CHECK_STR(net_recv(s), "CLOSED");
        psocket_free(s);
    }
}
