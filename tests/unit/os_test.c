/* >>os from inside: what platform.c, which runs on every system, does not reach. Linux. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int os;

/* A datagram, and who sent it. */
static ptrdiff_t get_from(psocket_fd fd, void *p, size_t n, psi_addr *from)
{
    psi_os_sockaddr sa;
    ptrdiff_t got = psi_os_get(fd, p, n, &sa, &os);
    if (got >= 0) psi_os_from_sockaddr(from, &sa);
    return got;
}

static psi_addr addr(const char *text, int port)
{
    psi_addr a;
    CHECK(psi_addr_parse(&a, text, strlen(text)));
    a.port = (uint16_t)port;
    return a;
}

static int option(psocket_fd fd, int level, int name)
{
    int value = -1;
    socklen_t n = sizeof value;
    CHECK(getsockopt((int)fd, level, name, &value, &n) == 0);
    return n == 1 ? *(unsigned char *)&value : value;
}

static psocket_fd bound(const char *text, int udp, int flags, int backlog, int *port, int want)
{
    psi_addr a = addr(text, *port);
    psocket_fd fd;
    int r = psi_os_socket(&fd, a.family, udp, &os);
    CHECK_INT(r, 0);
    r = psi_os_bind(fd, &a, NULL, flags | (udp ? PSI_OS_DATAGRAMS : 0), &os);
    if (!r && backlog) r = psi_os_listen(fd, NULL, backlog, &os);
    CHECK_INT(r, want);
    if (!r && psi_os_getname(fd, 0, &a, NULL, 0) == 0) *port = a.port;
    if (!r) return fd;
    psi_os_close(fd);
    return -1;
}

TEST(codes)
{
    CHECK_INT(psi_os_code(ECONNREFUSED), PSOCKET_REFUSED);
    CHECK_INT(psi_os_code(ENOMEM), PSOCKET_NOMEM);
    CHECK_INT(psi_os_code(ENOBUFS), PSOCKET_NOMEM);
    CHECK_INT(psi_os_code(ENFILE), PSOCKET_DESCRIPTORS);
    CHECK_INT(psi_os_code(EPERM), PSOCKET_ACCESS);
    CHECK_INT(psi_os_code(EOPNOTSUPP), PSOCKET_UNSUPPORTED);
    CHECK_INT(psi_os_code(EXDEV), PSOCKET_OS);
    CHECK_INT(psi_os_code(0), PSOCKET_OS);
}

TEST(stream_settings)
{
    psi_os_settings set;
    psocket_fd fd;
    memset(&set, 0, sizeof set);
    REQUIRE(psi_os_socket(&fd, PSI_IP4, 0, &os) == 0);
    CHECK_INT(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
    CHECK_INT(psi_os_set(fd, PSI_IP4, 0, &set, &os), 0);
    CHECK_INT(option(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    set.opt.keepalive = 7;
    CHECK_INT(psi_os_set(fd, PSI_IP4, 0, &set, &os), 0);
    CHECK_INT(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    CHECK_INT(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 7);
    CHECK_INT(option(fd, IPPROTO_TCP, TCP_KEEPINTVL), 3); /* three of them take as long again */
    CHECK_INT(option(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    set.opt.keepalive = INT_MAX; /* more than the system takes */
    CHECK_INT(psi_os_set(fd, PSI_IP4, 0, &set, &os), 0);
    CHECK_INT(option(fd, IPPROTO_TCP, TCP_KEEPIDLE), 32767);
    psi_os_close(fd);
}

TEST(datagram_settings)
{
    psi_os_settings set;
    psocket_fd fd;
    int i, family;
    memset(&set, 0, sizeof set);
    for (i = 0; i < 2; i++) {
        family = i ? PSI_IP6 : PSI_IP4;
        if (psi_os_socket(&fd, family, 1, &os)) continue;
        set.opt.multicast_ttl = 9;
        set.opt.multicast_noloop = 1;
        set.opt.broadcast = 1;
        set.interface_index = psi_os_interface("lo");
        CHECK(set.interface_index != 0);
        CHECK_INT(psi_os_set(fd, family, 1, &set, &os), 0);
        CHECK_INT(option(fd, SOL_SOCKET, SO_BROADCAST), 1);
        CHECK_INT(option(fd, IPPROTO_IP, IP_MULTICAST_TTL), 9);
        CHECK_INT(option(fd, IPPROTO_IP, IP_MULTICAST_LOOP), 0);
        if (i) CHECK_INT(option(fd, IPPROTO_IPV6, IPV6_MULTICAST_HOPS), 9);
        if (i) CHECK_INT(option(fd, IPPROTO_IPV6, IPV6_MULTICAST_LOOP), 0);
        if (i) CHECK_INT(option(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF), (int)set.interface_index);
        set.opt.multicast_ttl = 256;
        CHECK_INT(psi_os_set(fd, family, 1, &set, &os), PSOCKET_INVALID);
        set.opt.multicast_ttl = 0;
        set.interface_index = 999999;
        CHECK(psi_os_set(fd, family, 1, &set, &os) < 0);
        psi_os_close(fd);
    }
}

TEST(interfaces)
{
    CHECK_INT(psi_os_interface("12"), 12);
    CHECK_INT(psi_os_interface("0"), 0);
    CHECK_INT(psi_os_interface(""), 0);
    CHECK_INT(psi_os_interface("nosuchinterface"), 0);
    CHECK_INT(psi_os_interface("1x"), 0);
    CHECK_INT(psi_os_interface("99999999999999999999"), 0);
}

/* What one sends to a group on the loopback interface the others hear. */
static void multicast(const char *any, const char *group)
{
    psi_os_settings set;
    psi_addr to, from;
    psocket_fd in, other, out;
    psocket_pollfd p;
    char buf[8];
    int port = 0, port2;
    memset(&set, 0, sizeof set);
    set.interface_index = psi_os_interface("lo");
    set.group = addr(group, 0);
    in = bound(any, 1, PSI_OS_REUSE_PORT, 0, &port, 0);
    port2 = port;
    other = bound(any, 1, PSI_OS_REUSE_PORT, 0, &port2, 0); /* as many listeners as want to */
    port2 = 0;
    out = bound(any, 1, 0, 0, &port2, 0);
    REQUIRE(in != -1 && other != -1 && out != -1);
    CHECK_INT(psi_os_set(out, set.group.family, 1, &set, &os), 0);
    if (psi_os_join(in, &set, &os) == 0) {
        CHECK_INT(psi_os_join(other, &set, &os), 0);
        to = addr(group, port);
        if (psi_os_put(out, "hey", 3, &to, &os) != 3) {
            check_skip("no route for multicasts on the loopback interface");
            goto out;
        }
        p.fd = in;
        p.events = PSOCKET_READ;
        CHECK_INT(psi_os_poll(&p, 1, 2000, &os), 1);
        CHECK_INT(get_from(in, buf, sizeof buf, &from), 3);
        CHECK_INT(from.port, port2);
        p.fd = other;
        CHECK_INT(psi_os_poll(&p, 1, 2000, &os), 1);
        CHECK_INT(psi_os_join(in, &set, &os), PSOCKET_ADDRESS_IN_USE); /* it is in it */
    } else {
        check_skip("no multicast on the loopback interface");
    }
out:
    psi_os_close(in);
    psi_os_close(other);
    psi_os_close(out);
}

TEST(multicast_4) { multicast("0.0.0.0", "239.255.77.7"); }

TEST(multicast_6)
{
    psocket_fd fd;
    if (psi_os_socket(&fd, PSI_IP6, 1, &os)) SKIP("no IPv6");
    psi_os_close(fd);
    multicast("::", "ff11::77:7");
}

TEST(sharing_a_port)
{
    int port = 0, i;
    for (i = 0; i < 2; i++) {
        psocket_fd a, b;
        port = 0;
        a = bound("127.0.0.1", i, PSI_OS_REUSE_PORT, i ? 0 : 5, &port, 0);
        b = bound("127.0.0.1", i, PSI_OS_REUSE_PORT, i ? 0 : 5, &port, 0);
        bound("127.0.0.1", i, 0, i ? 0 : 5, &port, PSOCKET_ADDRESS_IN_USE);
        psi_os_close(a);
        psi_os_close(b);
        port = 0;
        a = bound("127.0.0.1", i, 0, i ? 0 : 5, &port, 0);
        bound("127.0.0.1", i, PSI_OS_REUSE_PORT, i ? 0 : 5, &port, PSOCKET_ADDRESS_IN_USE); /* the first did not agree */
        psi_os_close(a);
    }
}

/* An IPv6 wildcard takes IPv4 only if it is to. */
TEST(both_families)
{
    int port, other, tries, r = PSOCKET_ADDRESS_IN_USE;
    psocket_fd a, b;
    psi_addr four;
    if (psi_os_socket(&a, PSI_IP6, 0, &os)) SKIP("no IPv6");
    psi_os_close(a);
    for (tries = 0; tries < 10 && r == PSOCKET_ADDRESS_IN_USE; tries++) { /* another program may have it for IPv4 */
        port = 0;
        a = bound("::", 0, 0, 5, &port, 0);
        four = addr("0.0.0.0", port);
        CHECK_INT(psi_os_socket(&b, PSI_IP4, 0, &os), 0);
        r = psi_os_bind(b, &four, NULL, 0, &os);
        psi_os_close(b);
        psi_os_close(a);
    }
    CHECK_INT(r, 0);
    other = 0;
    a = bound("::", 0, PSI_OS_DUAL, 5, &other, 0);
    bound("0.0.0.0", 0, 0, 5, &other, PSOCKET_ADDRESS_IN_USE);
    psi_os_close(a);
}

TEST(adopting)
{
    int fds[2], kind = 0;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), 0);
    CHECK_INT(kind, PSI_OS_STREAM);
    CHECK(fcntl(fds[0], F_GETFL) & O_NONBLOCK);
    CHECK(fcntl(fds[0], F_GETFD) & FD_CLOEXEC);
    close(fds[0]);
    close(fds[1]);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), PSOCKET_INVALID);
    CHECK_INT(os, EBADF);
    REQUIRE(pipe(fds) == 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), PSOCKET_INVALID);
    CHECK(!(fcntl(fds[0], F_GETFL) & O_NONBLOCK)); /* left as it was */
    close(fds[0]);
    close(fds[1]);
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), 0);
    CHECK_INT(kind, PSI_OS_STREAM);
    CHECK_INT(option(fds[0], IPPROTO_TCP, TCP_NODELAY), 1);
    CHECK(listen(fds[0], 1) == 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), 0);
    CHECK_INT(kind, PSI_OS_LISTENER);
    close(fds[0]);
    fds[0] = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), 0);
    CHECK_INT(kind, PSI_OS_DATAGRAM);
    close(fds[0]);
    fds[0] = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK_INT(psi_os_adopt(fds[0], &kind, &os), PSOCKET_INVALID);
    close(fds[0]);
}

/* A poller that has work of its own is readable from outside, and none the wiser inside. */
TEST(a_busy_poller)
{
    psi_os_poller p;
    psi_os_ready ready[4];
    psocket_pollfd outside;
    REQUIRE(psi_os_poller_new(&p, &os) == 0);
    outside.fd = p.fd;
    outside.events = PSOCKET_READ;
    CHECK_INT(psi_os_poll(&outside, 1, 0, &os), 0);
    psi_os_poller_busy(&p, 1);
    CHECK_INT(psi_os_poll(&outside, 1, 0, &os), 1);
    CHECK_INT(psi_os_poller_wait(&p, ready, 4, 0, &os), 0);
    CHECK_INT(p.rang, 0);
    psi_os_poller_busy(&p, 0);
    CHECK_INT(psi_os_poll(&outside, 1, 0, &os), 0);
    psi_os_bell_ring(p.bell);
    CHECK_INT(psi_os_poll(&outside, 1, 0, &os), 1);
    CHECK_INT(psi_os_poller_wait(&p, ready, 4, 0, &os), 0);
    CHECK_INT(p.rang, 1);
    CHECK_INT(psi_os_poll(&outside, 1, 0, &os), 0);
    psi_os_poller_free(&p);
}

static void handler(int sig) { (void)sig; }

/* A wait that a signal ended says so; one that ran out does not. */
TEST(signals_are_told)
{
    psi_os_poller p;
    psi_os_ready ready[4];
    psocket_pollfd none;
    struct sigaction sa;
    memset(&sa, 0, sizeof sa);
    sa.sa_handler = handler;
    sigaction(SIGALRM, &sa, NULL);
    REQUIRE(psi_os_poller_new(&p, &os) == 0);
    none.fd = p.bell[0];
    none.events = PSOCKET_READ;
    CHECK_INT(psi_os_poller_wait(&p, ready, 4, 10, &os), 0);
    CHECK_INT(os, 0);
    CHECK_INT(psi_os_poll(&none, 1, 10, &os), 0);
    CHECK_INT(os, 0);
    alarm(1);
    CHECK_INT(psi_os_poller_wait(&p, ready, 4, 10000, &os), 0);
    CHECK_INT(os, EINTR);
    alarm(1);
    CHECK_INT(psi_os_poll(&none, 1, 10000, &os), 0);
    CHECK_INT(os, EINTR);
    psi_os_poller_free(&p);
}

/* A descriptor of which epoll knows nothing. */
TEST(files_in_a_poller)
{
    psi_os_poller p;
    psi_os_watch w;
    REQUIRE(psi_os_poller_new(&p, &os) == 0);
    memset(&w, 0, sizeof w);
    w.fd = open("/proc/self/exe", O_RDONLY);
    CHECK_INT(psi_os_poller_ctl(&p, &w, PSOCKET_READ, &os), PSOCKET_UNSUPPORTED);
    CHECK_INT(w.events, 0);
    close((int)w.fd);
    psi_os_poller_free(&p);
}

/* Paths of every length: the longest that fits comes back whole. */
TEST(paths)
{
    psi_os_sockaddr sa;
    psi_addr a;
    char path[200], back[200];
    size_t n;
    memset(&a, 0, sizeof a);
    a.family = PSI_UNIX;
    CHECK_INT(psi_os_to_sockaddr(&sa, &a, NULL), PSOCKET_INVALID);
    CHECK_INT(psi_os_to_sockaddr(&sa, &a, ""), PSOCKET_INVALID);
    CHECK_INT(psi_os_to_sockaddr(&sa, &a, "@"), PSOCKET_INVALID);
    for (n = 1; n < 120; n++) {
        int i, size;
        for (i = 0; i < 2; i++) {
            memset(path, 'x', n);
            path[n] = 0;
            if (i) path[0] = '@';
            if (i && n == 1) continue;
            memset(&sa, 0xff, sizeof sa);
            size = psi_os_to_sockaddr(&sa, &a, path);
            if (n > 108) {
                CHECK_INT(size, PSOCKET_INVALID);
                continue;
            }
            CHECK(size > 0 && (size_t)size <= sizeof sa.un);
            psi_os_from_sun(&sa, (size_t)size, back, sizeof back);
            CHECK_STR(back, path);
            psi_os_from_sun(&sa, 200, back, sizeof back); /* a system that tells more than there is */
            CHECK(strlen(back) <= 109);
        }
    }
    psi_os_from_sun(&sa, sizeof sa.un.sun_family, back, sizeof back);
    CHECK_STR(back, "");
    psi_os_from_sun(&sa, 0, back, sizeof back);
    CHECK_STR(back, "");
}

/* Addresses of a name: no duplicates, and room for the other family. */
TEST(addresses_of_a_name)
{
    static psocket_resolve r;
    int i, four = 0;
    char text[40];
    psi_addr a;
    for (i = 0; i < 2 * PSOCKET_ADDRESSES; i++) {
        snprintf(text, sizeof text, "2001:db8::%x", i + 1);
        a = addr(text, 0);
        CHECK_INT(psi_dns_add(&r, &a), i < PSOCKET_ADDRESSES ? 0 : PSOCKET_LIMIT);
        CHECK_INT(psi_dns_add(&r, &a), i < PSOCKET_ADDRESSES ? 0 : PSOCKET_LIMIT);
    }
    CHECK_INT(r.count, PSOCKET_ADDRESSES);
    for (i = 0; i < PSOCKET_ADDRESSES; i++) {
        snprintf(text, sizeof text, "%s192.0.2.%d", i % 2 ? "::ffff:" : "", i / 2 + 1); /* each twice */
        a = addr(text, 0);
        CHECK_INT(psi_dns_add(&r, &a), 0);
    }
    CHECK_INT(r.count, PSOCKET_ADDRESSES);
    a = addr("198.51.100.1", 0);
    CHECK_INT(psi_dns_add(&r, &a), PSOCKET_LIMIT); /* half is enough */
    for (i = 0; i < r.count; i++) four += r.addrs[i].family == PSI_IP4;
    CHECK_INT(four, PSOCKET_ADDRESSES / 2);
    for (i = 0; i < r.count; i++) CHECK_INT(r.addrs[i].family, i % 2 ? PSI_IP4 : PSI_IP6);
    a = addr("2001:db8::1", 0);
    CHECK(!memcmp(r.addrs[0].ip, a.ip, sizeof a.ip)); /* the first of each stays first */
    a = addr("192.0.2.1", 0);
    CHECK(!memcmp(r.addrs[1].ip, a.ip, sizeof a.ip));
}

TEST(this_machine)
{
    static const char *const yes[] = { "localhost", "LOCALHOST", "localhost.", "a.localhost", "x.y.LocalHost." };
    static const char *const no[] = { "", ".", "localhost..", "notlocalhost", "localhost.example", "localhos", "-localhost", "ocalhost" };
    size_t i;
    for (i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!CHECK(psi_dns_is_localhost(yes[i], strlen(yes[i])))) check_fail(NULL, 0, "%s", yes[i]);
    for (i = 0; i < sizeof no / sizeof *no; i++)
        if (!CHECK(!psi_dns_is_localhost(no[i], strlen(no[i])))) check_fail(NULL, 0, "%s", no[i]);
}

/* A whole sentence, whatever is given. */
TEST(sentences)
{
    psocket_error e;
    CHECK_INT(psi_err_os(&e, PSOCKET_FILE, ENOENT, "cannot read %s", "/x"), PSOCKET_FILE);
    CHECK_STR(e.text, "cannot read /x: No such file or directory");
    CHECK_INT(e.os_error, ENOENT);
    psi_err_os(&e, PSOCKET_FILE, 0, "%s", "");
    CHECK_STR(e.text, psocket_strerror(PSOCKET_FILE));
    CHECK_INT(e.os_error, 0);
    psi_err_os(NULL, PSOCKET_FILE, 0, "%s", "");
    psi_err_alert(&e, PSOCKET_TLS_ALERT, 40, NULL);
    CHECK_STR(e.text, psocket_strerror(PSOCKET_TLS_ALERT));
    CHECK_INT(e.tls_alert, 40);
}

/* Without realloc: what was there is there, and no more of it is read. */
TEST(growing)
{
    char *p = NULL, *q;
    size_t n, i;
    for (n = 1; n < 5000; n = n * 2 + 1) {
        q = (char *)psi_realloc(p, n / 2, n);
        REQUIRE(q != NULL);
        p = q;
        for (i = 0; i < n / 2; i++) CHECK(p[i] == (char)i);
        for (i = 0; i < n; i++) p[i] = (char)i;
    }
    psi_free(p);
}
