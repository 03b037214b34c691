/* proxy_tunnel.c - TLS to a server through an HTTP proxy (CONNECT, RFC 9110 9.3.6). The proxy sees the host's name, no more.
 *
 *     proxy_tunnel PROXY PORT HOST PORT [CA.pem]
 *
 *     cc -I.. proxy_tunnel.c -o proxy_tunnel -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    char request[1024];
    const void *data;
    ptrdiff_t n;
    int code;
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: proxy_tunnel PROXY PORT HOST PORT [CA.pem]\n");
        return 2;
    }
    topt.ca_file = argc == 6 ? argv[5] : NULL;
    topt.error = opt.error = &err;
    opt.timeout_ms = 30000;
    code = psocket_tls_new(&tls, &topt);
    if (!code) code = psocket_connect(&s, argv[1], atoi(argv[2]), &opt);
    if (!code) {
        snprintf(request, sizeof request, "CONNECT %s:%s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", argv[3], argv[4], argv[3], argv[4]);
        n = psocket_send(s, request, strlen(request));
        if (n > 0) n = psocket_read_until(s, "\r\n\r\n", 65536, &data);
        if (n >= 12 && memcmp((const char *)data + 8, " 2", 2) != 0) {
            fprintf(stderr, "proxy_tunnel: the proxy answers %.*s\n", 12, (const char *)data);
            code = 1;
        } else if (n > 0) code = psocket_starttls(s, tls, argv[3]); /* the same socket: from here on it leads to HOST */
        else code = (int)n;
    }
    if (!code) {
        snprintf(request, sizeof request, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[3]);
        n = psocket_send(s, request, strlen(request));
        while (n > 0 && (n = psocket_recv(s, &data)) > 0) fwrite(data, 1, (size_t)n, stdout);
        code = n == PSOCKET_CLOSED ? 0 : (int)n;
    }
    if (code < 0 && s) psocket_geterror(s, &err);
    if (code < 0) fprintf(stderr, "proxy_tunnel: %s\n", err.text);
    psocket_free(s);
    psocket_tls_free(tls);
    return code != 0;
}
