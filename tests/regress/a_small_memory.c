/* On a microcontroller: a UDP receive allocated 65,560 bytes for any datagram; a 16 KB record grew through four blocks to
   30 KB although its header gives its length; a TLS send copied up to 64 KB into one block and gave up where smaller pieces
   would go; what was taken of a large record stayed allocated until the next wait. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static size_t mem_limit = (size_t)-1; /* of one block */
static size_t mem_live, mem_peak, mem_largest, mem_large; /* bytes now, at most, largest block, how many over 4 KB */
static void *mem_malloc(size_t n)
{
    size_t *p;
    if (n > mem_limit) return NULL;
    p = (size_t *)malloc(n + 16);
    if (!p) return NULL;
    *p = n;
    mem_live += n;
    if (mem_live > mem_peak) mem_peak = mem_live;
    if (n > mem_largest) mem_largest = n;
    if (n > 4096) mem_large++;
    return (char *)p + 16;
}
static void mem_free(void *q)
{
    size_t *p = q ? (size_t *)(void *)((char *)q - 16) : NULL;
    if (p) mem_live -= *p;
    free(p);
}
#define PSOCKET_MALLOC(n) mem_malloc(n)
#define PSOCKET_FREE(p) mem_free(p) /* and no PSOCKET_REALLOC */
#define PSOCKET_DATAGRAM 2048
#define PSOCKET_IMPLEMENTATION
#include "../../psocket.h"
#include "a.h"

static void mem_mark(void)
{
    mem_peak = mem_live;
    mem_largest = mem_large = 0;
}

TEST(a_small_datagram)
{
    static const size_t sizes[] = { 1, 100, 1472, 2048 };
    static char block[60000];
    psocket *c = NULL, *s = NULL;
    psocket_options o = net_options(1);
    const void *data;
    size_t i;
    int port = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        CHECK_INT(psocket_send(c, block, sizes[i]), (ptrdiff_t)sizes[i]);
        CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
        mem_mark();
        CHECK_INT(psocket_recv(s, &data), (ptrdiff_t)sizes[i]);
        if (mem_largest > PSOCKET_DATAGRAM + 512)
            check_fail(NULL, 0, "a block of %d bytes for a datagram of %d", (int)mem_largest, (int)sizes[i]);
    }
    /* what does not fit is said, not cut, and not in the way of the next */
    CHECK_INT(psocket_send(c, block, 9000), 9000);
    CHECK_INT(psocket_send(c, "next", 4), 4);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(s), "MESSAGE_SIZE");
    CHECK_STR(a_recv(s), "next");
    mem_limit = PSOCKET_DATAGRAM + 512; /* no more to be had at once */
    CHECK_INT(psocket_send(c, block, 500), 500);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_INT(psocket_recv(s, &data), 500);
    mem_limit = (size_t)-1;
    psocket_free(c);
    psocket_free(s);
}

/* A record that arrives in small pieces. */
static void record(psocket *c, psocket *s, size_t size)
{
    static char block[16384];
    const void *data;
    size_t live;
    ptrdiff_t n = PSOCKET_WANT_READ;
    int v = 4096, turns = 0;
    setsockopt((int)psocket_getfd(s), SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
    CHECK_INT(psocket_recv(s, &data), PSOCKET_WANT_READ);
    live = mem_live;
    CHECK_INT(psocket_send(c, block, size), (ptrdiff_t)size);
    mem_mark();
    while ((n = psocket_recv(s, &data)) == PSOCKET_WANT_READ && turns++ < 3000) {
        psocket_flush(c);
        psocket_wait(s, PSOCKET_READ, 1);
    }
    CHECK_INT(n, (ptrdiff_t)size);
    if (mem_largest > size + 1024) check_fail(NULL, 0, "a block of %d bytes for a record of %d", (int)mem_largest, (int)size);
    if (mem_large > 2) check_fail(NULL, 0, "%d blocks for one record of %d", (int)mem_large, (int)size);
    CHECK_INT(psocket_recv(s, &data), PSOCKET_WANT_READ); /* nothing left: nothing kept */
    if (mem_live > live + 1024) check_fail(NULL, 0, "%d bytes stay after a record of %d", (int)(mem_live - live), (int)size);
}

TEST(a_large_record)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tls(&c, &s, 1));
    record(c, s, 16384);
    record(c, s, 9000);
    record(c, s, 16384);
    psocket_free(c);
    psocket_free(s);
}

static void takes_all(void *arg)
{
    static char buffer[65536];
    while (recv(*(int *)arg, buffer, sizeof buffer, 0) > 0) {}
}

/* No block over 20 KB is to be had. */
TEST(sends_in_pieces_that_fit)
{
    static char block[262144];
    int kind;
    for (kind = 0; kind < 2; kind++) {
        psocket *c = NULL, *s = NULL;
        a_later t;
        int fd;
        REQUIRE(a_tls(&c, &s, 1));
        psocket_setnonblocking(c, 0);
        fd = (int)psocket_getfd(s);
        fcntl(fd, F_SETFL, 0);
        a_later_start(&t, 10, takes_all, &fd);
        mem_limit = kind ? 20000 : 6000;
        CHECK_INT(psocket_send(c, block, kind ? sizeof block : 5000), kind ? (ptrdiff_t)sizeof block : 5000);
        mem_limit = (size_t)-1;
        shutdown((int)psocket_getfd(c), SHUT_RDWR);
        a_later_join(&t);
        psocket_free(c);
        psocket_free(s);
    }
}
