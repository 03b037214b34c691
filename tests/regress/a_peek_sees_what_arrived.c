/* The first psocket_peek after a receive in a poller answered WANT_READ though data had arrived. */
#include "a.h"

static void peeks(psocket *c, psocket *s)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int i;
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    for (i = 0; i < 3; i++) {
        CHECK_INT(psocket_send(c, "one", 3), 3);
        CHECK_INT(psocket_flush(c), 0);
        CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
        CHECK_STR(net_peek(s), "one");
        CHECK_STR(a_recv(s), "one");
        if (i == 1) CHECK_STR(a_recv(s), "WANT_READ");
        if (i == 2) CHECK_STR(net_peek(s), "WANT_READ");
        CHECK_INT(psocket_send(c, "two", 3), 3);
        CHECK_INT(psocket_flush(c), 0);
        a_arrived(s);
        CHECK_STR(net_peek(s), "two");
        CHECK_STR(net_peek(s), "two");
        CHECK_STR(a_recv(s), "two");
        if (i == 0) CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    }
    /* the same of an end */
    CHECK_INT(psocket_send(c, "last", 4), 4);
    CHECK_INT(psocket_flush(c), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_STR(a_recv(s), "last");
    if (!psocket_isudp(c)) {
        CHECK_INT(psocket_isopen(s), 1);
        psocket_free(c);
        a_arrived(s);
        CHECK_INT(psocket_isopen(s), 0);
        CHECK_STR(net_peek(s), "CLOSED");
    } else {
        psocket_free(c);
    }
    psocket_free(s);
    psocket_poller_free(p);
}

TEST(tcp)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tcp(&c, &s, 1));
    peeks(c, s);
}

TEST(tls)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tls(&c, &s, 1));
    peeks(c, s);
}

TEST(udp)
{
    psocket *c = NULL, *s = NULL;
    psocket_options o = net_options(1);
    int port;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    peeks(c, s);
}

TEST(carried)
{
    psocket *c = NULL, *s = NULL, *w = NULL;
    psocket_options o = net_options(1);
    REQUIRE(a_tcp(&c, &s, 1) && psocket_wrap(&w, s, &o) == 0);
    peeks(c, w);
}

TEST(a_pair)
{
    psocket *c = NULL, *s = NULL;
    psocket_options o = net_options(1);
    REQUIRE(psocket_pair(&c, &s, &o) == 0);
    peeks(c, s);
}
