/* Options of sockets as the system has them, sockets made of what exists already, and waits that a signal ends. */
#include "net.h"
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/time.h>

static int number(psocket *s, int level, int name)
{
    int v = -1;
    socklen_t n = sizeof v;
    return getsockopt((int)psocket_getfd(s), level, name, &v, &n) ? -1 : v;
}

TEST(keepalive_is_inherited)
{
    psocket_options o = net_options(0);
    psocket *l = NULL, *c = NULL, *s = NULL;
    int port = 0;
    o.keepalive = 7;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0 && psocket_getlocal(l, NULL, 0, &port) == 0);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0 && psocket_accept(l, &s) == 0);
    CHECK_INT(number(c, SOL_SOCKET, SO_KEEPALIVE), 1);
    CHECK_INT(number(s, SOL_SOCKET, SO_KEEPALIVE), 1);
#ifdef TCP_KEEPIDLE
    CHECK_INT(number(c, IPPROTO_TCP, TCP_KEEPIDLE), 7);
    CHECK_INT(number(s, IPPROTO_TCP, TCP_KEEPIDLE), 7);
#endif
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
}

TEST(local_address_and_port)
{
    psocket_options o = net_options(0), plain = net_options(0);
    psocket_error e;
    psocket *l = NULL, *c = NULL, *s = NULL, *probe = NULL;
    char ip[64];
    int port = 0, own = 0, p = 0;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &plain) == 0 && psocket_getlocal(l, NULL, 0, &port) == 0);
    REQUIRE(psocket_listen(&probe, "127.0.0.3", 0, &plain) == 0 && psocket_getlocal(probe, NULL, 0, &own) == 0);
    psocket_free(probe);
    o.local = "127.0.0.3";
    o.local_port = own;
    o.error = &e;
    REQUIRE(CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), 0) && psocket_accept(l, &s) == 0);
    CHECK_INT(psocket_getpeer(s, ip, sizeof ip, &p), 0);
    CHECK_STR(ip, "127.0.0.3");
    CHECK_INT(p, own);
    psocket_free(c);
    psocket_free(s);
    o.local = "::1"; /* of another family than all of the host's addresses */
    o.local_port = 0;
    CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), PSOCKET_ADDRESS_NOT_AVAILABLE);
    o.local = "nonsense";
    CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), PSOCKET_INVALID);
    CHECK(c == NULL && e.code == PSOCKET_INVALID && e.text[0]);
    o.local = NULL;
    o.local_port = 65536;
    CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), PSOCKET_INVALID);
    psocket_free(l);
}

TEST(reuse_port)
{
    psocket_options o = net_options(0), shared = net_options(0);
    psocket *a = NULL, *b = NULL, *c = NULL;
    int port = 0, udp;
    shared.reuse_port = 1;
    for (udp = 0; udp < 2; udp++) {
        o.udp = shared.udp = udp;
        REQUIRE(psocket_listen(&a, "127.0.0.1", 0, &shared) == 0 && psocket_getlocal(a, NULL, 0, &port) == 0);
        CHECK_INT(psocket_listen(&b, "127.0.0.1", port, &shared), 0);
        CHECK_INT(psocket_listen(&c, "127.0.0.1", port, &o), PSOCKET_ADDRESS_IN_USE);
        psocket_free(a);
        psocket_free(b);
    }
}

/* "::" is all addresses, of both families, as it is to the system; so is no address at all. */
TEST(the_unspecified_address_takes_both)
{
    static const char *const places[] = { "::", "[::]:0", NULL };
    int i, v6only, port;
    for (i = 0; i < 6; i++) {
        psocket *l = NULL, *c = NULL;
        psocket_options o = net_options(0);
        o.v6only = v6only = i >= 3;
        CHECK_INT(psocket_listen(&l, places[i % 3], 0, &o), 0);
        psocket_getlocal(l, NULL, 0, &port);
        CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), v6only ? PSOCKET_REFUSED : 0);
        psocket_free(c);
        CHECK_INT(psocket_connect(&c, "::1", port, &o), 0);
        psocket_free(c);
        psocket_free(l);
    }
}

TEST(options_that_make_no_sense)
{
    psocket *s = NULL;
    psocket_error e;
    psocket_options o = net_options(0), silly;
    o.error = &e;
    silly = o;
    silly.keepalive = -1;
    CHECK_INT(psocket_listen(&s, "127.0.0.1", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "keepalive"));
    silly = o;
    silly.timeout_ms = -1;
    CHECK_INT(psocket_connect(&s, "127.0.0.1", 1, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "timeout_ms"));
    silly = o;
    silly.attempt_delay_ms = -250;
    CHECK_INT(psocket_connect(&s, "127.0.0.1", 1, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "attempt_delay_ms"));
    silly = o;
    silly.backlog = -5;
    CHECK_INT(psocket_listen(&s, "127.0.0.1", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "backlog"));
    silly = o;
    silly.multicast_ttl = -1;
    CHECK_INT(psocket_listen(&s, "127.0.0.1", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "multicast_ttl"));
    silly = o;
    silly.local = "127.0.0.1";
    CHECK_INT(psocket_connect(&s, "unix:/tmp/no.sock", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "path") && strstr(e.text, "local") && !s);
    silly = o;
    silly.local_port = 4000;
    CHECK_INT(psocket_connect(&s, "unix:/tmp/no.sock", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "path") && strstr(e.text, "local") && !s);
    silly = o;
    silly.broadcast = 1;
    CHECK_INT(psocket_listen(&s, "127.0.0.1", 0, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "UDP"));
    silly = o;
    silly.multicast_group = "239.0.0.1";
    CHECK_INT(psocket_connect(&s, "127.0.0.1", 1, &silly), PSOCKET_INVALID);
    CHECK(strstr(e.text, "UDP") && !s);
    silly.udp = 1;
    CHECK_INT(psocket_listen(&s, "127.0.0.1", 0, &silly), 0);
    psocket_free(s);
}

static ptrdiff_t no_bytes(void *user, void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_CLOSED;
}

static ptrdiff_t no_room(void *user, const void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_CLOSED;
}

static int no_end(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void no_close(void *user)
{
    (void)user;
}

static int no_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)user, (void)events, (void)fds, (void)cap, (void)ms;
    return 0;
}

/* udp is for connect and listen: a transport carries a stream, whatever its options say, and its end is an end. */
TEST(a_transport_is_a_stream)
{
    static const psocket_transport t = { no_bytes, no_room, no_end, no_close, no_wants };
    psocket *s = NULL;
    const void *data;
    psocket_options o = net_options(0);
    o.udp = 1;
    REQUIRE(psocket_open(&s, &t, NULL, PSOCKET_CLIENT, &o) == 0);
    CHECK_INT(psocket_isudp(s), 0);
    CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
    CHECK_INT(psocket_recv(s, &data), PSOCKET_CLOSED);
    CHECK_INT(psocket_recv(s, &data), PSOCKET_CLOSED);
    CHECK_INT(psocket_geterror(s, NULL), PSOCKET_CLOSED);
    psocket_free(s);
}

TEST(broadcast)
{
    psocket_options o = net_options(0);
    psocket *s = NULL;
    o.udp = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    CHECK_INT(number(s, SOL_SOCKET, SO_BROADCAST), 0);
    psocket_free(s);
    o.broadcast = 1;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    CHECK_INT(number(s, SOL_SOCKET, SO_BROADCAST), 1);
    psocket_free(s);
}

static void group(const char *address, const char *any)
{
    psocket_options o = net_options(0);
    psocket_error e;
    psocket *in = NULL, *out = NULL;
    int port = 0, r;
    o.udp = 1;
    o.timeout_ms = 2000;
    o.error = &e;
    o.multicast_interface = "lo";
    o.multicast_ttl = 3;
    o.multicast_group = address;
    r = psocket_listen(&in, any, 0, &o);
    if (!CHECK_INT(r, 0)) return;
    psocket_getlocal(in, NULL, 0, &port);
    o.multicast_group = NULL;
    o.multicast_noloop = 1;
    r = psocket_connect(&out, address, port, &o); /* Linux has no route to IPv6 groups over lo unless somebody made one */
    if (!r) {
        int v6 = strchr(address, ':') != NULL, level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
        CHECK_INT(number(out, level, v6 ? IPV6_MULTICAST_LOOP : IP_MULTICAST_LOOP), 0);
        CHECK_INT(number(out, level, v6 ? IPV6_MULTICAST_HOPS : IP_MULTICAST_TTL), 3);
        CHECK_INT(psocket_send(out, "to all", 6), 6);
        CHECK_STR(net_recv(in), "to all");
    } else {
        CHECK_INT(r, PSOCKET_UNREACHABLE);
    }
    psocket_free(out);
    psocket_free(in);
    o.multicast_group = "not an address";
    CHECK_INT(psocket_listen(&in, any, 0, &o), PSOCKET_INVALID);
    o.multicast_group = address;
    o.multicast_interface = "no such interface";
    CHECK_INT(psocket_listen(&in, any, 0, &o), PSOCKET_INVALID);
    CHECK(e.text[0] != 0);
}

TEST(multicast)
{
    group("239.1.2.3", "0.0.0.0");
    group("ff02::1234", "::");
}

TEST(adopted)
{
    psocket_options o = net_options(0);
    psocket *l = NULL, *c = NULL, *s = NULL, *u = NULL, *w = NULL;
    struct sockaddr_in sa;
    socklen_t n = sizeof sa;
    int fds[2], port = 0;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    REQUIRE(psocket_adopt(&c, fds[0], PSOCKET_CLIENT, &o) == 0 && psocket_adopt(&s, fds[1], PSOCKET_SERVER, &o) == 0);
    CHECK_INT(psocket_send(c, "hi", 2), 2);
    CHECK_STR(net_recv(s), "hi");
    CHECK_INT(psocket_getside(s), PSOCKET_SERVER);
    psocket_free(c);
    CHECK_STR(net_recv(s), "CLOSED");
    psocket_free(s);
    memset(&sa, 0, sizeof sa); /* a listener, as from socket activation */
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(bind(fds[0], (struct sockaddr *)&sa, n) == 0 && listen(fds[0], 5) == 0);
    REQUIRE(CHECK_INT(psocket_adopt(&l, fds[0], PSOCKET_SERVER, &o), 0));
    psocket_getlocal(l, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    CHECK_INT(psocket_accept(l, &s), 0);
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
    fds[0] = socket(AF_INET, SOCK_DGRAM, 0);
    REQUIRE(bind(fds[0], (struct sockaddr *)&sa, n) == 0 && psocket_adopt(&u, fds[0], PSOCKET_SERVER, &o) == 0);
    CHECK_INT(psocket_isudp(u), 1);
    psocket_getlocal(u, NULL, 0, &port);
    o.udp = 1;
    REQUIRE(psocket_connect(&w, "127.0.0.1", port, &o) == 0);
    CHECK_INT(psocket_send(w, "dgram", 5), 5);
    CHECK_STR(net_recv(u), "dgram");
    CHECK_INT(psocket_send(u, "back", 4), 4);
    CHECK_STR(net_recv(w), "back");
    psocket_free(u);
    psocket_free(w);
    REQUIRE(pipe(fds) == 0); /* what is no socket stays the caller's */
    CHECK_INT(psocket_adopt(&c, fds[0], PSOCKET_CLIENT, &o), PSOCKET_INVALID);
    CHECK(c == NULL && fcntl(fds[0], F_GETFD) != -1);
    CHECK_INT(psocket_adopt(&c, -1, PSOCKET_CLIENT, &o), PSOCKET_INVALID);
    close(fds[0]);
    close(fds[1]);
}

static volatile sig_atomic_t rang;
static void on_alarm(int n)
{
    rang += n == SIGALRM;
}

static void alarm_in(int ms)
{
    struct itimerval t;
    memset(&t, 0, sizeof t);
    t.it_value.tv_usec = ms * 1000;
    setitimer(ITIMER_REAL, &t, NULL);
}

/* A wait goes on after a signal, unless it is asked to tell. */
TEST(signals)
{
    struct sigaction act;
    psocket_options o = net_options(1);
    psocket_poller *p = NULL;
    psocket_watch *w = NULL;
    const psocket_event *ev;
    psocket *a = NULL, *b = NULL;
    int64_t start;
    memset(&act, 0, sizeof act);
    act.sa_handler = on_alarm;
    sigaction(SIGALRM, &act, NULL);
    REQUIRE(psocket_pair(&a, &b, &o) == 0 && psocket_poller_new(&p) == 0);
    start = psocket_now();
    alarm_in(20);
    CHECK_INT(psocket_wait(a, PSOCKET_READ, 100), 0);
    CHECK(psocket_now() - start >= 100);
    alarm_in(20);
    CHECK_INT(psocket_wait(a, PSOCKET_READ | PSOCKET_SIGNAL, 5000), PSOCKET_SIGNAL);
    CHECK_INT(rang, 2);
    psocket_poller_set(p, a, PSOCKET_READ, -1, a);
    start = psocket_now();
    alarm_in(20);
    CHECK_INT(psocket_poller_wait(p, &ev, 100), 0);
    CHECK(psocket_now() - start >= 100);
    CHECK_INT(psocket_poller_watch(p, &w, -1, PSOCKET_SIGNAL, -1, &act), 0);
    alarm_in(20);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK(ev[0].user == &act && ev[0].events == PSOCKET_SIGNAL);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    psocket_watch_free(w);
    psocket_poller_free(p);
    psocket_free(a);
    psocket_free(b);
}
