/* PSOCKET_READ_SIZE below 4096 had no effect. */
#define PSOCKET_READ_SIZE 1024
#define PSOCKET_IMPLEMENTATION
#include "../../psocket.h"
#include "a.h"

static void chunks(psocket *c, psocket *s, int tls)
{
    static char block[9000];
    size_t got = 0, most = 0;
    CHECK_INT(psocket_send(c, block, sizeof block), (ptrdiff_t)sizeof block);
    CHECK_INT(psocket_flush(c), 0);
    a_arrived(s);
    while (got < sizeof block && psocket_wait(s, PSOCKET_READ, 1000) == PSOCKET_READ) {
        const void *data;
        ptrdiff_t n = psocket_recv(s, &data);
        if (n < 0 && n != PSOCKET_WANT_READ) break;
        if (n > 0) got += (size_t)n;
        if (n > 0 && (size_t)n > most) most = (size_t)n;
    }
    CHECK_INT(got, sizeof block);
    if (!tls) CHECK(most <= PSOCKET_READ_SIZE); /* a record is a chunk, whatever it was read in */
}

TEST(tcp)
{
    psocket *c = NULL, *s = NULL;
    int i;
    for (i = 0; i < 2; i++) {
        REQUIRE(a_tcp(&c, &s, i));
        chunks(c, s, 0);
        psocket_free(c);
        psocket_free(s);
    }
}

TEST(carried)
{
    psocket *c = NULL, *s = NULL, *w = NULL;
    psocket_options o = net_options(1);
    REQUIRE(a_tcp(&c, &s, 1) && psocket_wrap(&w, s, &o) == 0);
    chunks(c, w, 0);
    psocket_free(c);
    psocket_free(w);
}

TEST(tls)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tls(&c, &s, 1));
    chunks(c, s, 1);
    psocket_free(c);
    psocket_free(s);
}

TEST(in_a_poller)
{
    static char block[9000];
    psocket *c = NULL, *s = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    size_t got = 0, most = 0;
    REQUIRE(a_tcp(&c, &s, 1) && psocket_poller_new(&p) == 0);
    CHECK_INT(psocket_poller_set(p, s, PSOCKET_READ, -1, s), 0);
    CHECK_INT(psocket_send(c, block, sizeof block), (ptrdiff_t)sizeof block);
    while (got < sizeof block && psocket_poller_wait(p, &ev, 1000) == 1) {
        const void *data;
        ptrdiff_t n = psocket_recv(s, &data);
        if (n < 0) break;
        got += (size_t)n;
        if ((size_t)n > most) most = (size_t)n;
    }
    CHECK_INT(got, sizeof block);
    CHECK(most <= PSOCKET_READ_SIZE);
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
}
