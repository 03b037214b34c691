/* psocket_close after a psocket_shutdown that had answered WANT_WRITE sent the rest of the data but no close_notify, though
   there was room for it: the peer saw the stream cut off. */
#include "core.h"

TEST(close_notify_is_sent)
{
    psocket *c, *s;
    const void *data;
    ptrdiff_t r;
    size_t want, n = 0;
    int i;
    REQUIRE(core_tls(&c, &s));
    want = core_fill(c);
    CHECK_INT(psocket_shutdown(c), PSOCKET_WANT_WRITE);
    for (i = 0; i < 20; i++) { /* all that has been handed to the system so far: now there is room */
        while ((r = psocket_recv(s, &data)) > 0) n += (size_t)r;
        check_sleep_us(5000);
    }
    psocket_close(c);
    for (i = 0; i < 100; i++) {
        while ((r = psocket_recv(s, &data)) > 0) n += (size_t)r;
        if (r != PSOCKET_WANT_READ) break;
        check_sleep_us(5000);
    }
    CHECK(n == want);
    CHECK_STR(psocket_codename((int)r), "CLOSED");
    psocket_free(c);
    psocket_free(s);
}
