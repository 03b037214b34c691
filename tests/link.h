/* link_pair: two connected sockets whose bytes travel through memory, on a transport given to psocket_open. What is put on
   one arrives at the other in segments of at most `segment` bytes (0: any size) after delay_ms. One thread. Each end has a
   bell, one half of a psocket_pair, so that pollers and foreign loops hear of what the other end has done. */
#ifndef LINK_H
#define LINK_H

#include "../psocket.h"
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define LINK_ROOM 65536u /* most bytes under way in one direction */

typedef struct link_segment {
    struct link_segment *next;
    int64_t due;
    size_t at, len; /* the bytes follow */
} link_segment;

typedef struct link_end {
    struct link_end *other; /* NULL once it has closed */
    psocket *bell, *rope;   /* the other end pulls the rope of this one */
    link_segment *first, *last; /* on their way to this end */
    size_t bytes, segment;
    int64_t fin_due;
    int fin, delay;
} link_end;

static void link_ring(link_end *e)
{
    if (e) psocket_send(e->rope, "!", 1); /* full: it rings already */
}

static void link_silence(link_end *e)
{
    const void *data;
    while (psocket_recv(e->bell, &data) > 0) {}
}

static ptrdiff_t link_get(void *user, void *p, size_t n, int *os)
{
    link_end *e = (link_end *)user;
    link_segment *g = e->first;
    (void)os;
    link_silence(e);
    if (!g) return e->fin && psocket_now() >= e->fin_due ? 0 : PSOCKET_WANT_READ;
    if (g->due > psocket_now()) return PSOCKET_WANT_READ;
    if (n > g->len - g->at) n = g->len - g->at;
    memcpy(p, (const char *)(g + 1) + g->at, n);
    g->at += n;
    e->bytes -= n;
    if (g->at == g->len) {
        e->first = g->next;
        if (!g->next) e->last = NULL;
        free(g);
    }
    link_ring(e->other);
    return (ptrdiff_t)n;
}

static ptrdiff_t link_put(void *user, const void *p, size_t n, int *os)
{
    link_end *e = (link_end *)user, *to = e->other;
    size_t done = 0;
    (void)os;
    if (!n) return 0; /* nothing is held here */
    link_silence(e);
    if (!to) return PSOCKET_RESET;
    if (to->bytes >= LINK_ROOM) return PSOCKET_WANT_WRITE;
    if (n > LINK_ROOM - to->bytes) n = LINK_ROOM - to->bytes;
    while (done < n) {
        size_t len = e->segment && e->segment < n - done ? e->segment : n - done;
        link_segment *g = (link_segment *)malloc(sizeof *g + len);
        if (!g) return done ? (ptrdiff_t)done : PSOCKET_NOMEM;
        g->next = NULL;
        g->due = psocket_now() + e->delay;
        g->at = 0;
        g->len = len;
        memcpy(g + 1, (const char *)p + done, len);
        if (to->last) to->last->next = g;
        else to->first = g;
        to->last = g;
        to->bytes += len;
        done += len;
    }
    link_ring(to);
    return (ptrdiff_t)done;
}

static int link_finish(void *user, int *os)
{
    link_end *e = (link_end *)user;
    (void)os;
    if (e->other && !e->other->fin) {
        e->other->fin = 1;
        e->other->fin_due = psocket_now() + e->delay;
        link_ring(e->other);
    }
    return 0;
}

static void link_close(void *user)
{
    link_end *e = (link_end *)user;
    int os;
    link_finish(e, &os);
    if (e->other) e->other->other = NULL;
    while (e->first) {
        link_segment *g = e->first;
        e->first = g->next;
        free(g);
    }
    psocket_free(e->bell);
    psocket_free(e->rope);
    free(e);
}

static void link_soon(int *ms, int64_t due)
{
    int64_t left = due - psocket_now();
    if (left < 0) left = 0;
    if (*ms < 0 || left < *ms) *ms = left > INT_MAX ? INT_MAX : (int)left;
}

static int link_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    link_end *e = (link_end *)user;
    if (events & PSOCKET_READ) {
        if (e->first) link_soon(ms, e->first->due);
        else if (e->fin) link_soon(ms, e->fin_due);
    }
    if ((events & PSOCKET_WRITE) && (!e->other || e->other->bytes < LINK_ROOM)) *ms = 0;
    if (cap < 1) return 0;
    fds[0].fd = psocket_getfd(e->bell);
    fds[0].events = PSOCKET_READ;
    return 1;
}

static const psocket_transport link_transport = { link_get, link_put, link_finish, link_close, link_wants };

/* 0, or an error: then opt->error tells, and *a and *b are NULL. */
static inline int link_pair(psocket **a, psocket **b, size_t segment, int delay_ms, const psocket_options *opt)
{
    static psocket_options quick;
    link_end *e[2];
    psocket **out[2];
    int i, r = 0, made = 0;
    quick.nonblocking = 1;
    quick.error = opt ? opt->error : NULL;
    *a = *b = NULL;
    out[0] = a;
    out[1] = b;
    for (i = 0; i < 2; i++) e[i] = (link_end *)calloc(1, sizeof **e);
    for (i = 0; i < 2 && !r; i++) {
        if (!e[0] || !e[1]) {
            r = PSOCKET_NOMEM;
            break;
        }
        e[i]->other = e[!i];
        e[i]->segment = segment;
        e[i]->delay = delay_ms;
        r = psocket_pair(&e[i]->bell, &e[i]->rope, &quick);
    }
    for (i = 0; i < 2 && !r; i++) {
        r = psocket_open(out[i], &link_transport, e[i], i ? PSOCKET_SERVER : PSOCKET_CLIENT, opt);
        made += !r;
    }
    if (!r) return 0;
    for (i = made; i < 2; i++) /* what no socket owns */
        if (e[i]) link_close(e[i]);
    psocket_free(*a);
    *a = NULL;
    return r;
}

#endif /* LINK_H */
