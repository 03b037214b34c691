/* The system reports a connection's reset once. When psocket_send had consumed it, psocket_recv ended as CLOSED, as though the
   peer had finished: both directions end as RESET, whichever met it first. */
#include "a.h"

/* The peer sends 29 bytes and resets. */
static psocket *reset_peer(int nonblocking)
{
    int fd;
    psocket *s = net_raw_peer(&fd);
    if (!s) return NULL;
    CHECK(send(fd, "HTTP/1.0 200 OK\r\n\r\nfirst half", 29, 0) == 29);
    a_arrived(s);
    net_reset(fd);
    check_sleep_us(20000);
    psocket_setnonblocking(s, nonblocking);
    return s;
}

static void ends_as_reset(psocket *s, int with_data)
{
    int i;
    if (with_data) CHECK_STR(a_recv(s), "HTTP/1.0 200 OK\r\n\r\nfirst half");
    for (i = 0; i < 3; i++) {
        const void *data;
        ptrdiff_t n;
        CHECK_STR(a_recv(s), "RESET");
        n = psocket_read(s, 4, &data);
        CHECK_INT(n, PSOCKET_RESET);
        A_AGREES(s, n);
        n = psocket_read_until(s, "\n", 100, &data);
        CHECK_INT(n, PSOCKET_RESET);
        n = psocket_peek(s, &data);
        CHECK_INT(n, PSOCKET_RESET);
        n = psocket_send(s, "x", 1);
        CHECK_INT(n, PSOCKET_RESET);
        A_AGREES(s, n);
    }
    CHECK_INT(psocket_isopen(s), 0);
}

TEST(recv_alone)
{
    int nonblocking;
    for (nonblocking = 0; nonblocking < 2; nonblocking++) {
        psocket *s = reset_peer(nonblocking);
        REQUIRE(s != NULL);
        ends_as_reset(s, 1);
        psocket_free(s);
    }
}

TEST(after_send)
{
    int nonblocking;
    for (nonblocking = 0; nonblocking < 2; nonblocking++) {
        psocket *s = reset_peer(nonblocking);
        ptrdiff_t n;
        REQUIRE(s != NULL);
        n = psocket_send(s, "x", 1);
        CHECK_INT(n, PSOCKET_RESET);
        A_AGREES(s, n);
        ends_as_reset(s, 1);
        psocket_free(s);
    }
}

TEST(after_send_in_a_poller)
{
    psocket *s = reset_peer(1);
    psocket_poller *p = NULL;
    const psocket_event *ev;
    REQUIRE(s != NULL && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ | PSOCKET_WRITE, -1, s), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_STR(a_recv(s), "HTTP/1.0 200 OK\r\n\r\nfirst half");
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    ends_as_reset(s, 0);
    psocket_free(s);
    psocket_poller_free(p);
}

/* What only looks must not eat it either. */
TEST(after_looking)
{
    int how;
    for (how = 0; how < 5; how++) {
        psocket *s = reset_peer(how & 1);
        const void *data;
        REQUIRE(s != NULL);
        switch (how) {
        case 0: psocket_isopen(s); break;
        case 1: psocket_wait(s, PSOCKET_WRITE, 100); break;
        case 2: psocket_wait(s, PSOCKET_READ, 100); break;
        case 3: psocket_peek(s, &data); break;
        default: psocket_shutdown(s); break;
        }
        if (how < 4) CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
        CHECK_STR(a_recv(s), "HTTP/1.0 200 OK\r\n\r\nfirst half");
        CHECK_STR(a_recv(s), "RESET");
        psocket_free(s);
    }
}

/* The reader is in the middle of a read of more, then writes, then goes on. */
TEST(after_an_unfinished_read)
{
    int fd;
    const void *data;
    psocket *s = net_raw_peer(&fd);
    REQUIRE(s != NULL);
    psocket_setnonblocking(s, 1);
    CHECK(send(fd, "four", 4, 0) == 4);
    a_arrived(s);
    CHECK_INT(psocket_read(s, 10, &data), PSOCKET_WANT_READ);
    net_reset(fd);
    check_sleep_us(20000);
    CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
    CHECK_INT(psocket_read(s, 10, &data), PSOCKET_RESET);
    CHECK_STR(a_recv(s), "four");
    CHECK_STR(a_recv(s), "RESET");
    psocket_free(s);
}

static void tls_reset(int nonblocking, int send_first)
{
    psocket *c = NULL, *s = NULL;
    int fd, i;
    ptrdiff_t n = 0;
    struct linger hard = { 1, 0 };
    REQUIRE(a_tls(&c, &s, nonblocking));
    CHECK_INT(psocket_send(s, "first half", 10), 10);
    CHECK_INT(psocket_flush(s), 0);
    a_arrived(c);
    CHECK_INT(psocket_send(c, "unread", 6), 6);
    CHECK_INT(psocket_flush(c), 0);
    check_sleep_us(5000);
    fd = (int)psocket_getfd(s);
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    {
        struct sockaddr none; /* disconnects: with SO_LINGER of 0 seconds and unread data this resets, without a close_notify */
        memset(&none, 0, sizeof none);
        none.sa_family = AF_UNSPEC;
        connect(fd, &none, sizeof none);
    }
    check_sleep_us(20000);
    for (i = 0; send_first && i < 50 && n >= PSOCKET_WANT_WRITE; i++) {
        n = psocket_send(c, "x", 1);
        if (n >= 0) n = psocket_flush(c);
    }
    if (send_first) CHECK_INT(n, PSOCKET_RESET);
    CHECK_STR(a_recv(c), "first half");
    CHECK_STR(a_recv(c), "RESET");
    CHECK_STR(a_recv(c), "RESET");
    CHECK_INT(psocket_send(c, "x", 1), PSOCKET_RESET);
    psocket_free(c);
    psocket_free(s);
}

TEST(tls)
{
    int i;
    for (i = 0; i < 4; i++) tls_reset(i & 1, i >> 1);
}
