/* BearSSL, server: its interpreter looks up each cipher suite of a hello and hashes byte for byte, so that a hello of 16 KB
   costs six handshakes. */
#include "kit.h"

/* The CPU time of a server's answer to a hello with so many suites, in microseconds: the least of some tries. */
static double answer(psocket_tls *tls, size_t suites)
{
    static const uint8_t random[32];
    double least = 1e9;
    static kit_bytes m, b;
    size_t i;
    m.n = b.n = 0;
    kit_number(&m, 1, 1);
    kit_number(&m, 2 + 32 + 1 + 2 + 2 * suites + 2 + 2 + 20, 3);
    kit_number(&m, 0x0303, 2);
    kit_put(&m, random, 32);
    kit_number(&m, 0, 1);
    kit_number(&m, 2 * suites, 2);
    for (i = 1; i < suites; i++) kit_number(&m, 0x1234, 2);
    kit_number(&m, 0xC02B, 2);
    kit_number(&m, 0x0100, 2);
    kit_number(&m, 20, 2);
    kit_put(&m, "\0\12\0\6\0\4\0\27\0\35", 10); /* P-256, X25519 */
    kit_put(&m, "\0\15\0\6\0\4\4\3\4\1", 10);   /* SHA-256 with ECDSA, RSA */
    kit_record(&b, 22, m.p, m.n);
    for (i = 0; i < 12; i++) {
        struct timespec from, to;
        kit_end *s = NULL;
        double us;
        if (kit_new(&s, tls, PSOCKET_SERVER, NULL, NULL)) return -1;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        kit_feed(s, b.p, b.n);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        CHECK_INT(kit_status(s, NULL), PSOCKET_WANT_READ);
        CHECK(s->out.n > 500);
        us = (double)(to.tv_sec - from.tv_sec) * 1e6 + (double)(to.tv_nsec - from.tv_nsec) / 1e3;
        if (us < least) least = us;
        kit_free(s);
    }
    return least;
}

KIT_TEST_12(a_long_hello_costs_little_more, 20)
{
    psocket_tls *tls = kit_server("ec");
    double few, many;
    REQUIRE(tls);
    few = answer(tls, 1);
    many = answer(tls, 8100);
    if (!(few > 0 && many < 3 * few)) check_fail(__FILE__, __LINE__, "%.0f us, with 8100 suites %.0f us", few, many);
    psocket_tls_free(tls);
}
