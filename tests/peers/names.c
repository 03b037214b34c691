/* For tests/netns/names.sh, in a network namespace of its own.
 *
 *     names serve            a name server on 127.0.0.1:53: slow.test is 127.0.0.1, answered after 2 s; race.test is
 *                            2001:db8:99::1 (which answers nothing) and 127.0.0.1; nothing else exists
 *     names slow             connects to slow.test while a timer ticks every 10 ms: the ticks must go on
 *     names race             connects to race.test in less than 0.6 s
 *     names many             40 lookups at once, and the process still ends cleanly
 */
#include "../../psocket.h"
#include <stdio.h>
#include <string.h>

static int fail(const char *what, int code)
{
    fprintf(stderr, "%s: %s\n", what, psocket_strerror(code));
    return 1;
}

/* One pending answer: the datagram to send back, and when. */
typedef struct answer {
    unsigned char bytes[600];
    size_t n;
    char ip[64];
    int port;
    int64_t due;
} answer;

/* Makes the answer to a query in place: 1, or 0 if it is none. */
static int respond(answer *a)
{
    static const unsigned char v4[] = { 0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 127, 0, 0, 1 };
    static const unsigned char v6[] = { 0xc0, 0x0c, 0, 28, 0, 1, 0, 0, 0, 9, 0, 16, 0x20, 1, 0x0d, 0xb8, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 };
    unsigned char *p = a->bytes;
    size_t at = 12, type;
    int slow, race, more = 0;
    if (a->n < 17 || a->n > 500 || p[2] & 0x80) return 0;
    while (at < a->n && p[at]) at += (size_t)p[at] + 1;
    if (at + 5 > a->n) return 0;
    type = p[at + 2];
    slow = at - 12 == 10 && memcmp(p + 12, "\4slow\4test", 10) == 0;
    race = at - 12 == 10 && memcmp(p + 12, "\4race\4test", 10) == 0;
    a->n = at + 5;
    p[2] = 0x84;
    p[3] = (unsigned char)(slow || race ? 0 : 3); /* no such name */
    memset(p + 4, 0, 8);
    p[5] = 1;
    if ((slow || race) && type == 1) {
        memcpy(p + a->n, v4, sizeof v4);
        a->n += sizeof v4;
        more = 1;
    } else if (race && type == 28) {
        memcpy(p + a->n, v6, sizeof v6);
        a->n += sizeof v6;
        more = 1;
    }
    p[7] = (unsigned char)more;
    a->due = psocket_now() + (slow ? 2000 : 0);
    return 1;
}

static int serve(void)
{
    static answer waiting[256];
    int count = 0, i, r;
    psocket *s;
    psocket_options o;
    memset(&o, 0, sizeof o);
    o.nonblocking = 1;
    o.udp = 1;
    r = psocket_listen(&s, "127.0.0.1", 53, &o);
    if (r) return fail("bind", r);
    puts("ready");
    fflush(stdout);
    for (;;) {
        const void *data;
        ptrdiff_t n;
        int ms = 60000;
        int64_t now = psocket_now();
        for (i = 0; i < count;) {
            if (waiting[i].due > now) {
                if (waiting[i].due - now < ms) ms = (int)(waiting[i].due - now);
                i++;
                continue;
            }
            psocket_setpeer(s, waiting[i].ip, waiting[i].port);
            psocket_send(s, waiting[i].bytes, waiting[i].n);
            waiting[i] = waiting[--count];
        }
        if (psocket_wait(s, PSOCKET_READ, ms) <= 0) continue;
        n = psocket_recv(s, &data);
        if (n < 0 || n > 512 || count == 256) continue;
        memcpy(waiting[count].bytes, data, (size_t)n);
        waiting[count].n = (size_t)n;
        psocket_getpeer(s, waiting[count].ip, sizeof waiting[count].ip, &waiting[count].port);
        if (respond(&waiting[count])) count++;
    }
}

static int slow(int port)
{
    psocket_poller *p;
    const psocket_event *ev;
    psocket *c;
    psocket_watch *tick = NULL;
    psocket_options o;
    int ticks = 0, done = 0, i, n, r;
    int64_t start = psocket_now(), last = start, worst = 0;
    memset(&o, 0, sizeof o);
    o.nonblocking = 1;
    if ((r = psocket_poller_new(&p)) != 0 || (r = psocket_connect(&c, "slow.test", port, &o)) != 0) return fail("start", r);
    psocket_poller_set(p, c, PSOCKET_WRITE, 10000, c);
    psocket_poller_watch(p, &tick, -1, 0, 10, &ticks);
    while (!done && (n = psocket_poller_wait(p, &ev, 10000)) > 0)
        for (i = 0; i < n; i++) {
            if (ev[i].user == &ticks) {
                int64_t now = psocket_now();
                if (now - last > worst) worst = now - last;
                last = now;
                ticks++;
                psocket_poller_watch(p, &tick, -1, 0, 10, &ticks);
            } else if (ev[i].user == c) {
                done = ev[i].events ? 1 : -1;
            }
        }
    r = psocket_step(c);
    printf("connected after %d ms: %s; %d ticks meanwhile, at most %d ms apart\n", (int)(psocket_now() - start),
           psocket_strerror(r), ticks, (int)worst);
    psocket_free(c);
    psocket_watch_free(tick);
    psocket_poller_free(p);
    return !(done == 1 && r == 0 && ticks > 100 && psocket_now() - start >= 1900);
}

static int race(int port)
{
    psocket *c;
    psocket_options o;
    psocket_error e;
    char ip[64] = "";
    int64_t start = psocket_now();
    int r, took;
    memset(&o, 0, sizeof o);
    memset(&e, 0, sizeof e);
    o.timeout_ms = 10000;
    o.error = &e;
    r = psocket_connect(&c, "race.test", port, &o);
    took = (int)(psocket_now() - start);
    if (r == 0) psocket_getpeer(c, ip, sizeof ip, NULL);
    printf("connected to \"%s\" after %d ms %s\n", ip, took, e.text);
    psocket_free(c);
    return !(r == 0 && strcmp(ip, "127.0.0.1") == 0 && took >= 240 && took < 600);
}

static int many(int port)
{
    psocket *c[40];
    psocket_options o;
    int i;
    memset(&o, 0, sizeof o);
    o.nonblocking = 1;
    for (i = 0; i < 40; i++)
        if (psocket_connect(&c[i], i % 2 ? "slow.test" : "race.test", port, &o)) return 1;
    for (i = 0; i < 40; i += 3) {
        psocket_free(c[i]);
        c[i] = NULL;
    }
    for (i = 0; i < 40; i++) {
        if (c[i] && (psocket_wait(c[i], PSOCKET_WRITE, 20000) == 0 || psocket_step(c[i]) != 0)) return fail("many", psocket_geterror(c[i], NULL));
        psocket_free(c[i]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    psocket *l;
    int port = 0, r;
    if (argc == 2 && !strcmp(argv[1], "serve")) return serve();
    if (argc != 2 || (r = psocket_listen(&l, "127.0.0.1", 0, NULL)) != 0) return 2;
    psocket_getlocal(l, NULL, 0, &port);
    r = !strcmp(argv[1], "slow") ? slow(port) : !strcmp(argv[1], "race") ? race(port) : !strcmp(argv[1], "many") ? many(port) : 2;
    psocket_free(l);
    return r;
}
