/* Chunks, streams, ends and limits over TCP. */
#include "net.h"

TEST(echo_over_each_family)
{
    static const char *const hosts[] = { "127.0.0.1", "::1", "localhost", "[::1]" };
    size_t i;
    for (i = 0; i < 4; i++) {
        int port = 0, p = 0;
        char ip[64];
        psocket *c = NULL, *s = NULL;
        psocket_options o = net_options(0);
        psocket *l = net_listen(NULL, &port);
        CHECK_INT(psocket_hasconnection(l), 0);
        REQUIRE(CHECK_INT(psocket_connect(&c, hosts[i], port, &o), 0));
        CHECK_INT(psocket_wait(l, PSOCKET_READ, 5000), 1);
        CHECK_INT(psocket_hasconnection(l), 1);
        CHECK_INT(psocket_hasconnection(l), 1);
        REQUIRE(CHECK_INT(psocket_accept(l, &s), 0));
        CHECK_INT(psocket_hasconnection(l), 0);
        CHECK_INT(psocket_getside(c), PSOCKET_CLIENT);
        CHECK_INT(psocket_getside(s), PSOCKET_SERVER);
        CHECK_INT(psocket_istls(c), 0);
        CHECK_INT(psocket_isudp(c), 0);
        CHECK_INT(psocket_isopen(c), 1);
        CHECK_INT(psocket_getpeer(c, ip, sizeof ip, &p), 0);
        CHECK_INT(p, port);
        if (i != 2) CHECK_STR(ip, i == 0 ? "127.0.0.1" : "::1");
        CHECK_INT(psocket_getpeer(s, ip, sizeof ip, NULL), 0);
        if (i != 2) CHECK_STR(ip, i == 0 ? "127.0.0.1" : "::1"); /* not ::ffff:127.0.0.1 */
        CHECK_INT(psocket_getlocal(s, ip, sizeof ip, &p), 0);
        CHECK_INT(p, port);
        CHECK_INT(psocket_send(c, "ping", 4), 4);
        CHECK_STR(net_recv(s), "ping");
        CHECK_INT(psocket_send(s, "pong", 4), 4);
        CHECK_STR(net_recv(c), "pong");
        psocket_free(c);
        CHECK_STR(net_recv(s), "CLOSED");
        CHECK_STR(net_recv(s), "CLOSED");
        CHECK_INT(psocket_isopen(s), 0);
        psocket_free(s);
        psocket_free(l);
    }
}

TEST(peek_and_unrecv)
{
    psocket *c, *s;
    const void *data;
    ptrdiff_t n;
    REQUIRE(net_pair(&c, &s));
    CHECK_STR(net_peek(s), "WANT_READ");
    psocket_unrecv(s, "World", 5);
    psocket_unrecv(s, "Hello", 5);
    CHECK_INT(psocket_pending(s), 10);
    CHECK_STR(net_peek(s), "Hello");
    CHECK_STR(net_recv(s), "Hello");
    CHECK_STR(net_recv(s), "World");
    psocket_send(c, "wire", 4);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
    CHECK_STR(net_peek(s), "wire");
    CHECK_STR(net_peek(s), "wire");
    n = psocket_recv(s, &data);
    CHECK_INT(psocket_unrecv(s, data, (size_t)n), 0); /* the very memory that recv handed out */
    CHECK_STR(net_recv(s), "wire");
    CHECK_INT(psocket_unrecv(s, "", 0), 0);
    CHECK_STR(net_peek(s), "WANT_READ");
    psocket_free(c);
    CHECK_STR(net_recv(s), "CLOSED");
    CHECK_INT(psocket_unrecv(s, "still", 5), 0); /* the peer's close does not forbid it */
    CHECK_STR(net_recv(s), "still");
    CHECK_STR(net_recv(s), "CLOSED");
    psocket_free(s);
}

TEST(read_and_read_until)
{
    psocket *c, *s;
    const void *data;
    REQUIRE(net_pair(&c, &s));
    psocket_send(c, "line one\r\nline", 14);
    CHECK_STR(net_text(psocket_read_until(s, "\r\n", 100, &data), &data), "line one\r\n");
    psocket_setnonblocking(s, 1);
    CHECK_INT(psocket_read_until(s, "\r\n", 100, &data), PSOCKET_WANT_READ);
    CHECK_INT(psocket_read(s, 5, &data), PSOCKET_WANT_READ);
    psocket_setnonblocking(s, 0);
    psocket_send(c, " two\r\nrest", 10);
    CHECK_STR(net_text(psocket_read_until(s, "\r\n", 100, &data), &data), "line two\r\n");
    CHECK_STR(net_text(psocket_read(s, 3, &data), &data), "res");
    CHECK_STR(net_recv(s), "t");
    psocket_send(c, "0123456789", 10);
    CHECK_INT(psocket_read_until(s, "x", 5, &data), PSOCKET_LIMIT);
    CHECK_STR(net_text(psocket_read(s, 10, &data), &data), "0123456789"); /* nothing was taken */
    psocket_send(c, "tail", 4);
    psocket_shutdown(c);
    CHECK_INT(psocket_read(s, 5, &data), PSOCKET_CLOSED);
    CHECK_INT(psocket_read_until(s, "\n", 100, &data), PSOCKET_CLOSED);
    CHECK_STR(net_recv(s), "tail");
    CHECK_STR(net_recv(s), "CLOSED");
    CHECK_INT(psocket_read(s, 100000000, &data), PSOCKET_CLOSED); /* more than recv_limit is the caller's affair */
    CHECK_INT(psocket_read(s, 0, &data), PSOCKET_INVALID);
    psocket_free(c);
    psocket_free(s);
}

TEST(timeout_keeps_what_arrived)
{
    psocket *c, *s;
    const void *data;
    psocket_error e;
    REQUIRE(net_pair(&c, &s));
    psocket_settimeout(s, 30);
    psocket_send(c, "abc", 3);
    CHECK_INT(psocket_read(s, 6, &data), PSOCKET_TIMEOUT);
    CHECK_INT(psocket_geterror(s, &e), PSOCKET_TIMEOUT);
    CHECK_INT(e.code, PSOCKET_TIMEOUT);
    CHECK(e.text[0] != 0);
    psocket_send(c, "def", 3);
    CHECK_STR(net_text(psocket_read(s, 6, &data), &data), "abcdef");
    psocket_settimeout(s, 30);
    CHECK_STR(net_recv(s), "TIMEOUT");
    CHECK_INT(psocket_isopen(s), 1);
    psocket_free(c);
    psocket_free(s);
}

TEST(half_close)
{
    psocket *c, *s;
    REQUIRE(net_pair(&c, &s));
    CHECK_INT(psocket_shutdown(c), 0);
    CHECK_INT(psocket_shutdown(c), 0);
    CHECK_INT(psocket_send(c, "x", 1), PSOCKET_CLOSED_HERE);
    CHECK_STR(net_recv(s), "CLOSED");
    CHECK_INT(psocket_send(s, "answer", 6), 6);
    CHECK_STR(net_recv(c), "answer");
    psocket_free(s);
    CHECK_STR(net_recv(c), "CLOSED");
    psocket_free(c);
}

TEST(typed_ends)
{
    int fd;
    psocket *s = net_raw_peer(&fd);
    REQUIRE(s);
    CHECK(write(fd, "last words", 10) == 10);
    close(fd);
    CHECK_STR(net_recv(s), "last words");
    CHECK_STR(net_recv(s), "CLOSED");
    psocket_free(s);

    s = net_raw_peer(&fd);
    REQUIRE(s);
    net_reset(fd);
    CHECK_STR(net_recv(s), "RESET");
    CHECK_INT(psocket_isopen(s), 0);
    psocket_free(s);

    s = net_raw_peer(&fd);
    REQUIRE(s);
    psocket_settimeout(s, 30);
    CHECK_STR(net_recv(s), "TIMEOUT");
    CHECK_INT(psocket_isopen(s), 1);
    psocket_close(s);
    CHECK_STR(net_recv(s), "CLOSED_HERE");
    CHECK_INT(psocket_send(s, "x", 1), PSOCKET_CLOSED_HERE);
    CHECK_INT(psocket_isopen(s), 0);
    psocket_free(s);
    close(fd);
}

TEST(isopen_notices_without_taking)
{
    int fd;
    psocket *s = net_raw_peer(&fd);
    REQUIRE(s);
    CHECK_INT(psocket_isopen(s), 1);
    CHECK(write(fd, "left", 4) == 4);
    close(fd);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
    {
        int i;
        for (i = 0; i < 1000 && psocket_isopen(s); i++) poll(NULL, 0, 1);
    }
    CHECK_INT(psocket_isopen(s), 0);
    CHECK_STR(net_recv(s), "left");
    CHECK_STR(net_recv(s), "CLOSED");
    psocket_free(s);
}

TEST(close_keeps_what_had_arrived)
{
    psocket *c, *s;
    REQUIRE(net_pair(&c, &s));
    psocket_send(c, "early", 5);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
    psocket_close(s);
    psocket_close(s);
    CHECK_STR(net_recv(s), "early");
    CHECK_STR(net_recv(s), "CLOSED_HERE");
    CHECK_INT(psocket_unrecv(s, "x", 1), PSOCKET_CLOSED_HERE);
    CHECK_INT(psocket_shutdown(s), PSOCKET_CLOSED_HERE);
    CHECK_INT(psocket_starttls(s, NULL, "x"), PSOCKET_CLOSED_HERE);
    CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
    psocket_free(s);
    psocket_free(c);
}

/* A response followed by close arrives even if the peer had sent more than was read. */
TEST(close_with_unread_data_loses_no_answer)
{
    int i;
    for (i = 0; i < 20; i++) {
        psocket *c, *s;
        char junk[2000];
        REQUIRE(net_pair(&c, &s));
        memset(junk, 'j', sizeof junk);
        psocket_send(c, junk, sizeof junk);
        CHECK_INT(psocket_wait(s, PSOCKET_READ, 5000), PSOCKET_READ);
        psocket_send(s, "answer", 6);
        psocket_free(s);
        CHECK_STR(net_recv(c), "answer");
        CHECK_STR(net_recv(c), "CLOSED");
        psocket_free(c);
    }
}

TEST(nonblocking_send_counts_and_back_pressure)
{
    psocket *c, *s;
    static char block[100000];
    size_t sent = 0, got = 0;
    ptrdiff_t n;
    const void *data;
    unsigned char want = 0;
    size_t i;
    REQUIRE(net_pair(&c, &s));
    for (i = 0; i < sizeof block; i++) block[i] = (char)i;
    psocket_setnonblocking(c, 1);
    while ((n = psocket_send(c, block + sent % 256, 65536)) > 0) sent += (size_t)n;
    CHECK_INT(n, PSOCKET_WANT_WRITE);
    CHECK_INT(psocket_wait(c, PSOCKET_WRITE, 0), 0);
    psocket_shutdown(c);
    while ((n = psocket_recv(s, &data)) > 0) {
        for (i = 0; i < (size_t)n; i++)
            if (((const unsigned char *)data)[i] != want++ && !CHECK(0)) return;
        got += (size_t)n;
    }
    CHECK_INT(n, PSOCKET_CLOSED);
    CHECK_INT(got, sent);
    psocket_free(c);
    psocket_free(s);
}

TEST(reset_in_the_middle_of_a_blocking_send)
{
    int fd;
    psocket *s = net_raw_peer(&fd);
    psocket_error e;
    char *big = (char *)calloc(1, 64 << 20);
    ptrdiff_t n;
    pid_t child;
    REQUIRE(s && big);
    child = fork(); /* the peer reads a little and resets */
    if (child == 0) {
        char b[1000];
        ssize_t r = read(fd, b, sizeof b);
        poll(NULL, 0, 50);
        net_reset(fd);
        _exit(r > 0 ? 0 : 1);
    }
    close(fd);
    n = psocket_send(s, big, 64 << 20);
    CHECK_INT(n, PSOCKET_RESET);
    psocket_geterror(s, &e);
    CHECK(e.sent > 0 && e.sent < 64u << 20);
    CHECK_INT(psocket_send(s, "x", 1), PSOCKET_RESET);
    waitpid(child, NULL, 0);
    psocket_free(s);
    free(big);
}

TEST(send_times_out_and_says_how_much)
{
    psocket *c, *s;
    psocket_error e;
    char *big = (char *)calloc(1, 32 << 20);
    REQUIRE(big && net_pair(&c, &s));
    psocket_settimeout(c, 50);
    CHECK_INT(psocket_send(c, big, 32 << 20), PSOCKET_TIMEOUT);
    psocket_geterror(c, &e);
    CHECK(e.sent > 0 && e.sent < 32u << 20);
    psocket_free(c);
    psocket_free(s);
    free(big);
}

TEST(ring_is_bounded)
{
    psocket *c, *s;
    static char block[65536];
    ptrdiff_t n;
    int i;
    REQUIRE(net_pair(&c, &s));
    psocket_setnonblocking(c, 1);
    for (i = 0; i < 200; i++) {
        n = psocket_send(c, block, sizeof block);
        psocket_isopen(s); /* reads ahead, up to the limit */
        if (n < 0 && psocket_wait(c, PSOCKET_WRITE, 0) == 0) break;
    }
    CHECK(psocket_pending(s) >= 65536);
    CHECK(psocket_pending(s) < 65536 * 2 + 1);
    CHECK_INT(psocket_isopen(s), 1);
    psocket_free(c);
    psocket_free(s);
}

TEST(descriptors_run_out)
{
    struct rlimit old, low;
    int port = 0, i;
    psocket *c[64], *s = NULL;
    psocket_options o = net_options(0);
    psocket *l = net_listen("127.0.0.1", &port);
    memset(c, 0, sizeof c);
    getrlimit(RLIMIT_NOFILE, &old);
    low = old;
    low.rlim_cur = 24;
    setrlimit(RLIMIT_NOFILE, &low);
    for (i = 0; i < 64; i++)
        if (psocket_connect(&c[i], "127.0.0.1", port, &o) != 0) break;
    CHECK(i < 64);
    CHECK_INT(net_error.code, PSOCKET_DESCRIPTORS);
    CHECK_INT(psocket_accept(l, &s), PSOCKET_DESCRIPTORS);
    {
        psocket_error e;
        CHECK_INT(psocket_geterror(l, &e), PSOCKET_DESCRIPTORS);
        CHECK(e.text[0] != 0);
    }
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK_INT(psocket_accept(l, &s), 0); /* the connection was not lost */
    psocket_free(s);
    for (i = 0; i < 64; i++) psocket_free(c[i]);
    psocket_free(l);
}

TEST(not_inherited_and_no_sigpipe)
{
    psocket *c, *s;
    int i;
    REQUIRE(net_pair(&c, &s));
    psocket_free(s);
    for (i = 0; i < 100 && psocket_send(c, "x", 1) > 0; i++) poll(NULL, 0, 1); /* dies of SIGPIPE if the library lets it */
    CHECK_INT(psocket_send(c, "x", 1), PSOCKET_RESET);
    psocket_free(c);
}
