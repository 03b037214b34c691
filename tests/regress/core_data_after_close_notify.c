/* A TLS peer that sends bytes after its close_notify: psocket_close left them unread, so that the system answered with a reset,
   which destroyed what had been sent and not yet been delivered. White box: it writes a close_notify without a FIN. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "core.h"

TEST(what_was_sent_arrives)
{
    psocket *c = NULL, *s = NULL;
    const void *data;
    size_t want, got = 0;
    ptrdiff_t r = 0;
    int i;
    REQUIRE(core_tls(&c, &s));
    psi_sock_alert(s, 1, 0);
    check_sleep_us(10000);
    CHECK_STR(net_recv(c), "CLOSED");
    CHECK(send((int)s->fd, "and another thing", 17, MSG_NOSIGNAL) == 17);
    check_sleep_us(10000);
    want = core_fill(c);
    for (i = 0; i < 1000 && psocket_flush(c) != 0; i++) { /* until the system has it all */
        r = psocket_recv(s, &data);
        if (r > 0) got += (size_t)r;
        check_sleep_us(500);
    }
    CHECK_INT(psocket_flush(c), 0);
    psocket_close(c);
    check_sleep_us(10000);
    for (i = 0; i < 400; i++) {
        while ((r = psocket_recv(s, &data)) > 0) got += (size_t)r;
        if (r != PSOCKET_WANT_READ) break;
        check_sleep_us(2000);
    }
    CHECK_STR(psocket_codename((int)r), "CLOSED");
    if (!CHECK(got == want)) check_fail(__FILE__, __LINE__, "%lu of %lu bytes", (unsigned long)got, (unsigned long)want);
    psocket_free(c);
    psocket_free(s);
}
