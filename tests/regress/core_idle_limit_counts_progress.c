/* A blocking TLS psocket_send (and psocket_shutdown) to a peer that reads slowly answered TIMEOUT although
   bytes went out all the time: progress within one batch of records did not count. */
#include "core.h"
#include <fcntl.h>

/* The one descriptor of a socket. */
static psocket_fd psocket_test_fd(psocket *s)
{
    psocket_pollfd fd[PSOCKET_POLLSET_MAX];
    int ms = -1;
    return psocket_pollset(s, PSOCKET_READ, fd, PSOCKET_POLLSET_MAX, &ms) == 1 ? fd[0].fd : -1;
}

typedef struct slow_job {
    int fd;
    volatile int stop;
    size_t got;
} slow_job;

/* Takes 4 KB every 50 ms: 64 KB take 800 ms. */
static void *slow(void *p)
{
    slow_job *j = (slow_job *)p;
    char buf[4096];
    ssize_t n;
    while (!j->stop && (n = recv(j->fd, buf, sizeof buf, 0)) > 0) {
        j->got += (size_t)n;
        check_sleep_us(50000);
    }
    return NULL;
}

TEST(a_slow_reader)
{
    char folder[] = "/tmp/psocketXXXXXX", name[80];
    psocket_options o = net_options(0);
    psocket *l = NULL;
    psocket *c = NULL, *s = NULL; /* over a path: no windows and timers of TCP to reckon with */
    slow_job j;
    pthread_t t;
    static char big[196608];
    int small = 16384;
    ptrdiff_t n;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(name, sizeof name, "unix:%s/s", folder);
    REQUIRE(psocket_listen(&l, name, 0, &o) == 0);
    REQUIRE(psocket_connect(&c, name, 0, &o) == 0 && psocket_accept(l, &s) == 0);
    psocket_free(l);
    rmdir(folder);
    setsockopt((int)psocket_test_fd(c), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    REQUIRE(core_handshake(c, s) == 0);
    psocket_setnonblocking(c, 0);
    psocket_settimeout(c, 600);
    j.fd = (int)psocket_test_fd(s);
    j.stop = 0;
    j.got = 0;
    fcntl(j.fd, F_SETFL, 0);
    REQUIRE(pthread_create(&t, NULL, slow, &j) == 0);
    n = psocket_send(c, big, sizeof big);
    CHECK_INT(n, (ptrdiff_t)sizeof big);
    j.stop = 1;
    psocket_free(c);
    pthread_join(t, NULL);
    psocket_free(s);
}
