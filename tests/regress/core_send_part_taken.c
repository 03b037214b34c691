/* A nonblocking send that took a part of the data answered no WANT, so that no time ran for the rest: who then waited for
   PSOCKET_WRITE, as one does, never heard of a peer that had stopped reading. */
#include "core.h"

static char block[8 << 20];

static void stalls(psocket *s)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int64_t begun = psocket_now();
    ptrdiff_t n = psocket_send(s, block, sizeof block);
    int r;
    REQUIRE(n > 0 && n < (ptrdiff_t)sizeof block && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_WRITE, -1, s), 0);
    do r = psocket_poller_wait(p, &ev, 3000); while (r == 1 && (n = psocket_send(s, block, sizeof block)) > 0);
    CHECK_INT(r, 1);
    CHECK_INT(n, PSOCKET_TIMEOUT);
    CHECK(psocket_now() - begun < 2500);
    psocket_poller_free(p);
}

TEST(of_a_plain_socket)
{
    psocket_options o = net_options(1);
    psocket *a, *b;
    o.timeout_ms = 200;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    stalls(a);
    psocket_free(a);
    psocket_free(b);
}

TEST(of_a_tls_socket)
{
    psocket *c, *s;
    REQUIRE(core_tls(&c, &s));
    psocket_settimeout(c, 200);
    stalls(c);
    psocket_free(c);
    psocket_free(s);
}

/* The rest that is taken has no time any more. */
TEST(of_one_who_reads_on)
{
    psocket_options o = net_options(1);
    psocket *a, *b;
    const void *data;
    ptrdiff_t n;
    size_t sent = 0, got = 0;
    int turns;
    o.timeout_ms = 200;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    for (turns = 0; turns < 20000 && got < sizeof block; turns++) {
        if (sent < sizeof block && (n = psocket_send(a, block + sent, sizeof block - sent)) > 0) sent += (size_t)n;
        if ((n = psocket_recv(b, &data)) > 0) got += (size_t)n;
    }
    CHECK(got == sizeof block);
    check_sleep_us(250000);
    CHECK_INT(psocket_wait(a, PSOCKET_WRITE, 0), PSOCKET_WRITE);
    CHECK_INT(psocket_send(a, "x", 1), 1);
    psocket_free(a);
    psocket_free(b);
}
