/* TLS bytes that a nonblocking psocket_send took "may wait in the socket until psocket_flush or the next call": but recv
   never sent them, and a blocking recv with such bytes (or with half a half-close) waiting spun at full speed. */
#include "core.h"

typedef struct drain_job {
    psocket *s;
    size_t want, got;
} drain_job;

/* Reads all, then answers. */
static void *drain(void *p)
{
    drain_job *j = (drain_job *)p;
    const void *data;
    ptrdiff_t n;
    psocket_setnonblocking(j->s, 0);
    psocket_settimeout(j->s, 3000);
    check_sleep_us(300000);
    while (j->got < j->want && (n = psocket_recv(j->s, &data)) > 0) j->got += (size_t)n;
    if (j->got >= j->want) psocket_send(j->s, "done", 4);
    return NULL;
}

TEST(a_blocking_recv_sends_what_was_taken)
{
    psocket *c, *s;
    drain_job j;
    pthread_t t;
    long cpu;
    REQUIRE(core_tls(&c, &s));
    j.s = s;
    j.got = 0;
    j.want = core_fill(c);
    REQUIRE(pthread_create(&t, NULL, drain, &j) == 0);
    psocket_setnonblocking(c, 0);
    psocket_settimeout(c, 4000);
    cpu = core_cpu_ms();
    CHECK_STR(net_recv(c), "done");
    cpu = core_cpu_ms() - cpu;
    pthread_join(t, NULL);
    CHECK(j.got == j.want);
    CHECK(cpu < 1000);
    psocket_free(c);
    psocket_free(s);
}

TEST(a_nonblocking_recv_sends_what_was_taken)
{
    psocket *c, *s;
    drain_job j;
    pthread_t t;
    int i;
    const char *got = "";
    REQUIRE(core_tls(&c, &s));
    j.s = s;
    j.got = 0;
    j.want = core_fill(c);
    REQUIRE(pthread_create(&t, NULL, drain, &j) == 0);
    for (i = 0; i < 2000 && strcmp(got = net_recv(c), "WANT_READ") == 0; i++) check_sleep_us(2000);
    CHECK_STR(got, "done");
    pthread_join(t, NULL);
    CHECK(j.got == j.want);
    psocket_free(c);
    psocket_free(s);
}

TEST(a_blocking_recv_ends_a_half_close)
{
    psocket *c, *s;
    drain_job j;
    pthread_t t;
    long cpu;
    REQUIRE(core_tls(&c, &s));
    j.s = s;
    j.got = 0;
    j.want = core_fill(c);
    CHECK_INT(psocket_shutdown(c), PSOCKET_WANT_WRITE);
    REQUIRE(pthread_create(&t, NULL, drain, &j) == 0);
    psocket_setnonblocking(c, 0);
    psocket_settimeout(c, 4000);
    cpu = core_cpu_ms();
    CHECK_STR(net_recv(c), "done");
    cpu = core_cpu_ms() - cpu;
    pthread_join(t, NULL);
    CHECK_STR(net_recv(s), "CLOSED");
    CHECK(cpu < 1000);
    psocket_free(c);
    psocket_free(s);
}
