/* psocket_poller_set with events 0 and a time, on a socket of another poller, answered 0 and did nothing; a regular file, a
   folder or /dev/null answered ACCESS. */
#include "a.h"

static void another_poller(psocket *s)
{
    psocket_poller *p = NULL, *q = NULL;
    const psocket_event *ev;
    REQUIRE(psocket_poller_new(&p) == 0 && psocket_poller_new(&q) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, 50, s), 0);
    CHECK_INT(psocket_poller_set(q, s, 0, 10, q), PSOCKET_BUSY);
    CHECK_INT(psocket_poller_set(q, s, PSOCKET_READ, -1, q), PSOCKET_BUSY);
    CHECK_INT(psocket_poller_set(q, s, PSOCKET_READ, 10, q), PSOCKET_BUSY);
    CHECK_INT(psocket_poller_wait(q, &ev, 20), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1); /* the first one's is untouched */
    CHECK(ev[0].user == s && ev[0].events == 0);
    CHECK_INT(psocket_poller_set(p, s, 0, -1, NULL), 0);
    CHECK_INT(psocket_poller_set(q, s, 0, 10, q), 0); /* now it may: a time alone */
    CHECK_INT(psocket_poller_wait(q, &ev, 1000), 1);
    CHECK(ev[0].user == q && ev[0].events == 0);
    psocket_poller_free(q);
    CHECK_INT(psocket_poller_set(p, s, 0, 10, p), 0); /* freed with its poller */
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    psocket_poller_free(p);
}

TEST(a_socket_of_another_poller)
{
    psocket *c = NULL, *s = NULL, *l, *u = NULL;
    psocket_options o = net_options(1);
    int port;
    REQUIRE(a_tcp(&c, &s, 1));
    another_poller(s);
    psocket_free(c);
    psocket_free(s);
    l = net_listen("127.0.0.1", &port);
    another_poller(l);
    psocket_free(l);
    o.udp = 1;
    REQUIRE(psocket_listen(&u, "127.0.0.1", 0, &o) == 0);
    another_poller(u);
    psocket_free(u);
    REQUIRE(psocket_pair(&c, &s, &o) == 0);
    another_poller(s);
    psocket_free(c);
    psocket_free(s);
}

/* Always ready, as poll says, or UNSUPPORTED. */
TEST(files)
{
    static const char *const paths[] = { "/etc/passwd", "/", "/dev/null", "/dev/zero", "/proc/self/maps" };
    size_t i;
    for (i = 0; i < sizeof paths / sizeof *paths; i++) {
        psocket_poller *p = NULL;
        psocket_watch *w = NULL;
        const psocket_event *ev;
        int fd = open(paths[i], O_RDONLY), r, turn;
        REQUIRE(fd >= 0 && psocket_poller_new(&p) == 0);
        r = psocket_poller_watch(p, &w, fd, PSOCKET_READ, -1, &fd);
        if (r != 0) {
            CHECK_INT(r, PSOCKET_UNSUPPORTED);
            CHECK(w == NULL);
        }
        for (turn = 0; turn < 3 && r == 0; turn++) {
            CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
            CHECK(ev[0].user == &fd && ev[0].events == PSOCKET_READ);
        }
        psocket_watch_free(w);
        CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
        psocket_poller_free(p);
        close(fd);
    }
}

TEST(a_closed_descriptor)
{
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    int fd = dup(0), r;
    REQUIRE(psocket_poller_new(&p) == 0);
    close(fd);
    r = psocket_poller_watch(p, &w, fd, PSOCKET_READ, -1, &fd);
    CHECK(r < 0 && w == NULL);
    psocket_poller_free(p);
}
