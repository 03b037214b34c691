/* Out of descriptors, peers that dribble, and streams that are cut at every point. White-box only to count memory. */
#include <stddef.h>
#include <stdlib.h>
static void *fault_malloc(size_t n);
static void *fault_realloc(void *p, size_t n);
static void fault_free(void *p);
#include "fault/names.h"
#define PSOCKET_MALLOC(n) fault_malloc(n)
#define PSOCKET_REALLOC(p, n) fault_realloc(p, n)
#define PSOCKET_FREE(p) fault_free(p)
#include <errno.h>
#include <stdint.h>
#include <sys/epoll.h>
static long waits; /* system calls that wait */
static int counted_epoll_wait(int fd, struct epoll_event *ev, int n, int ms)
{
    waits++;
    return epoll_wait(fd, ev, n, ms);
}
static int no_more_watches; /* epoll_ctl has reached fs.epoll.max_user_watches */
static int no_changes;      /* it cannot change one */
static int counted_epoll_ctl(int fd, int op, int what, struct epoll_event *ev)
{
    if (no_more_watches && op == EPOLL_CTL_ADD) return errno = ENOSPC, -1;
    if (no_changes && op == EPOLL_CTL_MOD) return errno = ENOMEM, -1;
    return epoll_ctl(fd, op, what, ev);
}
#define epoll_wait counted_epoll_wait
#define epoll_ctl counted_epoll_ctl
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#undef epoll_wait
#undef epoll_ctl
#include "check.h"
#include "fault/scenes.h"
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>

static long live;

static void *fault_malloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (p) memset(p, 0xa5, n);
    if (p) __atomic_add_fetch(&live, 1, __ATOMIC_SEQ_CST);
    return p;
}

static void *fault_realloc(void *p, size_t n)
{
    if (!p) return fault_malloc(n);
    return realloc(p, n ? n : 1);
}

static void fault_free(void *p)
{
    if (p) __atomic_sub_fetch(&live, 1, __ATOMIC_SEQ_CST);
    free(p);
}

/*--- descriptors */

static int descriptors(void)
{
    unsigned char open_fds[4096];
    return check_descriptors(open_fds);
}

/* Runs a scene with only `spare` descriptors left. */
static int run_short(const scene *s, int spare)
{
    struct rlimit before, now;
    int taken[200], n = 0, i, r, fds = descriptors(), tries = 0;
    long was = live;
    getrlimit(RLIMIT_NOFILE, &before);
    now = before;
    now.rlim_cur = 200;
    setrlimit(RLIMIT_NOFILE, &now);
    while (n < 200 && (taken[n] = dup(0)) >= 0) n++;
    for (i = 0; i < spare && n > 0; i++) close(taken[--n]);
    r = s->run();
    setrlimit(RLIMIT_NOFILE, &before);
    while (n > 0) close(taken[--n]);
    while ((live != was || descriptors() != fds) && tries++ < 300) check_sleep_us(2000);
    if (live != was) check_fail(__FILE__, __LINE__, "%s with %d descriptors: %ld allocations not freed", s->name, spare, live - was);
    if (descriptors() != fds) check_fail(__FILE__, __LINE__, "%s with %d descriptors: %d left open", s->name, spare, descriptors() - fds);
    return r;
}

static void run_out(scene s, int most)
{
    int spare, r = 0, refused = 0;
    scene_setup();
    for (spare = 0; spare < most; spare++) {
        r = run_short(&s, spare);
        if (!r) break;
        refused++;
        /* A resolver that cannot open /etc/hosts does not know the name. */
        if (r != PSOCKET_DESCRIPTORS && r != PSOCKET_FILE && r != PSOCKET_TLS_NO_TRUST && r != PSOCKET_DNS && r != PSOCKET_DNS_TEMPORARY &&
            r != PSOCKET_DNS_NOT_FOUND)
            check_fail(__FILE__, __LINE__, "%s with %d descriptors: %d %s", s.name, spare, r, psocket_codename(r));
    }
    CHECK_INT(r, 0);
    CHECK(refused > 0);
    CHECK_INT(s.run(), 0);
    if (getenv("FAULT_VERBOSE")) printf("%s: enough with %d descriptors\n", s.name, spare);
}

#define SCENE(name, most) \
    TEST_LIMIT(descriptors_##name, 60) \
    { \
        scene s = { #name, scene_##name, 0 }; \
        run_out(s, most); \
    }

SCENE(tcp, 20)
SCENE(name, 20)
SCENE(unix_path, 20)
SCENE(udp, 20)
SCENE(poller, 150)
SCENE(tls_new, 20)
SCENE(default_settings, 20)
SCENE(tls_tcp, 20)
SCENE(tls_poller, 20)

/*--- the poller when there is something wrong */

static void never(void *user, psocket_resolve *r, const char *host)
{
    (void)host;
    *(psocket_resolve **)user = r;
}

/* A name that is still being resolved costs no CPU. */
TEST(a_dialling_socket_sleeps_in_its_poller)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_resolve *r = NULL;
    psocket_poller *p = NULL;
    psocket *s = NULL;
    const psocket_event *ev;
    o.resolve = never;
    o.resolve_user = &r;
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(psocket_connect(&s, "nowhere.test", 1, &o) == 0);
    REQUIRE(psocket_poller_set(p, s, PSOCKET_WRITE, -1, s) == 0);
    waits = 0;
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 0);
    if (!CHECK(waits < 20)) check_fail(__FILE__, __LINE__, "%ld waits in 200 ms", waits);
    psocket_resolve_done(r, PSOCKET_DNS_NOT_FOUND);
    CHECK_INT(psocket_poller_wait(p, &ev, 1000), 1);
    CHECK_INT(psocket_step(s), PSOCKET_DNS_NOT_FOUND);
    psocket_free(s);
    psocket_poller_free(p);
    CHECK_INT(live, 0);
}

/* A connection attempt that nobody answers (the listener's queue is full) costs no CPU either. */
TEST(an_unanswered_attempt_sleeps_in_its_poller)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_poller *p = NULL;
    psocket *s[8];
    const psocket_event *ev;
    struct sockaddr_in sa;
    socklen_t size = sizeof sa;
    int i, n = 0, l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(l, (struct sockaddr *)&sa, size) == 0 && listen(l, 0) == 0 && getsockname(l, (struct sockaddr *)&sa, &size) == 0);
    REQUIRE(psocket_poller_new(&p) == 0);
    for (i = 0; i < 8; i++) {
        s[i] = NULL;
        CHECK_INT(psocket_connect(&s[i], "127.0.0.1", ntohs(sa.sin_port), &o), 0);
        CHECK_INT(psocket_poller_set(p, s[i], PSOCKET_READ, -1, s[i]), 0);
        n += s[i] && psocket_step(s[i]) == PSOCKET_WANT_WRITE;
    }
    waits = 0;
    CHECK_INT(psocket_poller_wait(p, &ev, 200), 0);
    if (!CHECK(waits < 40)) check_fail(__FILE__, __LINE__, "%ld waits in 200 ms with %d attempts under way", waits, n);
    for (i = 0; i < 8; i++) psocket_free(s[i]);
    psocket_poller_free(p);
    close(l);
    CHECK_INT(live, 0);
}

/* A timer that has fired and an error in the same wait: the timer is told sooner or later, and so is the socket. */
TEST(an_error_of_the_poller_loses_no_event)
{
    static char key;
    psocket_watch *timer = NULL;
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_resolve *r = NULL;
    psocket_poller *p = NULL;
    psocket *l = NULL;
    psocket *s = NULL;
    const psocket_event *ev;
    int i, k, n, port = 0, fired = 0, connected = 0;
    o.timeout_ms = 0;
    o.resolve = never;
    o.resolve_user = &r;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0 && psocket_getlocal(l, NULL, 0, &port) == 0);
    REQUIRE(psocket_poller_new(&p) == 0);
    REQUIRE(psocket_connect(&s, "nowhere.test", port, &o) == 0);
    REQUIRE(psocket_poller_set(p, s, PSOCKET_WRITE, -1, s) == 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    REQUIRE(psocket_poller_watch(p, &timer, -1, 0, 0, &key) == 0);
    psocket_resolve_add(r, "127.0.0.1");
    psocket_resolve_done(r, 0);
    check_sleep_us(2000);
    no_more_watches = 1;
    for (i = 0; i < 20 && !(fired && connected); i++) {
        if (i == 3) no_more_watches = 0;
        n = psocket_poller_wait(p, &ev, 20);
        for (k = 0; k < n; k++) {
            if (ev[k].user == &key) fired++;
            if (ev[k].user == s && (ev[k].events & PSOCKET_WRITE)) connected++;
        }
    }
    CHECK_INT(fired, 1);
    CHECK_INT(connected, 1);
    psocket_free(s);
    psocket_free(l);
    psocket_watch_free(timer);
    psocket_poller_free(p);
    CHECK_INT(live, 0);
}

/* A change that the system refuses: the poller forgets nothing that the system still knows. */
TEST(a_change_that_fails_leaves_the_watch_alone)
{
    static char key[2];
    psocket_watch *w = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int fds[2], n;
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, &key[0]), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    no_changes = 1;
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ | PSOCKET_WRITE, -1, &key[0]), PSOCKET_NOMEM);
    no_changes = 0;
    CHECK_INT(send(fds[1], "x", 1, 0), 1);
    n = psocket_poller_wait(p, &ev, 100); /* it may be watched as before, or not at all */
    CHECK(n == 0 || (n == 1 && ev[0].user == &key[0]));
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, &key[1]), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 500), 1);
    CHECK(ev[0].user == &key[1]);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], 0, -1, NULL), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    psocket_watch_free(w);
    psocket_poller_free(p);
    close(fds[0]);
    close(fds[1]);
    CHECK_INT(live, 0);
}

/* A foreign descriptor that was closed without telling the poller, and whose number is somebody else's now. */
TEST(a_foreign_descriptor_is_closed_and_opened_again)
{
    static char key[2];
    psocket_watch *w = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    int fds[2], again[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    REQUIRE(psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_watch(p, &w, fds[0], PSOCKET_READ, -1, &key[0]), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    close(fds[0]);
    close(fds[1]);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, again) == 0);
    if (!CHECK(again[0] == fds[0])) return;
    CHECK_INT(psocket_poller_watch(p, &w, again[0], PSOCKET_READ | PSOCKET_WRITE, -1, &key[1]), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, 500), 1);
    CHECK(ev[0].user == &key[1] && ev[0].events == PSOCKET_WRITE);
    psocket_watch_free(w);
    psocket_poller_free(p);
    close(again[0]);
    close(again[1]);
    CHECK_INT(live, 0);
}

/*--- what a wrapped socket may do once its carrier is gone */

TEST(the_end_of_a_carrier_is_told_to_what_it_carries)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_tls *client = NULL, *server = NULL;
    psocket *a = NULL, *b = NULL, *w = NULL;
    const void *data;
    scene_setup();
    scene_start();
    REQUIRE(scene_settings(&client, &server, scene_ec, scene_ec_key) == 0);
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    REQUIRE(scene_shake(a, b, client, server) == 0);
    REQUIRE(psocket_wrap(&w, a, &o) == 0);
    /* A record that does not decrypt ends the carrier. */
    CHECK_INT(send((int)psocket_getfd(b), "\x17\x03\x03\x00\x20garbage garbage garbage garbage!", 37, 0), 37);
    CHECK_INT(psocket_recv(w, &data), PSOCKET_TLS_RECORD);
    CHECK(psocket_shutdown(w) <= 0);
    scene_poke(w);
    psocket_free(w);
    psocket_free(b);
    psocket_tls_free(client);
    psocket_tls_free(server);
    CHECK_INT(live, 0);
}

/* Bytes that the carrier has taken but not sent: the socket that it carries goes on with them. */
TEST(a_carrier_is_flushed_by_what_it_carries)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_tls *client = NULL, *server = NULL;
    psocket *a = NULL, *b = NULL, *w = NULL;
    size_t taken = 0, got = 0;
    const void *data;
    ptrdiff_t n;
    int i;
    scene_setup();
    scene_start();
    REQUIRE(scene_settings(&client, &server, scene_ec, scene_ec_key) == 0);
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    REQUIRE(scene_shake(a, b, client, server) == 0);
    REQUIRE(psocket_wrap(&w, a, &o) == 0);
    for (i = 0; i < 1000 && (n = psocket_send(w, scene_bytes, SCENE_BIG)) > 0; i++) taken += (size_t)n;
    CHECK_INT(n, PSOCKET_WANT_WRITE);
    CHECK_INT(psocket_flush(w), PSOCKET_WANT_WRITE);
    for (i = 0; i < 1000 && got < taken; i++) {
        psocket_step(w);
        if ((n = psocket_recv(b, &data)) > 0) got += (size_t)n;
    }
    CHECK_INT(got, taken);
    CHECK_INT(psocket_flush(w), 0);
    psocket_free(w);
    psocket_free(b);
    psocket_tls_free(client);
    psocket_tls_free(server);
    CHECK_INT(live, 0);
}

/*--- a network that dribbles, and one that cuts */

/* Between a client and a server, both psocket's: passes what each says, `chunk` bytes at a time, until `limit` bytes went one
   way (0: to the server, 1: to the client), then ends both connections. */
typedef struct relay {
    int fd[2]; /* the server's peer, the client's peer: way w is written to fd[w] */
    long passed[2], limit[2];
    size_t chunk;
    int reset, cut;
} relay;

/* One end: a handshake (or none), then 300 bytes from the client, echoed, then an orderly end. */
typedef struct party {
    psocket *s;
    int client, state, code; /* code: how it ended, 1 while it runs */
    size_t got, put;
} party;

enum { SHAKING, TALKING, CLOSING };
#define PARTY_BYTES 300

static void relay_end(relay *r)
{
    int i;
    if (r->cut) return;
    r->cut = 1;
    for (i = 0; i < 2; i++) {
        if (r->reset) {
            struct linger hard;
            hard.l_onoff = 1;
            hard.l_linger = 0;
            setsockopt(r->fd[i], SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
            close(r->fd[i]);
            r->fd[i] = -1;
        } else {
            shutdown(r->fd[i], SHUT_WR);
        }
    }
}

/* Whether something moved. */
static int relay_turn(relay *r)
{
    char buf[4096];
    int way, moved = 0;
    for (way = 0; way < 2 && !r->cut; way++) {
        size_t want = r->chunk < sizeof buf ? r->chunk : sizeof buf;
        ssize_t n;
        if (r->passed[way] == r->limit[way]) {
            relay_end(r);
            return 1;
        }
        if ((long)want > r->limit[way] - r->passed[way]) want = (size_t)(r->limit[way] - r->passed[way]);
        n = recv(r->fd[!way], buf, want, MSG_DONTWAIT);
        if (n == 0) shutdown(r->fd[way], SHUT_WR);
        if (n <= 0) continue;
        CHECK_INT(send(r->fd[way], buf, (size_t)n, MSG_NOSIGNAL), n);
        r->passed[way] += n;
        moved = 1;
    }
    return moved;
}

static void party_turn(party *p)
{
    const void *data;
    ptrdiff_t n;
    if (p->code != 1) return;
    if (p->state == SHAKING) {
        n = psocket_step(p->s);
        if (scene_waits(n)) return;
        if (n) {
            p->code = (int)n;
            return;
        }
        p->state = TALKING;
    }
    if (p->state == TALKING && p->put < (p->client ? PARTY_BYTES : p->got)) {
        n = psocket_send(p->s, scene_bytes + p->put, (p->client ? PARTY_BYTES : p->got) - p->put);
        if (n > 0) p->put += (size_t)n;
        else if (!scene_waits(n)) {
            p->code = (int)n;
            return;
        }
    }
    psocket_step(p->s);
    if (p->state == TALKING && p->client && p->got == PARTY_BYTES) {
        p->state = CLOSING;
        psocket_shutdown(p->s);
    }
    n = psocket_recv(p->s, &data);
    if (n > 0) {
        if (!CHECK(p->got + (size_t)n <= PARTY_BYTES)) p->code = PSOCKET_OS;
        else CHECK_MEM(data, scene_bytes + p->got, n);
        p->got += (size_t)n;
    } else if (!scene_waits(n)) {
        p->code = (int)n;
        if (n == PSOCKET_CLOSED && !p->client) psocket_shutdown(p->s);
    }
}

/* One conversation over the relay; tls may be NULL. How each end fared is in *client and *server, which are freed. */
static int relay_run(relay *r, psocket_tls **tls, party *client, party *server)
{
    static int port_client, port_server; /* of listeners that are made once per process */
    static int l = -1;
    static psocket *pl;
    struct sockaddr_in sa;
    socklen_t size = sizeof sa;
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    int i, turns, code;
    memset(client, 0, sizeof *client);
    memset(server, 0, sizeof *server);
    client->client = client->code = server->code = 1;
    r->cut = 0;
    r->passed[0] = r->passed[1] = 0;
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!r->chunk) { /* the end of the test */
        if (l >= 0) close(l);
        l = -1;
        psocket_free(pl);
        pl = NULL;
        return 0;
    }
    if (l < 0) {
        l = socket(AF_INET, SOCK_STREAM, 0);
        if (!CHECK(bind(l, (struct sockaddr *)&sa, size) == 0 && listen(l, 5) == 0 && getsockname(l, (struct sockaddr *)&sa, &size) == 0)) return 0;
        port_client = ntohs(sa.sin_port);
        o.nonblocking = 0;
        if (!CHECK_INT(psocket_listen(&pl, "127.0.0.1", 0, &o), 0)) return 0;
        CHECK_INT(psocket_getlocal(pl, NULL, 0, &port_server), 0);
    }
    o.nonblocking = 0;
    if (!CHECK_INT(psocket_connect(&client->s, "127.0.0.1", port_client, &o), 0)) return 0;
    r->fd[1] = accept(l, NULL, NULL);
    r->fd[0] = socket(AF_INET, SOCK_STREAM, 0);
    sa.sin_port = htons((uint16_t)port_server);
    if (!CHECK(connect(r->fd[0], (struct sockaddr *)&sa, sizeof sa) == 0)) return 0;
    i = 1;
    setsockopt(r->fd[0], IPPROTO_TCP, TCP_NODELAY, &i, sizeof i);
    setsockopt(r->fd[1], IPPROTO_TCP, TCP_NODELAY, &i, sizeof i);
    if (!CHECK_INT(psocket_accept(pl, &server->s), 0)) return 0;
    psocket_setnonblocking(client->s, 1);
    psocket_setnonblocking(server->s, 1);
    if (tls) {
        code = psocket_starttls(client->s, tls[0], "localhost");
        CHECK(code == 0 || scene_waits(code));
        code = psocket_starttls(server->s, tls[1], NULL);
        CHECK(code == 0 || scene_waits(code));
    }
    for (turns = 0; turns < 100000 && (client->code == 1 || server->code == 1); turns++) {
        struct pollfd p[2 + 2 * PSOCKET_POLLSET_MAX];
        psocket_pollfd fds[2 * PSOCKET_POLLSET_MAX];
        int n = 0, ms = 500, k = 0;
        int moved = relay_turn(r);
        party_turn(client);
        party_turn(server);
        if (moved) continue;
        if (client->code == 1) n += psocket_pollset(client->s, PSOCKET_READ, fds, PSOCKET_POLLSET_MAX, &ms);
        if (server->code == 1) n += psocket_pollset(server->s, PSOCKET_READ, fds + n, PSOCKET_POLLSET_MAX, &ms);
        for (i = 0; i < n; i++, k++) {
            p[k].fd = (int)fds[i].fd;
            p[k].events = (short)((fds[i].events & PSOCKET_READ ? POLLIN : 0) | (fds[i].events & PSOCKET_WRITE ? POLLOUT : 0));
        }
        for (i = 0; i < 2 && !r->cut; i++, k++) {
            p[k].fd = r->fd[i];
            p[k].events = POLLIN;
        }
        if (ms && poll(p, (nfds_t)k, ms) == 0) break; /* nothing will ever happen */
    }
    psocket_free(client->s);
    psocket_free(server->s);
    for (i = 0; i < 2; i++)
        if (r->fd[i] >= 0) close(r->fd[i]);
    return 1;
}

static int cut_off(int code)
{
    return code == PSOCKET_TRUNCATED || code == PSOCKET_RESET;
}

/* A client that remembers no session. */
static void forget(psocket_tls **client)
{
    psocket_tls_options c;
    psocket_tls_free(*client);
    *client = NULL;
    memset(&c, 0, sizeof c);
    c.ca = scene_ca;
    CHECK_INT(psocket_tls_new(client, &c), 0);
}

/* Cuts conversations after every `stride` bytes, and near the beginning and end after each. again: resumed sessions. */
static void cut_everywhere(psocket_tls **tls, long stride, int again)
{
    relay r;
    party c, s;
    long totals[2], k, was;
    int way, runs = 0;
    memset(&r, 0, sizeof r);
    r.chunk = 4096;
    r.limit[0] = r.limit[1] = LONG_MAX;
    if (tls) forget(&tls[0]);
    if (!relay_run(&r, tls, &c, &s)) return;
    if (again) relay_run(&r, tls, &c, &s);
    CHECK_INT(c.code, PSOCKET_CLOSED);
    CHECK_INT(s.code, PSOCKET_CLOSED);
    CHECK_INT(c.got, PARTY_BYTES);
    totals[0] = r.passed[0];
    totals[1] = r.passed[1];
    for (way = 0; way < 2; way++)
        for (k = 0; k < totals[way] - 4; k += k < 8 || k > totals[way] - 16 ? 1 : stride)
            for (r.reset = 0; r.reset < 2; r.reset++) {
                int before = check_shared->failures, kind = r.reset;
                if (again) { /* there must be a session to resume */
                    r.reset = 0;
                    r.limit[0] = r.limit[1] = LONG_MAX;
                    relay_run(&r, tls, &c, &s);
                    r.reset = kind;
                } else if (tls) {
                    forget(&tls[0]);
                }
                was = live;
                r.limit[0] = r.limit[1] = LONG_MAX;
                r.limit[way] = k;
                if (!relay_run(&r, tls, &c, &s)) return;
                runs++;
                CHECK(c.code != 1 && s.code != 1); /* both ended */
                if (tls) {
                    /* Whom the cut concerns must know; the other one may have had all before. */
                    CHECK(cut_off(way ? c.code : s.code));
                    CHECK(cut_off(way ? s.code : c.code) || (way ? s : c).code == PSOCKET_CLOSED);
                    if (s.code == PSOCKET_CLOSED) CHECK_INT(s.got, PARTY_BYTES);
                    if (c.code == PSOCKET_CLOSED) CHECK_INT(c.got, PARTY_BYTES);
                } else {
                    CHECK(c.code == PSOCKET_CLOSED || (r.reset && c.code == PSOCKET_RESET));
                    CHECK(s.code == PSOCKET_CLOSED || (r.reset && s.code == PSOCKET_RESET));
                    if (!r.reset) CHECK_INT((way ? c : s).got, k);
                }
                CHECK(live <= was + 4 && (tls || live == was)); /* a session may be new */
                if (check_shared->failures > before)
                    check_fail(__FILE__, __LINE__, "(%s of %ld to the %s cut after %ld by %s: client %d with %d bytes, server %d with %d bytes)",
                               tls ? "TLS" : "plain", totals[way], way ? "client" : "server", k, kind ? "RST" : "FIN", c.code, (int)c.got,
                               s.code, (int)s.got);
                if (check_shared->failures > 12) return;
            }
    if (getenv("FAULT_VERBOSE")) printf("%ld and %ld bytes, %d cuts\n", totals[0], totals[1], runs);
}

static void relay_done(void)
{
    relay r;
    party c, s;
    memset(&r, 0, sizeof r);
    relay_run(&r, NULL, &c, &s);
    CHECK_INT(live, 0);
}

static void cut_tls(const char *chain, const char *key, long stride, int again)
{
    psocket_tls *tls[2] = { NULL, NULL };
    scene_setup();
    REQUIRE(scene_settings(&tls[0], &tls[1], chain, key) == 0);
    cut_everywhere(tls, stride, again);
    psocket_tls_free(tls[0]);
    psocket_tls_free(tls[1]);
    relay_done();
}

TEST_LIMIT(plain_streams_are_cut_at_every_byte, 60)
{
    scene_setup();
    cut_everywhere(NULL, 1, 0);
    relay_done();
}

TEST_LIMIT(tls_streams_are_cut_everywhere, 60)
{
    cut_tls(scene_ec, scene_ec_key, 17, 0);
}

TEST_LIMIT(resumed_tls_streams_are_cut_everywhere, 60)
{
    cut_tls(scene_ec, scene_ec_key, 3, 1);
}

/* One byte at a time, in both directions. */
TEST_LIMIT(peers_that_send_single_bytes, 60)
{
    psocket_tls *tls[2] = { NULL, NULL };
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *a = NULL, *b = NULL;
    relay r;
    party c, s;
    int round;
    scene_setup();
    REQUIRE(scene_settings(&tls[0], &tls[1], scene_rsa, scene_rsa_key) == 0);
    memset(&r, 0, sizeof r);
    r.limit[0] = r.limit[1] = LONG_MAX;
    r.chunk = 1;
    for (round = 0; round < 3; round++) { /* a handshake, a resumed one, none */
        if (!relay_run(&r, round < 2 ? tls : NULL, &c, &s)) break;
        CHECK_INT(c.code, PSOCKET_CLOSED);
        CHECK_INT(s.code, PSOCKET_CLOSED);
        CHECK_INT(c.got, PARTY_BYTES);
        CHECK_INT(s.got, PARTY_BYTES);
    }
    /* The same in memory, with more data. */
    scene_start();
    CHECK_INT(link_pair(&a, &b, 1, 0, &o), 0);
    CHECK_INT(scene_shake(a, b, tls[0], tls[1]), 0);
    CHECK_INT(scene_talk(a, b), 0);
    psocket_free(a);
    psocket_free(b);
    psocket_tls_free(tls[0]);
    psocket_tls_free(tls[1]);
    relay_done();
}

/*--- a reader that goes away in the middle of a blocking send */

typedef struct reader {
    int fd, reset;
    size_t most;
} reader;

static void *read_some(void *p)
{
    reader *r = (reader *)p;
    char buf[4096];
    size_t got = 0;
    while (got < r->most) {
        ssize_t n = recv(r->fd, buf, sizeof buf, 0);
        if (n <= 0) break;
        got += (size_t)n;
    }
    if (r->reset) {
        struct linger hard;
        hard.l_onoff = 1;
        hard.l_linger = 0;
        setsockopt(r->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    close(r->fd);
    return NULL;
}

/* No SIGPIPE, no wait, no claim to have sent it all. */
TEST(a_reader_that_goes_away)
{
    static char much[8 << 20];
    psocket_error e;
    psocket_options o = scene_options(0, &e);
    int i;
    scene_setup();
    for (i = 0; i < 6; i++) {
        psocket *l = NULL;
        psocket *s = NULL;
        struct sockaddr_in sa;
        reader r;
        pthread_t thread;
        const void *data;
        ptrdiff_t n;
        int port = 0;
        REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0 && psocket_getlocal(l, NULL, 0, &port) == 0);
        memset(&sa, 0, sizeof sa);
        sa.sin_family = AF_INET;
        sa.sin_port = htons((uint16_t)port);
        sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        r.fd = socket(AF_INET, SOCK_STREAM, 0);
        r.reset = i % 2;
        r.most = i < 2 ? 0 : i < 4 ? 5000 : 300000;
        REQUIRE(connect(r.fd, (struct sockaddr *)&sa, sizeof sa) == 0);
        REQUIRE(psocket_accept(l, &s) == 0);
        REQUIRE(pthread_create(&thread, NULL, read_some, &r) == 0);
        n = psocket_send(s, much, sizeof much);
        CHECK_INT(n, PSOCKET_RESET);
        psocket_geterror(s, &e);
        CHECK(e.sent < sizeof much);
        CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
        n = psocket_recv(s, &data);
        CHECK(n == PSOCKET_RESET || n == PSOCKET_CLOSED);
        CHECK_INT(psocket_isopen(s), 0);
        pthread_join(thread, NULL);
        psocket_free(s);
        psocket_free(l);
    }
    CHECK_INT(live, 0);
}
