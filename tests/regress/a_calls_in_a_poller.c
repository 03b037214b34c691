/* A socket in a poller: after a receive that took all there was, psocket_recv, _read and _read_until answered WANT_READ though
   data or an end had come, for ever, unless psocket_poller_wait was called; after a send that filled the transport
   psocket_send answered WANT_WRITE though the peer had made room. WANT_* means that the call would wait. */
#include "a.h"

static const char *const calls[] = { "recv", "read", "read_until", "peek" };

/* Waits until the system has something for s, which may have no descriptor of its own. */
static void arrived(psocket *s)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    struct pollfd p;
    int ms = -1;
    REQUIRE(psocket_pollset(s, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms) == 1);
    p.fd = (int)fds[0].fd;
    p.events = POLLIN;
    poll(&p, 1, 2000);
}

static ptrdiff_t receive(psocket *s, int call, const void **data)
{
    if (call == 0) return psocket_recv(s, data);
    if (call == 1) return psocket_read(s, 3, data);
    if (call == 2) return psocket_read_until(s, "o", 9, data);
    return psocket_peek(s, data);
}

/* Both ends nonblocking, s in a poller, what it had to say said. The call sees what has come since. */
static void sees(int (*make)(psocket **, psocket **, int), const char *kind)
{
    int call, looks;
    for (call = 0; call < 4; call++)
        for (looks = 0; looks < 3; looks++) {
            psocket *c = NULL, *s = NULL;
            psocket_poller *p = NULL;
            const psocket_event *ev;
            const void *data;
            ptrdiff_t n;
            REQUIRE(make(&c, &s, 1) && psocket_poller_new(&p) == 0);
            CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
            CHECK(psocket_send(c, "one", 3) == 3 && psocket_flush(c) == 0);
            CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
            CHECK_STR(a_recv(s), "one");
            if (looks) CHECK_STR(a_recv(s), "WANT_READ");
            if (looks > 1) CHECK_INT(receive(s, call, &data), PSOCKET_WANT_READ);
            CHECK(psocket_send(c, "two", 3) == 3 && psocket_flush(c) == 0);
            arrived(s);
            n = receive(s, call, &data);
            if (n != 3) check_fail(NULL, 0, "%s, %s after %d looks: %d though 3 bytes have come", kind, calls[call], looks, (int)n);
            if (call == 3) CHECK_STR(a_recv(s), "two");
            psocket_free(c);
            arrived(s);
            n = receive(s, call, &data);
            if (n != PSOCKET_CLOSED) check_fail(NULL, 0, "%s, %s after %d looks: %d though the end has come", kind, calls[call], looks, (int)n);
            psocket_free(s);
            psocket_poller_free(p);
        }
}

static int carried(psocket **c, psocket **s, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket *w = NULL;
    if (!a_tcp(c, s, nonblocking) || psocket_wrap(&w, *s, &o)) return 0;
    *s = w;
    return 1;
}

static int paired(psocket **c, psocket **s, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    return psocket_pair(c, s, &o) == 0;
}

TEST(tcp) { sees(a_tcp, "tcp"); }
TEST(tls) { sees(a_tls, "tls"); }
TEST(a_carried_socket) { sees(carried, "carried"); }
TEST(a_pair) { sees(paired, "pair"); }

static void sends(int (*make)(psocket **, psocket **, int), const char *kind)
{
    static char block[65536];
    psocket *c = NULL, *s = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    size_t out = 0, in = 0;
    ptrdiff_t n;
    REQUIRE(make(&c, &s, 1) && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_WRITE, -1, s), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    while ((n = psocket_send(s, block, sizeof block)) > 0) out += (size_t)n;
    CHECK_INT(n, PSOCKET_WANT_WRITE);
    while (in < out / 2) {
        a_arrived(c);
        if ((n = psocket_recv(c, &data)) > 0) in += (size_t)n;
        else if (psocket_wait(c, PSOCKET_READ, 1000) != PSOCKET_READ) break;
    }
    CHECK(in >= out / 2);
    n = psocket_send(s, block, sizeof block);
    if (n <= 0) check_fail(NULL, 0, "%s: send answers %d though the peer has taken %d bytes", kind, (int)n, (int)in);
    psocket_free(c);
    psocket_free(s);
    psocket_poller_free(p);
}

TEST(tcp_has_room_again) { sends(a_tcp, "tcp"); }
TEST(a_pair_has_room_again) { sends(paired, "pair"); }
