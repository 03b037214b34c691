/* x.h - what the tests of certificate defects share: authorities and hosts made by hand, judged through
 * psocket_tls_verify. Includes the implementation. */
#ifndef X_H
#define X_H

#ifndef KIT_H
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"
#include "check.h"
#endif
#include "x509/der.h"

/* P-256 keys by number, 1 to 9. */
static CHECK_UNUSED const br_ec_private_key *x_key(int number)
{
    static uint8_t numbers[10][32];
    static br_ec_private_key keys[10];
    br_ec_private_key *k = &keys[number];
    memset(numbers[number], number, 32);
    k->curve = BR_EC_secp256r1;
    k->x = numbers[number];
    k->xlen = 32;
    return k;
}

/* The same as a file: SEC 1, RFC 5915, with the public half or without. */
static CHECK_UNUSED der x_key_file(int number, int with_point)
{
    der d = {0};
    uint8_t point[66] = {0};
    size_t at = der_open(&d), inner;
    der_raw(&d, "\x02\x01\x01");
    der_element(&d, 0x04, x_key(number)->x, 32);
    inner = der_open(&d);
    der_raw(&d, "\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07");
    der_close(&d, 0xA0, inner);
    if (with_point) {
        inner = der_open(&d);
        br_ec_compute_pub(br_ec_get_default(), NULL, point + 1, x_key(number));
        der_element(&d, 0x03, point, sizeof point);
        der_close(&d, 0xA1, inner);
    }
    der_close(&d, 0x30, at);
    return d;
}

/* A certificate for a key, signed with another, with these extensions beside basicConstraints of an authority. */
static CHECK_UNUSED der x_cert(const char *subject, int key, const char *issuer, int by, int ca, const der *extensions)
{
    der_cert c;
    der d = {0};
    memset(&c, 0, sizeof c);
    der_name(&c.subject, 0x0C, subject, strlen(subject));
    der_name(&c.issuer, 0x0C, issuer, strlen(issuer));
    c.key = key ? x_key(key) : NULL; /* none: a point on no curve */
    c.by = x_key(by);
    c.ca = ca;
    if (extensions) c.extensions = *extensions;
    der_write(&d, &c);
    free(c.subject.p);
    free(c.issuer.p);
    return d;
}

/* subjectAltName with one DNS name. */
static CHECK_UNUSED void x_san(der *d, const char *name)
{
    der names = {0};
    der_element(&names, 0x82, name, strlen(name));
    der_close(&names, 0x30, 0);
    der_extension(d, 0x11, names.p, names.n);
    free(names.p);
}

static int64_t x_clock(void *user)
{
    (void)user;
    return 1800000000;
}

/* Judges a chain that ends at these anchors: its code, with the sentence in *e. flag: 'v' nothing is verified, 'n' not the
   name. */
static CHECK_UNUSED int x_verify(const der *anchors, const der *chain, const char *name, int flag, psocket_error *e)
{
    psocket_tls_options opt = {0};
    psocket_tls *tls = NULL;
    int code;
    memset(e, 0, sizeof *e);
    opt.ca = anchors->p;
    opt.ca_len = anchors->n;
    opt.clock = x_clock;
    opt.error = e;
    opt.insecure_no_verify = flag == 'v';
    opt.insecure_no_name = flag == 'n';
    code = psocket_tls_new(&tls, &opt);
    if (code) {
        check_fail(__FILE__, __LINE__, "settings refused: %s", e->text);
        return code;
    }
    code = psocket_tls_verify(tls, chain->p, chain->n, name, e);
    psocket_tls_free(tls);
    return code;
}

#endif
