/* TLS through the public functions: return values, ends, read-ahead, plaintext, carried sockets, and a peer of another make
   is left to tests/peers. */
#include "net.h"

static char *slurp(const char *name)
{
    char path[512], *text = (char *)calloc(1, 65536);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", check_certs(), name);
    f = fopen(path, "rb");
    CHECK(f != NULL && text && fread(text, 1, 65535, f) > 0);
    if (f) fclose(f);
    return text;
}

static psocket_tls *server_settings(const char *which)
{
    psocket_tls_options o;
    psocket_identity id;
    psocket_tls *tls = NULL;
    char file[64], *chain, *key;
    snprintf(file, sizeof file, "%s.pem", which);
    chain = slurp(file);
    snprintf(file, sizeof file, "%s.key", which);
    key = slurp(file);
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.error = &net_error;
    id.chain = chain;
    id.key = key;
    o.identities = &id;
    o.identity_count = 1;
    CHECK_INT(psocket_tls_new(&tls, &o), 0);
    free(chain);
    free(key);
    return tls;
}

static psocket_tls *client_settings(void)
{
    psocket_tls_options o;
    psocket_tls *tls = NULL;
    char *ca = slurp("ca.pem");
    memset(&o, 0, sizeof o);
    o.ca = ca;
    o.error = &net_error;
    CHECK_INT(psocket_tls_new(&tls, &o), 0);
    free(ca);
    return tls;
}

/* Drives two nonblocking ends until both are through or one has failed. */
static void handshake(psocket *c, int *cr, psocket *s, int *sr)
{
    int turns;
    for (turns = 0; turns < 500; turns++) {
        if (*cr == PSOCKET_WANT_READ || *cr == PSOCKET_WANT_WRITE) *cr = psocket_step(c);
        if (*sr == PSOCKET_WANT_READ || *sr == PSOCKET_WANT_WRITE) *sr = psocket_step(s);
        if (*cr != PSOCKET_WANT_READ && *cr != PSOCKET_WANT_WRITE && *sr != PSOCKET_WANT_READ && *sr != PSOCKET_WANT_WRITE) return;
        if (*cr == PSOCKET_WANT_READ || *cr == PSOCKET_WANT_WRITE) psocket_wait(c, PSOCKET_READ, 1);
    }
}

/* A TLS connection over a pair in memory, in segments of this size. */
static int tls_pair(psocket **c, psocket **s, size_t segment, const char *which, const char *name, int *sr)
{
    psocket_options o = net_options(1);
    psocket_tls *ct = client_settings(), *st = server_settings(which);
    int cr;
    if (!CHECK_INT(link_pair(c, s, segment, 0, &o), 0)) return 0;
    cr = psocket_starttls(*c, ct, name);
    *sr = psocket_starttls(*s, st, NULL);
    handshake(*c, &cr, *s, sr);
    psocket_tls_free(ct);
    psocket_tls_free(st);
    return cr;
}

TEST(data_both_ways_in_any_segments)
{
    static const size_t segments[] = { 1, 7, 512, 0 };
    static const char *const kinds[] = { "rsa", "ec" };
    size_t i, k;
    for (k = 0; k < 2; k++)
        for (i = 0; i < 4; i++) {
            psocket *c, *s;
            psocket_tlsinfo info;
            int sr;
            REQUIRE(CHECK_INT(tls_pair(&c, &s, segments[i], kinds[k], "example.test", &sr), 0) && CHECK_INT(sr, 0));
            CHECK_INT(psocket_istls(c), 1);
            CHECK_INT(psocket_istls(s), 1);
            CHECK_INT(psocket_isopen(c), 1);
            CHECK_INT(psocket_starttls(c, NULL, "example.test"), PSOCKET_ALREADY_TLS);
            CHECK_INT(psocket_isopen(c), 1);
            CHECK_INT(psocket_gettlsinfo(c, &info), 0);
            CHECK_INT(info.version, 0x0304);
            CHECK_STR(info.version_name, "TLSv1.3");
            CHECK(strncmp(info.suite_name, "TLS_", 4) == 0);
            CHECK(strncmp(info.sigalg_name, k ? "ecdsa_" : "rsa_", k ? 6 : 4) == 0);
            CHECK_INT(psocket_gettlsinfo(s, &info), 0);
            CHECK_STR(info.server_name, "example.test");
            CHECK_INT(psocket_send(c, "question", 8), 8);
            CHECK_STR(net_recv(s), "question"); /* one record, one chunk */
            CHECK_INT(psocket_send(s, "a", 1), 1);
            CHECK_INT(psocket_send(s, "b", 1), 1);
            CHECK_STR(net_recv(c), "a");
            CHECK_STR(net_recv(c), "b");
            CHECK_INT(psocket_shutdown(c), 0);
            CHECK_STR(net_recv(s), "CLOSED");
            CHECK_INT(psocket_send(s, "late", 4), 4);
            CHECK_STR(net_recv(c), "late");
            psocket_free(s);
            CHECK_STR(net_recv(c), "CLOSED");
            psocket_free(c);
        }
}

TEST(refusals_are_told_on_both_sides)
{
    static const struct { const char *server, *name; int code; } table[] = {
        { "rsa", "other.test", PSOCKET_CERT_NAME },   { "untrusted", "localhost", PSOCKET_CERT_UNTRUSTED },
        { "expired", "localhost", PSOCKET_CERT_EXPIRED }, { "self", "localhost", PSOCKET_CERT_SELF_SIGNED },
        { "wrong", "localhost", PSOCKET_CERT_NAME }, { "rsa", "127.0.0.2", PSOCKET_CERT_NAME }
    };
    size_t i;
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        psocket *c, *s;
        psocket_error e;
        int sr;
        CHECK_INT(tls_pair(&c, &s, 0, table[i].server, table[i].name, &sr), table[i].code);
        CHECK_INT(sr, PSOCKET_TLS_ALERT);
        CHECK_INT(psocket_geterror(c, &e), table[i].code);
        CHECK(e.text[0] && e.tls_alert > 0);
        CHECK_INT(psocket_isopen(c), 0);
        CHECK_INT(psocket_isopen(s), 0);
        CHECK_INT(psocket_istls(c), 0);
        CHECK_INT(psocket_send(c, "x", 1), table[i].code); /* not a byte goes out in the clear */
        CHECK_STR(net_recv(s), "TLS_ALERT");
        psocket_free(c);
        psocket_free(s);
    }
}

TEST(client_with_plaintext_left_refuses)
{
    psocket_options o = net_options(1);
    psocket *a, *b;
    REQUIRE(psocket_pair(&a, &b, &o) == 0);
    psocket_send(b, "220 ready", 9);
    CHECK_STR(net_peek(a), "220 ready");
    CHECK_INT(psocket_starttls(a, NULL, "example.test"), PSOCKET_PLAINTEXT);
    CHECK_STR(net_recv(a), "220 ready");
    CHECK_INT(psocket_isopen(a), 1);
    CHECK_INT(psocket_starttls(a, NULL, NULL), PSOCKET_INVALID); /* a client must say whom it wants */
    CHECK_INT(psocket_starttls(b, NULL, NULL), PSOCKET_TLS_NO_IDENTITY);
    CHECK_INT(psocket_send(a, "x", 1), PSOCKET_INVALID); /* nothing goes out in the clear afterwards */
    CHECK_INT(psocket_send(b, "x", 1), PSOCKET_TLS_NO_IDENTITY);
    CHECK_INT(psocket_isopen(a), 0);
    psocket_free(a);
    psocket_free(b);
}

/* A server may have read ahead, and put back: the chunks are the start of the TLS stream. */
TEST(server_that_has_read_ahead)
{
    psocket_options o = net_options(1);
    psocket_tls *ct = client_settings(), *st = server_settings("ec");
    psocket *c, *s;
    const void *data;
    char copy[50];
    int cr, sr;
    REQUIRE(link_pair(&c, &s, 50, 0, &o) == 0);
    cr = psocket_starttls(c, ct, "localhost");
    REQUIRE(psocket_recv(s, &data) == 50);
    memcpy(copy, data, 50);
    psocket_unrecv(s, copy + 20, 30);
    psocket_unrecv(s, copy, 20);
    CHECK_INT(psocket_isopen(s), 1); /* reads all there is */
    CHECK(psocket_pending(s) > 50);
    sr = psocket_starttls(s, st, NULL);
    handshake(c, &cr, s, &sr);
    CHECK_INT(cr, 0);
    CHECK_INT(sr, 0);
    psocket_send(c, "hello", 5);
    CHECK_STR(net_recv(s), "hello");
    psocket_free(c);
    psocket_free(s);
    psocket_tls_free(ct);
    psocket_tls_free(st);
}

/* TLS within TLS, as through a proxy. */
TEST(tls_in_tls)
{
    psocket_options o = net_options(1);
    psocket_tls *ct = client_settings(), *st = server_settings("rsa");
    psocket *c, *s, *cc, *ss;
    static char block[100000];
    const void *data;
    size_t got = 0, sent = 0, i;
    ptrdiff_t n;
    int cr, sr, turns;
    REQUIRE(CHECK_INT(tls_pair(&c, &s, 0, "ec", "localhost", &sr), 0));
    REQUIRE(CHECK_INT(psocket_wrap(&cc, c, &o), 0) && CHECK_INT(psocket_wrap(&ss, s, &o), 0));
    cr = psocket_starttls(cc, ct, "127.0.0.1");
    sr = psocket_starttls(ss, st, NULL);
    handshake(cc, &cr, ss, &sr);
    CHECK_INT(cr, 0);
    CHECK_INT(sr, 0);
    for (i = 0; i < sizeof block; i++) block[i] = (char)(i % 253);
    for (turns = 0; turns < 10000 && got < sizeof block; turns++) {
        if (sent < sizeof block && (n = psocket_send(cc, block + sent, sizeof block - sent)) > 0) sent += (size_t)n;
        else psocket_flush(cc);
        n = psocket_recv(ss, &data);
        if (n > 0) {
            CHECK_MEM(data, block + got, n);
            got += (size_t)n;
        }
    }
    CHECK_INT(got, sizeof block);
    psocket_free(cc);
    CHECK_STR(net_recv(ss), "CLOSED");
    psocket_free(ss);
    psocket_tls_free(ct);
    psocket_tls_free(st);
}

/* The ends of a TLS connection over TCP: close_notify, FIN without it, RST, silence. The peer is a child process, which
   can go without the library's goodbye. */
static void end_with(int how, const char *want)
{
    psocket_options o = net_options(0);
    psocket_tls *ct = client_settings(), *st = server_settings("ec");
    psocket *l;
    psocket *c;
    int port = 0, status = -1;
    pid_t child;
    l = net_listen("127.0.0.1", &port);
    child = fork();
    if (child == 0) {
        psocket *s = NULL;
        psocket_pollfd fd;
        struct linger hard;
        int ms = -1;
        if (psocket_accept(l, &s) || psocket_starttls(s, st, NULL) || psocket_send(s, "last", 4) != 4) _exit(1);
        if (how == 0) psocket_free(s);
        net_recv(s); /* the client says when it has read */
        psocket_pollset(s, PSOCKET_READ, &fd, 1, &ms);
        hard.l_onoff = 1;
        hard.l_linger = 0;
        if (how == 2) setsockopt((int)fd.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
        if (how == 3) net_recv(s);
        _exit(0);
    }
    REQUIRE(CHECK_INT(psocket_connect(&c, "127.0.0.1", port, &o), 0));
    REQUIRE(CHECK_INT(psocket_starttls(c, ct, "127.0.0.1"), 0));
    CHECK_STR(net_recv(c), "last");
    if (how) psocket_send(c, "read", 4);
    if (how == 3) psocket_settimeout(c, 50);
    CHECK_STR(net_recv(c), want);
    CHECK_STR(net_recv(c), want);
    CHECK_INT(psocket_isopen(c), how == 3);
    psocket_free(c);
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    psocket_free(l);
    psocket_tls_free(ct);
    psocket_tls_free(st);
}

TEST(typed_ends)
{
    end_with(1, "TRUNCATED");
    end_with(2, "RESET");
    end_with(3, "TIMEOUT");
}

TEST(clean_end)
{
    int sr;
    psocket *c, *s;
    REQUIRE(CHECK_INT(tls_pair(&c, &s, 0, "ec", "localhost", &sr), 0));
    psocket_send(s, "last", 4);
    psocket_free(s);
    CHECK_STR(net_recv(c), "last");
    CHECK_STR(net_recv(c), "CLOSED");
    psocket_free(c);
}

/* A peer that never answers: the handshake ends when the time is over, and the socket is closed. */
TEST(silent_peer)
{
    int fd;
    psocket *s = net_raw_peer(&fd);
    psocket_tls *ct = client_settings();
    int64_t start = psocket_now();
    REQUIRE(s);
    psocket_settimeout(s, 80);
    CHECK_INT(psocket_starttls(s, ct, "localhost"), PSOCKET_TIMEOUT);
    CHECK(psocket_now() - start >= 80 && psocket_now() - start < 5000);
    CHECK_INT(psocket_isopen(s), 0);
    psocket_free(s);
    close(fd);
    s = net_raw_peer(&fd);
    REQUIRE(s);
    psocket_settimeout(s, 80);
    CHECK_INT(psocket_starttls(s, ct, "localhost"), PSOCKET_TIMEOUT);
    psocket_free(s);
    close(fd);
    s = net_raw_peer(&fd);
    REQUIRE(s);
    close(fd);
    {
        int r = psocket_starttls(s, ct, "localhost");
        CHECK(r == PSOCKET_TRUNCATED || r == PSOCKET_RESET);
    }
    psocket_free(s);
    s = net_raw_peer(&fd);
    REQUIRE(s);
    CHECK(write(fd, "HTTP/1.0 400 Bad Request\r\n\r\n", 28) == 28);
    CHECK_INT(psocket_wait(s, PSOCKET_WRITE, 5000), PSOCKET_WRITE);
    CHECK_INT(psocket_starttls(s, ct, "localhost"), PSOCKET_TLS_PROTOCOL);
    psocket_free(s);
    close(fd);
    psocket_tls_free(ct);
}
