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
static int secret_seen; /* a secret of the key log in memory that was freed */

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
    const uint8_t *b = (const uint8_t *)p;
    size_t i, k, n = *(size_t *)(void *)((char *)p - 16);
    for (k = 0; k < kit_secret_count && k < 64; k++)
        for (i = 0; kit_secrets[k].len && i + kit_secrets[k].len <= n; i++)
            if (b[i] == kit_secrets[k].secret[0] && !memcmp(b + i, kit_secrets[k].secret, kit_secrets[k].len)) secret_seen++;
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
    kit_versions(s);
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
        memset(&p, 0, sizeof p);
        code = kit_new(&p.client, c, PSOCKET_CLIENT, "localhost", NULL);
        if (!code) code = kit_new(&p.server, s, PSOCKET_SERVER, NULL, NULL);
        if (!code) {
            const void *data;
            int cc, sc;
            kit_run(p.client, p.server, 100000);
            cc = kit_status(p.client, &p.client_error);
            sc = kit_status(p.server, &p.server_error);
            CHECK(cc != PSOCKET_WANT_READ || sc != PSOCKET_WANT_READ);
            if (cc == PSOCKET_NOMEM || sc == PSOCKET_NOMEM) code = PSOCKET_NOMEM;
            else code = cc ? cc : sc;
            if (!code) { /* data both ways, and in TLS 1.3 the tickets */
                ptrdiff_t n = psocket_send(p.server->s, "x", 1);
                kit_move(p.server, p.client, 80000);
                if (n == 1) n = psocket_recv(p.client->s, &data);
                if (n != 1) code = (int)n;
            }
        }
        kit_end_both(&p);
    }
    if (!code) { /* the sessions as bytes, to other settings */
        static uint8_t bytes[4096];
        ptrdiff_t n = psocket_tls_savesessions(c, bytes, sizeof bytes), again;
        psocket_tls *other = make(cs, &code);
        CHECK(n <= (ptrdiff_t)sizeof bytes && (n > 0 || n == PSOCKET_NOMEM));
        if (!code && n < 0) code = (int)n;
        if (!code) code = psocket_tls_loadsessions(other, bytes, (size_t)n);
        again = other ? psocket_tls_savesessions(other, NULL, 0) : 0;
        if (!code && again != PSOCKET_NOMEM) CHECK_INT(again, n); /* all or an error */
        psocket_tls_free(other);
    }
    psocket_tls_free(c);
    psocket_tls_free(s);
    kit_secret_count = 0; /* the next one has others */
    return code;
}

/* groups: the server's; NULL: all. Without x25519 it asks for a second hello. */
static void exhaust(int mutual, const char *groups)
{
    static const char *const alpn[] = {"h2", "http/1.1"};
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
    ss.opt.groups = groups;
    cs.opt.alpn = ss.opt.alpn = alpn;
    cs.opt.alpn_count = ss.opt.alpn_count = 2;
    allocations = 0;
    CHECK_INT(everything(&cs, &ss), 0);
    CHECK_INT(secret_seen, 0);
    all = allocations;
    CHECK(kit_keylog_lines > 0);
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

KIT_TEST(without_client_certificates, 120) { exhaust(0, NULL); }
KIT_TEST(with_client_certificates, 120) { exhaust(1, NULL); }
KIT_TEST(with_a_second_hello, 120) { exhaust(0, "secp256r1"); }
