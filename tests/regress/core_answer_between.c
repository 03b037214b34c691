/* A lookup that failed between a step and the question what to wait for: there was nothing to wait for, and no time either, so
   that a foreign loop, or a blocking connect, slept for ever. */
#include "core.h"

static psocket_resolve *asked;

static void keep(void *user, psocket_resolve *r, const char *host)
{
    (void)user, (void)host;
    asked = r;
}

static void answered(int code, int wanted)
{
    psocket_options o = net_options(1);
    psocket *s;
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int ms = -1;
    o.resolve = keep;
    REQUIRE(psocket_connect(&s, "name.example", 9, &o) == 0);
    CHECK_INT(psocket_step(s), PSOCKET_WANT_READ);
    if (!code) psocket_resolve_add(asked, "127.0.0.1");
    psocket_resolve_done(asked, code);
    psocket_pollset(s, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms);
    CHECK_INT(ms, 0);
    while (psocket_step(s) == PSOCKET_WANT_WRITE) psocket_wait(s, PSOCKET_WRITE, 1000);
    CHECK_INT(psocket_geterror(s, NULL), wanted);
    psocket_free(s);
}

TEST(an_error) { answered(PSOCKET_DNS_NOT_FOUND, PSOCKET_DNS_NOT_FOUND); }
TEST(an_address) { answered(0, PSOCKET_REFUSED); }

/* The limit has passed, too: there is no address that could have failed. */
TEST(an_error_too_late)
{
    psocket_options o = net_options(1);
    psocket *s;
    psocket_error e;
    o.resolve = keep;
    o.timeout_ms = 20;
    REQUIRE(psocket_connect(&s, "name.example", 9, &o) == 0);
    check_sleep_us(40000);
    CHECK_INT(psocket_step(s), PSOCKET_TIMEOUT);
    CHECK_INT(psocket_geterror(s, &e), PSOCKET_TIMEOUT);
    CHECK(strstr(e.text, "name.example") && strstr(e.text, "timed out"));
    psocket_resolve_done(asked, PSOCKET_DNS_NOT_FOUND);
    psocket_free(s);
}
