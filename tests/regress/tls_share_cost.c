/* What a ClientHello costs is linear in its length, however many shares of one group, and groups, it has. */
#include "kit.h"
#include <time.h>

static void fill(kit_bytes *m, size_t n, size_t value, size_t size)
{
    while (n--) kit_number(m, value, size);
}

/* Seconds of processor time for a hello with so many shares of a group, and so many groups, that one the last of them. */
static double hello(size_t shares, size_t groups, size_t group)
{
    static kit_bytes m, all, r;
    psocket_tls *tls = kit_server("ec");
    psocket_error e = {0};
    kit_end *s = NULL;
    clock_t t = 0;
    size_t i, list;
    m.n = all.n = r.n = 0;
    kit_number(&m, 0x0303, 2);
    fill(&m, 8, 0x12345678, 4);
    kit_number(&m, 0, 1);
    kit_number(&m, 0x00021301, 4);
    kit_number(&m, 0x0100, 2);
    list = m.n;
    kit_number(&m, 0, 2);
    kit_put(&m, "\0\53\0\3\2\3\4\0\15\0\4\0\2\4\3", 15); /* TLS 1.3; ecdsa_secp256r1_sha256 */
    kit_number(&m, 10, 2);
    kit_number(&m, 2 * groups + 2, 2);
    kit_number(&m, 2 * groups, 2);
    fill(&m, groups - 1, 0x7777, 2);
    kit_number(&m, group, 2);
    kit_number(&m, 51, 2);
    kit_number(&m, 5 * shares + 2, 2);
    kit_number(&m, 5 * shares, 2);
    fill(&m, shares, group << 24 | 0x100, 5);
    m.p[list] = (uint8_t)((m.n - list - 2) >> 8);
    m.p[list + 1] = (uint8_t)(m.n - list - 2);
    kit_handshake(&all, 1, m.p, m.n);
    for (i = 0; i < all.n; i += 16000) kit_record(&r, 22, all.p + i, all.n - i < 16000 ? all.n - i : 16000);
    if (CHECK(!kit_new(&s, tls, PSOCKET_SERVER, NULL, &e))) {
        t = clock();
        kit_feed(s, r.p, r.n);
        t = clock() - t;
        CHECK_INT(kit_status(s, &e), PSOCKET_TLS_PROTOCOL);
        CHECK_INT(e.tls_alert, 47); /* RFC 8446 4.2.8: one share for each group */
    }
    kit_free(s);
    psocket_tls_free(tls);
    return (double)t / CLOCKS_PER_SEC;
}

TEST(as_many_shares_as_groups)
{
    static const size_t groups[] = {29, 23, 25};
    size_t i;
    double few, many;
    hello(100, 200, 29); /* warms up */
    for (i = 0; i < 3; i++) {
        few = hello(6000, 100, groups[i]) + hello(100, 16000, groups[i]) + 0.001;
        many = hello(6000, 16000, groups[i]);
        if (many > 8 * few) check_fail(__FILE__, __LINE__, "group %d: %.4f s, of which the parts cost %.4f s", (int)groups[i], many, few);
    }
}
