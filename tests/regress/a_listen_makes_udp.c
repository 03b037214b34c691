/* options.udp was ignored by psocket_listen: it makes the UDP endpoint. */
#define OLD_RAW_LISTEN 1
#include "a.h"

static void endpoint(const char *address, const char *ip, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket *s = NULL, *c = NULL, *none = NULL;
    char text[64] = "", me[64] = "";
    int port = 0, from = 0, mine = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, address, 0, &o) == 0);
    CHECK_INT(psocket_isudp(s), 1);
    CHECK_INT(psocket_getlocal(s, text, sizeof text, &port), 0);
    if (ip[0] != '*') CHECK_STR(text, ip);
    CHECK(port > 0);
    CHECK_INT(psocket_accept(s, &none), PSOCKET_INVALID);
    CHECK(none == NULL);
    CHECK_INT(psocket_hasconnection(s), PSOCKET_INVALID);
    A_AGREES(s, PSOCKET_INVALID);
    REQUIRE(psocket_connect(&c, ip[0] == '*' ? "127.0.0.1" : ip, port, &o) == 0);
    CHECK_INT(psocket_send(c, "hello", 5), 5);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(s), "hello");
    CHECK_INT(psocket_getpeer(s, text, sizeof text, &from), 0);
    CHECK_INT(psocket_getlocal(c, me, sizeof me, &mine), 0);
    CHECK_INT(from, mine);
    CHECK_STR(text, me);
    CHECK_INT(psocket_send(s, "answer", 6), 6);
    CHECK_INT(psocket_wait(c, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(c), "answer");
    psocket_free(c);
    psocket_free(s);
}

TEST(it_receives)
{
    psocket_options o = net_options(1);
    psocket *u = NULL;
    int i;
    o.udp = 1;
    for (i = 0; i < 2; i++) {
        endpoint("127.0.0.1", "127.0.0.1", i);
        endpoint(NULL, "*", i);
        if (psocket_listen(&u, "[::1]:0", 0, &o) == 0) endpoint("::1", "::1", i);
        psocket_free(u);
        u = NULL;
    }
}

TEST(the_port_is_taken)
{
    psocket_options o = net_options(1);
    psocket *a = NULL, *b = NULL;
    int port = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&a, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(a, NULL, 0, &port);
    CHECK_INT(psocket_listen(&b, "127.0.0.1", port, &o), PSOCKET_ADDRESS_IN_USE);
    CHECK(b == NULL);
    CHECK_INT(net_error.code, PSOCKET_ADDRESS_IN_USE);
    psocket_free(a);
}
