/* psocket_geterror said 0 after a clean TLS end, and older codes after CLOSED_HERE, INVALID, ALREADY_TLS and a repeated
   CLOSED; nothing of a closed listener; 0 without a text for a UDP read that answered LIMIT. */
#include "a.h"

static void agrees_after_end(psocket *s, int code)
{
    const void *data;
    ptrdiff_t n;
    int turn;
    for (turn = 0; turn < 2; turn++) {
        n = psocket_recv(s, &data);
        CHECK_INT(n, code);
        A_AGREES(s, n);
        n = psocket_send(s, NULL, 5); /* something else in between */
        CHECK_INT(n, PSOCKET_INVALID);
        A_AGREES(s, n);
        n = psocket_peek(s, &data);
        CHECK_INT(n, code);
        A_AGREES(s, n);
        n = psocket_read(s, (size_t)1 << 30, &data);
        CHECK_INT(n, PSOCKET_LIMIT);
        A_AGREES(s, n);
        n = psocket_read(s, 4, &data);
        CHECK_INT(n, code);
        A_AGREES(s, n);
        n = psocket_read_until(s, "", 4, &data);
        CHECK_INT(n, PSOCKET_INVALID);
        A_AGREES(s, n);
        n = psocket_read_until(s, "x", 4, &data);
        CHECK_INT(n, code);
        A_AGREES(s, n);
    }
}

static void agrees_after_close(psocket *s)
{
    const void *data;
    ptrdiff_t n;
    psocket_close(s);
    n = psocket_recv(s, &data);
    CHECK_INT(n, PSOCKET_CLOSED_HERE);
    A_AGREES(s, n);
    n = psocket_recv(s, NULL);
    CHECK_INT(n, PSOCKET_INVALID);
    A_AGREES(s, n);
    n = psocket_send(s, "x", 1);
    CHECK_INT(n, PSOCKET_CLOSED_HERE);
    A_AGREES(s, n);
    n = psocket_unrecv(s, NULL, 4);
    CHECK_INT(n, PSOCKET_INVALID);
    A_AGREES(s, n);
    n = psocket_shutdown(s);
    CHECK_INT(n, PSOCKET_CLOSED_HERE);
    A_AGREES(s, n);
    n = psocket_starttls(s, NULL, "localhost");
    CHECK_INT(n, PSOCKET_CLOSED_HERE);
    A_AGREES(s, n);
}

TEST(plain)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        psocket *c = NULL, *s = NULL;
        REQUIRE(a_tcp(&c, &s, mode));
        CHECK_INT(psocket_geterror(c, NULL), 0);
        CHECK_INT(psocket_send(s, "x", 1), 1);
        psocket_free(s);
        psocket_wait(c, PSOCKET_READ, 1000);
        CHECK_STR(a_recv(c), "x");
        psocket_wait(c, PSOCKET_READ, 1000);
        agrees_after_end(c, PSOCKET_CLOSED);
        agrees_after_close(c);
        psocket_free(c);
    }
}

TEST(tls)
{
    int mode;
    for (mode = 0; mode < 2; mode++) {
        psocket *c = NULL, *s = NULL;
        psocket_error e;
        ptrdiff_t n;
        REQUIRE(a_tls(&c, &s, mode));
        CHECK_INT(psocket_geterror(c, NULL), 0);
        n = psocket_starttls(c, NULL, "localhost");
        CHECK_INT(n, PSOCKET_ALREADY_TLS);
        A_AGREES(c, n);
        CHECK_INT(psocket_shutdown(s), 0);
        psocket_wait(c, PSOCKET_READ, 1000);
        CHECK_STR(a_recv(c), "CLOSED"); /* what the README's first program asks for */
        CHECK_INT(psocket_geterror(c, &e), PSOCKET_CLOSED);
        agrees_after_end(c, PSOCKET_CLOSED);
        agrees_after_close(c);
        psocket_free(c);
        psocket_free(s);
    }
}

TEST(tls_truncated)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tls(&c, &s, 0));
    shutdown((int)psocket_getfd(s), SHUT_WR);
    CHECK_STR(a_recv(c), "TRUNCATED");
    agrees_after_end(c, PSOCKET_TRUNCATED);
    agrees_after_close(c);
    psocket_free(c);
    psocket_free(s);
}

TEST(timeout_and_what_follows)
{
    psocket *c = NULL, *s = NULL;
    const void *data;
    ptrdiff_t n;
    REQUIRE(a_tcp(&c, &s, 0));
    psocket_settimeout(c, 20);
    CHECK_STR(a_recv(c), "TIMEOUT");
    n = psocket_read(c, 0, &data);
    CHECK_INT(n, PSOCKET_INVALID);
    A_AGREES(c, n);
    n = psocket_setpeer(c, "127.0.0.1", 1);
    CHECK(n < 0);
    A_AGREES(c, n);
    n = psocket_starttls(c, NULL, NULL);
    CHECK(n < 0);
    A_AGREES(c, n);
    psocket_free(c);
    psocket_free(s);
}

TEST(what_is_not_there)
{
    psocket *c = NULL, *s = NULL;
    psocket_tlsinfo info;
    psocket_options o = net_options(1);
    psocket_resolve *r = NULL;
    int n;
    REQUIRE(a_tcp(&c, &s, 0));
    n = psocket_gettlsinfo(c, &info);
    CHECK_INT(n, PSOCKET_INVALID);
    psocket_free(c);
    psocket_free(s);
    o.resolve = a_resolve_later;
    o.resolve_user = &r;
    REQUIRE(psocket_connect(&c, "later.test", 9, &o) == 0);
    psocket_resolve_done(r, PSOCKET_DNS_NOT_FOUND);
    n = psocket_step(c);
    CHECK_INT(n, PSOCKET_DNS_NOT_FOUND);
    A_AGREES(c, n);
    CHECK_STR(a_recv(c), "DNS_NOT_FOUND");
    n = psocket_unrecv(c, NULL, 1);
    CHECK_INT(n, PSOCKET_INVALID);
    A_AGREES(c, n);
    CHECK_STR(a_recv(c), "DNS_NOT_FOUND");
    agrees_after_close(c);
    psocket_free(c);
}

TEST(listener)
{
    int port, n, mode;
    for (mode = 0; mode < 2; mode++) {
        psocket_options o = net_options(mode);
        psocket *l = NULL, *s = NULL;
        o.timeout_ms = 20;
        REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
        CHECK_INT(psocket_getlocal(l, NULL, 0, &port), 0);
        CHECK_INT(psocket_geterror(l, NULL), 0);
        n = psocket_accept(l, &s);
        CHECK_INT(n, mode ? PSOCKET_WANT_READ : PSOCKET_TIMEOUT);
        A_AGREES(l, n);
        n = psocket_accept(l, NULL);
        CHECK_INT(n, PSOCKET_INVALID);
        A_AGREES(l, n);
        psocket_close(l);
        n = psocket_accept(l, &s);
        CHECK_INT(n, PSOCKET_CLOSED_HERE);
        A_AGREES(l, n);
        n = psocket_accept(l, NULL);
        CHECK_INT(n, PSOCKET_INVALID);
        A_AGREES(l, n);
        n = psocket_hasconnection(l);
        CHECK_INT(n, PSOCKET_CLOSED_HERE);
        A_AGREES(l, n);
        psocket_free(l);
    }
}

/* A read of n bytes takes them across datagrams as it does across chunks. */
TEST(udp_read_across_datagrams)
{
    psocket *c = NULL, *s = NULL;
    psocket_options o = net_options(0);
    const void *data;
    ptrdiff_t n;
    int port = 0;
    o.udp = 1;
    o.timeout_ms = 500;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    CHECK_INT(psocket_send(c, "ab", 2), 2);
    CHECK_INT(psocket_send(c, "cd", 2), 2);
    n = psocket_read(s, 4, &data);
    CHECK_STR(net_text(n, &data), "abcd");
    A_AGREES(s, n);
    CHECK_INT(psocket_send(c, "ef", 2), 2);
    n = psocket_read(s, 4, &data);
    CHECK_INT(n, PSOCKET_TIMEOUT);
    A_AGREES(s, n);
    CHECK_STR(a_recv(s), "ef");
    psocket_free(c);
    psocket_free(s);
}
