/* What the sentences for people say: which issuer is missing and what to do, that an address stands as a DNS name,
   and that a host is none. */
#include "regress/x.h"

TEST(the_missing_issuer)
{
    der san = {0}, root = x_cert("root", 1, "root", 1, 1, NULL), other = x_cert("other", 4, "other", 4, 1, NULL);
    der middle = x_cert("middle", 2, "root", 1, 1, NULL), leaf, chain = {0};
    psocket_error e;
    x_san(&san, "good.test");
    leaf = x_cert("leaf", 3, "middle", 2, 0, &san);
    CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), PSOCKET_CERT_UNTRUSTED);
    CHECK(strstr(e.text, "CN=middle") != NULL);
    CHECK(strstr(e.text, "ca_file") != NULL && strstr(e.text, "SSL_CERT_FILE") != NULL);
    der_put(&chain, leaf.p, leaf.n);
    der_put(&chain, middle.p, middle.n);
    CHECK_INT(x_verify(&root, &chain, "good.test", 0, &e), 0);
    CHECK_INT(x_verify(&other, &chain, "good.test", 0, &e), PSOCKET_CERT_UNTRUSTED);
    CHECK(strstr(e.text, "CN=root") != NULL && strstr(e.text, "CN=leaf") == NULL);
    CHECK(strstr(e.text, "ca_file") != NULL);
    CHECK_INT(e.cert_index, 1);
    der_put(&chain, root.p, root.n);
    CHECK_INT(x_verify(&other, &chain, "good.test", 0, &e), PSOCKET_CERT_UNTRUSTED);
    CHECK(strstr(e.text, "CN=root") != NULL && strstr(e.text, "ca_file") != NULL);
    CHECK_INT(x_verify(&other, &root, "good.test", 0, &e), PSOCKET_CERT_SELF_SIGNED);
    CHECK(strstr(e.text, "CN=root") != NULL && strstr(e.text, "ca_file") != NULL);
    free(chain.p);
    free(leaf.p);
    free(middle.p);
    free(root.p);
    free(other.p);
    free(san.p);
}

TEST(what_is_wrong_with_the_name)
{
    static const char address[] = "as a DNS name", no_host[] = "is no host name";
    static const struct {
        const char *names[5], *host;
        const char *told;
    } t[] = {
        {{"127.0.0.1"}, "127.0.0.1", address},
        {{"a.test", "b.test", "c.test", "127.0.0.1"}, "127.0.0.1", address},
        {{"::1"}, "::1", address},
        {{"127.0.0.2"}, "127.0.0.1", NULL},
        {{"a.test"}, "b.test", NULL},
        {{"-a.good.test"}, "-a.good.test", no_host},
        {{"good..test"}, "good..test", no_host},
        {{"*.good.test"}, "*.good.test", no_host},
        {{"1.2.3.4.5"}, "1.2.3.4.5x-", no_host},
    };
    der root = x_cert("root", 1, "root", 1, 1, NULL);
    size_t i, k;
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        der names = {0}, san = {0}, leaf;
        psocket_error e;
        for (k = 0; k < 5 && t[i].names[k]; k++) der_element(&names, 0x82, t[i].names[k], strlen(t[i].names[k]));
        der_close(&names, 0x30, 0);
        der_extension(&san, 0x11, names.p, names.n);
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        CHECK_INT(x_verify(&root, &leaf, t[i].host, 0, &e), PSOCKET_CERT_NAME);
        if ((strstr(e.text, address) != NULL) != (t[i].told == address)) check_fail(__FILE__, __LINE__, "%s", e.text);
        if ((strstr(e.text, no_host) != NULL) != (t[i].told == no_host)) check_fail(__FILE__, __LINE__, "%s", e.text);
        CHECK(strstr(e.text, t[i].names[0]) != NULL);
        free(leaf.p);
        free(san.p);
        free(names.p);
    }
    free(root.p);
}
