/* 16 or more addresses of one family hid the other, since the cap came before the families were interleaved; and the same
   address was tried as often as it was given. */
#include "a.h"

typedef struct answer {
    int dead4, dead6; /* so many addresses that refuse or cannot be reached */
    int good4, good6; /* then one that listens */
    int same;         /* so often 127.0.0.1 again */
} answer;

static void resolve(void *user, psocket_resolve *r, const char *host)
{
    const answer *a = (const answer *)user;
    char ip[64];
    int i;
    (void)host;
    for (i = 0; i < a->dead6; i++) {
        snprintf(ip, sizeof ip, "2001:db8::%x", i + 1);
        psocket_resolve_add(r, ip);
    }
    for (i = 0; i < a->dead4; i++) {
        snprintf(ip, sizeof ip, "127.0.%d.%d", i / 200, i % 200 + 2);
        psocket_resolve_add(r, ip);
    }
    for (i = 0; i < a->same; i++) psocket_resolve_add(r, "127.0.0.1");
    for (i = 0; i < a->same; i++) psocket_resolve_add(r, "::ffff:127.0.0.1");
    if (a->good4) psocket_resolve_add(r, "127.0.0.1");
    if (a->good6) psocket_resolve_add(r, "::1");
    psocket_resolve_done(r, 0);
}

/* Connects to a name with these addresses, where a listener is (or is not) on both loopback addresses. */
static int try_it(const answer *a, int listens, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket *l4 = NULL, *l6 = NULL, *s = NULL;
    int port = 0, r;
    CHECK_INT(psocket_listen(&l4, "127.0.0.1", 0, &o), 0);
    psocket_getlocal(l4, NULL, 0, &port);
    if (a->good6 && psocket_listen(&l6, "::1", port, &o)) {
        psocket_free(l4);
        return 1; /* no IPv6, or the port is taken there */
    }
    if (!listens) psocket_free(l4), l4 = NULL;
    if (!a->good4 && l6) psocket_free(l4), l4 = NULL;
    o.resolve = resolve;
    o.resolve_user = (void *)(uintptr_t)a;
    o.timeout_ms = 3000;
    o.attempt_delay_ms = 50;
    memset(&net_error, 0, sizeof net_error);
    r = psocket_connect(&s, "many.test", port, &o);
    if (r == 0 && nonblocking) {
        int64_t end = check_now_ms() + 4000;
        while ((r = psocket_step(s)) != 0 && (r == PSOCKET_WANT_READ || r == PSOCKET_WANT_WRITE) && check_now_ms() < end)
            psocket_wait(s, PSOCKET_WRITE, 100);
        if (r) psocket_geterror(s, &net_error);
    }
    psocket_free(s);
    psocket_free(l4);
    psocket_free(l6);
    return r;
}

TEST(one_family_does_not_hide_the_other)
{
    static const answer answers[] = {
        { 0, 17, 1, 0, 0 }, { 0, 16, 1, 0, 0 }, { 0, 15, 1, 0, 0 }, { 0, 60, 1, 0, 0 },
        { 17, 0, 0, 1, 0 }, { 16, 0, 0, 1, 0 }, { 60, 0, 0, 1, 0 },
    };
    size_t i;
    int nonblocking, r;
    if (!a_network()) SKIP("cannot make a network namespace");
    for (i = 0; i < sizeof answers / sizeof *answers; i++) {
        for (nonblocking = 0; nonblocking < 2; nonblocking++) {
            r = try_it(&answers[i], 1, nonblocking);
            if (r && r != 1) check_fail(__FILE__, __LINE__, "answer %d: %s (%s)", (int)i, psocket_codename(r), net_error.text);
        }
    }
}

static int times(const char *text, const char *what)
{
    int n = 0;
    for (; (text = strstr(text, what)) != NULL; text++) n++;
    return n;
}

/* The error names each address once. */
TEST(the_same_address_is_tried_once)
{
    static const answer answers[] = { { 0, 0, 0, 0, 2 }, { 0, 0, 1, 0, 3 }, { 1, 1, 1, 0, 2 } };
    size_t i;
    if (!a_network()) SKIP("cannot make a network namespace");
    for (i = 0; i < sizeof answers / sizeof *answers; i++) {
        int r = try_it(&answers[i], 0, (int)i & 1);
        CHECK(r == PSOCKET_REFUSED || (answers[i].dead6 && r == PSOCKET_UNREACHABLE));
        if (times(net_error.text, "127.0.0.1:") + times(net_error.text, "127.0.0.1 ") != 1)
            check_fail(__FILE__, __LINE__, "not once: %s", net_error.text);
    }
}
