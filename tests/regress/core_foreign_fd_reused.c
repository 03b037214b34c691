/* A foreign descriptor that was closed and whose number came back: psocket_poller_watch with the same events believed it to
   be watched already. */
#include "core.h"
#include <fcntl.h>

TEST(the_new_one_is_watched)
{
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    const psocket_event *ev;
    int a[2], b[2], tag;
    REQUIRE(pipe(a) == 0 && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_watch(p, &w, a[0], PSOCKET_READ, -1, &tag), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    close(a[0]);
    close(a[1]);
    REQUIRE(pipe(b) == 0);
    CHECK_INT(b[0], a[0]);
    CHECK_INT(psocket_poller_watch(p, &w, b[0], PSOCKET_READ, -1, &tag), 0);
    CHECK(write(b[1], "x", 1) == 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 1);
    CHECK_INT(psocket_poller_watch(p, &w, b[0], 0, -1, &tag), 0);
    close(b[0]);
    close(b[1]);
    psocket_watch_free(w);
    psocket_poller_free(p);
}

/* The same, with more to watch than before: kqueue was asked for the new direction only. */
TEST(the_new_one_is_watched_for_all)
{
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    const psocket_event *ev;
    int a[2], b[2], tag;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0 && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_watch(p, &w, a[0], PSOCKET_READ, -1, &tag), 0);
    close(a[0]);
    close(a[1]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, b) == 0);
    CHECK_INT(b[0], a[0]);
    CHECK_INT(psocket_poller_watch(p, &w, b[0], PSOCKET_READ | PSOCKET_WRITE, -1, &tag), 0);
    CHECK(write(b[1], "x", 1) == 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 1);
    CHECK_INT(ev[0].events, PSOCKET_READ | PSOCKET_WRITE);
    CHECK_INT(psocket_poller_watch(p, &w, b[0], 0, -1, &tag), 0);
    close(b[0]);
    close(b[1]);
    psocket_watch_free(w);
    psocket_poller_free(p);
}
