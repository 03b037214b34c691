/* BearSSL, server: a session from the cache bypasses certificates and the version check. A session is good for the name and
   the suites of its time only. */
#include "kit.h"

/* The server's answer to the client's hello after change: 1 if it goes on with the session, 0 if not or if it refuses. */
static int answer(psocket_tls *client, psocket_tls *server, void (*change)(kit_bytes *))
{
    static kit_bytes b, m;
    kit_ends p;
    size_t at, len;
    int resumed;
    if (!kit_begin(&p, client, server, "localhost")) return -1;
    kit_take(p.client, &b);
    if (change) change(&b);
    kit_feed(p.server, b.p, b.n);
    kit_take(p.server, &b);
    kit_messages(&b, &m, NULL);
    len = kit_message(&m, 0, &at);
    if (!len || m.p[0] != 2) resumed = 0;
    else if (kit_extension(m.p, len, 43)) resumed = kit_extension(m.p, len, 41) != 0; /* pre_shared_key */
    else resumed = kit_message(&m, 1, &at) == 0 || m.p[at] != 11;                     /* no Certificate */
    kit_end_both(&p);
    return resumed;
}

static void other_name(kit_bytes *b)
{
    size_t i;
    for (i = 0; i + 9 <= b->n; i++)
        if (!memcmp(b->p + i, "localhost", 9)) b->p[i] = 'x';
}

/* Leaves one suite, which is not the session's. */
static void other_suite(kit_bytes *b)
{
    size_t at = 5 + 4 + 2 + 32, n;
    at += 1 + (size_t)b->p[at];
    n = kit_get(b->p + at, 2);
    for (at += 2; n; n -= 2, at += 2) {
        b->p[at] = kit_version == 0x0304 ? 0x13 : 0xC0;
        b->p[at + 1] = kit_version == 0x0304 ? 0x02 : 0x2C;
    }
}

KIT_TEST(cached_sessions_are_checked, 20)
{
    static void (*const changes[])(kit_bytes *) = {NULL, other_name, other_suite};
    psocket_tls *client, *server = kit_server("ec");
    int i;
    REQUIRE(server);
    for (i = 0; i < 3; i++) {
        client = kit_tls(NULL, kit_version == 0x0304 ? "TLS_AES_128_GCM_SHA256" : "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0);
        REQUIRE(client);
        kit_good(client, server, "localhost", 512, NULL, NULL);
        CHECK_INT(answer(client, server, changes[i]), i == 0);
        psocket_tls_free(client);
    }
    psocket_tls_free(server);
}
