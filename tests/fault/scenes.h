/* scenes.h - the scenarios that the fault tests run again and again while one call after another fails. Include it after
 * the implementation and check.h.
 *
 * A scene answers 0 when everything happened as without faults, having compared every byte, or the PSOCKET_ code that
 * stopped it. It cleans up whatever happened, and it ends by itself: what takes more than its share of turns or waits for
 * what cannot come answers PSOCKET_TIMEOUT, which no fault may cause.
 */
#ifndef SCENES_H
#define SCENES_H

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include "../link.h"

#define SCENE_TURNS 200000
#define SCENE_BIG 9000
#define SCENE_RETRIES 3

typedef struct scene {
    const char *name;
    int (*run)(void);
    int heavy; /* 1: public-key arithmetic, so it is repeated less often */
} scene;

#define TRY(call) \
    do { \
        r = (int)(call); \
        if (r < 0) goto out; \
    } while (0)

static int scene_ms = 3000; /* CHECK_SLOW multiplies it */
static long scene_turns;
static int64_t scene_end;
static size_t scene_big = SCENE_BIG; /* how much is sent: what single bytes can do in the time */
static uint8_t scene_bytes[SCENE_BIG];
static char scene_ca[16384], scene_rsa[16384], scene_rsa_key[16384], scene_ec[16384], scene_ec_key[16384];
static char scene_path[64];
static int scene_path_stays; /* it cannot be removed */

static void scene_load(char *text, size_t size, const char *name)
{
    char path[1024];
    size_t n;
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", check_certs(), name);
    f = fopen(path, "rb");
    n = f ? fread(text, 1, size - 1, f) : 0;
    text[n] = 0;
    if (f) fclose(f);
    if (!n) check_fail(__FILE__, __LINE__, "cannot read %s", path);
}

/* Once per test. */
static void scene_setup(void)
{
    char path[1024];
    const char *slow = getenv("CHECK_SLOW");
    size_t i;
    if (slow && atoi(slow) > 1) scene_ms = 3000 * atoi(slow);
    for (i = 0; i < sizeof scene_bytes; i++) scene_bytes[i] = (uint8_t)(i * 7 + i / 251);
    scene_load(scene_ca, sizeof scene_ca, "ca.pem");
    scene_load(scene_rsa, sizeof scene_rsa, "rsa.pem");
    scene_load(scene_rsa_key, sizeof scene_rsa_key, "rsa.key");
    scene_load(scene_ec, sizeof scene_ec, "ec.pem");
    scene_load(scene_ec_key, sizeof scene_ec_key, "ec.key");
    snprintf(path, sizeof path, "%s/ca.pem", check_certs());
    setenv("SSL_CERT_FILE", path, 1);
    unsetenv("SSL_CERT_DIR");
    snprintf(scene_path, sizeof scene_path, "unix:/tmp/psocket-fault-%ld", (long)getpid());
}

static void scene_start(void)
{
    scene_turns = 0;
    scene_end = check_now_ms() + scene_ms;
}

/* 0, or PSOCKET_TIMEOUT when the scene has had enough. */
static int scene_turn(void)
{
    return ++scene_turns > SCENE_TURNS || check_now_ms() > scene_end ? PSOCKET_TIMEOUT : 0;
}

static psocket_options scene_options(int nonblocking, psocket_error *e)
{
    psocket_options o;
    memset(&o, 0, sizeof o);
    memset(e, 0, sizeof *e);
    o.nonblocking = nonblocking;
    o.timeout_ms = scene_ms;
    o.error = e;
    return o;
}

/* A failure must be told: its code in *e, with a text. */
static int scene_told(int r, const psocket_error *e)
{
    if (r < 0) {
        CHECK_INT(e->code, r);
        CHECK(e->text[0] != 0);
        CHECK(psocket_codename(r) != NULL);
    }
    return r;
}

/* What anybody may do to a socket after anything happened to it. */
static void scene_poke(psocket *s)
{
    psocket_pollfd fds[PSOCKET_POLLSET_MAX];
    psocket_error e;
    const void *data;
    char ip[256];
    int ms = 0, n;
    if (!s) return;
    psocket_setnonblocking(s, 1);
    psocket_geterror(s, &e);
    CHECK(!e.code || e.text[0]);
    n = psocket_pollset(s, PSOCKET_READ | PSOCKET_WRITE, fds, PSOCKET_POLLSET_MAX, &ms);
    CHECK(n >= 0 && n <= PSOCKET_POLLSET_MAX);
    psocket_step(s);
    psocket_getpeer(s, ip, sizeof ip, NULL);
    psocket_getlocal(s, ip, sizeof ip, NULL);
    psocket_peek(s, &data);
    psocket_isopen(s);
    psocket_wait(s, PSOCKET_READ | PSOCKET_WRITE, 0);
    psocket_send(s, "x", 1);
    psocket_flush(s);
    psocket_shutdown(s);
    psocket_recv(s, &data);
}

static int scene_ends[2]; /* what stopped each end: one of them has met the fault, the other one was told or cut off */

/* How each end has ended: what its last call answered or, of one that a poller found ended and nobody asked since, the next. */
static void scene_note(psocket *a, psocket *b)
{
    if (a) scene_ends[0] = psocket_geterror(a, NULL);
    if (b) scene_ends[1] = psocket_geterror(b, NULL);
    if (a && !scene_ends[0]) scene_ends[0] = psocket_step(a);
    if (b && !scene_ends[1]) scene_ends[1] = psocket_step(b);
}

static void scene_free(psocket *s, int failed)
{
    if (failed) scene_poke(s);
    if (failed) psocket_close(s);
    psocket_free(s);
}

/* Waits a little until one of two nonblocking sockets may get further. */
static int scene_pause(psocket *a, psocket *b)
{
    psocket *s[2];
    psocket_pollfd fds[2 * PSOCKET_POLLSET_MAX];
    struct pollfd p[2 * PSOCKET_POLLSET_MAX];
    int i, n = 0, ms = 100;
    s[0] = a;
    s[1] = b;
    for (i = 0; i < 2; i++) {
        if (s[i] && s[i] != a) psocket_step(s[i]);
        if (s[i]) n += psocket_pollset(s[i], s[i] == a ? PSOCKET_READ : 0, fds + n, PSOCKET_POLLSET_MAX, &ms);
    }
    for (i = 0; i < n; i++) {
        p[i].fd = (int)fds[i].fd;
        p[i].events = (short)(((fds[i].events & PSOCKET_READ) ? POLLIN : 0) | ((fds[i].events & PSOCKET_WRITE) ? POLLOUT : 0));
    }
    if (ms && n) poll(p, (nfds_t)n, ms);
    else if (ms) check_sleep_us(1000);
    return scene_turn();
}

static int scene_waits(ptrdiff_t r)
{
    return r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE;
}

/* Sends all to a socket whose other end is b. */
static int scene_put(psocket *a, psocket *b, const void *data, size_t n)
{
    size_t done = 0;
    int tries = 0, r;
    while (done < n) {
        ptrdiff_t put = psocket_send(a, (const char *)data + done, n - done);
        if (put > 0) done += (size_t)put;
        if (put == 0) return check_fail(__FILE__, __LINE__, "send took nothing"), PSOCKET_OS;
        if (put == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) continue;
        if (put < 0 && !scene_waits(put)) return (int)put;
        if (put < 0 && b) psocket_isopen(b); /* reads: buffers hold few single bytes */
        if (put < 0 && (r = scene_pause(b, a)) != 0) return r;
    }
    while ((r = psocket_flush(a)) == PSOCKET_WANT_WRITE)
        if ((r = scene_pause(b, a)) != 0) return r;
    return r;
}

enum { SCENE_CHUNK, SCENE_EXACT, SCENE_LINE };

/* One call of one of the three ways to receive, however long it takes. */
static ptrdiff_t scene_take(psocket *a, psocket *b, int how, size_t n, const void **data)
{
    int tries = 0, r;
    for (;;) {
        ptrdiff_t got = how == SCENE_CHUNK ? psocket_recv(a, data)
                      : how == SCENE_EXACT ? psocket_read(a, n, data)
                                           : psocket_read_until(a, "\r\n", n, data);
        if (got == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) continue; /* ends nothing */
        if (!scene_waits(got)) return got;
        if ((r = scene_pause(a, b)) != 0) return r;
    }
}

static int scene_shut(psocket *a, psocket *b)
{
    int r, tries = 0;
    while ((r = psocket_shutdown(a)) != 0) {
        if (r == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) continue;
        if (!scene_waits(r) || (r = scene_pause(b, a)) != 0) return r;
    }
    return 0;
}

/* Both ends are stream sockets, nonblocking, connected (perhaps with TLS). Everything the data calls can do, both ways,
   and an orderly end. */
static int scene_talk(psocket *a, psocket *b)
{
    const void *data;
    ptrdiff_t got;
    size_t at;
    int r, tries = 0;
    TRY(scene_put(a, b, "first line\r\nsecond", 18));
    TRY(scene_put(a, b, " line\r", 6));
    TRY(scene_put(a, b, "\nabc", 4));
    TRY(got = scene_take(b, a, SCENE_LINE, 1000, &data));
    CHECK_INT(got, 12);
    if (got == 12) CHECK_MEM(data, "first line\r\n", 12);
    TRY(got = scene_take(b, a, SCENE_LINE, 1000, &data));
    CHECK_INT(got, 13);
    if (got == 13) CHECK_MEM(data, "second line\r\n", 13);
    while ((r = psocket_unrecv(b, data, (size_t)got)) == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) {}
    if (r) goto out;
    TRY(got = scene_take(b, a, SCENE_EXACT, 16, &data));
    CHECK_INT(got, 16);
    if (got == 16) CHECK_MEM(data, "second line\r\nabc", 16);
    CHECK_INT(psocket_pending(b), 0);
    /* A lot, both ways. */
    TRY(scene_put(a, b, scene_bytes, scene_big));
    TRY(scene_put(b, a, scene_bytes, scene_big));
    for (at = 0; at < scene_big; at += (size_t)got) {
        TRY(got = scene_take(b, a, SCENE_CHUNK, 0, &data));
        if (!CHECK(got > 0 && (size_t)got <= scene_big - at)) return PSOCKET_OS;
        if (!CHECK_MEM(data, scene_bytes + at, got)) return PSOCKET_OS;
    }
    TRY(got = scene_take(a, b, SCENE_EXACT, scene_big, &data));
    CHECK_INT(got, scene_big);
    if (got == (ptrdiff_t)scene_big) CHECK_MEM(data, scene_bytes, scene_big);
    /* The end, one direction after the other. */
    TRY(scene_shut(a, b));
    got = scene_take(b, a, SCENE_CHUNK, 0, &data);
    if (got != PSOCKET_CLOSED) {
        CHECK(got < 0); /* bytes from nowhere */
        return got < 0 ? (int)got : PSOCKET_OS;
    }
    TRY(scene_put(b, a, "bye", 3));
    TRY(got = scene_take(a, b, SCENE_EXACT, 3, &data));
    TRY(scene_shut(b, a));
    psocket_close(b);
    got = scene_take(a, b, SCENE_CHUNK, 0, &data);
    if (got != PSOCKET_CLOSED) {
        CHECK(got < 0);
        return got < 0 ? (int)got : PSOCKET_OS;
    }
    r = 0;
out:
    return r;
}

/*--- without TLS */

static int scene_stream(const char *listen_on, const char *host)
{
    psocket_error e;
    psocket_options o = scene_options(0, &e);
    psocket *l = NULL;
    psocket *a = NULL, *b = NULL;
    char ip[256];
    int r, port = 0;
    scene_start();
    TRY(scene_told(psocket_listen(&l, listen_on, 0, &o), &e));
    TRY(psocket_getlocal(l, ip, sizeof ip, &port));
    TRY(scene_told(psocket_connect(&a, host, port, &o), &e));
    CHECK(a != NULL);
    r = psocket_hasconnection(l);
    if (r < 0) goto out;
    TRY(psocket_accept(l, &b));
    CHECK(b != NULL);
    TRY(psocket_getpeer(a, ip, sizeof ip, NULL));
    TRY(psocket_getlocal(b, ip, sizeof ip, NULL));
    /* Blocking first. */
    TRY(psocket_send(a, "ping", 4));
    {
        const void *data = NULL;
        int tries = 0;
        ptrdiff_t got;
        while ((got = psocket_read(b, 4, &data)) == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) {}
        TRY(got);
        CHECK_INT(got, 4);
        if (got == 4) CHECK_MEM(data, "ping", 4);
    }
    psocket_setnonblocking(a, 1);
    psocket_setnonblocking(b, 1);
    TRY(scene_talk(a, b));
out:
    scene_note(a, b);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    psocket_free(l);
    return r;
}

static CHECK_UNUSED int scene_tcp(void)
{
    return scene_stream("127.0.0.1", "127.0.0.1");
}

static CHECK_UNUSED int scene_name(void)
{
    return scene_stream(NULL, SCENE_NAME);
}

/* Sockets that are given up while their names are being resolved or their handshakes are under way. */
static CHECK_UNUSED int scene_given_up(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *s[10];
    psocket_poller *p = NULL;
    const psocket_event *events;
    int r = 0, i;
    scene_start();
    memset(s, 0, sizeof s);
    TRY(psocket_poller_new(&p));
    for (i = 0; i < 10; i++) {
        TRY(scene_told(psocket_connect(&s[i], SCENE_NAME, 1, &o), &e));
        if (i % 2) TRY(psocket_poller_set(p, s[i], PSOCKET_READ | PSOCKET_WRITE, 1000, &s[i]));
        if (i == 5) TRY(psocket_poller_wait(p, &events, 0));
        if (i % 3 == 0) psocket_close(s[i]);
    }
    r = 0;
out:
    for (i = 0; i < 10; i += 2) psocket_free(s[i]);
    psocket_poller_free(p);
    for (i = 1; i < 10; i += 2) psocket_free(s[i]);
    /* Lookups that nobody waits for may still be under way. */
    for (i = 0; i < 500; i++) {
        int busy;
        psi_os_lock(&psi_dns_lock);
        busy = psi_dns_threads;
        psi_os_unlock(&psi_dns_lock);
        if (!busy) break;
        check_sleep_us(1000);
    }
    CHECK(i < 500);
    return r == PSOCKET_REFUSED ? 0 : r; /* nobody listens on port 1 */
}

static CHECK_UNUSED int scene_unix_path(void)
{
    int r = scene_stream(scene_path, scene_path);
    CHECK(scene_path_stays || access(scene_path + 5, F_OK) != 0);
    unlink(scene_path + 5);
    return r;
}

static CHECK_UNUSED int scene_udp(void)
{
    psocket_error e;
    psocket_options o = scene_options(0, &e);
    psocket *a = NULL, *b = NULL;
    const void *data = NULL;
    int r, i, port = 0, tries;
    ptrdiff_t got;
    scene_start();
    o.udp = 1;
    TRY(scene_told(psocket_listen(&b, "127.0.0.1", 0, &o), &e));
    TRY(psocket_getlocal(b, NULL, 0, &port));
    TRY(scene_told(psocket_connect(&a, "127.0.0.1", port, &o), &e));
    for (i = 0; i < 3; i++) {
        TRY(psocket_send(a, scene_bytes, (size_t)(i * 1000)));
        tries = 0;
        while ((got = psocket_recv(b, &data)) == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) {}
        TRY(got);
        CHECK_INT(got, i * 1000);
        if (got == i * 1000) CHECK_MEM(data, scene_bytes, got);
        TRY(psocket_send(b, "back", 4));
        tries = 0;
        while ((got = psocket_recv(a, &data)) == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) {}
        TRY(got);
        CHECK_INT(got, 4);
        if (got == 4) CHECK_MEM(data, "back", 4);
    }
    r = 0;
out:
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    return r;
}

static CHECK_UNUSED int scene_pair(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *a = NULL, *b = NULL;
    int r;
    scene_start();
    TRY(scene_told(link_pair(&a, &b, 700, 0, &o), &e));
    TRY(scene_talk(a, b));
out:
    scene_note(a, b);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    return r;
}

static CHECK_UNUSED int scene_wrap(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *a = NULL, *b = NULL, *wa = NULL, *wb = NULL;
    int r;
    scene_start();
    TRY(scene_told(psocket_pair(&a, &b, &o), &e));
    TRY(scene_told(psocket_wrap(&wa, a, &o), &e));
    a = NULL;
    TRY(scene_told(psocket_wrap(&wb, b, &o), &e));
    b = NULL;
    TRY(scene_talk(wa, wb));
out:
    scene_note(wa, wb);
    scene_free(wa, r < 0);
    scene_free(wb, r < 0);
    psocket_free(a);
    psocket_free(b);
    return r;
}

/*--- a poller with a listener, connections made through it, timers and a foreign descriptor */

#define SCENE_MANY 20

typedef struct scene_one {
    psocket *s;
    int got, put, mark;
} scene_one;

static CHECK_UNUSED int scene_poller(void)
{
    static const char digits[] = "1234";
    static char timers[SCENE_MANY];
    psocket_watch *watch = NULL, *timer[SCENE_MANY] = { NULL };
    scene_one client[SCENE_MANY], server[SCENE_MANY];
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_poller *p = NULL;
    psocket *l = NULL;
    const psocket_event *events;
    int r, i, n, port = 0, accepted = 0, tries = 0, fds[2] = { -1, -1 }, foreign = 0, fired[SCENE_MANY] = { 0 };
    int64_t quiet = 0;
    scene_start();
    memset(client, 0, sizeof client);
    memset(server, 0, sizeof server);
    if (pipe(fds)) return PSOCKET_DESCRIPTORS;
    TRY(psocket_poller_new(&p));
    TRY(scene_told(psocket_listen(&l, "127.0.0.1", 0, &o), &e));
    TRY(psocket_getlocal(l, NULL, 0, &port));
    TRY(psocket_poller_set(p, l, PSOCKET_READ, -1, l));
    TRY(psocket_poller_watch(p, &watch, fds[0], PSOCKET_READ, 10000, fds));
    for (i = 0; i < SCENE_MANY; i++) {
        TRY(psocket_poller_watch(p, &timer[i], -1, 0, 1 + i % 5, &timers[i]));
        TRY(scene_told(psocket_connect(&client[i].s, i % 4 ? "127.0.0.1" : SCENE_NAME, port, &o), &e));
        client[i].mark = 'c';
        TRY(psocket_poller_set(p, client[i].s, PSOCKET_WRITE, 10000, &client[i]));
    }
    CHECK_INT(write(fds[1], "x", 1), 1);
    psocket_poller_wake(p);
    for (;;) {
        int done = foreign;
        for (i = 0; i < SCENE_MANY; i++) done += (fired[i] != 0) + (client[i].got >= 4);
        if (done == 1 + 2 * SCENE_MANY) break;
        n = psocket_poller_wait(p, &events, 200);
        if (n < 0 && tries++ < SCENE_RETRIES) continue; /* the set must be as good as before */
        TRY(n);
        if (n || !quiet) quiet = check_now_ms() + scene_ms / 3;
        TRY(check_now_ms() < quiet ? scene_turn() : PSOCKET_TIMEOUT);
        for (i = 0; i < n; i++) {
            scene_one *one = (scene_one *)events[i].user;
            const void *data = NULL;
            ptrdiff_t got;
            if (events[i].user == l) {
                while (accepted < SCENE_MANY && (r = psocket_accept(l, &server[accepted].s)) == 0) {
                    TRY(psocket_poller_set(p, server[accepted].s, PSOCKET_READ, -1, &server[accepted]));
                    accepted++;
                }
                if (r < 0 && !scene_waits(r)) goto out;
            } else if (events[i].user == fds) {
                char c;
                CHECK_INT(events[i].events, PSOCKET_READ);
                CHECK_INT(read(fds[0], &c, 1), 1);
                foreign = 1;
                TRY(psocket_poller_watch(p, &watch, fds[0], 0, -1, NULL));
            } else if ((char *)events[i].user >= timers && (char *)events[i].user < timers + SCENE_MANY) {
                CHECK_INT(fired[(char *)events[i].user - timers]++, 0);
            } else if (one->mark == 'c' && (events[i].events & PSOCKET_WRITE)) {
                got = psocket_send(one->s, &digits[one->put], (size_t)(4 - one->put));
                if (scene_waits(got)) continue;
                TRY(got);
                one->put += (int)got;
                if (one->put == 4) TRY(psocket_poller_set(p, one->s, PSOCKET_READ, -1, one));
            } else if (events[i].events & PSOCKET_READ) {
                got = psocket_recv(one->s, &data);
                if (scene_waits(got) || (got == PSOCKET_NOMEM && tries++ < SCENE_RETRIES)) continue;
                TRY(got);
                if (one->mark != 'c') TRY(scene_put(one->s, NULL, data, (size_t)got));
                else CHECK(got <= 4 - one->got && memcmp(data, &digits[one->got], (size_t)got) == 0);
                one->got += (int)got;
            } else {
                check_fail(__FILE__, __LINE__, "an event for nobody");
            }
        }
    }
    CHECK_INT(accepted, SCENE_MANY);
    r = 0;
out:
    psocket_watch_free(watch);
    for (i = 0; i < SCENE_MANY; i++) {
        psocket_watch_free(timer[i]);
        if (i % 2) psocket_poller_free(p); /* some sockets and timers survive their poller */
        if (i % 2) p = NULL;
        scene_free(client[i].s, r < 0);
        scene_free(server[i].s, r < 0);
    }
    psocket_poller_free(p);
    psocket_free(l);
    close(fds[0]);
    close(fds[1]);
    return r;
}

/* Both ends of a pair, and of a pair that is wrapped, in one poller: nothing here has a descriptor. */
static CHECK_UNUSED int scene_poller_pair(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_poller *p = NULL;
    psocket *s[4] = { NULL, NULL, NULL, NULL }, *carrier = NULL;
    const psocket_event *events;
    size_t put[4] = { 0, 0, 0, 0 }, got[4] = { 0, 0, 0, 0 }, all = 0;
    int r, i, n, tries = 0;
    int64_t quiet = 0;
    scene_start();
    TRY(psocket_poller_new(&p));
    TRY(scene_told(link_pair(&s[0], &s[1], 3000, 1, &o), &e));
    TRY(scene_told(psocket_pair(&carrier, &s[3], &o), &e));
    TRY(scene_told(psocket_wrap(&s[2], carrier, &o), &e));
    carrier = NULL;
    for (i = 0; i < 4; i++) TRY(psocket_poller_set(p, s[i], PSOCKET_READ | PSOCKET_WRITE, 20000, &s[i]));
    while (all < 4 * scene_big) {
        n = psocket_poller_wait(p, &events, 200);
        if (n < 0 && tries++ < SCENE_RETRIES) continue;
        TRY(n);
        if (n || !quiet) quiet = check_now_ms() + scene_ms / 3;
        TRY(check_now_ms() < quiet ? scene_turn() : PSOCKET_TIMEOUT);
        for (i = 0; i < n; i++) {
            int k = (int)((psocket **)events[i].user - s), happened = events[i].events;
            const void *data = NULL;
            ptrdiff_t m;
            if (happened & PSOCKET_WRITE) {
                m = psocket_send(s[k], scene_bytes + put[k], scene_big - put[k]);
                if (m < 0 && !scene_waits(m)) TRY(m);
                if (m > 0) put[k] += (size_t)m;
                if (put[k] == scene_big) TRY(psocket_poller_set(p, s[k], PSOCKET_READ, 20000, &s[k]));
            }
            if (happened & PSOCKET_READ) {
                m = psocket_recv(s[k], &data);
                if (scene_waits(m) || (m == PSOCKET_NOMEM && tries++ < SCENE_RETRIES)) continue;
                TRY(m);
                if (CHECK((size_t)m <= scene_big - got[k])) CHECK_MEM(data, scene_bytes + got[k], m);
                got[k] += (size_t)m;
                all += (size_t)m;
            }
        }
    }
    r = 0;
out:
    scene_note(s[0], s[1]);
    psocket_free(carrier);
    for (i = 0; i < 4; i++) {
        if (i == 2) psocket_poller_free(p);
        scene_free(s[i], r < 0);
    }
    return r;
}

/*--- TLS */

static int scene_settings(psocket_tls **client, psocket_tls **server, const char *chain, const char *key)
{
    static const char *const alpn[2] = { "h2", "http/1.1" };
    psocket_tls_options c, s;
    psocket_identity id;
    psocket_error e;
    int r;
    memset(&c, 0, sizeof c);
    memset(&s, 0, sizeof s);
    memset(&id, 0, sizeof id);
    memset(&e, 0, sizeof e);
    c.ca = scene_ca;
    c.alpn = s.alpn = alpn;
    c.alpn_count = s.alpn_count = 2;
    c.error = s.error = &e;
    id.chain = chain;
    id.key = key;
    s.identities = &id;
    s.identity_count = 1;
    r = scene_told(psocket_tls_new(client, &c), &e);
    CHECK((r == 0) == (*client != NULL));
    if (r) return r;
    r = scene_told(psocket_tls_new(server, &s), &e);
    CHECK((r == 0) == (*server != NULL));
    return r;
}

/* Settings of every kind, and a verdict on a chain. */
static CHECK_UNUSED int scene_tls_new(void)
{
    psocket_tls_options t;
    psocket_identity id[2];
    psocket_error e;
    psocket_tls *tls = NULL, *files = NULL;
    char path[1024];
    int r;
    scene_start();
    memset(&t, 0, sizeof t);
    memset(id, 0, sizeof id);
    memset(&e, 0, sizeof e);
    id[0].chain = scene_rsa;
    id[0].key = scene_rsa_key;
    id[1].chain = scene_ec;
    id[1].key = scene_ec_key;
    t.identities = id;
    t.identity_count = 2;
    t.ca = scene_ca;
    t.client_auth = PSOCKET_CLIENT_AUTH_OPTIONAL;
    t.spki_pins = scene_bytes;
    t.spki_pin_count = 3;
    t.error = &e;
    TRY(scene_told(psocket_tls_new(&tls, &t), &e));
    memset(&t, 0, sizeof t);
    snprintf(path, sizeof path, "%s/ca.pem", check_certs());
    t.ca_file = path;
    t.error = &e;
    TRY(scene_told(psocket_tls_new(&files, &t), &e));
    memset(&e, 0, sizeof e);
    TRY(scene_told(psocket_tls_verify(files, scene_ec, 0, "localhost", &e), &e));
    r = psocket_tls_verify(files, scene_ec, 0, "wrong.test", &e);
    CHECK(r < 0);
    if (r != PSOCKET_CERT_NAME) scene_told(r, &e);
    else r = 0;
out:
    psocket_tls_free(tls);
    psocket_tls_free(files);
    return r;
}

/* The process-wide settings: the system's store is SSL_CERT_FILE here. */
static CHECK_UNUSED int scene_default_settings(void)
{
    psocket_error e;
    int r;
    scene_start();
    memset(&e, 0, sizeof e);
    r = scene_told(psocket_tls_verify(NULL, scene_ec, 0, "localhost", &e), &e);
    psocket_cleanup();
    return r;
}

/* Both ends through the handshake. */
static int scene_shake(psocket *a, psocket *b, psocket_tls *client, psocket_tls *server)
{
    int ra = psocket_starttls(a, client, "localhost"), rb, turns = 0;
    if (ra < 0 && !scene_waits(ra)) return ra;
    rb = psocket_starttls(b, server, NULL);
    if (rb < 0 && !scene_waits(rb)) return rb;
    while (ra || rb) {
        int stop;
        if (!psocket_istls(a)) ra = psocket_step(a);
        else ra = 0;
        if (!psocket_istls(b)) rb = psocket_step(b);
        else rb = 0;
        /* When one has failed the other must hear of it. */
        if ((ra && !scene_waits(ra) && rb && !scene_waits(rb)) || (ra && !scene_waits(ra) && !rb)) return ra;
        if (rb && !scene_waits(rb) && !ra) return rb;
        if (!ra && !rb) break;
        stop = scene_pause(scene_waits(ra) ? a : b, scene_waits(ra) ? b : a);
        if (stop) return stop;
        if (++turns > 100000) return PSOCKET_TIMEOUT;
    }
    return 0;
}

/* Two connections one after the other: the second resumes the first one's session, if there was memory to keep it. */
static int scene_tls_twice(psocket_tls *client, psocket_tls *server, int tcp, int *resumed)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *l = NULL;
    psocket *a = NULL, *b = NULL;
    psocket_tlsinfo info;
    int r = 0, round, port = 0;
    *resumed = 0;
    if (tcp) {
        o.nonblocking = 0;
        TRY(scene_told(psocket_listen(&l, "127.0.0.1", 0, &o), &e));
        TRY(psocket_getlocal(l, NULL, 0, &port));
    }
    for (round = 0; round < 2; round++) {
        if (tcp) {
            TRY(scene_told(psocket_connect(&a, "127.0.0.1", port, &o), &e));
            TRY(psocket_accept(l, &b));
            psocket_setnonblocking(a, 1);
            psocket_setnonblocking(b, 1);
        } else {
            TRY(scene_told(link_pair(&a, &b, round ? 100 : 0, 0, &o), &e));
        }
        TRY(scene_shake(a, b, client, server));
        TRY(psocket_gettlsinfo(a, &info));
        CHECK_STR(info.version_name, "TLSv1.3");
        CHECK_STR(info.alpn, "h2");
        if (round) *resumed = info.resumed;
        TRY(scene_talk(a, b));
        psocket_free(a);
        psocket_free(b);
        a = b = NULL;
    }
out:
    scene_note(a, b);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    psocket_free(l);
    return r;
}

static int scene_resumed; /* whether the last such scene could resume */

static int scene_tls_with(const char *chain, const char *key, int tcp)
{
    psocket_tls *client = NULL, *server = NULL;
    int r;
    scene_start();
    TRY(scene_settings(&client, &server, chain, key));
    TRY(scene_tls_twice(client, server, tcp, &scene_resumed));
out:
    psocket_tls_free(client);
    psocket_tls_free(server);
    return r;
}

static CHECK_UNUSED int scene_tls_pair(void)
{
    return scene_tls_with(scene_ec, scene_ec_key, 0);
}

static CHECK_UNUSED int scene_tls_tcp(void)
{
    return scene_tls_with(scene_rsa, scene_rsa_key, 1);
}

/* TLS carried by TLS. */
static CHECK_UNUSED int scene_tls_wrapped(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_tls *tls[2] = { NULL, NULL };
    psocket *a = NULL, *b = NULL, *wa = NULL, *wb = NULL;
    int r;
    scene_start();
    TRY(scene_settings(&tls[0], &tls[1], scene_ec, scene_ec_key));
    TRY(scene_told(psocket_pair(&a, &b, &o), &e));
    TRY(scene_shake(a, b, tls[0], tls[1]));
    TRY(scene_told(psocket_wrap(&wa, a, &o), &e));
    a = NULL;
    TRY(scene_told(psocket_wrap(&wb, b, &o), &e));
    b = NULL;
    TRY(scene_shake(wa, wb, tls[0], tls[1]));
    TRY(scene_talk(wa, wb));
out:
    scene_note(wa ? wa : a, wb ? wb : b);
    scene_free(wa, r < 0);
    scene_free(wb, r < 0);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    psocket_tls_free(tls[0]);
    psocket_tls_free(tls[1]);
    return r;
}

/* Blocking TLS against a server on another thread. */
typedef struct scene_server {
    psocket *s;
    psocket_tls *tls;
    int code;
} scene_server;

static CHECK_UNUSED void *scene_serve(void *p)
{
    scene_server *server = (scene_server *)p;
    const void *data;
    ptrdiff_t n = 0;
    int tries = 0;
    server->code = psocket_starttls(server->s, server->tls, NULL);
    while (!server->code) {
        n = psocket_recv(server->s, &data);
        if (n == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) continue;
        if (n > 0) n = psocket_send(server->s, data, (size_t)n);
        if (n < 0) server->code = (int)n;
    }
    if (server->code == PSOCKET_CLOSED) server->code = psocket_shutdown(server->s);
    if (server->code) psocket_close(server->s);
    return NULL;
}

static CHECK_UNUSED int scene_tls_blocking(void)
{
    psocket_error e;
    psocket_options o = scene_options(0, &e);
    psocket_tls *tls[2] = { NULL, NULL };
    psocket *l = NULL;
    psocket *a = NULL;
    scene_server server;
    pthread_t thread;
    const void *data = NULL;
    ptrdiff_t got;
    int r, port = 0, started = 0;
    scene_start();
    memset(&server, 0, sizeof server);
    TRY(scene_settings(&tls[0], &tls[1], scene_ec, scene_ec_key));
    TRY(scene_told(psocket_listen(&l, "127.0.0.1", 0, &o), &e));
    TRY(psocket_getlocal(l, NULL, 0, &port));
    TRY(scene_told(psocket_connect(&a, "127.0.0.1", port, &o), &e));
    TRY(psocket_accept(l, &server.s));
    server.tls = tls[1];
    if (!CHECK(pthread_create(&thread, NULL, scene_serve, &server) == 0)) goto out;
    started = 1;
    TRY(psocket_starttls(a, tls[0], "localhost"));
    TRY(got = psocket_send(a, scene_bytes, scene_big));
    CHECK_INT(got, scene_big);
    got = psocket_read(a, scene_big, &data);
    if (got == PSOCKET_NOMEM) got = psocket_read(a, scene_big, &data);
    TRY(got);
    CHECK_INT(got, scene_big);
    if (got == (ptrdiff_t)scene_big) CHECK_MEM(data, scene_bytes, scene_big);
    TRY(psocket_shutdown(a));
    got = psocket_recv(a, &data);
    if (got == PSOCKET_NOMEM) got = psocket_recv(a, &data);
    r = got == PSOCKET_CLOSED ? 0 : (int)got;
out:
    if (a) scene_ends[0] = psocket_geterror(a, NULL);
    scene_free(a, r < 0);
    if (started) pthread_join(thread, NULL);
    scene_ends[1] = server.code;
    if (!r && server.code) r = server.code;
    psocket_free(server.s);
    psocket_free(l);
    psocket_tls_free(tls[0]);
    psocket_tls_free(tls[1]);
    return r;
}

/* TLS connections through a poller: it drives the handshakes and hands out the data. */
static CHECK_UNUSED int scene_tls_poller(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket_tls *tls[2] = { NULL, NULL };
    psocket_poller *p = NULL;
    psocket *s[2] = { NULL, NULL };
    psocket *l = NULL;
    const psocket_event *events;
    size_t got[2] = { 0, 0 }, put[2] = { 0, 0 };
    int r, i, n, port = 0, tries = 0;
    int64_t quiet = 0;
    scene_start();
    TRY(scene_settings(&tls[0], &tls[1], scene_ec, scene_ec_key));
    TRY(psocket_poller_new(&p));
    o.nonblocking = 0;
    TRY(scene_told(psocket_listen(&l, "127.0.0.1", 0, &o), &e));
    TRY(psocket_getlocal(l, NULL, 0, &port));
    TRY(scene_told(psocket_connect(&s[0], "127.0.0.1", port, &o), &e));
    TRY(psocket_accept(l, &s[1]));
    for (i = 0; i < 2; i++) {
        psocket_setnonblocking(s[i], 1);
        r = psocket_starttls(s[i], tls[i], i ? NULL : "localhost");
        if (r < 0 && !scene_waits(r)) goto out;
        TRY(psocket_poller_set(p, s[i], PSOCKET_READ | PSOCKET_WRITE, -1, &s[i]));
    }
    while (got[0] < scene_big || got[1] < scene_big) {
        n = psocket_poller_wait(p, &events, 200);
        if (n < 0 && tries++ < SCENE_RETRIES) continue;
        TRY(n);
        if (n || !quiet) quiet = check_now_ms() + scene_ms / 3;
        TRY(check_now_ms() < quiet ? scene_turn() : PSOCKET_TIMEOUT);
        for (i = 0; i < n; i++) {
            int k = events[i].user == &s[1], happened = events[i].events;
            const void *data = NULL;
            ptrdiff_t m;
            if (happened & PSOCKET_WRITE) {
                if (put[k] < scene_big) {
                    m = psocket_send(s[k], scene_bytes + put[k], scene_big - put[k]);
                    if (m < 0 && !scene_waits(m) && (m != PSOCKET_NOMEM || tries++ >= SCENE_RETRIES)) TRY(m);
                    if (m > 0) put[k] += (size_t)m;
                }
                if (put[k] == scene_big) TRY(psocket_poller_set(p, s[k], PSOCKET_READ, -1, &s[k]));
            }
            if (happened & PSOCKET_READ) {
                m = psocket_recv(s[k], &data);
                if (scene_waits(m) || (m == PSOCKET_NOMEM && tries++ < SCENE_RETRIES)) continue;
                TRY(m);
                if (CHECK((size_t)m <= scene_big - got[k])) CHECK_MEM(data, scene_bytes + got[k], m);
                got[k] += (size_t)m;
            }
        }
    }
    r = 0;
out:
    scene_note(s[0], s[1]);
    scene_free(s[0], r < 0);
    psocket_poller_free(p);
    scene_free(s[1], r < 0);
    psocket_free(l);
    psocket_tls_free(tls[0]);
    psocket_tls_free(tls[1]);
    return r;
}

#endif
