/* psocket_poller_getfd's descriptor was not readable although psocket_poller_wait(p, 0) had work that the system does not
   know of: a pair, a carried socket, data read ahead. A poller within a poller slept, and so did a foreign loop. */
#include "a.h"

static int readable(psocket_poller *p, int ms)
{
    struct pollfd f;
    f.fd = (int)psocket_poller_getfd(p, NULL);
    f.events = POLLIN;
    return poll(&f, 1, ms);
}

/* s has something to read that nobody else knows of. The descriptor says so, to poll and to another poller, until it is gone. */
static void has_work(psocket_poller *p, psocket *s)
{
    psocket_poller *outer = NULL;
    psocket_watch *w = NULL;
    const psocket_event *ev;
    int ms = -1, turn;
    REQUIRE(psocket_poller_new(&outer) == 0);
    CHECK_INT(psocket_poller_watch(outer, &w, psocket_poller_getfd(p, &ms), PSOCKET_READ, -1, p), 0);
    for (turn = 0; turn < 3; turn++) {
        CHECK_INT(readable(p, 1000), 1);
        CHECK_INT(psocket_poller_wait(outer, &ev, 1000), 1);
        CHECK(ev[0].user == p);
        CHECK_INT(psocket_poller_wait(p, &ev, 0), 1); /* level-triggered */
        CHECK(ev[0].user == s && ev[0].events == PSOCKET_READ);
    }
    while (psocket_pending(s) || psocket_wait(s, PSOCKET_READ, 0)) {
        const void *data;
        if (psocket_recv(s, &data) < 0) break;
    }
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    ms = -1;
    psocket_poller_getfd(p, &ms);
    CHECK_INT(ms, -1);
    CHECK_INT(readable(p, 0), 0); /* and stops */
    CHECK_INT(psocket_poller_wait(outer, &ev, 20), 0);
    psocket_watch_free(w);
    psocket_poller_free(outer);
}

static psocket_poller *watch(psocket *s)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    CHECK_INT(psocket_poller_new(&p), 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    return p;
}

TEST(a_pair)
{
    psocket *a = NULL, *b = NULL;
    psocket_options o = net_options(1);
    psocket_poller *p;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    p = watch(b);
    CHECK_INT(psocket_send(a, "x", 1), 1);
    has_work(p, b);
    psocket_free(a);
    psocket_free(b);
    psocket_poller_free(p);
}

TEST(a_pair_with_both_ends_in_it)
{
    psocket *a = NULL, *b = NULL;
    psocket_options o = net_options(1);
    psocket_poller *p;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    p = watch(b);
    CHECK_INT(psocket_poller_set(p, a, PSOCKET_READ, -1, a), 0);
    CHECK_INT(psocket_send(a, "x", 1), 1);
    has_work(p, b);
    psocket_free(a);
    psocket_free(b);
    psocket_poller_free(p);
}

TEST(what_a_read_left)
{
    psocket *c = NULL, *s = NULL;
    psocket_poller *p;
    const psocket_event *ev;
    const void *data;
    REQUIRE(a_tcp(&c, &s, 1));
    p = watch(s);
    CHECK_INT(psocket_send(c, "hello", 5), 5);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_INT(psocket_read(s, 2, &data), 2);
    has_work(p, s);
    CHECK_INT(psocket_send(c, "hello", 5), 5);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_STR(net_peek(s), "hello");
    has_work(p, s);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

TEST(what_was_put_back)
{
    psocket *c = NULL, *s = NULL;
    psocket_poller *p;
    REQUIRE(a_tcp(&c, &s, 1));
    p = watch(s);
    CHECK_INT(psocket_unrecv(s, "again", 5), 0);
    has_work(p, s);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

TEST(records_read_ahead)
{
    psocket *c = NULL, *s = NULL;
    psocket_poller *p;
    const psocket_event *ev;
    int i;
    REQUIRE(a_tls(&c, &s, 1));
    p = watch(s);
    for (i = 0; i < 5; i++) CHECK_INT(psocket_send(c, "record", 6), 6);
    CHECK_INT(psocket_flush(c), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_STR(a_recv(s), "record");
    has_work(p, s);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

TEST(carried)
{
    int tls;
    for (tls = 0; tls < 2; tls++) {
        psocket *c = NULL, *s = NULL, *w = NULL;
        psocket_options o = net_options(1);
        psocket_poller *p;
        REQUIRE(tls ? a_tls(&c, &s, 1) : a_tcp(&c, &s, 1));
        CHECK_INT(psocket_unrecv(s, "carried", 7), 0);
        REQUIRE(psocket_wrap(&w, s, &o) == 0);
        CHECK_INT(psocket_poller_new(&p), 0);
        CHECK_INT(psocket_poller_set(p, w, PSOCKET_READ, -1, w), 0);
        has_work(p, w);
        CHECK_INT(psocket_send(c, "more", 4), 4);
        CHECK_INT(psocket_flush(c), 0);
        has_work(p, w);
        psocket_free(c);
        psocket_free(w);
        psocket_poller_free(p);
    }
}

/* What is set while data lies there already. */
TEST(set_late)
{
    psocket *c = NULL, *s = NULL;
    psocket_poller *p = NULL;
    const void *data;
    REQUIRE(a_tcp(&c, &s, 1) && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_send(c, "hello", 5), 5);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_INT(psocket_read(s, 1, &data), 1);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    has_work(p, s);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

/* A socket that has ended is ready, and a removed one takes its work with it. */
TEST(removed)
{
    psocket *c = NULL, *s = NULL;
    psocket_poller *p;
    const psocket_event *ev;
    REQUIRE(a_tcp(&c, &s, 1));
    p = watch(s);
    CHECK_INT(psocket_unrecv(s, "again", 5), 0);
    CHECK_INT(readable(p, 1000), 1);
    CHECK_INT(psocket_poller_set(p, s, 0, -1, NULL), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(readable(p, 0), 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    CHECK_INT(readable(p, 1000), 1);
    psocket_free(s);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(readable(p, 0), 0);
    psocket_free(c);
    psocket_poller_free(p);
}
