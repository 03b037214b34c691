/* Certificates, chains, keys and trust anchors from hostile bytes. The input is a text of PEM blocks, or DER; each part
 * of the parser that takes such a text gets it, and what it loads is verified against itself and against one anchor. */
#define PSOCKET_IMPLEMENTATION
#include "psocket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"example.org", "a.b.example.org", "192.0.2.1", "2001:db8::1", "", "-", NULL};
    psocket_error err;
    psi_x509_chain chain = PSI_ZERO;
    psi_x509_key key;
    psi_trust trust;
    char text[512];
    size_t i, found;
    int has_key;
    memset(&trust, 0, sizeof trust);
    trust.store.lenient = 1;
    (void)psi_x509_each(data, size, 1, psi_x509_store_each, &trust.store, &found, &err);
    (void)psi_x509_chain_load(&chain, data, size, &err);
    has_key = psi_x509_key_load(&key, data, size, &err) == 0;
    for (i = 0; i < chain.count && i < 8; i++) {
        uint8_t storage[PSI_X509_KEY_STORAGE];
        psocket_certinfo info;
        br_x509_pkey pub;
        (void)psi_x509_info(&chain.certs[i], &info, text, sizeof text);
        (void)psi_x509_info(&chain.certs[i], &info, text, 7);
        (void)psi_x509_public_key(&chain.certs[i], &pub, storage, sizeof storage);
        (void)psi_x509_key_usage_signs(&chain.certs[i]);
        (void)psi_x509_is_for(&chain.certs[i], "a.example.org");
        if (has_key && key.type == BR_KEYTYPE_EC) (void)psi_x509_key_matches(&key, &chain.certs[i]);
    }
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        psi_x509_query q;
        int r;
        memset(&q, 0, sizeof q);
        q.trust = &trust;
        q.name = names[i];
        q.now = 1800000000;
        q.client = i & 1;
        r = psi_x509_verify(&q, &chain, &err);
        if (r != err.code && r) abort();
        if (r && (!err.text[0] || !psocket_codename(r) || err.cert_index >= (int)chain.count)) abort();
        if (!chain.count) break;
        if (trust.store.count > 1 && i == 2) { /* from now on, only the last one is trusted */
            psi_x509_cert last = trust.store.certs[--trust.store.count];
            while (trust.store.count) psi_free((void *)(uintptr_t)trust.store.certs[--trust.store.count].der.p);
            trust.store.certs[trust.store.count++] = last;
        }
    }
    if (has_key) psi_x509_key_free(&key);
    psi_x509_chain_free(&chain);
    psi_x509_store_free(&trust.store);
    return 0;
}
