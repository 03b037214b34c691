/* psocket_unrecv on a socket that still resolves or connects, then psocket_read of more than that or psocket_read_until:
   they read a transport that was not there. */
#include "a.h"

/* Everything that takes or looks, with 3 bytes put back in front of what cannot have come. */
static void ask(psocket *s, int blocking_would_wait)
{
    const void *data;
    ptrdiff_t n;
    int r = psocket_unrecv(s, "abc", 3);
    A_AGREES(s, r);
    if (r) return; /* an error is an answer too */
    CHECK_INT(psocket_pending(s), 3);
    n = psocket_peek(s, &data);
    CHECK_STR(net_text(n, &data), "abc");
    n = psocket_read(s, 10, &data);
    CHECK(n == PSOCKET_WANT_READ || n == PSOCKET_WANT_WRITE);
    n = psocket_read_until(s, "\n", 100, &data);
    CHECK(n == PSOCKET_WANT_READ || n == PSOCKET_WANT_WRITE);
    CHECK_INT(psocket_read_until(s, "z", 2, &data), PSOCKET_LIMIT);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 0) & ~PSOCKET_READ, 0);
    CHECK_INT(psocket_isopen(s) & ~1, 0);
    n = psocket_read_until(s, "b", 100, &data);
    CHECK_STR(net_text(n, &data), "ab");
    CHECK_INT(psocket_unrecv(s, "xyz", 3), 0);
    n = psocket_read(s, 3, &data);
    CHECK_STR(net_text(n, &data), "xyz");
    n = psocket_recv(s, &data);
    CHECK_STR(net_text(n, &data), "c");
    n = psocket_recv(s, &data);
    CHECK(n == PSOCKET_WANT_READ || n == PSOCKET_WANT_WRITE);
    CHECK_INT(psocket_unrecv(s, "left", 4), 0);
    (void)blocking_would_wait;
}

TEST(resolving)
{
    int udp;
    for (udp = 0; udp < 2; udp++) {
        psocket_options o = net_options(1);
        psocket_resolve *r = NULL;
        psocket *s = NULL;
        o.udp = udp;
        o.resolve = a_resolve_later;
        o.resolve_user = &r;
        REQUIRE(psocket_connect(&s, "example.test", 80, &o) == 0 && r);
        ask(s, 1);
        psocket_resolve_done(r, PSOCKET_DNS_NOT_FOUND);
        psocket_step(s);
        psocket_free(s);
    }
}

/* A blocking socket made so while it resolves. */
TEST(resolving_with_a_limit)
{
    psocket_options o = net_options(1);
    psocket_resolve *r = NULL;
    psocket *s = NULL;
    const void *data;
    o.resolve = a_resolve_later;
    o.resolve_user = &r;
    REQUIRE(psocket_connect(&s, "example.test", 80, &o) == 0 && r);
    CHECK_INT(psocket_unrecv(s, "abc", 3), 0);
    psocket_setnonblocking(s, 0);
    psocket_settimeout(s, 50);
    CHECK_INT(psocket_read(s, 10, &data), PSOCKET_TIMEOUT);
    psocket_free(s);
    psocket_resolve_done(r, 0);
}

/* Nobody accepts and the queue is full: further connections get no answer. */
TEST(connecting)
{
    psocket_options o = net_options(1);
    psocket *l = NULL, *c[12], *s = NULL;
    int i, port = 0;
    o.backlog = 1;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    for (i = 0; i < 12; i++) {
        REQUIRE(psocket_connect(&c[i], "127.0.0.1", port, &o) == 0);
        psocket_wait(c[i], PSOCKET_WRITE, 10);
        if (psocket_step(c[i]) == PSOCKET_WANT_WRITE || psocket_step(c[i]) == PSOCKET_WANT_READ) s = c[i];
    }
    REQUIRE(s != NULL);
    ask(s, 1);
    for (i = 0; i < 12; i++) psocket_free(c[i]);
    psocket_free(l);
}

TEST(handshaking)
{
    int server;
    for (server = 0; server < 2; server++) {
        psocket *c = NULL, *s = NULL;
        psocket_tls *tls = core_settings(server);
        const void *data;
        int r;
        REQUIRE(a_tcp(&c, &s, 1));
        r = psocket_starttls(server ? s : c, tls, server ? NULL : "localhost");
        CHECK(r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE);
        r = psocket_unrecv(server ? s : c, "abc", 3);
        A_AGREES(server ? s : c, r);
        r = (int)psocket_read(server ? s : c, 10, &data);
        CHECK(r < 0);
        r = (int)psocket_read_until(server ? s : c, "\n", 10, &data);
        CHECK(r < 0);
        psocket_tls_free(tls);
        psocket_free(c);
        psocket_free(s);
    }
}
