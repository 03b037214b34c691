/* After read_until(A) and then read_until(B) had both answered WANT_READ, with the bytes that complete A read by the second
   call, neither the poller nor psocket_wait reported the socket, although the next read_until(A) returns at once. Readiness
   does not depend on what the last call alone asked for: an event too many is allowed once, one too few or a spin never. */
#include "a.h"

enum { UNTIL_A, UNTIL_B, READ_9, PEEK, STEP, ISOPEN, LASTS };

static void last_call(psocket *s, int which)
{
    const void *data;
    switch (which) {
    case UNTIL_B: CHECK_INT(psocket_read_until(s, "\n\n", 1000, &data), PSOCKET_WANT_READ); break;
    case READ_9: CHECK_INT(psocket_read(s, 900, &data), PSOCKET_WANT_READ); break;
    case PEEK: CHECK(psocket_peek(s, &data) > 0); break;
    case STEP: psocket_step(s); break;
    case ISOPEN: CHECK_INT(psocket_isopen(s), 1); break;
    default: break;
    }
}

static void then_ready(psocket *c, psocket *s, int which, int how)
{
    psocket_poller *p = NULL;
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    const psocket_event *ev;
    const void *data;
    ptrdiff_t n;
    int ms = 1000, r = 0;
    CHECK_INT(psocket_send(c, "G", 1), 1);
    CHECK_INT(psocket_flush(c), 0);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_INT(psocket_read_until(s, "\r\n\r\n", 1000, &data), PSOCKET_WANT_READ);
    CHECK_INT(psocket_send(c, "ET / HTTP/1.0\r\n\r\n", 17), 17);
    CHECK_INT(psocket_flush(c), 0);
    a_arrived(s);
    last_call(s, which);
    switch (how) {
    case 0: r = psocket_wait(s, PSOCKET_READ, 1000); break;
    case 1:
        CHECK_INT(psocket_poller_new(&p), 0);
        CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
        r = psocket_poller_wait(p, &ev, 1000);
        break;
    default:
        r = psocket_pollset(s, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms);
        r = r > 0 && ms > 0 ? poll(&(struct pollfd){ (int)fds[0].fd, POLLIN, 0 }, 1, 100) : r >= 0;
        break;
    }
    if (r != 1) check_fail(__FILE__, __LINE__, "last call %d, waiting by %d: not ready", which, how);
    n = psocket_read_until(s, "\r\n\r\n", 1000, &data);
    CHECK_STR(net_text(n, &data), "GET / HTTP/1.0\r\n\r\n");
    psocket_poller_free(p);
}

TEST(an_event_comes)
{
    int which, how, tls;
    for (tls = 0; tls < 2; tls++) {
        psocket *c = NULL, *s = NULL;
        REQUIRE(tls ? a_tls(&c, &s, 1) : a_tcp(&c, &s, 1));
        for (which = 0; which < LASTS; which++)
            for (how = 0; how < 3; how++) then_ready(c, s, which, how);
        psocket_free(c);
        psocket_free(s);
    }
}

/* A poller within which the calls are made, both in turn, with all kinds of pieces. */
TEST(in_a_poller_with_both_asked_in_turn)
{
    static const char *const pieces[] = { "a", "b\r", "\n", "\r\n", "cc", "\n", "\n", "x\r\n\r\n", "y\n\n" };
    psocket *c = NULL, *s = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    size_t i, got = 0, sent = 0;
    int events = 0;
    REQUIRE(a_tcp(&c, &s, 1) && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    for (i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        int took = 0;
        CHECK_INT(psocket_send(c, pieces[i], strlen(pieces[i])), (ptrdiff_t)strlen(pieces[i]));
        sent += strlen(pieces[i]);
        a_arrived(s);
        while (psocket_poller_wait(p, &ev, 10) == 1 && took++ < 5) {
            ptrdiff_t n = psocket_read_until(s, "\r\n\r\n", 1000, &data);
            events++;
            if (n > 0) got += (size_t)n;
            n = psocket_read_until(s, "\n\n", 1000, &data);
            if (n > 0) got += (size_t)n;
        }
        CHECK(took < 4); /* no spin */
    }
    CHECK_INT(got, sent);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

/* Nothing new has come: at most one event, then quiet. */
TEST(no_spin)
{
    int turn, seen = 0, tls;
    for (tls = 0; tls < 2; tls++) {
        psocket *c = NULL, *s = NULL;
        psocket_poller *p = NULL;
        const psocket_event *ev;
        const void *data;
        REQUIRE((tls ? a_tls(&c, &s, 1) : a_tcp(&c, &s, 1)) && psocket_poller_new(&p) == 0);
        CHECK_INT(psocket_send(c, "partial", 7), 7);
        CHECK_INT(psocket_flush(c), 0);
        CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
        CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
        for (seen = turn = 0; turn < 20; turn++) {
            CHECK_INT(psocket_read_until(s, "\r\n", 1000, &data), PSOCKET_WANT_READ);
            CHECK_INT(psocket_read(s, 100, &data), PSOCKET_WANT_READ);
            if (psocket_poller_wait(p, &ev, 2) == 1) seen++;
        }
        if (seen > 1) check_fail(__FILE__, __LINE__, "%d events in 20 turns without anything new", seen);
        psocket_free(c);
        psocket_free(s);
        psocket_poller_free(p);
    }
}
