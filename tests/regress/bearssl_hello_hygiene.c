/* BearSSL, client: takes an ALPN name that it never offered and repeated extensions. tests/tls/hello.c has all cases. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include "tls/pipe.h"

static void answer(const char *extensions, size_t n, int code, int alert)
{
    static const char *const names[] = {"h2"};
    pipe_settings s;
    psocket_tls *tls;
    psi_hs *c = NULL;
    psocket_error e = {0};
    pipe_bytes b, m;
    static uint8_t random[32];
    memset(&s, 0, sizeof s);
    pipe_ca(&s, "ca.pem");
    s.opt.alpn = names;
    s.opt.alpn_count = 1;
    tls = pipe_make(&s);
    pipe_done(&s);
    REQUIRE(tls && !psi_hs_new(&c, tls, 0, "localhost", 0, &e));
    pipe_take(c, &b);
    m.n = b.n = 0;
    pipe_number(&m, 2, 1);
    pipe_number(&m, 2 + 32 + 1 + 2 + 1 + 2 + n, 3);
    pipe_number(&m, 0x0303, 2);
    pipe_put(&m, random, 32);
    pipe_number(&m, 0, 1);
    pipe_number(&m, BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, 2);
    pipe_number(&m, 0, 1);
    pipe_number(&m, n, 2);
    pipe_put(&m, extensions, n);
    pipe_record(&b, 22, m.p, m.n);
    pipe_feed(c, b.p, b.n);
    if (code) pipe_failed(c, code, alert, "hello");
    else CHECK_INT(psi_hs_status(c, &e), PSOCKET_WANT_READ);
    psi_hs_free(c);
    psocket_tls_free(tls);
}

TEST(hello_hygiene)
{
    answer("\0\20\0\5\0\3\2h2", 9, 0, 0);
    answer("\0\20\0\7\0\5\4evil", 11, PSOCKET_TLS_ALPN, 47);
    answer("\0\20\0\5\0\3\2h2\0\20\0\5\0\3\2h2", 18, PSOCKET_TLS_PROTOCOL, 47);
    answer("\0\12\0\0\0\12\0\0", 8, PSOCKET_TLS_PROTOCOL, 47);
}
