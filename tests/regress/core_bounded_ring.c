/* TLS records without data between others stayed in the ring as gaps: a peer could make 64 KB of unread data occupy tens of
   megabytes. White box: it looks at the ring's capacity. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "core.h"

/* 32 empty records, then one byte. */
static void hostile_block(psocket *s)
{
    static uint8_t wire[33 * 64];
    size_t n = 0, done = 0;
    int i, os;
    for (i = 0; i < 33; i++) n += psi_rec_seal(psi_sock_rec(s), 23, "x", i == 32, wire + n);
    while (done < n) {
        ptrdiff_t r = s->io->put(s, wire + done, n - done, &os);
        if (r < 0) return;
        done += (size_t)r;
    }
}

TEST_LIMIT(records_without_data, 60)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    int i;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    REQUIRE(core_handshake(a, b) == 0);
    for (i = 0; i < 6000; i++) {
        hostile_block(a);
        CHECK_INT(psocket_isopen(b), 1);
    }
    CHECK_INT(psocket_pending(b), 6000);
    CHECK(b->ring.cap < 1u << 20);
    if (b->ring.cap >= 1u << 20) check_fail(__FILE__, __LINE__, "%u bytes for 6000", (unsigned)b->ring.cap);
    for (i = 0; i < 6000; i++) CHECK_STR(net_recv(b), "x");
    psocket_free(a);
    psocket_free(b);
}
