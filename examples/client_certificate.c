/* client_certificate.c - shows a server who one is: TLS with a client's certificate, then standard output gets what comes.
 *
 *     client_certificate HOST PORT CHAIN.pem KEY.pem [CA.pem]
 *
 *     cc -I.. client_certificate.c -o client_certificate -lbearssl -pthread
 */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int main(int argc, char **argv)
{
    static psocket_error err;
    static psocket_options opt;
    static psocket_tls_options topt;
    static psocket_identity me;
    psocket_tls *tls = NULL;
    psocket *s = NULL;
    const void *data;
    ptrdiff_t n;
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: client_certificate HOST PORT CHAIN.pem KEY.pem [CA.pem]\n");
        return 2;
    }
    me.cert_file = argv[3];
    me.key_file = argv[4];
    topt.identities = &me;
    topt.identity_count = 1;
    topt.ca_file = argc == 6 ? argv[5] : NULL; /* NULL: whom the system trusts */
    topt.error = opt.error = &err;
    opt.timeout_ms = 10000;
    if (psocket_tls_new(&tls, &topt) || psocket_connect(&s, argv[1], atoi(argv[2]), &opt)) {
        fprintf(stderr, "client_certificate: %s\n", err.text);
        psocket_tls_free(tls);
        return 1;
    }
    /* In TLS 1.3 a server refuses the certificate after the handshake: the first psocket_recv says so. */
    n = psocket_starttls(s, tls, argv[1]);
    if (!n) n = psocket_send(s, "hello\n", 6);
    while (n >= 0 && (n = psocket_recv(s, &data)) >= 0) fwrite(data, 1, (size_t)n, stdout);
    if (n != PSOCKET_CLOSED) {
        psocket_geterror(s, &err);
        fprintf(stderr, "client_certificate: %s\n", err.text);
    }
    psocket_free(s);
    psocket_tls_free(tls);
    return n != PSOCKET_CLOSED;
}
