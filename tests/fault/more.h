/* more.h - further scenes: descriptors that exist already, pollers within pollers, options of sockets. Include it after
 * scenes.h. */
#ifndef MORE_H
#define MORE_H

#include <netinet/in.h>

/* A stream, a listener and a UDP socket that others made. On failure a descriptor stays its maker's. */
static CHECK_UNUSED int scene_adopt(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *a = NULL, *b = NULL, *l = NULL, *c = NULL, *d = NULL, *u = NULL;
    struct sockaddr_in sa;
    socklen_t size = sizeof sa;
    int fd[4] = { -1, -1, -1, -1 }, r, i, port = 0;
    const void *data;
    scene_start();
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
    fd[2] = socket(AF_INET, SOCK_STREAM, 0);
    fd[3] = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(bind(fd[2], (struct sockaddr *)&sa, size) == 0 && listen(fd[2], 5) == 0);
    CHECK(bind(fd[3], (struct sockaddr *)&sa, size) == 0);
    TRY(scene_told(psocket_adopt(&a, fd[0], PSOCKET_CLIENT, &o), &e));
    fd[0] = -1;
    TRY(scene_told(psocket_adopt(&b, fd[1], PSOCKET_SERVER, &o), &e));
    fd[1] = -1;
    TRY(scene_talk(a, b));
    TRY(scene_told(psocket_adopt(&l, fd[2], PSOCKET_SERVER, &o), &e));
    fd[2] = -1;
    TRY(psocket_getlocal(l, NULL, 0, &port));
    TRY(scene_told(psocket_connect(&c, "127.0.0.1", port, &o), &e));
    while ((r = psocket_step(c)) != 0)
        if (!scene_waits(r) || (r = scene_pause(c, NULL)) != 0) goto out;
    while ((r = psocket_accept(l, &d)) != 0)
        if (!scene_waits(r) || (r = scene_pause(l, NULL)) != 0) goto out;
    TRY(scene_talk(c, d));
    TRY(scene_told(psocket_adopt(&u, fd[3], PSOCKET_CLIENT, &o), &e));
    fd[3] = -1;
    CHECK_INT(psocket_isudp(u), 1);
    TRY(psocket_getlocal(u, NULL, 0, &port));
    TRY(psocket_setpeer(u, "127.0.0.1", port)); /* to itself */
    while ((r = (int)psocket_send(u, "datagram", 8)) != 8)
        if (!scene_waits(r) || (r = scene_pause(NULL, u)) != 0) goto out;
    TRY(scene_take(u, NULL, SCENE_CHUNK, 0, &data));
    CHECK_INT(r, 8);
    r = 0;
out:
    scene_note(c ? c : a, u ? u : d ? d : l ? l : b);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    scene_free(c, r < 0);
    scene_free(d, r < 0);
    scene_free(l, r < 0);
    scene_free(u, r < 0);
    for (i = 0; i < 4; i++)
        if (fd[i] >= 0) CHECK(close(fd[i]) == 0); /* still open: nobody else closed it */
    return r;
}

/* A poller in a poller, a timer beside it. */
static CHECK_UNUSED int scene_nested(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *a = NULL, *b = NULL;
    psocket_poller *inner = NULL, *outer = NULL;
    psocket_watch *w = NULL, *timer = NULL, *none = NULL;
    const psocket_event *ev;
    const void *data;
    int r, turns = 0, read = 0, rang = 0, tries = 0, n, i;
    scene_start();
    TRY(scene_told(psocket_pair(&a, &b, &o), &e));
    TRY(psocket_poller_new(&inner));
    TRY(psocket_poller_new(&outer));
    TRY(psocket_poller_set(inner, b, PSOCKET_READ, -1, b));
    TRY(psocket_poller_watch(outer, &w, psocket_poller_getfd(inner, NULL), PSOCKET_READ, -1, inner));
    TRY(psocket_poller_watch(outer, &timer, -1, 0, 5, &timer));
    TRY(psocket_poller_watch(outer, &none, -1, 0, 1000000, &none));
    TRY(scene_put(a, NULL, "deep", 4));
    while ((read < 4 || !rang) && turns++ < 1000) {
        n = psocket_poller_wait(outer, &ev, 100);
        if (n == PSOCKET_NOMEM && tries++ < SCENE_RETRIES) continue;
        TRY(n);
        for (i = 0; i < n; i++) {
            if (ev[i].user == &timer) rang = 1;
            CHECK(ev[i].user != &none);
        }
        n = psocket_poller_wait(inner, &ev, 0);
        if (n < 0 && (n != PSOCKET_NOMEM || tries++ >= SCENE_RETRIES)) TRY(n);
        for (r = 1; n == 1 && r > 0;) {
            r = (int)psocket_recv(b, &data);
            if (r > 0) read += r;
            else if (!scene_waits(r) && (r != PSOCKET_NOMEM || tries++ >= SCENE_RETRIES)) goto out;
        }
        TRY(scene_turn());
    }
    r = read == 4 && rang ? 0 : PSOCKET_TIMEOUT;
out:
    scene_note(a, b);
    psocket_watch_free(none);
    psocket_poller_free(inner);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    psocket_watch_free(w);
    psocket_poller_free(outer);
    psocket_watch_free(timer); /* after its poller */
    return r;
}

/* Every option of a socket at once. */
static CHECK_UNUSED int scene_options_all(void)
{
    psocket_error e;
    psocket_options o = scene_options(1, &e);
    psocket *l = NULL, *a = NULL, *b = NULL, *u = NULL;
    int r, port = 0;
    scene_start();
    o.keepalive = 30;
    o.reuse_port = 1;
    o.v6only = 1;
    TRY(scene_told(psocket_listen(&l, "127.0.0.1", 0, &o), &e));
    TRY(psocket_getlocal(l, NULL, 0, &port));
    o.local = "127.0.0.3";
    TRY(scene_told(psocket_connect(&a, "127.0.0.1", port, &o), &e));
    while ((r = psocket_step(a)) != 0)
        if (!scene_waits(r) || (r = scene_pause(a, NULL)) != 0) goto out;
    while ((r = psocket_accept(l, &b)) != 0)
        if (!scene_waits(r) || (r = scene_pause(l, NULL)) != 0) goto out;
    TRY(scene_talk(a, b));
    o.local = NULL;
    o.keepalive = 0;
    o.udp = o.broadcast = o.multicast_noloop = 1;
    o.multicast_ttl = 3;
    o.multicast_group = "239.1.2.3";
    o.multicast_interface = "lo";
    TRY(scene_told(psocket_listen(&u, "0.0.0.0", 0, &o), &e));
    r = 0;
out:
    scene_note(a ? a : l, u ? u : b);
    scene_free(a, r < 0);
    scene_free(b, r < 0);
    scene_free(u, r < 0);
    psocket_free(l);
    return r;
}
#endif
