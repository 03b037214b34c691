/* A transport that is careless where no harm may come of it: a put that takes nothing, and a wants that assigns the time
   that it is to lower. The limit of a call is the library's and holds all the same. */
#include "core.h"

typedef struct lazy {
    ptrdiff_t put;
    int ms;
} lazy;

static ptrdiff_t lazy_get(void *user, void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_WANT_READ;
}

static ptrdiff_t lazy_put(void *user, const void *p, size_t n, int *os)
{
    (void)p, (void)os;
    return n ? ((lazy *)user)->put : 0;
}

static int lazy_finish(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void lazy_close(void *user)
{
    (void)user;
}

static int lazy_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)events, (void)fds, (void)cap;
    *ms = ((lazy *)user)->ms;
    return 0;
}

static const psocket_transport lazy_transport = { lazy_get, lazy_put, lazy_finish, lazy_close, lazy_wants };

/* Both calls end with TIMEOUT, when their time has passed. */
static void lazy_ends(ptrdiff_t put, int ms)
{
    psocket_options o = net_options(0);
    lazy user;
    psocket *s = NULL;
    const void *data;
    int64_t begun = psocket_now();
    user.put = put;
    user.ms = ms;
    o.timeout_ms = 100;
    REQUIRE(psocket_open(&s, &lazy_transport, &user, PSOCKET_CLIENT, &o) == 0);
    CHECK_INT(psocket_send(s, "abc", 3), PSOCKET_TIMEOUT);
    CHECK_INT(psocket_recv(s, &data), PSOCKET_TIMEOUT);
    CHECK(psocket_now() - begun >= 199 && psocket_now() - begun < 2000);
    psocket_free(s);
}

TEST_LIMIT(a_put_that_takes_nothing_waits, 5)
{
    lazy_ends(0, 5);
}

TEST_LIMIT(a_time_that_is_not_lowered_counts_for_nothing, 5)
{
    lazy_ends(PSOCKET_WANT_WRITE, 100000);
}

TEST_LIMIT(a_time_that_is_none_counts_for_nothing, 5)
{
    lazy_ends(PSOCKET_WANT_WRITE, -1);
}

TEST_LIMIT(a_negative_time_counts_for_nothing, 5)
{
    lazy_ends(PSOCKET_WANT_WRITE, -77);
}
