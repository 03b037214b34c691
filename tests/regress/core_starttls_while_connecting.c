/* psocket_starttls on a socket that was still connecting answered WANT_*, as it does for a handshake under way, but forgot
   the request: what was sent after psocket_step or psocket_wait went out in the clear. */
#include "core.h"

static psocket_resolve *asked;

static void later(void *user, psocket_resolve *r, const char *host)
{
    (void)user;
    (void)host;
    asked = r;
}

TEST(nothing_goes_out_in_the_clear)
{
    psocket_options o = net_options(1);
    psocket_tls *tls = core_settings(0);
    psocket *l;
    psocket *c = NULL, *s = NULL;
    int port = 0, r, turns;
    const void *data = "";
    ptrdiff_t n;
    l = net_listen("127.0.0.1", &port);
    o.resolve = later;
    REQUIRE(psocket_connect(&c, "localhost", port, &o) == 0 && asked);
    r = psocket_starttls(c, tls, "localhost");
    CHECK_INT(psocket_resolve_add(asked, "127.0.0.1"), 0);
    psocket_resolve_done(asked, 0);
    if (r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE) { /* "call psocket_step, psocket_wait or a data call to carry on" */
        psocket_wait(c, PSOCKET_WRITE, 100);
        REQUIRE(psocket_accept(l, &s) == 0);
        for (turns = 0; turns < 20; turns++) {
            psocket_send(c, "secret", 6);
            psocket_wait(c, PSOCKET_READ, 5);
        }
        psocket_setnonblocking(s, 1);
        psocket_wait(s, PSOCKET_READ, 1000);
        n = psocket_recv(s, &data);
        CHECK(n > 0);
        CHECK(n < 6 || memcmp(data, "secret", 6) != 0);
        CHECK(n > 0 && *(const unsigned char *)data == 22); /* a handshake record */
    } else {
        CHECK_INT(r, PSOCKET_BUSY); /* refused: nobody can think that TLS has begun */
    }
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
    psocket_tls_free(tls);
}
