/* size_https.c - the same over TLS: verified against the system's store. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    psocket *s;
    const void *data;
    ptrdiff_t n;
    (void)argc;
    if (psocket_connect(&s, argv[1], 443, NULL) || psocket_starttls(s, NULL, argv[1])) return 1;
    psocket_send(s, "GET / HTTP/1.0\r\n\r\n", 18);
    while ((n = psocket_recv(s, &data)) >= 0) fwrite(data, 1, (size_t)n, stdout);
    psocket_free(s);
    return 0;
}
