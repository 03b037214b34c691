/* psocket in libuv's event loop: the poller's descriptor is watched by a uv_poll_t, its next deadline by a uv_timer_t, and
   one function does what there is to do. An echo server and its client, both TLS, connecting by name. */
#include "../../psocket.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

typedef struct loop {
    uv_poll_t readable;
    uv_timer_t deadline;
    psocket_poller *poller;
    psocket *listener;
    psocket *server, *client;
    psocket_tls *server_tls, *client_tls;
    int started, echoed, ticks, wakes;
    uv_timer_t tick;
} loop;

static void fail(const char *what, int code)
{
    fprintf(stderr, "%s: %s\n", what, psocket_strerror(code));
    exit(1);
}

static void arm(loop *l);

/* Does what there is to do, without waiting. */
static void turn(loop *l)
{
    const psocket_event *ev;
    int i, n;
    l->wakes++;
    while ((n = psocket_poller_wait(l->poller, &ev, 0)) > 0)
        for (i = 0; i < n; i++) {
            const void *data;
            ptrdiff_t got;
            int r;
            if (ev[i].user == l->listener) {
                psocket_options o;
                memset(&o, 0, sizeof o);
                if (psocket_accept(l->listener, &l->server) == 0) {
                    r = psocket_starttls(l->server, l->server_tls, NULL);
                    if (r && r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) fail("server", r);
                    psocket_poller_set(l->poller, l->server, PSOCKET_READ, -1, &l->server);
                }
            } else if (ev[i].user == &l->server) {
                got = psocket_recv(l->server, &data);
                if (got > 0) psocket_send(l->server, data, (size_t)got);
                else if (got != PSOCKET_WANT_READ) {
                    psocket_free(l->server);
                    l->server = NULL;
                }
            } else if (ev[i].user == &l->client && !l->started) {
                l->started = 1; /* connected */
                r = psocket_starttls(l->client, l->client_tls, "localhost");
                if (r && r != PSOCKET_WANT_READ && r != PSOCKET_WANT_WRITE) fail("client", r);
            } else if (ev[i].user == &l->client && l->started == 1) {
                l->started = 2; /* shaken hands */
                if ((got = psocket_send(l->client, "hello", 5)) != 5) fail("send", (int)got);
                psocket_poller_set(l->poller, l->client, PSOCKET_READ, -1, &l->client);
            } else if (ev[i].user == &l->client) {
                got = psocket_recv(l->client, &data);
                if (got == PSOCKET_WANT_READ) continue;
                if (got != 5 || memcmp(data, "hello", 5) != 0) fail("echo", (int)got);
                l->echoed = 1;
                uv_stop(uv_default_loop());
            }
        }
    if (n < 0) fail("wait", n);
    arm(l);
}

static void on_readable(uv_poll_t *h, int status, int events)
{
    (void)status;
    (void)events;
    turn((loop *)h->data);
}

static void on_deadline(uv_timer_t *h)
{
    turn((loop *)h->data);
}

static void on_tick(uv_timer_t *h)
{
    loop *l = (loop *)h->data;
    if (++l->ticks == 1000) fail("the loop", PSOCKET_TIMEOUT);
}

/* The timer goes off when the poller has something to do that no descriptor announces. */
static void arm(loop *l)
{
    int ms = -1;
    psocket_poller_getfd(l->poller, &ms);
    if (ms < 0) uv_timer_stop(&l->deadline);
    else uv_timer_start(&l->deadline, on_deadline, (uint64_t)ms, 0);
}

static char *slurp(const char *dir, const char *name)
{
    char path[512], *text = (char *)calloc(1, 65536);
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "rb");
    if (!f || !text || !fread(text, 1, 65535, f)) exit(2);
    fclose(f);
    return text;
}

int main(int argc, char **argv)
{
    loop l;
    psocket_options o;
    psocket_tls_options t;
    psocket_identity id;
    char *chain, *key, *ca;
    int port = 0, r;
    if (argc != 2) return 2;
    memset(&l, 0, sizeof l);
    memset(&o, 0, sizeof o);
    memset(&t, 0, sizeof t);
    memset(&id, 0, sizeof id);
    chain = slurp(argv[1], "ec.pem");
    key = slurp(argv[1], "ec.key");
    ca = slurp(argv[1], "ca.pem");
    id.chain = chain;
    id.key = key;
    t.identities = &id;
    t.identity_count = 1;
    if ((r = psocket_tls_new(&l.server_tls, &t)) != 0) fail("identity", r);
    memset(&t, 0, sizeof t);
    t.ca = ca;
    if ((r = psocket_tls_new(&l.client_tls, &t)) != 0) fail("trust", r);
    o.nonblocking = 1;
    if ((r = psocket_poller_new(&l.poller)) != 0 || (r = psocket_listen(&l.listener, NULL, 0, &o)) != 0) fail("listen", r);
    psocket_getlocal(l.listener, NULL, 0, &port);
    psocket_poller_set(l.poller, l.listener, PSOCKET_READ, -1, l.listener);
    if ((r = psocket_connect(&l.client, "localhost", port, &o)) != 0) fail("connect", r);
    psocket_poller_set(l.poller, l.client, PSOCKET_WRITE, 5000, &l.client);
    uv_poll_init(uv_default_loop(), &l.readable, (int)psocket_poller_getfd(l.poller, NULL));
    uv_timer_init(uv_default_loop(), &l.deadline);
    uv_timer_init(uv_default_loop(), &l.tick);
    l.readable.data = l.deadline.data = l.tick.data = &l;
    uv_poll_start(&l.readable, UV_READABLE, on_readable);
    uv_timer_start(&l.tick, on_tick, 10, 10);
    arm(&l);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    printf("echoed %d, %d wakes, %d ticks of libuv's own timer\n", l.echoed, l.wakes, l.ticks);
    uv_poll_stop(&l.readable);
    uv_close((uv_handle_t *)&l.readable, NULL);
    uv_close((uv_handle_t *)&l.deadline, NULL);
    uv_close((uv_handle_t *)&l.tick, NULL);
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
    uv_loop_close(uv_default_loop());
    psocket_free(l.client);
    psocket_free(l.server);
    psocket_free(l.listener);
    psocket_poller_free(l.poller);
    psocket_tls_free(l.server_tls);
    psocket_tls_free(l.client_tls);
    free(chain);
    free(key);
    free(ca);
    return !(l.echoed && l.wakes < 200);
}
