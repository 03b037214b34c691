/* options.error says that it is filled when accept fails; it was not. */
#include "a.h"

static void filled(const psocket_error *e, const psocket *l, int r, int want)
{
    CHECK_INT(r, want);
    CHECK_INT(e->code, want);
    CHECK(e->text[0] != 0);
    A_AGREES(l, r);
}

static void listener(const char *address, int nonblocking)
{
    psocket_options o = net_options(nonblocking);
    psocket_error e;
    psocket *l = NULL, *s = NULL, *c = NULL;
    struct rlimit had, few;
    int port = 0, used, r;
    o.error = &e;
    o.timeout_ms = 20;
    REQUIRE(psocket_listen(&l, address, 0, &o) == 0);
    psocket_getlocal(l, NULL, 0, &port);
    memset(&e, 0, sizeof e);
    r = psocket_accept(l, &s);
    if (nonblocking) CHECK_INT(r, PSOCKET_WANT_READ);
    else filled(&e, l, r, PSOCKET_TIMEOUT);
    CHECK(s == NULL);
    { /* a connection waits, and no descriptor is left */
        psocket_options other = net_options(0);
        other.timeout_ms = 1000;
        REQUIRE(psocket_connect(&c, port ? "127.0.0.1" : address, port, &other) == 0);
    }
    a_arrived(l);
    getrlimit(RLIMIT_NOFILE, &had);
    few = had;
    used = dup(0);
    close(used);
    few.rlim_cur = (rlim_t)used;
    setrlimit(RLIMIT_NOFILE, &few);
    memset(&e, 0, sizeof e);
    r = psocket_accept(l, &s);
    setrlimit(RLIMIT_NOFILE, &had);
    filled(&e, l, r, PSOCKET_DESCRIPTORS);
    CHECK_INT(e.os_error, EMFILE);
    CHECK_INT(psocket_accept(l, &s), 0); /* it had been kept */
    psocket_free(s);
    psocket_free(c);
    s = NULL;
    psocket_close(l);
    memset(&e, 0, sizeof e);
    r = psocket_accept(l, &s);
    filled(&e, l, r, PSOCKET_CLOSED_HERE);
    CHECK(s == NULL);
    psocket_free(l);
}

TEST(tcp)
{
    listener("127.0.0.1", 0);
    listener("127.0.0.1", 1);
}

TEST(unix_path)
{
    char address[64];
    snprintf(address, sizeof address, "unix:/tmp/psocket-a-accept-%ld", (long)getpid());
    listener(address, 0);
    listener(address, 1);
}
