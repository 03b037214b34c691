/* feed.c - sends standard input to HOST PORT as it comes, then prints all that comes back until the peer closes. */
#include "psocket.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    psocket_options opt = {0};
    psocket *s;
    char block[4096];
    const void *data;
    ptrdiff_t n;
    opt.timeout_ms = 5000;
    if (argc != 3 || psocket_connect(&s, argv[1], atoi(argv[2]), &opt)) return 1;
    while ((n = read(0, block, sizeof block)) > 0)
        if (psocket_send(s, block, (size_t)n) != n) break;
    psocket_shutdown(s);
    while ((n = psocket_recv(s, &data)) >= 0) fwrite(data, 1, (size_t)n, stdout);
    psocket_free(s);
    return n == PSOCKET_CLOSED ? 0 : 1;
}
