/* udp_query.c - sends a datagram and waits for the answer, asking again as networks lose some.
 *
 *     udp_query HOST PORT TEXT
 *
 *     cc -I.. udp_query.c -o udp_query -lbearssl -pthread         (or with -DPSOCKET_NO_TLS and no BearSSL)
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    psocket *s;
    const void *answer;
    ptrdiff_t n = PSOCKET_TIMEOUT;
    int wait_ms;
    if (argc != 4) {
        fprintf(stderr, "usage: udp_query HOST PORT TEXT\n");
        return 2;
    }
    opt.udp = 1;
    opt.error = &err;
    if (psocket_connect(&s, argv[1], atoi(argv[2]), &opt)) {
        fprintf(stderr, "udp_query: %s\n", err.text);
        return 1;
    }
    /* A second, then two, then four. A peer that is not there says so at once if its host is: PSOCKET_REFUSED. */
    for (wait_ms = 1000; n == PSOCKET_TIMEOUT && wait_ms <= 4000; wait_ms *= 2) {
        psocket_settimeout(s, wait_ms);
        n = psocket_send(s, argv[3], strlen(argv[3]));
        if (n >= 0) n = psocket_recv(s, &answer);
    }
    if (n < 0) {
        psocket_geterror(s, &err);
        fprintf(stderr, "udp_query: %s\n", err.text);
    } else {
        fwrite(answer, 1, (size_t)n, stdout); /* not NUL-terminated */
        putchar('\n');
    }
    psocket_free(s);
    return n < 0;
}
