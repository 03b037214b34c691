/* psocket_wait(-1) on one end of a pair answered 0 at once, and a blocking psocket_recv there TIMEOUT without any limit. */
#include "a.h"

static void send_one(void *s)
{
    psocket_send((psocket *)s, "x", 1);
}

TEST(wait_and_recv_wait)
{
    psocket_options o;
    psocket *a = NULL, *b = NULL;
    int64_t start;
    a_later t;
    memset(&o, 0, sizeof o);
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    start = check_now_ms();
    CHECK_INT(psocket_wait(b, PSOCKET_READ, 100), 0);
    CHECK(check_now_ms() - start >= 100);
    start = check_now_ms();
    a_later_start(&t, 100, send_one, a);
    CHECK_INT(psocket_wait(b, PSOCKET_READ, -1), PSOCKET_READ);
    CHECK(check_now_ms() - start >= 95);
    a_later_join(&t);
    CHECK_STR(a_recv(b), "x");
    start = check_now_ms();
    a_later_start(&t, 100, send_one, a);
    CHECK_STR(a_recv(b), "x");
    CHECK(check_now_ms() - start >= 95);
    a_later_join(&t);
    psocket_settimeout(b, 100);
    start = check_now_ms();
    CHECK_STR(a_recv(b), "TIMEOUT");
    CHECK(check_now_ms() - start >= 100);
    psocket_free(a);
    CHECK_STR(a_recv(b), "CLOSED");
    psocket_free(b);
}

typedef struct ends {
    psocket *s;
    size_t got;
} ends;

static void read_all(void *arg)
{
    ends *e = (ends *)arg;
    const void *data;
    ptrdiff_t n;
    while ((n = psocket_recv(e->s, &data)) > 0) e->got += (size_t)n;
    CHECK_INT(n, PSOCKET_CLOSED);
}

/* More than any buffer holds: a blocking send waits for the reader. */
TEST(send_waits)
{
    static char block[4 << 20];
    psocket_options o;
    psocket *a = NULL;
    ends e;
    a_later t;
    memset(&o, 0, sizeof o);
    memset(&e, 0, sizeof e);
    REQUIRE(psocket_pair(&a, &e.s, &o) == 0);
    a_later_start(&t, 50, read_all, &e);
    CHECK_INT(psocket_send(a, block, sizeof block), (ptrdiff_t)sizeof block);
    psocket_free(a);
    a_later_join(&t);
    CHECK_INT(e.got, sizeof block);
    psocket_free(e.s);
}

/* Its ends have descriptors for foreign loops, and sides. */
TEST(real_descriptors)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    psocket_pollfd f[PSOCKET_POLLSET_MAX];
    int ms = -1;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    CHECK(psocket_getfd(a) >= 0 && psocket_getfd(b) >= 0 && psocket_getfd(a) != psocket_getfd(b));
    CHECK_INT(psocket_pollset(b, PSOCKET_READ, f, PSOCKET_POLLSET_MAX, &ms), 1);
    CHECK(f[0].fd == psocket_getfd(b));
    CHECK_INT(psocket_getside(a), PSOCKET_CLIENT);
    CHECK_INT(psocket_getside(b), PSOCKET_SERVER);
    CHECK_INT(fcntl((int)psocket_getfd(a), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    psocket_free(a);
    psocket_free(b);
}

TEST(tls_over_a_pair)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    REQUIRE(core_handshake(a, b) == 0);
    CHECK_INT(psocket_send(a, "secret", 6), 6);
    CHECK_INT(psocket_flush(a), 0);
    CHECK_INT(psocket_wait(b, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(b), "secret");
    psocket_free(a);
    CHECK_STR(a_recv(b), "CLOSED");
    psocket_free(b);
}
