/* smoke.c - the least that every build must do: link all public functions (their addresses are taken from a list that
 * switches.sh makes out of the header), and carry a few bytes over loopback and through a pair. Compiled by the scripts
 * beside it, with the implementation inside or from another object. */
#include "psocket.h"
#include <stdio.h>
#include <string.h>

#ifdef SMOKE_LIST
typedef void (*smoke_fn)(void);
static const smoke_fn smoke_all[] = {
#define SMOKE(name) (smoke_fn)name,
#include "smoke_list.h"
    NULL
};
#endif

static int say(const char *what, int code)
{
    printf("%s: %d %s\n", what, code, psocket_strerror(code));
    return 1;
}

int main(void)
{
    psocket *l;
    psocket *c, *s;
    psocket_options opt;
    const void *data;
    int port = 0, code;
#ifdef SMOKE_LIST
    size_t i;
    for (i = 0; smoke_all[i]; i++) continue;
    printf("%lu functions\n", (unsigned long)i);
#endif
    memset(&opt, 0, sizeof opt);
    opt.timeout_ms = 5000;
    code = psocket_listen(&l, "127.0.0.1", 0, &opt);
    if (code) return say("listen", code);
    code = psocket_getlocal(l, NULL, 0, &port);
    if (code) return say("getlocal", code);
    code = psocket_connect(&c, "127.0.0.1", port, &opt);
    if (code) return say("connect", code);
    code = psocket_accept(l, &s);
    if (code) return say("accept", code);
    if (psocket_send(c, "hello", 5) != 5) return say("send", psocket_geterror(c, NULL));
    if (psocket_read(s, 5, &data) != 5 || memcmp(data, "hello", 5) != 0) return say("read", psocket_geterror(s, NULL));
    psocket_free(c);
    if (psocket_recv(s, &data) != PSOCKET_CLOSED) return say("recv", psocket_geterror(s, NULL));
    psocket_free(s);
    psocket_free(l);
    psocket_cleanup();
    return 0;
}
