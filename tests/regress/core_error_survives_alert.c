/* A record that does not decrypt: the alert in answer could not be sent, and its RESET replaced the error that psocket_geterror
   tells, while recv answered TLS_RECORD. */
#include "core.h"

TEST(why_it_ended)
{
    psocket *c = NULL, *s = NULL;
    psocket_error e;
    const void *data;
    psocket_pollfd fd[PSOCKET_POLLSET_MAX];
    int ms = -1;
    REQUIRE(core_tls(&c, &s));
    REQUIRE(psocket_pollset(s, PSOCKET_READ, fd, PSOCKET_POLLSET_MAX, &ms) == 1);
    CHECK(send((int)fd[0].fd, "\x17\x03\x03\x00\x20" "this is no genuine record.......", 37, MSG_NOSIGNAL) == 37);
    psocket_send(c, "unread", 6);
    check_sleep_us(20000);
    {
        struct linger hard = { 1, 0 };
        setsockopt((int)fd[0].fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    psocket_free(s); /* resets */
    check_sleep_us(20000);
    CHECK_INT(psocket_recv(c, &data), PSOCKET_TLS_RECORD);
    CHECK_INT(psocket_geterror(c, &e), PSOCKET_TLS_RECORD);
    psocket_free(c);
}
