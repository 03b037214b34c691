/* BearSSL, client: takes an ALPN name that it never offered and repeated extensions. tests/tls/hello.c has all cases. */
#include "kit.h"

static void answer(const char *extensions, size_t n, int code, int alert)
{
    static const char *const names[] = {"h2"};
    kit_settings s;
    psocket_tls *tls;
    kit_end *c = NULL;
    psocket_error e = {0};
    static kit_bytes b, m;
    static uint8_t random[32];
    memset(&s, 0, sizeof s);
    kit_ca(&s, "ca.pem");
    s.opt.alpn = names;
    s.opt.alpn_count = 1;
    tls = kit_make(&s);
    kit_done(&s);
    REQUIRE(tls && !kit_new(&c, tls, PSOCKET_CLIENT, "localhost", &e));
    kit_take(c, &b);
    m.n = b.n = 0;
    kit_number(&m, 2, 1);
    kit_number(&m, 2 + 32 + 1 + 2 + 1 + 2 + n, 3);
    kit_number(&m, 0x0303, 2);
    kit_put(&m, random, 32);
    kit_number(&m, 0, 1);
    kit_number(&m, 0xC02F, 2);
    kit_number(&m, 0, 1);
    kit_number(&m, n, 2);
    kit_put(&m, extensions, n);
    kit_record(&b, 22, m.p, m.n);
    kit_feed(c, b.p, b.n);
    if (code) kit_failed(c, code, alert, "hello");
    else CHECK_INT(kit_status(c, &e), PSOCKET_WANT_READ);
    kit_free(c);
    psocket_tls_free(tls);
}

KIT_TEST_12(hello_hygiene, 20)
{
    answer("\0\20\0\5\0\3\2h2", 9, 0, 0);
    answer("\0\20\0\7\0\5\4evil", 11, PSOCKET_TLS_ALPN, 47);
    answer("\0\20\0\5\0\3\2h2\0\20\0\5\0\3\2h2", 18, PSOCKET_TLS_PROTOCOL, 50);
    answer("\0\12\0\0\0\12\0\0", 8, PSOCKET_TLS_PROTOCOL, 50);
}
