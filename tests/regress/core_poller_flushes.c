/* TLS bytes taken by a send, or a half-close begun, outside the socket's own event were not carried on by the poller. */
#include "core.h"

static void run(int half_close)
{
    psocket *c, *s;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    size_t n, want;
    int i, done = 0;
    const void *data;
    REQUIRE(core_tls(&c, &s));
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    want = core_fill(c);
    if (half_close) {
        int r = psocket_shutdown(c);
        CHECK(r == PSOCKET_WANT_WRITE || r == 0); /* 0: the system has found room meanwhile */
    }
    for (n = 0, i = 0; i < 300 && !done; i++) {
        ptrdiff_t r;
        while ((r = psocket_recv(s, &data)) > 0) n += (size_t)r;
        done = half_close ? r == PSOCKET_CLOSED : n == want;
        CHECK_INT(psocket_poller_wait(p, &ev, 5), 0);
    }
    CHECK(n == want);
    CHECK(done);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

TEST(what_a_send_took)
{
    run(0);
}

TEST(a_half_close)
{
    run(1);
}
