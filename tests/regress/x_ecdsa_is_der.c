/* An ECDSA signature in a certificate is DER, all of it and in one way (RFC 3279 2.2.3). */
#include "regress/x.h"

static der numbers(const uint8_t *r, size_t rn, const uint8_t *s, size_t sn)
{
    der d = {0};
    der_element(&d, 0x02, r, rn);
    der_element(&d, 0x02, s, sn);
    der_close(&d, 0x30, 0);
    return d;
}

/* Where the signature of a certificate stands, and before it the header of the BIT STRING, the algorithm, the body. */
static const uint8_t *signature_of(const der *cert, const uint8_t **body, const uint8_t **bits, size_t *n)
{
    const uint8_t *p = cert->p, *next;
    der_enter(&p, n);
    *body = p;
    p = der_enter(&p, n);
    p = der_enter(&p, n);
    *bits = p;
    next = der_enter(&p, n);
    *n = (size_t)(next - p) - 1;
    return p + 1;
}

/* The numbers of the signature, with their leading zeros. */
static void numbers_of(const der *cert, const uint8_t *number[2], size_t len[2])
{
    const uint8_t *body, *bits, *p;
    size_t n;
    int i;
    p = signature_of(cert, &body, &bits, &n);
    der_enter(&p, &n);
    for (i = 0; i < 2; i++) {
        const uint8_t *next = der_enter(&p, &n);
        number[i] = p;
        len[i] = n;
        p = next;
    }
}

/* The chain with another signature in place of the one of n bytes. */
static int judged(const der *root, const der *leaf, const uint8_t *sig, size_t n)
{
    const uint8_t *body, *end;
    der changed = {0}, bits = {0};
    psocket_error e;
    size_t old;
    int code;
    signature_of(leaf, &body, &end, &old);
    der_put(&changed, body, (size_t)(end - body));
    der_raw(&bits, "\0");
    der_put(&bits, sig, n);
    der_element(&changed, 0x03, bits.p, bits.n);
    der_close(&changed, 0x30, 0);
    code = x_verify(root, &changed, "good.test", 0, &e);
    free(changed.p);
    free(bits.p);
    return code;
}

TEST(one_way_to_write_it)
{
    der san = {0}, root = x_cert("root", 1, "root", 1, 1, NULL), leaf, d;
    const uint8_t *number[2];
    size_t len[2];
    uint8_t padded[40] = {0}, buf[200];
    int k;
    x_san(&san, "good.test");
    for (k = 0;; k++) { /* until both numbers are of 32 bytes without a zero in front, so that one can be added */
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        numbers_of(&leaf, number, len);
        if (len[0] == 32 && len[1] == 32) break;
        REQUIRE(k < 200);
        free(leaf.p);
    }
    d = numbers(number[0], len[0], number[1], len[1]);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), 0);

    memcpy(buf, d.p, d.n); /* bytes behind it, within and without */
    buf[d.n] = 0;
    CHECK_INT(judged(&root, &leaf, buf, d.n + 1), PSOCKET_CERT_SIGNATURE);
    buf[1]++;
    CHECK_INT(judged(&root, &leaf, buf, d.n + 1), PSOCKET_CERT_SIGNATURE);
    memcpy(buf, "\x30\x81", 2); /* a long length that is short */
    memcpy(buf + 2, d.p + 1, d.n - 1);
    CHECK_INT(judged(&root, &leaf, buf, d.n + 1), PSOCKET_CERT_SIGNATURE);
    memcpy(buf, d.p, d.n); /* another kind of list */
    buf[0] = 0x31;
    CHECK_INT(judged(&root, &leaf, buf, d.n), PSOCKET_CERT_SIGNATURE);
    memcpy(buf, d.p, d.n);
    buf[2] = 0x0A;
    CHECK_INT(judged(&root, &leaf, buf, d.n), PSOCKET_CERT_SIGNATURE);
    CHECK_INT(judged(&root, &leaf, d.p, d.n - 1), PSOCKET_CERT_SIGNATURE);
    free(d.p);

    memcpy(padded + 1, number[0], 32); /* zeros in front that nobody needs */
    d = numbers(padded, 33, number[1], len[1]);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    memcpy(padded + 1, number[1], 32);
    d = numbers(number[0], len[0], padded, 33);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    d = numbers(number[0], 0, number[1], len[1]);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    free(leaf.p);

    for (k = 0;; k++) { /* a number whose zero in front is needed, without it: negative */
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        numbers_of(&leaf, number, len);
        if (len[0] == 33) break;
        REQUIRE(k < 200);
        free(leaf.p);
    }
    d = numbers(number[0] + 1, 32, number[1], len[1]);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    free(leaf.p);
    free(root.p);
    free(san.p);
}
