/* A child that frees the listener it inherited removed the path of its parent's; and one forked while all resolver threads
   were busy never resolved a name again. White box: a slow getaddrinfo. */
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int core_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    if (strncmp(host, "slow", 4) == 0) usleep(1500000);
    return getaddrinfo("127.0.0.1", service, hints, out);
}

#define getaddrinfo core_getaddrinfo
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#undef getaddrinfo
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
