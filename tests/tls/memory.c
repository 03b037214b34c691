/* Every allocation of settings, handshakes and sessions fails in turn, once and then for ever: an error code, no crash, and
   (by the sanitizer) nothing lost. And keys are gone from memory that is given back. */
#include <stddef.h>
#include <stdlib.h>
static void *test_malloc(size_t n);
static void *test_realloc(void *p, size_t n);
static void test_free(void *p);
#define PSOCKET_MALLOC(n) test_malloc(n)
#define PSOCKET_REALLOC(p, n) test_realloc(p, n)
#define PSOCKET_FREE(p) test_free(p)
#include "kit.h"

static long countdown; /* the allocation that fails; 0 none */
static int for_ever;
static long allocations;
static uint8_t secret[48]; /* must not be in memory that is freed */
static int secret_seen;

static int fails(void)
{
    allocations++;
    if (!countdown) return 0;
    if (countdown > 1) return --countdown, 0;
    if (!for_ever) countdown = 0;
    return 1;
}

/* The size is kept in front, so that freed memory can be searched. */
static void *test_malloc(size_t n)
{
    size_t *p = fails() ? NULL : (size_t *)malloc(n + 16);
    if (!p) return NULL;
    *p = n;
    return (char *)p + 16;
}

static void search(void *p)
{
    static const uint8_t zero[48];
    const uint8_t *b = (const uint8_t *)p;
    size_t i, n = *(size_t *)(void *)((char *)p - 16);
    if (!memcmp(secret, zero, sizeof secret)) return;
    for (i = 0; i + sizeof secret <= n; i++)
        if (!memcmp(b + i, secret, sizeof secret)) secret_seen++;
}

static void *test_realloc(void *p, size_t n)
{
    size_t *q;
    if (!p) return test_malloc(n);
    if (fails()) return NULL;
    search(p);
    q = (size_t *)realloc((char *)p - 16, n + 16);
    if (!q) return NULL;
    *q = n;
    return (char *)q + 16;
}

static void test_free(void *p)
{
    if (!p) return;
    search(p);
    free((char *)p - 16);
}

static psocket_tls *make(kit_settings *s, int *code)
{
    psocket_tls *tls = NULL;
    *code = psocket_tls_new(&tls, &s->opt);
    CHECK((*code == 0) == (tls != NULL));
    return tls;
}

/* A full and a resumed handshake with client certificates and ALPN; the first error, 0 if there was none. */
static int everything(kit_settings *cs, kit_settings *ss)
{
    psocket_tls *c, *s = NULL;
    int code, round;
    c = make(cs, &code);
    if (c) s = make(ss, &code);
    for (round = 0; !code && round < 2; round++) {
        kit_ends p;
        psi_rec *cr = NULL, *sr = NULL;
        psi_tlsinfo *ci = NULL, *si = NULL;
        memset(&p, 0, sizeof p);
        code = kit_new(&p.client, c, PSOCKET_CLIENT, "localhost", &p.client_error);
        if (!code) code = kit_new(&p.server, s, PSOCKET_SERVER, NULL, &p.server_error);
        if (!code) {
            int cc, sc;
            kit_run(p.client, p.server, 100000);
            cc = kit_status(p.client, &p.client_error);
            sc = kit_status(p.server, &p.server_error);
            CHECK(cc != PSOCKET_WANT_READ || sc != PSOCKET_WANT_READ);
            if (cc == PSOCKET_NOMEM || sc == PSOCKET_NOMEM) code = PSOCKET_NOMEM;
            else code = cc ? cc : sc;
        }
        if (!code) {
            memcpy(secret, p.client->u.eng.session.master_secret, sizeof secret);
            code = psi_hs_finish(p.client, &cr, &ci);
            CHECK((code == 0) == (cr && ci));
            if (!code) code = psi_hs_finish(p.server, &sr, &si);
        }
        psi_rec_free(cr);
        psi_rec_free(sr);
        psi_tlsinfo_free(ci);
        psi_tlsinfo_free(si);
        kit_end_both(&p);
    }
    if (!code) { /* the sessions as bytes, to other settings */
        static uint8_t bytes[1024];
        ptrdiff_t n = psocket_tls_savesessions(c, bytes, sizeof bytes);
        psocket_tls *other = make(cs, &code);
        CHECK(n > 0 && n <= (ptrdiff_t)sizeof bytes);
        if (!code) code = psocket_tls_loadsessions(other, bytes, (size_t)n);
        if (other) CHECK_INT(other->client_sessions.count, code || !c->client_sessions.count ? 0 : 1);
        psocket_tls_free(other);
    }
    psocket_tls_free(c);
    psocket_tls_free(s);
    return code;
}

static void exhaust(int mutual)
{
    static const char *const alpn[] = {"h2", "http/1.1"};
    static const uint8_t zero[48];
    kit_settings cs, ss;
    long n, all;
    memset(&cs, 0, sizeof cs);
    memset(&ss, 0, sizeof ss);
    kit_ca(&cs, "ca.pem");
    kit_identity(&ss, "ec");
    if (mutual) {
        kit_identity(&cs, "client");
        kit_ca(&ss, "ca.pem");
        ss.opt.client_auth = PSOCKET_CLIENT_AUTH_REQUIRED;
    }
    cs.opt.alpn = ss.opt.alpn = alpn;
    cs.opt.alpn_count = ss.opt.alpn_count = 2;
    allocations = 0;
    CHECK_INT(everything(&cs, &ss), 0);
    CHECK_INT(secret_seen, 0);
    all = allocations;
    CHECK(memcmp(secret, zero, sizeof secret) != 0);
    for (for_ever = 0; for_ever < 2; for_ever++)
        for (n = 1; n <= all; n++) {
            int code;
            countdown = n;
            code = everything(&cs, &ss);
            countdown = 0;
            /* Sessions and alerts do without memory; the rest says so. */
            if (code && code != PSOCKET_NOMEM) check_fail(__FILE__, __LINE__, "allocation %ld of %ld: %d", n, all, code);
            if (!code && for_ever && n < all - 8) check_fail(__FILE__, __LINE__, "allocation %ld of %ld, for ever: no error", n, all);
        }
    CHECK_INT(secret_seen, 0);
    kit_done(&cs);
    kit_done(&ss);
}

TEST_LIMIT(without_client_certificates, 120) { exhaust(0); }
TEST_LIMIT(with_client_certificates, 120) { exhaust(1); }
