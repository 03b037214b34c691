/* memory.c - how little memory psocket needs. Prints Markdown.
 *
 *     memory arena PORT... and CERTS   least fixed arena of a client that fetches a page, and deepest stack of its calls;
 *                                      meant for a 32-bit build (see memory.sh). The servers run elsewhere: PLAIN_HTTP
 *                                      PLAIN_SOURCE RSA_HTTP RSA_SOURCE EC_HTTP EC_SOURCE
 *     memory waiting CERTS             bytes of a server's connections that have not finished their handshakes
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*--- the allocator: first fit in one block of memory, free neighbours join; headers of 8 bytes */

typedef struct piece {
    uint32_t size; /* of what follows */
    uint32_t used;
} piece;

static _Alignas(8) char arena[1 << 22];
static size_t arena_size, live, counting;

static piece *after(piece *p)
{
    return (piece *)(void *)((char *)(p + 1) + p->size);
}

static void arena_start(size_t n)
{
    piece *p = (piece *)(void *)arena;
    arena_size = n;
    p->size = (uint32_t)(n - sizeof *p);
    p->used = 0;
}

static void *arena_malloc(size_t n)
{
    piece *p = (piece *)(void *)arena, *end = (piece *)(void *)(arena + arena_size);
    n = (n + 7) & ~(size_t)7;
    for (; p < end; p = after(p)) {
        while (!p->used && after(p) < end && !after(p)->used) p->size += (uint32_t)sizeof *p + after(p)->size;
        if (p->used || p->size < n) continue;
        if (p->size >= n + 2 * sizeof *p) {
            uint32_t rest = (uint32_t)(p->size - n - sizeof *p);
            p->size = (uint32_t)n;
            after(p)->size = rest;
            after(p)->used = 0;
        }
        p->used = 1;
        return p + 1;
    }
    return NULL;
}

static void arena_free(void *q)
{
    if (q) ((piece *)q - 1)->used = 0;
}

/* The other allocator counts: what was handed out while counting was on. */
static void *count_malloc(size_t n)
{
    size_t *p = (size_t *)malloc(n + 16);
    if (!p) return NULL;
    p[0] = counting ? n : 0;
    live += p[0];
    return (char *)p + 16;
}

static void count_free(void *q)
{
    size_t *p = q ? (size_t *)(void *)((char *)q - 16) : NULL;
    if (p) live -= p[0];
    free(p);
}

#ifdef MEMORY_ARENA
#define PSOCKET_MALLOC(n) arena_malloc(n)
#define PSOCKET_FREE(p) arena_free(p)
#define PSOCKET_READ_SIZE 1024
#define PSOCKET_NO_THREADS
#define PSOCKET_NO_DNS
#define PSOCKET_NO_FILES
#else
#define PSOCKET_MALLOC(n) count_malloc(n)
#define PSOCKET_FREE(p) count_free(p)
#endif
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char *slurp(const char *dir, const char *name)
{
    char path[1024];
    FILE *f;
    char *text = (char *)calloc(1, 65536);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "rb");
    if (!f || !text || !fread(text, 1, 65535, f)) {
        perror(path);
        exit(1);
    }
    fclose(f);
    return text;
}

#ifdef MEMORY_ARENA

static char *ca;
static const char *why; /* the last failure's text */
static psocket_error failure;

/* A page: a request and an answer, or `want` bytes of a source. 0 if it came. */
static int fetch(int port, int tls, size_t want)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    psocket_options o;
    psocket_tls_options t;
    psocket_tls *settings = NULL;
    psocket *s = NULL;
    const void *data;
    ptrdiff_t n = 0;
    size_t got = 0;
    int r;
    memset(&o, 0, sizeof o);
    memset(&t, 0, sizeof t);
    memset(&failure, 0, sizeof failure);
    o.timeout_ms = 5000;
    t.error = o.error = &failure;
    t.ca = ca;
    r = tls ? psocket_tls_new(&settings, &t) : 0;
    if (!r) r = psocket_connect(&s, "127.0.0.1", port, &o);
    if (!r && tls) r = psocket_starttls(s, settings, "localhost");
    psocket_tls_free(settings);
    if (!r && !want) n = psocket_send(s, request, sizeof request - 1);
    while (!r && n >= 0 && got < (want ? want : 1)) {
        n = psocket_recv(s, &data);
        if (n > 0) got += (size_t)n;
    }
    if (s && (r || n < 0)) psocket_geterror(s, &failure);
    psocket_free(s);
    why = failure.text;
    return r ? r : n < 0 ? (int)n : 0;
}

static int fits(size_t size, int port, int tls, size_t want)
{
    int status = 1;
    pid_t pid = fork();
    if (pid == 0) {
        arena_start(size);
        _exit(fetch(port, tls, want) != 0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static long least(int port, int tls, size_t want)
{
    size_t low = 256, high = sizeof arena;
    if (!fits(high, port, tls, want)) {
        arena_start(high);
        fetch(port, tls, want);
        fprintf(stderr, "memory: %s\n", why);
        return -1;
    }
    while (high - low > 32) {
        size_t middle = (low + high) / 2 & ~(size_t)7;
        if (fits(middle, port, tls, want)) high = middle;
        else low = middle;
    }
    return (long)high;
}

static void row(const char *what, int port, int tls, size_t want, long most)
{
    long n = least(port, tls, want);
    printf("| %s | %ld | %ld | %s |\n", what, n, most, n >= 0 && n <= most ? "met" : "**not met**");
    fflush(stdout);
}

/*--- stacks */

enum { STACK = 1 << 18, PAINT = 0xA7 };

typedef struct step {
    void (*run)(void);
} step;

static psocket *sock;
static psocket_tls *settings;
static int step_port;

static void nothing(void) {}

static void do_connect(void)
{
    psocket_options o;
    memset(&o, 0, sizeof o);
    o.timeout_ms = 5000;
    psocket_connect(&sock, "127.0.0.1", step_port, &o);
}

static void do_settings(void)
{
    psocket_tls_options t;
    memset(&t, 0, sizeof t);
    t.ca = ca;
    psocket_tls_new(&settings, &t);
}

static void do_starttls(void)
{
    psocket_starttls(sock, settings, "localhost");
}

static void do_send(void)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    psocket_send(sock, request, sizeof request - 1);
}

static void do_recv(void)
{
    const void *data;
    psocket_recv(sock, &data);
}

static void do_close(void)
{
    psocket_close(sock);
}

static void *on_a_stack(void *arg)
{
    ((step *)arg)->run();
    return NULL;
}

static size_t deepest(void (*run)(void))
{
    unsigned char *stack = NULL;
    pthread_attr_t a;
    pthread_t t;
    step s;
    size_t untouched = 0;
    s.run = run;
    if (posix_memalign((void **)&stack, 4096, STACK)) exit(1);
    memset(stack, PAINT, STACK);
    pthread_attr_init(&a);
    pthread_attr_setstack(&a, stack, STACK);
    if (pthread_create(&t, &a, on_a_stack, &s) == 0) pthread_join(t, NULL);
    pthread_attr_destroy(&a);
    while (untouched < STACK && stack[untouched] == PAINT) untouched++;
    free(stack);
    return STACK - untouched;
}

static void stacks(const char *name, int port, int tls)
{
    size_t base, n[6];
    int round;
    memset(n, 0, sizeof n);
    for (round = 0; round < 2; round++) { /* the first binds what is called */
        step_port = port;
        arena_start(sizeof arena);
        base = deepest(nothing);
        if (tls) n[0] = deepest(do_settings) - base;
        n[1] = deepest(do_connect) - base;
        if (tls) n[2] = deepest(do_starttls) - base;
        n[3] = deepest(do_send) - base;
        n[4] = deepest(do_recv) - base;
        n[5] = deepest(do_close) - base;
        psocket_free(sock);
        psocket_tls_free(settings);
        settings = NULL;
        sock = NULL;
    }
    printf("| %s |", name);
    for (round = 0; round < 6; round++) {
        if (n[round]) printf(" %d |", (int)n[round]);
        else printf(" – |");
    }
    printf("\n");
}

int main(int argc, char **argv)
{
    int port[6], i;
    if (argc < 8) return 2;
    for (i = 0; i < 6; i++) port[i] = atoi(argv[i + 1]);
    ca = slurp(argv[7], "ca.pem");
    printf("### A client in a fixed arena (%d-bit, READ_SIZE 1024, no threads, names, files)\n\n| fetches | least arena | at most | |\n|---|---|---|---|\n", (int)sizeof(void *) * 8);
    row("a small page, plain", port[0], 0, 0, 4352);
    row("64 KB from 16 KB writes, plain", port[1], 0, 65536, 4352);
    row("a small page, TLS, RSA-2048, three certificates", port[2], 1, 0, 18000);
    row("a small page, TLS, P-256, three certificates", port[4], 1, 0, 18000);
    row("64 KB in 16 KB records, TLS, RSA-2048", port[3], 1, 65536, 28000);
    row("64 KB in 16 KB records, TLS, P-256", port[5], 1, 65536, 28000);
    printf("\n### Deepest stack of a call (at most 2100; starttls 9216)\n\n| server | tls_new | connect | starttls | send | recv | close |\n|---|---|---|---|---|---|---|\n");
    stacks("plain", port[0], 0);
    stacks("TLS, RSA-2048", port[2], 1);
    stacks("TLS, P-256", port[4], 1);
    printf("\n");
    return 0;
}

#else

/*--- connections that wait in the middle of a handshake */

enum { WAITING = 1000 };

static char *chain, *key, *ca;

static psocket_tls *settings_of(int server)
{
    psocket_tls_options o;
    psocket_identity id;
    psocket_error e;
    psocket_tls *tls = NULL;
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    memset(&e, 0, sizeof e);
    o.error = &e;
    id.chain = chain;
    id.key = key;
    if (server) {
        o.identities = &id;
        o.identity_count = 1;
    } else {
        o.ca = ca;
    }
    if (psocket_tls_new(&tls, &o)) {
        fprintf(stderr, "memory: %s\n", e.text);
        exit(1);
    }
    return tls;
}

/* A server's socket and the bare descriptor of its client. */
static psocket *served(int *fd)
{
    psocket_options o;
    psocket *s = NULL;
    int pair[2];
    memset(&o, 0, sizeof o);
    o.nonblocking = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair)) exit(1);
    counting = 1;
    if (psocket_adopt(&s, pair[0], PSOCKET_SERVER, &o)) exit(1);
    counting = 0;
    *fd = pair[1];
    return s;
}

static psocket *client_on(int *fd)
{
    psocket_options o;
    psocket *s = NULL;
    int pair[2];
    memset(&o, 0, sizeof o);
    o.nonblocking = 1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) || psocket_adopt(&s, pair[0], PSOCKET_CLIENT, &o)) exit(1);
    *fd = pair[1];
    return s;
}

static ssize_t move(int from, int to, size_t most)
{
    char buf[65536];
    ssize_t n = recv(from, buf, sizeof buf < most ? sizeof buf : most, 0);
    return n > 0 ? send(to, buf, (size_t)n, MSG_NOSIGNAL) : n;
}

/* stage: 0 nothing was sent, 1 half a hello, 2 all but the client's last flight, 3 the handshake is over */
static double waiting(psocket_tls *ct, psocket_tls *st, int stage)
{
    static psocket *s[WAITING], *c[WAITING];
    static int fd[WAITING], client_fd[WAITING];
    double bytes;
    int i, r, turn;
    live = 0;
    for (i = 0; i < WAITING; i++) {
        s[i] = served(&fd[i]);
        c[i] = client_on(&client_fd[i]);
        psocket_starttls(c[i], ct, "localhost");
        if (stage == 1) move(client_fd[i], fd[i], 100);
        if (stage >= 2) while (move(client_fd[i], fd[i], 65536) > 0) {}
        counting = 1;
        r = psocket_starttls(s[i], st, NULL);
        for (turn = 0; turn < 4 && (r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE); turn++) r = psocket_step(s[i]);
        counting = 0;
        if (r != PSOCKET_WANT_READ) fprintf(stderr, "memory: stage %d: %s\n", stage, psocket_codename(r));
        for (turn = 0; stage == 3 && turn < 8; turn++) {
            while (move(fd[i], client_fd[i], 65536) > 0) {}
            psocket_step(c[i]);
            while (move(client_fd[i], fd[i], 65536) > 0) {}
            counting = 1;
            r = psocket_step(s[i]);
            counting = 0;
        }
        if (stage == 3 && r) fprintf(stderr, "memory: stage 3: %s\n", psocket_codename(r));
    }
    bytes = (double)live / WAITING;
    for (i = 0; i < WAITING; i++) {
        psocket_free(s[i]);
        psocket_free(c[i]);
        close(fd[i]);
        close(client_fd[i]);
    }
    return bytes;
}

int main(int argc, char **argv)
{
    static const char *const stages[] = { "have sent nothing", "have sent 100 bytes of their hello", "have sent all but their last flight", "are done" };
    static const int most[] = { 2048, 3072, 10240, 1536 };
    static const char *const certificates[] = { "rsa", "ec" };
    char name[64];
    int i, k;
    if (argc < 2) return 2;
    ca = slurp(argv[1], "ca.pem");
    printf("### Bytes of a TLS server for each of %d clients that …\n\n| … |", WAITING);
    for (k = 0; k < 2; k++) printf(" %s |", certificates[k]);
    printf(" at most |\n|---|---|---|---|\n");
    for (i = 0; i < 4; i++) {
        printf("| %s |", stages[i]);
        for (k = 0; k < 2; k++) {
            psocket_tls *ct, *st;
            snprintf(name, sizeof name, "%s.pem", certificates[k]);
            chain = slurp(argv[1], name);
            snprintf(name, sizeof name, "%s.key", certificates[k]);
            key = slurp(argv[1], name);
            ct = settings_of(0);
            st = settings_of(1);
            printf(" %.0f |", waiting(ct, st, i));
            fflush(stdout);
            psocket_tls_free(ct);
            psocket_tls_free(st);
            free(chain);
            free(key);
        }
        printf(" %d |\n", most[i]);
    }
    printf("\n");
    return 0;
}
#endif
