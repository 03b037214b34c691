/* TLS handshakes and the record layer against arbitrary bytes. The random numbers and the clock are fixed, so that the
 * corpus holds flights that fit. The first byte chooses what the others are:
 *   0, 1  what a server (client) receives from the start
 *   2, 3  what a server (client) receives after a first good flight
 *   4, 5  pairs (position, value) that change the flights of a handshake, the second time with client certificates
 *   6, 7  records (type, length, plaintext) that a client's (server's) record layer receives well encrypted
 *   8     records as they come */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static int fuzz_entropy(void *p, size_t n)
{
    memset(p, 0x5A, n);
    return 0;
}

#define PSOCKET_ENTROPY(p, n) fuzz_entropy(p, n)
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A self-signed certificate that is trusted, for fuzz.test. */
static const char fuzz_cert[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBojCCAUigAwIBAgIUcnaJwNvSuAQxiorTPEm8TGPgOS4wCgYIKoZIzj0EAwIw\n"
    "FDESMBAGA1UEAwwJZnV6ei50ZXN0MCAXDTI2MTEyMjE4NDQ1MVoYDzIxMjYxMDI5\n"
    "MTg0NDUxWjAUMRIwEAYDVQQDDAlmdXp6LnRlc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
    "PQMBBwNCAAS4HgwLt9bDLohlXyuCrISgnPIwBWCjcx38HggcvY46ob1aMWQlQFcz\n"
    "SDyUKJTQeA6/shoYh00qRMbcSu2JgBFvo3YwdDAdBgNVHQ4EFgQUEghlaaTyZJt9\n"
    "UN7MgUWg2U3zPG4wHwYDVR0jBBgwFoAUEghlaaTyZJt9UN7MgUWg2U3zPG4wFAYD\n"
    "VR0RBA0wC4IJZnV6ei50ZXN0MA4GA1UdDwEB/wQEAwIHgDAMBgNVHRMBAf8EAjAA\n"
    "MAoGCCqGSM49BAMCA0gAMEUCIEktnpUGZ+iVycb9RH4zKhF0kBQwcSEgV/Mpv5UU\n"
    "ft07AiEA9ghOvXX0MsC8WziYDcInBwrfU6K/ypgRyHdpuS9/m8E=\n"
    "-----END CERTIFICATE-----\n";
static const char fuzz_key[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgo58d7ovnWCzpBQyc\n"
    "wjnG+0wp79kQcDYN+carXBR+QV6hRANCAAS4HgwLt9bDLohlXyuCrISgnPIwBWCj\n"
    "cx38HggcvY46ob1aMWQlQFczSDyUKJTQeA6/shoYh00qRMbcSu2JgBFv\n"
    "-----END PRIVATE KEY-----\n";

static psocket_tls *fuzz_tls[3]; /* client, server, server that asks */

static int64_t fuzz_clock(void *user)
{
    (void)user;
    return 1800000000;
}

static void fuzz_make(int kind)
{
    static const char *const names[] = {"h2", "http/1.1"};
    psocket_identity identity = {0};
    psocket_tls_options t = {0};
    identity.chain = fuzz_cert;
    identity.key = fuzz_key;
    t.ca = fuzz_cert;
    t.identities = &identity;
    t.identity_count = 1;
    t.alpn = names;
    t.alpn_count = 2;
    t.clock = fuzz_clock;
    t.client_auth = kind == 2 ? PSOCKET_CLIENT_AUTH_REQUIRED : PSOCKET_CLIENT_AUTH_NONE;
    t.insecure_no_verify = kind == 2; /* the certificate is a server's */
    if (psocket_tls_new(&fuzz_tls[kind], &t)) abort();
}

/* Moves the output of one to the other, with some bytes changed. Positions count all bytes of the handshake. */
static void fuzz_move(psi_hs *from, psi_hs *to, const uint8_t *changes, size_t n, size_t *at)
{
    const uint8_t *p;
    size_t len, i;
    while ((len = psi_hs_output(from, &p)) != 0) {
        uint8_t *copy = (uint8_t *)malloc(len);
        if (!copy) abort();
        memcpy(copy, p, len);
        for (i = 0; i + 3 <= n; i += 3) {
            size_t where = (size_t)changes[i] << 8 | changes[i + 1];
            if (where >= *at && where - *at < len) copy[where - *at] ^= changes[i + 2];
        }
        *at += len;
        psi_hs_sent(from, len);
        psi_hs_feed(to, copy, len);
        free(copy);
    }
}

static void fuzz_check(const psi_hs *h)
{
    psocket_error e = {0};
    int status = psi_hs_status(h, &e);
    if (status < PSOCKET_WANT_READ && (e.code != status || !e.text[0])) abort();
}

/* Feeds in pieces whose length hangs on the data. */
static void fuzz_feed(psi_hs *h, const uint8_t *p, size_t n)
{
    size_t piece = n ? 1 + p[n - 1] % 64u * 17u : 1;
    const uint8_t *out;
    while (n && psi_hs_status(h, NULL) == PSOCKET_WANT_READ) {
        size_t k = n < piece ? n : piece;
        ptrdiff_t used = psi_hs_feed(h, p, k);
        if (used < 0 || (size_t)used > k) abort();
        psi_hs_sent(h, psi_hs_output(h, &out));
        p += k;
        n -= k;
    }
    fuzz_check(h);
}

static int fuzz_pair(psi_hs **c, psi_hs **s, int ask)
{
    return !psi_hs_new(c, fuzz_tls[0], 0, "fuzz.test", 0, NULL) && !psi_hs_new(s, fuzz_tls[ask ? 2 : 1], 1, NULL, 0, NULL);
}

static void fuzz_records(psi_hs *c, psi_hs *s, int mode, const uint8_t *p, size_t n)
{
    psi_rec *rec[2] = {NULL, NULL};
    psi_tlsinfo *info[2] = {NULL, NULL};
    size_t at = 0;
    while (psi_hs_status(c, NULL) == PSOCKET_WANT_READ || psi_hs_status(s, NULL) == PSOCKET_WANT_READ) {
        fuzz_move(c, s, NULL, 0, &at);
        fuzz_move(s, c, NULL, 0, &at);
    }
    if (psi_hs_finish(c, &rec[0], &info[0]) || psi_hs_finish(s, &rec[1], &info[1])) abort();
    if (mode == 8) {
        uint8_t *copy = (uint8_t *)malloc(n ? n : 1);
        psi_rec_in in;
        size_t used = 0;
        if (!copy) abort();
        if (n) memcpy(copy, p, n);
        while (psi_rec_open(rec[0], copy + used, n - used, &in, NULL) > PSI_REC_MORE) used += in.used;
        free(copy);
    }
    while (mode < 8 && n >= 2) {
        uint8_t room[PSI_REC_HEAD + 255 + PSI_REC_TAIL];
        size_t len = p[1] < n - 2 ? p[1] : n - 2;
        uint8_t *q = room + PSI_REC_HEAD;
        psi_rec_in in;
        psocket_error e;
        int result, type;
        memcpy(q, p + 2, len);
        n -= 2 + len;
        type = 20 + p[0] % 4;
        p += 2 + len;
        q = psi_rec_seal(rec[mode == 6], type, q, &len);
        result = psi_rec_open(rec[mode != 6], q, len, &in, &e);
        if (result == PSI_REC_MORE || (result >= 0 && in.used != len)) abort();
        if (result < 0) break;
    }
    psi_rec_free(rec[0]);
    psi_rec_free(rec[1]);
    psi_tlsinfo_free(info[0]);
    psi_tlsinfo_free(info[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    psi_hs *c = NULL, *s = NULL;
    size_t at = 0, i;
    int mode;
    for (i = 0; i < 3; i++) fuzz_make((int)i); /* anew, without sessions */
    mode = size ? data[0] % 9 : 0;
    if (size) data++, size--;
    if (!fuzz_pair(&c, &s, mode == 5)) abort();
    switch (mode) {
    case 0: fuzz_feed(s, data, size); break;
    case 1: fuzz_feed(c, data, size); break;
    case 2:
        fuzz_move(c, s, NULL, 0, &at);
        fuzz_feed(s, data, size);
        break;
    case 3:
        fuzz_move(c, s, NULL, 0, &at);
        fuzz_move(s, c, NULL, 0, &at);
        fuzz_feed(c, data, size);
        break;
    case 4:
    case 5:
        for (i = 0; i < 4; i++) {
            fuzz_move(c, s, data, size, &at);
            fuzz_move(s, c, data, size, &at);
        }
        fuzz_check(c);
        fuzz_check(s);
        break;
    default: fuzz_records(c, s, mode, data, size); break;
    }
    psi_hs_free(c);
    psi_hs_free(s);
    for (i = 0; i < 3; i++) psocket_tls_free(fuzz_tls[i]);
    return 0;
}
