/* Lookups that nobody waited for any more kept their slots: with eight of them a connect to localhost took ten seconds.
   localhost and its subdomains are answered here (RFC 6761 6.3), abandoned lookups do not count, and what was asked first
   does not starve what can be answered. Where no thread can be made a lookup ran inline, past every limit. */
#include "a.h"
#include <dlfcn.h>
#include <netdb.h>

enum { SILENCE_MS = 8000 };

static volatile int asked_localhost, no_threads;

/* In front of the C library's: names that start with "silent" get no answer for a long time, "good" ones 127.0.0.1 at once. */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "getaddrinfo");
    if (strncmp(host, "silent", 6) == 0) {
        check_sleep_us(SILENCE_MS * 1000L);
        return EAI_AGAIN;
    }
    if (strstr(host, "localhost") || strstr(host, "LOCALHOST")) asked_localhost++;
    if (strncmp(host, "good", 4) == 0) return real("127.0.0.1", service, hints, out);
    return EAI_NONAME;
}

int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*run)(void *), void *arg)
{
    static int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (!real) *(void **)(&real) = dlsym(RTLD_NEXT, "pthread_create");
    return no_threads ? EAGAIN : real(t, a, run, arg);
}

static void silent_ones(psocket **s, int n, int timeout_ms)
{
    char host[64];
    psocket_options o = net_options(1);
    int i;
    o.timeout_ms = timeout_ms;
    for (i = 0; i < n; i++) {
        snprintf(host, sizeof host, "silent%d.example", i);
        s[i] = NULL;
        CHECK_INT(psocket_connect(&s[i], host, 80, &o), 0);
    }
    for (i = 0; i < n; i++) psocket_step(s[i]);
}

/* Milliseconds that a blocking connect to a listener by this name takes; -1 if it fails. */
static int connect_to(const char *host, int timeout_ms)
{
    psocket_options o = net_options(0);
    psocket *s = NULL, *l4 = NULL, *l6 = NULL;
    int port = 0, r;
    int64_t start;
    l4 = net_listen("127.0.0.1", &port);
    psocket_listen(&l6, "::1", port, &o);
    o.timeout_ms = timeout_ms;
    start = check_now_ms();
    r = psocket_connect(&s, host, port, &o);
    start = check_now_ms() - start;
    if (r) check_fail(NULL, 0, "%s: %s after %d ms (%s)", host, psocket_codename(r), (int)start, net_error.text);
    psocket_free(s);
    psocket_free(l4);
    psocket_free(l6);
    return r ? -1 : (int)start;
}

static void quick(const char *host, int most)
{
    int ms = connect_to(host, 6000);
    if (ms < 0 || ms > most) check_fail(NULL, 0, "%s took %d ms", host, ms);
}

TEST(localhost_is_answered_here)
{
    static const char *const names[] = { "localhost", "LocalHost", "localhost.", "a.localhost", "x.y.LOCALHOST", "a.localhost." };
    psocket_options o = net_options(1);
    psocket *s = NULL;
    size_t i;
    for (i = 0; i < sizeof names / sizeof *names; i++) quick(names[i], 500);
    CHECK_INT(asked_localhost, 0);
    o.timeout_ms = 2000;
    o.nonblocking = 0;
    CHECK_INT(psocket_connect(&s, "notlocalhost", 80, &o), PSOCKET_DNS_NOT_FOUND); /* but not this */
    CHECK_INT(asked_localhost, 1);
}

TEST(localhost_beside_silent_ones)
{
    psocket *s[12];
    int i;
    silent_ones(s, 12, 0);
    quick("localhost", 500);
    quick("sub.localhost", 500);
    for (i = 0; i < 12; i++) psocket_free(s[i]);
}

TEST(abandoned_lookups_do_not_count)
{
    psocket *s[12];
    int i;
    silent_ones(s, 12, 0);
    check_sleep_us(50000);
    for (i = 0; i < 12; i++) psocket_free(s[i]); /* freed ... */
    quick("good.example", 1000);
    silent_ones(s, 8, 200);
    for (i = 0; i < 8; i++) {
        while (psocket_wait(s[i], PSOCKET_WRITE, 1000) == 0) {}
        CHECK_INT(psocket_step(s[i]), PSOCKET_TIMEOUT); /* ... or past their time ... */
    }
    quick("good.example", 1000);
    for (i = 0; i < 8; i++) psocket_free(s[i]);
    silent_ones(s, 8, 0);
    for (i = 0; i < 8; i++) psocket_close(s[i]); /* ... or closed */
    quick("good.example", 1000);
    for (i = 0; i < 8; i++) psocket_free(s[i]);
}

/* More than there are helper threads: the place of each that is given up is the next one's at once. */
TEST(many_abandoned_lookups_do_not_count)
{
    enum { MANY = 130 };
    psocket *s[MANY];
    int i;
    silent_ones(s, MANY, 0); /* some of them queue */
    for (i = 0; i < MANY; i++) psocket_free(s[i]);
    quick("good.example", 1000);
    silent_ones(s, MANY, 0);
    for (i = 0; i < MANY; i++) psocket_close(s[i]);
    quick("good.example", 1000);
    for (i = 0; i < MANY; i++) psocket_free(s[i]);
}

/* One that queues behind others has its turn as soon as they are given up. */
TEST(the_queue_moves_up)
{
    enum { MANY = 130 };
    psocket *s[MANY], *good = NULL;
    psocket_options o = net_options(1);
    int64_t start;
    int i;
    silent_ones(s, MANY, 0);
    CHECK_INT(psocket_connect(&good, "good.example", 1, &o), 0); /* where nobody listens */
    CHECK_INT(psocket_step(good), PSOCKET_WANT_READ);
    for (i = 0; i < MANY; i++) psocket_free(s[i]);
    start = check_now_ms();
    while (psocket_step(good) >= PSOCKET_WANT_WRITE && check_now_ms() - start < 2000) psocket_wait(good, PSOCKET_WRITE, 100);
    CHECK_INT(psocket_step(good), PSOCKET_REFUSED);
    CHECK(check_now_ms() - start < 1000);
    psocket_free(good);
}

/* As many as the helper threads, all of them still wanted: what comes after them is answered before they are. */
TEST(the_first_do_not_starve_the_rest)
{
    psocket *s[24];
    int i;
    silent_ones(s, 24, 0);
    quick("good.example", SILENCE_MS - 3000);
    for (i = 0; i < 24; i++) psocket_free(s[i]);
}

TEST(without_a_thread)
{
    psocket_options o = net_options(0);
    psocket *s = NULL;
    int64_t start = check_now_ms();
    int r;
    no_threads = 1;
    o.timeout_ms = 300;
    memset(&net_error, 0, sizeof net_error);
    r = psocket_connect(&s, "silent.example", 80, &o);
    CHECK(r < PSOCKET_WANT_WRITE && s == NULL);
    CHECK_INT(net_error.code, r);
    CHECK(net_error.text[0] != 0);
    CHECK(check_now_ms() - start < 1500);
    o.nonblocking = 1;
    start = check_now_ms();
    r = psocket_connect(&s, "silent.example", 80, &o);
    if (r == 0) r = psocket_step(s);
    CHECK(check_now_ms() - start < 1500);
    psocket_free(s);
    s = NULL;
    quick("localhost", 500); /* needs none */
    no_threads = 0;
}
