/* Pollers within pollers: however many there are, a datum wakes the outermost for it, and once more for the look that finds
   nothing left, not once per level. */
#include "core.h"

#define MOST 5 /* as deep as Linux lets epoll descriptors watch each other */

/* One turn from the outermost poller inwards, as far as there are events. 1 if any poller but the innermost had one. */
static int turn(psocket_poller **p, int depth)
{
    const psocket_event *ev;
    int woken = 0;
    while (depth-- > 0) {
        if (psocket_poller_wait(p[depth], &ev, 0) <= 0) break;
        if (depth) woken = 1;
    }
    return woken;
}

static void nest(int depth, int carried)
{
    psocket_poller *p[MOST] = { NULL };
    psocket_watch *w[MOST] = { NULL };
    psocket *a = NULL, *b = NULL, *in;
    psocket_options o = net_options(1);
    const void *data;
    int i, turns = 0, datum;
    for (i = 0; i < depth; i++) REQUIRE(psocket_poller_new(&p[i]) == 0);
    for (i = 1; i < depth; i++)
        REQUIRE(psocket_poller_watch(p[i], &w[i], psocket_poller_getfd(p[i - 1], NULL), PSOCKET_READ, -1, p[i - 1]) == 0);
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    in = a;
    if (carried) REQUIRE(psocket_wrap(&in, a, &o) == 0);
    REQUIRE(psocket_poller_set(p[0], in, PSOCKET_READ, -1, in) == 0);
    for (i = 0; i < 2 * MOST; i++) turn(p, depth);
    for (datum = 0; datum < 3; datum++) {
        CHECK_INT(psocket_send(b, "x", 1), 1);
        CHECK_INT(turn(p, depth), depth > 1);
        CHECK_INT(psocket_recv(in, &data), 1);
        for (turns = 0; turns < 2 * MOST && turn(p, depth); turns++) {}
        if (turns > 1) check_fail(__FILE__, __LINE__, "depth %d: woken %d times for nothing", depth, turns);
        CHECK_INT(psocket_recv(in, &data), PSOCKET_WANT_READ);
    }
    /* What is not read is reported again and again, at every depth. */
    CHECK_INT(psocket_send(b, "x", 1), 1);
    for (i = 0; i < 5; i++) CHECK_INT(turn(p, depth), depth > 1);
    psocket_free(in);
    psocket_free(b);
    for (i = 0; i < depth; i++) psocket_watch_free(w[i]);
    for (i = depth; i-- > 0;) psocket_poller_free(p[i]);
}

TEST(depth_costs_nothing)
{
    int depth;
    for (depth = 1; depth <= MOST; depth++) {
        nest(depth, 0);
        nest(depth, 1);
    }
}
