/* In a poller's turn the first TLS record of a socket leaves at once, the small ones after it together: with the poller's
   next wait, or with any call that says so. Nothing is lost, doubled or reordered by that. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "regress/core.h"
#include <sys/ioctl.h>

#define COUNT 50

static psocket *c, *s;
static psocket_poller *p;

static int arrived(void)
{
    int n = 0, turns;
    for (turns = 0; turns < 3 || (n == 0 && turns < 1000); turns++) {
        CHECK_INT(ioctl((int)s->fd, FIONREAD, &n), 0);
        check_sleep_us(1000);
    }
    return n;
}

static int begin(void)
{
    const psocket_event *ev;
    const void *data;
    if (!core_tls(&c, &s) || psocket_poller_new(&p)) return 0;
    CHECK_INT(psocket_recv(s, &data), PSOCKET_WANT_READ);
    CHECK_INT(psocket_poller_set(p, c, PSOCKET_READ, -1, c), 0);
    return psocket_poller_wait(p, &ev, 0) == 0;
}

static void send_all(void)
{
    int i;
    char text[16];
    for (i = 0; i < COUNT; i++) {
        snprintf(text, sizeof text, "%03d,", i);
        CHECK_INT(psocket_send(c, text, 4), 4);
    }
}

/* Everything, and then the end given: 0 none. */
static void expect_all(int end)
{
    char got[4 * COUNT + 64], want[4 * COUNT + 8];
    size_t n = 0;
    int i, turns;
    for (i = 0; i < COUNT; i++) snprintf(want + 4 * i, 8, "%03d,", i);
    for (turns = 0; turns < 2000; turns++) {
        const void *data;
        ptrdiff_t r = psocket_recv(s, &data);
        if (r > 0 && n + (size_t)r <= sizeof got) {
            memcpy(got + n, data, (size_t)r);
            n += (size_t)r;
        } else if (r == PSOCKET_WANT_READ) {
            if (n >= 4 * COUNT && !end) break;
            check_sleep_us(1000);
        } else {
            CHECK_INT(r, end);
            break;
        }
    }
    CHECK_INT(n, 4 * COUNT);
    CHECK(memcmp(got, want, 4 * COUNT) == 0);
}

static void finish(void)
{
    psocket_poller_free(p);
    psocket_free(c);
    psocket_free(s);
    p = NULL;
    c = s = NULL;
}

TEST(the_poller_sends_what_waits)
{
    const psocket_event *ev;
    int first;
    REQUIRE(begin());
    send_all();
    first = arrived();
    CHECK(first > 4 && first < 64); /* one record */
    CHECK_INT(psocket_poller_wait(p, &ev, 0), 0);
    CHECK_INT(arrived(), COUNT * first); /* each is a record of its own */
    expect_all(0);
    CHECK_INT(psocket_send(c, "a", 1), 1); /* another turn: at once again */
    CHECK_INT(arrived(), first - 3);
    finish();
}

TEST(a_flush_a_read_a_half_close_or_a_close_sends_it)
{
    int how;
    for (how = 0; how < 7; how++) {
        const void *data;
        int end = 0;
        REQUIRE(begin());
        send_all();
        switch (how) {
        case 0: CHECK_INT(psocket_flush(c), 0); break;
        case 1: CHECK_INT(psocket_recv(c, &data), PSOCKET_WANT_READ); break;
        case 2: CHECK_INT(psocket_shutdown(c), 0), end = PSOCKET_CLOSED; break;
        case 3: psocket_close(c), end = PSOCKET_CLOSED; break;
        case 4: CHECK_INT(psocket_poller_set(p, c, 0, -1, NULL), 0); break;
        case 5: psocket_poller_free(p), p = NULL; break;
        case 6: psocket_free(c), c = NULL, end = PSOCKET_CLOSED; break;
        }
        expect_all(end);
        finish();
    }
}

/* Sends of all sizes into a connection that is full half of the time. */
TEST(nothing_is_lost_or_doubled)
{
    static uint8_t block[70000];
    uint32_t rnd = 1;
    size_t sent = 0, got = 0, i, total = 20u << 20;
    int turns, errors = 0;
    REQUIRE(begin());
    for (turns = 0; turns < 200000 && got < total; turns++) {
        const psocket_event *ev;
        const void *data;
        ptrdiff_t r = 1;
        int n, sends;
        rnd = rnd * 1664525u + 1013904223u;
        sends = (int)(rnd >> 8 & 31);
        while (sent < total && sends-- && r > 0) {
            size_t len;
            rnd = rnd * 1664525u + 1013904223u;
            len = rnd >> 30 ? 1 + (rnd >> 12 & 255) : 1 + (rnd >> 8) % sizeof block;
            if (len > total - sent) len = total - sent;
            for (i = 0; i < len; i++) block[i] = (uint8_t)((sent + i) * 2654435761u >> 24);
            r = psocket_send(c, block, len);
            if (r > 0) sent += (size_t)r;
            else CHECK_INT(r, PSOCKET_WANT_WRITE);
        }
        n = psocket_poller_wait(p, &ev, 0);
        CHECK(n >= 0);
        for (n = (int)(rnd >> 4 & 15); n-- && (r = psocket_recv(s, &data)) > 0;) {
            for (i = 0; i < (size_t)r; i++) errors += ((const uint8_t *)data)[i] != (uint8_t)((got + i) * 2654435761u >> 24);
            got += (size_t)r;
        }
        if (errors) break;
    }
    CHECK_INT(errors, 0);
    CHECK(got == total && sent == total);
    finish();
}
