/* 64 MB through a reader that starts late and reads slowly: every byte arrives, and memory stays flat, in plain TCP and
   TLS, blocking and nonblocking. */
#include "net.h"
#include <bearssl.h>

#define TOTAL ((size_t)64 << 20)

static unsigned char *pattern(void)
{
    unsigned char *p = (unsigned char *)malloc(TOTAL);
    size_t i;
    uint32_t x = 1;
    for (i = 0; p && i < TOTAL; i++) {
        x = x * 1664525u + 1013904223u;
        p[i] = (unsigned char)(x >> 24);
    }
    return p;
}

/* Resident kilobytes of this process, now. */
static long rss_kb(void)
{
    long pages = 0, all = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
        fclose(f);
    }
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

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

static psocket_tls *settings(int server)
{
    psocket_tls_options o;
    psocket_identity id;
    psocket_tls *tls = NULL;
    char *a = slurp(server ? "ec.pem" : "ca.pem"), *b = server ? slurp("ec.key") : NULL;
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.error = &net_error;
    if (server) {
        id.chain = a;
        id.key = b;
        o.identities = &id;
        o.identity_count = 1;
    } else {
        o.ca = a;
    }
    CHECK_INT(psocket_tls_new(&tls, &o), 0);
    free(a);
    free(b);
    return tls;
}

/* The child: starts late, pauses now and then, sends back the digest of what it got. */
static void reader(int port, int tls)
{
    psocket_options o = net_options(0);
    psocket *s = NULL;
    br_sha256_context sha;
    unsigned char digest[32];
    const void *data;
    ptrdiff_t n;
    size_t got = 0, pause = 0;
    o.timeout_ms = 60000;
    br_sha256_init(&sha);
    if (psocket_connect(&s, "127.0.0.1", port, &o)) _exit(1);
    if (tls) {
        psocket_tls *t = settings(0);
        if (psocket_starttls(s, t, "localhost")) _exit(2);
        psocket_tls_free(t);
    }
    poll(NULL, 0, 200);
    while (got < TOTAL && (n = psocket_recv(s, &data)) > 0) {
        br_sha256_update(&sha, data, (size_t)n);
        got += (size_t)n;
        if (got - pause > TOTAL / 64) {
            pause = got;
            poll(NULL, 0, 5);
        }
    }
    br_sha256_out(&sha, digest);
    if (psocket_send(s, digest, 32) != 32) _exit(3);
    psocket_free(s);
    _exit(0);
}

static void run(int tls, int nonblocking)
{
    psocket *l;
    psocket *s = NULL;
    psocket_tls *t = NULL;
    const void *data;
    int port = 0, status = 1;
    long before;
    unsigned char want[32], *p = pattern();
    br_sha256_context sha;
    pid_t child;
    REQUIRE(p);
    if (tls) t = settings(1);
    l = net_listen("127.0.0.1", &port);
    child = fork();
    if (child == 0) reader(port, tls);
    REQUIRE(CHECK_INT(psocket_accept(l, &s), 0));
    psocket_settimeout(s, 60000);
    if (tls) REQUIRE(CHECK_INT(psocket_starttls(s, t, NULL), 0));
    before = rss_kb();
    if (!nonblocking) {
        CHECK_INT(psocket_send(s, p, TOTAL), TOTAL);
    } else {
        size_t sent = 0;
        int waits = 0;
        psocket_setnonblocking(s, 1);
        while (sent < TOTAL) {
            ptrdiff_t n = psocket_send(s, p + sent, TOTAL - sent);
            if (n > 0) sent += (size_t)n;
            else if (n == PSOCKET_WANT_WRITE && psocket_wait(s, PSOCKET_WRITE, 60000) == PSOCKET_WRITE) waits++;
            else REQUIRE(CHECK_INT(n, 0));
        }
        while (psocket_flush(s) == PSOCKET_WANT_WRITE) psocket_wait(s, PSOCKET_WRITE, 60000);
        CHECK(waits > 3);
        psocket_setnonblocking(s, 0);
    }
#ifndef __SANITIZE_ADDRESS__
    CHECK(rss_kb() - before < 2048);
#else
    (void)before;
#endif
    br_sha256_init(&sha);
    br_sha256_update(&sha, p, TOTAL);
    br_sha256_out(&sha, want);
    CHECK_INT(psocket_read(s, 32, &data), 32);
    CHECK_MEM(data, want, 32);
    waitpid(child, &status, 0);
    CHECK_INT(status, 0);
    psocket_free(s);
    psocket_tls_free(t);
    psocket_free(l);
    free(p);
}

TEST_LIMIT(plain_blocking, 120) { run(0, 0); }
TEST_LIMIT(plain_nonblocking, 120) { run(0, 1); }
TEST_LIMIT(tls_blocking, 120) { run(1, 0); }
TEST_LIMIT(tls_nonblocking, 120) { run(1, 1); }
