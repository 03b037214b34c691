/* What a transport's wants may answer: an error, one descriptor twice, others than the last time and in another order. */
#include "core.h"
#include <errno.h>
#include <fcntl.h>

typedef struct wanting {
    int fd[2], other[2];
    int kind, turn;
} wanting;

enum { FEWER, SWAPPED, TWICE, FAILS, FAILS_BY_ONE };

static ptrdiff_t wanting_get(void *user, void *p, size_t n, int *os)
{
    wanting *w = (wanting *)user;
    ssize_t r = read(w->fd[0], p, n);
    *os = r < 0 ? errno : 0;
    w->turn += r > 0;
    return r >= 0 ? r : *os == EAGAIN ? PSOCKET_WANT_READ : PSOCKET_OS;
}

static ptrdiff_t wanting_put(void *user, const void *p, size_t n, int *os)
{
    ssize_t r = n ? write(((wanting *)user)->fd[0], p, n) : 0;
    *os = r < 0 ? errno : 0;
    return r >= 0 ? r : *os == EAGAIN ? PSOCKET_WANT_WRITE : PSOCKET_OS;
}

static int wanting_finish(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void wanting_close(void *user)
{
    wanting *w = (wanting *)user;
    int i;
    for (i = 0; i < 2; i++) close(w->fd[i]), close(w->other[i]);
}

static int wanting_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    wanting *w = (wanting *)user;
    int swap = w->kind == SWAPPED && w->turn % 2;
    (void)ms;
    if (w->kind == FAILS) return PSOCKET_OS;
    if (w->kind == FAILS_BY_ONE) return -1;
    if (cap < 2 || !events) return 0;
    fds[swap].fd = w->fd[0];
    fds[swap].events = w->kind == TWICE ? PSOCKET_READ : events;
    fds[!swap].fd = w->kind == TWICE ? w->fd[0] : w->other[0];
    fds[!swap].events = w->kind == TWICE ? PSOCKET_WRITE & events : PSOCKET_READ;
    if (w->kind == TWICE && !fds[1].events) fds[1].events = PSOCKET_READ;
    return w->kind == FEWER && w->turn % 2 ? 1 : 2;
}

static const psocket_transport wanting_transport = { wanting_get, wanting_put, wanting_finish, wanting_close, wanting_wants };

static psocket *wanting_open(wanting *w, int kind, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket *s = NULL;
    memset(w, 0, sizeof *w);
    w->kind = kind;
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, w->fd) == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, w->other) == 0);
    CHECK_INT(psocket_open(&s, &wanting_transport, w, PSOCKET_CLIENT, &o), 0);
    return s;
}

TEST(the_poller_follows_other_descriptors)
{
    int kind, i;
    for (kind = FEWER; kind <= TWICE; kind++) {
        wanting w;
        psocket *s = wanting_open(&w, kind, 1);
        psocket_poller *p = NULL;
        const psocket_event *events;
        const void *data;
        REQUIRE(psocket_poller_new(&p) == 0);
        CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
        for (i = 0; i < 10; i++) {
            CHECK_INT(psocket_poller_wait(p, &events, 0), 0);
            CHECK(write(w.fd[1], "x", 1) == 1);
            CHECK_INT(psocket_poller_wait(p, &events, 2000), 1);
            CHECK_INT(psocket_recv(s, &data), 1);
            CHECK_INT(psocket_recv(s, &data), PSOCKET_WANT_READ);
        }
        psocket_free(s);
        psocket_poller_free(p);
    }
}

TEST(an_error_of_wants_is_no_number_of_descriptors)
{
    int kind;
    for (kind = FAILS; kind <= FAILS_BY_ONE; kind++) {
        wanting w;
        psocket *s = wanting_open(&w, kind, 0);
        psocket_poller *p = NULL;
        const psocket_event *events;
        const void *data;
        psocket_pollfd fds[PSOCKET_POLLSET_MAX];
        int ms = 10;
        psocket_settimeout(s, 30);
        CHECK(psocket_recv(s, &data) < 0);
        CHECK(psocket_wait(s, PSOCKET_READ, 10) <= 0);
        CHECK(psocket_pollset(s, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms) <= 0);
        CHECK_INT(psocket_send(s, "abc", 3), 3);
        psocket_setnonblocking(s, 1);
        REQUIRE(psocket_poller_new(&p) == 0);
        CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ | PSOCKET_WRITE, 20, s), 0);
        CHECK(psocket_poller_wait(p, &events, 30) != 0);
        psocket_free(s);
        psocket_poller_free(p);
    }
}
