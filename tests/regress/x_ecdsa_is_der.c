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

/* The chain with another signature in place of the one of n bytes. */
static int judged(const der *root, const der *leaf, const uint8_t *sig, size_t n)
{
    psi_x509_span in = psi_x509_span_of(leaf->p, leaf->n), whole, body, tbs, alg;
    der changed = {0}, bits = {0};
    psocket_error e;
    int tag, code;
    psi_x509_seq(&in, &whole);
    psi_x509_any(&whole, &tag, &body, &tbs);
    psi_x509_any(&whole, &tag, &body, &alg);
    der_put(&changed, tbs.p, tbs.n);
    der_put(&changed, alg.p, alg.n);
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
    psi_x509_span in, whole, body, r, s, bits;
    uint8_t padded[40] = {0}, buf[200];
    int tag, k;
    x_san(&san, "good.test");
    for (k = 0;; k++) { /* until both numbers are of 32 bytes without a zero in front, so that one can be added */
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        in = psi_x509_span_of(leaf.p, leaf.n);
        REQUIRE(psi_x509_seq(&in, &whole) && psi_x509_any(&whole, &tag, &body, NULL) && psi_x509_any(&whole, &tag, &body, NULL));
        REQUIRE(psi_x509_bits(&whole, &bits) && psi_x509_seq(&bits, &body));
        REQUIRE(psi_x509_take(&body, 0x02, &r) && psi_x509_take(&body, 0x02, &s));
        if (r.n == 32 && s.n == 32) break;
        REQUIRE(k < 200);
        free(leaf.p);
    }
    d = numbers(r.p, r.n, s.p, s.n);
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

    memcpy(padded + 1, r.p, 32); /* zeros in front that nobody needs */
    d = numbers(padded, 33, s.p, s.n);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    memcpy(padded + 1, s.p, 32);
    d = numbers(r.p, r.n, padded, 33);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    d = numbers(r.p, 0, s.p, s.n);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    free(leaf.p);

    for (k = 0;; k++) { /* a number whose zero in front is needed, without it: negative */
        leaf = x_cert("leaf", 2, "root", 1, 0, &san);
        in = psi_x509_span_of(leaf.p, leaf.n);
        psi_x509_seq(&in, &whole), psi_x509_any(&whole, &tag, &body, NULL), psi_x509_any(&whole, &tag, &body, NULL);
        psi_x509_bits(&whole, &bits), psi_x509_seq(&bits, &body);
        psi_x509_take(&body, 0x02, &r), psi_x509_take(&body, 0x02, &s);
        if (r.n == 33) break;
        REQUIRE(k < 200);
        free(leaf.p);
    }
    d = numbers(r.p + 1, 32, s.p, s.n);
    CHECK_INT(judged(&root, &leaf, d.p, d.n), PSOCKET_CERT_SIGNATURE);
    free(d.p);
    free(leaf.p);
    free(root.p);
    free(san.p);
}
