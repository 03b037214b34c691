/* Helpers of the a_*.c tests, on top of core.h. Include it after the implementation, if the test has its own. */
#ifndef A_H
#define A_H
#include "core.h"
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

/* What the call answered and what psocket_geterror says are one thing. */
#define A_AGREES(s, result) a_agrees((s), (ptrdiff_t)(result), __FILE__, __LINE__, #result)

static CHECK_UNUSED void a_agrees(const psocket *s, ptrdiff_t r, const char *file, int line, const char *what)
{
    psocket_error e;
    int code;
    memset(&e, 0, sizeof e);
    code = psocket_geterror(s, &e);
    if (r >= PSOCKET_WANT_WRITE) return; /* success and WANT_* are no errors */
    if (code != (int)r) check_fail(file, line, "%s answered %s, psocket_geterror %s", what, psocket_codename((int)r), psocket_codename(code));
    if (e.code != code || !e.text[0]) check_fail(file, line, "%s: error with code %d and text \"%s\"", what, e.code, e.text);
}

/* The chunk as text or the code's name, by psocket_recv; the error agrees. */
static CHECK_UNUSED const char *a_recv(psocket *s)
{
    const void *data;
    ptrdiff_t n = psocket_recv(s, &data);
    A_AGREES(s, n);
    return net_text(n, &data);
}

/* Two connected sockets over TCP: nonblocking or not, both ends the same. */
static CHECK_UNUSED int a_tcp(psocket **c, psocket **s, int nonblocking)
{
    if (!net_pair(c, s)) return 0;
    psocket_setnonblocking(*c, nonblocking);
    psocket_setnonblocking(*s, nonblocking);
    return 1;
}

static CHECK_UNUSED int a_tls(psocket **c, psocket **s, int nonblocking)
{
    if (!core_tls(c, s)) return 0;
    psocket_setnonblocking(*c, nonblocking);
    psocket_setnonblocking(*s, nonblocking);
    return 1;
}

/* Waits until the system holds n bytes (or an end, or an error) for this socket that psocket has not seen. */
static CHECK_UNUSED void a_arrived(psocket *s)
{
    struct pollfd p;
    p.fd = (int)psocket_getfd(s);
    p.events = POLLIN;
    poll(&p, 1, 2000);
}

/* Calls wait from a thread some time later. */
typedef struct a_later {
    pthread_t thread;
    int ms;
    void (*run)(void *);
    void *arg;
} a_later;

static void *a_later_run(void *arg)
{
    a_later *l = (a_later *)arg;
    check_sleep_us((long)l->ms * 1000);
    l->run(l->arg);
    return NULL;
}

static CHECK_UNUSED void a_later_start(a_later *l, int ms, void (*run)(void *), void *arg)
{
    l->ms = ms;
    l->run = run;
    l->arg = arg;
    if (pthread_create(&l->thread, NULL, a_later_run, l)) abort();
}

static CHECK_UNUSED void a_later_join(a_later *l)
{
    pthread_join(l->thread, NULL);
}

/* Moves this process into a network of its own, with loopback alone: 1, or 0 where that is not allowed. */
static CHECK_UNUSED int a_network(void)
{
    struct ifreq r;
    int fd, ok;
    if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET)) return 0;
    memset(&r, 0, sizeof r);
    strcpy(r.ifr_name, "lo");
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    fd = socket(AF_INET, SOCK_DGRAM, 0);
    ok = ioctl(fd, SIOCSIFFLAGS, &r) == 0;
    close(fd);
    return ok;
}

/* A resolver that keeps the question. */
static CHECK_UNUSED void a_resolve_later(void *user, psocket_resolve *r, const char *host)
{
    (void)host;
    *(psocket_resolve **)user = r;
}
#endif
