/* psocket.c - the benchmark's server on psocket in C: one psocket_poller. See server.h. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "server.h"

typedef struct conn {
    psocket *s;
    unsigned char *rest; /* what the socket did not take */
    size_t at, len;
    int seen, events;
} conn;

static psocket_poller *poller;
static psocket_tls *tls;

static void end(conn *c)
{
    psocket_free(c->s);
    free(c->rest);
    free(c);
}

static int put(conn *c, const void *data, size_t n)
{
    ptrdiff_t r = psocket_send(c->s, data, n);
    if (r == (ptrdiff_t)n) return 0;
    if (r == PSOCKET_WANT_WRITE || r == PSOCKET_WANT_READ) r = 0;
    if (r < 0) return (int)r;
    c->rest = (unsigned char *)malloc(n - (size_t)r);
    if (!c->rest) return PSOCKET_NOMEM;
    memcpy(c->rest, (const char *)data + r, n - (size_t)r);
    c->at = 0;
    c->len = n - (size_t)r;
    return 0;
}

static int put_rest(conn *c)
{
    ptrdiff_t r = psocket_send(c->s, c->rest + c->at, c->len - c->at);
    if (r < 0) return (int)r;
    c->at += (size_t)r;
    if (c->at < c->len) return 0;
    free(c->rest);
    c->rest = NULL;
    return 0;
}

static int put_source(conn *c)
{
    int i;
    for (i = 0; i < ACCEPTS; i++) {
        ptrdiff_t r = psocket_send(c->s, message + c->at, size - c->at);
        if (r < 0) return (int)r;
        c->at += (size_t)r;
        if (c->at == size) c->at = 0;
    }
    return 0;
}

/* One chunk in, its answer out. */
static int exchange(conn *c)
{
    const void *data;
    ptrdiff_t n;
    int count, r = 0;
    if (c->rest) return put_rest(c);
    n = psocket_recv(c->s, &data);
    if (n < 0) return (int)n;
    if (mode == SINK) return 0;
    if (mode == ECHO) return put(c, data, (size_t)n);
    for (count = requests((const unsigned char *)data, (size_t)n, &c->seen); count > 0 && !r; count--)
        r = c->rest ? (int)PSOCKET_LIMIT : put(c, answer, sizeof answer - 1);
    return r;
}

/* A sink receives until there is nothing more, or for a while: a chunk that was taken keeps its buffer until the next call. */
static void turn(conn *c)
{
    int r = 0, events, left = mode == SINK ? ACCEPTS : 0;
    if (mode == SOURCE) r = put_source(c);
    else
        do r = exchange(c); while (!r && (left-- > 0 || psocket_pending(c->s)));
    if (r && r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) {
        end(c);
        return;
    }
    events = mode == SOURCE || c->rest ? PSOCKET_WRITE : PSOCKET_READ;
    if (events != c->events && psocket_poller_set(poller, c->s, events, -1, c)) end(c);
    else c->events = events;
}

static void take(psocket *listener)
{
    int i;
    for (i = 0; i < ACCEPTS; i++) {
        psocket *s;
        conn *c;
        int r;
        if (psocket_accept(listener, &s)) return;
        c = (conn *)calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->s = s;
        if (tls) {
            r = psocket_starttls(s, tls, NULL);
            if (r && r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) {
                end(c);
                continue;
            }
        }
        c->events = mode == SOURCE ? PSOCKET_WRITE : PSOCKET_READ;
        if (psocket_poller_set(poller, s, c->events, -1, c)) end(c);
    }
}

static char *slurp(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = (char *)calloc(1, 65536);
    if (!f || !text || !fread(text, 1, 65535, f)) {
        perror(path);
        exit(1);
    }
    fclose(f);
    return text;
}

int main(int argc, char **argv)
{
    psocket_error e = {0};
    psocket_options opt = {0};
    psocket *listener;
    int port;
    arguments(argc, argv);
    if (chain_file) {
        psocket_tls_options topt = {0};
        psocket_identity id = {0};
        id.chain = slurp(chain_file);
        id.key = slurp(key_file);
        topt.identities = &id;
        topt.identity_count = 1;
        topt.error = &e;
        if (psocket_tls_new(&tls, &topt)) {
            fprintf(stderr, "%s\n", e.text);
            return 1;
        }
    }
    opt.nonblocking = 1;
    opt.backlog = 4096;
    opt.error = &e;
    if (psocket_poller_new(&poller) || psocket_listen(&listener, "127.0.0.1", 0, &opt) ||
        psocket_poller_set(poller, listener, PSOCKET_READ, -1, NULL)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    psocket_getlocal(listener, NULL, 0, &port);
    announce(port);
    for (;;) {
        const psocket_event *events;
        int i, n = psocket_poller_wait(poller, &events, -1);
        if (n < 0) return 1;
        for (i = 0; i < n; i++) {
            if (events[i].user) turn((conn *)events[i].user);
            else if (events[i].events) take(listener);
        }
    }
}
