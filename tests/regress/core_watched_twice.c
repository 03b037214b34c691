/* A descriptor is watched once in a poller, whoever came first: it was OS, or told by each wait. Epoll alone tells. */
#include "core.h"

#ifdef __linux__
TEST(one_descriptor_once)
{
    psocket_poller *p;
    psocket_watch *w = NULL, *v = NULL;
    psocket *c, *s;
    int fds[2], order;
    REQUIRE(pipe(fds) == 0 && psocket_poller_new(&p) == 0);
    REQUIRE(net_pair(&c, &s));
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, &w), 0);
    CHECK_INT(psocket_poller_watch(p, &v, fds[0], PSOCKET_READ, -1, &v), PSOCKET_BUSY);
    CHECK(v == NULL);
    CHECK_INT(psocket_poller_watch(p, &v, fds[1], PSOCKET_WRITE, -1, &v), 0);
    CHECK_INT(net_wait_for(p, &v, PSOCKET_WRITE), PSOCKET_WRITE);
    CHECK_INT(psocket_poller_watch(p, &v, fds[0], PSOCKET_READ, 0, &v), PSOCKET_BUSY);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], 0, -1, &w), 0);
    CHECK_INT(psocket_poller_watch(p, &v, fds[0], PSOCKET_READ, -1, &v), 0); /* nobody has it for now */
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, &w), PSOCKET_BUSY);
    CHECK(write(fds[1], "x", 1) == 1);
    CHECK_INT(net_wait_for(p, &v, PSOCKET_READ), PSOCKET_READ);
    CHECK_INT(psocket_poller_watch(p, &v, fds[0], 0, -1, &v), 0);
    for (order = 0; order < 2; order++) { /* with a look between, and without */
        const psocket_event *ev;
        CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
        if (order) CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
        CHECK_INT(psocket_poller_watch(p, &v, psocket_getfd(c), PSOCKET_READ, -1, &v), PSOCKET_BUSY);
        CHECK_INT(psocket_poller_set(p, c, 0, -1, NULL), 0);
        CHECK_INT(psocket_poller_watch(p, &v, psocket_getfd(c), PSOCKET_READ, -1, &v), 0);
        CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), PSOCKET_BUSY);
        CHECK_INT(psocket_geterror(c, NULL), PSOCKET_BUSY);
        CHECK_INT(psocket_poller_watch(p, &v, psocket_getfd(c), 0, -1, &v), 0);
    }
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    CHECK_INT(psocket_send(s, "x", 1), 1);
    CHECK_INT(net_wait_for(p, c, PSOCKET_READ), PSOCKET_READ);
    psocket_watch_free(v);
    psocket_watch_free(w);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
    close(fds[0]);
    close(fds[1]);
}
#else
TEST(one_descriptor_once) { CHECK_INT(psocket_poller_watch(NULL, NULL, -1, 0, -1, NULL), PSOCKET_INVALID); }
#endif
