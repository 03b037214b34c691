/* primitives.c - how many full handshakes a second the linked BearSSL's primitives allow: per handshake one signature,
 * one ephemeral X25519 key and one shared secret, and nothing else. Arguments: rsa|ec SECONDS KEY.pem. Prints the number. */
#include <bearssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static unsigned char der[8192];
static size_t der_len;

static void append(void *user, const void *p, size_t n)
{
    (void)user;
    if (n > sizeof der - der_len) exit(1);
    memcpy(der + der_len, p, n);
    der_len += n;
}

static double cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    br_pem_decoder_context pc;
    br_skey_decoder_context key;
    const br_ec_impl *ec = br_ec_get_default();
    br_rsa_pkcs1_sign rsa_sign = br_rsa_pkcs1_sign_get_default();
    br_ecdsa_sign ec_sign = br_ecdsa_sign_asn1_get_default();
    unsigned char hash[32] = { 1 }, secret[32], point[32], signature[1024];
    char text[8192];
    size_t n, at = 0;
    FILE *f = argc == 4 ? fopen(argv[3], "rb") : NULL;
    double start, spent;
    long done = 0;
    if (!f) {
        fprintf(stderr, "usage: %s rsa|ec SECONDS KEY.pem\n", argv[0]);
        return 2;
    }
    n = fread(text, 1, sizeof text, f);
    fclose(f);
    br_pem_decoder_init(&pc);
    while (at < n) {
        at += br_pem_decoder_push(&pc, text + at, n - at);
        if (br_pem_decoder_event(&pc) == BR_PEM_BEGIN_OBJ) {
            der_len = 0;
            br_pem_decoder_setdest(&pc, append, NULL);
        }
    }
    br_skey_decoder_init(&key);
    br_skey_decoder_push(&key, der, der_len);
    if (br_skey_decoder_last_error(&key)) return 1;
    memset(secret, 0x5a, sizeof secret);
    start = cpu();
    do {
        if (argv[1][0] == 'r') {
            const br_rsa_private_key *sk = br_skey_decoder_get_rsa(&key);
            if (!sk || !rsa_sign(BR_HASH_OID_SHA256, hash, sizeof hash, sk, signature)) return 1;
        } else {
            const br_ec_private_key *sk = br_skey_decoder_get_ec(&key);
            if (!sk || !ec_sign(ec, &br_sha256_vtable, hash, sk, signature)) return 1;
        }
        ec->mulgen(point, secret, sizeof secret, BR_EC_curve25519);
        ec->mul(point, sizeof point, secret, sizeof secret, BR_EC_curve25519);
        hash[0] = point[0];
        done++;
        spent = cpu() - start;
    } while (spent < atof(argv[2]));
    printf("%.1f\n", (double)done / spent);
    return 0;
}
