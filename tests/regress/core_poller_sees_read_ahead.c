/* A recv or read outside the socket's own event (before it was reported, or from another socket's event) could leave chunks
   in the ring of which the system knows nothing: the poller never reported them. */
#include "core.h"

static void setup(psocket *s, psocket_poller **p)
{
    const psocket_event *ev;
    CHECK_INT(psocket_poller_new(p), 0);
    CHECK_INT(psocket_poller_set(*p, s, PSOCKET_READ, -1, s), 0);
    CHECK_INT(psocket_poller_wait(*p, &ev, 0), 0);
}

TEST(records_behind_the_first)
{
    psocket *c, *s;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    REQUIRE(core_tls(&c, &s));
    setup(s, &p);
    CHECK_INT(psocket_send(c, "one", 3), 3);
    CHECK_INT(psocket_send(c, "two", 3), 3);
    check_sleep_us(20000);
    CHECK_STR(net_recv(s), "one");
    CHECK_INT(psocket_pending(s), 3);
    CHECK_INT(psocket_poller_wait(p, &ev, 500), 1);
    CHECK_STR(net_recv(s), "two");
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

TEST(the_rest_of_a_chunk)
{
    psocket *c, *s;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(s, 1);
    setup(s, &p);
    CHECK_INT(psocket_send(c, "one\ntwo\n", 8), 8);
    check_sleep_us(20000);
    CHECK_INT(psocket_read_until(s, "\n", 100, &data), 4);
    CHECK_INT(psocket_poller_wait(p, &ev, 500), 1);
    CHECK_INT(psocket_read(s, 1, &data), 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 500), 1);
    CHECK_STR(net_recv(s), "wo\n");
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}
