/* A socket that the system cannot be made to watch, for now or for ever, keeps none of the others in its poller waiting, and
 * the wait neither fails nor spins; once it can be watched all goes on. A starttls that cannot wait ends its socket. */
#include "core.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

static int no_memory;

/* The system's, or a lack of memory. */
int epoll_ctl(int set, int op, int fd, struct epoll_event *event)
{
    if (op != EPOLL_CTL_ADD || !no_memory) return (int)syscall(SYS_epoll_ctl, set, op, fd, event);
    errno = no_memory;
    return -1;
}

static int shared[2]; /* what the transports here are about */
static int named;     /* 0: they tell a time; else a descriptor */

static ptrdiff_t nothing_get(void *user, void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_WANT_READ;
}

static ptrdiff_t nothing_put(void *user, const void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)os;
    return n ? PSOCKET_WANT_WRITE : 0;
}

static int nothing_finish(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void nothing_close(void *user)
{
    (void)user;
}

static int nothing_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    if (named < 0) return PSOCKET_OS;
    if (!events || !cap) return 0;
    *ms = user && !named ? 20 : -1;
    if (user && !named) return 0;
    fds[0].fd = user && named > 1 ? 1000000 : shared[0];
    fds[0].events = events;
    return 1;
}

static const psocket_transport nothing = { nothing_get, nothing_put, nothing_finish, nothing_close, nothing_wants };

/* How many waits end in 200 ms, and whether the last socket is heard of once something comes for it. */
static void others_go_on(psocket_poller *p, psocket *s, psocket *peer)
{
    const psocket_event *events;
    int64_t end = psocket_now() + 200;
    int i, n = 0, waits = 0, heard = 0;
    while (psocket_now() < end && n >= 0 && waits < 1000) {
        n = psocket_poller_wait(p, &events, 200);
        waits++;
    }
    CHECK(n >= 0);
    CHECK(waits < 100);
    CHECK_INT((int)psocket_send(peer, "x", 1), 1);
    for (waits = 0; waits < 50 && !heard; waits++) {
        n = psocket_poller_wait(p, &events, 1000);
        for (i = 0; i < n; i++) heard |= events[i].user == s;
        if (n < 0) break;
    }
    CHECK(heard);
}

static void transports(int later)
{
    psocket *a, *b, *c, *d;
    psocket_options o = net_options(1);
    psocket_poller *p;
    const psocket_event *events;
    named = 0;
    CHECK_INT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, shared), 0);
    CHECK_INT(psocket_poller_new(&p), 0);
    CHECK_INT(psocket_open(&a, &nothing, NULL, PSOCKET_CLIENT, &o), 0);
    CHECK_INT(psocket_open(&b, &nothing, shared, PSOCKET_CLIENT, &o), 0);
    CHECK_INT(psocket_pair(&c, &d, &o), 0);
    CHECK_INT(psocket_poller_set(p, a, PSOCKET_READ, -1, a), 0);
    CHECK_INT(psocket_poller_set(p, b, PSOCKET_READ, -1, b), 0);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    CHECK_INT(psocket_poller_wait(p, &events, 0), 0);
    named = later;
    others_go_on(p, c, d);
    psocket_free(a);
    psocket_free(b);
    psocket_free(c);
    psocket_free(d);
    psocket_poller_free(p);
    close(shared[0]);
    close(shared[1]);
}

TEST(a_transport_that_names_the_descriptor_of_another)
{
    transports(1);
}

TEST(a_transport_that_names_no_descriptor)
{
    transports(2);
}

static void two_addresses(void *user, psocket_resolve *r, const char *host)
{
    (void)user, (void)host;
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_add(r, "127.0.0.2");
    psocket_resolve_done(r, 0);
}

/* The second attempt of a connect begins while epoll has no memory. */
TEST(a_connect_whose_descriptors_find_no_memory)
{
    psocket *full, *fill[4], *slow, *c, *d, *taken;
    psocket_options o = net_options(1), l = net_options(1);
    psocket_poller *p;
    const psocket_event *events;
    int i, port = 0, done = 0;
    l.backlog = 1;
    CHECK_INT(psocket_listen(&full, NULL, 0, &l), 0);
    CHECK_INT(psocket_getlocal(full, NULL, 0, &port), 0);
    for (i = 0; i < 4; i++) {
        CHECK_INT(psocket_connect(&fill[i], "127.0.0.1", port, &o), 0);
        psocket_wait(fill[i], PSOCKET_WRITE, 20);
    }
    CHECK_INT(psocket_poller_new(&p), 0);
    o.resolve = two_addresses;
    o.attempt_delay_ms = 20;
    CHECK_INT(psocket_connect(&slow, "slow.test", port, &o), 0);
    CHECK_INT(psocket_pair(&c, &d, &l), 0);
    CHECK_INT(psocket_poller_set(p, slow, PSOCKET_WRITE, -1, slow), 0);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    psocket_poller_wait(p, &events, 0);
    no_memory = ENOMEM;
    others_go_on(p, c, d);
    no_memory = 0;
    CHECK_INT(psocket_poller_set(p, c, 0, -1, NULL), 0);
    for (i = 0; i < 30 && !done; i++) {
        int n = psocket_poller_wait(p, &events, 1000);
        while (n-- > 0) done |= events[n].user == slow;
        if (psocket_accept(full, &taken) == 0) psocket_free(taken); /* makes room */
    }
    CHECK(done);
    for (i = 0; i < 4; i++) psocket_free(fill[i]);
    psocket_free(slow);
    psocket_free(full);
    psocket_free(c);
    psocket_free(d);
    psocket_poller_free(p);
}

TEST(a_starttls_that_cannot_wait)
{
    psocket *s;
    psocket_options o = net_options(0);
    psocket_tls *tls = core_settings(0);
    named = -1;
    CHECK_INT(psocket_open(&s, &nothing, NULL, PSOCKET_CLIENT, &o), 0);
    CHECK_INT(psocket_starttls(s, tls, "localhost"), PSOCKET_OS);
    CHECK_INT(psocket_geterror(s, NULL), PSOCKET_OS);
    CHECK_INT(psocket_isopen(s), 0);
    CHECK(psocket_starttls(s, tls, "localhost") < 0);
    psocket_free(s);
    psocket_tls_free(tls);
}
