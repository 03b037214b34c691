/* The poller, pollset, foreign loops, timers, wake. */
#include "net.h"
#include <pthread.h>

TEST(connect_accept_echo)
{
    psocket_poller *p;
    psocket_options o = net_options(1);
    psocket *l;
    psocket *c, *s;
    int port = 0;
    REQUIRE(CHECK_INT(psocket_poller_new(&p), 0));
    CHECK_INT(psocket_listen(&l, "127.0.0.1", 0, &o), 0);
    psocket_getlocal(l, NULL, 0, &port);
    CHECK_INT(psocket_accept(l, &s), PSOCKET_WANT_READ);
    CHECK_INT(psocket_poller_set(p, l, PSOCKET_READ, -1, l), 0);
    CHECK_INT(psocket_connect(&c, "localhost", port, &o), 0);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_WRITE, 5000, &c), 0);
    CHECK_INT(net_wait_for(p, &c, PSOCKET_WRITE), PSOCKET_WRITE);
    CHECK_INT(net_wait_for(p, l, PSOCKET_READ), PSOCKET_READ);
    REQUIRE(CHECK_INT(psocket_accept(l, &s), 0));
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, &s), 0);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, &c), 0);
    CHECK_INT(psocket_send(c, "ping", 4), 4);
    CHECK_INT(net_wait_for(p, &s, PSOCKET_READ), PSOCKET_READ);
    CHECK_STR(net_recv(s), "ping");
    CHECK_STR(net_recv(s), "WANT_READ");
    CHECK_INT(psocket_send(s, "pong", 4), 4);
    CHECK_INT(net_wait_for(p, &c, PSOCKET_READ), PSOCKET_READ);
    CHECK_INT(net_wait_for(p, &c, PSOCKET_READ), PSOCKET_READ); /* level-triggered: not read yet */
    CHECK_STR(net_recv(c), "pong");
    psocket_unrecv(c, "again", 5); /* in the ring, unknown to the system */
    CHECK_INT(net_wait_for(p, &c, PSOCKET_READ), PSOCKET_READ);
    CHECK_STR(net_recv(c), "again");
    psocket_free(s);
    CHECK_INT(net_wait_for(p, &c, PSOCKET_READ), PSOCKET_READ);
    CHECK_STR(net_recv(c), "CLOSED");
    CHECK_INT(net_wait_for(p, &c, PSOCKET_READ), PSOCKET_READ);
    psocket_free(c);
    psocket_free(l);
    psocket_poller_free(p);
}

TEST(refused_and_unresolved_are_reported)
{
    psocket_poller *p;
    psocket_options o = net_options(1);
    psocket *a, *b;
    int port = 0;
    psocket_free(net_listen("127.0.0.1", &port));
    REQUIRE(psocket_poller_new(&p) == 0);
    if (psocket_connect(&a, "localhost", port, &o) == 0) {
        psocket_poller_set(p, a, PSOCKET_READ, -1, &a);
        CHECK_INT(net_wait_for(p, &a, PSOCKET_READ), PSOCKET_READ);
        CHECK_STR(net_recv(a), "REFUSED");
        CHECK_INT(psocket_geterror(a, &net_error), PSOCKET_REFUSED);
        CHECK(strstr(net_error.text, "localhost") != NULL);
        psocket_free(a);
    }
    CHECK_INT(psocket_connect(&b, "no-such-host.invalid", 80, &o), 0);
    psocket_poller_set(p, b, PSOCKET_WRITE, -1, &b);
    CHECK_INT(net_wait_for(p, &b, PSOCKET_WRITE), PSOCKET_WRITE);
    CHECK(psocket_send(b, "x", 1) <= PSOCKET_DNS_NOT_FOUND);
    psocket_free(b);
    psocket_poller_free(p);
}

TEST(timers_in_order)
{
    psocket_poller *p;
    const psocket_event *ev;
    int keys[50], order[50], n = 0, i, k;
    psocket_watch *w[50] = { NULL };
    int64_t start, earliest[50], latest[50]; /* when each may be due: the machine may pause between two settings */
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < 50; i++) {
        earliest[i] = psocket_now() + (i * 37) % 50 * 2;
        psocket_poller_watch(p, &w[i], -1, 0, (i * 37) % 50 * 2, &keys[i]);
        latest[i] = psocket_now() + (i * 37) % 50 * 2;
    }
    psocket_poller_watch(p, &w[7], -1, 0, -1, &keys[7]); /* cancelled */
    psocket_poller_watch(p, &w[9], -1, 0, 150, &keys[9]); /* moved */
    start = psocket_now();
    while (n < 49 && (k = psocket_poller_wait(p, &ev, 5000)) > 0)
        for (i = 0; i < k && n < 50; i++) {
            CHECK_INT(ev[i].events, 0);
            order[n++] = (int)((int *)ev[i].user - keys);
        }
    REQUIRE(CHECK_INT(n, 49));
    for (i = 0; i + 2 < n; i++) CHECK(order[i] != 7 && earliest[order[i]] <= latest[order[i + 1]]);
    CHECK_INT(order[48], 9);
    CHECK(psocket_now() - start >= 150);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    for (i = 0; i < 25; i++) psocket_watch_free(w[i]);
    psocket_poller_free(p);
    for (; i < 50; i++) psocket_watch_free(w[i]);
}

TEST(socket_timeout_once)
{
    psocket_poller *p;
    const psocket_event *ev;
    psocket *c, *s;
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(net_pair(&c, &s));
    psocket_poller_set(p, s, PSOCKET_READ, 20, &s);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK(ev[0].user == &s && ev[0].events == 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 30), 0);
    psocket_send(c, "x", 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK_INT(ev[0].events, PSOCKET_READ);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

static void *waker(void *p)
{
    poll(NULL, 0, 20);
    psocket_poller_wake((psocket_poller *)p);
    return NULL;
}

TEST(wake_from_another_thread)
{
    psocket_poller *p;
    const psocket_event *ev;
    pthread_t t;
    REQUIRE(psocket_poller_new(&p) == 0);
    psocket_poller_wake(p); /* before the wait */
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 0);
    pthread_create(&t, NULL, waker, p);
    CHECK_INT(psocket_poller_wait(p, &ev, -1), 0);
    pthread_join(t, NULL);
    psocket_poller_free(p);
}

/* Freeing a socket whose event is in the array clears the event. */
TEST(removed_within_a_batch)
{
    psocket_poller *p;
    const psocket_event *ev;
    psocket *c[2], *s[2];
    int i, n = 0, turns;
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < 2; i++) {
        REQUIRE(net_pair(&c[i], &s[i]));
        psocket_poller_set(p, s[i], PSOCKET_READ, -1, &s[i]);
        psocket_send(c[i], "x", 1);
    }
    for (turns = 0; turns < 100 && n != 2; turns++) n = psocket_poller_wait(p, &ev, 5000);
    REQUIRE(n == 2);
    psocket_free(*(psocket **)ev[1].user);
    CHECK(ev[0].user != NULL && ev[0].events == PSOCKET_READ);
    CHECK(ev[1].user == NULL && ev[1].events == 0);
    psocket_free(*(psocket **)ev[0].user);
    CHECK_INT(psocket_poller_wait(p, &ev, 10), 0);
    psocket_poller_free(p);
    psocket_free(c[0]);
    psocket_free(c[1]);
}

TEST(many_ready_at_once_starve_nobody)
{
    enum { N = 200 };
    psocket_poller *p;
    const psocket_event *ev;
    static psocket *c[N], *s[N];
    static int seen[N];
    int i, n, left = N, turns;
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < N; i++) {
        REQUIRE(net_pair(&c[i], &s[i]));
        psocket_poller_set(p, s[i], PSOCKET_READ, -1, &s[i]);
        psocket_send(c[i], "x", 1);
        if (i % 2) psocket_unrecv(s[i], "y", 1); /* ready in the ring, and stays so */
    }
    for (turns = 0; turns < 200 && left; turns++) {
        n = psocket_poller_wait(p, &ev, 5000);
        for (i = 0; i < n; i++) {
            int k = (int)((psocket **)ev[i].user - s);
            if (!seen[k]) left--;
            seen[k] = 1;
        }
    }
    CHECK_INT(left, 0);
    psocket_poller_free(p);
    for (i = 0; i < N; i++) {
        psocket_free(c[i]);
        psocket_free(s[i]);
    }
}

TEST(foreign_descriptor)
{
    psocket_poller *p;
    const psocket_event *ev;
    psocket_watch *w = NULL;
    int fds[2], ms = -1;
    struct pollfd pf;
    REQUIRE(psocket_poller_new(&p) == 0 && pipe(fds) == 0);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, fds), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK(write(fds[1], "x", 1) == 1);
    pf.fd = (int)psocket_poller_getfd(p, &ms);
    pf.events = POLLIN;
    CHECK_INT(ms, -1);
    if (pf.fd >= 0) CHECK_INT(poll(&pf, 1, 5000), 1); /* the poller nests in another loop */
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK(ev[0].user == fds && ev[0].events == PSOCKET_READ);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], 0, -1, NULL), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    psocket_poller_free(p);
    psocket_watch_free(w);
    close(fds[0]);
    close(fds[1]);
}

/* A plain poll() loop of the application's own, with psocket_pollset. */
TEST(pollset_in_a_poll_loop)
{
    psocket_options o = net_options(1);
    psocket *l;
    psocket *c = NULL, *s = NULL;
    int port = 0, i, turns, got = 0, sent = 0;
    REQUIRE(psocket_listen(&l, NULL, 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "localhost", port, &o) == 0);
    for (turns = 0; turns < 500 && !got; turns++) {
        psocket_pollfd want[PSOCKET_POLLSET_MAX];
        struct pollfd pf[2 * PSOCKET_POLLSET_MAX + 1];
        int n = 0, ms = 1000, k;
        const void *data;
        pf[n].fd = (int)psocket_getfd(l);
        pf[n++].events = POLLIN;
        k = psocket_pollset(c, sent ? PSOCKET_READ : PSOCKET_WRITE, want, PSOCKET_POLLSET_MAX, &ms);
        for (i = 0; i < k; i++) {
            pf[n].fd = (int)want[i].fd;
            pf[n++].events = (short)(((want[i].events & PSOCKET_READ) ? POLLIN : 0) | ((want[i].events & PSOCKET_WRITE) ? POLLOUT : 0));
        }
        if (s) {
            k = psocket_pollset(s, PSOCKET_READ, want, PSOCKET_POLLSET_MAX, &ms);
            for (i = 0; i < k; i++) {
                pf[n].fd = (int)want[i].fd;
                pf[n++].events = POLLIN;
            }
        }
        poll(pf, (nfds_t)n, ms);
        if (!s) psocket_accept(l, &s);
        if (!sent && psocket_send(c, "hello", 5) == 5) sent = 1;
        if (s && psocket_recv(s, &data) == 5) got = 1;
    }
    CHECK_INT(got, 1);
    CHECK(turns < 100); /* it slept rather than spun */
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
}

TEST(one_poller_at_a_time)
{
    psocket_poller *p, *q;
    psocket *c, *s;
    REQUIRE(psocket_poller_new(&p) == 0 && psocket_poller_new(&q) == 0);
    REQUIRE(net_pair(&c, &s));
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    CHECK_INT(psocket_poller_set(q, c, PSOCKET_READ, -1, c), PSOCKET_BUSY);
    CHECK_INT(psocket_poller_set(p, c, 0, -1, NULL), 0);
    CHECK_INT(psocket_poller_set(q, c, PSOCKET_READ, -1, c), 0);
    psocket_poller_free(q);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    psocket_close(c);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), PSOCKET_CLOSED_HERE);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

/* Part of what a reader waits for: it may be told once, since another one might be content with it, and not again. */
static int told(psocket_poller *p, psocket *s, const char *delimiter)
{
    const psocket_event *ev;
    const void *data;
    int n = 0;
    while (n < 5 && psocket_poller_wait(p, &ev, 20) > 0) {
        n++;
        CHECK_INT(psocket_read_until(s, delimiter, 100, &data), PSOCKET_WANT_READ);
    }
    return n;
}

TEST(part_of_a_line_is_not_ready)
{
    psocket_poller *p;
    const psocket_event *ev;
    const void *data;
    psocket *c, *s;
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(s, 1);
    psocket_send(c, "half a ", 7);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
    CHECK_INT(psocket_read_until(s, "\n", 100, &data), PSOCKET_WANT_READ);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 20), 0);
    psocket_poller_set(p, s, PSOCKET_READ, -1, s);
    CHECK(told(p, s, "\n") <= 1);
    psocket_send(c, "line\n", 5);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK_STR(net_text(psocket_read_until(s, "\n", 100, &data), &data), "half a line\n");
    psocket_send(c, "part", 4);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK_INT(psocket_read(s, 9, &data), PSOCKET_WANT_READ);
    CHECK(told(p, s, "\n") <= 1);
    CHECK_STR(net_peek(s), "part"); /* a reader of chunks is told */
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

/* A ring that was full had reading switched off; emptied within the same turn, it is watched again. */
TEST(full_ring_is_watched_again)
{
    static char block[200000];
    psocket_poller *p;
    const psocket_event *ev;
    const void *data;
    psocket *c, *s;
    size_t got = 0;
    int turns;
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(s, 1);
    psocket_setnonblocking(c, 1);
    psocket_poller_set(p, s, PSOCKET_READ, -1, s);
    CHECK(psocket_send(c, block, sizeof block) > 65536);
    for (turns = 0; turns < 50 && psocket_pending(s) < 65536; turns++) psocket_isopen(s);
    for (turns = 0; turns < 100; turns++) {
        ptrdiff_t n;
        if (psocket_poller_wait(p, &ev, got ? 200 : 5000) <= 0) break;
        while ((n = psocket_recv(s, &data)) > 0) got += (size_t)n;
    }
    CHECK(got > 65536);
    CHECK_INT(psocket_send(c, "more", 4), 4);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

/* psocket_hasconnection and psocket_isopen take what the system would have announced. */
TEST(announced_although_looked_at)
{
    psocket_poller *p;
    const psocket_event *ev;
    psocket *l;
    psocket *c, *d, *s;
    psocket_options o = net_options(1);
    int port = 0, i;
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    psocket_poller_set(p, l, PSOCKET_READ, -1, l);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    o.nonblocking = 0;
    REQUIRE(psocket_connect(&d, "127.0.0.1", port, &o) == 0);
    for (i = 0; i < 1000 && !psocket_hasconnection(l); i++) poll(NULL, 0, 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    psocket_free(d);
    psocket_free(l);
    REQUIRE(net_pair(&c, &s));
    psocket_poller_set(p, s, PSOCKET_READ, -1, s);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    psocket_send(c, "x", 1);
    for (i = 0; i < 1000 && !psocket_pending(s); i++) psocket_isopen(s);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}
