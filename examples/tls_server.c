/* tls_server.c - the smallest server for many: TLS, nonblocking, one thread, one poller. Answers each line with itself.
 *
 *     tls_server PORT CHAIN.pem KEY.pem
 *
 *     cc -I.. tls_server.c -o tls_server -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    static psocket_identity id;
    psocket_tls *tls = NULL;
    psocket *listener = NULL, *s;
    psocket_poller *poller = NULL;
    const psocket_event *events;
    const void *line;
    int i, n, port = 0;
    if (argc != 4) {
        fprintf(stderr, "usage: tls_server PORT CHAIN.pem KEY.pem\n");
        return 2;
    }
    id.cert_file = argv[2];
    id.key_file = argv[3];
    topt.identities = &id;
    topt.identity_count = 1;
    topt.error = opt.error = &err;
    opt.nonblocking = 1;
    if (psocket_tls_new(&tls, &topt) || psocket_listen(&listener, NULL, atoi(argv[1]), &opt) || psocket_poller_new(&poller) ||
        psocket_poller_set(poller, listener, PSOCKET_READ, -1, listener) || psocket_getlocal(listener, NULL, 0, &port)) {
        fprintf(stderr, "tls_server: %s\n", err.text);
        return 1;
    }
    printf("port %d\n", port);
    fflush(stdout);
    while ((n = psocket_poller_wait(poller, &events, -1)) >= 0)
        for (i = 0; i < n; i++) {
            int keep = 1;
            s = (psocket *)events[i].user;
            if (s == listener) { /* when accept fails (no memory, no descriptors), look again in a second */
                int code = psocket_accept(listener, &s);
                psocket_poller_set(poller, listener, code && code != PSOCKET_WANT_READ ? 0 : PSOCKET_READ, 1000, listener);
                if (!code) psocket_starttls(s, tls, NULL); /* the poller drives it */
            } else if (s && !events[i].events) keep = 0; /* a minute of silence */
            else if (s) {
                ptrdiff_t len;
                while ((len = psocket_read_until(s, "\n", 1024, &line)) > 0)
                    if (psocket_send(s, line, (size_t)len) != len) break; /* it does not read what it asks for: goodbye */
                keep = len == PSOCKET_WANT_READ || len == PSOCKET_WANT_WRITE;
            }
            if (s && keep) psocket_poller_set(poller, s, PSOCKET_READ, 60000, s);
            else psocket_free(s);
        }
    return 1;
}
