/* Ending in stages, as psocket_close's contract says: who answers before all has been read shuts down, takes what still
   comes, and then closes. The peer gets the whole answer and a clean end. */
#include "net.h"
#include <sys/wait.h>

#define ANSWER 300000
#define UPLOAD 3000000

static char bytes[65536];

/* The client, a process of its own: sends everything, then reads the answer. 0 if all came and ended cleanly. */
static int upload(int port)
{
    psocket_options o = net_options(0);
    psocket *s = NULL;
    const void *data;
    ptrdiff_t n;
    size_t sent = 0, got = 0;
    if (psocket_connect(&s, "127.0.0.1", port, &o)) return 1;
    while (sent < UPLOAD) {
        if ((n = psocket_send(s, bytes, sizeof bytes)) < 0) return 2;
        sent += (size_t)n;
    }
    while ((n = psocket_recv(s, &data)) >= 0) got += (size_t)n;
    psocket_free(s);
    return n != PSOCKET_CLOSED ? 3 : got != ANSWER ? 4 : 0;
}

static void refuse(psocket *s)
{
    size_t left;
    for (left = ANSWER; left; left -= left < sizeof bytes ? left : sizeof bytes) {
        size_t n = left < sizeof bytes ? left : sizeof bytes;
        CHECK_INT(psocket_send(s, bytes, n), (ptrdiff_t)n);
    }
}

static void clean_for(pid_t child)
{
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 0);
}

TEST(blocking)
{
    psocket *l, *s = NULL;
    const void *data;
    pid_t child;
    ptrdiff_t n;
    int port = 0;
    l = net_listen("127.0.0.1", &port);
    if ((child = fork()) == 0) _exit(upload(port));
    REQUIRE(psocket_accept(l, &s) == 0);
    CHECK(psocket_recv(s, &data) > 0);
    refuse(s);
    CHECK_INT(psocket_shutdown(s), 0);
    while ((n = psocket_recv(s, &data)) >= 0) {}
    CHECK_INT(n, PSOCKET_CLOSED);
    psocket_free(s);
    psocket_free(l);
    clean_for(child);
}

/* In a poller, whose timeout is the limit. */
TEST(nonblocking)
{
    psocket *l, *s = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    pid_t child;
    ptrdiff_t n = 0;
    int port = 0, turns;
    l = net_listen("127.0.0.1", &port);
    if ((child = fork()) == 0) _exit(upload(port));
    REQUIRE(psocket_accept(l, &s) == 0 && psocket_poller_new(&p) == 0);
    refuse(s);
    psocket_setnonblocking(s, 1);
    n = psocket_shutdown(s);
    CHECK(n == 0 || n == PSOCKET_WANT_WRITE);
    for (turns = 0; turns < 10000; turns++) {
        CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, 3000, s), 0);
        if (psocket_poller_wait(p, &ev, -1) != 1 || !ev[0].events) break;
        do n = psocket_recv(s, &data); while (n >= 0);
        if (n != PSOCKET_WANT_READ) break;
    }
    CHECK_INT(n, PSOCKET_CLOSED);
    psocket_free(s);
    psocket_poller_free(p);
    psocket_free(l);
    clean_for(child);
}
