/* UDP, Unix-domain sockets, pairs, sockets carried by sockets, the connection race. */
#include "net.h"

TEST(udp_echo)
{
    static const char *const hosts[] = { "127.0.0.1", "::1", "localhost" };
    size_t i;
    for (i = 0; i < 3; i++) {
        psocket_options o = net_options(0);
        psocket *serv = NULL, *c = NULL;
        char ip[64];
        int port = 0, p = 0;
        o.udp = 1;
        REQUIRE(CHECK_INT(psocket_listen(&serv, i == 1 ? "::1" : i == 0 ? "127.0.0.1" : NULL, 0, &o), 0));
        psocket_getlocal(serv, NULL, 0, &port);
        REQUIRE(CHECK_INT(psocket_connect(&c, hosts[i], port, &o), 0));
        CHECK_INT(psocket_isudp(c), 1);
        CHECK_INT(psocket_isudp(serv), 1);
        CHECK_INT(psocket_getside(serv), PSOCKET_SERVER);
        CHECK_INT(psocket_getpeer(serv, ip, sizeof ip, &p), PSOCKET_INVALID);
        CHECK_INT(psocket_send(c, "one", 3), 3);
        CHECK_INT(psocket_send(c, "", 0), 0);
        CHECK_INT(psocket_send(c, "three", 5), 5);
        CHECK_STR(net_recv(serv), "one");
        CHECK_INT(psocket_getpeer(serv, ip, sizeof ip, &p), 0);
        if (i != 2) CHECK_STR(ip, hosts[i]);
        CHECK_STR(net_recv(serv), "");
        CHECK_STR(net_recv(serv), "three");
        CHECK_INT(psocket_send(serv, "back", 4), 4);
        CHECK_STR(net_recv(c), "back");
        CHECK_INT(psocket_starttls(c, NULL, "x"), PSOCKET_UNSUPPORTED);
        psocket_settimeout(serv, 20);
        CHECK_STR(net_recv(serv), "TIMEOUT");
        CHECK_INT(psocket_isopen(serv), 1);
        psocket_free(c);
        psocket_free(serv);
    }
}

TEST(udp_largest_datagram)
{
    static char big[65507], over[65536];
    psocket_options o = net_options(0);
    psocket *serv, *c;
    const void *data;
    int port = 0;
    size_t i;
    for (i = 0; i < sizeof big; i++) big[i] = (char)(i * 7);
    o.udp = 1;
    REQUIRE(psocket_listen(&serv, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(serv, NULL, 0, &port);
    REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    CHECK_INT(psocket_send(c, big, sizeof big), sizeof big);
    CHECK_INT(psocket_recv(serv, &data), sizeof big);
    CHECK_MEM(data, big, sizeof big);
    CHECK_INT(psocket_send(c, over, sizeof over), PSOCKET_MESSAGE_SIZE);
    CHECK_INT(psocket_send(c, "still", 5), 5);
    CHECK_STR(net_recv(serv), "still");
    psocket_free(c);
    psocket_free(serv);
}

TEST(udp_peers)
{
    psocket_options o = net_options(0);
    psocket *a, *b, *c;
    int pa = 0, pb = 0, p = 0;
    char ip[64];
    o.udp = 1;
    REQUIRE(psocket_listen(&a, NULL, 0, &o) == 0 && psocket_listen(&b, NULL, 0, &o) == 0);
    psocket_getlocal(a, NULL, 0, &pa);
    psocket_getlocal(b, NULL, 0, &pb);
    CHECK_INT(psocket_send(a, "x", 1), PSOCKET_INVALID); /* no peer yet */
    CHECK_INT(psocket_setpeer(a, "127.0.0.1", pb), 0);   /* IPv4 through an IPv6 socket */
    CHECK_INT(psocket_send(a, "v4", 2), 2);
    CHECK_STR(net_recv(b), "v4");
    psocket_getpeer(b, ip, sizeof ip, &p);
    CHECK_STR(ip, "127.0.0.1");
    CHECK_INT(p, pa);
    CHECK_INT(psocket_setpeer(a, "::1", pb), 0);
    CHECK_INT(psocket_send(a, "v6", 2), 2);
    CHECK_STR(net_recv(b), "v6");
    CHECK_INT(psocket_setpeer(a, "nonsense", pb), PSOCKET_INVALID);
    CHECK_INT(psocket_setpeer(a, "127.0.0.1", 0), PSOCKET_INVALID);
    psocket_free(b);
    o.udp = 1;
    o.timeout_ms = 200;
    REQUIRE(psocket_connect(&c, "127.0.0.1", pb, &o) == 0);
    psocket_send(c, "nobody", 6);
    CHECK_STR(net_recv(c), "REFUSED"); /* by ICMP */
    CHECK_INT(psocket_isopen(c), 1);   /* and that is not the end of a UDP socket */
    CHECK_INT(psocket_setpeer(c, "127.0.0.1", pa), 0);
    CHECK_INT(psocket_send(c, "hi", 2), 2);
    CHECK_STR(net_recv(a), "hi");
    psocket_free(c);
    psocket_free(a);
}

TEST(unix_sockets)
{
    psocket_options o = net_options(0);
    psocket *l, *l2;
    psocket *c, *s;
    char dir[] = "/tmp/psocket-test-XXXXXX", address[64], ip[128];
    int port = -1;
    REQUIRE(mkdtemp(dir));
    snprintf(address, sizeof address, "unix:%s/s", dir);
    REQUIRE(CHECK_INT(psocket_listen(&l, address, 0, &o), 0));
    CHECK_INT(psocket_getlocal(l, ip, sizeof ip, &port), 0);
    CHECK_STR(ip, address + 5);
    CHECK_INT(psocket_listen(&l2, address, 0, &o), PSOCKET_ADDRESS_IN_USE);
    REQUIRE(CHECK_INT(psocket_connect(&c, address, 0, &o), 0));
    REQUIRE(CHECK_INT(psocket_accept(l, &s), 0));
    psocket_send(c, "ping", 4);
    CHECK_STR(net_recv(s), "ping");
    psocket_free(s);
    CHECK_STR(net_recv(c), "CLOSED");
    psocket_free(c);
    psocket_free(l);
    CHECK(access(address + 5, F_OK) != 0);
    CHECK_INT(psocket_connect(&c, address, 0, &o), PSOCKET_REFUSED);
    CHECK(strstr(net_error.text, address + 5) != NULL);
    /* a path left behind by a process that died */
    if (fork() == 0) {
        if (psocket_listen(&l, address, 0, &o)) _exit(1);
        _exit(0);
    }
    {
        int status;
        wait(&status);
        CHECK_INT(status, 0);
    }
    CHECK(access(address + 5, F_OK) == 0);
    REQUIRE(CHECK_INT(psocket_listen(&l, address, 0, &o), 0));
    psocket_free(l);
    rmdir(dir);
}

TEST(pair_segments_and_delay)
{
    psocket_options o = net_options(0);
    psocket *a, *b;
    int64_t start;
    REQUIRE(link_pair(&a, &b, 3, 20, &o) == 0);
    CHECK_INT(psocket_getside(a), PSOCKET_CLIENT);
    CHECK_INT(psocket_getside(b), PSOCKET_SERVER);
    start = psocket_now();
    CHECK_INT(psocket_send(a, "abcdefgh", 8), 8);
    CHECK_STR(net_peek(b), "WANT_READ");
    CHECK_STR(net_recv(b), "abc");
    CHECK(psocket_now() - start >= 20);
    CHECK_STR(net_recv(b), "def");
    CHECK_STR(net_recv(b), "gh");
    psocket_setnonblocking(b, 1);
    CHECK_STR(net_recv(b), "WANT_READ");
    psocket_setnonblocking(b, 0);
    psocket_settimeout(b, 10);
    CHECK_STR(net_recv(b), "TIMEOUT");
    psocket_settimeout(b, 0);
    psocket_shutdown(a);
    CHECK_STR(net_recv(b), "CLOSED");
    CHECK_INT(psocket_send(b, "bak", 3), 3);
    CHECK_STR(net_recv(a), "bak");
    psocket_free(a);
    CHECK_INT(psocket_send(b, "x", 1), PSOCKET_RESET);
    psocket_free(b);
}

TEST(pair_is_bounded)
{
    psocket_options o = net_options(1);
    psocket *a, *b;
    static char block[50000];
    ptrdiff_t n;
    size_t sent = 0, got = 0;
    const void *data;
    REQUIRE(link_pair(&a, &b, 1000, 0, &o) == 0);
    while ((n = psocket_send(a, block, sizeof block)) > 0) sent += (size_t)n;
    CHECK_INT(n, PSOCKET_WANT_WRITE);
    CHECK_INT(sent, 65536);
    while ((n = psocket_recv(b, &data)) > 0) got += (size_t)n;
    CHECK_INT(got, sent);
    CHECK(psocket_send(a, block, 10) == 10);
    psocket_free(b);
    psocket_free(a);
}

TEST(pair_in_a_poller)
{
    psocket_options o = net_options(1);
    psocket_poller *p;
    const psocket_event *ev;
    psocket *a, *b;
    REQUIRE(psocket_poller_new(&p) == 0 && link_pair(&a, &b, 0, 15, &o) == 0);
    psocket_poller_set(p, b, PSOCKET_READ, -1, &b);
    psocket_poller_set(p, a, PSOCKET_WRITE, -1, &a);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK(ev[0].user == &a && ev[0].events == PSOCKET_WRITE);
    psocket_poller_set(p, a, PSOCKET_READ, -1, &a);
    psocket_send(a, "hi", 2);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK(ev[0].user == &b);
    CHECK_STR(net_recv(b), "hi");
    CHECK_INT(psocket_poller_wait(p, &ev, 5), 0);
    psocket_free(b);
    CHECK_INT(psocket_poller_wait(p, &ev, 5000), 1);
    CHECK_STR(net_recv(a), "CLOSED");
    psocket_poller_free(p);
    psocket_free(a);
}

TEST(carried_by_another_socket)
{
    psocket_options o = net_options(0);
    psocket *c, *s, *cw = NULL, *sw = NULL;
    static char block[200000];
    const void *data;
    size_t i, got = 0;
    ptrdiff_t n;
    int sent = 0;
    REQUIRE(net_pair(&c, &s));
    REQUIRE(CHECK_INT(psocket_wrap(&cw, c, &o), 0) && CHECK_INT(psocket_wrap(&sw, s, &o), 0));
    CHECK_INT(psocket_send(cw, "through", 7), 7);
    CHECK_STR(net_recv(sw), "through");
    for (i = 0; i < sizeof block; i++) block[i] = (char)(i % 251);
    psocket_setnonblocking(cw, 1);
    psocket_setnonblocking(sw, 1);
    while (got < sizeof block) {
        if ((size_t)sent < sizeof block && (n = psocket_send(cw, block + sent, sizeof block - (size_t)sent)) > 0) sent += (int)n;
        n = psocket_recv(sw, &data);
        if (n == PSOCKET_WANT_READ) psocket_wait(sw, PSOCKET_READ, 100);
        else if (n < 0 && !CHECK_INT(n, 0)) break;
        else {
            CHECK_MEM(data, block + got, n);
            got += (size_t)n;
        }
    }
    psocket_setnonblocking(sw, 0);
    psocket_shutdown(cw);
    CHECK_STR(net_recv(sw), "CLOSED");
    psocket_free(cw);
    psocket_free(sw);
}

/*--- the connection race */

static const char *race_addresses[8];

static void race_resolve(void *user, psocket_resolve *r, const char *host)
{
    const char **a = (const char **)user;
    CHECK_STR(host, "race.test");
    while (*a) CHECK_INT(psocket_resolve_add(r, *a++), 0);
    psocket_resolve_done(r, 0);
}

/* A listener whose queue is full drops SYNs: on Linux a black hole that answers nobody. */
static int black_hole(int *port, int *fds)
{
    struct sockaddr_in sa;
    socklen_t n = sizeof sa;
    int i;
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(0x7f000002);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fds[0], (struct sockaddr *)&sa, n) || listen(fds[0], 0) || getsockname(fds[0], (struct sockaddr *)&sa, &n)) return 0;
    *port = ntohs(sa.sin_port);
    for (i = 1; i < 4; i++) {
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(fds[i], (struct sockaddr *)&sa, n);
    }
    return 1;
}

TEST(second_address_wins_over_a_black_hole)
{
    psocket_options o = net_options(0);
    psocket *l;
    psocket *c;
    char address[32], ip[64];
    int port = 0, fds[4], i;
    int64_t start;
    REQUIRE(black_hole(&port, fds));
    snprintf(address, sizeof address, "127.0.0.3:%d", port);
    REQUIRE(CHECK_INT(psocket_listen(&l, address, 0, NULL), 0));
    race_addresses[0] = "127.0.0.2";
    race_addresses[1] = "127.0.0.3";
    race_addresses[2] = NULL;
    o.resolve = race_resolve;
    o.resolve_user = race_addresses;
    start = psocket_now();
    REQUIRE(CHECK_INT(psocket_connect(&c, "race.test", port, &o), 0));
    CHECK(psocket_now() - start >= 240);
    CHECK(psocket_now() - start < 600);
    psocket_getpeer(c, ip, sizeof ip, NULL);
    CHECK_STR(ip, "127.0.0.3");
    psocket_free(c);
    o.timeout_ms = 100; /* the black hole alone */
    race_addresses[1] = NULL;
    CHECK_INT(psocket_connect(&c, "race.test", port, &o), PSOCKET_TIMEOUT);
    CHECK(strstr(net_error.text, "127.0.0.2") != NULL);
    CHECK(strstr(net_error.text, "timed out") != NULL);
    psocket_free(l);
    for (i = 0; i < 4; i++) close(fds[i]);
}

TEST(all_refused_lists_each)
{
    psocket_options o = net_options(0);
    psocket *c;
    int port = 0;
    psocket_free(net_listen(NULL, &port));
    race_addresses[0] = "127.0.0.1";
    race_addresses[1] = "127.0.0.2";
    race_addresses[2] = "::1";
    race_addresses[3] = NULL;
    o.resolve = race_resolve;
    o.resolve_user = race_addresses;
    CHECK_INT(psocket_connect(&c, "race.test", port, &o), PSOCKET_REFUSED);
    CHECK(strstr(net_error.text, "race.test") && strstr(net_error.text, "127.0.0.1:") && strstr(net_error.text, "127.0.0.2:") &&
          strstr(net_error.text, "[::1]:"));
    race_addresses[0] = NULL;
    CHECK_INT(psocket_connect(&c, "race.test", port, &o), PSOCKET_DNS_NOT_FOUND);
}

/* A resolver that answers later, from another thread; and one whose socket is gone by then. */
#include <pthread.h>
static void *later(void *p)
{
    psocket_resolve *r = (psocket_resolve *)p;
    poll(NULL, 0, 60);
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_done(r, 0);
    return NULL;
}
static pthread_t later_thread;
static void resolve_later(void *user, psocket_resolve *r, const char *host)
{
    (void)user;
    (void)host;
    pthread_create(&later_thread, NULL, later, r);
}

TEST(asynchronous_resolver)
{
    psocket_options o = net_options(1);
    psocket *l;
    psocket *c, *gone;
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    int port = 0, ms = -1;
    l = net_listen("127.0.0.1", &port);
    o.resolve = resolve_later;
    REQUIRE(psocket_connect(&c, "later.test", port, &o) == 0);
    CHECK_INT(psocket_step(c), PSOCKET_WANT_READ);
    CHECK_INT(psocket_pollset(c, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms), 1); /* the lookup's descriptor */
    CHECK_INT(ms, -1);
    CHECK_INT(psocket_wait(c, PSOCKET_WRITE, 5000), PSOCKET_WRITE);
    pthread_join(later_thread, NULL);
    CHECK_INT(psocket_send(c, "x", 1), 1);
    psocket_free(c);
    REQUIRE(psocket_connect(&gone, "later.test", port, &o) == 0);
    psocket_free(gone); /* cancels; the answer finds nobody */
    pthread_join(later_thread, NULL);
    o.nonblocking = 0;
    CHECK_INT(psocket_connect(&c, "later.test", port, &o), 0);
    pthread_join(later_thread, NULL);
    psocket_free(c);
    psocket_free(l);
}

/* Waiting for a name, and for an address that does not answer, uses no CPU. */
TEST(waiting_to_connect_is_idle)
{
    psocket_options o = net_options(1);
    psocket_poller *p;
    const psocket_event *ev;
    psocket *c, *d;
    struct rusage before, after;
    int port = 0, fds[4], i, n;
    double cpu;
    REQUIRE(black_hole(&port, fds));
    REQUIRE(psocket_poller_new(&p) == 0);
    o.resolve = resolve_later;
    REQUIRE(psocket_connect(&c, "later.test", port, &o) == 0);
    o.resolve = NULL;
    REQUIRE(psocket_connect(&d, "127.0.0.2", port, &o) == 0);
    psocket_poller_set(p, c, PSOCKET_WRITE, -1, &c);
    psocket_poller_set(p, d, PSOCKET_WRITE, 400, &d);
    getrusage(RUSAGE_SELF, &before);
    for (i = 0; i < 20; i++) {
        n = psocket_poller_wait(p, &ev, 2000);
        REQUIRE(n > 0);
        if (ev[0].user == &d) break;
        psocket_poller_set(p, c, 0, -1, NULL);
    }
    getrusage(RUSAGE_SELF, &after);
    cpu = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec - before.ru_stime.tv_sec) +
          1e-6 * (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    CHECK(ev[0].user == &d && ev[0].events == 0);
    CHECK(cpu < 0.1);
    pthread_join(later_thread, NULL);
    psocket_free(c);
    psocket_free(d);
    psocket_poller_free(p);
    for (i = 0; i < 4; i++) close(fds[i]);
}

TEST(many_lookups_and_cancellations)
{
    psocket_options o = net_options(1);
    psocket *c[40];
    int i;
    for (i = 0; i < 40; i++) REQUIRE(psocket_connect(&c[i], "localhost", 9, &o) == 0);
    for (i = 0; i < 20; i++) psocket_free(c[i]);
    for (i = 20; i < 40; i++) {
        CHECK(psocket_wait(c[i], PSOCKET_WRITE, 5000) != 0);
        psocket_free(c[i]);
    }
    for (i = 0; i < 200; i++) poll(NULL, 0, 1); /* let the helper threads leave before leaks are counted */
}
