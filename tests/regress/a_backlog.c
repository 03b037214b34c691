/* The default queue of 128 lost connections in a storm of clients: the system's most is the default. */
#include "a.h"
#include <netinet/tcp.h>

static int queue_of(const psocket *l)
{
    struct tcp_info info;
    socklen_t n = sizeof info;
    memset(&info, 0, sizeof info);
    CHECK(getsockopt((int)psocket_getfd((psocket *)(uintptr_t)l), IPPROTO_TCP, TCP_INFO, &info, &n) == 0);
    return (int)info.tcpi_sacked; /* of a listener: its queue's length */
}

static int system_most(void)
{
    int most = 0;
    FILE *f = fopen("/proc/sys/net/core/somaxconn", "r");
    if (f && fscanf(f, "%d", &most) != 1) most = 0;
    if (f) fclose(f);
    return most;
}

TEST(the_systems_most)
{
    static const char *const addresses[] = { "127.0.0.1", NULL, "::1" };
    int most = system_most(), backlog;
    size_t i;
    if (!most) SKIP("no /proc/sys/net/core/somaxconn");
    for (i = 0; i < 3; i++) {
        psocket_options o = net_options(0);
        psocket *l = NULL;
        if (psocket_listen(&l, addresses[i], 0, &o)) continue;
        CHECK_INT(queue_of(l), most);
        psocket_free(l);
        for (backlog = 1; backlog < most; backlog *= 10) { /* one asked for is kept */
            o.backlog = backlog;
            REQUIRE(psocket_listen(&l, addresses[i], 0, &o) == 0);
            CHECK_INT(queue_of(l), backlog);
            psocket_free(l);
        }
    }
}

/* A storm against a server that does not accept for a while: none is refused or lost. */
TEST_LIMIT(a_storm, 60)
{
    enum { CLIENTS = 600 };
    static psocket *c[CLIENTS], *s[CLIENTS];
    psocket_options o = net_options(1);
    psocket *l = NULL;
    struct rlimit files;
    int i, port = 0, most = system_most(), accepted = 0, r;
    int64_t end;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (most < CLIENTS || files.rlim_cur < 2 * CLIENTS + 100) SKIP("the system's limits are too low");
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    for (i = 0; i < CLIENTS; i++) REQUIRE(psocket_connect(&c[i], "127.0.0.1", port, &o) == 0);
    end = check_now_ms() + 800; /* less than a lost SYN's second try takes */
    for (i = 0; i < CLIENTS; i++) {
        while ((r = psocket_step(c[i])) == PSOCKET_WANT_WRITE && check_now_ms() < end) psocket_wait(c[i], PSOCKET_WRITE, 10);
        if (r) break;
    }
    CHECK_INT(i, CLIENTS); /* so many connected */
    while (accepted < CLIENTS && psocket_accept(l, &s[accepted]) == 0) accepted++;
    CHECK_INT(accepted, CLIENTS);
    for (i = 0; i < CLIENTS; i++) psocket_free(c[i]);
    for (i = 0; i < accepted; i++) psocket_free(s[i]);
    psocket_free(l);
}
