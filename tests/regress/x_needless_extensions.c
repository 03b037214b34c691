/* What nobody needs of a certificate may be malformed where nothing is verified, and in a certificate that is trusted as it
 * is; all others get a sentence that names the extension. */
#include "regress/x.h"

typedef struct x_case {
    const char *what; /* in the sentence */
    int authority;    /* says what an authority may issue: its certificate must be understood */
    const char *ext;  /* the whole extension, or several */
    int n;
} x_case;

#define X_EXT(what, authority, bytes) {what, authority, bytes, (int)sizeof(bytes) - 1}
static const x_case cases[] = {
    X_EXT("subjectAltName", 0, "\x30\x21\x06\x03\x55\x1D\x11\x04\x1A\x30\x18\x82\x09good.test\x87\x0B" "192.168.1.1"),
    X_EXT("subjectAltName", 0, "\x30\x1E\x06\x03\x55\x1D\x11\x04\x17\x30\x15\x82\x09good.test\x82\x08" "dr\xC3\xBC" "cker"),
    X_EXT("subjectAltName", 0, "\x30\x15\x06\x03\x55\x1D\x11\x04\x0E\x30\x0C\x82\x09good.test\x82"),
    X_EXT("subjectAltName", 0, "\x30\x15\x06\x03\x55\x1D\x11\x04\x0E\x30\x0C\x82\x09good.test\x40"),
    X_EXT("subjectAltName", 0, "\x30\x17\x06\x03\x55\x1D\x11\x04\x10\x30\x0E\x82\x09good.test\xA4\x01\x00"),
    X_EXT("subjectKeyIdentifier", 0, "\x30\x0A\x06\x03\x55\x1D\x0E\x04\x03\x05\x01\x00"),
    X_EXT("authorityKeyIdentifier", 0, "\x30\x09\x06\x03\x55\x1D\x23\x04\x02\x04\x00"),
    X_EXT("certificatePolicies", 0, "\x30\x09\x06\x03\x55\x1D\x20\x04\x02\x30\x00"),
    X_EXT("authorityInfoAccess", 0, "\x30\x0E\x06\x08\x2B\x06\x01\x05\x05\x07\x01\x01\x04\x02\x30\x00"),
    X_EXT("keyUsage", 1, "\x30\x0B\x06\x03\x55\x1D\x0F\x04\x04\x03\x02\x01\x81"),
    X_EXT("extKeyUsage", 1, "\x30\x09\x06\x03\x55\x1D\x25\x04\x02\x30\x00"),
    X_EXT("extKeyUsage", 1, "\x30\x15\x06\x03\x55\x1D\x25\x04\x0E\x30\x0C\x06\x08\x2B\x06\x01\x05\x05\x07\x03\x01\x06\x00"),
    X_EXT("nameConstraints", 1, "\x30\x09\x06\x03\x55\x1D\x1E\x04\x02\x30\x00"),
    X_EXT("policyConstraints", 1, "\x30\x09\x06\x03\x55\x1D\x24\x04\x02\x30\x00"),
    X_EXT("extension", 1, "\x30\x09\x06\x03\x55\x1D\x12\x04\x02\x30\x00\x30\x09\x06\x03\x55\x1D\x12\x04\x02\x30\x00"), /* twice */
    X_EXT("extension", 1, "\x30\x0C\x06\x03\x55\x1D\x12\x01\x01\x01\x04\x02\x30\x00"), /* neither TRUE nor FALSE */
    X_EXT("extension", 1, "\x30\x05\x06\x03\x55\x1D\x12"),                            /* no value */
};

static int with_san(const x_case *c)
{
    return strcmp(c->what, "subjectAltName") == 0;
}

TEST(anything_goes_where_nothing_is_verified)
{
    size_t i;
    der root = x_cert("root", 1, "root", 1, 1, NULL);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        const x_case *t = &cases[i];
        der extensions = {0}, leaf;
        psocket_error e;
        int code;
        if (!with_san(t)) x_san(&extensions, "good.test");
        der_put(&extensions, t->ext, (size_t)t->n);
        leaf = x_cert("leaf", 2, "root", 1, 0, &extensions);
        code = x_verify(&root, &leaf, "good.test", 'v', &e);
        if (code) check_fail(__FILE__, __LINE__, "%d, %s: %s", (int)i, t->what, e.text);
        code = x_verify(&root, &leaf, "good.test", 0, &e); /* and nothing where it is */
        if (code != PSOCKET_CERT_MALFORMED || !strstr(e.text, t->what) || e.cert_index != 0 || e.tls_alert != 42)
            check_fail(__FILE__, __LINE__, "%d, %s: %d, %s", (int)i, t->what, code, e.text);
        free(leaf.p);
        free(extensions.p);
    }
    free(root.p);
}

TEST(an_anchor_may_have_them)
{
    size_t i;
    der san = {0}, host;
    x_san(&san, "good.test");
    host = x_cert("leaf", 2, "root", 1, 0, &san);
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        const x_case *t = &cases[i];
        der extensions = {0}, root, device;
        psocket_error e;
        int code;
        der_put(&extensions, t->ext, (size_t)t->n);
        root = x_cert("root", 1, "root", 1, 1, &extensions);
        code = x_verify(&root, &host, "good.test", 0, &e);
        if (t->authority ? code != PSOCKET_CERT_MALFORMED || !strstr(e.text, t->what) : code != 0)
            check_fail(__FILE__, __LINE__, "an authority's %d, %s: %d %s", (int)i, t->what, code, e.text);
        if (!with_san(t)) x_san(&extensions, "good.test");
        device = x_cert("device", 3, "device", 3, 0, &extensions); /* trusted itself */
        code = x_verify(&device, &device, "good.test", 0, &e);
        if (!t->authority && code) check_fail(__FILE__, __LINE__, "a device's %d, %s: %s", (int)i, t->what, e.text);
        code = x_verify(&device, &device, "other.test", 0, &e);
        if (!t->authority) CHECK_INT(code, PSOCKET_CERT_NAME);
        CHECK(code != 0);
        CHECK(x_verify(&root, &device, "good.test", 0, &e) != 0); /* trusted by nobody */
        free(device.p);
        free(root.p);
        free(extensions.p);
    }
    free(host.p);
    free(san.p);
}

/* What is wrong outside the extensions is no more needed. */
TEST(other_parts)
{
    static const struct {
        const char *from, *to;
        int n;
    } t[] = {
        {"\x17\x0D" "000101000000Z", "\x17\x0D" "001301000000Z", 15}, /* a thirteenth month */
        {"\xA0\x03\x02\x01\x02", "\xA0\x03\x02\x01\x03", 5},          /* a version 4 */
        {"\x06\x03\x55\x04\x03\x0C\x04root", "\x06\x03\x55\x04\x83\x0C\x04root", 11}, /* an issuer that is none */
    };
    der san = {0}, root = x_cert("root", 1, "root", 1, 1, NULL), leaf;
    psocket_error e;
    size_t i, k;
    x_san(&san, "good.test");
    for (i = 0; i < sizeof t / sizeof *t; i++) {
        int done = 0;
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        for (k = 0; !done && k + (size_t)t[i].n <= leaf.n; k++)
            if (!memcmp(leaf.p + k, t[i].from, (size_t)t[i].n)) memcpy(leaf.p + k, t[i].to, (size_t)t[i].n), done = 1;
        CHECK(done);
        CHECK_INT(x_verify(&root, &leaf, "good.test", 'v', &e), 0);
        CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), PSOCKET_CERT_MALFORMED);
        free(leaf.p);
    }
    free(root.p);
    free(san.p);
}
