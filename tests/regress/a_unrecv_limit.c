/* psocket_unrecv near 2 GB: what was left of the limit wrapped, and a third call wrote out of bounds. Requests for sizes that
   wrap are the same kind. */
#include "a.h"
#include <sys/mman.h>

static long available_mb(void)
{
    char line[128];
    long kb = 0;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "MemAvailable: %ld", &kb);
    if (f) fclose(f);
    return kb / 1024;
}

/* Puts back 2 GB less 64 KB, then `more`: what is taken is counted, and nothing is written where nothing was allocated. */
static void put_back(const size_t *more, size_t count)
{
    size_t i;
    psocket *a = NULL, *b = NULL;
    psocket_options o = net_options(1);
    char *zeros;
    int r;
    if (sizeof(size_t) < 8) SKIP("needs 64 bits");
    if (available_mb() < 5000) SKIP("needs 5 GB of memory");
    zeros = (char *)mmap(NULL, (size_t)5 << 30, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(zeros != MAP_FAILED);
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    r = psocket_unrecv(a, zeros, 0x7fff0000u);
    CHECK(r == 0 || r == PSOCKET_LIMIT || r == PSOCKET_NOMEM);
    A_AGREES(a, r);
    CHECK(psocket_pending(a) == (r ? 0 : 0x7fff0000u));
    for (i = 0; i < count; i++) {
        size_t before = psocket_pending(a);
        r = psocket_unrecv(a, zeros, more[i]);
        CHECK(r == 0 || r == PSOCKET_LIMIT || r == PSOCKET_NOMEM);
        A_AGREES(a, r);
        CHECK(psocket_pending(a) == before + (r ? 0 : more[i]));
    }
    psocket_free(a);
    psocket_free(b);
    munmap(zeros, (size_t)5 << 30);
}

TEST_LIMIT(one_byte_and_two_gigabytes, 60)
{
    static const size_t more[] = { 1, (size_t)0x8000ffe0u + 16 };
    put_back(more, 2);
}

TEST_LIMIT(sizes_at_the_edges, 60)
{
    static const size_t more[] = { 65535, 1, 1, 0xffffffffu, 0xffff0000u, 0x80000001u, 0x80000000u, 0x7fffffffu };
    put_back(more, 8);
}

TEST(sizes_that_wrap)
{
    static const size_t silly[] = { 0x7fffffffu, 0x80000000u, 0xffffffffu, SIZE_MAX / 2, SIZE_MAX - 64, SIZE_MAX };
    psocket *c = NULL, *s = NULL;
    size_t i, k;
    const void *data;
    psocket_options o = net_options(1);
    for (k = 0; k < sizeof silly / sizeof *silly; k++) {
        o.recv_limit = silly[k];
        REQUIRE(psocket_pair(&c, &s, &o) == 0);
        CHECK_INT(psocket_send(c, "hello", 5), 5);
        for (i = 0; i < sizeof silly / sizeof *silly; i++) {
            ptrdiff_t n;
            {
                n = psocket_read_until(s, "\n", silly[i], &data);
                CHECK_INT(n, PSOCKET_WANT_READ);
            }
            n = psocket_read(s, silly[i], &data);
            CHECK(n == PSOCKET_WANT_READ || n == PSOCKET_LIMIT || n == PSOCKET_NOMEM);
            A_AGREES(s, n);
            n = psocket_send(c, "", 0);
            CHECK_INT(n, 0);
        }
        CHECK_STR(a_recv(s), "hello");
        psocket_free(c);
        psocket_free(s);
    }
}
