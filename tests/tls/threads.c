/* Settings shared by threads: clients and servers at once, resumption, sessions stored and loaded, identities replaced by
 * new settings while handshakes use the old ones. Made for a build with -fsanitize=thread; elsewhere it checks results. */
#include <pthread.h>
#define PSOCKET_KEYLOG(line) (void)(line) /* the kit's is for one thread */
#include "kit.h"

static psocket_tls *shared_client, *shared_server; /* what new handshakes use */
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static int shared_resumed, shared_full, shared_failed;

static psocket_tls *take(psocket_tls **from)
{
    psocket_tls *tls;
    pthread_mutex_lock(&shared_lock);
    tls = psocket_tls_retain(*from);
    pthread_mutex_unlock(&shared_lock);
    return tls;
}

static void replace(psocket_tls **at, psocket_tls *tls)
{
    psocket_tls *old;
    pthread_mutex_lock(&shared_lock);
    old = *at;
    *at = tls;
    pthread_mutex_unlock(&shared_lock);
    psocket_tls_free(old);
}

static void count(int *what)
{
    pthread_mutex_lock(&shared_lock);
    ++*what;
    pthread_mutex_unlock(&shared_lock);
}

static void *shake(void *arg)
{
    static const char *const names[] = {"localhost", "example.test", "a.wild.test"};
    int i;
    (void)arg;
    for (i = 0; i < 60; i++) {
        kit_end *c = NULL, *s = NULL;
        psocket_tlsinfo info;
        const void *data;
        psocket_tls *client = take(&shared_client), *server = take(&shared_server);
        int code = kit_new(&c, client, PSOCKET_CLIENT, names[i % 3], NULL);
        if (!code) code = kit_new(&s, server, PSOCKET_SERVER, NULL, NULL);
        psocket_tls_free(client);
        psocket_tls_free(server);
        if (!code) kit_run(c, s, 4096);
        if (!code) code = kit_status(c, NULL);
        if (!code && psocket_send(s->s, "x", 1) != 1) code = PSOCKET_OS; /* in TLS 1.3 tickets go with it */
        if (!code) kit_run(c, s, 4096);
        if (!code && psocket_recv(c->s, &data) != 1) code = PSOCKET_OS;
        if (!code && !(code = psocket_gettlsinfo(c->s, &info)))
            count(info.resumed ? &shared_resumed : &shared_full);
        if (code) count(&shared_failed);
        kit_free(c);
        kit_free(s);
    }
    return NULL;
}

static void *store(void *arg)
{
    uint8_t *buf = (uint8_t *)malloc(16384);
    int i;
    (void)arg;
    for (i = 0; i < 200; i++) {
        psocket_tls *tls = take(&shared_client);
        ptrdiff_t n = psocket_tls_savesessions(tls, buf, 16384);
        if (n <= 0 || psocket_tls_loadsessions(tls, buf, (size_t)n)) count(&shared_failed);
        psocket_tls_free(tls);
        if (psocket_tls_savesessions(NULL, buf, 16384) <= 0) count(&shared_failed); /* the default settings */
    }
    free(buf);
    return NULL;
}

KIT_TEST(shared_settings, 120)
{
    pthread_t threads[4];
    int i;
    shared_client = kit_client();
    shared_server = kit_server("ec");
    REQUIRE(shared_client && shared_server);
    REQUIRE(!pthread_create(&threads[0], NULL, store, NULL));
    for (i = 1; i < 4; i++) REQUIRE(!pthread_create(&threads[i], NULL, shake, NULL));
    for (i = 0; i < 20; i++) {
        const struct timespec pause = {0, 10000000};
        replace(&shared_server, kit_server(i % 2 ? "ec" : "rsa"));
        if (i % 7 == 6) replace(&shared_client, kit_client());
        nanosleep(&pause, NULL);
    }
    for (i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    CHECK_INT(shared_failed, 0);
    CHECK_INT(shared_full + shared_resumed, 180);
    CHECK(shared_full > 0 && shared_resumed > 0);
    replace(&shared_client, NULL);
    replace(&shared_server, NULL);
    psocket_cleanup();
}
