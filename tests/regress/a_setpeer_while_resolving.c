/* psocket_setpeer on a UDP socket that still resolves was overwritten by the answer. */
#include "a.h"

static void peer_is(psocket *s, const char *want_ip, int want_port)
{
    char ip[64] = "";
    int port = 0;
    CHECK_INT(psocket_getpeer(s, ip, sizeof ip, &port), 0);
    CHECK_STR(ip, want_ip);
    CHECK_INT(port, want_port);
}

/* end: 0 the answer comes, 1 the name is not found, 2 it never comes */
static void overtaken(int end)
{
    psocket_options o = net_options(1);
    psocket_resolve *r = NULL;
    psocket *s = NULL, *u = NULL;
    int port = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&u, "127.0.0.2", 0, &o) == 0);
    psocket_getlocal(u, NULL, 0, &port);
    o.resolve = a_resolve_later;
    o.resolve_user = &r;
    REQUIRE(psocket_connect(&s, "name.test", 9999, &o) == 0 && r);
    CHECK(psocket_getpeer(s, NULL, 0, NULL) == PSOCKET_INVALID);
    CHECK_INT(psocket_setpeer(s, "127.0.0.2", port), 0);
    peer_is(s, "127.0.0.2", port);
    if (end == 0) psocket_resolve_add(r, "127.0.0.1");
    if (end < 2) psocket_resolve_done(r, end ? PSOCKET_DNS_NOT_FOUND : 0);
    CHECK_INT(psocket_step(s), 0);
    peer_is(s, "127.0.0.2", port);
    CHECK_INT(psocket_send(s, "hello", 5), 5);
    CHECK_INT(psocket_wait(u, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(u), "hello");
    psocket_free(s);
    if (end == 2) psocket_resolve_done(r, 0);
    psocket_free(u);
}

TEST(setpeer_stays)
{
    int i;
    for (i = 0; i < 3; i++) overtaken(i);
}

/* A peer of the other family, and one that is refused: the lookup goes on. */
TEST(a_refused_one_changes_nothing)
{
    psocket_options o = net_options(1);
    psocket_resolve *r = NULL;
    psocket *s = NULL;
    o.udp = 1;
    o.resolve = a_resolve_later;
    o.resolve_user = &r;
    REQUIRE(psocket_connect(&s, "name.test", 9999, &o) == 0 && r);
    CHECK_INT(psocket_setpeer(s, "not numeric", 7777), PSOCKET_INVALID);
    CHECK_INT(psocket_setpeer(s, "127.0.0.2", 0), PSOCKET_INVALID);
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_done(r, 0);
    CHECK_INT(psocket_step(s), 0);
    peer_is(s, "127.0.0.1", 9999);
    psocket_free(s);
}

TEST(the_other_family)
{
    psocket_options o = net_options(1);
    psocket_resolve *r = NULL;
    psocket *s = NULL, *u = NULL;
    int port = 0;
    o.udp = 1;
    if (psocket_listen(&u, "::1", 0, &o)) SKIP("no IPv6");
    psocket_getlocal(u, NULL, 0, &port);
    o.resolve = a_resolve_later;
    o.resolve_user = &r;
    REQUIRE(psocket_connect(&s, "name.test", 9999, &o) == 0 && r);
    CHECK_INT(psocket_setpeer(s, "::1", port), 0);
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_done(r, 0);
    CHECK_INT(psocket_step(s), 0);
    peer_is(s, "::1", port);
    CHECK_INT(psocket_send(s, "six", 3), 3);
    CHECK_INT(psocket_wait(u, PSOCKET_READ, 1000), PSOCKET_READ);
    CHECK_STR(a_recv(u), "six");
    psocket_free(s);
    psocket_free(u);
}
