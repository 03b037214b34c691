/* Linux answers EAGAIN to a nonblocking connect when a Unix-domain listener's queue is full: it was taken for a failure,
   where a blocking connect would wait for room. */
#include "core.h"

static void *accept_later(void *p)
{
    psocket *l = (psocket *)p;
    psocket *s[3];
    int i;
    check_sleep_us(200000);
    for (i = 0; i < 3; i++) {
        s[i] = NULL;
        psocket_accept(l, &s[i]);
    }
    for (i = 0; i < 3; i++) psocket_free(s[i]);
    return NULL;
}

TEST(a_full_queue_is_waited_for)
{
    char folder[] = "/tmp/psocketXXXXXX", name[80];
    psocket_options o = net_options(0);
    psocket *l = NULL;
    psocket *c[3] = { NULL, NULL, NULL };
    pthread_t t;
    int i;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(name, sizeof name, "unix:%s/s", folder);
    o.backlog = 1;
    o.timeout_ms = 2000;
    REQUIRE(psocket_listen(&l, name, 0, &o) == 0);
    for (i = 0; i < 2; i++) CHECK_INT(psocket_connect(&c[i], name, 0, &o), 0);
    REQUIRE(pthread_create(&t, NULL, accept_later, l) == 0);
    if (!CHECK_INT(psocket_connect(&c[2], name, 0, &o), 0)) check_fail(__FILE__, __LINE__, "%s", net_error.text);
    pthread_join(t, NULL);
    for (i = 0; i < 3; i++) psocket_free(c[i]);
    psocket_free(l);
    rmdir(folder);
}

TEST(a_queue_that_stays_full)
{
    char folder[] = "/tmp/psocketXXXXXX", name[80];
    psocket_options o = net_options(0);
    psocket *l = NULL;
    psocket *c[3] = { NULL, NULL, NULL };
    int64_t start;
    long cpu;
    int i;
    REQUIRE(mkdtemp(folder) != NULL);
    snprintf(name, sizeof name, "unix:%s/s", folder);
    o.backlog = 1;
    o.timeout_ms = 300;
    REQUIRE(psocket_listen(&l, name, 0, &o) == 0);
    for (i = 0; i < 2; i++) CHECK_INT(psocket_connect(&c[i], name, 0, &o), 0);
    start = psocket_now();
    cpu = core_cpu_ms();
    CHECK_INT(psocket_connect(&c[2], name, 0, &o), PSOCKET_TIMEOUT);
    CHECK(psocket_now() - start >= 299);
    CHECK(core_cpu_ms() - cpu < 200);
    for (i = 0; i < 3; i++) psocket_free(c[i]);
    psocket_free(l);
    rmdir(folder);
}
