/* Helpers of the core_*.c tests. Include it after the implementation, if the test has its own. */
#ifndef CORE_H
#define CORE_H
#include "api/net.h"
#include <linux/sockios.h>
#include <pthread.h>
#include <sys/ioctl.h>

static CHECK_UNUSED char *core_file(const char *name)
{
    char path[512], *text = (char *)calloc(1, 65536);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", check_certs(), name);
    f = fopen(path, "rb");
    CHECK(f != NULL && text && fread(text, 1, 65535, f) > 0);
    if (f) fclose(f);
    return text;
}

static CHECK_UNUSED psocket_tls *core_settings(int server)
{
    psocket_tls_options o;
    psocket_identity id;
    psocket_tls *tls = NULL;
    char *a = core_file(server ? "ec.pem" : "ca.pem"), *b = core_file("ec.key");
    memset(&o, 0, sizeof o);
    memset(&id, 0, sizeof id);
    o.error = &net_error;
    id.chain = a;
    id.key = b;
    if (server) {
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

/* Turns two connected sockets into TLS client and server; both are nonblocking afterwards. 0 if that worked. */
static CHECK_UNUSED int core_handshake(psocket *c, psocket *s)
{
    psocket_tls *ct = core_settings(0), *st = core_settings(1);
    int a, b, turns;
    psocket_setnonblocking(c, 1);
    psocket_setnonblocking(s, 1);
    a = psocket_starttls(c, ct, "localhost");
    b = psocket_starttls(s, st, NULL);
    for (turns = 0; turns < 3000 && (a || b); turns++) {
        if (a == PSOCKET_WANT_READ || a == PSOCKET_WANT_WRITE) a = psocket_step(c);
        if (b == PSOCKET_WANT_READ || b == PSOCKET_WANT_WRITE) b = psocket_step(s);
        if (a || b) check_sleep_us(1000);
    }
    psocket_tls_free(ct);
    psocket_tls_free(st);
    CHECK_INT(a, 0);
    CHECK_INT(b, 0);
    return a ? a : b;
}

/* A TLS connection over TCP, nonblocking at both ends. */
static CHECK_UNUSED int core_tls(psocket **c, psocket **s)
{
    return net_pair(c, s) && core_handshake(*c, *s) == 0;
}

/* Whether bytes are on their way over loopback: then there may soon be room for more. */
static CHECK_UNUSED int core_moving(psocket *s)
{
    int held = 0, unsent = 0, fd = (int)psocket_getfd(s);
    return !ioctl(fd, SIOCOUTQ, &held) && !ioctl(fd, SIOCOUTQNSD, &unsent) && held > unsent;
}

/* Sends until the peer's window and the system's buffer are full: how many bytes were taken. */
static CHECK_UNUSED size_t core_fill(psocket *s)
{
    static char block[65536];
    size_t n = 0;
    ptrdiff_t r;
    int full = 0, stuck = 0, tries; /* the system may hold for long what a peer with a small buffer has dropped */
    for (tries = 0; full < 3 && stuck < 50 && tries < 2000 && n < (size_t)1 << 28; tries++) {
        r = psocket_send(s, block, sizeof block);
        if (r > 0) n += (size_t)r, full = stuck = 0;
        else if (r != PSOCKET_WANT_WRITE) break;
        else full += !core_moving(s), stuck++, check_sleep_us(2000);
    }
    return n;
}

/* Processor time of this process in milliseconds. */
static CHECK_UNUSED long core_cpu_ms(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (long)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (long)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}
#endif
