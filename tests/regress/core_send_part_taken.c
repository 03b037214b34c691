/* A nonblocking send that took a part of the data has answered no WANT: no time runs for the rest, whatever the system still
   held then. Who paces himself is not late. */
#include "core.h"

static char block[8 << 20];

static void paces(psocket *s, psocket *peer)
{
    const void *data;
    ptrdiff_t n;
    psocket_settimeout(s, 50);
    n = psocket_send(s, block, sizeof block);
    CHECK(n > 0 && n < (ptrdiff_t)sizeof block);
    do psocket_step(s); while (psocket_recv(peer, &data) > 0);
    check_sleep_us(100000);
    CHECK(psocket_send(s, block, sizeof block) > 0);
    psocket_free(s);
    psocket_free(peer);
}

TEST(of_a_plain_socket)
{
    psocket_options o = net_options(1);
    psocket *a, *b;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    paces(a, b);
}

TEST(of_a_tls_socket)
{
    psocket *c, *s;
    REQUIRE(core_tls(&c, &s));
    paces(c, s);
}
