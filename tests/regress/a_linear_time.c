/* psocket_read_until searched all it held again for every chunk: 26 s of processor time for 64 KB in one-byte segments with a
   delimiter that nearly matches. Time is linear in what arrives, for everything that a peer may feed in small pieces. */
#include "a.h"
#include "link.h"

enum { UNTIL, UNTIL_TWO, UNTIL_OTHER, READ, UNTIL_IN_POLLER, UNTIL_PEEK, UNTIL_PUT_BACK, KINDS };

static const char *const kinds[] = { "read_until", "read_until of two in turn", "read_until of one, then the other", "read", "read_until in a poller", "read_until and peek",
                                     "read_until and unrecv" };

/* Processor milliseconds to receive n bytes, segment at a time, never completing what is asked for. */
static long cost(int kind, size_t n, size_t segment, char byte, const char *delimiter, int carried)
{
    static char block[65536];
    psocket *a = NULL, *b = NULL, *w = NULL;
    psocket_poller *p = NULL;
    const psocket_event *ev;
    const void *data;
    psocket_options o = net_options(1);
    size_t sent = 0;
    long start;
    ptrdiff_t r = PSOCKET_WANT_READ;
    memset(block, byte, sizeof block);
    o.recv_limit = 2 * n + 1024;
    if (carried == 2 ? link_pair(&a, &b, segment, 0, &o) : psocket_pair(&a, &b, &o)) return -1;
    if (carried == 1 && psocket_wrap(&w, b, &o) == 0) b = w;
    if (kind == UNTIL_IN_POLLER) CHECK(psocket_poller_new(&p) == 0 && psocket_poller_set(p, b, PSOCKET_READ, -1, b) == 0);
    start = core_cpu_ms();
    while (sent < n && r == PSOCKET_WANT_READ) {
        if (psocket_send(a, block, segment) != (ptrdiff_t)segment) break;
        sent += segment;
        if (kind == UNTIL_IN_POLLER && psocket_poller_wait(p, &ev, 100) < 0) break;
        if (kind == READ) r = psocket_read(b, 2 * n, &data);
        else r = psocket_read_until(b, kind == UNTIL_OTHER && sent / segment % 2 ? "aaac" : delimiter, 2 * n, &data);
        if (kind == UNTIL_TWO) r = psocket_read_until(b, "\n", 2 * n, &data);
        if (kind == UNTIL_PEEK) psocket_peek(b, &data);
        if (kind == UNTIL_PUT_BACK && (sent / segment) % 4096 == 0) psocket_unrecv(b, "q", 1);
        if (core_cpu_ms() - start > 8000) break;
    }
    start = core_cpu_ms() - start;
    CHECK_INT(r, PSOCKET_WANT_READ);
    if (sent < n) check_fail(NULL, 0, "%s: only %d of %d bytes in %ld ms of CPU", kinds[kind], (int)sent, (int)n, start);
    psocket_free(a);
    psocket_free(b);
    psocket_poller_free(p);
    return start;
}

/* Four times as much may take eight times as long (it would take 16 times with a square), and no more than the system calls
   excuse. */
static void linear(int kind, size_t segment, char byte, const char *delimiter, int carried)
{
    size_t n = segment < 16 ? 16384 : 65536;
    long small = cost(kind, n, segment, byte, delimiter, carried), large = cost(kind, 4 * n, segment, byte, delimiter, carried);
    if (large > 8 * small + 150)
        check_fail(NULL, 0, "%s in segments of %d, carried %d: %ld ms for %d KB, %ld ms for %d KB", kinds[kind], (int)segment, carried, small,
                   (int)(n / 1024), large, (int)(4 * n / 1024));
}

TEST_LIMIT(a_delimiter_that_nearly_matches, 100)
{
    linear(UNTIL, 1, 'a', "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 0);
    linear(UNTIL, 64, 'a', "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 0);
    linear(UNTIL, 1, 'a', "ab", 1);
    linear(UNTIL, 1, 'a', "aaaaaaaab", 2); /* a transport of the tests: one segment per read */
}

TEST_LIMIT(a_delimiter_that_does_not_occur, 100)
{
    linear(UNTIL, 1, 'x', "\n", 0);
    linear(UNTIL, 64, 'x', "\r\n\r\n", 0);
    linear(UNTIL, 7, 'x', "\r\n", 0);
}

TEST_LIMIT(two_delimiters_in_turn, 100)
{
    linear(UNTIL_TWO, 1, 'x', "\r\n\r\n", 0);
    linear(UNTIL_TWO, 64, 'x', "\r\n\r\n", 0);
    linear(UNTIL_OTHER, 1, 'a', "aab", 0);
}

TEST_LIMIT(reads_of_more, 100)
{
    linear(READ, 1, 'x', "\n", 0);
    linear(READ, 64, 'x', "\n", 0);
    linear(READ, 1, 'x', "\n", 1);
}

TEST_LIMIT(in_a_poller, 100)
{
    linear(UNTIL_IN_POLLER, 1, 'x', "\n", 0);
    linear(UNTIL_IN_POLLER, 16, 'a', "aaaaaaab", 0);
}

TEST_LIMIT(with_other_calls_between, 100)
{
    linear(UNTIL_PEEK, 1, 'x', "\n", 0);
    linear(UNTIL_PUT_BACK, 1, 'x', "\n", 0);
}

/* One record for each byte. */
TEST_LIMIT(records_of_one_byte, 60)
{
    psocket *c = NULL, *s = NULL;
    const void *data;
    long spent[2];
    int k, i;
    for (k = 0; k < 2; k++) {
        int n = k ? 24000 : 6000;
        REQUIRE(a_tls(&c, &s, 1));
        spent[k] = core_cpu_ms();
        for (i = 0; i < n; i++) {
            REQUIRE(psocket_send(c, "x", 1) == 1);
            REQUIRE(psocket_flush(c) == 0);
            REQUIRE(psocket_read_until(s, "\n", 60000, &data) == PSOCKET_WANT_READ);
        }
        spent[k] = core_cpu_ms() - spent[k];
        psocket_free(c);
        psocket_free(s);
    }
    if (spent[1] > 8 * spent[0] + 150) check_fail(NULL, 0, "%ld ms for 6,000, %ld ms for 24,000", spent[0], spent[1]);
}

/* A ClientHello, as a client of psocket's writes it, grown by padding (RFC 7685) to `size` and cut into records of one byte. */
static size_t hello_in_pieces(unsigned char *out, size_t size)
{
    static unsigned char hello[70000];
    psocket *c;
    psocket_tls *tls = core_settings(0);
    size_t n = 0, pad, at, i, ext, body;
    int fd = -1;
    ssize_t got = 0;
    c = net_raw_peer(&fd);
    if (!c) return 0;
    psocket_setnonblocking(c, 1);
    psocket_starttls(c, tls, "localhost");
    while (n < 5 || n < 5 + ((size_t)hello[3] << 8 | hello[4])) {
        got = recv(fd, hello + n, sizeof hello / 2 - n, 0);
        if (got <= 0) break;
        n += (size_t)got;
    }
    psocket_free(c);
    psocket_tls_free(tls);
    close(fd);
    if (!CHECK(n > 60 && hello[0] == 22 && hello[5] == 1)) return 0;
    body = n - 5; /* handshake header, version, random, id, suites, compression, extensions */
    at = 5 + 4 + 2 + 32;
    at += 1 + hello[at];
    at += 2 + ((size_t)hello[at] << 8 | hello[at + 1]);
    at += 1 + hello[at];
    ext = (size_t)hello[at] << 8 | hello[at + 1];
    if (!CHECK(at + 2 + ext == n)) return 0;
    pad = size - body - 4;
    hello[n++] = 0;
    hello[n++] = 21;
    hello[n++] = (unsigned char)(pad >> 8);
    hello[n++] = (unsigned char)pad;
    memset(hello + n, 0, pad);
    n += pad;
    ext += 4 + pad;
    hello[at] = (unsigned char)(ext >> 8);
    hello[at + 1] = (unsigned char)ext;
    body = n - 5 - 4;
    hello[6] = (unsigned char)(body >> 16);
    hello[7] = (unsigned char)(body >> 8);
    hello[8] = (unsigned char)body;
    for (i = 5, at = 0; i < n; i++) {
        out[at++] = 22;
        out[at++] = 3;
        out[at++] = 1;
        out[at++] = 0;
        out[at++] = 1;
        out[at++] = hello[i];
    }
    return at;
}

static long serve_hello(size_t size)
{
    static unsigned char wire[500000];
    size_t n = hello_in_pieces(wire, size), sent = 0;
    psocket *s = NULL;
    psocket_tls *tls = core_settings(1);
    psocket *c = NULL;
    int fd = -1, r;
    long spent;
    int64_t end = check_now_ms() + 20000;
    if (!n || !net_pair(&c, &s)) return -1;
    fd = (int)psocket_getfd(c);
    psocket_setnonblocking(s, 1);
    spent = core_cpu_ms();
    r = psocket_starttls(s, tls, NULL);
    while (sent < n && check_now_ms() < end) {
        size_t piece = n - sent < 600 ? n - sent : 600;
        if (send(fd, wire + sent, piece, MSG_NOSIGNAL) != (ssize_t)piece) break;
        sent += piece;
        r = psocket_step(s);
        if (r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) break;
    }
    spent = core_cpu_ms() - spent;
    psocket_tls_free(tls);
    psocket_free(s);
    psocket_free(c);
    return spent;
}

TEST_LIMIT(a_hello_in_records_of_one_byte, 60)
{
    long small = serve_hello(2000), large = serve_hello(12000);
    CHECK(small >= 0 && large >= 0);
    if (large > 12 * small + 200) check_fail(NULL, 0, "%ld ms for 2,000 bytes, %ld ms for 12,000", small, large);
}
