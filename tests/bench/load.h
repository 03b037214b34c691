/* load.h - the load generator: epoll, one thread, plain or TLS 1.2 through OpenSSL, against a server on 127.0.0.1.
 * A load is opened (all its connections made), driven for some time, and closed. */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What a connection does over and over. */
enum {
    LOAD_ECHO,      /* sends a message, waits for all of it to come back */
    LOAD_IN,        /* sends messages, waits for nothing: bulk into the server */
    LOAD_OUT,       /* receives: bulk out of the server */
    LOAD_HTTP,      /* a request, its response */
    LOAD_CHURN,     /* connects, one echo, closes */
    LOAD_HANDSHAKE, /* connects, a full handshake, closes */
    LOAD_RESUME     /* connects, an abbreviated handshake, closes */
};

#define LOAD_BUFFER (256 * 1024)
#define LOAD_BATCH (64 * 1024) /* LOAD_IN over TLS: records sealed for one send */

typedef struct load_conn {
    int fd, slot;
    enum { CONNECTING, SHAKING, READY } state;
    int writing, busy;
    SSL *ssl;
    BIO *sealed;          /* LOAD_IN over TLS: records on their way to the socket */
    size_t done;          /* of the message, in the direction under way */
} load_conn;

typedef struct load {
    int kind, port, busy, idle; /* connections that work, and that do not */
    size_t size;                /* of a message */
    int stopping;               /* no more messages */
    int once;                   /* LOAD_ECHO: one message per connection, with load_pass */
    const char *ciphers;        /* NULL: plain; names that start with TLS_ are of TLS 1.3 */
    /* the rest is private */
    int epoll, ready, errors, not_resumed, passed;
    load_conn *conns;
    SSL_CTX *ctx;
    SSL_SESSION *session;
    size_t response;            /* length of an HTTP response; 0 not known yet */
    double work;                /* echoes, requests, handshakes; bytes for LOAD_IN and LOAD_OUT */
    unsigned source;
    char error[128];
} load;

static unsigned char load_message[LOAD_BUFFER], load_sink[LOAD_BUFFER];

static int load_tls13(const load *l)
{
    return strncmp(l->ciphers, "TLS_", 4) == 0;
}
static const char load_request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

static double load_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void load_fail(load *l, const char *what)
{
    if (!l->errors++) snprintf(l->error, sizeof l->error, "%s: %s", what, errno ? strerror(errno) : "closed by the server");
}

static void load_watch(load *l, load_conn *c, int op, unsigned events)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = events;
    e.data.ptr = c;
    c->writing = (events & EPOLLOUT) != 0;
    if (epoll_ctl(l->epoll, op, c->fd, &e)) load_fail(l, "epoll_ctl");
}

static void load_want(load *l, load_conn *c, int writing)
{
    if (c->writing != writing) load_watch(l, c, EPOLL_CTL_MOD, writing ? EPOLLOUT : EPOLLIN);
}

/* Many short connections use many local ports: source addresses take turns. */
static int load_connect(load *l, load_conn *c)
{
    struct sockaddr_in a;
    int one = 1, buffered = 512 * 1024, r;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        load_fail(l, "socket");
        return -1;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (l->kind == LOAD_IN) setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &buffered, sizeof buffered);
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + l->source++ % 200);
    r = bind(c->fd, (struct sockaddr *)&a, sizeof a);
    a.sin_port = htons((uint16_t)l->port);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!r) r = connect(c->fd, (struct sockaddr *)&a, sizeof a);
    if (r && errno != EINPROGRESS) {
        load_fail(l, "connect");
        close(c->fd);
        c->fd = -1;
        return -1;
    }
    c->state = CONNECTING;
    c->done = 0;
    load_watch(l, c, EPOLL_CTL_ADD, EPOLLOUT);
    return 0;
}

static void load_drop(load_conn *c)
{
    if (c->ssl) SSL_free(c->ssl);
    c->ssl = NULL;
    c->sealed = NULL;
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
}

/* 0 or less: wait (0) or the connection is gone (-1). */
static ssize_t load_ssl_result(load *l, load_conn *c, int r)
{
    int e;
    if (r > 0) return r;
    e = SSL_get_error(c->ssl, r);
    ERR_clear_error();
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE) {
        load_want(l, c, e == SSL_ERROR_WANT_WRITE);
        return 0;
    }
    if (e != SSL_ERROR_SYSCALL) errno = 0;
    return -1;
}

static ssize_t load_send(load *l, load_conn *c, const void *p, size_t n)
{
    ssize_t r;
    if (c->ssl) return load_ssl_result(l, c, SSL_write(c->ssl, p, (int)n));
    r = send(c->fd, p, n, MSG_NOSIGNAL);
    if (r < 0 && errno == EAGAIN) {
        load_want(l, c, 1);
        return 0;
    }
    return r;
}

static ssize_t load_recv(load *l, load_conn *c, void *p, size_t n, int flags)
{
    ssize_t r;
    if (c->ssl) return load_ssl_result(l, c, SSL_read(c->ssl, p, (int)n));
    r = recv(c->fd, p, n, flags);
    if (r == 0) errno = 0;
    if (r == 0) return -1;
    if (r < 0 && errno == EAGAIN) {
        load_want(l, c, 0);
        return 0;
    }
    return r;
}

/*--- one turn of a connection; -1: it is gone */

static int load_again(load *l, load_conn *c);

/* Sends a message and receives `back` bytes, again and again; c->done counts both. */
static int load_exchange(load *l, load_conn *c, const void *p, size_t n, size_t back)
{
    ssize_t r;
    for (;;) {
        while (c->done < n) {
            r = load_send(l, c, (const char *)p + c->done, n - c->done);
            if (r <= 0) return (int)r;
            c->done += (size_t)r;
            if (c->done == n) {
                load_want(l, c, 0);
                if (!c->ssl) return 0; /* the answer takes a while */
            }
        }
        while (!back || c->done < n + back) {
            r = load_recv(l, c, load_sink, back ? n + back - c->done : LOAD_BUFFER, 0);
            if (r <= 0) return (int)r;
            if (!back) { /* the first HTTP response tells the length of all */
                char *head = (char *)load_sink, *end, *len;
                load_sink[r] = 0;
                end = strstr(head, "\r\n\r\n");
                len = strcasestr(head, "content-length:");
                if (!end || !len) return -1;
                back = l->response = (size_t)(end + 4 - head) + (size_t)atol(len + 15);
            }
            c->done += (size_t)r;
        }
        c->done = 0;
        l->work++;
        if (l->kind == LOAD_CHURN) return load_again(l, c);
        if (l->once || l->stopping) {
            c->busy = 0;
            l->passed++;
            return 0;
        }
    }
}

static int load_bulk_in(load *l, load_conn *c)
{
    int i;
    char *p;
    ssize_t r;
    load_want(l, c, 1);
    for (i = 0; i < 8; i++) {
        if (!c->sealed) {
            r = send(c->fd, load_message + c->done, l->size - c->done, MSG_NOSIGNAL);
            if (r < 0) return errno == EAGAIN ? 0 : -1;
            l->work += (double)r;
            c->done = (c->done + (size_t)r) % l->size;
            continue;
        }
        while (BIO_pending(c->sealed) < LOAD_BATCH) /* the sender is not what is measured: many records per send */
            if (SSL_write(c->ssl, load_message, (int)l->size) <= 0) return -1;
        r = send(c->fd, p, (size_t)BIO_get_mem_data(c->sealed, &p), MSG_NOSIGNAL);
        if (r < 0) return errno == EAGAIN ? 0 : -1;
        {
            size_t records = (l->size + 16383) / 16384, wire = l->size + records * (load_tls13(l) ? 22 : strstr(l->ciphers, "CHACHA") ? 21 : 29);
            l->work += (double)r * (double)l->size / (double)wire;
        }
        while (r > 0) {
            int n = BIO_read(c->sealed, load_sink, (int)(r < LOAD_BUFFER ? r : LOAD_BUFFER));
            if (n <= 0) return -1;
            r -= n;
        }
    }
    return 0;
}

static int load_bulk_out(load *l, load_conn *c)
{
    int i;
    for (i = 0; i < 8; i++) {
        ssize_t r = load_recv(l, c, load_sink, LOAD_BUFFER, MSG_TRUNC); /* plain TCP: throws them away without a copy */
        if (r <= 0) return (int)r;
        l->work += (double)r;
    }
    return 0;
}

static int load_turn(load *l, load_conn *c)
{
    if (c->state == CONNECTING) {
        int e = 0;
        socklen_t n = sizeof e;
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &n) || e) {
            errno = e;
            return -1;
        }
        c->state = SHAKING;
        if (l->ciphers) {
            c->ssl = SSL_new(l->ctx);
            SSL_set_fd(c->ssl, c->fd);
            SSL_set_connect_state(c->ssl);
            if (l->session && l->kind != LOAD_HANDSHAKE) SSL_set_session(c->ssl, l->session);
        }
    }
    if (c->state == SHAKING) {
        if (c->ssl) {
            ssize_t r = load_ssl_result(l, c, SSL_do_handshake(c->ssl));
            if (r <= 0) return (int)r;
            if (!l->session) l->session = SSL_get1_session(c->ssl);
            else if (l->kind == LOAD_RESUME && !SSL_session_reused(c->ssl)) l->not_resumed++;
            if (l->kind == LOAD_IN) {
                c->sealed = BIO_new(BIO_s_mem());
                BIO_set_mem_eof_return(c->sealed, -1);
                SSL_set0_wbio(c->ssl, c->sealed);
            }
        }
        c->state = READY;
        l->ready++;
        load_want(l, c, 0);
        if (l->kind == LOAD_HANDSHAKE || l->kind == LOAD_RESUME) {
            l->work++;
            return load_again(l, c);
        }
    }
    if (!c->busy) { /* bytes or an end that nobody asked for */
        ssize_t r = load_recv(l, c, load_sink, LOAD_BUFFER, 0);
        return r < 0 ? -1 : 0;
    }
    switch (l->kind) {
    case LOAD_IN: return load_bulk_in(l, c);
    case LOAD_OUT: return load_bulk_out(l, c);
    case LOAD_HTTP: return load_exchange(l, c, load_request, sizeof load_request - 1, l->response);
    default: return load_exchange(l, c, load_message, l->size, l->size);
    }
}

/* Closes a connection and makes the next one in its place. */
static int load_again(load *l, load_conn *c)
{
    if (c->ssl) SSL_shutdown(c->ssl);
    load_drop(c);
    l->ready--;
    return load_connect(l, c);
}

/* Turns until the time is over or, if `until` is set, *until has reached `goal`. */
static void load_turns(load *l, double seconds, const int *until, int goal)
{
    struct epoll_event events[256];
    double end = load_now() + seconds;
    while (load_now() < end && !l->errors && !(until && *until >= goal)) {
        int i, n = epoll_wait(l->epoll, events, 256, 50);
        for (i = 0; i < n; i++) {
            load_conn *c = (load_conn *)events[i].data.ptr;
            if (load_turn(l, c) >= 0) continue;
            load_fail(l, "connection");
            load_drop(c);
        }
    }
}

/* Opens all connections, 64 at a time; the busy ones start last. 0 or -1. */
static int load_open(load *l)
{
    int i, n = l->busy + l->idle, window = 64;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->errors = l->not_resumed = l->ready = 0;
    l->work = 0;
    l->error[0] = 0;
    errno = 0;
    l->conns = (load_conn *)calloc((size_t)n, sizeof *l->conns);
    if (l->epoll < 0 || !l->conns) {
        load_fail(l, "open");
        return -1;
    }
    if (l->ciphers) {
        l->ctx = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_min_proto_version(l->ctx, load_tls13(l) ? TLS1_3_VERSION : TLS1_2_VERSION);
        SSL_CTX_set_max_proto_version(l->ctx, load_tls13(l) ? TLS1_3_VERSION : TLS1_2_VERSION);
        SSL_CTX_set_mode(l->ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_CTX_set_session_cache_mode(l->ctx, SSL_SESS_CACHE_OFF);
        if (load_tls13(l) ? !SSL_CTX_set_ciphersuites(l->ctx, l->ciphers) : !SSL_CTX_set_cipher_list(l->ctx, l->ciphers)) {
            load_fail(l, "cipher list");
            return -1;
        }
    }
    for (i = 0; i < n; i++) l->conns[i].fd = -1;
    for (i = 0; i < n && !l->errors; i++) {
        load_conn *c = &l->conns[i];
        c->slot = i;
        c->busy = i >= l->idle;
        if (load_connect(l, c)) break;
        if (i + 1 <= l->idle && (i + 1 - l->ready >= window || i + 1 == l->idle))
            load_turns(l, 60, &l->ready, i + 1 == l->idle ? l->idle : i + 1 - window / 2);
    }
    if (l->errors || l->kind >= LOAD_CHURN) return l->errors ? -1 : 0;
    load_turns(l, 8, &l->ready, n); /* the busy ones are at work as soon as they can be */
    errno = ETIMEDOUT;
    if (!l->errors && l->ready < n) load_fail(l, "not all connected");
    return l->errors ? -1 : 0;
}

/* Has each connection, all of them idle, exchange one message. 0 or -1. */
static int load_pass(load *l)
{
    int i;
    l->once = 1;
    l->passed = 0;
    for (i = 0; i < l->idle && !l->errors; i++) {
        l->conns[i].busy = 1;
        l->conns[i].done = 0;
        if (load_turn(l, &l->conns[i]) < 0) load_fail(l, "connection");
        if (i - l->passed >= 32 || i + 1 == l->idle) load_turns(l, 60, &l->passed, i + 1 == l->idle ? l->idle : i - 16);
    }
    l->once = 0;
    return l->errors || l->passed < l->idle ? -1 : 0;
}

static void load_close(load *l)
{
    int i, n = l->busy + l->idle;
    if (l->busy && !l->errors && (l->kind == LOAD_ECHO || l->kind == LOAD_HTTP)) { /* let the last answers come */
        l->stopping = 1;
        l->passed = 0;
        load_turns(l, 0.5, &l->passed, l->busy);
        for (i = 0; i < n; i++)
            if (l->conns[i].ssl) SSL_shutdown(l->conns[i].ssl);
    }
    for (i = 0; l->conns && i < n; i++) load_drop(&l->conns[i]);
    free(l->conns);
    l->conns = NULL;
    if (l->session) SSL_SESSION_free(l->session);
    l->session = NULL;
    SSL_CTX_free(l->ctx);
    l->ctx = NULL;
    if (l->epoll >= 0) close(l->epoll);
    l->epoll = -1;
}

#endif
