/* What is critical is read to its last byte; what asks nothing of us has to be well-formed all the same; and what
 * excludes an address excludes it in either form. */
#include "regress/x.h"

static void critical(der *d, int id, const void *value, size_t n)
{
    size_t at = der_open(d), inner = der_open(d);
    uint8_t oid[3] = {0x55, 0x1D, 0};
    oid[2] = (uint8_t)id;
    der_put(d, oid, 3);
    der_close(d, 0x06, inner);
    der_raw(d, "\x01\x01\xFF");
    der_element(d, 0x04, value, n);
    der_close(d, 0x30, at);
}

#define CASE(id, code, bytes) {id, PSOCKET_CERT_##code, bytes, sizeof(bytes) - 1}
#define FINE(id, bytes) {id, 0, bytes, sizeof(bytes) - 1}
#define CPS "\x06\x08\x2B\x06\x01\x05\x05\x07\x02\x01"
#define NOTICE "\x06\x08\x2B\x06\x01\x05\x05\x07\x02\x02"

static const struct {
    int id, code;
    const char *value;
    size_t n;
} values[] = {
    /* certificatePolicies */
    FINE(0x20, "\x30\x05\x30\x03\x06\x01\x2A"),
    FINE(0x20, "\x30\x18\x30\x16\x06\x01\x2A\x30\x11\x30\x0F" CPS "\x16\x03" "a:b"),
    FINE(0x20, "\x30\x1A\x30\x18\x06\x01\x2A\x30\x13\x30\x11" NOTICE "\x30\x05\x0C\x03" "a b"),
    FINE(0x20, "\x30\x15\x30\x13\x06\x01\x2A\x30\x0E\x30\x0C" NOTICE "\x30\x00"),
    FINE(0x20, "\x30\x1F\x30\x1D\x06\x01\x2A\x30\x18\x30\x16" NOTICE "\x30\x0A\x30\x08\x0C\x01" "a\x30\x03\x02\x01\x05"),
    CASE(0x20, MALFORMED, "\x30\x0A\x30\x03\x06\x01\x2A\x30\x03\x06\x01\x2A"),                            /* one twice */
    CASE(0x20, MALFORMED, "\x30\x06\x30\x04\x06\x02\x80\x2A"),                                            /* 0x80 leads */
    CASE(0x20, MALFORMED, "\x30\x18\x30\x16\x06\x01\x2A\x30\x11\x30\x0F" CPS "\x16\x03" "a\xFF" "b"),
    CASE(0x20, MALFORMED, "\x30\x18\x30\x16\x06\x01\x2A\x30\x11\x30\x0F" CPS "\x0C\x03" "a:b"),
    CASE(0x20, MALFORMED, "\x30\x1A\x30\x18\x06\x01\x2A\x30\x13\x30\x11" NOTICE "\x30\x05\x0C\x03" "a\xC3" "b"),
    CASE(0x20, MALFORMED, "\x30\x1C\x30\x1A\x06\x01\x2A\x30\x15\x30\x13" NOTICE "\x30\x07\x0C\x03" "a b\x05\x00"),
    CASE(0x20, MALFORMED, "\x30\x22\x30\x20\x06\x01\x2A\x30\x1B\x30\x19" NOTICE
                          "\x30\x0D\x0C\x01" "t\x30\x08\x0C\x01" "a\x30\x03\x02\x01\x05"),                /* swapped */
    CASE(0x20, MALFORMED, "\x30\x1E\x30\x1C\x06\x01\x2A\x30\x17\x30\x15" NOTICE "\x30\x09\x30\x07\x0C\x01" "a\x30\x02\x02\x00"),
    CASE(0x20, CRITICAL, "\x30\x11\x30\x0F\x06\x01\x2A\x30\x0A\x30\x08\x06\x03\x2A\x03\x04\x0C\x01" "a"), /* unknown */
    /* policyMappings, policyConstraints, inhibitAnyPolicy */
    FINE(0x21, "\x30\x08\x30\x06\x06\x01\x2A\x06\x01\x2B"),
    CASE(0x21, MALFORMED, "\x30\x0B\x30\x09\x06\x01\x2A\x06\x01\x2B\x06\x01\x2C"),
    CASE(0x21, MALFORMED, "\x30\x05\x30\x03\x06\x01\x2A"),
    CASE(0x21, MALFORMED, "\x30\x0B\x30\x09\x06\x04\x55\x1D\x20\x00\x06\x01\x2B"),
    CASE(0x21, MALFORMED, "\x30\x0B\x30\x09\x06\x01\x2B\x06\x04\x55\x1D\x20\x00"),
    FINE(0x24, "\x30\x03\x81\x01\x00"),
    CASE(0x24, MALFORMED, "\x30\x02\x81\x00"),
    CASE(0x24, MALFORMED, "\x30\x03\x81\x01\xFF"),
    CASE(0x24, MALFORMED, "\x30\x04\x81\x02\x00\x01"),
    CASE(0x24, CRITICAL, "\x30\x03\x80\x01\x00"),
    FINE(0x36, "\x02\x01\x00"),
    CASE(0x36, MALFORMED, "\x02\x01\xFF"),
    CASE(0x36, MALFORMED, "\x02\x00"),
    /* nameConstraints: addresses are 8 or 32 bytes, and nothing stands behind a base */
    FINE(0x1E, "\x30\x0E\xA1\x0C\x30\x0A\x87\x08\x0A\x00\x00\x00\xFF\x00\x00\x00"),
    CASE(0x1E, MALFORMED, "\x30\x06\xA1\x04\x30\x02\x87\x00"),
    CASE(0x1E, MALFORMED, "\x30\x0A\xA1\x08\x30\x06\x87\x04\x0A\x00\x00\x00"),
    CASE(0x1E, MALFORMED, "\x30\x0B\xA0\x09\x30\x07\x87\x05\x0A\x00\x00\x00\xFF"),
    CASE(0x1E, MALFORMED, "\x30\x0A\xA1\x08\x30\x06\x82\x01" "x\x80\x01\x00"),
    CASE(0x1E, MALFORMED, "\x30\x03\xA1\x01\x05"),
};

TEST(in_an_authority)
{
    size_t i;
    der root = x_cert("root", 1, "root", 1, 1, NULL), san = {0};
    x_san(&san, "good.test");
    for (i = 0; i < sizeof values / sizeof *values; i++) {
        der chain = x_cert("leaf", 2, "ca", 3, 0, &san), ext = {0}, ca;
        psocket_error e;
        int code;
        critical(&ext, values[i].id, values[i].value, values[i].n);
        ca = x_cert("ca", 3, "root", 1, 1, &ext);
        der_put(&chain, ca.p, ca.n);
        code = x_verify(&root, &chain, "good.test", 0, &e);
        if (code != values[i].code || (code && e.cert_index != 1))
            check_fail(__FILE__, __LINE__, "%d, extension %d: %d, %s", (int)i, values[i].id, code, e.text);
        free(ca.p);
        free(ext.p);
        free(chain.p);
    }
    free(san.p);
    free(root.p);
}

#define MAPPED "\0\0\0\0\0\0\0\0\0\0\xFF\xFF"
#define ONES "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF"

TEST(addresses_are_excluded_in_either_form)
{
    static const struct {
        const char *ip, *range;
        size_t ip_len, range_len;
        int excluded;
    } cases[] = {
        {"\x7F\0\0\1", "\x7F\0\0\0\xFF\0\0\0", 4, 8, 1},
        {MAPPED "\x7F\0\0\1", "\x7F\0\0\0\xFF\0\0\0", 16, 8, 1},
        {"\x7F\0\0\1", MAPPED "\x7F\0\0\1" ONES "\xFF\xFF\xFF\xFF", 4, 32, 1},
        {"\x7F\0\0\1", MAPPED "\x7F\0\0\0" ONES "\xFF\0\0\0", 4, 32, 1},
        {MAPPED "\x7F\0\0\1", MAPPED "\x7F\0\0\0" ONES "\xFF\0\0\0", 16, 32, 1},
        {"\x7F\0\0\1", MAPPED "\x7E\0\0\0" ONES "\xFF\0\0\0", 4, 32, 0},
        {"\x7F\0\0\1", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 4, 32, 0}, /* ::/0 is IPv6 */
        {MAPPED "\x7F\0\0\1", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 16, 32, 1},
    };
    size_t i;
    der root = x_cert("root", 1, "root", 1, 1, NULL);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        der san = {0}, names = {0}, list = {0}, ext = {0}, chain, ca;
        psocket_error e;
        int code;
        size_t at;
        der_element(&names, 0x87, cases[i].ip, cases[i].ip_len);
        der_close(&names, 0x30, 0);
        der_extension(&san, 0x11, names.p, names.n);
        at = der_open(&list);
        der_element(&list, 0x87, cases[i].range, cases[i].range_len);
        der_close(&list, 0x30, at);
        der_close(&list, 0xA1, 0);
        der_close(&list, 0x30, 0);
        critical(&ext, 0x1E, list.p, list.n);
        chain = x_cert("leaf", 2, "ca", 3, 0, &san);
        ca = x_cert("ca", 3, "root", 1, 1, &ext);
        der_put(&chain, ca.p, ca.n);
        code = x_verify(&root, &chain, "::ffff:127.0.0.1", 0, &e);
        if (code != (cases[i].excluded ? PSOCKET_CERT_CONSTRAINTS : 0))
            check_fail(__FILE__, __LINE__, "%d: %d, %s", (int)i, code, e.text);
        free(san.p);
        free(names.p);
        free(list.p);
        free(ext.p);
        free(chain.p);
        free(ca.p);
    }
    free(root.p);
}

TEST(a_sentence_names_the_extension)
{
    der root = x_cert("root", 1, "root", 1, 1, NULL), ext = {0}, leaf;
    psocket_error e;
    x_san(&ext, "good.test");
    critical(&ext, 0x63, "\x05\x00", 2);
    leaf = x_cert("leaf", 2, "root", 1, 0, &ext);
    CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), PSOCKET_CERT_CRITICAL);
    CHECK(strstr(e.text, "2.5.29.99"));
    free(leaf.p);
    free(ext.p);
    ext.p = NULL, ext.n = 0;
    memset(&ext, 0, sizeof ext);
    x_san(&ext, "good.test");
    x_san(&ext, "good.test");
    leaf = x_cert("leaf", 2, "root", 1, 0, &ext);
    CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), PSOCKET_CERT_MALFORMED);
    CHECK(strstr(e.text, "2.5.29.17"));
    free(leaf.p);
    free(ext.p);
    free(root.p);
}

TEST(nothing_stands_behind_an_anchor)
{
    der root = x_cert("root", 1, "root", 1, 1, NULL);
    psi_x509_chain anchors = PSI_ZERO;
    psocket_tls_options opt = {0};
    psocket_error e;
    char pem[4000];
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i, n;
    der_raw(&root, "\x30\x00\x05");
    while (root.n % 3) der_raw(&root, "\x00");
    n = (size_t)sprintf(pem, "-----BEGIN CERTIFICATE-----\n");
    for (i = 0; i < root.n; i += 3) {
        unsigned v = (unsigned)root.p[i] << 16 | (unsigned)root.p[i + 1] << 8 | root.p[i + 2];
        pem[n++] = digits[v >> 18];
        pem[n++] = digits[v >> 12 & 63];
        pem[n++] = digits[v >> 6 & 63];
        pem[n++] = digits[v & 63];
    }
    strcpy(pem + n, "\n-----END CERTIFICATE-----\n");
    opt.ca = pem;
    CHECK_INT(psi_x509_load_anchors(&anchors, &opt, &e), PSOCKET_TLS_PEM);
    psi_x509_chain_free(&anchors);
    free(root.p);
}
