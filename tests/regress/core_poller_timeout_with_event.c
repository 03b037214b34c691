/* "A set timeout is reported once": one that passed while the socket had an event in the same wait was never reported. */
#include "core.h"

TEST(both_are_told)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int i, told = 0, read = 0;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, a, PSOCKET_READ, 5, a), 0);
    CHECK_INT(psocket_send(b, "x", 1), 1);
    check_sleep_us(20000);
    for (i = 0; i < 5; i++) {
        int n = psocket_poller_wait(p, &ev, 30);
        CHECK(n >= 0 && n <= 1);
        if (n == 1 && ev[0].events == 0) told++;
        if (n == 1 && ev[0].events == PSOCKET_READ) {
            read++;
            net_recv(a);
        }
    }
    CHECK_INT(read, 1);
    CHECK_INT(told, 1);
    psocket_poller_free(p);
    psocket_free(a);
    psocket_free(b);
}
