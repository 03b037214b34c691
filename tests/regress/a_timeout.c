/* There is one limit, `timeout`: of the whole operation, and for a send of the time since bytes last left. Before, limits were
   enforced in some places and not in others: a send whose bytes left all the time ended with TIMEOUT, one through a carrier
   did, handshakes and connects that did not block had none. */
#include "a.h"

enum { LIMIT_MS = 200, SLACK_MS = 700 };

static void lasted(int64_t start, const char *what)
{
    int ms = (int)(check_now_ms() - start);
    if (ms < LIMIT_MS - 1 || ms > LIMIT_MS + SLACK_MS) check_fail(NULL, 0, "%s: ended after %d ms of %d", what, ms, LIMIT_MS);
}

/* Drives s, which does not block, until it has failed: by psocket_wait, by a poller, or by psocket_pollset. */
static int drive(psocket *s, int how)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    psocket_pollfd f[PSOCKET_POLLSET_MAX];
    int64_t end = check_now_ms() + 3000;
    int r = psocket_step(s), n, i;
    if (how == 1) CHECK(psocket_poller_new(&p) == 0 && psocket_poller_set(p, s, PSOCKET_READ | PSOCKET_WRITE, -1, s) == 0);
    while ((r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE) && check_now_ms() < end) {
        int ms = 3000;
        struct pollfd pf[PSOCKET_POLLSET_MAX];
        if (how == 0) psocket_wait(s, PSOCKET_READ, 3000);
        else if (how == 1) CHECK_INT(psocket_poller_wait(p, &ev, 3000), 1);
        else {
            n = psocket_pollset(s, PSOCKET_READ, f, PSOCKET_POLLSET_MAX, &ms);
            CHECK(n >= 0);
            for (i = 0; i < n; i++) {
                pf[i].fd = (int)f[i].fd;
                pf[i].events = (short)((f[i].events & PSOCKET_READ ? POLLIN : 0) | (f[i].events & PSOCKET_WRITE ? POLLOUT : 0));
            }
            poll(pf, (nfds_t)n, ms);
        }
        r = psocket_step(s);
    }
    psocket_poller_free(p);
    return r;
}

/* A peer that says nothing. */
TEST(handshake)
{
    int server, how, carried;
    for (server = 0; server < 2; server++) {
        for (how = 0; how < 4; how++) {
            for (carried = 0; carried < 2; carried++) {
                psocket *c = NULL, *s = NULL, *w = NULL, *me;
                psocket_tls *tls = core_settings(server);
                psocket_options o = net_options(how < 3);
                int64_t start;
                int r;
                char what[64];
                REQUIRE(a_tcp(&c, &s, how < 3 || carried));
                me = server ? s : c;
                o.timeout_ms = LIMIT_MS;
                if (carried) {
                    REQUIRE(psocket_wrap(&w, me, &o) == 0);
                    me = w;
                } else {
                    psocket_settimeout(me, LIMIT_MS);
                }
                start = check_now_ms();
                r = psocket_starttls(me, tls, server ? NULL : "localhost");
                if (how < 3) r = drive(me, how);
                snprintf(what, sizeof what, "server %d, how %d, carried %d", server, how, carried);
                if (r != PSOCKET_TIMEOUT) check_fail(NULL, 0, "%s: %s", what, psocket_codename(r));
                lasted(start, what);
                A_AGREES(me, r);
                CHECK_INT(psocket_isopen(me), 0);
                psocket_free(me);
                psocket_free(server ? c : s);
                psocket_tls_free(tls);
            }
        }
    }
}

/* Bytes that come now and then do not move the limit of a whole operation. */
typedef struct drip {
    int fd;
    volatile int stop;
} drip;

static void drips(void *arg)
{
    drip *d = (drip *)arg;
    static const unsigned char record[] = { 22, 3, 3, 0x10, 0 };
    size_t i;
    for (i = 0; i < 60 && !d->stop; i++) {
        if (send(d->fd, i < 5 ? (const void *)(record + i) : "\2", 1, MSG_NOSIGNAL) != 1) break;
        check_sleep_us(20000);
    }
}

TEST(handshake_with_a_peer_that_drips)
{
    int how;
    for (how = 0; how < 4; how++) {
        drip d;
        a_later t;
        psocket *s;
        int64_t start;
        int r;
        d.stop = 0;
        s = net_raw_peer(&d.fd);
        REQUIRE(s != NULL);
        psocket_setnonblocking(s, how < 3);
        psocket_settimeout(s, LIMIT_MS);
        a_later_start(&t, 1, drips, &d);
        start = check_now_ms();
        r = psocket_starttls(s, NULL, "localhost");
        if (how < 3) r = drive(s, how);
        CHECK_INT(r, PSOCKET_TIMEOUT);
        lasted(start, "dripping handshake");
        d.stop = 1;
        a_later_join(&t);
        psocket_free(s);
        close(d.fd);
    }
}

TEST(read_from_a_peer_that_drips)
{
    drip d;
    a_later t;
    psocket *s;
    const void *data;
    int64_t start;
    d.stop = 0;
    s = net_raw_peer(&d.fd);
    REQUIRE(s != NULL);
    psocket_settimeout(s, LIMIT_MS);
    a_later_start(&t, 1, drips, &d);
    start = check_now_ms();
    CHECK_INT(psocket_read(s, 1000, &data), PSOCKET_TIMEOUT);
    lasted(start, "read");
    start = check_now_ms();
    CHECK_INT(psocket_read_until(s, "none", 1000, &data), PSOCKET_TIMEOUT);
    lasted(start, "read_until");
    d.stop = 1;
    a_later_join(&t);
    CHECK(psocket_pending(s) > 5); /* kept */
    psocket_free(s);
    close(d.fd);
}

TEST(connecting)
{
    psocket_options o = net_options(1);
    psocket *l = NULL, *c[12];
    int i, port = 0, how, r, timeouts = 0;
    o.backlog = 1;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    for (i = 0; i < 4; i++) {
        CHECK_INT(psocket_connect(&c[i], "127.0.0.1", port, &o), 0);
        psocket_wait(c[i], PSOCKET_WRITE, 10);
    }
    for (how = 0; how < 4; how++) {
        psocket *s = NULL;
        int64_t start = check_now_ms();
        o.nonblocking = how < 3;
        o.timeout_ms = LIMIT_MS;
        r = psocket_connect(&s, "127.0.0.1", port, &o);
        if (how < 3) r = drive(s, how);
        if (r == PSOCKET_TIMEOUT) {
            lasted(start, "connect");
            timeouts++;
        }
        psocket_free(s);
    }
    CHECK_INT(timeouts, 4);
    for (i = 0; i < 4; i++) psocket_free(c[i]);
    psocket_free(l);
}

TEST(resolving)
{
    int how;
    for (how = 0; how < 4; how++) {
        psocket_options o = net_options(how < 3);
        psocket_resolve *q = NULL;
        psocket *s = NULL;
        int64_t start = check_now_ms();
        int r;
        o.timeout_ms = LIMIT_MS;
        o.resolve = a_resolve_later;
        o.resolve_user = &q;
        r = psocket_connect(&s, "later.test", 80, &o);
        if (how < 3) r = drive(s, how);
        CHECK_INT(r, PSOCKET_TIMEOUT);
        lasted(start, "resolving");
        psocket_free(s);
        psocket_resolve_done(q, 0);
    }
}

/* Takes a little all the time until everything is through or the sender has given up. */
typedef struct slow {
    int fd;
    long taken;
    int pause_ms;
    size_t piece;
} slow;

static void takes_a_little(void *arg)
{
    slow *r = (slow *)arg;
    char buffer[32768];
    ssize_t n;
    while ((n = recv(r->fd, buffer, r->piece, 0)) > 0 || (n < 0 && errno == EAGAIN)) {
        if (n > 0) r->taken += n;
        check_sleep_us((long)r->pause_ms * 1000);
    }
}

/* The whole takes several times the limit, but bytes leave all the time. kind: 0 plain, 1 TLS, 2 carried, 3 carried by TLS */
static void slow_reader(void *arg)
{
    static const char data[4000000];
    const int kind = *(const int *)arg, limit = 3 * LIMIT_MS; /* a reader may have to wait for a processor */
    psocket *c = NULL, *s = NULL, *w = NULL;
    psocket_options o = net_options(0);
    slow r;
    a_later t;
    int64_t start;
    ptrdiff_t n;
    int v = 65536;
    o.nonblocking = 1;
    REQUIRE(psocket_pair(&c, &s, &o) == 0); /* no windows of TCP, whose probes take as long as the limit */
    o.nonblocking = 0;
    setsockopt((int)psocket_getfd(c), SOL_SOCKET, SO_SNDBUF, &v, sizeof v);
    if (kind & 1) REQUIRE(core_handshake(c, s) == 0);
    o.timeout_ms = limit;
    if (kind > 1) {
        REQUIRE(psocket_wrap(&w, c, &o) == 0);
        c = w;
    }
    psocket_setnonblocking(c, 0);
    psocket_settimeout(c, limit);
    memset(&r, 0, sizeof r);
    r.fd = dup((int)psocket_getfd(s));
    fcntl(r.fd, F_SETFL, 0);
    r.pause_ms = 12;
    r.piece = 32768;
    a_later_start(&t, 0, takes_a_little, &r);
    start = check_now_ms();
    n = psocket_send(c, data, sizeof data);
    if (n != (ptrdiff_t)sizeof data)
        check_fail(NULL, 0, "kind %d: %s after %d ms though bytes left all the time", kind, psocket_codename((int)n), (int)(check_now_ms() - start));
    else
        CHECK(check_now_ms() - start > 2 * limit);
    shutdown(r.fd, SHUT_RD);
    psocket_free(c);
    a_later_join(&t);
    close(r.fd);
    psocket_free(s);
}

/* All at once, since each takes a while. */
TEST(send_while_bytes_leave)
{
    a_later t[4];
    int kinds[4], i;
    for (i = 0; i < 4; i++) {
        kinds[i] = i;
        a_later_start(&t[i], 0, slow_reader, &kinds[i]);
    }
    for (i = 0; i < 4; i++) a_later_join(&t[i]);
}

/* A peer that takes nothing: the limit passes once, whatever the system's buffers swallow at a last try. */
TEST(send_to_a_peer_that_never_reads)
{
    static char data[64 << 20];
    int kind;
    for (kind = 0; kind < 4; kind++) {
        psocket *c = NULL, *s = NULL, *w = NULL;
        psocket_options o = net_options(0);
        int64_t start;
        ptrdiff_t n;
        char what[32];
        REQUIRE(kind & 1 ? a_tls(&c, &s, 1) : a_tcp(&c, &s, 1));
        o.timeout_ms = LIMIT_MS;
        if (kind > 1) {
            REQUIRE(psocket_wrap(&w, c, &o) == 0);
            c = w;
        }
        psocket_setnonblocking(c, 0);
        psocket_settimeout(c, LIMIT_MS);
        start = check_now_ms();
        n = psocket_send(c, data, sizeof data);
        CHECK_INT(n, PSOCKET_TIMEOUT);
        A_AGREES(c, n);
        snprintf(what, sizeof what, "send, kind %d", kind);
        lasted(start, what);
        start = check_now_ms(); /* a second send has its own time */
        CHECK_INT(psocket_send(c, data, sizeof data), PSOCKET_TIMEOUT);
        lasted(start, what);
        psocket_free(c);
        psocket_free(s);
    }
}

/* A transport that takes a byte at each try and never says that it could take one: a try at the end of the time must not
   begin it anew. */
typedef struct sip {
    size_t room;      /* taken at once, at first */
    psocket *bell[2]; /* never rings */
    int tries;
} sip;

static ptrdiff_t sip_get(void *user, void *p, size_t n, int *os)
{
    (void)user, (void)p, (void)n, (void)os;
    return PSOCKET_WANT_READ;
}

static ptrdiff_t sip_put(void *user, const void *p, size_t n, int *os)
{
    sip *s = (sip *)user;
    size_t take = s->room ? (n < s->room ? n : s->room) : 0;
    (void)p, (void)os;
    if (!n) return 0; /* it keeps nothing back */
    s->tries++;
    if (s->room) s->room -= take;
    else take = (size_t)s->tries % 2; /* a byte, then nothing, then a byte ... */
    return take ? (ptrdiff_t)take : PSOCKET_WANT_WRITE;
}

static int sip_finish(void *user, int *os)
{
    (void)user, (void)os;
    return 0;
}

static void sip_close(void *user)
{
    sip *s = (sip *)user;
    psocket_free(s->bell[0]);
    psocket_free(s->bell[1]);
}

static int sip_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    sip *s = (sip *)user;
    (void)ms;
    if (!(events & PSOCKET_WRITE) || cap < 1) return 0;
    fds[0].fd = psocket_getfd(s->bell[0]);
    fds[0].events = PSOCKET_READ;
    return 1;
}

static const psocket_transport sips = { sip_get, sip_put, sip_finish, sip_close, sip_wants };

TEST(a_last_try_does_not_move_it)
{
    static char data[100000];
    int mode;
    for (mode = 0; mode < 3; mode++) { /* blocking; nonblocking by wait, by poller */
        psocket_options o = net_options(mode > 0);
        psocket_poller *p = NULL;
        const psocket_event *ev;
        psocket *s = NULL;
        sip x;
        int64_t start;
        ptrdiff_t n = 0;
        size_t sent = 0;
        int turns = 0;
        memset(&x, 0, sizeof x);
        x.room = 5000;
        o.timeout_ms = LIMIT_MS;
        REQUIRE(psocket_pair(&x.bell[0], &x.bell[1], NULL) == 0);
        REQUIRE(psocket_open(&s, &sips, &x, PSOCKET_CLIENT, &o) == 0);
        if (mode == 2) CHECK(psocket_poller_new(&p) == 0 && psocket_poller_set(p, s, PSOCKET_WRITE, -1, s) == 0);
        start = check_now_ms();
        while (sent < sizeof data && turns++ < 100) {
            n = psocket_send(s, data + sent, sizeof data - sent);
            if (n > 0) sent += (size_t)n;
            else if (n != PSOCKET_WANT_WRITE) break;
            else if (mode == 1) psocket_wait(s, PSOCKET_WRITE, 3000);
            else psocket_poller_wait(p, &ev, 3000);
        }
        CHECK_INT(n, PSOCKET_TIMEOUT);
        lasted(start, mode ? mode == 1 ? "by wait" : "in a poller" : "blocking");
        psocket_free(s);
        psocket_poller_free(p);
    }
}

/* Nonblocking calls: the time runs from the first WANT, whoever waits, and the socket is reported when it has passed. */
TEST(nonblocking_calls)
{
    int how, call;
    for (call = 0; call < 5; call++) {
        for (how = 0; how < 3; how++) {
            psocket *c = NULL, *s = NULL, *l = NULL, *me;
            psocket_options o = net_options(1);
            psocket_poller *p = NULL;
            const psocket_event *ev;
            const void *data;
            int64_t start;
            ptrdiff_t r = PSOCKET_WANT_READ;
            int turns = 0, again;
            char what[64];
            o.timeout_ms = LIMIT_MS;
            REQUIRE(a_tcp(&c, &s, 1) && psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
            me = call == 3 ? l : s;
            psocket_settimeout(me, LIMIT_MS);
            if (call == 4) {
                int v = 65536; /* of its own accord the system would go on making room */
                setsockopt((int)psocket_getfd(c), SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
                setsockopt((int)psocket_getfd(me), SOL_SOCKET, SO_SNDBUF, &v, sizeof v);
                for (turns = 0; turns < 5; turns++) core_fill(me), check_sleep_us(5000);
                psocket_settimeout(me, LIMIT_MS);
            }
            if (how == 1) CHECK(psocket_poller_new(&p) == 0 && psocket_poller_set(p, me, call == 4 ? PSOCKET_WRITE : PSOCKET_READ, -1, me) == 0);
            snprintf(what, sizeof what, "call %d, how %d", call, how);
            for (again = 0; again < 2; again++) { /* a second one has its own time */
                start = check_now_ms();
                turns = 0;
                do {
                    psocket *none = NULL;
                    switch (call) {
                    case 0: r = psocket_recv(me, &data); break;
                    case 1: r = psocket_read(me, 10, &data); break;
                    case 2: r = psocket_read_until(me, "x", 10, &data); break;
                    case 3: r = psocket_accept(me, &none); break;
                    default:
                        while ((r = psocket_send(me, "x", 1)) > 0) start = check_now_ms(); /* the system makes a little room */
                        break;
                    }
                    if (r > 0) start = check_now_ms(); /* the system has found room for it after all */
                    if (r > 0) continue;
                    if (r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) break;
                    if (how == 0) psocket_wait(me, call == 4 ? PSOCKET_WRITE : PSOCKET_READ, 3000);
                    else if (how == 1) psocket_poller_wait(p, &ev, 3000);
                    else check_sleep_us(30000); /* a program that only tries now and then */
                } while (turns++ < 100);
                if (r != PSOCKET_TIMEOUT) check_fail(NULL, 0, "%s: %s", what, psocket_codename((int)r));
                else A_AGREES(me, r);
                lasted(start, what);
                if (how < 2 && turns > 5) check_fail(NULL, 0, "%s: %d turns", what, turns);
            }
            psocket_free(c);
            psocket_free(s);
            psocket_free(l);
            psocket_poller_free(p);
        }
    }
}

TEST(carried_recv)
{
    psocket *c = NULL, *s = NULL, *w = NULL;
    psocket_options o = net_options(0);
    int64_t start;
    REQUIRE(a_tcp(&c, &s, 1));
    o.timeout_ms = LIMIT_MS;
    REQUIRE(psocket_wrap(&w, s, &o) == 0);
    start = check_now_ms();
    CHECK_STR(a_recv(w), "TIMEOUT");
    lasted(start, "carried recv");
    psocket_free(w);
    psocket_free(c);
}
