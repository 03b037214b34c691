/* The ring of chunks against a plain model, under random operations. */
#define PSOCKET_IMPLEMENTATION
#define PSOCKET_NO_TLS
#include "../../psocket.h"
#include "../check.h"

#define MAX_CHUNKS 64
#define MAX_BYTES 4096

typedef struct model {
    struct { unsigned char b[MAX_BYTES]; size_t n; } chunk[MAX_CHUNKS];
    int count;
} model;

static unsigned seed = 1;

static unsigned rnd(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 16) % n;
}

static void fill(unsigned char *p, size_t n)
{
    while (n--) *p++ = (unsigned char)rnd(256);
}

static void same(psi_ring *r, model *m)
{
    uint32_t at = r->head, i, bytes = 0;
    for (i = 0; i < (uint32_t)m->count; i++) {
        REQUIRE(at < r->end);
        REQUIRE(psi_ring_get(r, at) == m->chunk[i].n);
        CHECK_MEM(r->buf + psi_ring_payload(r, at), m->chunk[i].b, m->chunk[i].n);
        bytes += (uint32_t)m->chunk[i].n;
        at = psi_ring_payload(r, at) + psi_ring_get(r, at);
    }
    CHECK_INT(at, r->end);
    CHECK_INT(r->bytes, bytes);
    CHECK(r->tail <= r->cap && r->raw <= r->tail && (!r->buf || r->end + PSI_RING_HEAD <= r->raw));
}

static void drop(model *m)
{
    m->count--;
    memmove(&m->chunk[0], &m->chunk[1], (size_t)m->count * sizeof m->chunk[0]);
}

/* Plain reads and records decrypted in place, in any order with everything that takes. */
static void random_run(int records, unsigned start)
{
    static model m;
    psi_ring r = PSI_ZERO;
    const void *last = NULL;
    size_t last_n = 0;
    int step;
    seed = start;
    m.count = 0;
    for (step = 0; step < 1500; step++) {
        unsigned op = rnd(8);
        if (op <= 1 && m.count < MAX_CHUNKS) {
            size_t n = rnd(300);
            if (!records) {
                REQUIRE(psi_ring_reserve(&r, n) == 0);
                fill(r.buf + r.tail, n);
                memcpy(m.chunk[m.count].b, r.buf + r.tail, n);
                psi_ring_append(&r, (uint32_t)n);
                m.chunk[m.count++].n = n;
            } else {
                /* header of 5 or 13 bytes, payload, tag of 16; sometimes a record that is skipped */
                uint32_t head = rnd(2) ? 5 : 13, at;
                REQUIRE(psi_ring_reserve(&r, head + n + 16) == 0);
                at = r.raw;
                CHECK_INT(r.raw, r.tail);
                memset(r.buf + r.tail, 0xee, head + n + 16);
                fill(r.buf + r.tail + head, n);
                r.tail += head + (uint32_t)n + 16;
                if (rnd(5) == 0) {
                    r.raw = r.tail;
                } else {
                    memcpy(m.chunk[m.count].b, r.buf + at + head, n);
                    psi_ring_chunk(&r, at + head, (uint32_t)n, r.tail);
                    m.chunk[m.count++].n = n;
                }
            }
            last = NULL;
        } else if (op == 2 && m.count < MAX_CHUNKS) {
            unsigned char b[400];
            const void *p = b;
            size_t n = rnd(400);
            fill(b, n);
            if (last && rnd(2)) { /* what was taken last, still in the ring's memory */
                p = last;
                n = last_n;
            }
            memmove(&m.chunk[1], &m.chunk[0], (size_t)m.count * sizeof m.chunk[0]);
            memcpy(m.chunk[0].b, p, n);
            m.chunk[0].n = n;
            m.count++;
            REQUIRE(psi_ring_unshift(&r, p, n) == 0);
            last = NULL;
        } else if (op <= 4 && m.count) {
            last_n = psi_ring_front(&r, &last);
            psi_ring_take(&r, (uint32_t)last_n, &last);
            CHECK_INT(last_n, m.chunk[0].n);
            CHECK_MEM(last, m.chunk[0].b, last_n);
            drop(&m);
        } else if (op == 5 && m.count && m.chunk[0].n > 1) {
            uint32_t n = 1 + rnd((unsigned)m.chunk[0].n - 1);
            psi_ring_take(&r, n, &last);
            last_n = n;
            CHECK_MEM(last, m.chunk[0].b, n);
            m.chunk[0].n -= n;
            memmove(m.chunk[0].b, m.chunk[0].b + n, m.chunk[0].n);
        } else if (op == 6 && m.count) {
            uint32_t want = rnd(900);
            while (m.count > 1 && m.chunk[0].n < want) {
                memcpy(m.chunk[0].b + m.chunk[0].n, m.chunk[1].b, m.chunk[1].n);
                m.chunk[1].n += m.chunk[0].n;
                memcpy(m.chunk[1].b, m.chunk[0].b, m.chunk[1].n);
                drop(&m);
            }
            psi_ring_join(&r, want);
            last = NULL;
        } else if (op == 7) {
            if (psi_ring_idle(&r)) psi_ring_free(&r);
            if (!m.count) CHECK(r.buf == NULL);
            last = NULL;
        }
        same(&r, &m);
        if (check_shared->failures) break;
    }
    psi_ring_free(&r);
}

TEST(random_plain)
{
    unsigned i;
    for (i = 1; i <= 20; i++) random_run(0, i);
}

TEST(random_records)
{
    unsigned i;
    for (i = 1; i <= 20; i++) random_run(1, i);
}

static void put(psi_ring *r, const char *text)
{
    uint32_t n = (uint32_t)strlen(text);
    psi_ring_reserve(r, n);
    memcpy(r->buf + r->tail, text, n);
    psi_ring_append(r, n);
}

TEST(find_across_chunks)
{
    psi_ring r = PSI_ZERO;
    put(&r, "GET / HTTP/1.1\r\nHost: x\r");
    put(&r, "\n\r");
    put(&r, "\nbody");
    CHECK_INT(psi_ring_find(&r, "\r\n\r\n", 4, 1000), 27);
    CHECK_INT(psi_ring_find(&r, "\r\n\r\n", 4, 27), 27);
    CHECK_INT(psi_ring_find(&r, "\r\n\r\n", 4, 26), 0);
    CHECK_INT(psi_ring_find(&r, "\n", 1, 1000), 16);
    CHECK_INT(psi_ring_find(&r, "zz", 2, 1000), 0);
    CHECK_INT(psi_ring_find(&r, "a very long delimiter that is longer than all that is there", 59, 1000), 0);
    psi_ring_free(&r);
}

/* A payload for which much is read begins at the start of 64 bytes, away from the start of a page. */
TEST(large_reads_are_aligned)
{
    psi_ring r = PSI_ZERO;
    const void *data;
    int i;
    for (i = 0; i < 50; i++) {
        REQUIRE(psi_ring_reserve(&r, 4096u + (unsigned)i * 3000u) == 0);
        CHECK_INT((uintptr_t)(r.buf + r.tail) % 64, 0);
        CHECK((uintptr_t)(r.buf + r.tail) % 4096 != 0);
        psi_ring_append(&r, 4000);
        psi_ring_take(&r, 4000, &data);
        if (i % 7 == 0 && psi_ring_idle(&r)) psi_ring_free(&r);
    }
    psi_ring_free(&r);
}

/* One byte after another: what is kept and what is moved stays in proportion to what came. */
TEST(small_pieces_cost_little)
{
    psi_ring r = PSI_ZERO;
    const void *data;
    int i, moves = 0;
    for (i = 0; i < 65536; i++) {
        uint32_t head = r.head;
        uint8_t *buf = r.buf;
        REQUIRE(psi_ring_reserve(&r, 4096) == 0);
        moves += r.buf != buf || r.head != head;
        r.buf[r.tail] = 'a';
        psi_ring_append(&r, 1);
        CHECK_INT(psi_ring_find(&r, "aaaaaaab", 8, 70000), 0);
    }
    CHECK(moves < 100);
    CHECK(r.cap < 4 * 65536);
    CHECK_INT(psi_ring_front(&r, &data), 65536);
    psi_ring_free(&r);
}

TEST(undecode_gives_back_the_bytes)
{
    psi_ring r = PSI_ZERO;
    put(&r, "lo wor");
    put(&r, "ld");
    psi_ring_unshift(&r, "hel", 3);
    psi_ring_undecode(&r);
    CHECK(psi_ring_empty(&r));
    CHECK_INT(r.tail - r.raw, 11);
    CHECK_MEM(r.buf + r.raw, "hello world", 11);
    psi_ring_free(&r);
}

TEST(limits)
{
    psi_ring r = PSI_ZERO;
    CHECK_INT(psi_ring_reserve(&r, (size_t)PSI_RING_MAX + 1), PSOCKET_LIMIT);
    CHECK_INT(psi_ring_unshift(&r, "x", (size_t)PSI_RING_MAX + 1), PSOCKET_LIMIT);
    CHECK(r.buf == NULL);
}
