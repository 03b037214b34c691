/* size_https_openssl.c - the same with OpenSSL, through its BIO. */
#include <openssl/ssl.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    char buf[4096];
    int n;
    (void)argc;
#ifdef PLAIN
    BIO *b = BIO_new_connect(argv[1]);
    BIO_set_conn_port(b, "80");
    if (BIO_do_connect(b) != 1) return 1;
#else
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = NULL;
    BIO *b = BIO_new_ssl_connect(ctx);
    SSL_CTX_set_default_verify_paths(ctx);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    BIO_get_ssl(b, &ssl);
    if (!ssl) return 1;
    BIO_set_conn_hostname(b, argv[1]);
    BIO_set_conn_port(b, "443");
    SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    SSL_set1_host(ssl, argv[1]);
    SSL_set_tlsext_host_name(ssl, argv[1]);
    if (BIO_do_connect(b) != 1 || BIO_do_handshake(b) != 1) return 1;
#endif
    BIO_write(b, "GET / HTTP/1.0\r\n\r\n", 18);
    while ((n = BIO_read(b, buf, sizeof buf)) > 0) fwrite(buf, 1, (size_t)n, stdout);
    BIO_free_all(b);
    return 0;
}
