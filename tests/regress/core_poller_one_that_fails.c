/* What cannot be watched: a failed psocket_poller_watch left its handle half set, so that every wait failed; and in a wait one
   that failed kept all others from being reported. */
#include "core.h"
#include <fcntl.h>

TEST(a_refused_watch_waits_for_nothing)
{
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    const psocket_event *ev;
    int a[2], none, file = open("/etc/passwd", O_RDONLY);
    REQUIRE(file >= 0 && pipe(a) == 0 && psocket_poller_new(&p) == 0);
    none = dup(file);
    close(none);
    CHECK_INT(psocket_poller_watch(p, &w, a[0], PSOCKET_READ, -1, &w), 0);
    CHECK_INT(psocket_poller_watch(p, &w, file, PSOCKET_READ, -1, &w), PSOCKET_UNSUPPORTED);
    CHECK(write(a[1], "x", 1) == 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(psocket_poller_watch(p, &w, none, PSOCKET_READ, -1, &w), PSOCKET_OS);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(psocket_poller_watch(p, &w, a[0], PSOCKET_READ, -1, &w), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 1);
    psocket_watch_free(w);
    psocket_poller_free(p);
    close(a[0]);
    close(a[1]);
    close(file);
}

/* A transport that names whatever descriptor it is told to. */
typedef struct naming {
    int fd;
} naming;

static ptrdiff_t naming_get(void *user, void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_WANT_READ;
}

static ptrdiff_t naming_put(void *user, const void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return 0;
}

static int naming_finish(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void naming_close(void *user)
{
    (void)user;
}

static int naming_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)ms;
    if (cap < 1 || !events || ((naming *)user)->fd == -1) return 0;
    fds[0].fd = ((naming *)user)->fd;
    fds[0].events = PSOCKET_READ;
    return 1;
}

static const psocket_transport naming_transport = { naming_get, naming_put, naming_finish, naming_close, naming_wants };

TEST(one_that_fails_silences_nobody)
{
    psocket_options o = net_options(1);
    psocket_poller *p = NULL;
    psocket *s[2], *c, *d;
    naming name[2];
    const psocket_event *ev;
    const void *data;
    int fds[2], i;
    REQUIRE(pipe(fds) == 0 && psocket_poller_new(&p) == 0 && net_pair(&c, &d));
    for (i = 0; i < 2; i++) {
        name[i].fd = fds[0];
        REQUIRE(psocket_open(&s[i], &naming_transport, &name[i], PSOCKET_CLIENT, &o) == 0);
    }
    CHECK_INT(psocket_poller_set(p, s[0], PSOCKET_READ, -1, s[0]), 0);
    CHECK_INT(psocket_poller_set(p, s[1], PSOCKET_READ, -1, s[1]), PSOCKET_BUSY);
    CHECK_INT(psocket_geterror(s[1], NULL), PSOCKET_BUSY);
    name[1].fd = -1; /* it names it only later */
    CHECK_INT(psocket_poller_set(p, s[1], PSOCKET_READ, -1, s[1]), 0);
    name[1].fd = fds[0];
    CHECK_INT(psocket_poller_set(p, d, PSOCKET_READ, -1, d), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(psocket_send(c, "x", 1), 1);
    for (i = 0; i < 50 && (psocket_poller_wait(p, &ev, 1000) <= 0 || ev[0].user != d); i++) {}
    CHECK(i < 50 && ev[0].events == PSOCKET_READ);
    CHECK_INT(psocket_recv(d, &data), 1);
    psocket_free(s[0]);
    psocket_free(s[1]);
    psocket_free(c);
    psocket_free(d);
    psocket_poller_free(p);
    close(fds[0]);
    close(fds[1]);
}
