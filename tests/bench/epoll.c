/* epoll.c - the reference of the plain rows: level-triggered epoll, one receive and one send per event, nothing else.
   See server.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define BENCH_SOCKETS
#include "server.h"

/* Only what a socket did not take is kept for a connection. */
typedef struct conn {
    int fd, seen, writing;
    size_t at, len;
    unsigned char *rest;
} conn;

static unsigned char buffer[BUFFER];
static int poller;

static void watch(conn *c, int op, int writing)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = writing ? EPOLLOUT : EPOLLIN;
    e.data.ptr = c;
    c->writing = writing;
    if (epoll_ctl(poller, op, c->fd, &e)) die("epoll_ctl");
}

static void end(conn *c)
{
    close(c->fd);
    free(c->rest);
    free(c);
}

/* Sends, or keeps what is not taken: 0, or -1 when the connection is gone. */
static int put(conn *c, const unsigned char *p, size_t n)
{
    ssize_t r = send(c->fd, p, n, MSG_NOSIGNAL);
    if (r == (ssize_t)n) return 0;
    if (r < 0 && errno != EAGAIN) return -1;
    if (r < 0) r = 0;
    c->rest = (unsigned char *)malloc(n - (size_t)r);
    if (!c->rest) return -1;
    memcpy(c->rest, p + r, n - (size_t)r);
    c->at = 0;
    c->len = n - (size_t)r;
    watch(c, EPOLL_CTL_MOD, 1);
    return 0;
}

static int put_rest(conn *c)
{
    ssize_t r = send(c->fd, c->rest + c->at, c->len - c->at, MSG_NOSIGNAL);
    if (r < 0) return errno == EAGAIN ? 0 : -1;
    c->at += (size_t)r;
    if (c->at < c->len) return 0;
    free(c->rest);
    c->rest = NULL;
    watch(c, EPOLL_CTL_MOD, 0);
    return 0;
}

static int put_source(conn *c)
{
    int i;
    for (i = 0; i < ACCEPTS; i++) {
        ssize_t r = send(c->fd, message + c->at, size - c->at, MSG_NOSIGNAL);
        if (r < 0) return errno == EAGAIN ? 0 : -1;
        c->at += (size_t)r;
        if (c->at < size) return 0;
        c->at = 0;
    }
    return 0;
}

static int turn(conn *c)
{
    ssize_t n;
    int count;
    if (mode == SOURCE) return put_source(c);
    if (c->writing) return put_rest(c);
    n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
    if (mode == SINK) return 0;
    if (mode == ECHO) return put(c, buffer, (size_t)n);
    for (count = requests(buffer, (size_t)n, &c->seen); count > 0; count--)
        if (c->rest || put(c, (const unsigned char *)answer, sizeof answer - 1)) return -1;
    return 0;
}

int main(int argc, char **argv)
{
    struct epoll_event events[128], e;
    int listener;
    arguments(argc, argv);
    listener = listen_here();
    poller = epoll_create1(EPOLL_CLOEXEC);
    memset(&e, 0, sizeof e);
    e.events = EPOLLIN;
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e)) die("epoll");
    for (;;) {
        int i, n = epoll_wait(poller, events, 128, -1);
        if (n < 0 && errno != EINTR) die("epoll_wait");
        for (i = 0; i < n; i++) {
            conn *c = (conn *)events[i].data.ptr;
            int left = ACCEPTS, fd;
            if (c) {
                if (turn(c)) end(c);
                continue;
            }
            while (left-- > 0 && (fd = accept_one(listener)) >= 0) {
                c = (conn *)calloc(1, sizeof *c);
                if (!c) die("calloc");
                c->fd = fd;
                watch(c, EPOLL_CTL_ADD, mode == SOURCE);
            }
        }
    }
}
