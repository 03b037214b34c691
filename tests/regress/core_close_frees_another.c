/* A transport of the application's may free another socket when it is closed, from within psocket_poller_wait: the poller
   must hold on to none, be it before or behind the one that ends, hot, ready or due. */
#include "core.h"

typedef struct rig {
    psocket *other; /* freed by the transport's end */
    int given;
} rig;

static ptrdiff_t rig_get(void *user, void *p, size_t n, int *os)
{
    rig *g = (rig *)user;
    *os = 0;
    if (g->given || n < 5) return PSOCKET_WANT_READ;
    g->given = 1;
    memcpy(p, "junk!", 5); /* no TLS record: the handshake fails, and the socket lets go of this */
    return 5;
}

static ptrdiff_t rig_put(void *user, const void *p, size_t n, int *os)
{
    (void)user;
    (void)p;
    *os = 0;
    return (ptrdiff_t)n;
}

static int rig_finish(void *user, int *os)
{
    (void)user;
    *os = 0;
    return 0;
}

static void rig_close(void *user)
{
    psocket_free(((rig *)user)->other);
    ((rig *)user)->other = NULL;
}

static int rig_wants(void *user, int events, psocket_pollfd *fds, int cap, int *ms)
{
    (void)fds;
    (void)cap;
    if ((events & PSOCKET_WRITE) || !((rig *)user)->given) *ms = 0;
    return 0;
}

static const psocket_transport transport = { rig_get, rig_put, rig_finish, rig_close, rig_wants };

TEST(while_the_poller_looks)
{
    psocket_tls_options topt = {0};
    psocket_options o = net_options(1);
    psocket_tls *tls = NULL;
    int first, ready, i;
    topt.insecure_no_verify = 1;
    REQUIRE(psocket_tls_new(&tls, &topt) == 0);
    for (first = 0; first < 2; first++) {
        for (ready = 0; ready < 2; ready++) {
            rig g = { NULL, 1 };
            psocket *s = NULL, *peer = NULL;
            psocket_poller *p = NULL;
            const psocket_event *ev;
            int n, seen = 0;
            REQUIRE(psocket_poller_new(&p) == 0 && psocket_pair(&g.other, &peer, &o) == 0);
            REQUIRE(psocket_open(&s, &transport, &g, PSOCKET_CLIENT, &o) == 0);
            CHECK_INT(psocket_starttls(s, tls, "x.test"), PSOCKET_WANT_READ);
            if (first) CHECK_INT(psocket_poller_set(p, g.other, PSOCKET_READ, 0, &g), 0);
            CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
            if (!first) CHECK_INT(psocket_poller_set(p, g.other, PSOCKET_READ, 0, &g), 0);
            if (ready) CHECK_INT(psocket_send(peer, "x", 1), 1);
            g.given = 0;
            for (i = 0; i < 5 && !seen; i++) {
                n = psocket_poller_wait(p, &ev, 100);
                while (n-- > 0) {
                    if (ev[n].user == s) seen = 1;
                    else if (ev[n].user == &g) CHECK(g.other != NULL || !ev[n].events);
                }
            }
            CHECK(seen && !g.other);
            CHECK(psocket_geterror(s, NULL) < 0);
            psocket_free(s);
            psocket_free(peer);
            psocket_poller_free(p);
        }
    }
    psocket_tls_free(tls);
}
