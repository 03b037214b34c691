/* An accept-and-fork server: what a child lets go of stays in its parent's poller, though both share the system's set. */
#include "core.h"

TEST(a_child_leaves_the_set_of_its_parent_alone)
{
    int how;
    for (how = 0; how < 3; how++) {
        psocket_options o = net_options(1);
        psocket *listener = NULL, *client = NULL, *server = NULL, *a = NULL, *b = NULL;
        psocket_poller *p = NULL;
        const psocket_event *events;
        const void *data;
        int port = 0, status = -1;
        pid_t child;
        REQUIRE(psocket_listen(&listener, "127.0.0.1", 0, &o) == 0 && psocket_pair(&a, &b, &o) == 0 && psocket_poller_new(&p) == 0);
        psocket_getlocal(listener, NULL, 0, &port);
        CHECK_INT(psocket_poller_set(p, listener, PSOCKET_READ, -1, listener), 0);
        CHECK_INT(psocket_poller_set(p, a, PSOCKET_READ, -1, a), 0);
        CHECK_INT(psocket_poller_wait(p, &events, 0), 0);
        child = fork();
        if (child == 0) {
            if (how == 0) psocket_free(listener);
            if (how == 1) psocket_close(a);
            if (how == 1) psocket_close(listener);
            if (how == 2) psocket_poller_free(p);
            _exit(0);
        }
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK_INT(psocket_connect(&client, "127.0.0.1", port, &o), 0);
        CHECK_INT(psocket_poller_wait(p, &events, 2000), 1);
        CHECK_INT(psocket_accept(listener, &server), 0);
        CHECK_INT(psocket_send(b, "x", 1), 1);
        CHECK_INT(psocket_poller_wait(p, &events, 2000), 1);
        CHECK_INT(psocket_recv(a, &data), 1);
        psocket_free(server);
        psocket_free(client);
        psocket_free(listener);
        psocket_free(a);
        psocket_free(b);
        psocket_poller_free(p);
    }
}

/* What a child puts into its parent's poller would come out in the parent, with a pointer that is none there. */
TEST(a_child_adds_nothing_to_it)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL, *c = NULL, *d = NULL;
    psocket_poller *p = NULL;
    const psocket_event *events;
    int status = -1, ready[2];
    char byte;
    pid_t child;
    REQUIRE(psocket_pair(&a, &b, &o) == 0 && psocket_poller_new(&p) == 0 && pipe(ready) == 0);
    CHECK_INT(psocket_poller_set(p, a, PSOCKET_READ, -1, a), 0);
    CHECK_INT(psocket_poller_wait(p, &events, 0), 0);
    child = fork();
    if (child == 0) {
        int ok = psocket_pair(&c, &d, &o) == 0 && psocket_poller_set(p, c, PSOCKET_READ, -1, c) == PSOCKET_INVALID;
        ok = psocket_send(d, "x", 1) == 1 && ok;
        ok = write(ready[1], "", 1) == 1 && ok;
        check_sleep_us(200000); /* what it has put there stays while its descriptor is open */
        psocket_free(c);
        psocket_poller_free(p);
        _exit(!ok);
    }
    CHECK_INT(read(ready[0], &byte, 1), 1);
    CHECK_INT(psocket_poller_wait(p, &events, 50), 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK_INT(psocket_send(b, "x", 1), 1);
    CHECK_INT(psocket_poller_wait(p, &events, 2000), 1);
    close(ready[0]);
    close(ready[1]);
    psocket_free(a);
    psocket_free(b);
    psocket_poller_free(p);
}
