/* A transport that answers what none may: more than was asked for, codes that are none, questions of a handshake. */
#include "core.h"

typedef struct wild {
    ptrdiff_t get, put;
    int finish;
} wild;

static ptrdiff_t wild_get(void *user, void *p, size_t n, int *os)
{
    (void)p, (void)n, (void)os;
    return ((wild *)user)->get;
}

static ptrdiff_t wild_put(void *user, const void *p, size_t n, int *os)
{
    (void)p, (void)os;
    return n ? ((wild *)user)->put : 0;
}

static int wild_finish(void *user, int *os)
{
    (void)os;
    return ((wild *)user)->finish;
}

static void wild_close(void *user)
{
    (void)user;
}

static int wild_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)user, (void)events, (void)fds, (void)cap;
    *ms = 0;
    return 0;
}

TEST(every_answer_has_an_end)
{
    static const psocket_transport t = { wild_get, wild_put, wild_finish, wild_close, wild_wants };
    static const ptrdiff_t answers[] = { PTRDIFF_MAX, 1 << 30, -65536, -1000, -100000, PTRDIFF_MIN, PSOCKET_WANT_DECISION,
                                         PSOCKET_LIMIT, PSOCKET_CLOSED };
    size_t i;
    int blocking, call;
    for (i = 0; i < sizeof answers / sizeof *answers; i++) {
        for (blocking = 0; blocking < 2; blocking++) {
            for (call = 0; call < 5; call++) {
                psocket_options o = net_options(!blocking);
                wild w;
                psocket *s = NULL;
                const void *data;
                ptrdiff_t r = -1;
                w.get = w.put = answers[i];
                w.finish = answers[i] > 0 ? 1 : answers[i] < -100000 ? -100000 : (int)answers[i];
                REQUIRE(psocket_open(&s, &t, &w, PSOCKET_CLIENT, &o) == 0);
                if (call == 0) r = psocket_recv(s, &data);
                if (call == 1) r = psocket_read(s, 100, &data);
                if (call == 2) r = psocket_send(s, "abc", 3);
                if (call == 3) r = psocket_shutdown(s);
                if (call == 4) r = psocket_starttls(s, NULL, "x.test");
                if (!(r < 0 || (call == 3 && r == 0)) || (r < 0 && !psocket_codename((int)r)))
                    check_fail(__FILE__, __LINE__, "answer %d, call %d: %d", (int)i, call, (int)r);
                if (r < 0) CHECK_INT(psocket_geterror(s, NULL), r);
                psocket_free(s);
            }
        }
    }
}
