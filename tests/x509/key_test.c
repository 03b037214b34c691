/* Keys in certificates that cannot be used. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "check.h"
#include "der.h"

/* A point of the wrong length is no key, however long it is and whoever asks. */
TEST(points_of_every_length)
{
    static const uint8_t zero[20000] = {0, 4};
    static const size_t lengths[] = {1, 2, 65, 66, 67, 98, 134, 146, 147, 200, 2000, 20000};
    size_t i;
    for (i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        der d = PSI_ZERO;
        size_t whole = der_open(&d), tbs = der_open(&d), spki;
        psi_x509_cert c;
        psocket_error e;
        uint8_t *copy;
        der_raw(&d, "\x02\x01\x01\x30\x00");
        der_name(&d, 0x0C, "root", 4);
        der_raw(&d, "\x30\x1E\x17\x0D" "000101000000Z" "\x17\x0D" "491231235959Z");
        der_name(&d, 0x0C, "leaf", 4);
        spki = der_open(&d);
        der_raw(&d, "\x30\x13\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07");
        der_element(&d, 0x03, zero, lengths[i]);
        der_close(&d, 0x30, spki);
        der_close(&d, 0x30, tbs);
        der_raw(&d, "\x30\x00\x03\x01\x00");
        der_close(&d, 0x30, whole);
        copy = (uint8_t *)malloc(d.n); /* an allocation of its own, so that reading past it is noticed */
        if (!copy) exit(3);
        memcpy(copy, d.p, d.n);
        psi_x509_parse(&c, copy, d.n);
        CHECK_INT(psi_x509_usable(&c, &e), PSOCKET_CERT_MALFORMED);
        CHECK_INT(psi_x509_usable(&c, NULL), PSOCKET_CERT_MALFORMED);
        free(copy);
        free(d.p);
    }
}
