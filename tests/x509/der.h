/* der.h - writes certificates: the tests' own, so that they can be wrong in any way. Include psocket.h's implementation
 * first. All is appended to one buffer; der_open and der_close surround what an element holds.
 */
#ifndef DER_H
#define DER_H

typedef struct der {
    uint8_t *p;
    size_t n, room;
} der;

static CHECK_UNUSED void der_put(der *d, const void *p, size_t n)
{
    if (d->n + n > d->room) {
        d->room = 2 * (d->n + n) + 256;
        d->p = (uint8_t *)realloc(d->p, d->room);
        if (!d->p) exit(3);
    }
    if (n) memcpy(d->p + d->n, p, n);
    d->n += n;
}

#define der_raw(d, literal) der_put(d, literal, sizeof(literal) - 1)

/* Where the content starts, for der_close: it puts the header in front. */
static CHECK_UNUSED size_t der_open(const der *d)
{
    return d->n;
}

static CHECK_UNUSED void der_close(der *d, int tag, size_t start)
{
    uint8_t head[5];
    size_t len = d->n - start, n = 0;
    head[n++] = (uint8_t)tag;
    if (len >= 65536) head[n++] = 0x83, head[n++] = (uint8_t)(len >> 16);
    else if (len >= 256) head[n++] = 0x82;
    else if (len >= 128) head[n++] = 0x81;
    if (len >= 256) head[n++] = (uint8_t)(len >> 8 & 255);
    head[n++] = (uint8_t)(len & 255);
    der_put(d, head, n);
    memmove(d->p + start + n, d->p + start, len);
    memcpy(d->p + start, head, n);
}

static CHECK_UNUSED void der_element(der *d, int tag, const void *p, size_t n)
{
    size_t at = der_open(d);
    der_put(d, p, n);
    der_close(d, tag, at);
}

/* Reading what is well-formed: takes the next element of *p, its content at *p and of *n bytes; answers what is behind it. */
static CHECK_UNUSED const uint8_t *der_enter(const uint8_t **p, size_t *n)
{
    size_t more = (*p)[1] >= 0x80 ? (*p)[1] & 0x7Fu : 0, i;
    for (i = 0, *n = more ? 0 : (*p)[1]; i < more; i++) *n = *n << 8 | (*p)[2 + i];
    *p += 2 + more;
    return *p + *n;
}

/* A Name of one common name. */
static CHECK_UNUSED void der_name(der *d, int tag, const char *text, size_t n)
{
    size_t name = der_open(d), rdn = der_open(d), attribute = der_open(d);
    der_raw(d, "\x06\x03\x55\x04\x03");
    der_element(d, tag, text, n);
    der_close(d, 0x30, attribute);
    der_close(d, 0x31, rdn);
    der_close(d, 0x30, name);
}

/* An extension of id-ce: its last byte and its value. */
static CHECK_UNUSED void der_extension(der *d, int id, const void *value, size_t n)
{
    uint8_t oid[5] = {0x06, 0x03, 0x55, 0x1D, 0};
    size_t at = der_open(d);
    oid[4] = (uint8_t)id;
    der_put(d, oid, 5);
    der_element(d, 0x04, value, n);
    der_close(d, 0x30, at);
}

/* What a certificate is made of. Zero: version 3, issued by itself, valid from 2000 to 2049, no extensions. */
typedef struct der_cert {
    der subject, issuer, extensions; /* Names with their headers; the extensions one after the other */
    const br_ec_private_key *key, *by; /* P-256; without by the signature is rubbish */
    unsigned number;                   /* makes a key of its own, on no curve, where there is none */
    int ca;
} der_cert;

/* Appends the certificate. */
static CHECK_UNUSED void der_write(der *out, const der_cert *c)
{
    static unsigned serial = 1;
    uint8_t key[66] = {0, 4}, sig[80] = {0}, hash[32], n[2];
    size_t whole = der_open(out), tbs = der_open(out), at, inner, len = 72;
    der_raw(out, "\xA0\x03\x02\x01\x02");
    serial = serial % 30000 + 1;
    n[0] = (uint8_t)(serial >> 8 | 0x40);
    n[1] = (uint8_t)serial;
    der_element(out, 0x02, n, 2);
    der_raw(out, "\x30\x0A\x06\x08\x2A\x86\x48\xCE\x3D\x04\x03\x02");
    der_put(out, c->issuer.n ? c->issuer.p : c->subject.p, c->issuer.n ? c->issuer.n : c->subject.n);
    der_raw(out, "\x30\x1E\x17\x0D" "000101000000Z" "\x17\x0D" "491231235959Z");
    der_put(out, c->subject.p, c->subject.n);
    at = der_open(out);
    der_raw(out, "\x30\x13\x06\x07\x2A\x86\x48\xCE\x3D\x02\x01\x06\x08\x2A\x86\x48\xCE\x3D\x03\x01\x07");
    memcpy(key + 2, &c->number, sizeof c->number);
    if (c->key) br_ec_compute_pub(br_ec_get_default(), NULL, key + 1, c->key);
    der_element(out, 0x03, key, sizeof key);
    der_close(out, 0x30, at);
    at = inner = der_open(out);
    if (c->ca) der_extension(out, 0x13, "\x30\x03\x01\x01\xFF", 5);
    der_put(out, c->extensions.p, c->extensions.n);
    if (out->n > at) {
        der_close(out, 0x30, inner);
        der_close(out, 0xA3, at);
    }
    der_close(out, 0x30, tbs);
    if (c->by) {
        br_sha256_context h;
        br_sha256_init(&h);
        br_sha256_update(&h, out->p + tbs, out->n - tbs);
        br_sha256_out(&h, hash);
        len = br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), &br_sha256_vtable, hash, c->by, sig + 1);
    }
    der_raw(out, "\x30\x0A\x06\x08\x2A\x86\x48\xCE\x3D\x04\x03\x02");
    der_element(out, 0x03, sig, len + 1);
    der_close(out, 0x30, whole);
}

#endif
