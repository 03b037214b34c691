/* The read buffer that a poller keeps went, however large, to the next socket that read: thousands of them, each with a
   little that its reader cannot use yet, could hold 64 KB each after somebody else's bulk. And: it must never be one that
   still holds what another socket has handed out; a socket that took it and then found no memory for a larger one gives it
   back. */
#include <stdlib.h>
static size_t largest = (size_t)-1; /* that there is memory for */
#define PSOCKET_MALLOC(n) ((n) > largest ? NULL : malloc(n))
#define PSOCKET_FREE free
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "core.h"

#define MANY 40

static psocket *c[MANY], *s[MANY];

static void add(psocket_poller *p, int i)
{
    CHECK(net_pair(&c[i], &s[i]));
    psocket_setnonblocking(c[i], 1);
    psocket_setnonblocking(s[i], 1);
    CHECK_INT(psocket_poller_set(p, s[i], PSOCKET_READ, -1, s[i]), 0);
}

static void finish(psocket_poller *p, int n)
{
    int i;
    for (i = 0; i < n; i++) {
        psocket_free(c[i]);
        psocket_free(s[i]);
    }
    psocket_poller_free(p);
}

TEST(a_large_buffer_is_not_for_a_little)
{
    static char block[65536];
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    size_t held = 0;
    int i, turns;
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < MANY; i++) add(p, i);
    for (i = 1; i < MANY; i++) {
        ptrdiff_t r;
        for (turns = 0; turns < 50; turns++) { /* bulk: reads grow to 64 KB */
            psocket_send(c[0], block, sizeof block);
            psocket_poller_wait(p, &ev, 0);
            while ((r = psocket_recv(s[0], &data)) > 0) {}
            CHECK_INT(r, PSOCKET_WANT_READ);
        }
        CHECK_INT(psocket_send(c[i], "x", 1), 1);
        for (turns = 0; turns < 2000 && !psocket_pending(s[i]); turns++) {
            psocket_poller_wait(p, &ev, 1);
            CHECK_INT(psocket_read(s[i], 2, &data), PSOCKET_WANT_READ);
        }
        CHECK_INT(psocket_pending(s[i]), 1);
        held += s[i]->ring.cap;
    }
    CHECK(held < MANY * 17000u);
    finish(p, MANY);
}

TEST(what_was_handed_out_stays)
{
    psocket_poller *p = NULL;
    const uint8_t *got[6];
    ptrdiff_t n[6] = { 0 };
    uint32_t rnd = 1;
    int i, turns, errors = 0, seen = 0;
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < 6; i++) add(p, i);
    for (i = 0; i < 3; i++) REQUIRE(core_handshake(c[i], s[i]) == 0);
    for (turns = 0; turns < 20000; turns++) {
        const psocket_event *ev;
        const void *data;
        uint8_t block[9000];
        ptrdiff_t k;
        rnd = rnd * 1664525u + 1013904223u;
        i = (int)((rnd >> 8) % 6);
        switch (rnd >> 24 & 7) {
        case 0:
            memset(n, 0, sizeof n);
            CHECK(psocket_poller_wait(p, &ev, 0) >= 0);
            break;
        case 1: case 2: case 3:
            memset(block, 'a' + i, sizeof block);
            psocket_send(c[i], block, rnd >> 12 & 1 ? sizeof block : 1 + (rnd >> 13 & 255));
            break;
        default:
            k = rnd >> 12 & 1 ? psocket_recv(s[i], &data) : psocket_read(s[i], 1 + (rnd >> 13 & 511), &data);
            n[i] = k > 0 ? k : 0;
            got[i] = (const uint8_t *)data;
            seen += k > 0;
            if (k > 0 && rnd >> 27 == 0) {
                CHECK_INT(psocket_unrecv(s[i], data, (size_t)k), 0);
                n[i] = 0;
            }
        }
        for (i = 0; i < 6; i++)
            for (k = 0; k < n[i]; k++) errors += got[i][k] != 'a' + i;
        if (errors) break;
    }
    CHECK_INT(errors, 0);
    CHECK(seen > 1000);
    finish(p, 6);
}

TEST(no_memory_for_a_larger_one)
{
    static char block[65536];
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    ptrdiff_t r;
    int turns;
    REQUIRE(psocket_poller_new(&p) == 0);
    add(p, 0);
    add(p, 1);
    for (turns = 0; turns < 50; turns++) { /* reads of the first grow */
        psocket_send(c[0], block, sizeof block);
        psocket_poller_wait(p, &ev, 0);
        while ((r = psocket_recv(s[0], &data)) > 0) {}
        CHECK_INT(r, PSOCKET_WANT_READ);
    }
    CHECK_INT(psocket_send(c[1], "x", 1), 1);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_INT(psocket_recv(s[1], &data), 1);
    CHECK_INT(psocket_recv(s[1], &data), PSOCKET_WANT_READ); /* the poller keeps a small buffer now */
    CHECK_INT(psocket_send(c[0], "y", 1), 1);
    largest = 16384;
    CHECK_INT(psocket_recv(s[0], &data), PSOCKET_NOMEM);
    CHECK(!s[0]->ring.buf);
    CHECK_INT(psocket_recv(s[0], &data), PSOCKET_NOMEM);
    largest = (size_t)-1;
    CHECK_INT(psocket_recv(s[0], &data), 1);
    finish(p, 2);
}
