/* size_plain.c - a plain TCP client, the smallest program with psocket: connects, sends, prints what comes. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    psocket *s;
    const void *data;
    ptrdiff_t n;
    (void)argc;
    if (psocket_connect(&s, argv[1], 80, NULL)) return 1;
    psocket_send(s, "GET / HTTP/1.0\r\n\r\n", 18);
    while ((n = psocket_recv(s, &data)) >= 0) fwrite(data, 1, (size_t)n, stdout);
    psocket_free(s);
    return 0;
}
