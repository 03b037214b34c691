/* A carried socket, read once per event, cost a millisecond per chunk: 300 chunks took a third of a second. What the carrier
   holds already is ready at once, and the poller neither sleeps nor spins. */
#include "a.h"
#include "link.h"

enum { CHUNKS = 300, SIZE = 100 };

/* Reads one chunk per event: milliseconds until all had come. */
static int64_t drain(psocket *s, size_t want)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int64_t start = check_now_ms();
    size_t got = 0;
    int waits = 0, i, n;
    CHECK_INT(psocket_poller_new(&p), 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    start = check_now_ms();
    while (got < want && waits < 10 * CHUNKS) {
        n = psocket_poller_wait(p, &ev, 2000);
        waits++;
        if (n <= 0) break;
        for (i = 0; i < n; i++) {
            const void *data;
            ptrdiff_t r = psocket_recv((psocket *)ev[i].user, &data);
            if (r > 0) got += (size_t)r;
        }
    }
    start = check_now_ms() - start;
    CHECK_INT(got, want);
    CHECK(waits <= 2 * CHUNKS + 10);
    CHECK_INT(psocket_poller_wait(p, &ev, 30), 0); /* no event without data */
    psocket_poller_free(p);
    return start;
}

/* kind: 0 chunks put back, 1 TCP's own, 2 records, 3 records and chunks put back. Levels of carrying: 1 or 2. */
static void carried(int kind, int levels)
{
    psocket *a = NULL, *b = NULL, *w = NULL;
    psocket_options o = net_options(1);
    static char block[SIZE];
    size_t want = 0;
    int i;
    int64_t ms;
    REQUIRE(kind >= 2 ? a_tls(&a, &b, 1) : a_tcp(&a, &b, 1));
    for (i = 0; i < CHUNKS && kind != 0; i++) {
        REQUIRE(psocket_send(a, block, SIZE) == SIZE);
        want += SIZE;
    }
    if (kind) REQUIRE(psocket_flush(a) == 0);
    for (i = 0; i < CHUNKS && (kind == 0 || kind == 3); i++) {
        REQUIRE(psocket_unrecv(b, block, SIZE) == 0);
        want += SIZE;
    }
    for (i = 0; i < levels; i++) {
        REQUIRE(psocket_wrap(&w, b, &o) == 0);
        b = w;
    }
    ms = drain(b, want);
    if (ms > 200) check_fail(__FILE__, __LINE__, "kind %d, %d levels: %d ms", kind, levels, (int)ms);
    psocket_free(a);
    psocket_free(b);
}

TEST(put_back)
{
    carried(0, 1);
    carried(0, 2);
}

TEST(tcp)
{
    carried(1, 1);
    carried(1, 2);
}

TEST(records)
{
    carried(2, 1);
    carried(2, 2);
}

TEST(records_and_put_back)
{
    carried(3, 1);
    carried(3, 2);
}

/* A transport of the tests that hands out a segment per read. */
TEST(segments)
{
    int tls;
    for (tls = 0; tls < 2; tls++) {
        psocket *a = NULL, *b = NULL;
        psocket_options o = net_options(1);
        static char block[SIZE];
        int i;
        int64_t ms;
        REQUIRE(link_pair(&a, &b, SIZE, 0, &o) == 0);
        if (tls) REQUIRE(core_handshake(a, b) == 0);
        for (i = 0; i < CHUNKS; i++) REQUIRE(psocket_send(a, block, SIZE) == SIZE);
        REQUIRE(psocket_flush(a) == 0);
        ms = drain(b, CHUNKS * SIZE);
        if (ms > 300) check_fail(__FILE__, __LINE__, "tls %d: %d ms", tls, (int)ms);
        psocket_free(a);
        psocket_free(b);
    }
}

/* One byte per event from a chunk that is there: read instead of recv. */
TEST(bytes)
{
    psocket *a = NULL, *b = NULL, *w = NULL;
    psocket_options o = net_options(1);
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    int i;
    int64_t start;
    REQUIRE(a_tcp(&a, &b, 1) && psocket_wrap(&w, b, &o) == 0 && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, w, PSOCKET_READ, -1, w), 0);
    CHECK_INT(psocket_send(a, "0123456789", 10), 10);
    start = check_now_ms();
    for (i = 0; i < 10; i++) {
        CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
        CHECK_INT(psocket_read(w, 1, &data), 1);
    }
    CHECK(check_now_ms() - start < 100);
    CHECK_INT(psocket_poller_wait(p, &ev, 30), 0);
    psocket_poller_free(p);
    psocket_free(a);
    psocket_free(w);
}
