/* psocket_read_until answered LIMIT as soon as recv_limit bytes were held, though its max was larger: the memory is the caller's
   to ask for, as for psocket_read. */
#include "a.h"

static void line(size_t n, size_t limit, size_t max, int nonblocking, ptrdiff_t want)
{
    static char block[1000];
    psocket *a = NULL, *b = NULL;
    psocket_options o = net_options(0);
    const void *data;
    size_t sent = 0;
    ptrdiff_t r = PSOCKET_WANT_READ;
    memset(block, 'x', sizeof block);
    o.recv_limit = limit;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    psocket_setnonblocking(b, 1);
    while (sent < n) {
        CHECK_INT(psocket_send(a, block, sizeof block), sizeof block);
        sent += sizeof block;
        r = psocket_read_until(b, "\n", max, &data);
        if (r != PSOCKET_WANT_READ) break;
    }
    CHECK_INT(psocket_send(a, "\n", 1), 1);
    psocket_setnonblocking(b, nonblocking);
    if (r == PSOCKET_WANT_READ) a_arrived(b);
    r = psocket_read_until(b, "\n", max, &data);
    CHECK_INT(r, want);
    if (r > 0) CHECK(((const char *)data)[r - 1] == '\n' && ((const char *)data)[0] == 'x');
    psocket_free(a);
    psocket_free(b);
}

TEST(more_than_recv_limit)
{
    line(100000, 65536, 1000000, 0, 100001);
    line(100000, 0, (size_t)-1, 1, 100001);
    line(5000, 1000, 5001, 1, 5001);
}

TEST(no_more_than_max)
{
    line(5000, 1000, 5000, 1, PSOCKET_LIMIT);
    line(100000, 65536, 70000, 0, PSOCKET_LIMIT);
    line(3000, 65536, 2000, 0, PSOCKET_LIMIT);
}
