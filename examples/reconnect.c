/* reconnect.c - a client that stays: reads lines from a server and connects again when the connection is lost, waiting
 * longer each time nothing comes of it, and each time for another while, so that a thousand of them do not come at once.
 *
 *     reconnect HOST PORT
 *
 *     cc -I.. reconnect.c -o reconnect -lbearssl -pthread         (or with -DPSOCKET_NO_TLS and no BearSSL)
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

static void rest(int ms)
{
    psocket_poller *p;
    const psocket_event *events;
    if (psocket_poller_new(&p)) exit(1);
    psocket_poller_wait(p, &events, ms);
    psocket_poller_free(p);
}

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    int pause_ms = 250;
    if (argc != 3) {
        fprintf(stderr, "usage: reconnect HOST PORT\n");
        return 2;
    }
    opt.timeout_ms = 60000; /* a server that is silent for a minute counts as lost; it might send an empty line now and then */
    opt.keepalive = 30;
    opt.error = &err;
    srand((unsigned)psocket_now());
    for (;;) {
        psocket *s;
        const void *line;
        ptrdiff_t n;
        if (psocket_connect(&s, argv[1], atoi(argv[2]), &opt) == 0) {
            while ((n = psocket_read_until(s, "\n", 65536, &line)) > 0) {
                fwrite(line, 1, (size_t)n, stdout);
                fflush(stdout);
                pause_ms = 250; /* it works: begin anew */
            }
            psocket_geterror(s, &err);
            psocket_free(s);
        }
        fprintf(stderr, "reconnect: %s\n", err.text);
        rest(pause_ms / 2 + rand() % pause_ms);
        if (pause_ms < 30000) pause_ms *= 2;
    }
}
