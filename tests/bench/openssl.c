/* openssl.c - the reference of the TLS rows: epoll, SSL_read and SSL_write, TLS 1.2. See server.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define BENCH_SOCKETS
#include "server.h"
#include <openssl/ssl.h>

typedef struct conn {
    SSL *ssl;
    unsigned char *rest; /* what SSL_write did not take */
    size_t at, len;
    int fd, seen, writing;
} conn;

static unsigned char buffer[16384];
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
    SSL_shutdown(c->ssl);
    SSL_free(c->ssl);
    close(c->fd);
    free(c->rest);
    free(c);
}

/* After SSL_* answered r: 0 to wait, -1 when the connection is gone. */
static int later(conn *c, int r)
{
    int e = SSL_get_error(c->ssl, r), writing = e == SSL_ERROR_WANT_WRITE;
    if (!writing && e != SSL_ERROR_WANT_READ) return -1;
    if (writing != c->writing) watch(c, EPOLL_CTL_MOD, writing);
    return 0;
}

static int put(conn *c, const unsigned char *p, size_t n)
{
    int r = SSL_write(c->ssl, p, (int)n);
    if (r == (int)n) return 1;
    if (r < 0) r = 0;
    c->rest = (unsigned char *)malloc(n - (size_t)r);
    if (!c->rest) return -1;
    memcpy(c->rest, p + r, n - (size_t)r);
    c->at = 0;
    c->len = n - (size_t)r;
    if (!c->writing) watch(c, EPOLL_CTL_MOD, 1);
    return 0;
}

/* 1: go on. */
static int step(conn *c)
{
    int n, count, r = 1;
    if (mode == SOURCE) {
        n = SSL_write(c->ssl, message + c->at, (int)(size - c->at));
        if (n <= 0) return later(c, n);
        c->at = (c->at + (size_t)n) % size;
        return 1;
    }
    if (c->rest) {
        n = SSL_write(c->ssl, c->rest + c->at, (int)(c->len - c->at));
        if (n <= 0) return later(c, n);
        c->at += (size_t)n;
        if (c->at < c->len) return 1;
        free(c->rest);
        c->rest = NULL;
        if (c->writing) watch(c, EPOLL_CTL_MOD, 0);
        return 1;
    }
    n = SSL_read(c->ssl, buffer, sizeof buffer);
    if (n <= 0) return later(c, n);
    if (mode == SINK) return 1;
    if (mode == ECHO) return put(c, buffer, (size_t)n);
    for (count = requests(buffer, (size_t)n, &c->seen); count > 0 && r == 1; count--)
        r = put(c, (const unsigned char *)answer, sizeof answer - 1);
    return r;
}

static int turn(conn *c)
{
    int i, r = 1;
    if (!SSL_is_init_finished(c->ssl)) {
        r = SSL_accept(c->ssl);
        if (r <= 0) return later(c, r);
        if (mode == SOURCE && !c->writing) watch(c, EPOLL_CTL_MOD, 1);
    }
    /* One answer per event: level-triggered epoll reports more, but does not see what SSL holds. */
    for (i = mode == ECHO || mode == HTTP ? ACCEPTS - 1 : 0; i < ACCEPTS && r == 1; i++) r = step(c);
    while (r == 1 && SSL_has_pending(c->ssl)) r = step(c);
    return r;
}

int main(int argc, char **argv)
{
    struct epoll_event events[128], e;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    int listener;
    arguments(argc, argv);
    if (!chain_file) return 2;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20");
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    if (getenv("BENCH_READ_AHEAD")) SSL_CTX_set_read_ahead(ctx, 1); /* not OpenSSL's default */
    if (SSL_CTX_use_certificate_chain_file(ctx, chain_file) != 1 || SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
        die(chain_file);
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
                if (turn(c) < 0) end(c);
                continue;
            }
            while (left-- > 0 && (fd = accept_one(listener)) >= 0) {
                c = (conn *)calloc(1, sizeof *c);
                if (!c || !(c->ssl = SSL_new(ctx))) die("SSL_new");
                c->fd = fd;
                SSL_set_fd(c->ssl, fd);
                SSL_set_accept_state(c->ssl);
                watch(c, EPOLL_CTL_ADD, 0);
            }
        }
    }
}
