/* What a ClientHello costs a server does not grow with its identities times the hello's lists. */
#include "kit.h"
#include <time.h>

enum { MANY = 1000, LIST = 30000 };

static psocket_tls *server_of(const char *identity, size_t count)
{
    static psocket_identity ids[MANY];
    kit_settings s;
    psocket_tls *tls;
    size_t i;
    memset(&s, 0, sizeof s);
    kit_identity(&s, identity);
    for (i = 0; i < count; i++) ids[i] = s.identities[0];
    s.opt.identities = ids;
    s.opt.identity_count = count;
    tls = kit_make(&s);
    kit_done(&s);
    return tls;
}

/* Seconds of processor time for a hello with so many signature algorithms, none of which fits. */
static double hello(const char *identity, size_t count)
{
    static kit_bytes m, all, r;
    psocket_tls *tls = server_of(identity, count);
    psocket_error e = {0};
    kit_end *s = NULL;
    clock_t t = 0;
    size_t i, list;
    m.n = all.n = r.n = 0;
    kit_number(&m, 0x0303, 2);
    for (i = 0; i < 8; i++) kit_number(&m, 0x12345678, 4);
    kit_number(&m, 0, 1);
    kit_put(&m, "\0\6\x13\1\xC0\x2B\xC0\x2F\1\0", 10);
    list = m.n;
    kit_number(&m, 0, 2);
    if (kit_version == 0x0304) kit_put(&m, "\0\53\0\3\2\3\4\0\63\0\2\0\0", 13); /* no share yet */
    kit_put(&m, "\0\12\0\4\0\2\0\27", 8);
    kit_number(&m, 13, 2);
    kit_number(&m, 2 * LIST + 2, 2);
    kit_number(&m, 2 * LIST, 2);
    for (i = 0; i < LIST; i++) kit_number(&m, 0x7777, 2);
    m.p[list] = (uint8_t)((m.n - list - 2) >> 8);
    m.p[list + 1] = (uint8_t)(m.n - list - 2);
    kit_handshake(&all, 1, m.p, m.n);
    for (i = 0; i < all.n; i += 16000) kit_record(&r, 22, all.p + i, all.n - i < 16000 ? all.n - i : 16000);
    if (CHECK(tls && !kit_new(&s, tls, PSOCKET_SERVER, NULL, &e))) {
        t = clock();
        kit_feed(s, r.p, r.n);
        t = clock() - t;
        CHECK_INT(kit_status(s, &e), PSOCKET_TLS_HANDSHAKE);
        CHECK_INT(e.tls_alert, 40);
    }
    kit_free(s);
    psocket_tls_free(tls);
    return (double)t / CLOCKS_PER_SEC;
}

KIT_TEST(a_thousand_identities, 60)
{
    static const char *const names[] = {"ec", "rsa"};
    size_t i;
    double one, many;
    for (i = 0; i < 2; i++) {
        hello(names[i], 1); /* warms up */
        one = hello(names[i], 1);
        many = hello(names[i], MANY);
        if (many > 3 * one + 0.002) check_fail(__FILE__, __LINE__, "%s: %.4f s, with one identity %.4f s", names[i], many, one);
    }
}
