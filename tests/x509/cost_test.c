/* What a hostile chain can cost: every one here is refused within a fraction of a second, sanitizers or not. The chains
 * are what a peer without any authority's signature can send, unless said otherwise. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

#include "check.h"
#include "der.h"

#ifdef __SANITIZE_ADDRESS__
#define SLOWER 8
#else
#define SLOWER 1
#endif

static psi_x509_chain sent;
static der anchors;

/* Adds a certificate to what the peer sends, or to what is trusted. */
static void add(der *trusted, const der_cert *c)
{
    der out = PSI_ZERO;
    der_write(trusted ? trusted : &out, c);
    if (!trusted) CHECK_INT(psi_x509_chain_add(&sent, PSI_X509_CHAIN, out.p, out.n), 0);
    free(out.p);
}

static void name(der *d, const char *text, size_t n)
{
    d->n = 0;
    der_name(d, 0x0C, text, n);
}

/* A text of n bytes that starts with head and ends with tail. */
static char *stretched(const char *head, size_t n, char fill, const char *tail)
{
    char *text = (char *)malloc(n + 1);
    if (!text) exit(3);
    memset(text, fill, n);
    memcpy(text, head, strlen(head));
    strcpy(text + n - strlen(tail), tail);
    return text;
}

/* Authorities of one name, each of which may have issued every other one and what came before. */
static void add_crowd(int count, const char *text, const der *extensions)
{
    der_cert c = PSI_ZERO;
    name(&c.subject, text, strlen(text));
    c.ca = 1;
    if (extensions) c.extensions = *extensions;
    for (c.number = 1; (int)c.number <= count; c.number++) add(NULL, &c);
    free(c.subject.p);
}

/* Verifies what was sent: it must be refused, and soon. */
static void verify(int want, const uint8_t *pin)
{
    psi_x509_chain trust = PSI_ZERO;
    psi_x509_query q = PSI_ZERO;
    psocket_error e = PSI_ZERO;
    clock_t before, after;
    if (!anchors.n) { /* or the system's would be used */
        der_cert other = PSI_ZERO;
        name(&other.subject, "nobody", 6);
        other.ca = 1;
        add(&anchors, &other);
        free(other.subject.p);
    }
    CHECK_INT(psi_x509_load(&trust, PSI_X509_ANCHORS, anchors.p, anchors.n, "", &e), 0);
    q.anchors = &trust;
    q.name = "example.org";
    q.now = 1800000000;
    q.pins = pin;
    q.pin_count = pin ? 1 : 0;
    before = clock();
    CHECK_INT(psi_x509_verify(&q, &sent, &e), want);
    after = clock();
    if (getenv("VERBOSE"))
        fprintf(stderr, "%lu certificates, %lu bytes: %.1f ms (%s)\n", (unsigned long)sent.count,
                (unsigned long)sent.bytes, (double)(after - before) * 1000 / CLOCKS_PER_SEC, e.text);
    CHECK((after - before) < CLOCKS_PER_SEC / 5 * SLOWER);
    psi_x509_chain_free(&trust);
    psi_x509_chain_free(&sent);
    free(anchors.p);
    memset(&anchors, 0, sizeof anchors);
}

TEST(crowd)
{
    add_crowd(200, "m", NULL);
    verify(PSOCKET_CERT_LIMIT, NULL);
}

/* Two spellings of one long name: is the authority on the path self-issued? */
TEST(long_self_issued)
{
    char *lower = stretched("n", 16000, 'x', "n"), *upper = stretched("N", 16000, 'X', "N");
    der_cert c = PSI_ZERO;
    name(&c.subject, "leaf", 4);
    name(&c.issuer, lower, 16000);
    add(NULL, &c);
    c.ca = 1;
    c.number = 1000;
    name(&c.subject, lower, 16000);
    name(&c.issuer, upper, 16000);
    add(NULL, &c);
    c.number = 1001;
    name(&c.subject, upper, 16000);
    name(&c.issuer, "m", 1);
    add(NULL, &c);
    add_crowd(50, "m", NULL);
    verify(PSOCKET_CERT_LIMIT, NULL);
    free(lower);
    free(upper);
    free(c.subject.p);
    free(c.issuer.p);
}

/* Names that differ by blanks alone have one hash; comparing means skipping them all. */
TEST(blanks)
{
    char *text = stretched("a", 20000, ' ', "b");
    der_cert c = PSI_ZERO;
    int i;
    name(&c.subject, "leaf", 4);
    name(&c.issuer, "ab", 2);
    add(NULL, &c);
    name(&c.subject, "ab", 2);
    name(&c.issuer, text, 20000);
    c.ca = 1;
    for (i = 0; i < 4; i++) {
        c.number = 1000 + (unsigned)i;
        add(NULL, &c);
    }
    add_crowd(12, "ab", NULL);
    verify(PSOCKET_CERT_LIMIT, NULL);
    free(text);
    free(c.subject.p);
    free(c.issuer.p);
}

static void below_constraints(const der *subject, const der *san, const char *constraints, size_t n)
{
    der_cert c = PSI_ZERO;
    der extensions = PSI_ZERO;
    c.subject = *subject;
    name(&c.issuer, "m", 1);
    if (san) der_extension(&c.extensions, 0x11, san->p, san->n);
    add(NULL, &c);
    der_extension(&extensions, 0x1E, constraints, n);
    add_crowd(20, "m", &extensions);
    add_crowd(40, "m", NULL);
    verify(PSOCKET_CERT_LIMIT, NULL);
    free(c.issuer.p);
    free(c.extensions.p);
    free(extensions.p);
}

TEST(long_mailbox)
{
    char *text = stretched("a@", 60000, 'b', "c");
    der san = PSI_ZERO, subject = PSI_ZERO;
    name(&subject, "leaf", 4);
    der_element(&san, 0x81, text, 60000);
    der_close(&san, 0x30, 0);
    below_constraints(&subject, &san, "\x30\x07\xA0\x05\x30\x03\x81\x01" "b", 9);
    free(text);
    free(subject.p);
    free(san.p);
}

TEST(long_subject)
{
    der subject = PSI_ZERO;
    while (subject.n < 60000) der_raw(&subject, "\x31\x08\x30\x06\x06\x02\x55\x04\x0C\x00");
    der_close(&subject, 0x30, 0);
    below_constraints(&subject, NULL, "\x30\x07\xA1\x05\x30\x03\x82\x01" "b", 9);
    free(subject.p);
}

/* Thousands of extensions, or of critical policies, all different: what they cost grows with their length alone. */
TEST(long_lists)
{
    int what, i;
    for (what = 0; what < 2; what++) {
        der_cert c = PSI_ZERO;
        der list = PSI_ZERO, out = PSI_ZERO;
        clock_t before, after;
        char one[] = "\x30\x07\x06\x03\x2A\x00\x00\x04\x00";
        name(&c.subject, "leaf", 4);
        for (i = 0; i < 7000; i++) {
            one[5] = (char)(i % 128);
            one[6] = (char)(i / 128);
            one[1] = what ? 5 : 7;
            der_put(what ? &list : &c.extensions, one, what ? 7 : 9);
        }
        if (what) {
            size_t at = der_open(&c.extensions);
            der_close(&list, 0x30, 0);
            der_raw(&c.extensions, "\x06\x03\x55\x1D\x20\x01\x01\xFF");
            der_element(&c.extensions, 0x04, list.p, list.n);
            der_close(&c.extensions, 0x30, at);
        }
        der_write(&out, &c);
        before = clock();
        CHECK_INT(psi_x509_chain_add(&sent, PSI_X509_CHAIN, out.p, out.n), 0);
        after = clock();
        if (getenv("VERBOSE")) fprintf(stderr, "%lu bytes: %.1f ms\n", (unsigned long)out.n, (double)(after - before) * 1000 / CLOCKS_PER_SEC);
        CHECK((after - before) < CLOCKS_PER_SEC / 100 * SLOWER);
        verify(PSOCKET_CERT_MALFORMED, NULL);
        free(out.p);
        free(list.p);
        free(c.subject.p);
        free(c.extensions.p);
    }
}

/* One who has an authority's key makes layers of certificates for the same keys: three to the eighth ways up, all with
   good signatures, and none with the pinned key. */
TEST_LIMIT(layers, 60)
{
    static uint8_t numbers[10][32], pin[32];
    br_ec_private_key keys[10];
    der_cert c = PSI_ZERO;
    int i, k;
    char text[2] = "a";
    for (i = 0; i < 10; i++) {
        memset(numbers[i], i + 1, 32);
        keys[i].curve = BR_EC_secp256r1;
        keys[i].x = numbers[i];
        keys[i].xlen = 32;
    }
    name(&c.subject, "leaf", 4);
    for (i = 0; i < 9; i++) { /* 0 the leaf, 1 to 8 the layers */
        text[0] = (char)('a' + i);
        name(&c.issuer, text, 1);
        c.key = &keys[i];
        c.by = &keys[i + 1];
        c.ca = i > 0;
        for (k = 0; k < (i ? 3 : 1); k++) add(NULL, &c);
        name(&c.subject, text, 1);
    }
    c.issuer.n = 0;
    c.key = c.by = &keys[9];
    add(&anchors, &c);
    verify(PSOCKET_CERT_PIN, pin);
    free(c.subject.p);
    free(c.issuer.p);
}

/* Wrong signatures of a real authority's name: checks that cost the most. */
TEST_LIMIT(wrong_signatures, 60)
{
    static uint8_t number[32] = {1}, wrong[32] = {2};
    br_ec_private_key key, other;
    der_cert c = PSI_ZERO;
    key.curve = BR_EC_secp256r1;
    key.x = number;
    key.xlen = 32;
    name(&c.subject, "root", 4);
    c.key = c.by = &key;
    c.ca = 1;
    add(&anchors, &c);
    c.issuer = c.subject;
    memset(&c.subject, 0, sizeof c.subject);
    name(&c.subject, "leaf", 4);
    {
        der_cert leaf = c;
        leaf.ca = 0;
        name(&c.issuer, "root", 4);
        memset(&leaf.issuer, 0, sizeof leaf.issuer);
        name(&leaf.issuer, "m", 1);
        leaf.by = NULL;
        add(NULL, &leaf);
        free(leaf.issuer.p);
    }
    name(&c.subject, "m", 1);
    c.key = NULL;
    other.curve = BR_EC_secp256r1;
    other.x = wrong;
    other.xlen = 32;
    c.by = &other;
    for (c.number = 1; c.number < 150; c.number++) add(NULL, &c);
    verify(PSOCKET_CERT_LIMIT, NULL);
    free(c.subject.p);
    free(c.issuer.p);
}
