/* server.h - what the servers of the benchmark have in common. Arguments: MODE SIZE [CHAIN.pem KEY.pem]; with a
 * certificate they speak TLS. Each listens on a free port of 127.0.0.1, prints it, and runs until it is killed.
 *
 *     echo    sends back what comes
 *     sink    receives and forgets
 *     source  sends messages of SIZE bytes for ever
 *     http    answers requests without a body, keep-alive
 */
#ifndef BENCH_SERVER_H
#define BENCH_SERVER_H

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef __GNUC__
#define UNUSED __attribute__((unused))
#else
#define UNUSED
#endif

enum { ECHO, SINK, SOURCE, HTTP };

#define BUFFER 65536     /* what one receive may take */
#define ACCEPTS 16       /* connections accepted, and messages sent by a source, before it is the others' turn */

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\n\r\nHello, world\n";
static const char *chain_file, *key_file;
static int mode;
static size_t size;
static unsigned char *message; /* SIZE bytes */

static UNUSED void die(const char *what)
{
    perror(what);
    exit(1);
}

static UNUSED void arguments(int argc, char **argv)
{
    static const char *const modes[] = { "echo", "sink", "source", "http" };
    if (argc < 3) {
        fprintf(stderr, "usage: %s echo|sink|source|http SIZE [CHAIN.pem KEY.pem]\n", argv[0]);
        exit(2);
    }
    for (mode = ECHO; mode < HTTP && strcmp(argv[1], modes[mode]); mode++) {}
    size = (size_t)atol(argv[2]);
    if (size < 1) size = 1;
    signal(SIGPIPE, SIG_IGN); /* OpenSSL's BIO writes without MSG_NOSIGNAL */
    message = (unsigned char *)calloc(1, size);
    if (!message) die("calloc");
    chain_file = argc > 4 ? argv[3] : NULL;
    key_file = argc > 4 ? argv[4] : NULL;
}

static UNUSED void announce(int port)
{
    printf("%d\n", port);
    fflush(stdout);
}

/* How many requests end in these bytes; *seen carries how much of the end of a header the bytes before had (0 to 3). */
static UNUSED int requests(const unsigned char *p, size_t n, int *seen)
{
    static const char end[] = "\r\n\r\n";
    int count = 0, at = *seen;
    size_t i;
    if (at == 0 && n > 4 && memcmp(p + n - 4, end, 4) == 0) { /* the usual: one whole request */
        const unsigned char *first = (const unsigned char *)memmem(p, n, end, 4);
        if (first == p + n - 4) return 1;
    }
    for (i = 0; i < n; i++) {
        if (p[i] == (unsigned char)end[at]) at++;
        else at = p[i] == '\r';
        if (at == 4) {
            count++;
            at = 0;
        }
    }
    *seen = at;
    return count;
}

#ifdef BENCH_SOCKETS
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_here(void)
{
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) die("listen");
    if (getsockname(fd, (struct sockaddr *)&a, &n)) die("getsockname");
    announce(ntohs(a.sin_port));
    return fd;
}

static int accept_one(int fd)
{
    int one = 1, s = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (s >= 0) setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}
#endif
#endif
