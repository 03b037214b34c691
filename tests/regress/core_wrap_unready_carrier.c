/* psocket_wrap took a carrier that was still connecting (a NULL dereference at the first recv) or handshaking (its data
   went out in the clear, and the handshake's records came in as data). */
#include "core.h"

static psocket_resolve *asked;

static void later(void *user, psocket_resolve *r, const char *host)
{
    (void)user;
    (void)host;
    asked = r;
}

TEST(a_connecting_carrier)
{
    psocket_options o = net_options(1);
    psocket *c = NULL, *w = NULL;
    const void *data;
    o.resolve = later;
    REQUIRE(psocket_connect(&c, "localhost", 9, &o) == 0 && asked);
    if (psocket_wrap(&w, c, &o) == 0) {
        CHECK_INT(psocket_recv(w, &data), PSOCKET_WANT_READ);
        CHECK_INT(psocket_send(w, "x", 1), PSOCKET_WANT_WRITE);
        psocket_free(w);
    } else {
        CHECK_INT(net_error.code, PSOCKET_BUSY);
        psocket_free(c);
    }
    psocket_resolve_done(asked, PSOCKET_DNS);
}

TEST(a_handshaking_carrier)
{
    psocket_options o = net_options(1);
    psocket *c = NULL, *s = NULL, *w = NULL;
    psocket_tls *tls = core_settings(0);
    char seen[4096] = "";
    size_t n = 0;
    const void *data;
    ptrdiff_t r;
    REQUIRE(psocket_pair(&c, &s, &o) == 0);
    CHECK_INT(psocket_starttls(c, tls, "localhost"), PSOCKET_WANT_READ);
    if (psocket_wrap(&w, c, &o) == 0) {
        psocket_send(w, "secret", 6);
        while ((r = psocket_recv(s, &data)) > 0 && n + (size_t)r < sizeof seen) {
            memcpy(seen + n, data, (size_t)r);
            n += (size_t)r;
        }
        CHECK(memmem(seen, n, "secret", 6) == NULL);
        psocket_free(w);
    } else {
        CHECK_INT(net_error.code, PSOCKET_BUSY);
        psocket_free(c);
    }
    psocket_free(s);
    psocket_tls_free(tls);
}
