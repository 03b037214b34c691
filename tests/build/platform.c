/* platform.c - the platform block by itself: what >>platform promises, tried on loopback. Compiled by windows.sh and
 * lwip.sh (and for POSIX by either) with the implementation inside and static, so that what is not used, BearSSL too,
 * drops out.
 *
 *     platform --bell  wakes a poller, and nothing else
 *     platform DIR     DIR holds the files plain.txt ("plain\n") and \xc3\xbc.txt ("umlaut\n"), and a folder sub
 */
/* Where a pair is made over the loopback interface: a stranger comes first. */
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define _WIN32_WINNT 0x0601
#include <winsock2.h>
static int listen_with_strangers(SOCKET fd, int backlog);
#define listen(fd, backlog) listen_with_strangers(fd, backlog)
#define STRANGERS
#elif defined(PSOCKET_LWIP)
#include "lwip/sockets.h"
#include "lwip/tcpip.h"
static int listen_with_strangers(int fd, int backlog);
#define lwip_listen(fd, backlog) listen_with_strangers(fd, backlog)
#define STRANGERS
#endif

#define PSOCKET_STATIC
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#ifdef STRANGERS
#undef listen
#undef lwip_listen
static int strangers;
static psocket_fd stranger[8];
static int listen_with_strangers(psi_os_int fd, int backlog)
{
    psi_addr a;
    int i, os, r = PSI_SYS(listen)(fd, backlog);
    for (i = 0; i < strangers && !r; i++) {
        psi_os_getname((psocket_fd)fd, 0, &a, NULL, 0);
        psi_os_socket(&stranger[i], a.family, 0, &os);
        psi_os_connect(stranger[i], &a, NULL, &os);
    }
    return r;
}
#endif

static int passed, failed;
#define CHECK(c) ((c) ? (void)passed++ : (void)(failed++, printf("FAIL line %d: %s\n", __LINE__, #c)))

#define PAIRS 90 /* more than FD_SETSIZE of Winsock */
static psocket_fd near_end[PAIRS], far_end[PAIRS];
static psi_os_watch watches[PAIRS];
static psi_os_ready ready[PAIRS];
static char buf[70000];
static int os;

/* A datagram, and who sent it. */
static ptrdiff_t get_from(psocket_fd fd, void *p, size_t n, psi_addr *from)
{
    psi_os_sockaddr sa;
    ptrdiff_t got = psi_os_get(fd, p, n, &sa, &os);
    if (got >= 0) psi_os_from_sockaddr(from, &sa);
    return got;
}

static psi_addr loopback(int port)
{
    psi_addr a = PSI_ZERO;
    a.family = PSI_IP4;
    a.ip[0] = 127;
    a.ip[3] = 1;
    a.port = (uint16_t)port;
    return a;
}

static int wait_for(psocket_fd fd, int events, int ms)
{
    psocket_pollfd p;
    p.fd = fd;
    p.events = events;
    return psi_os_poll(&p, 1, ms, &os);
}

/* Two connected TCP sockets. */
static void pair(psocket_fd *client, psocket_fd *server)
{
    psi_addr a = loopback(0), peer;
    psocket_fd l;
    int r;
    *client = *server = -1;
    CHECK(psi_os_socket(&l, PSI_IP4, 0, &os) == 0);
    CHECK(psi_os_bind(l, &a, NULL, 0, &os) == 0 && psi_os_listen(l, NULL, 5, &os) == 0);
    CHECK(psi_os_getname(l, 0, &a, NULL, 0) == 0 && a.port != 0 && a.ip[0] == 127);
    CHECK(psi_os_accept(l, server, &peer, &os) == PSOCKET_WANT_READ);
    CHECK(psi_os_socket(client, PSI_IP4, 0, &os) == 0);
    r = psi_os_connect(*client, &a, NULL, &os);
    CHECK(r == 0 || r == PSOCKET_WANT_WRITE);
    CHECK(wait_for(l, PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_accept(l, server, &peer, &os) == 0 && peer.family == PSI_IP4 && peer.ip[0] == 127 && peer.port != 0);
    CHECK(wait_for(*client, PSOCKET_WRITE, 5000) == 1);
    CHECK(psi_os_connect_result(*client, &os) == 0);
    psi_os_close(l);
}

/* A port of 127.0.0.1 where nobody listens. */
static psi_addr dead_port(void)
{
    psi_addr a = loopback(0);
    psocket_fd fd;
    CHECK(psi_os_socket(&fd, PSI_IP4, 0, &os) == 0);
    CHECK(psi_os_bind(fd, &a, NULL, 0, &os) == 0);
    CHECK(psi_os_getname(fd, 0, &a, NULL, 0) == 0);
    psi_os_close(fd);
    return a;
}

/* Sends until the socket takes no more for a while; how much it took. */
static size_t fill(psocket_fd fd)
{
    size_t total = 0;
    ptrdiff_t n;
    while (total < ((size_t)256 << 20) && wait_for(fd, PSOCKET_WRITE, 100) == 1) {
        while ((n = psi_os_put(fd, buf, sizeof buf, NULL, &os)) > 0) total += (size_t)n;
        CHECK(n == PSOCKET_WANT_WRITE);
        if (n != PSOCKET_WANT_WRITE) break;
    }
    return total;
}

static void test_stream(void)
{
    psocket_fd c, s;
    size_t total, got = 0;
    ptrdiff_t n;
    int64_t start;
    pair(&c, &s);
    CHECK(psi_os_get(s, buf, sizeof buf, NULL, &os) == PSOCKET_WANT_READ);
    CHECK(wait_for(s, PSOCKET_READ, 0) == 0);
    CHECK(psi_os_put(c, "hello", 5, NULL, &os) == 5);
    CHECK(wait_for(s, PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(s, buf, sizeof buf, NULL, &os) == 5 && memcmp(buf, "hello", 5) == 0);

    /* The peer ends its direction: who waits to send to it still sleeps (WSAPoll would not). */
    total = fill(c);
    CHECK(total > 0);
    CHECK(psi_os_shutdown(s, &os) == 0);
    CHECK(wait_for(c, PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(c, buf, 10, NULL, &os) == 0);
    start = psi_os_now();
    CHECK(wait_for(c, PSOCKET_WRITE, 200) == 0);
    CHECK(psi_os_now() - start >= 150);

    while (got < total && wait_for(s, PSOCKET_READ, 5000) == 1 && (n = psi_os_get(s, buf, sizeof buf, NULL, &os)) > 0)
        got += (size_t)n;
    CHECK(got == total);
    CHECK(wait_for(c, PSOCKET_WRITE, 5000) == 1);
    psi_os_close(c);
    CHECK(wait_for(s, PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(s, buf, 10, NULL, &os) == 0);
    psi_os_close(s);

    /* A reset wakes who waits to send. */
    pair(&c, &s);
    CHECK(fill(c) > 0);
    psi_os_close(s);
    CHECK(wait_for(c, PSOCKET_WRITE, 5000) == 1);
    CHECK(psi_os_put(c, "x", 1, NULL, &os) == PSOCKET_RESET);
    CHECK(strlen(psi_os_text(os, buf, 100)) > 5);
    psi_os_close(c);
}

static void test_refused(void)
{
    psi_addr a = dead_port();
    psi_os_poller p;
    psi_os_watch w;
    psocket_fd c;
    int r;
    CHECK(psi_os_socket(&c, PSI_IP4, 0, &os) == 0);
    r = psi_os_connect(c, &a, NULL, &os);
    if (r == PSOCKET_WANT_WRITE) {
        CHECK(wait_for(c, PSOCKET_WRITE, 10000) == 1);
        r = psi_os_connect_result(c, &os);
    }
    CHECK(r == PSOCKET_REFUSED);
    psi_os_close(c);

    CHECK(psi_os_poller_new(&p, &os) == 0);
    CHECK(psi_os_socket(&c, PSI_IP4, 0, &os) == 0);
    r = psi_os_connect(c, &a, NULL, &os);
    if (r == PSOCKET_WANT_WRITE) {
        w.fd = c;
        w.events = 0;
        CHECK(psi_os_poller_ctl(&p, &w, PSOCKET_WRITE, &os) == 0);
        CHECK(psi_os_poller_wait(&p, ready, PAIRS, 10000, &os) == 1 && ready[0].watch == &w && (ready[0].events & PSOCKET_WRITE));
        CHECK(psi_os_poller_ctl(&p, &w, 0, &os) == 0);
        r = psi_os_connect_result(c, &os);
    }
    CHECK(r == PSOCKET_REFUSED);
    psi_os_close(c);
    psi_os_poller_free(&p);
}

static void test_poller(void)
{
    int i, k, n, hits[PAIRS] = { 0 }, seen = 0;
    int64_t start;
    psi_os_poller p;
    CHECK(psi_os_poller_new(&p, &os) == 0);
    for (i = 0; i < PAIRS; i++) {
        pair(&near_end[i], &far_end[i]);
        watches[i].fd = far_end[i];
        watches[i].events = 0;
        CHECK(psi_os_poller_ctl(&p, &watches[i], PSOCKET_READ, &os) == 0);
    }
    CHECK(psi_os_poller_wait(&p, ready, PAIRS, 0, &os) == 0);

    /* Those that have something are reported, each once per byte. */
    for (i = 0; i < PAIRS; i += 3) CHECK(psi_os_put(near_end[i], "a", 1, NULL, &os) == 1);
    start = psi_os_now();
    while (seen < PAIRS / 3 && psi_os_now() - start < 5000) {
        n = psi_os_poller_wait(&p, ready, PAIRS, 500, &os);
        CHECK(n >= 0);
        for (k = 0; k < n; k++, seen++) {
            i = (int)(ready[k].watch - watches);
            CHECK(ready[k].events == PSOCKET_READ && i % 3 == 0);
            CHECK(psi_os_get(far_end[i], buf, 10, NULL, &os) == 1);
        }
    }
    CHECK(seen == PAIRS / 3);

    /* A full batch starves nobody. */
    for (i = 0; i < PAIRS; i++) CHECK(psi_os_put(near_end[i], "a", 1, NULL, &os) == 1);
    for (i = 0; i < PAIRS; i++) CHECK(wait_for(far_end[i], PSOCKET_READ, 5000) == 1);
    for (k = 0; k < PAIRS * 2; k++)
        for (n = psi_os_poller_wait(&p, ready, 2, 500, &os); n > 0; n--) hits[ready[n - 1].watch - watches]++;
    for (i = 0; i < PAIRS; i++) CHECK(hits[i] > 0);

    /* Removed ones are silent; the others stay who they are. */
    for (i = 0; i < PAIRS; i += 2) CHECK(psi_os_poller_ctl(&p, &watches[i], 0, &os) == 0);
    n = psi_os_poller_wait(&p, ready, PAIRS, 500, &os);
    CHECK(n > 0);
    for (k = 0; k < n; k++) CHECK((ready[k].watch - watches) % 2 == 1);
    for (i = 1; i < PAIRS; i += 2) CHECK(psi_os_poller_ctl(&p, &watches[i], PSOCKET_WRITE, &os) == 0);
    n = psi_os_poller_wait(&p, ready, PAIRS, 500, &os);
    CHECK(n > 0);
    for (k = 0; k < n; k++) CHECK(ready[k].events == PSOCKET_WRITE && (ready[k].watch - watches) % 2 == 1);
    for (i = 1; i < PAIRS; i += 2) CHECK(psi_os_poller_ctl(&p, &watches[i], 0, &os) == 0);
    CHECK(psi_os_poller_wait(&p, ready, PAIRS, 0, &os) == 0);

    /* What is no socket is reported, to its owner alone. */
#if defined(_WIN32) || defined(PSOCKET_LWIP)
    watches[0].fd = 123456;
    CHECK(psi_os_poller_ctl(&p, &watches[0], PSOCKET_READ, &os) == 0);
    CHECK(psi_os_poller_wait(&p, ready, PAIRS, 500, &os) == 1 && ready[0].watch == &watches[0]);
    CHECK(psi_os_poller_ctl(&p, &watches[0], 0, &os) == 0);
#endif
    for (i = 0; i < PAIRS; i++) {
        psi_os_close(near_end[i]);
        psi_os_close(far_end[i]);
    }
    psi_os_poller_free(&p);
}

static psocket_fd *bell;

static void ring_later(void)
{
    psi_os_poll(NULL, 0, 0, &os); /* nothing to wait for is fine */
#if defined(_WIN32)
    Sleep(200);
#elif defined(PSOCKET_LWIP)
    sys_msleep(200);
#else
    usleep(200000);
#endif
    psi_os_bell_ring(bell);
}

#if defined(PSOCKET_LWIP)
static void ringer(void *unused)
{
    (void)unused;
    ring_later();
}
static void ring_elsewhere(void) { sys_thread_new("ringer", ringer, NULL, 0, 0); }
#elif defined(PSI_OS_THREADS)
PSI_OS_THREAD(ringer, unused)
{
    (void)unused;
    ring_later();
    return 0;
}
static void ring_elsewhere(void) { CHECK(psi_os_thread(ringer, NULL, &os) == 0); }
#else
static void ring_elsewhere(void) { ring_later(); }
#endif

static void test_bell(void)
{
    psi_os_poller p;
    int64_t start = psi_os_now();
    int i;
    CHECK(psi_os_poller_new(&p, &os) == 0);
    bell = p.bell;
    ring_elsewhere();
    CHECK(psi_os_poller_wait(&p, ready, PAIRS, 10000, &os) == 0);
    CHECK(psi_os_now() - start >= 150 && psi_os_now() - start < 9000);
    start = psi_os_now();
    CHECK(psi_os_poller_wait(&p, ready, PAIRS, 100, &os) == 0);
    CHECK(psi_os_now() - start >= 90);
    for (i = 0; i < 10000; i++) psi_os_bell_ring(p.bell); /* does not block when full */
    start = psi_os_now();
    for (i = 0; i < 10000 && psi_os_now() - start < 50; i++) {
        start = psi_os_now();
        CHECK(psi_os_poller_wait(&p, ready, PAIRS, 60, &os) == 0);
    }
    CHECK(i < 10000);
    psi_os_poller_free(&p);
}

static void test_udp(void)
{
    psi_addr nobody = dead_port(), self = loopback(0), from;
    psocket_fd fd;
    int i;
    CHECK(psi_os_socket(&fd, PSI_IP4, 1, &os) == 0);
    CHECK(get_from(fd, buf, 10, &from) == PSOCKET_WANT_READ); /* not bound yet */
    psi_os_close(fd);
    CHECK(psi_os_socket(&fd, PSI_IP4, 1, &os) == 0);
    CHECK(psi_os_bind(fd, &self, NULL, PSI_OS_DATAGRAMS, &os) == 0);
    CHECK(psi_os_getname(fd, 0, &self, NULL, 0) == 0);
    for (i = 0; i < 3; i++) { /* the ICMP error that answers must not end the socket */
        CHECK(psi_os_put(fd, "x", 1, &nobody, &os) == 1);
        wait_for(fd, PSOCKET_READ, 50);
        CHECK(get_from(fd, buf, 10, &from) == PSOCKET_WANT_READ);
    }
    CHECK(psi_os_put(fd, "0123456789", 10, &self, &os) == 10);
    CHECK(wait_for(fd, PSOCKET_READ, 5000) == 1);
    CHECK(get_from(fd, buf, 4, &from) == 4 && memcmp(buf, "0123", 4) == 0 && from.port == self.port);
    CHECK(get_from(fd, buf, 4, &from) == PSOCKET_WANT_READ);
    CHECK(psi_os_put(fd, "", 0, &self, &os) == 0);
    CHECK(wait_for(fd, PSOCKET_READ, 5000) == 1);
    CHECK(get_from(fd, buf, 4, &from) == 0);
    CHECK(psi_os_put(fd, buf, 66000, &self, &os) == PSOCKET_MESSAGE_SIZE);
    psi_os_close(fd);
}

static void test_listen(void)
{
    psi_addr any = PSI_ZERO, a;
    psocket_fd l, c, s = -1;
    int r;
    any.family = PSI_IP6;
    if (psi_os_socket(&l, PSI_IP6, 0, &os)) {
        printf("no IPv6 here\n");
        return;
    }
    CHECK(psi_os_bind(l, &any, NULL, PSI_OS_DUAL, &os) == 0 && psi_os_listen(l, NULL, 5, &os) == 0);
    CHECK(psi_os_getname(l, 0, &any, NULL, 0) == 0 && any.port != 0);
    a = loopback(any.port);
    CHECK(psi_os_socket(&c, PSI_IP4, 0, &os) == 0);
    r = psi_os_connect(c, &a, NULL, &os);
    CHECK(r == 0 || r == PSOCKET_WANT_WRITE);
    CHECK(wait_for(l, PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_accept(l, &s, &a, &os) == 0);
    psi_os_close(c);
    psi_os_close(s);
    CHECK(psi_os_socket(&c, PSI_IP6, 0, &os) == 0);
    r = psi_os_bind(c, &any, NULL, PSI_OS_DUAL, &os);
    CHECK((r ? r : psi_os_listen(c, NULL, 5, &os)) == PSOCKET_ADDRESS_IN_USE);
    psi_os_close(c);
    psi_os_close(l);
    CHECK(psi_os_socket(&c, PSI_IP6, 0, &os) == 0);
    CHECK(psi_os_bind(c, &any, NULL, PSI_OS_DUAL, &os) == 0 && psi_os_listen(c, NULL, 5, &os) == 0); /* free again at once */
    psi_os_close(c);
}

#ifndef PSOCKET_LWIP
static int files, store_calls;
static size_t store_len;

static int see_file(void *ctx, const void *data, size_t len)
{
    CHECK(ctx == &files);
    CHECK((len == 6 && !memcmp(data, "plain\n", 7)) || (len == 7 && !memcmp(data, "umlaut\n", 8)));
    files++;
    return files == 2 ? -77 : 0;
}

static int see_store(void *ctx, const void *data, size_t len)
{
    (void)ctx;
    CHECK(data && len);
    store_len = len;
    store_calls++;
    return 1; /* it held a certificate */
}

static void set_env(const char *name, const char *value)
{
#ifdef _WIN32
    SetEnvironmentVariableA(name, *value ? value : NULL);
#else
    if (*value) setenv(name, value, 1);
    else unsetenv(name);
#endif
}

static void test_files(const char *dir)
{
    char path[300], *data;
    size_t len;
    int r;
    CHECK(psi_os_readfile("no/such/file", &data, &len, &os) == PSOCKET_FILE && !data && os);
    CHECK(psi_os_readfile(dir, &data, &len, &os) == PSOCKET_FILE && !data && os);
    snprintf(path, sizeof path, "%s/\xc3\xbc.txt", dir);
    CHECK(psi_os_readfile(path, &data, &len, &os) == 0 && len == 7 && !strcmp(data, "umlaut\n") && !os);
    psi_free(data);
    CHECK(psi_os_readdir("no/such/dir", see_file, &files, &os) == PSOCKET_FILE && os);
    CHECK(psi_os_readdir(dir, see_file, &files, &os) == -77);
    CHECK(files == 2);

    set_env("SSL_CERT_DIR", "");
    snprintf(path, sizeof path, "%s/plain.txt", dir);
    set_env("SSL_CERT_FILE", path);
    CHECK(psi_os_systrust(see_store, NULL, NULL) == 0 && store_calls == 1 && store_len == 6);
    set_env("SSL_CERT_FILE", "no/such/file");
    CHECK(psi_os_systrust(see_store, NULL, NULL) == PSOCKET_TLS_NO_TRUST);
    set_env("SSL_CERT_FILE", "");
    store_calls = 0;
    r = psi_os_systrust(see_store, NULL, NULL);
    CHECK(r == (store_calls ? 0 : PSOCKET_TLS_NO_TRUST));
    printf("the system's trust store has %d parts\n", store_calls);
}
#endif

#ifndef PSOCKET_NO_DNS
static int see_address(void *count, const psi_addr *a)
{
    CHECK(a->family == PSI_IP4 ? a->ip[0] == 127 : a->family == PSI_IP6 && a->ip[15] == 1);
    ++*(int *)count;
    return 0;
}
#endif

static void test_pair(void)
{
    psocket_fd fds[2];
    int r = psi_os_pair(fds, &os);
    CHECK(r == 0);
    if (r) return;
    CHECK(psi_os_get(fds[0], buf, 10, NULL, &os) == PSOCKET_WANT_READ);
    CHECK(psi_os_put(fds[1], "abc", 3, NULL, &os) == 3);
    CHECK(wait_for(fds[0], PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(fds[0], buf, 10, NULL, &os) == 3 && !memcmp(buf, "abc", 3));
    CHECK(psi_os_put(fds[0], "de", 2, NULL, &os) == 2);
    CHECK(psi_os_shutdown(fds[0], &os) == 0);
    CHECK(wait_for(fds[1], PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(fds[1], buf, 10, NULL, &os) == 2 && !memcmp(buf, "de", 2));
    CHECK(wait_for(fds[1], PSOCKET_READ, 5000) == 1);
    CHECK(psi_os_get(fds[1], buf, 10, NULL, &os) == 0);
    psi_os_close(fds[0]);
    psi_os_close(fds[1]);
}

/* Two sockets are a pair of each other, whoever else came. */
static void test_strangers(void)
{
#ifdef STRANGERS
    int i, many = (int)(sizeof stranger / sizeof *stranger);
    for (strangers = 1; strangers <= many; strangers += many - 1) {
        test_pair();
        for (i = 0; i < strangers; i++) psi_os_close(stranger[i]);
    }
    strangers = 0;
#endif
}

/* One system takes as an address what the others do. */
static void test_addresses(void)
{
    static const char *const bad[] = {
        "", "1", "1.2.3", "1.2.3.4.5", "1.2.3.256", "01.2.3.4", "1.2.3.4 ", " 1.2.3.4", "0x7f.0.0.1", ":", ":::", "1:2", "1:2:3:4:5:6:7",
        "1:2:3:4:5:6:7:8:9", "1::2::3", "::1::", "12345::", "::12345", "g::", ":1::", "1::2:", ":2:3:4:5:6:7:8", "1:2:3:4:5:6:7:", "::1.2.3",
        "::ffff:1.2", "::ffff:1.2.3", "::ffff:1.2.3.4.5", "::ffff:0x1.2.3.4", "::ffff:1.2.3.4:5", "::1 and more", "::1\n", "::1/64"
    };
    static const char *const good[][2] = {
        { "127.0.0.1", "127.0.0.1" }, { "::", "::" }, { "::1", "::1" }, { "1::", "1::" }, { "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8" },
        { "[fe80::1%3]", "fe80::1%3" }, { "::ffff:1.2.3.4", "1.2.3.4" }, { "10:20::30:40:0050", "10:20::30:40:50" }
    };
    psi_addr a;
    char out[64];
    size_t i;
    for (i = 0; i < sizeof bad / sizeof *bad; i++) {
        int taken = psi_addr_parse(&a, bad[i], strlen(bad[i]));
        if (taken) printf("takes \"%s\"\n", bad[i]);
        CHECK(!taken);
    }
    for (i = 0; i < sizeof good / sizeof *good; i++) {
        CHECK(psi_addr_parse(&a, good[i][0], strlen(good[i][0])));
        psi_addr_normalise(&a);
        psi_addr_print(&a, out);
        CHECK(!strcmp(out, good[i][1]));
    }
}

static void test_rest(void)
{
    unsigned char a[64] = { 0 }, b[64] = { 0 };
    psi_os_mutex m = PSI_OS_MUTEX_INIT;
    int refs = 1;
    psi_os_lock(&m);
    psi_os_unlock(&m);
    psi_os_lock(&m);
    psi_os_unlock(&m);
    CHECK(psi_os_ref(&refs, 1) == 2 && psi_os_ref(&refs, -1) == 1);
#if defined(PSOCKET_LWIP)
    CHECK(psi_os_entropy(a, sizeof a) == PSOCKET_NO_ENTROPY); /* fails closed */
    (void)b;
#else
    CHECK(psi_os_entropy(a, sizeof a) == 0 && psi_os_entropy(b, sizeof b) == 0 && memcmp(a, b, sizeof a) != 0);
    CHECK(psi_os_wallclock() > 1600000000);
#endif
#ifndef PSOCKET_NO_DNS
    {
        int count = 0;
        CHECK(psi_os_resolve("127.0.0.1", see_address, &count, &os) == 0 && count >= 1);
        CHECK(psi_os_resolve("localhost", see_address, &count, &os) == 0 && count >= 2);
    }
#endif
}

static int platform(const char *dir)
{
    CHECK(psi_os_start() == 0);
    CHECK(psi_os_start() == 0);
    if (!strcmp(dir, "--bell")) { /* of use without a loopback interface, too */
        test_bell();
        printf("%d passed, %d failed\n", passed, failed);
        return failed != 0;
    }
    test_stream();
    test_refused();
    test_poller();
    test_bell();
    test_udp();
    test_listen();
    test_pair();
    test_strangers();
    test_addresses();
#ifdef PSOCKET_LWIP
    (void)dir;
#else
    test_files(dir);
#endif
    test_rest();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}

#ifdef PSOCKET_LWIP
static sys_sem_t up;
static void is_up(void *unused)
{
    (void)unused;
    sys_sem_signal(&up);
}
#endif

int main(int argc, char **argv)
{
#ifdef PSOCKET_LWIP
    sys_sem_new(&up, 0);
    tcpip_init(is_up, NULL);
    sys_arch_sem_wait(&up, 0);
#endif
    return platform(argc > 1 ? argv[1] : ".");
}
