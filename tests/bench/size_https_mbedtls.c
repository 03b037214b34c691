/* size_https_mbedtls.c - the same with mbedTLS, as its own examples do it. */
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
#include <stdio.h>
#ifdef PLAIN
int main(int argc, char **argv)
{
    mbedtls_net_context net;
    unsigned char buf[4096];
    int n;
    (void)argc;
    mbedtls_net_init(&net);
    if (mbedtls_net_connect(&net, argv[1], "80", MBEDTLS_NET_PROTO_TCP)) return 1;
    mbedtls_net_send(&net, (const unsigned char *)"GET / HTTP/1.0\r\n\r\n", 18);
    while ((n = mbedtls_net_recv(&net, buf, sizeof buf)) > 0) fwrite(buf, 1, (size_t)n, stdout);
    mbedtls_net_free(&net);
    return 0;
}
#else
int main(int argc, char **argv)
{
    mbedtls_net_context net;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context drbg;
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config conf;
    mbedtls_x509_crt ca;
    unsigned char buf[4096];
    int n;
    (void)argc;
    mbedtls_net_init(&net);
    mbedtls_entropy_init(&entropy);
    mbedtls_ctr_drbg_init(&drbg);
    mbedtls_ssl_init(&ssl);
    mbedtls_ssl_config_init(&conf);
    mbedtls_x509_crt_init(&ca);
    if (mbedtls_ctr_drbg_seed(&drbg, mbedtls_entropy_func, &entropy, NULL, 0) ||
        mbedtls_x509_crt_parse_file(&ca, "/etc/ssl/certs/ca-certificates.crt") < 0 ||
        mbedtls_net_connect(&net, argv[1], "443", MBEDTLS_NET_PROTO_TCP) ||
        mbedtls_ssl_config_defaults(&conf, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT)) return 1;
    mbedtls_ssl_conf_authmode(&conf, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&conf, &ca, NULL);
    mbedtls_ssl_conf_rng(&conf, mbedtls_ctr_drbg_random, &drbg);
    if (mbedtls_ssl_setup(&ssl, &conf) || mbedtls_ssl_set_hostname(&ssl, argv[1])) return 1;
    mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
    if (mbedtls_ssl_handshake(&ssl)) return 1;
    mbedtls_ssl_write(&ssl, (const unsigned char *)"GET / HTTP/1.0\r\n\r\n", 18);
    while ((n = mbedtls_ssl_read(&ssl, buf, sizeof buf)) > 0) fwrite(buf, 1, (size_t)n, stdout);
    mbedtls_ssl_close_notify(&ssl);
    mbedtls_ssl_free(&ssl);
    mbedtls_net_free(&net);
    return 0;
}
#endif
