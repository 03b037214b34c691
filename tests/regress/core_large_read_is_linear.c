/* With a large recv_limit the ring grew by one transport read at a time, copying all of it each time: quadratic time. */
#include "core.h"
#include <fcntl.h>

typedef struct pour_job {
    int fd;
    size_t n;
} pour_job;

static void *pour(void *p)
{
    pour_job *j = (pour_job *)p;
    static char block[65536];
    while (j->n) {
        ssize_t r = send(j->fd, block, j->n < sizeof block ? j->n : sizeof block, MSG_NOSIGNAL);
        if (r <= 0) break;
        j->n -= (size_t)r;
    }
    return NULL;
}

/* Processor time of reading n bytes at once. */
static long read_all(size_t n)
{
    psocket_options o = net_options(0);
    psocket *l;
    psocket *s = NULL;
    pour_job j;
    pthread_t t;
    const void *data;
    struct sockaddr_in sa;
    int port = 0;
    long cpu;
    o.recv_limit = n;
    o.timeout_ms = 60000;
    l = NULL;
    CHECK_INT(psocket_listen(&l, "127.0.0.1", 0, &o), 0);
    psocket_getlocal(l, NULL, 0, &port);
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_port = htons((uint16_t)port);
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    j.fd = socket(AF_INET, SOCK_STREAM, 0);
    j.n = n;
    CHECK(connect(j.fd, (struct sockaddr *)&sa, sizeof sa) == 0);
    CHECK_INT(psocket_accept(l, &s), 0);
    psocket_free(l);
    cpu = core_cpu_ms();
    pthread_create(&t, NULL, pour, &j);
    CHECK_INT(psocket_read(s, n, &data), (ptrdiff_t)n);
    cpu = core_cpu_ms() - cpu;
    pthread_join(t, NULL);
    close(j.fd);
    psocket_free(s);
    return cpu;
}

TEST_LIMIT(eight_times_the_bytes, 120)
{
    long small = read_all((size_t)8 << 20), large = read_all((size_t)64 << 20);
    CHECK(large < 25 * (small + 10)); /* 64 times if quadratic */
    if (large >= 25 * (small + 10)) check_fail(__FILE__, __LINE__, "8 MB: %ld ms, 64 MB: %ld ms", small, large);
}
