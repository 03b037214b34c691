/* Early data that is declined is skipped up to a limit (RFC 8446 4.2.10), and records without any do not go on for ever:
 * before the server's keys are in use (behind HelloRetryRequest) and after. */
#include "kit.h"

static void setting(kit_bytes *m, size_t at, size_t add)
{
    size_t n = kit_get(m->p + at, 2) + add;
    m->p[at] = (uint8_t)(n >> 8);
    m->p[at + 1] = (uint8_t)n;
}

/* A client's hello as a record, with early_data in front of its extensions. */
static void hello(kit_bytes *r)
{
    static kit_bytes all, m;
    psocket_tls *tls = kit_client();
    psocket_error e = {0};
    kit_end *c = NULL;
    size_t list = 4 + 2 + 32, rest;
    r->n = 0;
    if (CHECK(!kit_new(&c, tls, PSOCKET_CLIENT, "localhost", &e))) {
        kit_take(c, &all);
        kit_messages(&all, &m, &rest);
        list += 1 + (size_t)m.p[list];
        list += 2 + kit_get(m.p + list, 2);
        list += 1 + (size_t)m.p[list];
        memmove(m.p + list + 6, m.p + list + 2, m.n - list - 2);
        memcpy(m.p + list + 2, "\0\52\0\0", 4);
        m.n += 4;
        setting(&m, list, 4);
        setting(&m, 2, 4);
        kit_record(r, 22, m.p, m.n);
    }
    kit_free(c);
    psocket_tls_free(tls);
}

static void flood(const char *groups)
{
    static kit_bytes b;
    kit_settings set;
    psocket_tls *tls;
    psocket_error e = {0};
    kit_end *s = NULL;
    int i;
    kit_version = 0x0304;
    memset(&set, 0, sizeof set);
    kit_identity(&set, "ec");
    set.opt.groups = groups;
    tls = kit_make(&set);
    kit_done(&set);
    hello(&b);
    if (CHECK(!kit_new(&s, tls, PSOCKET_SERVER, NULL, &e))) {
        kit_feed(s, b.p, b.n);
        CHECK_INT(kit_status(s, &e), PSOCKET_WANT_READ);
        b.n = 0;
        for (i = 0; i < 1000; i++) kit_record(&b, 23, "", 0);
        kit_feed(s, b.p, b.n);
        CHECK(kit_status(s, &e) == PSOCKET_TLS_PROTOCOL || e.code == PSOCKET_TLS_RECORD);
        CHECK(e.tls_alert == 10 || e.tls_alert == 20); /* unexpected_message, or too short to be a record of that state */
    }
    kit_free(s);
    psocket_tls_free(tls);
}

TEST(with_keys)
{
    flood(NULL);
}

TEST(without_keys)
{
    flood("secp384r1");
}
