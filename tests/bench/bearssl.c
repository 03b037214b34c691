/* bearssl.c - a bare BearSSL engine per connection: one receive straight into the engine's buffer, one send out of it.
   Debian's stock profile with the AEAD suites. See server.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define BENCH_SOCKETS
#include "server.h"
#include <bearssl.h>

typedef struct conn {
    br_ssl_server_context sc;
    unsigned char in[BR_SSL_BUFSIZE_INPUT], out[BR_SSL_BUFSIZE_OUTPUT];
    int fd, seen, writing;
    size_t at;
} conn;

static int poller;
static br_x509_certificate chain[10];
static size_t chain_len;
static br_skey_decoder_context key;
static unsigned issuer_type = BR_KEYTYPE_RSA;
static br_ssl_session_cache_lru cache;
static unsigned char cache_store[1 << 20];

/*--- PEM */

typedef struct blob {
    unsigned char *p;
    size_t n;
} blob;

static void append(void *user, const void *p, size_t n)
{
    blob *b = (blob *)user;
    b->p = (unsigned char *)realloc(b->p, b->n + n);
    if (!b->p) die("realloc");
    memcpy(b->p + b->n, p, n);
    b->n += n;
}

static size_t load(const char *path, blob *objects, size_t most)
{
    FILE *f = fopen(path, "rb");
    br_pem_decoder_context pc;
    char text[65536];
    size_t n, at = 0, count = 0;
    if (!f) die(path);
    n = fread(text, 1, sizeof text, f);
    fclose(f);
    br_pem_decoder_init(&pc);
    while (at < n) {
        at += br_pem_decoder_push(&pc, text + at, n - at);
        switch (br_pem_decoder_event(&pc)) {
        case BR_PEM_BEGIN_OBJ:
            if (count == most) return count;
            memset(&objects[count], 0, sizeof objects[count]);
            br_pem_decoder_setdest(&pc, append, &objects[count]);
            break;
        case BR_PEM_END_OBJ:
            count++;
            break;
        }
    }
    return count;
}

static void identity(void)
{
    blob objects[10];
    size_t i;
    chain_len = load(chain_file, objects, 10);
    for (i = 0; i < chain_len; i++) {
        chain[i].data = objects[i].p;
        chain[i].data_len = objects[i].n;
    }
    br_skey_decoder_init(&key);
    if (load(key_file, objects, 1) == 1) br_skey_decoder_push(&key, objects[0].p, objects[0].n);
    if (!chain_len || br_skey_decoder_last_error(&key)) die(key_file);
}

/*--- connections */

static void watch(conn *c, int op, int writing)
{
    struct epoll_event e;
    memset(&e, 0, sizeof e);
    e.events = writing ? EPOLLOUT : EPOLLIN;
    e.data.ptr = c;
    c->writing = writing;
    if (epoll_ctl(poller, op, c->fd, &e)) die("epoll_ctl");
}

static void begin(int fd)
{
    static const uint16_t rsa[] = { BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 };
    static const uint16_t ec[] = { BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 };
    conn *c = (conn *)malloc(sizeof *c);
    if (!c) die("malloc");
    c->fd = fd;
    c->seen = 0;
    c->at = 0;
    if (br_skey_decoder_key_type(&key) == BR_KEYTYPE_RSA) {
        br_ssl_server_init_full_rsa(&c->sc, chain, chain_len, br_skey_decoder_get_rsa(&key));
        br_ssl_engine_set_suites(&c->sc.eng, rsa, 2);
    } else {
        br_ssl_server_init_full_ec(&c->sc, chain, chain_len, issuer_type, br_skey_decoder_get_ec(&key));
        br_ssl_engine_set_suites(&c->sc.eng, ec, 2);
    }
    br_ssl_engine_set_versions(&c->sc.eng, BR_TLS12, BR_TLS12);
    br_ssl_engine_add_flags(&c->sc.eng, BR_OPT_ENFORCE_SERVER_PREFERENCES | BR_OPT_NO_RENEGOTIATION);
    br_ssl_engine_set_buffers_bidi(&c->sc.eng, c->in, sizeof c->in, c->out, sizeof c->out);
    br_ssl_server_set_cache(&c->sc, &cache.vtable);
    if (!br_ssl_server_reset(&c->sc)) die("br_ssl_server_reset");
    watch(c, EPOLL_CTL_ADD, 0);
}

static void end(conn *c)
{
    close(c->fd);
    free(c);
}

/* Hands the engine's application data on: 1 if something was done. */
static int application(conn *c)
{
    br_ssl_engine_context *eng = &c->sc.eng;
    size_t n, room;
    unsigned char *p, *to = br_ssl_engine_sendapp_buf(eng, &room);
    if (mode == SOURCE) {
        if (!to) return 0;
        if (room > size - c->at) room = size - c->at;
        memcpy(to, message + c->at, room);
        br_ssl_engine_sendapp_ack(eng, room);
        br_ssl_engine_flush(eng, 0);
        c->at = (c->at + room) % size;
        return 1;
    }
    p = br_ssl_engine_recvapp_buf(eng, &n);
    if (!p) return 0;
    if (mode == ECHO) {
        if (!to) return 0;
        if (n > room) n = room;
        memcpy(to, p, n);
        br_ssl_engine_sendapp_ack(eng, n);
        br_ssl_engine_flush(eng, 0);
    } else if (mode == HTTP) {
        if (!to || room < sizeof answer) return 0;
        if (requests(p, n, &c->seen)) {
            memcpy(to, answer, sizeof answer - 1);
            br_ssl_engine_sendapp_ack(eng, sizeof answer - 1);
            br_ssl_engine_flush(eng, 0);
        }
    }
    br_ssl_engine_recvapp_ack(eng, n);
    return 1;
}

/* 0, or -1 when the connection is gone. */
static int turn(conn *c)
{
    br_ssl_engine_context *eng = &c->sc.eng;
    int left = ACCEPTS, answered = 0;
    for (;;) {
        size_t n;
        ssize_t r;
        unsigned char *p = br_ssl_engine_sendrec_buf(eng, &n);
        if (br_ssl_engine_current_state(eng) == BR_SSL_CLOSED) return -1;
        if (p) {
            r = send(c->fd, p, n, MSG_NOSIGNAL);
            if (r < 0 && errno != EAGAIN) return -1;
            if (r < 0) {
                if (!c->writing) watch(c, EPOLL_CTL_MOD, 1);
                return 0;
            }
            br_ssl_engine_sendrec_ack(eng, (size_t)r);
            if (mode == SOURCE && left-- <= 0) return 0;
            continue;
        }
        if (application(c)) {
            if (mode == SOURCE && !c->writing) watch(c, EPOLL_CTL_MOD, 1);
            answered = mode != SOURCE && (mode != SINK || left-- <= 0);
            continue;
        }
        if (c->writing && mode != SOURCE) watch(c, EPOLL_CTL_MOD, 0);
        p = br_ssl_engine_recvrec_buf(eng, &n);
        if (!p || answered || (mode == SOURCE && c->writing)) return 0; /* level-triggered: more will be reported */
        r = recv(c->fd, p, n, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN)) return -1;
        if (r < 0) return 0;
        br_ssl_engine_recvrec_ack(eng, (size_t)r);
    }
}

int main(int argc, char **argv)
{
    struct epoll_event events[128], e;
    int listener;
    arguments(argc, argv);
    if (!chain_file) return 2;
    identity();
    br_ssl_session_cache_lru_init(&cache, cache_store, sizeof cache_store);
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
            while (left-- > 0 && (fd = accept_one(listener)) >= 0) begin(fd);
        }
    }
}
