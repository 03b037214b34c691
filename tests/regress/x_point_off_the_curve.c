/* A host's EC key that is no point of its curve is refused when the certificate is judged. */
#include "regress/x.h"

TEST(a_host_with_no_point)
{
    der san = {0}, root = x_cert("root", 1, "root", 1, 1, NULL), leaf;
    psocket_error e;
    x_san(&san, "good.test");
    leaf = x_cert("leaf", 0, "root", 1, 0, &san);
    CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), PSOCKET_CERT_MALFORMED);
    CHECK(strstr(e.text, "curve") != NULL);
    CHECK_INT(e.cert_index, 0);
    CHECK_INT(x_verify(&leaf, &leaf, "good.test", 0, &e), PSOCKET_CERT_MALFORMED); /* trusted itself or not */
    free(leaf.p);
    leaf = x_cert("leaf", 2, "root", 1, 0, &san);
    CHECK_INT(x_verify(&root, &leaf, "good.test", 0, &e), 0);
    free(leaf.p);
    free(root.p);
    free(san.p);
}

/* On each curve: a true point is taken, the same with one bit changed is not. */
TEST_LIMIT(every_curve, 60)
{
    static const int curves[] = {BR_EC_secp256r1, BR_EC_secp384r1, BR_EC_secp521r1};
    static const struct {
        const char *alg;
        int n;
    } algs[] = {{"\x30\x13\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07", 21},
                {"\x30\x10\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x05\x2B\x81\x04\x00\x22", 18},
                {"\x30\x10\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x05\x2B\x81\x04\x00\x23", 18}};
    size_t i, flip;
    for (i = 0; i < 3; i++) {
        uint8_t number[66] = {0}, bits[200] = {0};
        br_ec_private_key key;
        size_t n;
        key.curve = curves[i];
        number[0] = 7;
        key.x = number;
        key.xlen = 30;
        n = br_ec_compute_pub(br_ec_get_default(), NULL, bits + 1, &key);
        for (flip = 0; flip < 4; flip++) { /* nothing, the last bit of y, the first of x, all of it */
            der_cert c = {0};
            der san = {0}, leaf = {0}, spki = {0}, cert = {0};
            psocket_error e;
            size_t at, k;
            if (flip == 1) bits[n] ^= 1;
            if (flip == 2) bits[2] ^= 0x80;
            if (flip == 3) memset(bits + 2, 0, n - 1);
            der_put(&spki, algs[i].alg, (size_t)algs[i].n);
            der_element(&spki, 0x03, bits, n + 1);
            der_close(&spki, 0x30, 0);
            der_name(&c.subject, 0x0C, "device", 6);
            x_san(&san, "good.test");
            c.extensions = san;
            c.key = x_key(1);
            der_write(&leaf, &c);
            for (k = 0; memcmp(leaf.p + k, algs[0].alg, 21) != 0; k++) {} /* its key is exchanged; the signature is not looked at */
            at = k - 2;
            {
                const uint8_t *body = leaf.p, *behind, *rest = leaf.p + at + 2 + 21 + 68;
                size_t n_body;
                der_enter(&body, &n_body);
                behind = der_enter(&body, &n_body);
                der_put(&cert, body, (size_t)(leaf.p + at - body));
                der_put(&cert, spki.p, spki.n);
                der_put(&cert, rest, (size_t)(behind - rest));
                der_close(&cert, 0x30, 0);
                der_put(&cert, behind, (size_t)(leaf.p + leaf.n - behind));
                der_close(&cert, 0x30, 0);
            }
            CHECK_INT(x_verify(&cert, &cert, "good.test", 0, &e), flip ? PSOCKET_CERT_MALFORMED : 0);
            if (flip == 1) bits[n] ^= 1;
            if (flip == 2) bits[2] ^= 0x80;
            free(cert.p);
            free(spki.p);
            free(san.p);
            free(leaf.p);
            free(c.subject.p);
        }
    }
}
