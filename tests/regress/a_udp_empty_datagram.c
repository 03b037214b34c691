/* psocket_send(udp, "", 0) sends an empty datagram, which is right; the contract said that it sends nothing. */
#include "a.h"

static void exchange(int nonblocking, int by_setpeer)
{
    psocket *c = NULL, *s = NULL;
    psocket_options o = net_options(0);
    const void *data;
    int port = 0;
    o.udp = 1;
    o.timeout_ms = 1000;
    REQUIRE(psocket_listen(&s, "127.0.0.1", 0, &o) == 0);
    psocket_getlocal(s, NULL, 0, &port);
    if (by_setpeer) {
        REQUIRE(psocket_listen(&c, "127.0.0.1", 0, &o) == 0);
        CHECK_INT(psocket_setpeer(c, "127.0.0.1", port), 0);
    } else {
        REQUIRE(psocket_connect(&c, "127.0.0.1", port, &o) == 0);
    }
    psocket_setnonblocking(c, nonblocking);
    psocket_setnonblocking(s, nonblocking);
    CHECK_INT(psocket_send(c, "", 0), 0);
    CHECK_INT(psocket_send(c, NULL, 0), 0);
    CHECK_INT(psocket_send(c, "after", 5), 5);
    psocket_wait(s, PSOCKET_READ, 1000);
    CHECK_INT(psocket_recv(s, &data), 0);
    CHECK(data != NULL);
    psocket_wait(s, PSOCKET_READ, 1000);
    CHECK_INT(psocket_peek(s, &data), 0);
    CHECK_INT(psocket_recv(s, &data), 0);
    CHECK_STR(a_recv(s), "after");
    CHECK_INT(psocket_send(s, "", 0), 0); /* back to the sender */
    psocket_wait(c, PSOCKET_READ, 1000);
    CHECK_INT(psocket_recv(c, &data), 0);
    psocket_free(c);
    psocket_free(s);
}

TEST(it_is_sent_and_received)
{
    int i;
    for (i = 0; i < 4; i++) exchange(i & 1, i >> 1);
}

/* On a stream nothing is sent. */
TEST(a_stream_sends_nothing)
{
    psocket *c = NULL, *s = NULL;
    REQUIRE(a_tcp(&c, &s, 0));
    CHECK_INT(psocket_send(c, "", 0), 0);
    psocket_settimeout(s, 50);
    CHECK_STR(a_recv(s), "TIMEOUT");
    psocket_free(c);
    psocket_free(s);
}

TEST(the_contract_says_so)
{
    static char text[1 << 20];
    char *end, *start;
    FILE *f = fopen("psocket.h", "rb");
    size_t n;
    REQUIRE(f != NULL);
    n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    end = strstr(text, "PSOCKET_API ptrdiff_t psocket_send(");
    REQUIRE(end != NULL);
    *end = 0;
    start = end;
    while (start > text && strncmp(start, "/*", 2) != 0) start--;
    CHECK(strstr(start, "empty") != NULL);
}
