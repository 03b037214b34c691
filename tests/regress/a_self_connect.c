/* A connect to a local port where nobody listens connected to itself now and then: TCP's simultaneous open with the port
   that the system chose for this end. Local and peer address equal means that nobody listens: REFUSED. */
#include "a.h"

/* A network of its own with very few ephemeral ports. */
static int alone(void)
{
    FILE *f;
    if (!a_network()) return 0;
    f = fopen("/proc/sys/net/ipv4/ip_local_port_range", "w");
    if (!f) return 0;
    fprintf(f, "40000 40003\n");
    return fclose(f) == 0;
}

static void nobody_there(const char *host, int nonblocking, psocket_resolve_fn resolve)
{
    int i, port, r, refused = 0;
    for (i = 0; i < 200; i++) {
        psocket_options o = net_options(nonblocking);
        psocket *s = NULL;
        port = 40000 + i % 4;
        o.resolve = resolve;
        r = psocket_connect(&s, host, port, &o);
        if (nonblocking && r == 0) {
            int64_t end = check_now_ms() + 2000;
            while ((r = psocket_step(s)) != 0 && (r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE) && check_now_ms() < end)
                psocket_wait(s, PSOCKET_WRITE, 100);
            if (r) A_AGREES(s, r);
            if (r) CHECK_INT(psocket_isopen(s), 0);
        } else {
            CHECK(r == 0 || (s == NULL && net_error.code == r));
        }
        /* with all four ports in use for a moment the system has none to give */
        if (r == PSOCKET_REFUSED) refused++;
        else if (r != PSOCKET_ADDRESS_NOT_AVAILABLE) check_fail(__FILE__, __LINE__, "%s:%d: %s", host, port, psocket_codename(r));
        psocket_free(s);
    }
    CHECK(refused > 50);
}

static void to_loopback(void *user, psocket_resolve *r, const char *host)
{
    (void)user;
    (void)host;
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_add(r, "::1");
    psocket_resolve_done(r, 0);
}

TEST(nobody_listens)
{
    int i;
    if (!alone()) SKIP("cannot make a network namespace");
    for (i = 0; i < 2; i++) {
        nobody_there("127.0.0.1", i, NULL);
        nobody_there("::1", i, NULL);
        nobody_there("raced.test", i, to_loopback);
    }
}

/* UDP may talk to itself. */
TEST(udp_may)
{
    psocket_options o = net_options(0);
    psocket *s = NULL;
    int port = 0;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    CHECK_INT(psocket_setpeer(s, "127.0.0.1", port), 0);
    CHECK_INT(psocket_send(s, "me", 2), 2);
    CHECK_STR(a_recv(s), "me");
    psocket_free(s);
}
