/* tls_echo.c - sends lines to a TLS echo server and compares what comes back.
 *
 *     tls_echo HOST PORT CA.pem MEGABYTES
 */
#include "psocket.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE 8000

int main(int argc, char **argv)
{
    psocket_error err = {0};
    psocket_options opt = {0};
    psocket_tls_options topt = {0};
    psocket_tls *tls;
    psocket *s;
    const void *data;
    char line[LINE];
    long count, i;
    size_t j;
    if (argc != 5) return 2;
    opt.timeout_ms = 10000;
    opt.error = topt.error = &err;
    topt.ca_file = argv[3];
    if (psocket_tls_new(&tls, &topt) || psocket_connect(&s, argv[1], atoi(argv[2]), &opt)) {
        fprintf(stderr, "tls_echo: %s\n", err.text);
        return 1;
    }
    err.code = psocket_starttls(s, tls, argv[1]);
    psocket_tls_free(tls);
    count = atol(argv[4]) * 1048576 / LINE + 1;
    for (i = 0; i < count && !err.code; i++) {
        for (j = 0; j < LINE - 1; j++) line[j] = (char)('a' + (j + (size_t)i) % 26);
        line[LINE - 1] = '\n';
        if (psocket_send(s, line, LINE) != LINE || psocket_read(s, LINE, &data) != LINE) err.code = psocket_geterror(s, NULL);
        else if (memcmp(data, line, LINE) != 0) {
            fprintf(stderr, "tls_echo: line %ld came back changed\n", i);
            psocket_free(s);
            return 1;
        }
    }
    if (err.code) {
        psocket_geterror(s, &err);
        fprintf(stderr, "tls_echo: after %ld lines: %s\n", i, err.text);
    } else printf("%ld lines of %d bytes came back the same\n", i, LINE);
    psocket_free(s);
    return err.code ? 1 : 0;
}
