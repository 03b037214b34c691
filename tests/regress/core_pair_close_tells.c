/* One end of a pair, shut down and then freed, did not tell the poller of an other end that waited for room. */
#include "core.h"

TEST(a_writer_hears_of_it)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    core_fill(b);
    CHECK_INT(psocket_send(b, "x", 1), PSOCKET_WANT_WRITE);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, b, PSOCKET_WRITE, -1, b), 0);
    CHECK_INT(psocket_shutdown(a), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 5), 0);
    psocket_free(a);
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 1); /* a send would not wait: it answers RESET */
    CHECK_INT(psocket_send(b, "x", 1), PSOCKET_RESET);
    psocket_poller_free(p);
    psocket_free(b);
}
