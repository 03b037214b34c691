/* A poller that watched a carried socket for PSOCKET_WRITE never reported it after its carrier had ended, and woke up every
   millisecond. */
#include "core.h"

TEST(write_is_reported)
{
    psocket *c, *s, *w = NULL;
    psocket_options o = net_options(1);
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    psocket_pollfd fd[PSOCKET_POLLSET_MAX];
    int ms = -1;
    REQUIRE(core_tls(&c, &s));
    REQUIRE(psocket_pollset(s, PSOCKET_READ, fd, PSOCKET_POLLSET_MAX, &ms) == 1);
    REQUIRE(psocket_wrap(&w, c, &o) == 0);
    CHECK(send((int)fd[0].fd, "\x17\x03\x03\x00\x20" "this is no genuine record.......", 37, MSG_NOSIGNAL) == 37);
    check_sleep_us(20000);
    CHECK_INT(psocket_recv(w, &data), PSOCKET_TLS_RECORD);
    CHECK_INT(psocket_send(w, "x", 1), PSOCKET_TLS_RECORD);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, w, PSOCKET_WRITE, -1, w), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 1);
    psocket_poller_free(p);
    psocket_free(w);
    psocket_free(s);
}

/* The same when nobody has tried to send: only the carrier knows. */
TEST(write_is_reported_without_a_try)
{
    psocket *c, *s, *w = NULL;
    psocket_options o = net_options(1);
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    psocket_pollfd fd[PSOCKET_POLLSET_MAX];
    int ms = -1;
    REQUIRE(core_tls(&c, &s));
    REQUIRE(psocket_pollset(s, PSOCKET_READ, fd, PSOCKET_POLLSET_MAX, &ms) == 1);
    REQUIRE(psocket_wrap(&w, c, &o) == 0);
    CHECK(send((int)fd[0].fd, "\x17\x03\x03\x00\x20" "this is no genuine record.......", 37, MSG_NOSIGNAL) == 37);
    check_sleep_us(20000);
    CHECK_INT(psocket_recv(w, &data), PSOCKET_TLS_RECORD);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, w, PSOCKET_WRITE, -1, w), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 1);
    psocket_poller_free(p);
    psocket_free(w);
    psocket_free(s);
}
