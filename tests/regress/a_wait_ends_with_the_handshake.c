/* psocket_starttls, nonblocking, answers WANT_READ; psocket_wait(READ) then waited past the finished handshake for data that
   might never come. A wait that completes the handshake returns. */
#include "a.h"

typedef struct peer {
    psocket *s;
    psocket_tls *tls;
    const char *name;
    int result;
    psocket *second;
} peer;

static void blocking_end(void *arg)
{
    peer *p = (peer *)arg;
    p->result = psocket_starttls(p->s, p->tls, p->name);
}

/* The end in question is nonblocking and waits with psocket_wait(events), or in a poller; the peer blocks in a thread, and
   says nothing afterwards. */
static void handshake(int server, int events, int poller, int carried)
{
    psocket *c = NULL, *s = NULL, *me, *w = NULL;
    peer p;
    a_later t;
    psocket_poller *set = NULL;
    const psocket_event *ev;
    int64_t start;
    int r, turns = 0;
    REQUIRE(a_tcp(&c, &s, 0));
    if (carried) {
        psocket_options o = net_options(1);
        psocket_setnonblocking(server ? s : c, 1);
        REQUIRE(psocket_wrap(&w, server ? s : c, &o) == 0);
        if (server) s = w;
        else c = w;
    }
    me = server ? s : c;
    memset(&p, 0, sizeof p);
    p.s = server ? c : s;
    p.tls = core_settings(!server);
    p.name = server ? "localhost" : NULL;
    psocket_setnonblocking(me, 1);
    a_later_start(&t, 30, blocking_end, &p);
    {
        psocket_tls *tls = core_settings(server);
        r = psocket_starttls(me, tls, server ? NULL : "localhost");
        psocket_tls_free(tls);
    }
    CHECK(r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE);
    if (poller) CHECK(psocket_poller_new(&set) == 0 && psocket_poller_set(set, me, events, -1, me) == 0);
    start = check_now_ms();
    while ((r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE) && turns++ < 20) {
        if (poller) r = psocket_poller_wait(set, &ev, 3000);
        else r = psocket_wait(me, events, 3000);
        if (r < 0) break;
        CHECK(r > 0);
        r = psocket_step(me);
    }
    CHECK_INT(r, 0);
    if (check_now_ms() - start >= 2500)
        check_fail(__FILE__, __LINE__, "server %d, events %d, poller %d: waited %d ms", server, events, poller, (int)(check_now_ms() - start));
    CHECK_INT(psocket_istls(me), 1);
    a_later_join(&t);
    CHECK_INT(p.result, 0);
    CHECK_INT(psocket_wait(me, PSOCKET_READ, 0), 0); /* now there is nothing to read */
    if (poller) {
        CHECK_INT(psocket_poller_set(set, me, PSOCKET_READ, -1, me), 0);
        CHECK_INT(psocket_poller_wait(set, &ev, 20), 0);
    }
    psocket_tls_free(p.tls);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(set);
}

TEST(client)
{
    handshake(0, PSOCKET_READ, 0, 0);
    handshake(0, PSOCKET_READ | PSOCKET_WRITE, 0, 0);
    handshake(0, PSOCKET_WRITE, 0, 0);
}

TEST(server)
{
    handshake(1, PSOCKET_READ, 0, 0);
    handshake(1, PSOCKET_READ | PSOCKET_WRITE, 0, 0);
    handshake(1, PSOCKET_WRITE, 0, 0);
}

TEST(in_a_poller)
{
    handshake(0, PSOCKET_READ, 1, 0);
    handshake(1, PSOCKET_READ, 1, 0);
    handshake(1, PSOCKET_READ | PSOCKET_WRITE, 1, 0);
}

TEST(carried)
{
    handshake(0, PSOCKET_READ, 0, 1);
    handshake(1, PSOCKET_READ, 0, 1);
    handshake(0, PSOCKET_READ, 1, 1);
}

/* The data that follows is waited for. */
TEST(then_for_data)
{
    psocket *c = NULL, *s = NULL;
    int64_t start;
    REQUIRE(a_tls(&c, &s, 1));
    start = check_now_ms();
    CHECK_INT(psocket_wait(c, PSOCKET_READ, 100), 0);
    CHECK(check_now_ms() - start >= 100);
    psocket_free(c);
    psocket_free(s);
}
