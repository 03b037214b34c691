/* A psocket_poller_wake that arrived together with an event of which there was nothing to report was forgotten. */
#include "core.h"

TEST(a_wake_beside_half_a_record)
{
    psocket *c, *s;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    psocket_tls *tls = core_settings(1);
    int64_t start;
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(s, 1);
    CHECK_INT(psocket_starttls(s, tls, NULL), PSOCKET_WANT_READ);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(psocket_send(c, "\x16\x03", 2), 2); /* the start of a handshake record */
    check_sleep_us(20000);
    psocket_poller_wake(p);
    start = psocket_now();
    CHECK_INT(psocket_poller_wait(p, &ev, 2000), 0);
    CHECK(psocket_now() - start < 1000);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
    psocket_tls_free(tls);
}

/* The same from another thread, while sockets keep the poller busy. */
TEST(a_wake_is_told_once)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int64_t start;
    REQUIRE(psocket_poller_new(&p) == 0);
    psocket_poller_wake(p);
    psocket_poller_wake(p);
    start = psocket_now();
    CHECK_INT(psocket_poller_wait(p, &ev, 2000), 0);
    CHECK(psocket_now() - start < 1000);
    start = psocket_now();
    CHECK_INT(psocket_poller_wait(p, &ev, 50), 0);
    CHECK(psocket_now() - start >= 49);
    psocket_poller_free(p);
}
