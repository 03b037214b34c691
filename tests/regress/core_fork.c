/* A child that frees the listener it inherited removed the path of its parent's; one forked while all resolver threads were
   busy never resolved a name again; one forked while such a thread stored its answer slept for ever in its next connect; and lookups that
   were queued then were never freed. White box: a slow getaddrinfo, a slow bell, and the queue. */
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int core_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    if (strncmp(host, "slow", 4) == 0) usleep(1500000);
    return getaddrinfo("127.0.0.1", service, hints, out);
}

#include <sys/eventfd.h>

static int core_slow_bell;

static int core_eventfd_write(int fd, eventfd_t value)
{
    if (core_slow_bell) usleep(300000);
    return eventfd_write(fd, value);
}

#define getaddrinfo core_getaddrinfo
#define eventfd_write core_eventfd_write
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#undef getaddrinfo
#undef eventfd_write
#include "core.h"
#include <sys/wait.h>

TEST(the_path_stays)
{
    char folder[] = "/tmp/psocketXXXXXX", name[80];
    psocket_options o = net_options(0);
    psocket *l = NULL;
    psocket *c = NULL;
    pid_t child;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(name, sizeof name, "unix:%s/s", folder);
    REQUIRE(psocket_listen(&l, name, 0, &o) == 0);
    child = fork();
    if (child == 0) {
        psocket_free(l);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    CHECK_INT(psocket_connect(&c, name, 0, &o), 0);
    psocket_free(c);
    psocket_free(l);
    CHECK(access(name + 5, F_OK) != 0);
    unlink(name + 5);
    rmdir(folder);
}

TEST(names_in_a_child)
{
    psocket_options o = net_options(1);
    psocket *c[PSOCKET_RESOLVER_THREADS], *s;
    psocket *l;
    pid_t child;
    int i, port = 0, status = 0;
    l = net_listen("127.0.0.1", &port);
    for (i = 0; i < PSOCKET_RESOLVER_THREADS; i++) CHECK_INT(psocket_connect(&c[i], "slow.test", port, &o), 0);
    check_sleep_us(100000);
    child = fork();
    if (child == 0) {
        o.nonblocking = 0;
        o.timeout_ms = 2000;
        _exit(psocket_connect(&s, "quick.test", port, &o) == 0 ? 0 : 1);
    }
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (i = 0; i < PSOCKET_RESOLVER_THREADS; i++) psocket_free(c[i]);
    psocket_free(l);
    check_sleep_us(1800000); /* the helpers go */
}

/* The thread rings under the lock of the lookups, which a numeric connect takes as well. */
TEST(no_lock_is_inherited)
{
    psocket_options o = net_options(1);
    psocket *c, *s;
    pid_t child;
    int port = 0, status = 0;
    psocket *l = net_listen("127.0.0.1", &port);
    core_slow_bell = 1;
    CHECK_INT(psocket_connect(&c, "quick.test", port, &o), 0);
    check_sleep_us(100000);
    child = fork();
    if (child == 0) {
        alarm(5);
        core_slow_bell = 0;
        o.nonblocking = 0;
        o.timeout_ms = 2000;
        if (psocket_connect(&s, "127.0.0.1", port, &o)) _exit(1);
        psocket_free(s);
        if (psocket_connect(&s, "quick.test", port, &o)) _exit(2);
        psocket_free(s);
        psocket_free(c);
        _exit(0);
    }
    waitpid(child, &status, 0);
    core_slow_bell = 0;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK_INT(psocket_wait(c, PSOCKET_WRITE, 2000), PSOCKET_WRITE);
    psocket_free(c);
    psocket_free(l);
}

TEST(a_queue_in_a_child)
{
    psocket_options o = net_options(1);
    psocket *queued = NULL, *other = NULL;
    const psocket_resolve *r;
    int status;
    pid_t child;
    psi_dns_process = psi_os_process();
    psi_dns_threads = PSOCKET_RESOLVER_THREADS; /* all of this process are at work */
    REQUIRE(psocket_connect(&queued, "queued.test", 80, &o) == 0);
    r = psi_dns_queue;
    REQUIRE(r != NULL && r->owners == 2);
    child = fork();
    if (child == 0) {
        int alone = psocket_connect(&other, "other.test", 80, &o) == 0 && r->owners == 1;
        psocket_free(other);
        psocket_free(queued);
        _exit(alone ? 0 : 1);
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_INT(status, 0);
    psocket_free(queued);
    psi_dns_threads = 0;
}
