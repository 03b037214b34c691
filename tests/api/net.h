/* Little helpers of the API tests. */
#ifndef NET_H
#define NET_H
#include "../check.h"
#include "../../psocket.h"
#include "../link.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

static psocket_error net_error;

static CHECK_UNUSED psocket_options net_options(int nonblocking)
{
    psocket_options o;
    memset(&o, 0, sizeof o);
    o.nonblocking = nonblocking;
    o.timeout_ms = nonblocking ? 0 : 5000;
    o.error = &net_error;
    return o;
}

/* Waits until p reports these events of user: what it reports, or an error. */
static CHECK_UNUSED int net_wait_for(psocket_poller *p, void *user, int events)
{
    const psocket_event *ev;
    int i, n, turns;
    for (turns = 0; turns < 1000; turns++) {
        n = psocket_poller_wait(p, &ev, 5000);
        if (n <= 0) return n ? n : PSOCKET_TIMEOUT;
        for (i = 0; i < n; i++)
            if (ev[i].user == user && (ev[i].events & events) == events) return ev[i].events;
    }
    return 0;
}

/* A listener on loopback; its port. */
static CHECK_UNUSED psocket *net_listen(const char *address, int *port)
{
    psocket_options o = net_options(0);
    psocket *l = NULL;
    CHECK_INT(psocket_listen(&l, address, 0, &o), 0);
    CHECK_INT(psocket_getlocal(l, NULL, 0, port), 0);
    return l;
}

/* Two connected blocking sockets over TCP. */
static CHECK_UNUSED int net_pair(psocket **client, psocket **server)
{
    int port = 0, ok;
    psocket_options o = net_options(0);
    psocket *l = net_listen("127.0.0.1", &port);
    *client = *server = NULL;
    ok = CHECK_INT(psocket_connect(client, "127.0.0.1", port, &o), 0) && CHECK_INT(psocket_accept(l, server), 0);
    psocket_free(l);
    return ok;
}

/* A psocket client whose peer is a bare descriptor. */
static CHECK_UNUSED psocket *net_raw_peer(int *fd)
{
    struct sockaddr_in sa;
    socklen_t n = sizeof sa;
    psocket *s = NULL;
    psocket_options o = net_options(0);
    int l = socket(AF_INET, SOCK_STREAM, 0);
    memset(&sa, 0, sizeof sa);
    sa.sin_family = AF_INET;
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *fd = -1;
    if (!CHECK(bind(l, (struct sockaddr *)&sa, n) == 0 && listen(l, 1) == 0 && getsockname(l, (struct sockaddr *)&sa, &n) == 0)) return NULL;
    CHECK_INT(psocket_connect(&s, "127.0.0.1", ntohs(sa.sin_port), &o), 0);
    *fd = accept(l, NULL, NULL);
    CHECK(*fd >= 0);
    close(l);
    return s;
}

static CHECK_UNUSED void net_reset(int fd)
{
    struct linger hard;
    hard.l_onoff = 1;
    hard.l_linger = 0;
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close(fd);
}

/* The chunk as text, or the code's name. */
static CHECK_UNUSED const char *net_text(ptrdiff_t n, const void *const *data)
{
    static char text[256];
    if (n < 0) return psocket_codename((int)n);
    if (n > 255) n = 255;
    memcpy(text, *data, (size_t)n);
    text[n] = 0;
    return text;
}

static CHECK_UNUSED const char *net_recv(psocket *s)
{
    const void *data;
    ptrdiff_t n = psocket_recv(s, &data);
    return net_text(n, &data);
}

static CHECK_UNUSED const char *net_peek(psocket *s)
{
    const void *data;
    ptrdiff_t n = psocket_peek(s, &data);
    return net_text(n, &data);
}
#endif
