/* echo.c - a nonblocking server and client, one thread, one poller.
 *
 *     echo                  both ends in this process: a megabyte there and back
 *     echo --serve [PORT]   a server for anyone on this machine, until interrupted
 *     echo HOST PORT        sends the lines of standard input, prints what comes back
 *
 *     cc -I.. echo.c -o echo -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

/* One connection of the server. While the peer reads slowly, the rest of a chunk waits here and nothing more is
   received: TCP then slows the sender down, and memory stays bounded. */
typedef struct conn {
    psocket *s;
    unsigned char *rest;
    size_t rest_from, rest_len;
} conn;

/* The client of the self-contained mode: sends total bytes of a pattern and compares what comes back. */
typedef struct client {
    psocket *s;
    size_t sent, received, total;
    int bad;
} client;

static psocket_poller *poller;
static psocket *listener;
static int connections, accept_again; /* the latter's address is the key of a timer */

static void conn_end(conn *c, int code)
{
    if (code != PSOCKET_CLOSED) fprintf(stderr, "echo: connection ended: %s\n", psocket_strerror(code));
    psocket_free(c->s); /* leaves the poller, too */
    free(c->rest);
    free(c);
    connections--;
}

/* Sends; keeps what the socket does not take now. 0 or an error. */
static int conn_send(conn *c, const void *data, size_t len)
{
    ptrdiff_t n = psocket_send(c->s, data, len);
    if (n == PSOCKET_WANT_READ || n == PSOCKET_WANT_WRITE) n = 0;
    if (n < 0) return (int)n;
    if ((size_t)n == len) return 0;
    c->rest = (unsigned char *)malloc(len - (size_t)n);
    if (!c->rest) return PSOCKET_NOMEM;
    memcpy(c->rest, (const unsigned char *)data + n, len - (size_t)n);
    c->rest_from = 0;
    c->rest_len = len - (size_t)n;
    return 0;
}

static void conn_turn(conn *c)
{
    int chunks = 16; /* then it is the others' turn */
    int code = 0;
    while (!code && chunks-- > 0) {
        const void *data;
        ptrdiff_t n;
        if (c->rest) {
            n = psocket_send(c->s, c->rest + c->rest_from, c->rest_len - c->rest_from);
            if (n > 0) c->rest_from += (size_t)n;
            else code = (int)n;
            if (c->rest_from < c->rest_len) continue;
            free(c->rest);
            c->rest = NULL;
        }
        n = psocket_recv(c->s, &data);
        code = n < 0 ? (int)n : conn_send(c, data, (size_t)n);
    }
    if (!code || code == PSOCKET_WANT_READ || code == PSOCKET_WANT_WRITE)
        code = psocket_poller_set(poller, c->s, c->rest ? PSOCKET_WRITE : PSOCKET_READ, -1, c);
    if (code) conn_end(c, code);
}

static void server_accept(void)
{
    int i, code = 0;
    for (i = 0; i < 64 && !code; i++) {
        psocket *s;
        conn *c;
        code = psocket_accept(listener, &s);
        if (code) break;
        c = (conn *)calloc(1, sizeof *c);
        if (!c) {
            psocket_free(s);
            code = PSOCKET_NOMEM;
            break;
        }
        c->s = s;
        connections++;
        code = psocket_poller_set(poller, s, PSOCKET_READ, -1, c);
        if (code) conn_end(c, code);
    }
    if (code < 0 && code != PSOCKET_WANT_READ) { /* no descriptors, no memory: look again in a second, do not spin */
        fprintf(stderr, "echo: %s\n", psocket_strerror(code));
        psocket_poller_set(poller, listener, 0, 1000, &accept_again);
    }
}

static unsigned char pattern(size_t i)
{
    return (unsigned char)((i * 31 + i / 257) & 255);
}

/* Answers 0 while it goes on, 1 when all came back, an error otherwise. */
static int client_turn(client *c)
{
    const void *data;
    ptrdiff_t n = 0;
    size_t i;
    while (c->sent < c->total) {
        unsigned char block[4096];
        size_t len = c->total - c->sent < sizeof block ? c->total - c->sent : sizeof block;
        for (i = 0; i < len; i++) block[i] = pattern(c->sent + i);
        n = psocket_send(c->s, block, len);
        if (n < 0) break;
        c->sent += (size_t)n;
    }
    if (n < 0 && n != PSOCKET_WANT_READ && n != PSOCKET_WANT_WRITE) return (int)n;
    while (c->received < c->total && (n = psocket_recv(c->s, &data)) >= 0) {
        for (i = 0; i < (size_t)n; i++) c->bad |= ((const unsigned char *)data)[i] != pattern(c->received + i);
        c->received += (size_t)n;
    }
    if (c->received >= c->total) return 1;
    if (n != PSOCKET_WANT_READ && n != PSOCKET_WANT_WRITE) return (int)n;
    return psocket_poller_set(poller, c->s, PSOCKET_READ | (c->sent < c->total ? PSOCKET_WRITE : 0), 10000, c);
}

/* Runs the server, until the client, if there is one, is done. Answers 0, or an error. */
static int loop(client *c)
{
    int code = c ? client_turn(c) : 0;
    while (!code || connections > 0) {
        const psocket_event *events;
        int i, n = psocket_poller_wait(poller, &events, -1);
        if (n < 0) return n;
        for (i = 0; i < n; i++) {
            void *user = events[i].user;
            if (!user) continue; /* freed by an event before it */
            if (user == listener) server_accept();
            else if (user == &accept_again) psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener);
            else if (user != c) conn_turn((conn *)user);
            else if (!code) code = events[i].events ? client_turn(c) : PSOCKET_TIMEOUT;
        }
        if (c && code) {
            psocket_free(c->s); /* the server notices and frees its side */
            c->s = NULL;
        }
    }
    return code < 0 ? code : 0;
}

static int serve(int port, int with_client)
{
    static psocket_error err;
    static psocket_options opt;
    static client c;
    char ip[64];
    int code;
    opt.nonblocking = 1;
    opt.error = &err;
    if (psocket_poller_new(&poller) || psocket_listen(&listener, "127.0.0.1", port, &opt) ||
        psocket_getlocal(listener, ip, sizeof ip, &port) ||
        psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener)) {
        fprintf(stderr, "echo: cannot listen: %s\n", err.text);
        psocket_free(listener);
        psocket_poller_free(poller);
        return 1;
    }
    printf("listening on %s port %d\n", ip, port);
    fflush(stdout);
    c.total = 1 << 20;
    code = with_client ? psocket_connect(&c.s, ip, port, &opt) : 0;
    if (!code) code = loop(with_client ? &c : NULL);
    if (code) fprintf(stderr, "echo: %s\n", psocket_strerror(code));
    else printf("sent %lu bytes, %lu came back%s\n", (unsigned long)c.sent, (unsigned long)c.received,
                c.bad ? ", but not the same" : " the same");
    psocket_free(c.s);
    psocket_free(listener);
    psocket_poller_free(poller);
    return code || c.bad;
}

/* The same functions, blocking. */
static int talk(const char *host, int port)
{
    static psocket_error err;
    static psocket_options opt;
    psocket *s;
    char line[4096];
    opt.timeout_ms = 10000;
    opt.error = &err;
    if (psocket_connect(&s, host, port, &opt)) {
        fprintf(stderr, "echo: %s\n", err.text);
        return 1;
    }
#ifdef _WIN32
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
#endif
    while (fgets(line, sizeof line, stdin)) {
        const void *back;
        size_t len = strlen(line);
        if (psocket_send(s, line, len) < 0 || psocket_read(s, len, &back) < 0) {
            psocket_geterror(s, &err);
            fprintf(stderr, "echo: %s\n", err.text);
            psocket_free(s);
            return 1;
        }
        fwrite(back, 1, len, stdout);
        fflush(stdout);
    }
    psocket_free(s);
    return ferror(stdout) ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc == 1) return serve(0, 1);
    if (argc <= 3 && strcmp(argv[1], "--serve") == 0) return serve(argc == 3 ? atoi(argv[2]) : 0, 0);
    if (argc == 3 && argv[1][0] != '-') return talk(argv[1], atoi(argv[2]));
    fprintf(stderr, "usage: echo | echo --serve [PORT] | echo HOST PORT\n");
    return 2;
}
