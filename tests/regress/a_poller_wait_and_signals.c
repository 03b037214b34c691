/* psocket_poller_wait answered 0 after any signal, long before its time: 0 means that the time has passed or that it was
   woken. No other call may end or fail because of a signal either. */
#include "a.h"
#include <sys/time.h>

static volatile sig_atomic_t hits;

static void on_alarm(int number)
{
    (void)number;
    hits++;
}

static void alarms(int on)
{
    struct sigaction a;
    struct itimerval every;
    memset(&a, 0, sizeof a);
    memset(&every, 0, sizeof every);
    a.sa_handler = on_alarm; /* no SA_RESTART */
    sigaction(SIGALRM, &a, NULL);
    every.it_interval.tv_usec = every.it_value.tv_usec = on ? 7000 : 0;
    setitimer(ITIMER_REAL, &every, NULL);
}

static void send_one(void *s)
{
    psocket_send((psocket *)s, "x", 1);
}

static void wake(void *p)
{
    psocket_poller_wake((psocket_poller *)p);
}

static void block_alarm(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void unblock_alarm(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* The helper threads of these tests take no alarms. */
static void later(a_later *l, int ms, void (*run)(void *), void *arg)
{
    block_alarm();
    a_later_start(l, ms, run, arg);
    unblock_alarm();
}

TEST(poller_wait_lasts)
{
    static const int times[] = { 1, 30, 300 };
    psocket_poller *p = NULL;
    const psocket_event *ev;
    psocket *c = NULL, *s = NULL;
    size_t i;
    REQUIRE(a_tcp(&c, &s, 1) && psocket_poller_new(&p) == 0);
    alarms(1);
    for (i = 0; i < 6; i++) {
        int64_t start = check_now_ms(), took;
        if (i == 3) CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
        CHECK_INT(psocket_poller_wait(p, &ev, times[i % 3]), 0);
        took = check_now_ms() - start;
        CHECK(took >= times[i % 3]);
        CHECK(took < times[i % 3] + 500);
    }
    alarms(0);
    CHECK(hits > 20);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

TEST(poller_wait_for_ever_ends_by_wake_or_event_alone)
{
    psocket_poller *p = NULL;
    const psocket_event *ev;
    psocket *c = NULL, *s = NULL;
    psocket_watch *w = NULL;
    a_later l;
    int64_t start;
    REQUIRE(a_tcp(&c, &s, 1) && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    alarms(1);
    start = check_now_ms();
    later(&l, 200, send_one, c);
    CHECK_INT(psocket_poller_wait(p, &ev, -1), 1);
    CHECK(ev[0].user == s && ev[0].events == PSOCKET_READ);
    CHECK(check_now_ms() - start >= 190);
    a_later_join(&l);
    CHECK_INT(psocket_poller_set(p, s, 0, -1, NULL), 0);
    start = check_now_ms();
    later(&l, 200, wake, p);
    CHECK_INT(psocket_poller_wait(p, &ev, -1), 0);
    CHECK(check_now_ms() - start >= 190);
    a_later_join(&l);
    start = check_now_ms();
    CHECK_INT(psocket_poller_watch(p, &w, -1, 0, 200, &l), 0);
    CHECK_INT(psocket_poller_wait(p, &ev, -1), 1);
    CHECK(ev[0].user == &l && ev[0].events == 0);
    CHECK(check_now_ms() - start >= 190);
    alarms(0);
    psocket_watch_free(w);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}

TEST(blocking_calls)
{
    static char big[8 << 20];
    psocket *c = NULL, *s = NULL, *l = NULL, *a = NULL;
    int64_t start;
    a_later t;
    int port;
    psocket_options o = net_options(0);
    REQUIRE(a_tcp(&c, &s, 0));
    o.timeout_ms = 100;
    REQUIRE(psocket_listen(&l, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    alarms(1);
    psocket_settimeout(s, 100);
    start = check_now_ms();
    CHECK_STR(a_recv(s), "TIMEOUT");
    CHECK(check_now_ms() - start >= 100);
    start = check_now_ms();
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 100), 0);
    CHECK(check_now_ms() - start >= 100);
    start = check_now_ms();
    CHECK_INT(psocket_wait(l, PSOCKET_READ, 100), 0);
    CHECK(check_now_ms() - start >= 100);
    start = check_now_ms();
    CHECK_INT(psocket_accept(l, &a), PSOCKET_TIMEOUT);
    CHECK(check_now_ms() - start >= 100);
    psocket_settimeout(s, 0);
    later(&t, 100, send_one, c);
    CHECK_STR(a_recv(s), "x");
    a_later_join(&t);
    psocket_settimeout(c, 100);
    start = check_now_ms();
    CHECK_INT(psocket_send(c, big, sizeof big), PSOCKET_TIMEOUT);
    CHECK(check_now_ms() - start >= 100);
    alarms(0);
    psocket_free(c);
    psocket_free(s);
    psocket_free(l);
}
